# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The tag map of a volume, its file and its updates (TagMap.md).

What is zero is left out: digests and pages are dictionaries by index, so that a sparse map costs what is in it.
"""

from __future__ import annotations

import hashlib
import mmap
from typing import BinaryIO, Iterator

from checksums import crc32c, tag
from decoder.core import BLOCK, PAGE, Fields, Reader, Refused, require
from decoder.messages import tag_algorithm, volume_size
from decoder.records import u64

ENTRY, DIGEST = 16, 32
ENTRIES_OF_PAGE = 256
DIGESTS_OF_NODE = 128
STRIP = 129 * PAGE
UPDATES_OF_PAGE = 170
ZERO_DIGEST = bytes(DIGEST)
ZERO_PAGE, ZERO_BLOCK = bytes(PAGE), bytes(BLOCK)


# Digests ----------------------------------------------------------------------------------------------------------

def page_digest(page: int, entries: bytes) -> bytes:
    """Of the 256 entries of a page, 4096 bytes."""
    require(len(entries) == PAGE, "truncated", "page")
    if not any(entries):
        return ZERO_DIGEST
    return hashlib.sha256(b"blockferry map page 1" + u64(page) + entries).digest()


def node_digest(level: int, index: int, below: bytes) -> bytes:
    """Of the 128 digests below a node, 4096 bytes."""
    require(len(below) == PAGE, "truncated", "node")
    if not any(below):
        return ZERO_DIGEST
    return hashlib.sha256(b"blockferry map node 1" + u64(level) + u64(index) + below).digest()


def root_digest(algorithm: int, size: int, top: bytes) -> bytes:
    return hashlib.sha256(b"blockferry map root 1" + bytes([algorithm]) + u64(size) + top).digest()


def block_count(size: int) -> int:
    return -(-size // BLOCK)


def page_count(size: int) -> int:
    return -(-block_count(size) // ENTRIES_OF_PAGE)


def page_length(size: int, page: int) -> int:
    """Bytes of the page's entries that blocks of the volume have; zeros fill it up."""
    return min(ENTRIES_OF_PAGE, block_count(size) - page * ENTRIES_OF_PAGE) * ENTRY


