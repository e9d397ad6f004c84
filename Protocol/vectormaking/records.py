# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Records."""

from __future__ import annotations

import hashlib
from typing import Any

import encode as e
from checksums import crc32c
from vectormaking.common import BLOCK, KEY, MIB, TOP, U64, noise, put


def record_fields(kind: int, encoding: int, offset: int, content: bytes | int, stored: bytes = b"",
                  key: bytes = KEY, algorithm: int = 1) -> dict[str, Any]:
    """Content is bytes for data, a length for zero and unmap."""
    if isinstance(content, int):
        return {"kind": kind, "encoding": 0, "tag_count": 0, "stored_length": 0, "offset": offset, "length": content,
                "tags": []}
    tags = e.tags_of(offset, content, key, algorithm)
    return {"kind": kind, "encoding": encoding, "tag_count": len(tags), "stored_length": len(stored), "offset": offset,
            "length": len(content), "tags": tags, "content_sha256": hashlib.sha256(content).digest()}


# Made once with zstd 1.5.4 at level 19: real literals, sequences and a content checksum.
PHRASE = (b"the quick brown fox ferries blocks; " * 60)[:2048]
PHRASE_ZSTD = bytes.fromhex("28b52ffd6400076d0100440274686520717569636b2062726f776e20666f78206665727269657320626c6f636b73"
                            "3b200100ccfefcea09591d88dd")
SQUARES = b"".join(b"%d\n" % (i * i) for i in range(400))[:1536]
SQUARES_ZSTD = bytes.fromhex(
    "28b52ffd6400050d15000a60700a09b079a434b63b71dd09a100a100a4009376768159117dee7cbc7c00fee87e26f8aa25fb8c4c7ad9c7b2"
    "6ac84c94d12003288f1fcfbd5764ef129eb4de0bbc7ac56c8ab11303788ce4981fb172630fc6a4103bab2ba0ce301de11d8074047786e80a"
    "da9deca4d03d8a2b13e70f473a07708e15ce36570fee554e5aee42ae08381738be0650a369a65975f6f9a4df475695993cda03f0f8981b2b"
    "ea2e9db47b7175cee6580e8023cd5f798f4977aee67110d111a81d80b423b49da1d8159cdd19eca4c0ee31d0950d9d4fe848541cc08b63a3"
    "381b8aab0f712f13272d71971aaee8c3b91e8ee77000758efe39539cabf2dc8784935eb84f0857a570263247df1c80cdf134e75670450fee"
    "e2e0a40dee55e5ea53ce96726c940360391291f34fae6c728f929302b993802b3870060347287000001c816a86d70a5c3b5b9342ed41b4f2"
    "69be69a4d20048636b66cfac2eb3574cf7a4bdf71af1ea219e5df658b107407ba487e737bc32d57bb89e14ea9da757507a06028f60f00000"
    "3cc22b6668c50a8862a72926058a3d3eb17227e6d363243f06c0c7d891981d12ab97632f714c5ac72e14b12247cc65c4f8690cc08dd1d098"
    "e98c5583b14f414c7a887d0ab16a556792eae8560750d4f1429d5bea8a68ba8b4c27ed742f7a57977776dfb1251dc0a523553abfdc95efee"
    "11eea4e0ee9ce80a1c9d810134a36966a6ceac3a9f7df899f432fb80ccaae299a962463b6600d5191f9db9c4595139bb0ccca485d9ebf5d5"
    "599f7dfa58d207f0f948309f2fffcaf0ef21f24941be53fc15803f83c44780f800a41f01fa19845f01f03b053e29c0f7909295a164be908c"
    "042403f8c8588eccfe65755ef6bac8a415d9652c2baa652e858c8f90015465b42b33156555a1ec0394490fb20f41569df24c2d8f26f2004c"
    "1e5fe3b9325e118c77790082c89109")


def record_context(algorithm: int = 1, **changes: Any) -> dict[str, Any]:
    return {"volume_size": 1 << 30, "previous_end": 0, "full": False, "tag_key": KEY, "tag_algorithm": algorithm} | changes


