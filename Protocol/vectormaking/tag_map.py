# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The tag map, its file and its updates."""

from __future__ import annotations

import hashlib
from typing import Any

import encode as e
from vectormaking.common import BLOCK, KEY, LINEAGE, PARENT, TOP, TRANSFER, U64, noise, put

# 700 blocks, the last one of 777 bytes: a page with zeros in it, a page of zeros, a page of 188 entries.
SIZE = 699 * BLOCK + 777
ENTRIES = noise(100, 1024) + bytes(1600) + noise(101, 1472) + bytes(4096) + noise(102, 3008)
ROOT = e.map_root(1, SIZE, ENTRIES)
HEADER: dict[str, Any] = {"tag_algorithm": 1, "lineage": LINEAGE, "generation_id": PARENT, "volume_size": SIZE, "root": ROOT}
UPDATE = {"base": 1, "transfer": TRANSFER}


def digests() -> None:
    def value(name: str, kind: str, note: str, result: bytes, data: bytes, **inputs: Any) -> None:
        put(f"digest-{name}", "digest", note, data, type=kind, inputs=inputs, fields={"value": result})

    whole = noise(103, 4096)
    for name, note, page, entries in (
            ("first", "A whole page.", 0, whole), ("index", "The index is part of the digest.", 1, whole),
            ("greatest-index", "The greatest index.", U64, whole), ("one-entry", "One entry, then zeros.", 7, noise(104, 16)),
            ("short", "The last page of a volume: zeros fill it up, and are part of the digest.", 2, noise(102, 3008)),
            ("one-bit", "One bit of a page.", 0, bytes(4095) + b"\1"),
            ("zeros", "A page of zeros has the digest of zeros.", 3, bytes(4096))):
        value(f"map-page-{name}", "map-page", note, e.map_page_digest(page, entries), entries.ljust(4096, b"\0"),
              page=page)
    for name, note, level, index, below in (
            ("first", "128 digests.", 1, 0, whole), ("index", "The index is part of the digest.", 1, 1, whole),
            ("level", "The level is part of the digest.", 2, 0, whole),
            ("greatest", "The greatest numbers.", U64, U64, whole), ("one", "One digest, then zeros.", 3, 5, noise(105, 32)),
            ("some-zeros", "Digests of zeros among others stand there as zeros.", 1, 0,
             bytes(64) + noise(105, 32) + bytes(32)),
            ("zeros", "The digest above zeros is zeros.", 1, 9, bytes(4096))):
        value(f"map-node-{name}", "map-node", note, e.map_node_digest(level, index, below), below.ljust(4096, b"\0"),
              level=level, index=index)
    top = noise(106, 32)
    for name, note, algorithm, size, digest in (
            ("poly1305", "With poly1305.", 1, SIZE, top), ("sha256", "The algorithm is part of the root.", 2, SIZE, top),
            ("size", "The size is part of the root.", 1, SIZE + 1, top), ("one-byte", "A volume of one byte.", 1, 1, top),
            ("greatest", "The greatest volume.", 2, TOP, top),
            ("zeros", "The root of a volume of zeros is not zeros.", 1, SIZE, bytes(32))):
        value(f"map-root-{name}", "map-root", note, e.map_root_digest(algorithm, size, digest), digest,
              tag_algorithm=algorithm, volume_size=size)

    mixed = noise(107, BLOCK) + bytes(BLOCK) + b"\xaa" * BLOCK + bytes(BLOCK - 1) + b"\1" + noise(108, 777)
    many = (noise(108, 777) + bytes(256 * BLOCK - 777) + noise(107, BLOCK) + bytes(2 * BLOCK)
            + b"\1" * 512)  # 260 blocks in two pages
    for name, note, algorithm, size, content in (
            ("mixed", "Content, a block of zeros, a byte alone, a short last block.", 1, len(mixed), mixed),
            ("mixed-sha256", "The same with sha256 tags.", 2, len(mixed), mixed),
            ("last-zeros", "A short last block of zeros.", 1, BLOCK + 777, noise(107, BLOCK) + bytes(777)),
            ("two-pages", "260 blocks, most of them zeros.", 1, len(many), many),
            ("zeros", "Nothing but zeros.", 1, 3 * BLOCK, bytes(3 * BLOCK)),
            ("one-byte", "A volume of one byte.", 1, 1, b"\x5a")):
        value(f"map-volume-{name}", "map-volume", note, e.map_root(algorithm, size, e.map_entries(content, KEY, algorithm)),
              content, tag_algorithm=algorithm, tag_key=KEY, volume_size=size)
    value("map-volume-longer", "map-volume", "As if the volume were longer: what lies past its end counts as zeros.",
          e.map_root(1, 300 * BLOCK, e.map_entries(mixed + bytes(300 * BLOCK - len(mixed)), KEY, 1)), mixed,
          tag_algorithm=1, tag_key=KEY, volume_size=300 * BLOCK)
    value("map-volume-shorter", "map-volume", "As if the volume were shorter: it ends inside the third block.",
          e.map_root(1, 2 * BLOCK + 512, e.map_entries(mixed[:2 * BLOCK + 512], KEY, 1)), mixed,
          tag_algorithm=1, tag_key=KEY, volume_size=2 * BLOCK + 512)


