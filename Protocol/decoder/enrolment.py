# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Invitations and peer ids (section 9)."""

from __future__ import annotations

import hashlib
import ipaddress
import re

from checksums import crc32c
from decoder.core import Fields, Reader, Refused, require, volume_name

BASE32 = "abcdefghijklmnopqrstuvwxyz234567"


def base32_decode(text: str, alphabet: str = BASE32) -> bytes:
    """RFC 4648 without padding: no other characters, no impossible length, no bits left over."""
    value = 0
    for character in text:
        digit = alphabet.find(character)
        require(digit >= 0, "bad-base32", repr(character))
        value = value << 5 | digit
    left = 5 * len(text) % 8
    require(left < 5 and value & ((1 << left) - 1) == 0, "bad-base32", "length or bits left over")
    return (value >> left).to_bytes(5 * len(text) // 8, "big")


def base32_encode(data: bytes, alphabet: str = BASE32) -> str:
    bits = int.from_bytes(data, "big") << (-8 * len(data) % 5)
    count = -(-8 * len(data) // 5)
    return "".join(alphabet[bits >> 5 * (count - 1 - i) & 31] for i in range(count))


def check_address(address: str) -> None:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([1-9][0-9]{0,4})", address, re.ASCII)
    require(match is not None, "bad-address", repr(address))
    assert match is not None
    if match[1] is not None:
        try:
            ipaddress.IPv6Address(match[1])
        except ValueError as error:
            raise Refused("bad-address", str(error)) from error
    require(int(match[3]) <= 65_535, "bad-address", f"port {match[3]}")


def decode_invitation(text: str) -> Fields:
    require(text.startswith("bf1."), "bad-prefix")
    data = base32_decode(text[4:])
    require(len(data) >= 4, "truncated", "checksum")
    require(crc32c(data[:-4]) == int.from_bytes(data[-4:], "little"), "checksum")
    r = Reader(data[:-4])
    version = r.integer(1)
    require(version == 1, "bad-version", str(version))
    f: Fields = {"version": version, "receiver_key_id": r.bytes(32), "secret": r.bytes(16), "volume": volume_name(r)}
    f["address"] = r.string(255, least=1)
    check_address(f["address"])
    r.end()
    return f


def peer_check(key_id: bytes) -> str:
    """The first 20 bits of the digest, in the order in which base32 takes them."""
    return base32_encode(hashlib.sha256(b"blockferry id" + key_id).digest()[:5])[:4]


def format_peer_id(key_id: bytes) -> str:
    characters = (base32_encode(key_id) + peer_check(key_id)).upper()
    return "-".join(characters[i:i + 7] for i in range(0, 56, 7))


def decode_peer_id(text: str) -> Fields:
    groups = text.split("-")
    require(len(groups) == 8 and all(len(group) == 7 for group in groups), "bad-grouping")
    characters = "".join(groups)
    base32_decode(characters, BASE32.upper())  # all 56 characters are 35 bytes: only the alphabet can fail here
    key_id = base32_decode(characters[:52], BASE32.upper())
    require(characters[52:] == peer_check(key_id).upper(), "checksum")
    return {"key_id": key_id}
