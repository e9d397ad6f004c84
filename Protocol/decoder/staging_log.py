# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The staging log (StagingLog.md)."""

from __future__ import annotations

import mmap

from checksums import crc32c
from decoder.core import PAGE, SEGMENT_CONTENT, SEGMENT_RECORDS, Context, Fields, Reader, Refused, require
from decoder.messages import decode_message
from decoder.records import Segment, check_seal, decode_record, delta_digest, record_size

STAGED, IN_PLACE = 1, 2


def decode_log_header(data: bytes | memoryview) -> Fields:
    require(len(data) >= PAGE, "truncated", "staging log header")
    page = bytes(data[:PAGE])
    require(crc32c(page[:4092]) == int.from_bytes(page[4092:], "little"), "header-checksum")
    r = Reader(page)
    require(r.bytes(8) == b"BFSTAGE1", "bad-magic")
    format_, mode, log_id, length = r.integer(4), r.integer(4), r.bytes(16), r.integer(4)
    require(format_ == 1, "bad-format", str(format_))
    require(mode in (STAGED, IN_PLACE), "bad-mode", str(mode))
    require(any(log_id), "zero-log-id")
    require(202 <= length <= 1024, "begin-length", str(length))
    r.reserved(4)
    payload = r.bytes(length)
    r.reserved(4092 - r.at)
    begun = decode_message("BEGIN", payload, Context())
    require(begun["held_segments"] == 0, "held-segments", str(begun["held_segments"]))
    return {"format": format_, "mode": mode, "log_id": log_id, "begin_length": length, "begin": begun}


def decode_segment(data: bytes | memoryview, mode: int, log_id: bytes, index: int, ctx: Context,
                   start: int = 0) -> tuple[Fields, list[Fields], int]:
    """The segment at `start`, its records, and where the next begins. Moves `ctx.previous_end` on if it is valid."""
    page = bytes(data[start:start + PAGE])
    require(len(page) == PAGE, "truncated", "segment header")
    require(crc32c(page[:4092]) == int.from_bytes(page[4092:], "little"), "header-checksum")
    r = Reader(page)
    require(r.bytes(8) == b"BFSEGMT1", "bad-magic")
    require(r.bytes(16) == log_id, "log-id")
    f: Fields = {"segment_index": r.integer(8), "record_bytes": r.integer(8), "record_count": r.integer(4)}
    require(f["segment_index"] == index, "segment-index", f"{f['segment_index']}, expected {index}")
    records_limit, content_limit = SEGMENT_RECORDS << ctx.segment_growth, SEGMENT_CONTENT << ctx.segment_growth
    require(1 <= f["record_count"] <= records_limit, "bad-record-count", str(f["record_count"]))
    r.reserved(4)
    f["content"], f["end_offset"], f["segment_digest"] = r.integer(8), r.integer(8), r.bytes(32)
    r.reserved(4092 - r.at)
    require(f["content"] <= content_limit, "content-limit", str(f["content"]))

    if mode == IN_PLACE:
        require(f["record_bytes"] == 0, "record-bytes", str(f["record_bytes"]))
        ctx.previous_end = f["end_offset"]
        return f, [], start + PAGE

    first = start + PAGE
    end = first + f["record_bytes"]
    padded = end + -end % PAGE
    require(32 * f["record_count"] <= f["record_bytes"] <= records_limit * 304 + content_limit
            and padded <= len(data), "record-bytes", str(f["record_bytes"]))
    require(not any(data[end:padded]), "padding")

    # The records are checked against a copy: a segment that is not valid leaves the context as it was.
    trial = Context(ctx.volume_size, ctx.previous_end, ctx.full, ctx.tag_key, ctx.tag_algorithm, ctx.segment_growth)
    segment, records, at = Segment(index), [], first
    while at < end:
        record = decode_record(data[at:end], trial, exact=False)
        segment.add(record)
        records.append(record)
        at += record_size(record)
        trial.previous_end = segment.end
    check_seal(f, segment.sealed())
    ctx.previous_end = trial.previous_end
    ctx.unchecked.update(trial.unchecked)
    return f, records, padded


def decode_staging_log(data: bytes | mmap.mmap | memoryview, ctx: Context) -> Fields:
    """The header, the valid segments, and where and why the log ends. Only the header can be refused."""
    data = memoryview(data)
    header = decode_log_header(data)
    begun = header["begin"]
    ctx.volume_size, ctx.previous_end, ctx.full = begun["volume_size"], 0, begun["kind"] == 1
    ctx.tag_algorithm, ctx.segment_growth = begun["tag_algorithm"], begun["segment_growth"]
    if any(begun["tag_key"]):
        ctx.tag_key = begun["tag_key"]
    segments: list[Fields] = []
    details: list[list[Fields]] = []
    at, ends = PAGE, "end-of-file"
    while at < len(data):
        try:
            f, records, following = decode_segment(data, header["mode"], header["log_id"], len(segments), ctx, at)
        except Refused as refusal:
            ends = refusal.reason
            break
        segments.append({"position": at, **f})
        details.append(records)
        at = following
    return {"header": header, "segments": segments, "records": details, "end_position": at, "ends": ends,
            "delta_digest": delta_digest([s["segment_digest"] for s in segments])}