def map_headers() -> None:
    for name, note, change in (
            ("", "The map of a generation.", {}), ("-sha256", "sha256 tags.", {"tag_algorithm": 2}),
            ("-of-none", "Of no lineage and no generation.", {"lineage": bytes(16), "generation_id": bytes(32)}),
            ("-of-no-generation", "Of a lineage, but of no generation.", {"generation_id": bytes(32)}),
            ("-smallest", "A volume of one byte; no rule binds the root here.", {"volume_size": 1, "root": bytes(32)}),
            ("-greatest", "The greatest volume.", {"volume_size": TOP, "root": b"\xff" * 32})):
        fields = HEADER | change
        put(f"tag-map-header{name}", "tag-map-header", note, e.map_header(**fields), fields=fields)
    put("tag-map-header-trailing", "tag-map-header", "What lies behind the header is none of it.",
        e.map_header(**HEADER) + b"\1", fields=HEADER)

    whole = e.map_header(**HEADER)
    broken_header("tag-map-header", whole, e.map_header, HEADER, [
        ("magic", "bad-magic", {"magic": b"BFTAGMAQ"}),
        ("format", "bad-format", {"format": 2}),
        ("tag-algorithm-zero", "bad-tag-algorithm", {"tag_algorithm": 0}),
        ("reserved", "reserved-bits", {"reserved": bytes(4) + b"\1"}),
        ("size-zero", "bad-volume-size", {"volume_size": 0}),
        ("rest", "reserved-bits", {"rest": b"\1"}),
    ], [
        ("magic-update", "bad-magic", {"magic": b"BFTAGUPD"}),
        ("format-high", "bad-format", {"format": 0x101}),
        ("tag-algorithm-three", "bad-tag-algorithm", {"tag_algorithm": 3}),
        ("size-too-great", "bad-volume-size", {"volume_size": TOP + 1}),
        ("rest-first", "reserved-bits", {"rest": b"\1" + bytes(3987)}),
    ])


def broken_header(prefix: str, whole: bytes, make: Any, base: dict[str, Any],
                  breaks: list[tuple[str, str, dict[str, Any]]], more: list[tuple[str, str, dict[str, Any]]]) -> None:
    def wrong(name: str, reason: str, note: str, data: bytes) -> None:
        put(f"{prefix}-{name}", prefix, note, data, reason=reason)

    wrong("empty", "truncated", "An empty file.", b"")
    wrong("short", "truncated", "4,095 bytes.", whole[:-1])
    wrong("checksum", "header-checksum", "The checksum is wrong.", whole[:-1] + bytes([whole[-1] ^ 1]))
    wrong("zeros", "header-checksum", "A page of zeros: its checksum is not zero.", bytes(4096))
    wrong("torn", "header-checksum", "The header was written in part.", whole[:24] + bytes(4068) + whole[-4:])
    for suffix, reason, change in breaks + more:
        wrong(suffix, reason, f"Only `{suffix}` is wrong.", make(**(base | change)))
    wrong("order-short-checksum", "truncated", "4,095 bytes, and another magic.", b"XXXXXXXX" + whole[8:-1])
    wrong("order-checksum-magic", "header-checksum", "Wrong checksum and magic.",
          make(**(base | {"magic": b"XXXXXXXX", "checksum": 0})))
    for (suffix1, reason1, change1), (suffix2, reason2, change2) in zip(breaks, breaks[1:]):
        wrong(f"order-{suffix1}-{suffix2}", reason1, f"Breaks `{reason1}` and `{reason2}`: the first in the list is reported.",
              make(**(base | change1 | change2)))


