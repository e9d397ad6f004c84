# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The export file (ExportFile.md)."""

from __future__ import annotations

import hashlib
import mmap

import hpke
from checksums import crc32c
from decoder.core import Context, Fields, Reader, Refused, require, volume_name
from decoder.messages import DELTA, FULL, decode_frame
from decoder.records import delta_digest
from decoder.stream import Stream

HEADER, TRAILER = 1024, 256
CHUNK = 65_536 + 16


def sealed(data: bytes | memoryview, size: int) -> bytes:
    """The first `size` bytes, whose last four are the checksum of the others."""
    require(len(data) >= size, "truncated", f"{size} bytes are expected, {len(data)} are there")
    part = bytes(data[:size])
    require(crc32c(part[:-4]) == int.from_bytes(part[-4:], "little"), "header-checksum")
    return part


def decode_export_header(data: bytes | memoryview) -> Fields:
    require(len(data) >= HEADER, "truncated", f"{len(data)} bytes")
    r = Reader(bytes(data[:HEADER]))
    require(r.bytes(8) == b"BFEXPORT", "bad-magic")
    format_ = r.integer(4)
    require(format_ == 2, "bad-format", str(format_))
    sealed(data, HEADER)
    key_length = r.integer(4)
    require(1 <= key_length <= 256, "key-length", str(key_length))
    signature_length = r.integer(4)
    require(1 <= signature_length <= 128, "signature-length", str(signature_length))
    r.reserved(4)
    first = r.at
    standby, recipient = r.bytes(32), r.bytes(32)
    require(any(recipient), "zero-key", "recipient")
    encapsulated = r.bytes(32)
    require(any(encapsulated), "zero-key", "encapsulated")
    key, volume = r.bytes(key_length), volume_name(r)
    envelope = bytes(data[first:r.at])
    signature = r.bytes(signature_length)
    r.reserved(HEADER - 4 - r.at)
    return {"format": format_, "standby": standby, "recipient": recipient, "encapsulated": encapsulated, "key": key,
            "volume": volume, "signature": signature, "signed": b"blockferry export header 2" + envelope,
            "sender_key_id": hashlib.sha256(key).digest(), "envelope": envelope}


def decode_export_trailer(data: bytes | memoryview, length: int | None = None) -> Fields:
    """The trailer at the beginning of `data`, of a content with `length` bytes before it."""
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
    f["signed"] = b"blockferry export 2" + part[:80]
    return f


def open_export_chunks(data: bytes | memoryview, header: Fields, key: bytes) -> bytes:
    """The content behind a header, opened with the recipient's private key."""
    context = hpke.recipient(header["encapsulated"], key, b"blockferry export 2" + header["envelope"])
    content = bytearray()
    require(len(data) > 0, "bad-chunk", "there is none")
    for start in range(0, len(data), CHUNK):
        chunk = bytes(data[start:start + CHUNK])
        require(len(chunk) > 16, "bad-chunk", f"{len(chunk)} bytes at {start}")
        try:
            content += context.open(bytes([start + CHUNK >= len(data)]), chunk)
        except ValueError as error:
            raise Refused("bad-chunk", f"at {start}: {error}") from error
    return bytes(content)


def decode_export_file(data: bytes | mmap.mmap | memoryview, ctx: Context, key: bytes) -> Fields:
    """Everything but section 5, 2 and the signatures, which are left to the caller. `key` is the private half of the
    standby's export key."""
    data = memoryview(data)
    header = decode_export_header(data)
    require(hpke.public_key(key) == header["recipient"], "other-recipient")
    content = open_export_chunks(data[HEADER:], header, key)
    ctx.unchecked["signature"] += 2

    stream = Stream(ctx)
    stream.side, stream.after = "sender", "OPEN"
    ctx.values["peer_key_id"] = header["sender_key_id"]
    frames, at, generation, begin = [], 0, None, None
    while generation is None:
        f, payload, size = decode_frame(content[at:at + 2_000_000], stream.sequence)
        require(f["type"] in (("BEGIN",) if begin is None else ("RECORD", "SEAL", "COMMIT")), "wrong-state", f["type"])
        message = stream.frame(f, payload)
        frames.append({"position": at, "type": f["type"], "message": message})
        if f["type"] == "BEGIN":
            begin = message
            require(begin["kind"] in (FULL, DELTA), "bad-kind", str(begin["kind"]))
            require(begin["members"] == 0, "bad-members", str(begin["members"]))
            require(begin["held_segments"] == 0, "held-segments", str(begin["held_segments"]))
        elif f["type"] == "COMMIT":
            generation = message
        at += size
    trailer = decode_export_trailer(content[at:], at)
    require(at + TRAILER == len(content), "trailing-bytes", f"{len(content) - at} bytes behind COMMIT")
    require(generation["generation_id"] == trailer["generation_id"], "generation-id")
    require(hashlib.sha256(bytes(data[:HEADER]) + content[:at]).digest() == trailer["digest"], "file-digest")
    return {"header": header, "begin": begin, "frames": frames, "trailer": trailer, "generation": generation,
            "delta_digest": delta_digest(stream.digests), "content": content,
            "tags": [tag for frame in frames if frame["type"] == "RECORD" for tag in frame["message"]["tags"]]}
