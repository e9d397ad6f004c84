# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The export file (ExportFile.md)."""

from __future__ import annotations

import hashlib
import mmap

from checksums import crc32c
from decoder.core import PAGE, Context, Fields, Reader, require, volume_name
from decoder.messages import DELTA, FULL, decode_frame, decode_message
from decoder.records import delta_digest
from decoder.stream import Stream

TRAILER = 256


def sealed(data: bytes | memoryview, size: int) -> bytes:
    """The first `size` bytes, whose last four are the checksum of the others."""
    require(len(data) >= size, "truncated", f"{size} bytes are expected, {len(data)} are there")
    part = bytes(data[:size])
    require(crc32c(part[:-4]) == int.from_bytes(part[-4:], "little"), "header-checksum")
    return part


def decode_export_header(data: bytes | memoryview) -> Fields:
    r = Reader(sealed(data, PAGE))
    require(r.bytes(8) == b"BFEXPORT", "bad-magic")
    format_ = r.integer(4)
    require(format_ == 1, "bad-format", str(format_))
    key_length = r.integer(4)
    require(1 <= key_length <= 256, "key-length", str(key_length))
    begin_length = r.integer(4)
    require(202 <= begin_length <= 1024, "begin-length", str(begin_length))
    r.reserved(4)
    standby, key, payload, volume = r.bytes(32), r.bytes(key_length), r.bytes(begin_length), volume_name(r)
    r.reserved(PAGE - 4 - r.at)
    begin = decode_message("BEGIN", payload, Context())
    require(begin["kind"] in (FULL, DELTA), "bad-kind", str(begin["kind"]))
    require(begin["members"] == 0, "bad-members", str(begin["members"]))
    require(begin["held_segments"] == 0, "held-segments", str(begin["held_segments"]))
    return {"format": format_, "standby": standby, "key": key, "sender_key_id": hashlib.sha256(key).digest(),
            "begin": begin, "begin_payload": payload, "volume": volume}


def decode_export_trailer(data: bytes | memoryview, length: int | None = None) -> Fields:
    """The trailer at the beginning of `data`, of a file with `length` bytes before it."""
    part = sealed(data, TRAILER)
    r = Reader(part)
    require(r.bytes(8) == b"BFEXPEND", "bad-magic")
    f: Fields = {"length": r.integer(8)}
    require(length is None or f["length"] == length, "file-length", f"{f['length']}, not {length}")
    f["digest"], f["generation_id"] = r.bytes(32), r.bytes(32)
    size = r.integer(4)
    require(1 <= size <= 128, "signature-length", str(size))
    r.reserved(4)
    f["signature"] = r.bytes(size)
    r.reserved(TRAILER - 4 - r.at)
    f["signed"] = b"blockferry export 1" + part[:80]
    return f


def decode_export_file(data: bytes | mmap.mmap | memoryview, ctx: Context) -> Fields:
    """Everything but section 4, 2 and 3: whose file it is, and the signature, which is left to the caller."""
    data = memoryview(data)
    require(len(data) >= PAGE + TRAILER, "truncated", f"{len(data)} bytes")
    length = len(data) - TRAILER
    trailer = decode_export_trailer(data[length:], length)
    header = decode_export_header(data)
    ctx.unchecked["signature"] += 1
    require(hashlib.sha256(data[:length]).digest() == trailer["digest"], "file-digest")

    stream = Stream(ctx)
    stream.side, stream.after = "sender", "BEGIN"
    stream._transfer("BEGIN", header["begin"], header["begin_payload"])
    ctx.values["peer_key_id"] = header["sender_key_id"]
    frames, at, generation = [], PAGE, None
    while generation is None:
        f, payload, size = decode_frame(data[at:length], stream.sequence)
        require(f["type"] in ("RECORD", "SEAL", "COMMIT"), "wrong-state", f["type"])
        message = stream.frame(f, payload)
        frames.append({"position": at, "type": f["type"], "message": message})
        if f["type"] == "COMMIT":
            generation = message
        at += size
    require(at == length, "trailing-bytes", f"{length - at} bytes before the trailer")
    require(generation["generation_id"] == trailer["generation_id"], "generation-id")
    return {"header": header, "frames": frames, "trailer": trailer, "generation": generation,
            "delta_digest": delta_digest(stream.digests)}