def valid_records() -> None:
    def raw(name: str, note: str, offset: int, content: bytes, algorithm: int = 1, **context: Any) -> None:
        put(f"record-{name}", "record", note, e.data_record(offset, content, KEY, algorithm),
            context=record_context(algorithm, **context),
            fields=record_fields(1, 0, offset, content, content, KEY, algorithm))

    def packed(name: str, note: str, offset: int, content: bytes, stored: bytes, algorithm: int = 1, **context: Any) -> None:
        put(f"record-{name}", "record", note, e.data_record(offset, content, KEY, algorithm, stored=stored),
            context=record_context(algorithm, **context),
            fields=record_fields(1, 1, offset, content, stored, KEY, algorithm))

    small, block = noise(20, 512), noise(21, BLOCK)
    raw("raw-512", "The smallest data that is no end of a volume.", 4096, small)
    raw("raw-512-sha256", "The same content under sha256.", 4096, small, 2)
    raw("raw-block", "One whole block: its tag is the block's own.", 3 * BLOCK, block)
    raw("raw-block-sha256", "One whole block under sha256.", 3 * BLOCK, block, 2)
    raw("raw-two-tags", "1,024 bytes across the border of two blocks.", BLOCK - 512, noise(22, 1024))
    raw("raw-two-tags-sha256", "The same under sha256.", BLOCK - 512, noise(22, 1024), 2)
    raw("raw-last-sectors", "Ends exactly at the end of a block: one tag.", BLOCK - 1024, noise(22, 1024))
    raw("raw-mib-aligned", "1 MiB from the beginning of a block: 16 tags.", 16 * BLOCK, noise(23, MIB))
    raw("raw-mib-unaligned", "1 MiB from inside a block: 17 tags.", 512, noise(23, MIB))
    raw("raw-mib-unaligned-sha256", "17 tags under sha256.", BLOCK - 512, noise(23, MIB), 2)
    raw("raw-zeros", "Zeros as data are valid.", 0, bytes(4096))
    raw("raw-repeat", "A block of one byte.", 0, b"\xaa" * BLOCK)
    raw("raw-odd-end", "Ends the volume at an odd length.", 4096, noise(24, 777), volume_size=4096 + 777)
    raw("raw-odd-end-two-tags", "Ends the volume, one byte into the second block.", BLOCK - 512, noise(25, 513),
        volume_size=BLOCK + 1)
    raw("raw-one-byte", "A volume of one byte.", 0, b"\x5a", volume_size=1, full=True)
    raw("raw-full-next", "In a full generation, exactly behind the record before.", 8192, small, previous_end=8192,
        full=True)
    raw("raw-delta-gap", "In a delta a gap is allowed.", 8192, small, previous_end=512)
    raw("raw-high", "The last sector below 2^62.", TOP - 512, small, volume_size=TOP, previous_end=TOP - 512)
    packed("zstd-phrase", "zstd with matches and a content checksum.", 4096, PHRASE, PHRASE_ZSTD)
    packed("zstd-squares", "zstd with compressed literals and sequences.", 0, SQUARES, SQUARES_ZSTD, 2)
    packed("zstd-two-tags", "zstd across the border of two blocks: tags are over the plain content.", BLOCK - 1024,
           PHRASE, PHRASE_ZSTD)
    packed("zstd-mib", "1 MiB of one byte in 8 blocks, 17 tags; the window is the whole 1 MiB.", 512, b"\xc3" * MIB,
           e.zstd_frame([(1, 131_072, b"\xc3")] * 8, MIB))
    packed("zstd-window-mib", "A window descriptor of exactly 1 MiB.", 0, b"\x11" * 4096,
           e.zstd_frame([(1, 4096, b"\x11")], 4096, window=10 << 3))
    packed("zstd-one-below", "Stored length one below length: the longest that zstd may have.", 0,
           noise(26, 512)[:500] + b"\x77" * 524,
           e.zstd_frame([(0, 999, (noise(26, 512)[:500] + b"\x77" * 499)), (1, 25, b"\x77")], 1024))
    packed("zstd-odd-end", "Ends the volume at an odd length.", 0, b"\x11" * 999,
           e.zstd_frame([(1, 999, b"\x11")], 999), volume_size=999, full=True)
    for kind, what, make in ((2, "zero", e.zero_record), (3, "unmap", e.unmap_record)):
        for suffix, note, offset, length, context in (
                ("512", "One sector.", 512, 512, {}),
                ("above-data-limit", "Longer than data may be.", 4096, MIB + 512, {}),
                ("whole", "The whole of the greatest volume.", 0, TOP, {"volume_size": TOP, "full": True}),
                ("high", "The last sector below 2^62.", TOP - 512, 512, {"volume_size": TOP, "previous_end": 512}),
                ("odd-end", "Ends the volume at an odd length.", 1 << 40, 12_345,
                 {"volume_size": (1 << 40) + 12_345})):
            put(f"record-{what}-{suffix}", "record", note, make(offset, length),
                context=record_context(**context), fields=record_fields(kind, 0, offset, length))
    content = noise(20, 512)
    put("record-message", "message", "The payload of RECORD is a record.", e.data_record(0, content, KEY, 2),
        type="RECORD", context=record_context(2), fields=record_fields(1, 0, 0, content, content, KEY, 2))


