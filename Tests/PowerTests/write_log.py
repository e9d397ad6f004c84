# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The log of writes of device-mapper's `log-writes` target and of QEMU's driver `blklogwrites`, which share a format
(Documentation/admin-guide/device-mapper/log-writes.rst, and drivers/md/dm-log-writes.c for the layout): each write with its
data, in the order in which they became stable, and marks."""

from __future__ import annotations

import dataclasses
import itertools
import os
import struct
from typing import BinaryIO, Iterator

MAGIC, VERSION = 0x6A736677736872, 1
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
SECTOR = 512


@dataclasses.dataclass
class Entry:
    """One write (or discard, without data), or a mark."""

    offset: int
    length: int
    flags: int
    data: bytes

    @property
    def mark(self) -> str | None:
        return self.data.decode() if self.flags & MARK else None

    @property
    def changes(self) -> bool:
        return not self.flags & MARK and self.length > 0

    def apply(self, image: bytearray, length: int | None = None) -> None:
        """Makes the write, or its first `length` bytes. What was discarded is unknown, and told by a pattern."""
        count = self.length if length is None else length
        content = b"\xdb" * self.length if self.flags & DISCARD else self.data
        image[self.offset:self.offset + count] = content[:count]


def read(path: str | os.PathLike) -> list[Entry]:
    """All entries of a log; a log that was not finished has as many as its first sector says."""
    with open(path, "rb") as file:
        magic, version, count, sector = struct.unpack("<QQQI", file.read(28))
        if (magic, version, sector) != (MAGIC, VERSION, SECTOR):
            raise ValueError(f"{path} is no log of writes: {magic:#x}, version {version}, sectors of {sector}")
        entries = list(itertools.islice(_entries(file), count))
        if len(entries) < count:
            raise ValueError(f"{path} has {len(entries)} entries instead of {count}")
        return entries


def length(path: str | os.PathLike) -> int:
    """How many entries are in a file that is being written, whatever its first sector says yet."""
    with open(path, "rb") as file:
        return sum(1 for _ in _entries(file))


def _entries(file: BinaryIO) -> Iterator[Entry]:
    place = SECTOR
    while True:
        file.seek(place)
        head = file.read(SECTOR)
        # The head of an entry says what it did: nothing but zeros is no entry.
        if not any(head):
            return
        first, sectors, flags, length = struct.unpack_from("<QQQQ", head)
        place += SECTOR
        if flags & MARK:
            yield Entry(0, 0, flags, head[32:32 + length])
            continue
        data = b""
        if not flags & DISCARD:
            data = file.read(sectors * SECTOR)
            place += sectors * SECTOR
        yield Entry(first * SECTOR, sectors * SECTOR, flags, data)
