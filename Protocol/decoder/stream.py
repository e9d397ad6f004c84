# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""One direction of a captured session (sections 4, 5 and 11)."""

from __future__ import annotations

import mmap
from typing import Iterator

from decoder.core import SEGMENT_CONTENT, SEGMENT_RECORDS, Context, Fields, require
from decoder.messages import check_commit, decode_frame, decode_message
from decoder.records import Segment, check_seal, delta_digest

FROM_SENDER = {"HELLO", "OPEN", "BEGIN", "RECORD", "SEAL", "COMMIT", "PAIR", "REFUSE", "PING", "ABANDON",
               "COMPARE", "ASK", "CURRENT"}
FROM_RECEIVER = {"WELCOME", "STATE", "READY", "ACK", "COMMITTED", "REFUSE", "PING", "PROGRESS", "PAIRED", "PREPARED",
                 "COMPARED", "NODES", "EXPORTKEY"}
ANSWERS = {"ACK", "PROGRESS", "COMMITTED", "PREPARED"}
COMPARING = {"PROGRESS", "COMPARED"}

# What each direction may send after what, as far as one direction alone shows it.
FOLLOWS: dict[str, set[str]] = {
    "": {"HELLO", "WELCOME"}, "HELLO": {"OPEN", "PAIR"}, "OPEN": {"BEGIN", "ABANDON", "COMPARE", "CURRENT"},
    "ABANDON": {"BEGIN", "ABANDON", "COMPARE", "CURRENT"}, "CURRENT": set(),
    "COMPARE": {"ASK", "BEGIN"}, "ASK": {"ASK", "BEGIN"}, "PAIR": set(),
    "BEGIN": {"RECORD", "COMMIT"}, "RECORD": {"RECORD", "SEAL"}, "SEAL": {"RECORD", "COMMIT"}, "COMMIT": set(),
    "WELCOME": {"STATE", "PAIRED", "EXPORTKEY"}, "EXPORTKEY": {"STATE", "PAIRED"}, "STATE": {"READY", "STATE", "COMMITTED"} | COMPARING,
    "PROGRESS of COMPARE": COMPARING, "COMPARED": {"NODES", "READY"}, "NODES": {"NODES", "READY"},
    "READY": ANSWERS, "ACK": ANSWERS, "PROGRESS": ANSWERS, "COMMITTED": set(), "PREPARED": set(),
    "PAIRED": set(), "REFUSE": set(),
}


class Stream:
    """Follows one direction of a session, frame by frame."""

    def __init__(self, ctx: Context, next_segment: int = 0) -> None:
        self.ctx, self.next_segment = ctx, next_segment
        self.sequence, self.after, self.side = 0, "", ""
        self.begun: Fields | None = None
        self.begin_payload = b""
        self.segment = Segment(next_segment)
        self.digests: list[bytes] = []
        self.durable = 0

    def frame(self, f: Fields, payload: bytes) -> Fields:
        """Checks a frame's place and content; returns the message's fields."""
        name = f["type"]
        if not self.side and name not in ("PING", "REFUSE"):
            self.side = "sender" if name in FROM_SENDER else "receiver"
        allowed = {"sender": FROM_SENDER, "receiver": FROM_RECEIVER}.get(self.side, FROM_SENDER | FROM_RECEIVER)
        require(name in allowed, "wrong-direction", f"{name} from the {self.side}")
        if name == "PING":
            require(self.after != "REFUSE" and (self.after != "" or self.side != "sender"), "wrong-state", "PING")
        elif name == "REFUSE":
            require(self.after != "REFUSE", "wrong-state", "REFUSE after REFUSE")
        else:
            require(name in FOLLOWS[self.after], "wrong-state", f"{name} after {self.after or 'nothing'}")
        message = decode_message(name, payload, self.ctx)
        if name == "PROGRESS" and COMPARING <= FOLLOWS[self.after]:
            self.after = "PROGRESS of COMPARE"
        else:
            self.after = self.after if name == "PING" else name
        self.sequence += 1
        self._transfer(name, message, payload)
        return message

    def _transfer(self, name: str, message: Fields, payload: bytes) -> None:
        ctx = self.ctx
        if name == "BEGIN":
            self.begun, self.begin_payload = message, payload
            ctx.volume_size, ctx.full = message["volume_size"], message["kind"] == 1
            ctx.tag_algorithm, ctx.segment_growth = message["tag_algorithm"], message["segment_growth"]
            if any(message["tag_key"]):
                ctx.tag_key = message["tag_key"]
            if self.next_segment == 0:
                ctx.previous_end = 0
            elif ctx.previous_end is None:
                ctx.unchecked["order of the first record"] += 1
            ctx.values["begin"] = payload
        elif name == "RECORD":
            self.segment.add(message)
            ctx.previous_end = self.segment.end
            require(self.segment.records <= SEGMENT_RECORDS << ctx.segment_growth, "bad-record-count", str(self.segment.records))
            require(self.segment.content <= SEGMENT_CONTENT << ctx.segment_growth, "content-limit", str(self.segment.content))
        elif name == "SEAL":
            check_seal(message, self.segment.sealed())
            self.digests.append(message["segment_digest"])
            self.segment = Segment(self.segment.index + 1)
        elif name == "COMMIT":
            values: Fields = {"begin": self.begin_payload, "sealed_segments": self.segment.index,
                              "unsealed_records": self.segment.records, "last_end": ctx.previous_end or 0}
            if self.next_segment == 0:
                values["sealed_delta_digest"] = delta_digest(self.digests)
            else:
                ctx.unchecked["delta digest"] += 1
            check_commit(message, values)
        elif name == "ACK":
            require(message["durable_segments"] >= self.durable, "ack-went-back", str(message["durable_segments"]))
            self.durable = message["durable_segments"]
        elif name == "READY":
            self.durable = message["next_segment"]


def decode_stream(data: bytes | mmap.mmap, stream: Stream) -> Iterator[tuple[int, Fields, Fields]]:
    at, data = 0, memoryview(data)
    while at < len(data):
        f, payload, size = decode_frame(data[at:], stream.sequence)
        yield at, f, stream.frame(f, payload)
        at += size
