# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A paired sender that is hostile: every number of every message and of the frame header at its bounds (G1).

What a structure may hold is decided by `decode.py`, a second implementation of the text; what the receiver then does
with it, by the short rules below."""

import struct
import unittest

import rogue
from rogue import CLOSED, CODES, CUT, NAME, REFUSE, SIZE, TYPE, Peer, Standby, count, encode, refusal

from checksums import crc32c, xxh3  # found by way of harness
from decode import Context, Refused, decode_message

VALUES = {
    1: (0, 1, 2, 3, 4, 127, 128, 254, 255),
    2: (0, 1, 2, 63, 64, 65, 255, 256, 257, 512, 513, 1024, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF),
    4: (0, 1, 2, 16, 17, 256, 257, 1024, 1025, 65_536, 65_537, 1_048_576, 1_048_577, 1_048_880, 1_048_881, (1 << 31) - 1,
        1 << 31, (1 << 32) - 2, (1 << 32) - 1),
    8: (0, 1, 2, 511, 512, 513, SIZE - 1, SIZE, SIZE + 1, 1_048_575, 1_048_576, 1_048_577, 33_554_431, 33_554_432,
        33_554_433, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 50) - 1, 1 << 50, (1 << 50) + 1, (1 << 62) - 1,
        1 << 62, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1),
}
FEWER = {
    1: (0, 1, 2, 3, 128, 255),
    2: (0, 1, 64, 65, 512, 513, 0x8000, 0xFFFF),
    4: (0, 1, 16, 17, 256, 257, 1_048_577, (1 << 31) - 1, 1 << 31, (1 << 32) - 1),
    8: (0, 1, 511, SIZE - 1, SIZE + 1, 1_048_577, 33_554_433, 1 << 31, (1 << 32) - 1, (1 << 50) + 1, 1 << 62,
        (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 512, (1 << 64) - 1),
}
# Offset and size of each number; lengths of strings included.
FIELDS = {
    "HELLO": ((8, 2), (10, 2), (12, 4), (16, 2)),
    "OPEN": ((0, 2),),
    "PAIR": ((16, 2),),
    "BEGIN": ((16, 1), (17, 1), (18, 1), (19, 1), (20, 4), (40, 8), (80, 8), (88, 8), (96, 8), (104, 8), (112, 8), (200, 2)),
    "COMPARE": ((0, 1), (1, 1), (2, 2), (4, 4), (8, 8), (16, 8), (24, 8)),
    "ASK": ((0, 1), (1, 1), (8, 8), (16, 4), (20, 4)),
    "RECORD": ((0, 1), (1, 1), (2, 2), (4, 4), (8, 8), (16, 8), (24, 4), (28, 4)),
    "SEAL": ((0, 8), (8, 4), (12, 4), (16, 8), (24, 8)),
    "COMMIT": ((4, 2), (6, 1), (7, 1), (24, 8), (64, 8), (72, 8), (80, 8), (184, 2)),
    "REFUSE": ((0, 2), (2, 2), (4, 2), (14, 2)),
}
HEADER = ((0, 4), (4, 2), (6, 2), (8, 8), (16, 8), (24, 4), (28, 4))
LIMIT = {"RECORD": 1_048_880}


class Fields(Standby):
    names = ("vol",)

    def setUp(self) -> None:
        self.transfer = self.vol.delta(1)
        self.right = {
            "HELLO": encode.hello(), "OPEN": encode.open_("vol"), "PAIR": encode.pair(bytes(16), "rogue"),
            "BEGIN": encode.begin(**self.transfer.begin), "COMPARE": encode.compare(1, 1, SIZE), "ASK": encode.ask(0, 0, 1),
            "RECORD": self.transfer.segments[0][0], "SEAL": self.transfer.seal(0), "COMMIT": self.transfer.record(),
            "REFUSE": encode.refuse(11, "stopping", "enough")}

    def reach(self, name: str) -> Peer:
        """A session in which the message is the next one."""
        if name in ("HELLO", "OPEN", "PAIR"):
            alpn = "blockferry-pair/1" if name == "PAIR" else "blockferry/1"
            self.vol.wait()
            peer = Peer(self.site.port, self.vol.identity, alpn)
            if name != "HELLO":
                peer.hello()
            return peer
        peer, _ = self.vol.open()
        for kind, answer in {"ASK": [("COMPARE", "COMPARED")], "RECORD": [("BEGIN", "READY")],
                             "SEAL": [("BEGIN", "READY"), ("RECORD", None)],
                             "COMMIT": [("BEGIN", "READY"), ("RECORD", None), ("SEAL", "ACK")]}.get(name, ()):
            peer.send(kind, self.right[kind])
            if answer:
                self.assertEqual(NAME.get(peer.answer()[0]), answer)
        return peer

    def allowed(self, name: str, payload: bytes) -> set[str]:
        """What may be answered to this payload: names of frames and of codes."""
        try:
            # A sender says no time in REFUSE.
            context = Context(volume_size=SIZE, previous_end=0, tag_key=self.vol.key, tag_algorithm=1,
                              values={"hello_features": 0} if name == "REFUSE" else {})
            f = decode_message(name, payload, context)
        except Refused as error:
            # Of a record, what does not fit the content is no matter of form.
            return {"corrupt"} if error.reason in ("tag-mismatch", "tag", "decompression") else {"malformed"}
        match name:
            case "HELLO":
                return {"WELCOME"} if f["lowest_version"] <= 1 <= f["highest_version"] else {"unsupported-version"}
            case "OPEN": return {"STATE"} if f["volume"] == "vol" else {"not-authorised"}
            case "PAIR": return {"invitation"}
            case "BEGIN":
                if f["volume_size"] > 1 << 50:
                    return {"limit"}
                if f["number"] != self.vol.number + 1:
                    return {"lineage"}
                if f["volume_size"] < SIZE and not f["flags"] & 1:
                    return {"lineage"}
                if f["tag_algorithm"] != 1:
                    return {"malformed"}
                # Whether there is room is not for this test to know, but near 2^50 bytes there is none.
                return {"READY"} if f["planned_content"] < 1 << 28 else {"READY", "space"} if f[
                    "planned_content"] < 1 << 50 else {"space"}
            case "COMPARE":
                if f["volume_size"] > 1 << 50:
                    return {"limit"}
                if f["mode"] == 1 and f["tag_algorithm"] != 1:
                    return {"lineage"}
                return {"COMPARED"} if f["mode"] == 1 else {"COMPARED", "lineage"}
            case "ASK":
                # One page of entries, and one node above it at most.
                return {"NODES"} if (f["level"], f["index"], f["count"]) == (0, 0, 1) else {"NODES", "malformed"}
            case "RECORD": return {"ACK"} if payload == self.right["RECORD"] else {"corrupt", "malformed"}
            case "SEAL": return {"ACK"} if payload == self.right["SEAL"] else {"corrupt"}
            case "COMMIT": return {"COMMITTED"} if payload == self.right["COMMIT"] else {"corrupt"}
            case "REFUSE": return {"closed"}
        raise AssertionError(name)

    def answer(self, peer: Peer) -> str:
        kind, payload = peer.answer()
        if (kind, payload) in (CLOSED, CUT):
            return "closed"
        if kind != REFUSE:
            return NAME[kind]
        code = refusal(payload)[0]
        self.assertEqual(peer.rest(), [])
        return next(name for name, number in CODES.items() if number == code)

    def run_case(self, name: str, data: bytes, allowed: set[str], *case) -> None:
        peer = self.reach(name)
        peer.sequence += 1
        # A record has no answer of its own: its seal has.
        peer.write(data + (peer.frame("SEAL", self.right["SEAL"]) if name == "RECORD" else b""))
        found = self.answer(peer)
        self.assertIn(found, allowed, case)
        if found == "COMMITTED":
            self.transfer.was_committed()
            self.setUp()
        peer.close()
        self.check(*case)
        self.found[found] = self.found.get(found, 0) + 1

    def test_numbers_at_their_bounds(self) -> None:
        self.found: dict[str, int] = {}
        values = rogue.CAMPAIGN and VALUES or FEWER
        self.site.invite("open", self.site.path / "open")
        cases = 0
        for name, fields in FIELDS.items():
            sequence = {"HELLO": 0, "OPEN": 1, "PAIR": 1, "BEGIN": 2, "COMPARE": 2, "REFUSE": 2, "ASK": 3, "RECORD": 3,
                        "SEAL": 4, "COMMIT": 5}[name]
            for offset, size in fields:
                for value in values[size]:
                    payload = bytearray(self.right[name])
                    payload[offset:offset + size] = value.to_bytes(size, "little")
                    if name == "RECORD" and offset < 28:
                        tags = (len(payload) - 32 - 1024) // 16 * 16
                        payload[28:32] = struct.pack("<I", crc32c(bytes(payload[:28] + payload[32:32 + tags])))
                    payload = bytes(payload)
                    self.run_case(name, encode.frame(name, payload, sequence), self.allowed(name, payload), name, offset,
                                  value)
                    cases += 1
        print(f"numbers of messages at their bounds: {cases}, answered {self.found}")
        messages = cases
        for name in ("OPEN", "RECORD", "BEGIN"):
            sequence = {"OPEN": 1, "BEGIN": 2, "RECORD": 3}[name]
            payload = self.right[name]
            for offset, size in HEADER:
                for value in values[size]:
                    header = bytearray(encode.frame(name, payload, sequence)[:32])
                    same = header[offset:offset + size] == value.to_bytes(size, "little")
                    header[offset:offset + size] = value.to_bytes(size, "little")
                    if offset != 28:
                        header[28:32] = struct.pack("<I", crc32c(bytes(header[:28])))
                    # What is announced is there, so that nobody waits for it.
                    length = int.from_bytes(header[:4], "little")
                    body = payload.ljust(min(length, LIMIT.get(name, 1024)), b"\0")
                    allowed = {"malformed"}
                    if same:
                        allowed = {"OPEN": {"STATE"}, "BEGIN": {"READY"}, "RECORD": {"ACK"}}[name]
                    if offset == 4 and value in (12,):
                        allowed |= {"closed"}
                    self.run_case(name, bytes(header) + body, allowed, name, "header", offset, value)
                    cases += 1
        print(f"numbers of frame headers at their bounds: {cases - messages}, answered {self.found}")
        self.still_replicates()
        self.report("numbers at their bounds", cases, count(500, 1000))

    def test_cut_payloads(self) -> None:
        """A message that is shorter or longer than its fields, with right checksums, and its length at the limit."""
        cases = 0
        for name, payload in self.right.items():
            sequence = {"HELLO": 0, "OPEN": 1, "PAIR": 1, "BEGIN": 2, "COMPARE": 2, "REFUSE": 2, "ASK": 3, "RECORD": 3,
                        "SEAL": 4, "COMMIT": 5}[name]
            if name == "PAIR":
                self.site.invite("open2", self.site.path / "open2")
            limit = LIMIT.get(name, 1024)
            for length in (0, 1, len(payload) - 1, len(payload) + 1, 1024, 1025, limit, limit + 1):
                data = payload[:length].ljust(length, b"\0")
                # Of a megabyte nobody computes the checksum in Python; it is wrong, which is refused alike.
                checksum = xxh3(data) if length < 4096 else 1
                frame = encode.frame(name, data, sequence, payload_checksum=checksum)
                self.found = {}
                self.run_case(name, frame, {"malformed"}, name, "length", length)
                cases += 1
        self.report("messages of a wrong length", cases, 80)


if __name__ == "__main__":
    unittest.main()
