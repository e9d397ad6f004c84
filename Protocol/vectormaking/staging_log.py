# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The staging log."""

from __future__ import annotations

from typing import Any

import encode as e
from vectormaking.common import BLOCK, DELTA, FULL, GROUPED, KEY, LOG_ID, RESYNC, RESYNC_FIRST, U64, noise, put
from vectormaking.records import PHRASE, PHRASE_ZSTD

LOG_SIZE = 3 * BLOCK + 777
LOG_BEGIN = FULL | {"volume_size": LOG_SIZE, "planned_content": 10_000, "planned_segments": 2}
FIRST = [e.data_record(0, noise(70, 1536), KEY, 1), e.zero_record(1536, BLOCK - 1536)]
SECOND = [e.data_record(BLOCK, PHRASE, KEY, 1, stored=PHRASE_ZSTD), e.unmap_record(BLOCK + 2048, 2 * BLOCK - 2048),
          e.data_record(3 * BLOCK, noise(71, 777), KEY, 1)]


def log_headers() -> None:
    payload = e.begin(**LOG_BEGIN)

    def fields(mode: int, begun: dict[str, Any]) -> dict[str, Any]:
        return {"format": 1, "mode": mode, "log_id": LOG_ID, "begin_length": len(e.begin(**begun)), "begin": begun}

    delta = DELTA | {"held_segments": 0}
    longest = LOG_BEGIN | {"source_identity": "s" * 512}
    for name, note, mode, begun in (
            ("staged", "Mode staged, a full generation.", 1, LOG_BEGIN),
            ("in-place", "Mode in place, a full generation.", 2, LOG_BEGIN),
            ("delta", "Mode staged, a delta.", 1, delta),
            ("group", "Mode staged, a member of a group.", 1, GROUPED | {"held_segments": 0}),
            ("resync", "Mode staged, a resync with a parent.", 1, RESYNC | {"held_segments": 0}),
            ("resync-in-place", "Mode in place, a resync that begins a lineage.", 2, RESYNC_FIRST | {"flags": 2}),
            ("longest", "The longest BEGIN there is.", 1, longest),
            ("shortest", "The shortest BEGIN there is: 202 bytes.", 1, LOG_BEGIN | {"source_identity": ""})):
        put(f"log-header-{name}", "staging-log-header", note, e.log_header(e.begin(**begun), LOG_ID, mode),
            fields=fields(mode, begun))

    def wrong(name: str, reason: str, note: str, data: bytes) -> None:
        put(f"log-header-{name}", "staging-log-header", note, data, reason=reason)

    header = e.log_header(payload, LOG_ID)
    wrong("empty", "truncated", "An empty file.", b"")
    wrong("short", "truncated", "4,095 bytes.", header[:-1])
    wrong("checksum", "header-checksum", "The checksum is wrong.", e.log_header(payload, LOG_ID, checksum=0))
    wrong("zeros", "header-checksum", "A page of zeros: its checksum is not zero.", bytes(4096))
    wrong("magic", "bad-magic", "Another magic.", e.log_header(payload, LOG_ID, magic=b"BFSTAGE2"))
    wrong("format", "bad-format", "Format 2.", e.log_header(payload, LOG_ID, format=2))
    wrong("mode-zero", "bad-mode", "Mode 0.", e.log_header(payload, LOG_ID, 0))
    wrong("mode-three", "bad-mode", "Mode 3.", e.log_header(payload, LOG_ID, 3))
    wrong("log-id", "zero-log-id", "A log id of zeros.", e.log_header(payload, bytes(16)))
    wrong("begin-short", "begin-length", "A BEGIN of 201 bytes.", e.log_header(payload[:201], LOG_ID))
    wrong("begin-long", "begin-length", "A BEGIN of 1,025 bytes.", e.log_header(payload, LOG_ID, begin_length=1025))
    wrong("begin-huge", "begin-length", "A BEGIN longer than the page.",
          e.log_header(payload, LOG_ID, begin_length=0xFFFFFFFF))
    wrong("reserved", "reserved-bits", "The word at 36.", e.log_header(payload, LOG_ID, reserved=1))
    wrong("rest", "reserved-bits", "The last byte before the checksum.", e.log_header(payload, LOG_ID, rest=b"\1"))
    wrong("begin-cut", "truncated", "BEGIN ends inside the source identity; the cut bytes are zeros.",
          e.log_header(payload[:212], LOG_ID))
    wrong("begin-trailing", "trailing-bytes", "BEGIN length counts one byte too many.",
          e.log_header(payload, LOG_ID, begin_length=len(payload) + 1))
    wrong("begin-wrong", "zero-lineage", "BEGIN breaks its own rules.",
          e.log_header(e.begin(**(LOG_BEGIN | {"lineage": bytes(16)})), LOG_ID))
    wrong("held", "held-segments", "BEGIN with held segments.",
          e.log_header(e.begin(**(LOG_BEGIN | {"held_segments": 1})), LOG_ID))
    wrong("order-checksum-magic", "header-checksum", "Wrong checksum and magic.",
          e.log_header(payload, LOG_ID, magic=b"XXXXXXXX", checksum=0))
    wrong("order-magic-format", "bad-magic", "Wrong magic and format.",
          e.log_header(payload, LOG_ID, magic=b"XXXXXXXX", format=9))
    wrong("order-format-mode", "bad-format", "Wrong format and mode.", e.log_header(payload, LOG_ID, 9, format=9))
    wrong("order-mode-id", "bad-mode", "Wrong mode and log id.", e.log_header(payload, bytes(16), 9))
    wrong("order-id-length", "zero-log-id", "Wrong log id and BEGIN length.",
          e.log_header(payload, bytes(16), begin_length=9))
    wrong("order-length-reserved", "begin-length", "Wrong BEGIN length, and a reserved bit.",
          e.log_header(payload, LOG_ID, begin_length=9, reserved=1))
    wrong("order-rest-begin", "reserved-bits", "A reserved bit, and a wrong BEGIN.",
          e.log_header(e.begin(**(LOG_BEGIN | {"lineage": bytes(16)})), LOG_ID, rest=b"\1"))


