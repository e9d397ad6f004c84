# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Header and trailer of the export file."""

from __future__ import annotations

from typing import Any

import encode as e
from vectormaking.common import (BAD_STRINGS, DELTA, FULL, GROUPED, PARENT, RECEIVER, RESYNC, U64, noise, put)

DER = bytes.fromhex("302a300506032b6570032100") + noise(110, 32)
DIGEST, SIGNATURE = noise(111, 32), noise(112, 64)
LENGTH = 1_000_000


def headers() -> None:
    payload = e.begin(**FULL)

    def right(name: str, note: str, begun: dict[str, Any], key: bytes = DER, volume: str = "db") -> None:
        put(f"export-header-{name}", "export-header", note, e.export_header(RECEIVER, key, e.begin(**begun), volume),
            fields={"format": 1, "standby": RECEIVER, "key": key, "begin": begun, "volume": volume})

    right("full", "A full generation.", FULL)
    right("delta", "A delta.", DELTA | {"held_segments": 0})
    right("smallest", "The shortest of everything.", FULL | {"source_identity": ""}, b"\x30", "a")
    right("greatest", "The longest of everything.", FULL | {"source_identity": "s" * 512}, noise(113, 256), "v" * 63)

    def wrong(name: str, reason: str, note: str, data: bytes) -> None:
        put(f"export-header-{name}", "export-header", note, data, reason=reason)

    def change(name: str, reason: str, note: str, begun: bytes = payload, volume: str | bytes = "db",
               **changes: Any) -> None:
        wrong(name, reason, note, e.export_header(RECEIVER, DER, begun, volume, **changes))

    wrong("short", "truncated", "4,095 bytes.", e.export_header(RECEIVER, DER, payload, "db")[:-1])
    change("checksum", "header-checksum", "The checksum is wrong.", checksum=0)
    change("magic", "bad-magic", "Another magic.", magic=b"BFEXPORX")
    change("format", "bad-format", "Format 2.", format=2)
    change("key-none", "key-length", "No key.", key_length=0)
    change("key-long", "key-length", "A key of 257 bytes.", key_length=257)
    change("key-huge", "key-length", "A key longer than the header.", key_length=0xFFFFFFFF)
    change("begin-short", "begin-length", "A BEGIN of 201 bytes.", begin_length=201)
    change("begin-long", "begin-length", "A BEGIN of 1,025 bytes.", begin_length=1025)
    change("reserved", "reserved-bits", "The word at 20.", reserved=1)
    change("rest", "reserved-bits", "The last byte before the checksum.", rest=b"\1")
    change("volume-none", "bad-string-length", "A volume without a name.", volume="")
    change("volume-long", "bad-string-length", "A name of 64 characters.", volume="v" * 64)
    change("volume-upper", "bad-string-characters", "A letter that a name may not have.", volume="Db")
    for suffix, bytes_, reason, what in BAD_STRINGS:
        # The string with its length comes as it is.
        text = bytes_[2:]
        change(f"volume-{suffix}", reason, f"In the name: {what}.", volume=text)
    change("begin-trailing", "trailing-bytes", "BEGIN is longer than its fields.", payload + b"\0")
    change("begin-lineage", "zero-lineage", "BEGIN breaks its own rules.", e.begin(**(FULL | {"lineage": bytes(16)})))
    change("resync", "bad-kind", "A resync has no export file.", e.begin(**(RESYNC | {"held_segments": 0})))
    change("group", "bad-members", "A member of a group has none.", e.begin(**(GROUPED | {"held_segments": 0})))
    change("held", "held-segments", "BEGIN with held segments.", e.begin(**DELTA))
    change("order-checksum-magic", "header-checksum", "Wrong checksum and magic.", magic=b"XXXXXXXX", checksum=0)
    change("order-magic-format", "bad-magic", "Wrong magic and format.", magic=b"XXXXXXXX", format=9)
    change("order-format-key", "bad-format", "Wrong format and key length.", format=9, key_length=0)
    change("order-key-begin", "key-length", "Wrong key length and BEGIN length.", key_length=0, begin_length=9)
    change("order-begin-reserved", "begin-length", "Wrong BEGIN length, and a reserved bit.", begin_length=9, reserved=1)
    change("order-reserved-volume", "reserved-bits", "A reserved bit, and a wrong name.", reserved=1, volume="")
    change("order-volume-rest", "bad-string-length", "A wrong name, and a reserved bit.", volume="", rest=b"\1")
    change("order-rest-begin", "reserved-bits", "A reserved bit, and a wrong BEGIN.",
           e.begin(**(FULL | {"lineage": bytes(16)})), rest=b"\1")
    change("order-kind-held", "bad-kind", "A resync with held segments.", e.begin(**RESYNC))
    change("order-members-held", "bad-members", "A member of a group with held segments.", e.begin(**GROUPED))


def trailers() -> None:
    context = {"length": LENGTH}
    statement = e.export_statement(LENGTH, DIGEST, PARENT)

    def right(name: str, note: str, length: int, signature: bytes) -> None:
        data = e.export_trailer(e.export_statement(length, DIGEST, PARENT), signature)
        put(f"export-trailer-{name}", "export-trailer", note, data, context={"length": length}, fields={
            "length": length, "digest": DIGEST, "generation_id": PARENT, "signature": signature,
            "signed": b"blockferry export 1" + data[:80]})

    right("ed25519", "A signature of 64 bytes.", LENGTH, SIGNATURE)
    right("short", "The shortest signature.", LENGTH, b"\1")
    right("long", "The longest signature.", U64, noise(114, 128))

    def wrong(name: str, reason: str, note: str, data: bytes) -> None:
        put(f"export-trailer-{name}", "export-trailer", note, data, context=context, reason=reason)

    def change(name: str, reason: str, note: str, body: bytes = statement, **changes: Any) -> None:
        wrong(name, reason, note, e.export_trailer(body, SIGNATURE, **changes))

    other = e.export_statement(LENGTH, DIGEST, PARENT, magic=b"BFEXPEN2")
    longer = e.export_statement(LENGTH + 1, DIGEST, PARENT)
    wrong("cut", "truncated", "255 bytes.", e.export_trailer(statement, SIGNATURE)[:-1])
    change("checksum", "header-checksum", "The checksum is wrong.", checksum=0)
    wrong("zeros", "header-checksum", "Zeros: their checksum is not zero.", bytes(256))
    change("magic", "bad-magic", "Another magic.", other)
    change("length", "file-length", "The file is shorter than it was.", longer)
    change("signature-none", "signature-length", "No signature.", signature_length=0)
    change("signature-long", "signature-length", "A signature of 129 bytes.", signature_length=129)
    change("signature-huge", "signature-length", "A signature longer than the trailer.", signature_length=0xFFFFFFFF)
    change("signature-cut", "reserved-bits", "The signature is longer than its length.", signature_length=63)
    change("reserved", "reserved-bits", "The word at 84.", reserved=1)
    change("rest", "reserved-bits", "The last byte before the checksum.", rest=b"\1")
    change("order-checksum-magic", "header-checksum", "Wrong checksum and magic.", other, checksum=0)
    change("order-magic-length", "bad-magic", "Wrong magic and length.",
           e.export_statement(LENGTH + 1, DIGEST, PARENT, magic=b"XXXXXXXX"))
    change("order-length-signature", "file-length", "Wrong length and signature length.", longer, signature_length=0)
    change("order-signature-reserved", "signature-length", "Wrong signature length, and a reserved bit.",
           signature_length=0, reserved=1)


GROUPS = (headers, trailers)
