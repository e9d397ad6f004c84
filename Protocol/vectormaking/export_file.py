# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Header and trailer of the export file."""

from __future__ import annotations

from typing import Any

import encode as e
from vectormaking.common import BAD_STRINGS, PARENT, RECEIVER, U64, noise, put

DER = bytes.fromhex("302a300506032b6570032100") + noise(110, 32)
DIGEST, SIGNATURE = noise(111, 32), noise(112, 64)
LENGTH = 1_000_000


RECIPIENT, ENCAPSULATED = noise(115, 32), noise(116, 32)


def headers() -> None:
    def right(name: str, note: str, key: bytes = DER, volume: str = "db", signature: bytes = SIGNATURE) -> None:
        envelope = e.export_envelope(RECEIVER, RECIPIENT, ENCAPSULATED, key, volume)
        put(f"export-header-{name}", "export-header", note, e.export_header(envelope, len(key), signature),
            fields={"format": 2, "standby": RECEIVER, "recipient": RECIPIENT, "encapsulated": ENCAPSULATED, "key": key,
                    "volume": volume, "signature": signature, "signed": b"blockferry export header 2" + envelope})

    right("ed25519", "A key on Ed25519.")
    right("smallest", "The shortest of everything.", b"\x30", "a", b"\1")
    right("greatest", "The longest of everything.", noise(113, 256), "v" * 63, noise(114, 128))

    def wrong(name: str, reason: str, note: str, data: bytes) -> None:
        put(f"export-header-{name}", "export-header", note, data, reason=reason)

    def change(name: str, reason: str, note: str, volume: str | bytes = "db", recipient: bytes = RECIPIENT,
               encapsulated: bytes = ENCAPSULATED, **changes: Any) -> None:
        envelope = e.export_envelope(RECEIVER, recipient, encapsulated, DER, volume)
        wrong(name, reason, note, e.export_header(envelope, changes.pop("key_length", len(DER)), SIGNATURE, **changes))

    whole = e.export_header(e.export_envelope(RECEIVER, RECIPIENT, ENCAPSULATED, DER, "db"), len(DER), SIGNATURE)
    wrong("short", "truncated", "1,023 bytes.", whole[:-1])
    change("checksum", "header-checksum", "The checksum is wrong.", checksum=0)
    change("magic", "bad-magic", "Another magic.", magic=b"BFEXPORX")
    change("format-former", "bad-format", "Format 1, which is not encrypted.", format=1)
    change("format-later", "bad-format", "Format 3.", format=3)
    change("key-none", "key-length", "No key.", key_length=0)
    change("key-long", "key-length", "A key of 257 bytes.", key_length=257)
    change("key-huge", "key-length", "A key longer than the header.", key_length=0xFFFFFFFF)
    change("signature-none", "signature-length", "No signature.", signature_length=0)
    change("signature-long", "signature-length", "A signature of 129 bytes.", signature_length=129)
    change("signature-huge", "signature-length", "A signature longer than the header.", signature_length=0xFFFFFFFF)
    change("signature-cut", "reserved-bits", "The signature is longer than its length.", signature_length=63)
    change("reserved", "reserved-bits", "The word at 20.", reserved=1)
    change("rest", "reserved-bits", "The last byte before the checksum.", rest=b"\1")
    change("recipient-zeros", "zero-key", "The recipient is zeros.", recipient=bytes(32))
    change("encapsulated-zeros", "zero-key", "The encapsulated key is zeros.", encapsulated=bytes(32))
    change("volume-none", "bad-string-length", "A volume without a name.", volume="")
    change("volume-long", "bad-string-length", "A name of 64 characters.", volume="v" * 64)
    change("volume-dots", "bad-string-characters", "A name that no volume has.", volume="..")
    for suffix, bytes_, reason, what in BAD_STRINGS:
        # The string with its length comes as it is.
        change(f"volume-{suffix}", reason, f"In the name: {what}.", volume=bytes_[2:])
    change("order-magic-format", "bad-magic", "Wrong magic and format.", magic=b"XXXXXXXX", format=9)
    change("order-format-checksum", "bad-format", "Wrong format and checksum.", format=9, checksum=0)
    change("order-checksum-key", "header-checksum", "Wrong checksum and key length.", checksum=0, key_length=0)
    change("order-key-signature", "key-length", "Wrong key length and signature length.", key_length=0, signature_length=0)
    change("order-signature-reserved", "signature-length", "Wrong signature length, and a reserved bit.",
           signature_length=0, reserved=1)
    change("order-reserved-recipient", "reserved-bits", "A reserved bit, and no recipient.", reserved=1,
           recipient=bytes(32))
    change("order-recipient-volume", "zero-key", "No recipient, and a wrong name.", recipient=bytes(32), volume="")
    change("order-volume-rest", "bad-string-length", "A wrong name, and a reserved bit.", volume="", rest=b"\1")


def trailers() -> None:
    context = {"length": LENGTH}
    statement = e.export_statement(LENGTH, DIGEST, PARENT)

    def right(name: str, note: str, length: int, signature: bytes) -> None:
        data = e.export_trailer(e.export_statement(length, DIGEST, PARENT), signature)
        put(f"export-trailer-{name}", "export-trailer", note, data, context={"length": length}, fields={
            "length": length, "digest": DIGEST, "generation_id": PARENT, "signature": signature,
            "signed": b"blockferry export 2" + data[:80]})

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
    change("length", "file-length", "The content is shorter than it was.", longer)
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