def invalid_records() -> None:
    content = noise(30, 1000) + b"\x01" * 24
    tags = e.tags_of(4096, content, KEY, 1)
    base: dict[str, Any] = {"kind": 1, "encoding": 0, "offset": 4096, "length": 1024, "tags": tags, "stored": content}
    zero: dict[str, Any] = {"kind": 2, "encoding": 0, "offset": 4096, "length": 1024, "tags": [], "stored": b""}

    def wrong(name: str, reason: str, note: str, data: bytes, **context: Any) -> None:
        put(f"record-{name}", "record", note, data, context=record_context(**context), reason=reason)

    def change(name: str, reason: str, note: str, fields: dict[str, Any], start: dict[str, Any] = base,
               **context: Any) -> None:
        wrong(name, reason, note, e.raw_record(**(start | fields)), **context)

    whole = e.raw_record(**base)
    wrong("empty", "truncated", "No bytes at all.", b"")
    wrong("header-short", "truncated", "31 bytes.", whole[:31])
    wrong("order-short-kind", "truncated", "31 bytes with an unknown kind.", b"\xff" * 31)
    for kind in (0, 4, 255):
        change(f"kind-{kind}", "bad-kind", f"There is no kind {kind}.", {"kind": kind})
    change("encoding", "bad-encoding", "Encodings of data end at 1.", {"encoding": 2})
    change("zero-encoding", "bad-encoding", "A zero record has no encoding.", {"encoding": 1}, zero)
    change("unmap-encoding", "bad-encoding", "An unmap record has no encoding.", {"kind": 3, "encoding": 1}, zero)
    change("reserved", "reserved-bits", "The reserved word is not zero.", {"reserved": 1})
    change("length-zero", "zero-length", "A zero record of length 0.", {"length": 0}, zero)
    change("data-length-zero", "zero-length", "A data record of length 0.", {"length": 0, "tags": [], "stored": b""})
    change("extent-past-top", "extent-overflow", "Ends one sector past 2^62.", {"offset": TOP, "length": 512}, zero)
    change("extent-wraps", "extent-overflow", "Offset plus length passes 2^64 and wraps to 512.",
           {"offset": U64 - 511, "length": 1024}, zero)
    change("extent-length-greatest", "extent-overflow", "The greatest length.", {"offset": 0, "length": U64}, zero)
    change("offset-odd", "offset-alignment", "The offset is no multiple of 512.", {"offset": 4097})
    change("offset-256", "offset-alignment", "The offset is a multiple of 256 only.", {"offset": 4096 + 256}, zero)
    change("data-too-long", "data-too-long", "1 MiB and one sector of data.", {"length": MIB + 512})
    change("data-too-long-odd", "data-too-long", "1 MiB and one byte of data.", {"length": MIB + 1})
    change("tags-too-few", "tag-count", "Two blocks are touched, one tag is there.", {"offset": BLOCK - 512})
    change("tags-too-many", "tag-count", "One block is touched, two tags are there.", {"tags": tags * 2})
    change("tags-none", "tag-count", "Data without a tag.", {"tags": []})
    change("zero-tags", "tag-count", "A zero record with a tag.", {"tags": tags}, zero)
    change("unmap-tags", "tag-count", "An unmap record with a tag.", {"kind": 3, "tags": tags}, zero)
    change("raw-stored-short", "stored-length", "Raw, but fewer bytes stored than the length.",
           {"stored": content[:512]})
    change("raw-stored-long", "stored-length", "Raw, but more bytes stored than the length.",
           {"stored": content + bytes(512)})
    change("zero-stored", "stored-length", "A zero record with content.", {"stored": bytes(1024)}, zero)
    change("unmap-stored", "stored-length", "An unmap record with content.", {"kind": 3, "stored": b"\0"}, zero)
    change("zstd-stored-none", "stored-length", "zstd with nothing stored.", {"encoding": 1, "stored": b""})
    change("zstd-stored-equal", "stored-length", "zstd that saves nothing.", {"encoding": 1})
    wrong("cut", "truncated", "The last byte is missing.", whole[:-1])
    wrong("cut-tags", "truncated", "The end lies inside the tag.", whole[:40])
    wrong("trailing", "trailing-bytes", "One byte too many.", whole + b"\0")
    wrong("zero-trailing", "trailing-bytes", "One byte behind a zero record.", e.zero_record(0, 512) + b"\0")
    change("checksum", "header-checksum", "The checksum is wrong.", {"header_checksum": 0})
    flipped = bytearray(whole)
    flipped[33] ^= 1
    wrong("checksum-tag", "header-checksum", "A flipped bit in a tag is an error of the header.", bytes(flipped))
    header_only = whole[:28] + crc32c(whole[:28]).to_bytes(4, "little") + whole[32:]
    wrong("checksum-without-tags", "header-checksum", "A checksum that leaves the tags out.", header_only)

    wrong("past-end", "past-volume-end", "Ends past the volume.", whole, volume_size=5119)
    wrong("length-odd", "length-alignment", "An odd length that does not end the volume.",
          e.data_record(4096, content[:1000], KEY, 1))
    wrong("zero-length-odd", "length-alignment", "An odd length of zeros that does not end the volume.",
          e.zero_record(4096, 1000), volume_size=5097)
    wrong("order-backwards", "order", "Begins before the end of the record before.", whole, previous_end=4608)
    wrong("order-same", "order", "The same extent again.", whole, previous_end=5120)
    wrong("full-gap", "order", "A gap in a full generation.", whole, previous_end=3584, full=True)
    wrong("full-first", "order", "The first record of a full generation does not begin at 0.", whole, full=True)
    wrong("full-backwards", "order", "An overlap in a full generation.", whole, previous_end=4608, full=True)

    def packed(name: str, reason: str, note: str, stored: bytes, plain_content: bytes = b"\x11" * 4096) -> None:
        wrong(f"zstd-{name}", reason, note, e.data_record(0, plain_content, KEY, 1, stored=stored))

    run = [(1, 4096, b"\x11")]
    packed("magic", "zstd-frame", "No zstd frame.", b"\x00" * 32)
    packed("skippable", "zstd-frame", "A skippable frame first.",
           b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + e.zstd_frame(run, 4096))
    packed("magic-only", "zstd-frame", "Nothing behind the magic.", b"\x28\xb5\x2f\xfd")
    packed("header-cut", "zstd-frame", "The frame's header ends inside the content size.", e.zstd_frame(run, 4096)[:8])
    packed("no-size", "zstd-frame", "No content size in the header.", e.zstd_frame(run, None, window=2 << 3))
    packed("dictionary", "zstd-frame", "A dictionary id in the header.", e.zstd_frame(run, 4096, dictionary=True))
    packed("reserved", "zstd-frame", "The reserved bit of the descriptor.", e.zstd_frame(run, 4096, reserved_bit=True))
    packed("window", "zstd-frame", "A window of 1 MiB and an eighth.", e.zstd_frame(run, 4096, window=10 << 3 | 1))
    packed("window-huge", "zstd-frame", "The greatest window.", e.zstd_frame(run, 4096, window=0xFF))
    packed("size-above", "zstd-length", "The content size is above length: a bomb by announcement.",
           e.zstd_frame([(1, 4608, b"\x11")], 4608))
    packed("size-below", "zstd-length", "The content size is below length.", e.zstd_frame([(1, 3584, b"\x11")], 3584))
    packed("bomb", "zstd-content", "The size says 4,096, the blocks make 1 MiB.",
           e.zstd_frame([(1, 131_072, b"\x11")] * 8, 4096, window=10 << 3))
    packed("less", "zstd-content", "The size says 4,096, the blocks make 4,095.", e.zstd_frame([(1, 4095, b"\x11")], 4096))
    packed("block-type", "zstd-content", "The reserved block type.", e.zstd_frame([(3, 1, b"\x11")], 4096))
    packed("cut", "zstd-content", "The last block is missing.", e.zstd_frame(run, 4096)[:-4])
    packed("garbage", "zstd-content", "A compressed block of noise.", e.zstd_frame([(2, 64, noise(31, 64))], 4096))
    packed("second-frame", "zstd-content", "A second, empty frame behind the first.",
           e.zstd_frame(run, 4096) + e.zstd_frame([(0, 0, b"")], 0))
    packed("trailing", "zstd-content", "A byte behind the frame.", e.zstd_frame(run, 4096) + b"\0")
    packed("checksum", "zstd-content", "The frame's own content checksum is wrong.",
           PHRASE_ZSTD[:-1] + bytes([PHRASE_ZSTD[-1] ^ 1]), PHRASE)
    packed("order-frame-length", "zstd-frame", "Too great a window, and a wrong content size.",
           e.zstd_frame(run, 5120, window=0xFF))
    packed("order-length-content", "zstd-length", "A wrong content size, and a byte behind the frame.",
           e.zstd_frame([(1, 4608, b"\x11")], 4608) + b"\0")

    flipped = bytearray(whole)
    flipped[-1] ^= 1
    wrong("tag", "tag-mismatch", "A flipped bit in raw content.", bytes(flipped))
    wrong("tag-key", "tag-mismatch", "Tags under another key.", e.data_record(4096, content, noise(32, 32), 1))
    wrong("tag-algorithm", "tag-mismatch", "Tags of the other algorithm.", e.data_record(4096, content, KEY, 2))
    wrong("tag-second", "tag-mismatch", "Two tags, the second is wrong.",
          e.raw_record(1, 0, BLOCK - 512, 1024, e.tags_of(BLOCK - 512, content[:512] + bytes(512), KEY, 1), content))
    wrong("tag-swapped", "tag-mismatch", "Two right tags in the wrong order.",
          e.raw_record(1, 0, BLOCK - 512, 1024, e.tags_of(BLOCK - 512, content, KEY, 1)[::-1], content))
    wrong("tag-across", "tag-mismatch", "One tag over both blocks, given twice.",
          e.raw_record(1, 0, BLOCK - 512, 1024, e.tags_of(0, content, KEY, 1) * 2, content))
    wrong("zstd-tag", "tag-mismatch", "Tags over the stored bytes in place of the content.",
          e.raw_record(1, 1, 0, 2048, e.tags_of(0, PHRASE_ZSTD, KEY, 1), PHRASE_ZSTD))

    change("order-kind-encoding", "bad-kind", "Unknown kind and encoding.", {"kind": 9, "encoding": 9})
    change("order-encoding-reserved", "bad-encoding", "Unknown encoding and a reserved bit.",
           {"encoding": 9, "reserved": 1})
    change("order-reserved-length", "reserved-bits", "A reserved bit and length 0.", {"reserved": 1, "length": 0})
    change("order-length-extent", "zero-length", "Length 0 at an offset past 2^62.", {"length": 0, "offset": TOP + 512})
    change("order-extent-offset", "extent-overflow", "Past 2^62 and odd.", {"offset": TOP + 1})
    change("order-offset-limit", "offset-alignment", "An odd offset, and data too long.",
           {"offset": 4097, "length": MIB + 512})
    change("order-limit-tags", "data-too-long", "Data too long, with no tags.", {"length": MIB + 512, "tags": []})
    change("order-tags-stored", "tag-count", "No tags, and too little stored.", {"tags": [], "stored": b"\0"})
    wrong("order-stored-bytes", "stored-length", "A wrong stored length, and the end is missing.",
          e.raw_record(**(base | {"stored_length": 1023}))[:-100])
    wrong("order-bytes-checksum", "truncated", "The end is missing, and the checksum is wrong.",
          e.raw_record(**(base | {"header_checksum": 0}))[:-1])
    wrong("order-trailing-checksum", "trailing-bytes", "A byte too many, and the checksum is wrong.",
          e.raw_record(**(base | {"header_checksum": 0})) + b"\0")
    change("order-checksum-end", "header-checksum", "A wrong checksum, past the volume.", {"header_checksum": 0},
           volume_size=512)
    wrong("order-end-length", "past-volume-end", "Past the volume, with an odd length.", e.zero_record(4096, 1000),
          volume_size=4097)
    wrong("order-length-order", "length-alignment", "An odd length, and backwards.", e.zero_record(4096, 1000),
          previous_end=8192)
    wrong("order-order-content", "order", "Backwards, with wrong tags.", bytes(flipped), previous_end=8192)
    wrong("order-zstd-tag", "zstd-length", "Wrong content size, and tags of other content.",
          e.raw_record(1, 1, 0, 2048, tags, e.zstd_frame([(1, 4096, b"\x11")], 4096)))


GROUPS = (valid_records, invalid_records)