def level_above(level: int, digests: dict[int, bytes]) -> dict[int, bytes]:
    """The digests of level `level` that are not zeros, from those of the level below."""
    above = {}
    for index in sorted({below // DIGESTS_OF_NODE for below in digests}):
        below = range(index * DIGESTS_OF_NODE, (index + 1) * DIGESTS_OF_NODE)
        above[index] = node_digest(level, index, b"".join(digests.get(i, ZERO_DIGEST) for i in below))
    return above


def map_root(algorithm: int, size: int, digests: dict[int, bytes]) -> bytes:
    """The root over the digests of pages; those that are missing are zeros."""
    level, count = 0, page_count(size)
    digests = {page: digest for page, digest in digests.items() if any(digest)}
    while count > 1:
        level += 1
        digests = level_above(level, digests)
        count = -(-count // DIGESTS_OF_NODE)
    return root_digest(algorithm, size, digests.get(0, ZERO_DIGEST))


def entries_sha256(size: int, pages: dict[int, bytes]) -> bytes:
    """SHA-256 of all entries, one after the other."""
    total = hashlib.sha256()
    for page in range(page_count(size)):
        total.update(pages.get(page, ZERO_PAGE)[:page_length(size, page)])
    return total.digest()


# The map of a volume ----------------------------------------------------------------------------------------------

def block_entry(algorithm: int, key: bytes, content: bytes) -> bytes:
    if content == ZERO_BLOCK[:len(content)]:
        return bytes(ENTRY)
    return tag(algorithm, key, content)


def map_of_volume(volume: BinaryIO, algorithm: int, key: bytes, size: int) -> tuple[dict[int, bytes], bytes]:
    """The pages that are not zeros, and the root, of a volume of `size` bytes. Behind the end of what is there are zeros."""
    pages: dict[int, bytes] = {}
    volume.seek(0)
    for page in range(page_count(size)):
        entries = []
        for block in range(page * ENTRIES_OF_PAGE, min((page + 1) * ENTRIES_OF_PAGE, block_count(size))):
            length = min(BLOCK, size - block * BLOCK)
            content = volume.read(length)
            entries.append(block_entry(algorithm, key, content + bytes(length - len(content))))
            if not content:
                break
        joined = b"".join(entries)
        if any(joined):
            pages[page] = joined.ljust(PAGE, b"\0")
        if entries and not content:
            break
    return pages, map_root(algorithm, size, {page: page_digest(page, entries) for page, entries in pages.items()})


# The file ---------------------------------------------------------------------------------------------------------

def checked_page(data: bytes | mmap.mmap | memoryview, what: str) -> Reader:
    """The first 4096 bytes, if their checksum is right."""
    page = bytes(data[:PAGE])
    require(len(page) == PAGE, "truncated", what)
    require(crc32c(page[:4092]) == int.from_bytes(page[4092:], "little"), "header-checksum")
    return Reader(page)


def decode_map_header(data: bytes | mmap.mmap | memoryview) -> Fields:
    r = checked_page(data, "tag map header")
    require(r.bytes(8) == b"BFTAGMAP", "bad-magic")
    format_ = r.integer(2)
    require(format_ == 1, "bad-format", str(format_))
    f: Fields = {"tag_algorithm": tag_algorithm(r)}
    r.reserved(5)
    f["lineage"], f["generation_id"] = r.bytes(16), r.bytes(32)
    f["volume_size"] = volume_size(r)
    f["root"] = r.bytes(32)
    r.reserved(4092 - r.at)
    return f


def stored_page(data: bytes | mmap.mmap | memoryview, at: int) -> bytes:
    return bytes(data[at:at + PAGE]).ljust(PAGE, b"\0")


def stored_pages(data: bytes | mmap.mmap | memoryview, size: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Index, digest and entries of every page of which the file has anything that is not zero.

    Also the digests past the last page, as far as they stand in a strip of the volume, with a page of zeros.
    """
    count = page_count(size)
    for strip in range(-(-count // DIGESTS_OF_NODE)):
        start = PAGE + strip * STRIP
        if start >= len(data):
            return
        digests = stored_page(data, start)
        for i in range(DIGESTS_OF_NODE):
            page = strip * DIGESTS_OF_NODE + i
            digest = digests[DIGEST * i:DIGEST * (i + 1)]
            entries = stored_page(data, start + PAGE * (1 + i)) if page < count else ZERO_PAGE
            if any(digest) or entries != ZERO_PAGE:
                yield page, digest, entries


def decode_tag_map(data: bytes | mmap.mmap | memoryview) -> tuple[Fields, dict[int, bytes]]:
    """The header of a whole file and the pages that are not zeros: each proven by its digest, the digests by the root."""
    header = decode_map_header(data)
    size = header["volume_size"]
    count, digests, pages = page_count(size), {}, {}
    for page, digest, entries in stored_pages(data, size):
        require(page < count, "root-mismatch", f"a digest past the last page: {page}")
        require(not any(entries[page_length(size, page):]), "page-digest", f"entries past the last one of page {page}")
        require(page_digest(page, entries) == digest, "page-digest", f"page {page}")
        digests[page], pages[page] = digest, entries
    require(map_root(header["tag_algorithm"], size, digests) == header["root"], "root-mismatch")
    return header, pages


# Updates ----------------------------------------------------------------------------------------------------------

def decode_update_header(data: bytes | mmap.mmap | memoryview) -> Fields:
    r = checked_page(data, "tag map update header")
    require(r.bytes(8) == b"BFTAGUPD", "bad-magic")
    format_ = r.integer(2)
    require(format_ == 1, "bad-format", str(format_))
    f: Fields = {"base": r.integer(1)}
    require(f["base"] in (1, 2), "bad-base", str(f["base"]))
    r.reserved(5)
    f["transfer"] = r.bytes(16)
    require(any(f["transfer"]), "zero-transfer")
    r.reserved(4092 - r.at)
    return f


def decode_update_page(page: bytes, before: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The updates of one page, which stands behind those `before`."""
    require(len(page) == PAGE, "truncated", "page of updates")
    r = Reader(page)
    count, checksum = r.integer(4), r.integer(4)
    require(checksum == crc32c(page[:4] + page[8:]), "page-checksum")
    require(1 <= count <= UPDATES_OF_PAGE, "bad-count", str(count))
    require(len(before) % UPDATES_OF_PAGE == 0, "bad-count", "the page before is not full")
    updates = [(r.integer(8), r.bytes(ENTRY)) for _ in range(count)]
    last = before[-1][0] if before else -1
    for block, _ in updates:
        require(block > last, "order", f"{block} behind {last}")
        last = block
    r.reserved(PAGE - r.at)
    return updates


def decode_tag_map_update(data: bytes | mmap.mmap | memoryview) -> Fields:
    """The header, the valid updates, and why they end. Only the header can be refused."""
    header = decode_update_header(data)
    updates: list[tuple[int, bytes]] = []
    at, ends = PAGE, "end-of-file"
    while at < len(data):
        try:
            updates += decode_update_page(bytes(data[at:at + PAGE]), updates)
        except Refused as refusal:
            ends = refusal.reason
            break
        at += PAGE
    return {**header, "updates": updates, "ends": ends}


def summary(f: Fields) -> Fields:
    """What the vectors say of an update file."""
    updates = f["updates"]
    return {**f, "updates": len(updates), "first_block": updates[0][0] if updates else 0,
            "last_block": updates[-1][0] if updates else 0}

