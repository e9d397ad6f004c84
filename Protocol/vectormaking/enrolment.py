# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Invitations and peer ids."""

from __future__ import annotations

from typing import Any

import encode as e
from checksums import crc32c
from vectormaking.common import RECEIVER, SECRET, SENDER, put


def enrolment() -> None:
    def right(name: str, note: str, volume: str, address: str) -> None:
        put(f"invitation-{name}", "invitation", note, e.invitation(e.invitation_bytes(RECEIVER, SECRET, volume, address)),
            fields={"version": 1, "receiver_key_id": RECEIVER, "secret": SECRET, "volume": volume, "address": address})

    right("name", "A host name.", "vm-disk.0", "standby.example.org:7411")
    right("v4", "An IPv4 address.", "vm-disk.0", "192.0.2.7:7411")
    right("v6", "An IPv6 address.", "vm-disk.0", "[2001:db8::7]:7411")
    right("v6-shortest", "The shortest IPv6 address, the greatest port.", "0", "[::]:65535")
    right("wide-name", "A volume name as LVM gives it.", "LogVol00+1", "standby.example.org:7411")
    right("longest", "The longest volume name and address.", "a" * 63, "h" * 253 + ":1")
    for padding in range(1, 5):
        right(f"tail-{padding}", "Other lengths of the base32 tail.", "v" * padding, "a.b:80")

    def wrong(name: str, reason: str, note: str, text: str) -> None:
        put(f"invitation-{name}", "invitation", note, text, reason=reason)

    def broken(name: str, reason: str, note: str, volume: str | bytes = "disk", address: str | bytes = "a.b:80",
               **changes: Any) -> None:
        wrong(name, reason, note, e.invitation(e.invitation_bytes(RECEIVER, SECRET, volume, address, **changes)))

    data = e.invitation_bytes(RECEIVER, SECRET, "disk", "a.b:80")
    text = e.invitation(data)
    wrong("prefix", "bad-prefix", "Another prefix.", "bf2." + text[4:])
    wrong("prefix-capital", "bad-prefix", "The prefix in capitals.", "BF1." + text[4:])
    wrong("prefix-none", "bad-prefix", "No prefix.", text[4:])
    wrong("nothing", "bad-prefix", "An empty string.", "")
    wrong("capitals", "bad-base32", "Capitals.", "bf1." + text[4:].upper())
    wrong("character", "bad-base32", "1 is not in the alphabet.", text[:20] + "1" + text[21:])
    wrong("space", "bad-base32", "A space at the end.", text + " ")
    wrong("padding", "bad-base32", "Padding.", text + "=")
    clean = e.invitation(e.invitation_bytes(RECEIVER, SECRET, "disks", "a.b:80"))
    size = len(e.invitation_bytes(RECEIVER, SECRET, "disks", "a.b:80"))
    assert size % 5, "bits are left over"
    last = "abcdefghijklmnopqrstuvwxyz234567".index(clean[-1])
    wrong("bits-left", "bad-base32", "A bit behind the last byte is set.",
          clean[:-1] + "abcdefghijklmnopqrstuvwxyz234567"[last | 1])
    wrong("impossible-length", "bad-base32", "One character, which is no byte.", "bf1.a")
    wrong("no-bytes", "truncated", "Nothing behind the prefix.", "bf1.")
    wrong("three-bytes", "truncated", "Too short for a checksum.", e.invitation(b"\1\2\3"))
    broken("checksum", "checksum", "The checksum is wrong.", checksum=0)
    wrong("typing-error", "checksum", "One character replaced.", text[:30] + ("a" if text[30] != "a" else "b") + text[31:])
    prefixed = data[:-4] + crc32c(b"bf1." + data[:-4]).to_bytes(4, "little")
    wrong("checksum-prefix", "checksum", "A checksum that takes in the prefix.", e.invitation(prefixed))
    broken("version", "bad-version", "Version 2.", version=2)
    short = data[:40]
    wrong("cut", "truncated", "The secret is cut, under a right checksum.",
          e.invitation(short + crc32c(short).to_bytes(4, "little")))
    broken("volume-dots", "bad-string-characters", "A name that no volume has.", volume="..")
    broken("volume-empty", "bad-string-length", "No volume name.", volume="")
    broken("address-empty", "bad-string-length", "No address.", address="")
    broken("address-long", "bad-string-length", "256 bytes of address.", address="h" * 253 + ":80")
    broken("address-utf8", "bad-string-utf8", "An address that is no UTF-8.", address=b"\xff:1")
    for suffix, address in (("no-port", "a.b"), ("empty-port", "a.b:"), ("port-zero", "a.b:0"),
                            ("port-above", "a.b:65536"), ("port-leading-zero", "a.b:080"), ("port-sign", "a.b:+80"),
                            ("no-host", ":80"), ("space", "a b:80"), ("bare-v6", "2001:db8::7:80"),
                            ("v6-open", "[2001:db8::7:80"), ("v6-wrong", "[2001:db8:::7]:80"), ("v6-v4", "[192.0.2.7]:80")):
        broken(f"address-{suffix}", "bad-address", f"{address!r} is no address.", address=address)
    broken("trailing", "trailing-bytes", "A byte between address and checksum.", extra=b"\0")
    wrong("order-prefix-base32", "bad-prefix", "Wrong prefix and characters.", "bf2.!!!")
    broken("order-checksum-version", "checksum", "Wrong checksum and version.", version=2, checksum=0)
    broken("order-version-volume", "bad-version", "Wrong version and volume name.", version=2, volume="Di/sk")
    broken("order-volume-address", "bad-string-characters", "Wrong volume name and address.", volume="Di/sk", address=":")
    broken("order-address-trailing", "bad-address", "A wrong address, and a byte too many.", address=":", extra=b"\0")

    for name, key_id in (("receiver", RECEIVER), ("sender", SENDER), ("zeros", bytes(32)), ("ones", b"\xff" * 32)):
        put(f"peer-id-{name}", "peer-id", "A key id as people see it.", e.peer_id(key_id), fields={"key_id": key_id})
    shown = e.peer_id(RECEIVER)

    def wrong_id(name: str, reason: str, note: str, value: str) -> None:
        put(f"peer-id-{name}", "peer-id", note, value, reason=reason)

    wrong_id("empty", "bad-grouping", "An empty string.", "")
    wrong_id("no-hyphens", "bad-grouping", "Without hyphens.", shown.replace("-", ""))
    wrong_id("short", "bad-grouping", "One character is missing.", shown[:-1])
    wrong_id("long", "bad-grouping", "A ninth group.", shown + "-AAAAAAA")
    wrong_id("spaces", "bad-grouping", "Spaces in place of hyphens.", shown.replace("-", " "))
    wrong_id("lower", "bad-base32", "Lower case.", shown.lower())
    wrong_id("digit-one", "bad-base32", "1 is not in the alphabet.", "1" + shown[1:])
    wrong_id("check-alphabet", "bad-base32", "0 among the check characters.", shown[:-1] + "0")
    flat = shown.replace("-", "")
    bits = flat[:51] + "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"["ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".index(flat[51]) | 1] + flat[52:]
    wrong_id("bits-left", "bad-base32", "A bit behind the key id is set.",
             "-".join(bits[at:at + 7] for at in range(0, 56, 7)))
    wrong_id("typing-error", "checksum", "One character replaced.", ("B" if shown[0] != "B" else "C") + shown[1:])
    wrong_id("check", "checksum", "One check character replaced.", shown[:-1] + ("A" if shown[-1] != "A" else "B"))
    swapped = shown[1] + shown[0] + shown[2:]
    assert swapped != shown
    wrong_id("swapped", "checksum", "Two characters swapped.", swapped)
    wrong_id("other-key", "checksum", "Check characters of another key.", shown[:-4] + e.peer_id(SENDER)[-4:])
