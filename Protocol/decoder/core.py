# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Refusal, what structures are checked against, and reading field by field (section 2)."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Fields = dict[str, Any]

BLOCK = 65_536
RECORD_CONTENT = 1_048_576
SEGMENT_CONTENT = 33_554_432
SEGMENT_RECORDS = 65_536
SEGMENTS = 1_048_576
LARGEST_GROWTH = 7
LARGEST_OFFSET = 1 << 62
PAGE = 4096


class Refused(Exception):
    """A structure broke the specification."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def require(condition: bool, reason: str, detail: str = "") -> None:
    if not condition:
        raise Refused(reason, detail)


@dataclass
class Context:
    """What a structure is checked against. `None` means: not known, the check is left out."""

    volume_size: int | None = None
    previous_end: int | None = None
    full: bool = False
    tag_key: bytes | None = None
    tag_algorithm: int | None = None
    segment_growth: int = 0
    values: Fields = field(default_factory=dict)           # further values by their name in the vectors
    unchecked: Counter[str] = field(default_factory=Counter)  # what could not be checked, never silently


def printable(value: Any) -> Any:
    """A value as the vectors write it: bytes as hex, integers from 2^53 as decimal strings."""
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, dict):
        return {key: printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [printable(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1 << 53:
        return str(value)
    return value


class Reader:
    """Reads fields in order; each asks first whether its bytes are there."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = bytes(data)
        self.at = 0

    def bytes(self, count: int) -> bytes:
        piece = self.data[self.at:self.at + count]
        require(len(piece) == count, "truncated", f"{count} bytes at {self.at}, {len(piece)} are there")
        self.at += count
        return piece

    def integer(self, size: int) -> int:
        return int.from_bytes(self.bytes(size), "little")

    def reserved(self, count: int) -> None:
        at = self.at
        require(not any(self.bytes(count)), "reserved-bits", f"at {at}")

    def string(self, most: int, least: int = 0) -> str:
        length = self.integer(2)
        require(least <= length <= most, "bad-string-length", f"{length}, allowed {least}-{most}")
        try:
            text = self.bytes(length).decode("utf-8", "strict")
        except UnicodeDecodeError as error:
            raise Refused("bad-string-utf8", str(error)) from error
        require(not any(ord(c) < 0x20 or ord(c) == 0x7F for c in text), "bad-string-characters", "control character")
        return text

    def end(self) -> None:
        require(self.at == len(self.data), "trailing-bytes", f"{len(self.data) - self.at} bytes")


def volume_name(reader: Reader) -> str:
    name = reader.string(63, least=1)
    require(re.fullmatch(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]*", name, re.ASCII) is not None, "bad-string-characters", repr(name))
    require(name not in (".", ".."), "bad-string-characters", repr(name))
    return name
