# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Frames."""

from __future__ import annotations

from typing import Any

import encode as e
from checksums import crc32c, xxh3
from vectormaking.common import (
    COMPARED, FULL, GENERATION, KEY, PARENT, SEAL, SECRET, STATE, TRANSFER, U64, message_fields, noise, put,
)
from vectormaking.records import record_fields


def frames() -> None:
    samples: dict[str, dict[str, Any]] = {
        "HELLO": {"lowest_version": 1, "highest_version": 1, "features": 0, "software": "blockferry 1.0"},
        "WELCOME": {"version": 1, "features": 0, "software": "blockferryd 1.0"},
        "OPEN": {"volume": "vm-disk.0"}, "STATE": STATE, "BEGIN": FULL, "READY": {"next_segment": 0}, "SEAL": SEAL,
        "ACK": {"durable_segments": 4}, "COMMIT": GENERATION, "COMMITTED": {"number": 1, "generation_id": PARENT},
        "REFUSE": {"code": 4, "retry_after": 0, "rule": "busy", "text": "Another session has the volume."}, "PING": {},
        "PROGRESS": {"phase": 2, "done": 1, "total": 2}, "PAIR": {"secret": SECRET, "name": "host-a"},
        "PAIRED": {"volume": "vm-disk.0"}, "PREPARED": {"number": 1, "generation_id": PARENT},
        "ABANDON": {"transfer": TRANSFER},
        "COMPARE": {"mode": 1, "tag_algorithm": 1, "volume_size": 1 << 30, "first_page": 0, "pages": 0, "tag_key": KEY},
        "COMPARED": {"root": COMPARED, "read": 1 << 30, "committed_size": 1 << 29}, "ASK": {"level": 0, "index": 5, "count": 2},
        "NODES": {"level": 0, "index": 5, "count": 2, "content": noise(19, 8192)},
        "EXPORTKEY": {"key": noise(21, 32)}, "CURRENT": {"number": 7, "generation_id": PARENT},
    }
    for sequence, (type_, fields) in enumerate(samples.items()):
        payload = e.MESSAGES[type_](**fields)
        put(f"frame-{type_.lower()}", "frame", f"{type_} as the frame number {sequence}.",
            e.frame(type_, payload, sequence), context={"sequence": sequence},
            fields={"type": type_, "sequence": sequence, "payload_length": len(payload),
                    "payload_checksum": xxh3(payload), "message": message_fields(type_, payload, fields)})
    content = noise(20, 512)
    payload = e.data_record(0, content, KEY, 1)
    put("frame-record", "frame", "RECORD with 512 bytes of data.", e.frame("RECORD", payload, 4),
        context={"sequence": 4, "volume_size": 1 << 30, "previous_end": 0, "full": True, "tag_key": KEY,
                 "tag_algorithm": 1},
        fields={"type": "RECORD", "sequence": 4, "payload_length": len(payload), "payload_checksum": xxh3(payload),
                "message": record_fields(1, 0, 0, content, content, KEY, 1)})
    put("frame-sequence-greatest", "frame", "The last sequence number there is.", e.frame("PING", b"", U64),
        context={"sequence": U64}, fields={"type": "PING", "sequence": U64, "payload_length": 0,
                                           "payload_checksum": 0x2D06800538D394C2, "message": {}})

    hello = e.hello()

    def wrong(name: str, reason: str, note: str, data: bytes, sequence: int = 0) -> None:
        put(f"frame-{name}", "frame", note, data, context={"sequence": sequence} if sequence else None, reason=reason)

    good_frame = e.frame("HELLO", hello)
    wrong("header-short", "truncated", "31 bytes.", good_frame[:31])
    wrong("header-none", "truncated", "No bytes at all.", b"")
    wrong("header-checksum", "header-checksum", "One bit of the checksum is wrong.",
          e.frame("HELLO", hello, header_checksum=crc32c(good_frame[:28]) ^ 1))
    flipped = bytearray(good_frame)
    flipped[16] ^= 0x10
    wrong("header-flip", "header-checksum", "A flipped bit in the payload checksum is an error of the header.",
          bytes(flipped))
    wrong("flags", "reserved-bits", "A flag.", e.frame("HELLO", hello, flags=0x8000))
    wrong("reserved", "reserved-bits", "The reserved word is not zero.", e.frame("HELLO", hello, reserved=1 << 31))
    for number in (0, 25, 0xFFFF):
        wrong(f"type-{number}", "unknown-type", f"There is no type {number}.", e.frame(number, hello))
    wrong("type-263", "unknown-type", "The type has 16 bits: 263 is not 7.", e.frame(263, hello))
    wrong("control-too-long", "payload-too-long", "1,025 bytes in a control frame; only the header is there.",
          e.frame("HELLO", length=1025))
    wrong("record-too-long", "payload-too-long", "1,048,881 bytes in RECORD; only the header is there.",
          e.frame("RECORD", length=1_048_881))
    wrong("nodes-too-long", "payload-too-long", "65,561 bytes in NODES; only the header is there.",
          e.frame("NODES", length=65_561))
    wrong("ask-too-long", "payload-too-long", "1,025 bytes in ASK; only the header is there.", e.frame("ASK", length=1025))
    wrong("ping-too-long", "payload-too-long", "PING has no payload.", e.frame("PING", b"\0"))
    wrong("length-greatest", "payload-too-long", "4 GiB less one byte: nothing may be allocated for it.",
          e.frame("RECORD", length=0xFFFFFFFF))
    wrong("control-greatest-cut", "truncated", "1,024 bytes are within the limit, but they are not there.",
          e.frame("HELLO", length=1024))
    wrong("record-greatest-cut", "truncated", "1,048,880 bytes are within the limit, but they are not there.",
          e.frame("RECORD", length=1_048_880))
    wrong("nodes-greatest-cut", "truncated", "65,560 bytes are within the limit, but they are not there.",
          e.frame("NODES", length=65_560))
    wrong("sequence-ahead", "sequence", "Frame 1 where 0 is expected.", e.frame("HELLO", hello, 1))
    wrong("sequence-again", "sequence", "Frame 4 again where 5 is expected.", e.frame("PING", b"", 4), 5)
    wrong("payload-short", "truncated", "The last byte of the payload is missing.", good_frame[:-1])
    wrong("payload-checksum", "payload-checksum", "The header is right, the payload's checksum is not.",
          e.frame("HELLO", hello, payload_checksum=xxh3(hello) ^ 1 << 63))
    wrong("payload-flip", "payload-checksum", "A flipped bit in the payload.",
          good_frame[:-1] + bytes([good_frame[-1] ^ 1]))
    wrong("ping-checksum", "payload-checksum", "PING with the checksum 0 in place of that of no bytes.",
          e.frame("PING", payload_checksum=0))
    wrong("message", "bad-magic", "A right frame around a wrong message.", e.frame("HELLO", e.hello(magic=b"blkferry")))
    wrong("message-trailing", "trailing-bytes", "A right frame around a message with a byte too many.",
          e.frame("ACK", e.ack() + b"\0"))
    wrong("record-empty", "truncated", "RECORD without a record.", e.frame("RECORD"))
    wrong("order-checksum-flags", "header-checksum", "Wrong header checksum and a flag.",
          e.frame("HELLO", hello, flags=1, header_checksum=0))
    wrong("order-flags-type", "reserved-bits", "A flag on an unknown type.", e.frame(99, hello, flags=1))
    wrong("order-reserved-type", "reserved-bits", "The reserved word, and an unknown type.",
          e.frame(99, hello, reserved=1))
    wrong("order-type-length", "unknown-type", "An unknown type with a great length.", e.frame(99, length=0xFFFFFFFF))
    wrong("order-length-sequence", "payload-too-long", "Too long, and out of sequence.",
          e.frame("HELLO", sequence=9, length=1025))
    wrong("order-sequence-truncated", "sequence", "Out of sequence, and the payload is missing.",
          e.frame("HELLO", sequence=9, length=30))
    wrong("order-sequence-checksum", "sequence", "Out of sequence, and a wrong payload checksum.",
          e.frame("HELLO", hello, 9, payload_checksum=0))
    wrong("order-payload-message", "payload-checksum", "A wrong payload checksum around a wrong message.",
          e.frame("HELLO", e.hello(magic=b"blkferry"), payload_checksum=0))