def log_segments() -> None:
    context = {"mode": 1, "log_id": LOG_ID, "segment_index": 0, "volume_size": LOG_SIZE, "previous_end": 0, "full": True,
               "tag_key": KEY, "tag_algorithm": 1}
    second = context | {"segment_index": 1, "previous_end": BLOCK}

    def right(name: str, note: str, data: bytes, records: list[bytes], content: int, end: int, where: dict[str, Any],
              size: int, record_bytes: int | None = None, record_count: int | None = None) -> None:
        put(f"segment-{name}", "staging-log-segment", note, data, context=where, fields={
            "segment_index": where["segment_index"],
            "record_bytes": len(b"".join(records)) if record_bytes is None else record_bytes,
            "record_count": record_count or len(records), "content": content, "end_offset": end,
            "segment_digest": e.segment_digest(where["segment_index"], records), "size": size})

    right("first", "Data and zeros.", e.log_segment(LOG_ID, 0, FIRST), FIRST, 1536, BLOCK, context, 8192)
    right("second", "zstd, unmap, and the odd end of the volume.", e.log_segment(LOG_ID, 1, SECOND), SECOND, 2048 + 777,
          LOG_SIZE, second, 8192)
    right("followed", "What lies behind a segment is not part of it.",
          e.log_segment(LOG_ID, 0, FIRST) + b"\xee" * 100, FIRST, 1536, BLOCK, context, 8192)
    exact = [e.data_record(0, noise(73, 3584), KEY, 1), *[e.zero_record(3584 + 512 * i, 512) for i in range(14)]]
    assert len(b"".join(exact)) == 4080
    right("padded-16", "Sixteen bytes of padding.", e.log_segment(LOG_ID, 0, exact), exact, 3584, 3584 + 14 * 512, context,
          8192)
    many = [e.zero_record(512 * i, 512) for i in range(128)]
    right("no-padding", "128 records of 32 bytes: nothing to pad.", e.log_segment(LOG_ID, 0, many), many, 0, BLOCK,
          context, 8192)
    grown = context | {"segment_growth": 1}
    place = context | {"mode": 2}
    right("in-place-grown", "In place: the most records and content of growth 1.",
          e.log_segment(LOG_ID, 0, FIRST, in_place=True, record_count=131_072, content=67_108_864), FIRST, 67_108_864, BLOCK,
          place | {"segment_growth": 1}, 4096, 0, 131_072)
    right("in-place", "In place no records follow.", e.log_segment(LOG_ID, 0, FIRST, in_place=True), FIRST, 1536, BLOCK,
          place, 4096, 0)

    def wrong(name: str, reason: str, note: str, data: bytes, where: dict[str, Any] = context) -> None:
        put(f"segment-{name}", "staging-log-segment", note, data, context=where, reason=reason)

    def change(name: str, reason: str, note: str, where: dict[str, Any] = context, records: list[bytes] = FIRST,
               **changes: Any) -> None:
        wrong(name, reason, note, e.log_segment(changes.pop("log_id", LOG_ID), changes.pop("index", 0), records,
                                                **changes), where)

    whole = e.log_segment(LOG_ID, 0, FIRST)
    wrong("empty", "truncated", "No bytes at all.", b"")
    wrong("header-short", "truncated", "4,095 bytes.", whole[:4095])
    change("checksum", "header-checksum", "The checksum is wrong.", checksum=1)
    wrong("header-torn", "header-checksum", "The second half of the header was not written.",
          whole[:2048] + bytes(2048) + whole[4096:])
    change("magic", "bad-magic", "Another magic.", magic=b"BFSEGMT2")
    change("log-id", "log-id", "A segment of another log.", log_id=noise(74, 16))
    change("index", "segment-index", "Segment 1 where 0 is expected.", index=1)
    change("count-zero", "bad-record-count", "No records.", record_count=0)
    change("count-too-many", "bad-record-count", "65,537 records.", record_count=65_537)
    change("count-grown", "bad-record-count", "131,073 records of growth 1.", grown, record_count=131_073)
    change("content-grown", "content-limit", "One byte above 64 MiB of growth 1.", grown, content=67_108_865)
    change("bytes-grown", "record-bytes", "More than any segment of growth 1 has.", grown,
           record_bytes=2 * (65_536 * 304 + 33_554_432) + 1)
    change("reserved", "reserved-bits", "The word at 44.", reserved=1)
    change("rest", "reserved-bits", "The last byte before the checksum.", rest=b"\1")
    change("content-limit", "content-limit", "One byte above 32 MiB.", content=33_554_433)
    change("bytes-in-place", "record-bytes", "In place, but records are announced.", place, record_bytes=1664)
    change("bytes-below", "record-bytes", "Fewer than 32 bytes for each record.", record_bytes=63)
    change("bytes-above", "record-bytes", "More than any segment has.", record_bytes=65_536 * 304 + 33_554_432 + 1)
    change("bytes-greatest", "record-bytes", "A number that wraps when it is added.", record_bytes=U64)
    change("bytes-outside", "record-bytes", "More than the file has.", record_bytes=8192)
    wrong("records-torn", "record-bytes", "The file ends inside the records.", whole[:5000])
    wrong("padding-torn", "record-bytes", "The file ends inside the padding.", whole[:8191])
    change("padding", "padding", "A byte in the padding is not zero.", padding=b"\1")
    change("record", "tag-mismatch", "A record's content is not what its tag says.",
           records=[FIRST[0][:-1] + bytes([FIRST[0][-1] ^ 1]), FIRST[1]])
    change("record-zeros", "bad-kind", "The last 32 of the record bytes are zeros.",
           record_bytes=len(b"".join(FIRST)) + 32)
    cut = [e.zero_record(0, 512), e.data_record(512, noise(75, 512), KEY, 1)]
    bytes_left = len(b"".join(cut)) - 512
    wrong("record-cut", "truncated", "The last record ends outside the record bytes.",
          e.log_segment(LOG_ID, 0, cut, record_bytes=bytes_left)[:4096 + bytes_left] + bytes(4096 - bytes_left))
    change("record-order", "order", "The second record does not follow the first.",
           records=[FIRST[0], e.zero_record(2048, 512)])
    change("record-first", "order", "The first record does not follow the segment before.", second, FIRST, index=1)
    change("count", "record-count", "One record more than the header says.", record_count=1)
    change("content", "content-mismatch", "The content is not the sum of the data.", content=1535)
    change("end", "end-offset", "The end is not that of the last record.", end_offset=BLOCK + 512)
    change("digest", "segment-digest", "Another digest.", digest=noise(76, 32))
    change("order-checksum-magic", "header-checksum", "Wrong checksum and magic.", magic=b"XXXXXXXX", checksum=0)
    change("order-magic-id", "bad-magic", "Wrong magic and log id.", magic=b"XXXXXXXX", log_id=noise(74, 16))
    change("order-id-index", "log-id", "Wrong log id and index.", log_id=noise(74, 16), index=7)
    change("order-index-count", "segment-index", "Wrong index and record count.", index=7, record_count=0)
    change("order-count-reserved", "bad-record-count", "Wrong record count, and a reserved bit.", record_count=0,
           reserved=1)
    change("order-reserved-content", "reserved-bits", "A reserved bit, and too much content.", rest=b"\1",
           content=33_554_433)
    change("order-content-bytes", "content-limit", "Too much content, and wrong record bytes.", content=33_554_433,
           record_bytes=0)
    change("order-count-content", "record-count", "Wrong count and content.", record_count=1, content=0)
    change("order-content-end", "content-mismatch", "Wrong content and end.", content=0, end_offset=0)
    change("order-end-digest", "end-offset", "Wrong end and digest.", end_offset=0, digest=bytes(32))
    change("order-record-count", "tag-mismatch", "A wrong record, and a wrong count.", record_count=1,
           records=[FIRST[0][:-1] + bytes([FIRST[0][-1] ^ 1]), FIRST[1]])


