# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Checksums, tags and digests."""

from __future__ import annotations

import hashlib
from typing import Any

import encode as e
from checksums import tag, xxh3
from vectormaking.common import BLOCK, GENERATION, KEY, TOP, U64, noise, put
from vectormaking.records import PHRASE, PHRASE_ZSTD


def digests() -> None:
    def value(name: str, kind: str, note: str, result: int | bytes, data: bytes | None = None,
              inputs: dict[str, Any] | None = None) -> None:
        put(f"digest-{name}", "digest", note, data, type=kind, inputs=inputs, fields={"value": result})

    value("crc32c-123456789", "crc32c", "The known value.", 0xE3069283, b"123456789")
    value("crc32c-none", "crc32c", "Of no bytes.", 0, b"")
    for count in (0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 96, 97, 128, 129, 130, 160, 192, 239, 240, 241, 256,
                  320, 512, 1023, 1024, 1025, 1087, 1088, 1089, 2048, 2049, 4096, 65_536, 100_001):
        data = noise(40 + count, count)
        value(f"xxh3-{count:06}", "xxh3", f"XXH3-64 of {count} bytes.", xxh3(data), data)
    rfc_key = bytes.fromhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
    value("tag-rfc8439", "tag", "RFC 8439, 2.5.2.", bytes.fromhex("a8061dc1305136c6c22b8baf0c0127a9"),
          b"Cryptographic Forum Research Group", {"tag_algorithm": 1, "tag_key": rfc_key})
    for algorithm, what in ((1, "poly1305"), (2, "sha256")):
        for count in (1, 15, 16, 17, 512, BLOCK - 1, BLOCK):
            data = noise(60_000 + count, count)
            value(f"tag-{what}-{count:05}", "tag", f"The {what} tag of {count} bytes.", tag(algorithm, KEY, data), data,
                  {"tag_algorithm": algorithm, "tag_key": KEY})
    value("tag-poly1305-carry", "tag", "All bits set: the most carries, and a reduction at the end.",
          tag(1, b"\xff" * 32, b"\xff" * BLOCK), b"\xff" * BLOCK, {"tag_algorithm": 1, "tag_key": b"\xff" * 32})
    # RFC 8439, A.3, 7 to 9: r = 1 or 2, s = 0, sums around 2^130 - 5.
    value("tag-poly1305-wrap", "tag", "RFC 8439 A.3, test 7: the sum passes 2^130 - 5.", b"\x05" + bytes(15),
          b"\xff" * 16 + b"\xf0" + b"\xff" * 15 + b"\x11" + bytes(15),
          {"tag_algorithm": 1, "tag_key": b"\x01" + bytes(31)})
    value("tag-poly1305-zero", "tag", "RFC 8439 A.3, test 8: the sum is exactly 2^130 - 5.", bytes(16),
          b"\xff" * 16 + b"\xfb" + b"\xfe" * 15 + b"\x01" * 16, {"tag_algorithm": 1, "tag_key": b"\x01" + bytes(31)})

    records: list[dict[str, Any]] = []
    built = [e.data_record(BLOCK - 512, noise(22, 1024), KEY, 1), e.zero_record(2 * BLOCK, 1 << 40),
             e.unmap_record(1 << 41, TOP - (1 << 41))]
    for record in built:
        count = int.from_bytes(record[2:4], "little")
        records.append({"kind": record[0], "offset": int.from_bytes(record[8:16], "little"),
                        "length": int.from_bytes(record[16:24], "little"),
                        "tags": [record[32 + 16 * i:48 + 16 * i] for i in range(count)]})
    value("segment-0", "segment", "Three records: data with two tags, zero, unmap.", e.segment_digest(0, built),
          inputs={"segment_index": 0, "records": records})
    value("segment-greatest-index", "segment", "The index is part of the digest.", e.segment_digest(U64, built[1:2]),
          inputs={"segment_index": U64, "records": records[1:2]})
    plain_record, packed = e.data_record(0, PHRASE, KEY, 1), e.data_record(0, PHRASE, KEY, 1, stored=PHRASE_ZSTD)
    assert e.segment_digest(5, [plain_record]) == e.segment_digest(5, [packed])
    value("segment-encoding", "segment", "Raw or zstd, the digest is the same.", e.segment_digest(5, [packed]),
          inputs={"segment_index": 5, "records": [{"kind": 1, "offset": 0, "length": 2048,
                                                   "tags": e.tags_of(0, PHRASE, KEY, 1)}]})
    for count in (0, 1, 3):
        items = [noise(50 + i, 32) for i in range(count)]
        value(f"delta-{count}", "delta", f"Of {count} segments.", e.delta_digest(items), inputs={"segment_digests": items})
    record = e.generation(**GENERATION)
    value("generation-id", "generation-id", "SHA-256 of the whole record.", hashlib.sha256(record).digest(), record)