def maps() -> None:
    def right(name: str, note: str, size: int, entries: bytes, data: bytes, algorithm: int = 1) -> None:
        fields = HEADER | {"tag_algorithm": algorithm, "volume_size": size, "root": e.map_root(algorithm, size, entries)}
        assert len(entries) == 16 * -(-size // BLOCK)
        put(f"tag-map{name}", "tag-map", note, e.map_header(**fields) + data,
            fields=fields | {"entries_sha256": hashlib.sha256(entries).digest()})

    def wrong(name: str, reason: str, note: str, data: bytes) -> None:
        put(f"tag-map-{name}", "tag-map", note, data, reason=reason)

    strips = e.map_strips(ENTRIES)
    right("", "700 blocks, the last one short: zeros inside a page, a page of zeros, a short page.", SIZE, ENTRIES, strips)
    right("-sha256", "The same entries as tags of sha256: another root.", SIZE, ENTRIES, strips, 2)
    right("-cut", "What is missing at the end of the file is zeros: it ends with the last entry.", SIZE, ENTRIES,
          strips[:4096 + 2 * 4096 + 3008])
    right("-long", "Zeros past the last page.", SIZE, ENTRIES, strips + bytes(8192))
    right("-past-page", "What stands where a page past the last one would is not read.", SIZE, ENTRIES,
          strips + b"\xff" * 4096)
    right("-zeros", "A volume of zeros: a header only.", SIZE, bytes(11_200), b"")
    right("-one-byte", "A volume of one byte.", 1, noise(104, 16), e.map_strips(noise(104, 16)))
    right("-one-page", "256 blocks: the page is the top.", 256 * BLOCK, noise(103, 4096), e.map_strips(noise(103, 4096)))
    two = noise(103, 4096) + noise(104, 16)
    right("-two-pages", "257 blocks: a second page with one entry.", 256 * BLOCK + 1, two, e.map_strips(two))
    last = bytes(127 * 4096) + noise(103, 4096)
    right("-strip", "128 pages: one strip, one node; only the last page is not zeros.", 1 << 31, last, e.map_strips(last))
    over = noise(103, 4096) + bytes(127 * 4096) + noise(104, 16)
    right("-two-strips", "129 pages: a second strip, two levels of nodes.", (1 << 31) + 1, over, e.map_strips(over))
    hole = bytes(128 * 4096) + noise(103, 4096)
    right("-hole", "The first strip is a hole.", (1 << 31) + 256 * BLOCK, hole, e.map_strips(hole))
    far = noise(103, 4096) + bytes(4095 * 4096)
    right("-far", "4,096 pages in 32 strips; the file ends with the first page.", 1 << 36, far, e.map_strips(far)[:8192])

    header = e.map_header(**HEADER)
    digests = e.map_page_digests(ENTRIES)
    flipped = bytearray(ENTRIES)
    flipped[100] ^= 1

    def page(name: str, note: str, entries: bytes, level_0: bytes) -> None:
        wrong(name, "page-digest", note, header + e.map_strips(entries, level_0))

    page("entry", "A flipped bit in an entry.", bytes(flipped), digests)
    page("entry-last", "A flipped bit in the last entry.", ENTRIES[:-1] + bytes([ENTRIES[-1] ^ 0x80]), digests)
    page("digest", "A flipped bit in a digest.", ENTRIES, bytes([digests[0] ^ 1]) + digests[1:])
    page("digest-zeros", "A page that is not zeros with a digest of zeros.", ENTRIES, bytes(32) + digests[32:])
    page("page-zeros", "A page of zeros with a digest that is not zeros.", ENTRIES,
         digests[:32] + noise(105, 32) + digests[64:])
    page("page-zeros-hashed", "A page of zeros with the SHA-256 of it in place of zeros.", ENTRIES,
         digests[:32] + hashlib.sha256(b"blockferry map page 1" + (1).to_bytes(8, "little") + bytes(4096)).digest()
         + digests[64:])
    page("page-lost", "A page that was not written: zeros in its place.", bytes(4096) + ENTRIES[4096:], digests)
    page("pages-swapped", "Two pages in the wrong order, with their digests.",
         ENTRIES[4096:8192] + ENTRIES[:4096] + ENTRIES[8192:], digests[32:64] + digests[:32] + digests[64:])
    wrong("file-cut", "page-digest", "The file ends inside the last page's entries.",
          header + strips[:4096 + 2 * 4096 + 2992])
    short = hashlib.sha256(b"blockferry map page 1" + (2).to_bytes(8, "little") + ENTRIES[8192:]).digest()
    page("page-short", "A digest over the entries of the last page that zeros do not fill up.", ENTRIES, digests[:64] + short)
    wrong("file-cut-digests", "page-digest", "The digests are a hole, the pages are there.",
          header + bytes(4096) + strips[4096:])
    page("past-entry", "An entry past the last block; the digest is that of zeros there.", ENTRIES + noise(104, 16), digests)
    more = ENTRIES + noise(104, 16)
    wrong("past-entry-hashed", "page-digest", "An entry past the last block, and digest and root are made with it.",
          e.map_header(**(HEADER | {"root": e.map_root(1, SIZE, more)})) + e.map_strips(more))

    def root(name: str, note: str, data: bytes, **change: Any) -> None:
        wrong(name, "root-mismatch", note, e.map_header(**(HEADER | change)) + data)

    root("root", "A flipped bit in the root.", strips, root=bytes([ROOT[0] ^ 1]) + ROOT[1:])
    root("root-zeros", "A root of zeros.", strips, root=bytes(32))
    root("root-size", "A volume one byte longer, of as many blocks.", strips, volume_size=SIZE + 1)
    root("root-algorithm", "The other algorithm.", strips, tag_algorithm=2)
    root("root-entry", "An entry was changed, and its page's digest with it.", e.map_strips(bytes(flipped)))
    root("root-lost", "A page and its digest were not written.", e.map_strips(bytes(4096) + ENTRIES[4096:]))
    root("root-header-only", "Nothing behind the header.", b"")
    root("past-digest", "A digest past the last page.", e.map_strips(ENTRIES, digests + noise(105, 32)))
    root("past-digest-hashed", "A digest past the last page, and the root is made with it.",
         e.map_strips(ENTRIES, digests + noise(105, 32)),
         root=e.map_root_digest(1, SIZE, e.map_node_digest(1, 0, digests + noise(105, 32))))
    root("root-short-node", "A root over three digests that zeros do not fill up.", strips, root=e.map_root_digest(
        1, SIZE, hashlib.sha256(b"blockferry map node 1" + (1).to_bytes(8, "little") + bytes(8) + digests).digest()))
    root("root-zeros-hashed", "The root of a volume of zeros, made with the SHA-256 of its pages.", b"",
         root=e.map_root_digest(1, SIZE, hashlib.sha256(b"blockferry map node 1" + (1).to_bytes(8, "little")
                                                        + bytes(8) + bytes(4096)).digest()))
    wrong("order-header-page", "bad-format", "A wrong header, and a page that is not its digest's.",
          e.map_header(**HEADER, format=2) + e.map_strips(bytes(flipped), digests))
    wrong("order-page-root", "page-digest", "A page that is not its digest's, and another root.",
          e.map_header(**(HEADER | {"root": bytes(32)})) + e.map_strips(bytes(flipped), digests))
    wrong("nothing", "truncated", "An empty file is no map.", b"")


def update_headers() -> None:
    for name, note, change in (
            ("", "Changes of the parent's map.", {}), ("-zeros-base", "Changes of a map of zeros.", {"base": 2}),
            ("-transfer", "One bit of the transfer is enough.", {"transfer": bytes(15) + b"\x80"})):
        fields = UPDATE | change
        put(f"tag-map-update-header{name}", "tag-map-update-header", note, e.map_update_header(**fields), fields=fields)
    broken_header("tag-map-update-header", e.map_update_header(**UPDATE), e.map_update_header, UPDATE, [
        ("magic", "bad-magic", {"magic": b"BFTAGMAP"}),
        ("format", "bad-format", {"format": 0}),
        ("base-zero", "bad-base", {"base": 0}),
        ("reserved", "reserved-bits", {"reserved": b"\1" + bytes(4)}),
        ("transfer-zeros", "zero-transfer", {"transfer": bytes(16)}),
        ("rest", "reserved-bits", {"rest": b"\1"}),
    ], [
        ("base-three", "bad-base", {"base": 3}),
        ("rest-first", "reserved-bits", {"rest": b"\x80" + bytes(4059)}),
    ])


def updates() -> None:
    def file(name: str, note: str, data: bytes, found: list[tuple[int, bytes]], ends: str, base: int = 1) -> None:
        put(f"tag-map-update{name}", "tag-map-update", note, e.map_update_header(base, TRANSFER) + data, fields={
            "base": base, "transfer": TRANSFER, "updates": len(found), "first_block": found[0][0] if found else 0,
            "last_block": found[-1][0] if found else 0, "ends": ends})

    def some(count: int, first: int = 3, step: int = 5) -> list[tuple[int, bytes]]:
        return [(first + step * i, noise(200 + i % 4, 16)) for i in range(count)]

    three, full, two_pages = some(3), some(170), some(171)
    first_page, second_page = e.map_update_page(full), e.map_update_page(some(1, 2000))
    file("-none", "A header only.", b"", [], "end-of-file")
    file("-one", "One update.", e.map_update_pages(some(1)), some(1), "end-of-file")
    file("", "Three updates, one of them to zeros.", e.map_update_pages([*three[:2], (13, bytes(16))]), three, "end-of-file")
    file("-zeros-base", "Block 0 and the last that there can be, onto a map of zeros.",
         e.map_update_pages([(0, noise(200, 16)), ((1 << 46) - 1, noise(201, 16))]),
         [(0, b""), ((1 << 46) - 1, b"")], "end-of-file", 2)
    file("-greatest", "The greatest number: whether the volume has such a block is not a question of form.",
         e.map_update_pages([(U64, noise(200, 16))]), [(U64, b"")], "end-of-file")
    file("-full-page", "A full page.", first_page, full, "end-of-file")
    file("-two-pages", "171 updates: a full page and one with one update.", e.map_update_pages(two_pages), two_pages,
         "end-of-file")
    file("-two-full-pages", "340 updates: two full pages.", e.map_update_pages(some(340)), some(340), "end-of-file")

    def ended(name: str, reason: str, note: str, page: bytes) -> None:
        file(f"-{name}", note, first_page + page, full, reason)

    ended("page-cut", "truncated", "The file ends inside the second page.", second_page[:-1])
    ended("page-byte", "truncated", "One byte behind the first page.", b"\1")
    ended("page-checksum", "page-checksum", "The second page's checksum is wrong.",
          e.map_update_page(some(1, 2000), checksum=0))
    ended("page-zeros", "page-checksum", "The second page was not written: the checksum of zeros is not zero.", bytes(4096))
    ended("page-count-flip", "page-checksum", "The count is covered by the checksum.", b"\2" + second_page[1:])
    ended("page-entry-flip", "page-checksum", "A flipped bit in an entry.",
          second_page[:20] + bytes([second_page[20] ^ 1]) + second_page[21:])
    ended("page-rest-flip", "page-checksum", "The reserved bytes are covered by the checksum.", second_page[:-1] + b"\1")
    ended("count-zero", "bad-count", "A page without updates.", e.map_update_page([]))
    ended("count-many", "bad-count", "171 updates do not fit on a page.", e.map_update_page(some(1, 2000), count=171))
    ended("count-greatest", "bad-count", "A number that wraps when it is multiplied.",
          e.map_update_page(some(1, 2000), count=0xFFFFFFFF))
    ended("page-again", "order", "The first page again.", first_page)
    ended("order-across", "order", "The second page begins with the block that the first ended with.",
          e.map_update_page(some(2, full[-1][0])))
    ended("order-same", "order", "A block twice.", e.map_update_page(some(2, 2000, 0)))
    ended("order-backwards", "order", "Blocks descend.", e.map_update_page(some(2, 2000)[::-1]))
    ended("page-rest", "reserved-bits", "The last byte of the page is not zero.",
          e.map_update_page(some(1, 2000), rest=b"\1"))
    ended("page-rest-first", "reserved-bits", "A byte right behind the last update, counted short.",
          e.map_update_page(some(2, 2000), count=1))
    file("-behind-short", "Nothing can follow a page that is not full.",
         e.map_update_page(three) + e.map_update_page(some(1, 2000)), three, "bad-count")
    file("-behind-invalid", "A valid page behind one that is not valid is not read.",
         e.map_update_page(full, checksum=0) + second_page, [], "page-checksum")
    file("-other-header", "A map's header in the place of a page.", e.map_header(**HEADER), [], "page-checksum")

    file("-order-checksum-count", "Wrong checksum and count.", first_page + e.map_update_page([], checksum=0), full,
         "page-checksum")
    file("-order-count-order", "Behind a page that is not full, and backwards.",
         e.map_update_page(three) + e.map_update_page(some(1)), three, "bad-count")
    file("-order-order-rest", "Backwards, and a reserved byte is not zero.",
         first_page + e.map_update_page(some(2, 2000)[::-1], rest=b"\1"), full, "order")
    put("tag-map-update-nothing", "tag-map-update", "An empty file has no updates.", b"", reason="truncated")
    put("tag-map-update-wrong", "tag-map-update", "Without a valid header there are no updates.",
        e.map_update_header(3, TRANSFER) + first_page, reason="bad-base")


GROUPS = (digests, map_headers, maps, update_headers, updates)