def logs() -> None:
    header, first, second = e.log_header(e.begin(**LOG_BEGIN), LOG_ID), e.log_segment(LOG_ID, 0, FIRST), \
        e.log_segment(LOG_ID, 1, SECOND)
    digests = [e.segment_digest(0, FIRST), e.segment_digest(1, SECOND)]

    def log(name: str, note: str, data: bytes, segments: int, end: int, ends: str, mode: int = 1,
            context: dict[str, Any] | None = None, chain: list[bytes] | None = None) -> None:
        put(f"log-{name}", "staging-log", note, data, context=context, fields={
            "mode": mode, "log_id": LOG_ID, "segments": segments, "end_position": end, "ends": ends,
            "delta_digest": e.delta_digest((chain or digests)[:segments])})

    log("empty", "A header only.", header, 0, 4096, "end-of-file")
    log("one", "One segment.", header + first, 1, 12_288, "end-of-file")
    log("two", "Two segments: the whole generation.", header + first + second, 2, 20_480, "end-of-file")
    log("torn-header", "The second segment's header was not written: its records stand behind zeros.",
        header + first + bytes(4096) + second[4096:], 1, 12_288, "header-checksum")
    log("torn-header-half", "The file ends inside the second segment's header.", header + first + second[:2048], 1, 12_288,
        "truncated")
    log("torn-records", "The second segment's records were not written: zeros in their place.",
        header + first + second[:4096] + bytes(4096), 1, 12_288, "bad-kind")
    log("torn-short", "The file ends inside the second segment's records.", header + first + second[:4500], 1, 12_288,
        "record-bytes")
    log("torn-content", "One bit of the second segment's content is wrong.",
        header + first + second[:-4096 + 100] + bytes([second[-4096 + 100] ^ 4]) + second[-4096 + 101:], 1, 12_288,
        "zstd-content")
    log("older-segment", "A segment of an older log behind the first.",
        header + first + e.log_segment(noise(77, 16), 1, SECOND), 1, 12_288, "log-id")
    log("segment-again", "The first segment again.", header + first + first, 1, 12_288, "segment-index")
    log("garbage", "Noise behind the first segment.", header + first + noise(78, 4096), 1, 12_288, "header-checksum")
    log("behind-the-end", "A valid segment behind one that is not valid is not read.",
        header + e.log_segment(LOG_ID, 0, FIRST, digest=bytes(32)) + second, 0, 4096, "segment-digest")
    log("gap-between", "The second segment does not begin where the first ends.",
        header + first + e.log_segment(LOG_ID, 1, SECOND[1:]), 1, 12_288, "order")
    place = e.log_header(e.begin(**LOG_BEGIN), LOG_ID, 2)
    first_page, second_page = (e.log_segment(LOG_ID, i, r, in_place=True) for i, r in enumerate((FIRST, SECOND)))
    log("in-place", "In place: two segments without records.", place + first_page + second_page, 2, 12_288, "end-of-file",
        2)
    grown = e.log_header(e.begin(**(LOG_BEGIN | {"segment_growth": 1})), LOG_ID, 2)
    log("in-place-grown", "In place: the second segment has more content than growth 1 allows.",
        grown + e.log_segment(LOG_ID, 0, FIRST, in_place=True, content=67_108_864)
        + e.log_segment(LOG_ID, 1, SECOND, in_place=True, content=67_108_865), 1, 8192, "content-limit", 2)
    log("in-place-torn", "In place: the second segment was not written.", place + first_page + bytes(4096), 1, 8192,
        "header-checksum", 2)
    log("in-place-records", "In place: a segment with records is not valid.", place + first + second, 0, 4096,
        "record-bytes", 2)
    delta = DELTA | {"held_segments": 0, "volume_size": LOG_SIZE, "tag_algorithm": 2}
    changes = [e.data_record(BLOCK - 512, noise(22, 1024), KEY, 2), e.unmap_record(2 * BLOCK, 512)]
    log("delta", "A delta with a gap; the key is the lineage's, not in BEGIN.",
        e.log_header(e.begin(**delta), LOG_ID) + e.log_segment(LOG_ID, 0, changes), 1, 12_288, "end-of-file",
        context={"tag_key": KEY}, chain=[e.segment_digest(0, changes)])
    log("delta-other-key", "A delta under another key: no segment is valid.",
        e.log_header(e.begin(**delta), LOG_ID) + e.log_segment(LOG_ID, 0, changes), 0, 4096, "tag-mismatch",
        context={"tag_key": noise(79, 32)})
    resync = RESYNC_FIRST | {"volume_size": LOG_SIZE}
    blocks = [e.data_record(BLOCK, noise(90, BLOCK), KEY, 1), e.data_record(3 * BLOCK, noise(71, 777), KEY, 1)]
    log("resync", "A resync with a gap, which need not cover the volume; the key is in BEGIN.",
        e.log_header(e.begin(**resync), LOG_ID) + e.log_segment(LOG_ID, 0, blocks), 1, 77_824, "end-of-file",
        chain=[e.segment_digest(0, blocks)])
    log("resync-backwards", "A resync whose records do not ascend.",
        e.log_header(e.begin(**resync), LOG_ID) + e.log_segment(LOG_ID, 0, blocks[::-1]), 0, 4096, "order")
    put("log-header-wrong", "staging-log", "Without a valid header there is no log.",
        e.log_header(e.begin(**LOG_BEGIN), LOG_ID, format=2) + first, reason="bad-format")
    put("log-nothing", "staging-log", "An empty file is no log.", b"", reason="truncated")


GROUPS = (log_headers, log_segments, logs)
