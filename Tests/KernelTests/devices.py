# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Reads, writes, compares and discards devices. Direct I/O throughout, unless a test asks for the page cache."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import random
import struct

MIB = 1 << 20
BLKDISCARD = 0x1277
_first, _second = mmap.mmap(-1, MIB), mmap.mmap(-1, MIB)


def size(path: str) -> int:
    with open(path, "rb") as file:
        return file.seek(0, os.SEEK_END)


def read(path: str, offset: int, length: int, direct: bool = True) -> bytes:
    """At most 1 MiB; what is asked must be aligned to 4096 bytes when `direct`."""
    descriptor = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
    try:
        got = os.preadv(descriptor, [memoryview(_first)[:length]], offset)
        return _first[:got]
    finally:
        os.close(descriptor)


def pieces(path: str, length: int | None = None):
    """The content in pieces of 1 MiB; each is overwritten by the next one."""
    length = size(path) if length is None else length
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        for offset in range(0, length, MIB):
            count = min(MIB, length - offset)
            aligned = (count + 4095) // 4096 * 4096
            got = os.preadv(descriptor, [memoryview(_first)[:aligned]], offset)
            if got < count:
                raise OSError(f"{path}: short read at {offset}")
            yield memoryview(_first)[:count]
    finally:
        os.close(descriptor)


def sha256(path: str, length: int | None = None) -> str:
    digest = hashlib.sha256()
    for piece in pieces(path, length):
        digest.update(piece)
    return digest.hexdigest()


def content(path: str) -> bytearray:
    whole = bytearray()
    for piece in pieces(path):
        whole += piece
    return whole


def differing(path: str, other: str, length: int) -> tuple[int, int | None]:
    """How many of the first `length` bytes differ, and the offset of the first that does."""
    count, first = 0, None
    one, two = os.open(path, os.O_RDONLY | os.O_DIRECT), os.open(other, os.O_RDONLY | os.O_DIRECT)
    try:
        for offset in range(0, length, MIB):
            wanted = min(MIB, length - offset)
            aligned = (wanted + 4095) // 4096 * 4096
            for descriptor, buffer, name in ((one, _first, path), (two, _second, other)):
                if os.preadv(descriptor, [memoryview(buffer)[:aligned]], offset) < wanted:
                    raise OSError(f"{name}: short read at {offset}")
            if memoryview(_first)[:wanted] == memoryview(_second)[:wanted]:
                continue
            for at in range(wanted):
                if _first[at] != _second[at]:
                    count += 1
                    first = offset + at if first is None else first
    finally:
        os.close(one)
        os.close(two)
    return count, first


def zeros(path: str, offset: int, length: int) -> bool:
    return not any(read(path, offset, length))


_noise = mmap.mmap(-1, MIB)
_noise[:] = random.Random(7441).randbytes(MIB)
_stamps = 0


def write(path: str, *ranges: tuple[int, int], flush: bool = True) -> None:
    """Writes noise to (offset, length) ranges; no two writes of a guest's life have the same content."""
    global _stamps
    descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        for offset, length in ranges:
            while length > 0:
                count = min(length, MIB)
                _stamps += 1
                for at in range(0, count, 4096):
                    struct.pack_into("<QQ", _noise, at, _stamps, offset + at)
                if os.pwritev(descriptor, [memoryview(_noise)[:count]], offset) != count:
                    raise OSError(f"{path}: short write at {offset}")
                offset, length = offset + count, length - count
        if flush:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def scattered(seed: int, count: int, within: int, length: int = 4096, unit: int = 4096) -> list[tuple[int, int]]:
    """`count` ranges of `length` at random places, for `write`."""
    generator = random.Random(seed)
    return [(generator.randrange((within - length) // unit + 1) * unit, length) for _ in range(count)]


def discard(path: str, offset: int, length: int) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        fcntl.ioctl(descriptor, BLKDISCARD, struct.pack("<QQ", offset, length))
    finally:
        os.close(descriptor)
