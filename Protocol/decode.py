#!/usr/bin/env python3
# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A strict decoder of the Blockferry protocol, written from Specification.md and StagingLog.md alone.

Every decoder returns a dictionary of fields or raises `Refused` with the first violation in the order in which the text
lists the checks. The reasons are listed in Vectors/README.md.

    decode.py vectors [DIR]                check every vector
    decode.py frames FILE                  decode the captured plaintext of one direction
    decode.py staging-log FILE             decode and verify a staging log
    decode.py generation FILE|HEX          decode a generation record, show its id
    decode.py invitation STRING            decode an invitation
    decode.py peer-id HEX|STRING           convert and check a peer id
    decode.py selftest                     prove the checksums
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import hashlib
import ipaddress
import json
import mmap
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

from checksums import crc32c, poly1305, tag, xxh3

Fields = dict[str, Any]

BLOCK = 65_536
RECORD_CONTENT = 1_048_576
SEGMENT_CONTENT = 33_554_432
SEGMENT_RECORDS = 65_536
LARGEST_OFFSET = 1 << 62
PAGE = 4096


class Refused(Exception):
    """A structure broke the specification."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def require(condition: bool, reason: str, detail: str = "") -> None:
    if not condition:
        raise Refused(reason, detail)


@dataclass
class Context:
    """What a structure is checked against. `None` means: not known, the check is left out."""

    volume_size: int | None = None
    previous_end: int | None = None
    full: bool = False
    tag_key: bytes | None = None
    tag_algorithm: int | None = None
    values: Fields = field(default_factory=dict)           # further values by their name in the vectors
    unchecked: Counter[str] = field(default_factory=Counter)  # what could not be checked, never silently


# Reading ----------------------------------------------------------------------------------------------------------

class Reader:
    """Reads fields in order; each asks first whether its bytes are there."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = bytes(data)
        self.at = 0

    def bytes(self, count: int) -> bytes:
        piece = self.data[self.at:self.at + count]
        require(len(piece) == count, "truncated", f"{count} bytes at {self.at}, {len(piece)} are there")
        self.at += count
        return piece

    def integer(self, size: int) -> int:
        return int.from_bytes(self.bytes(size), "little")

    def reserved(self, count: int) -> None:
        at = self.at
        require(not any(self.bytes(count)), "reserved-bits", f"at {at}")

    def string(self, most: int, least: int = 0) -> str:
        length = self.integer(2)
        require(least <= length <= most, "bad-string-length", f"{length}, allowed {least}-{most}")
        try:
            text = self.bytes(length).decode("utf-8", "strict")
        except UnicodeDecodeError as error:
            raise Refused("bad-string-utf8", str(error)) from error
        require(not any(ord(c) < 0x20 or ord(c) == 0x7F for c in text), "bad-string-characters", "control character")
        return text

    def end(self) -> None:
        require(self.at == len(self.data), "trailing-bytes", f"{len(self.data) - self.at} bytes")


def volume_name(reader: Reader) -> str:
    name = reader.string(63, least=1)
    require(re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name, re.ASCII) is not None, "bad-string-characters", repr(name))
    return name


# Messages (section 5) ---------------------------------------------------------------------------------------------

MAGIC = b"BLKFERRY"


def hello(r: Reader, ctx: Context) -> Fields:
    require(r.bytes(8) == MAGIC, "bad-magic")
    lowest = r.integer(2)
    require(lowest >= 1, "bad-version", "lowest version 0")
    highest = r.integer(2)
    require(highest >= lowest, "bad-version-range", f"{lowest}-{highest}")
    return {"lowest_version": lowest, "highest_version": highest, "features": r.integer(4), "software": r.string(64)}


def welcome(r: Reader, ctx: Context) -> Fields:
    require(r.bytes(8) == MAGIC, "bad-magic")
    version = r.integer(2)
    lowest, highest = ctx.values.get("hello_lowest", 1), ctx.values.get("hello_highest", 0xFFFF)
    require(lowest <= version <= highest, "version-not-offered", f"{version}, offered {lowest}-{highest}")
    r.reserved(2)
    features = r.integer(4)
    offered = ctx.values.get("hello_features", 0xFFFFFFFF)
    require(features & ~offered == 0, "features-not-offered", f"{features:#x}, offered {offered:#x}")
    return {"version": version, "features": features, "software": r.string(64)}


def open_(r: Reader, ctx: Context) -> Fields:
    return {"volume": volume_name(r)}


def state(r: Reader, ctx: Context) -> Fields:
    f: Fields = {"state": r.integer(1)}
    require(f["state"] <= 7, "bad-state", str(f["state"]))
    f["target_kind"] = r.integer(1)
    require(f["target_kind"] in (1, 2), "bad-target-kind", str(f["target_kind"]))
    r.reserved(6)
    f["target_size"] = r.integer(8)
    f["lineage"] = r.bytes(16)
    f["committed_number"] = r.integer(8)
    f["committed_id"] = r.bytes(32)
    require(any(f["committed_id"]) == (f["committed_number"] != 0), "committed-mismatch")
    f["transfer"] = r.bytes(16)
    f["durable_segments"] = r.integer(8)
    require(any(f["transfer"]) or f["durable_segments"] == 0, "durable-without-transfer")
    return f


def kind_and_algorithm(r: Reader) -> tuple[int, int]:
    kind = r.integer(1)
    require(kind in (1, 2), "bad-kind", str(kind))
    algorithm = r.integer(1)
    require(algorithm in (1, 2), "bad-tag-algorithm", str(algorithm))
    return kind, algorithm


def lineage_to_size(r: Reader, kind: int) -> Fields:
    """lineage, number, parent and volume size: the same rules in BEGIN and in the generation record."""
    lineage = r.bytes(16)
    require(any(lineage), "zero-lineage")
    number = r.integer(8)
    require(number >= 1, "bad-number")
    parent = r.bytes(32)
    require(any(parent) == (kind == 2), "bad-parent")
    size = r.integer(8)
    require(1 <= size <= LARGEST_OFFSET, "bad-volume-size", str(size))
    return {"lineage": lineage, "number": number, "parent": parent, "volume_size": size}


def begin(r: Reader, ctx: Context) -> Fields:
    f: Fields = {"transfer": r.bytes(16)}
    require(any(f["transfer"]), "zero-transfer")
    f["kind"], f["tag_algorithm"] = kind_and_algorithm(r)
    r.reserved(6)
    f.update(lineage_to_size(r, f["kind"]))
    for name in ("source_time", "planned_content", "planned_segments", "held_segments"):
        f[name] = r.integer(8)
    f["tag_key"] = r.bytes(32)
    require(any(f["tag_key"]) == (f["kind"] == 1), "bad-tag-key")
    f["source_identity"] = r.string(512)
    return f


def ready(r: Reader, ctx: Context) -> Fields:
    return {"next_segment": r.integer(8)}


def seal(r: Reader, ctx: Context) -> Fields:
    f: Fields = {"segment_index": r.integer(8), "record_count": r.integer(4)}
    require(1 <= f["record_count"] <= SEGMENT_RECORDS, "bad-record-count", str(f["record_count"]))
    r.reserved(4)
    f["content"] = r.integer(8)
    require(f["content"] <= SEGMENT_CONTENT, "content-limit", str(f["content"]))
    f["end_offset"] = r.integer(8)
    f["segment_digest"] = r.bytes(32)
    return f


def check_seal(found: Fields, sealed: Fields) -> None:
    """A SEAL, or a segment header, against the records that it ends."""
    for name, reason in (("segment_index", "segment-index"), ("record_count", "record-count"),
                         ("content", "content-mismatch"), ("end_offset", "end-offset"),
                         ("segment_digest", "segment-digest")):
        require(found[name] == sealed[name], reason, f"{printable(found[name])}, not {printable(sealed[name])}")


def ack(r: Reader, ctx: Context) -> Fields:
    return {"durable_segments": r.integer(8)}


def committed(r: Reader, ctx: Context) -> Fields:
    return {"number": r.integer(8), "generation_id": r.bytes(32)}


def refuse(r: Reader, ctx: Context) -> Fields:
    code = r.integer(2)
    require(1 <= code <= 12, "bad-code", str(code))
    r.reserved(2)
    rule = r.string(64, least=1)
    require(re.fullmatch(r"[a-z0-9-]+", rule, re.ASCII) is not None, "bad-string-characters", repr(rule))
    return {"code": code, "rule": rule, "text": r.string(256)}


def ping(r: Reader, ctx: Context) -> Fields:
    return {}


def progress(r: Reader, ctx: Context) -> Fields:
    phase = r.integer(1)
    require(phase in (1, 2), "bad-phase", str(phase))
    r.reserved(7)
    done, total = r.integer(8), r.integer(8)
    require(total >= done, "done-past-total", f"{done} of {total}")
    return {"phase": phase, "done": done, "total": total}


def pair(r: Reader, ctx: Context) -> Fields:
    return {"secret": r.bytes(16), "name": r.string(64, least=1)}


# Generation record (section 7) ------------------------------------------------------------------------------------

def generation(r: Reader, ctx: Context) -> Fields:
    require(r.bytes(4) == b"BFGR", "bad-magic")
    format_ = r.integer(2)
    require(format_ == 1, "bad-format", str(format_))
    kind, algorithm = kind_and_algorithm(r)
    f: Fields = {"format": format_, "kind": kind, "tag_algorithm": algorithm, **lineage_to_size(r, kind)}
    f["source_time"] = r.integer(8)
    f["segment_count"] = r.integer(8)
    for name in ("delta_digest", "volume_root", "sender_key_id"):
        f[name] = r.bytes(32)
    f["source_identity"] = r.string(512)
    f["generation_id"] = hashlib.sha256(r.data).digest()
    return f


SHARED_WITH_BEGIN = ("kind", "tag_algorithm", "lineage", "number", "parent", "volume_size", "source_time",
                     "source_identity")


def check_commit(f: Fields, values: Fields) -> None:
    """What a receiver asks before it commits (end of section 7), as far as `values` know it."""
    if "begin" in values:
        begun = decode_message("BEGIN", values["begin"], Context())
        for name in SHARED_WITH_BEGIN:
            require(f[name] == begun[name], "begin-mismatch", name)
    if "peer_key_id" in values:
        require(f["sender_key_id"] == values["peer_key_id"], "sender-key")
    if "sealed_segments" in values:
        require(f["segment_count"] == values["sealed_segments"], "segment-count", str(f["segment_count"]))
    if "sealed_delta_digest" in values:
        require(f["delta_digest"] == values["sealed_delta_digest"], "delta-digest")
    require(not values.get("unsealed_records", 0), "records-after-seal")
    if f["kind"] == 1 and "last_end" in values:
        require(values["last_end"] == f["volume_size"], "volume-not-covered", str(values["last_end"]))


MESSAGES: dict[str, Callable[[Reader, Context], Fields]] = {
    "HELLO": hello, "WELCOME": welcome, "OPEN": open_, "STATE": state, "BEGIN": begin, "READY": ready, "SEAL": seal,
    "ACK": ack, "COMMIT": generation, "COMMITTED": committed, "REFUSE": refuse, "PING": ping, "PROGRESS": progress,
    "PAIR": pair, "PAIRED": open_,
}


def decode_message(name: str, payload: bytes, ctx: Context) -> Fields:
    """A payload. First its own fields, then what the context knows."""
    if name == "RECORD":
        return decode_record(payload, ctx)
    reader = Reader(payload)
    f = MESSAGES[name](reader, ctx)
    reader.end()
    if name == "COMMIT":
        check_commit(f, ctx.values)
    if name == "SEAL" and "sealed" in ctx.values:
        check_seal(f, ctx.values["sealed"])
    return f


# Frames (section 4) -----------------------------------------------------------------------------------------------

TYPES = {1: "HELLO", 2: "WELCOME", 3: "OPEN", 4: "STATE", 5: "BEGIN", 6: "READY", 7: "RECORD", 8: "SEAL", 9: "ACK",
         10: "COMMIT", 11: "COMMITTED", 12: "REFUSE", 13: "PING", 14: "PROGRESS", 15: "PAIR", 16: "PAIRED"}


def payload_limit(name: str) -> int:
    return {"RECORD": 1_048_880, "PING": 0}.get(name, 1024)


def decode_frame_header(data: bytes | memoryview, sequence: int) -> Fields:
    require(len(data) >= 32, "truncated", "frame header")
    r = Reader(data[:32])
    length, type_, flags, number, checksum = r.integer(4), r.integer(2), r.integer(2), r.integer(8), r.integer(8)
    reserved, header_checksum = r.integer(4), r.integer(4)
    require(header_checksum == crc32c(bytes(data[:28])), "header-checksum")
    require(flags == 0, "reserved-bits", "flags")
    require(reserved == 0, "reserved-bits", "at 24")
    require(type_ in TYPES, "unknown-type", str(type_))
    name = TYPES[type_]
    require(length <= payload_limit(name), "payload-too-long", f"{length} in {name}")
    require(number == sequence, "sequence", f"{number}, expected {sequence}")
    return {"type": name, "sequence": number, "payload_length": length, "payload_checksum": checksum}


def decode_frame(data: bytes | memoryview, sequence: int) -> tuple[Fields, bytes, int]:
    """The header's fields, the payload, and the length of the frame at the beginning of `data`."""
    f = decode_frame_header(data[:32], sequence)
    payload = bytes(data[32:32 + f["payload_length"]])
    require(len(payload) == f["payload_length"], "truncated", "payload")
    require(xxh3(payload) == f["payload_checksum"], "payload-checksum")
    return f, payload, 32 + len(payload)


# Records (section 6) ----------------------------------------------------------------------------------------------

DATA, ZERO, UNMAP = 1, 2, 3


def blocks_touched(offset: int, length: int) -> int:
    return (offset + length - 1) // BLOCK - offset // BLOCK + 1


def decode_record_header(data: bytes | memoryview, exact: bool) -> Fields:
    """The record at the beginning of `data`: all checks up to its header checksum."""
    require(len(data) >= 32, "truncated", "record header")
    r = Reader(data[:32])
    kind, encoding, tag_count, stored = r.integer(1), r.integer(1), r.integer(2), r.integer(4)
    offset, length, reserved, checksum = r.integer(8), r.integer(8), r.integer(4), r.integer(4)
    require(kind in (DATA, ZERO, UNMAP), "bad-kind", str(kind))
    require(encoding in ((0, 1) if kind == DATA else (0,)), "bad-encoding", str(encoding))
    require(reserved == 0, "reserved-bits", "at 24")
    require(length > 0, "zero-length")
    require(offset + length <= LARGEST_OFFSET, "extent-overflow", f"{offset} + {length}")
    require(offset % 512 == 0, "offset-alignment", str(offset))
    require(kind != DATA or length <= RECORD_CONTENT, "data-too-long", str(length))
    require(tag_count == (blocks_touched(offset, length) if kind == DATA else 0), "tag-count", str(tag_count))
    if kind != DATA:
        require(stored == 0, "stored-length", str(stored))
    elif encoding == 0:
        require(stored == length, "stored-length", f"{stored}, length {length}")
    else:
        require(1 <= stored < length, "stored-length", f"{stored}, length {length}")
    total = 32 + 16 * tag_count + stored
    require(len(data) >= total, "truncated", f"record of {total} bytes, {len(data)} are there")
    require(not exact or len(data) == total, "trailing-bytes", f"{len(data) - total} bytes")
    tags = bytes(data[32:32 + 16 * tag_count])
    require(checksum == crc32c(bytes(data[:28]) + tags), "header-checksum")
    return {"kind": kind, "encoding": encoding, "tag_count": tag_count, "stored_length": stored, "offset": offset,
            "length": length, "tags": [tags[i:i + 16] for i in range(0, len(tags), 16)]}


def check_against_transfer(f: Fields, ctx: Context) -> None:
    end = f["offset"] + f["length"]
    if ctx.volume_size is not None:
        require(end <= ctx.volume_size, "past-volume-end", f"{end} > {ctx.volume_size}")
        require(f["length"] % 512 == 0 or end == ctx.volume_size, "length-alignment", str(f["length"]))
    if ctx.previous_end is not None:
        if ctx.full:
            require(f["offset"] == ctx.previous_end, "order", f"{f['offset']}, expected {ctx.previous_end}")
        else:
            require(f["offset"] >= ctx.previous_end, "order", f"{f['offset']} < {ctx.previous_end}")


def check_content(f: Fields, stored: bytes, ctx: Context) -> None:
    """Decompression, then tags. Adds the digest of the plain content to the fields."""
    content: bytes | None = stored
    if f["encoding"] == 1:
        check_zstd_frame(stored, f["length"])
        content = decompress(stored, f["length"])
    if content is None:
        ctx.unchecked["zstd content"] += 1
        return
    if ctx.tag_key is None or ctx.tag_algorithm is None:
        ctx.unchecked["tags"] += 1
    else:
        at = 0
        for index, expected in enumerate(f["tags"]):
            size = min(BLOCK - (f["offset"] + at) % BLOCK, f["length"] - at)
            piece = content[at:at + size]
            require(tag(ctx.tag_algorithm, ctx.tag_key, piece) == expected, "tag-mismatch", f"tag {index}")
            at += size
    f["content_sha256"] = hashlib.sha256(content).digest()


def decode_record(data: bytes | memoryview, ctx: Context, exact: bool = True) -> Fields:
    """One record; with `exact` nothing may follow it in `data`."""
    f = decode_record_header(data, exact)
    check_against_transfer(f, ctx)
    if f["kind"] == DATA:
        start = 32 + 16 * f["tag_count"]
        check_content(f, bytes(data[start:start + f["stored_length"]]), ctx)
    return f


def record_size(f: Fields) -> int:
    return 32 + 16 * f["tag_count"] + f["stored_length"]


# zstd content -----------------------------------------------------------------------------------------------------

def check_zstd_frame(data: bytes, length: int) -> None:
    """RFC 8878: the frame's header, and that exactly one frame fills `data`. The blocks are left to libzstd."""
    require(len(data) >= 5 and data[:4] == b"\x28\xb5\x2f\xfd", "zstd-frame", "no zstd frame")
    descriptor, at = data[4], 5
    single, has_checksum = bool(descriptor & 0x20), bool(descriptor & 0x04)
    size_bytes = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    require(descriptor & 0x08 == 0, "zstd-frame", "reserved bit")
    require(descriptor & 0x03 == 0, "zstd-frame", "dictionary")
    require(size_bytes > 0, "zstd-frame", "no content size")
    require(len(data) >= 5 + (0 if single else 1) + size_bytes, "zstd-frame", "header truncated")
    window = 0
    if not single:
        base = 1 << (10 + (data[at] >> 3))
        window = base + (base >> 3) * (data[at] & 7)
        at += 1
    size = int.from_bytes(data[at:at + size_bytes], "little") + (256 if size_bytes == 2 else 0)
    at += size_bytes
    require((size if single else window) <= RECORD_CONTENT, "zstd-frame", "window")
    require(size == length, "zstd-length", f"{size}, length {length}")

    last = False
    while not last:
        header = data[at:at + 3]
        require(len(header) == 3, "zstd-content", "block header truncated")
        value = int.from_bytes(header, "little")
        last, block_type, block_size = bool(value & 1), value >> 1 & 3, value >> 3
        require(block_type != 3, "zstd-content", "reserved block type")
        at += 3 + (1 if block_type == 1 else block_size)
    at += 4 if has_checksum else 0
    require(at == len(data), "zstd-content", "not exactly one frame")


def _load_libzstd() -> ctypes.CDLL | None:
    name = ctypes.util.find_library("zstd")
    try:
        library = ctypes.CDLL(name or "libzstd.so.1")
    except OSError:
        return None
    library.ZSTD_decompress.restype = ctypes.c_size_t
    library.ZSTD_decompress.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    library.ZSTD_isError.restype = ctypes.c_uint
    library.ZSTD_isError.argtypes = [ctypes.c_size_t]
    return library


_libzstd = _load_libzstd()
_zstd_command = shutil.which("zstd")


def decompress(data: bytes, length: int) -> bytes | None:
    """Exactly `length` bytes, never more; `None` where nothing that could decompress is installed."""
    if _libzstd is not None:
        out = ctypes.create_string_buffer(length)
        size = _libzstd.ZSTD_decompress(out, length, data, len(data))
        require(not _libzstd.ZSTD_isError(size) and size == length, "zstd-content", "does not decompress")
        return out.raw
    if _zstd_command is not None:
        with tempfile.TemporaryFile() as source:
            source.write(data)
            source.seek(0)
            with subprocess.Popen([_zstd_command, "-dcq"], stdin=source, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL) as process:
                assert process.stdout is not None
                content = process.stdout.read(length + 1)
                if len(content) > length:
                    process.kill()
        require(process.returncode == 0 and len(content) == length, "zstd-content", "does not decompress")
        return content
    return None


# Digests (section 6.3) --------------------------------------------------------------------------------------------

def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


class Segment:
    """Counts and digests the records of a segment as they come."""

    def __init__(self, index: int) -> None:
        self.index, self.records, self.content, self.end = index, 0, 0, 0
        self._hash = hashlib.sha256(b"blockferry segment 1" + u64(index))

    def add(self, f: Fields) -> None:
        self.records += 1
        self.content += f["length"] if f["kind"] == DATA else 0
        self.end = f["offset"] + f["length"]
        self._hash.update(bytes([f["kind"]]) + u64(f["offset"]) + u64(f["length"]) + b"".join(f["tags"]))

    def sealed(self) -> Fields:
        return {"segment_index": self.index, "record_count": self.records, "content": self.content,
                "end_offset": self.end, "segment_digest": self._hash.digest()}


def delta_digest(segments: list[bytes]) -> bytes:
    return hashlib.sha256(b"blockferry delta 1" + u64(len(segments)) + b"".join(segments)).digest()


# Staging log (StagingLog.md) --------------------------------------------------------------------------------------

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
    require(152 <= length <= 1024, "begin-length", str(length))
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
    require(1 <= f["record_count"] <= SEGMENT_RECORDS, "bad-record-count", str(f["record_count"]))
    r.reserved(4)
    f["content"], f["end_offset"], f["segment_digest"] = r.integer(8), r.integer(8), r.bytes(32)
    r.reserved(4092 - r.at)
    require(f["content"] <= SEGMENT_CONTENT, "content-limit", str(f["content"]))

    if mode == IN_PLACE:
        require(f["record_bytes"] == 0, "record-bytes", str(f["record_bytes"]))
        ctx.previous_end = f["end_offset"]
        return f, [], start + PAGE

    first = start + PAGE
    end = first + f["record_bytes"]
    padded = end + -end % PAGE
    require(32 * f["record_count"] <= f["record_bytes"] <= SEGMENT_RECORDS * 304 + SEGMENT_CONTENT
            and padded <= len(data), "record-bytes", str(f["record_bytes"]))
    require(not any(data[end:padded]), "padding")

    # The records are checked against a copy: a segment that is not valid leaves the context as it was.
    trial = Context(ctx.volume_size, ctx.previous_end, ctx.full, ctx.tag_key, ctx.tag_algorithm)
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
    ctx.tag_algorithm = begun["tag_algorithm"]
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


# Enrolment (section 9) --------------------------------------------------------------------------------------------

BASE32 = "abcdefghijklmnopqrstuvwxyz234567"


def base32_decode(text: str, alphabet: str = BASE32) -> bytes:
    """RFC 4648 without padding: no other characters, no impossible length, no bits left over."""
    value = 0
    for character in text:
        digit = alphabet.find(character)
        require(digit >= 0, "bad-base32", repr(character))
        value = value << 5 | digit
    left = 5 * len(text) % 8
    require(left < 5 and value & ((1 << left) - 1) == 0, "bad-base32", "length or bits left over")
    return (value >> left).to_bytes(5 * len(text) // 8, "big")


def base32_encode(data: bytes, alphabet: str = BASE32) -> str:
    bits = int.from_bytes(data, "big") << (-8 * len(data) % 5)
    count = -(-8 * len(data) // 5)
    return "".join(alphabet[bits >> 5 * (count - 1 - i) & 31] for i in range(count))


def check_address(address: str) -> None:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([1-9][0-9]{0,4})", address, re.ASCII)
    require(match is not None, "bad-address", repr(address))
    assert match is not None
    if match[1] is not None:
        try:
            ipaddress.IPv6Address(match[1])
        except ValueError as error:
            raise Refused("bad-address", str(error)) from error
    require(int(match[3]) <= 65_535, "bad-address", f"port {match[3]}")


def decode_invitation(text: str) -> Fields:
    require(text.startswith("bf1."), "bad-prefix")
    data = base32_decode(text[4:])
    require(len(data) >= 4, "truncated", "checksum")
    require(crc32c(data[:-4]) == int.from_bytes(data[-4:], "little"), "checksum")
    r = Reader(data[:-4])
    version = r.integer(1)
    require(version == 1, "bad-version", str(version))
    f: Fields = {"version": version, "receiver_key_id": r.bytes(32), "secret": r.bytes(16), "volume": volume_name(r)}
    f["address"] = r.string(255, least=1)
    check_address(f["address"])
    r.end()
    return f


def peer_check(key_id: bytes) -> str:
    """The first 20 bits of the digest, in the order in which base32 takes them."""
    return base32_encode(hashlib.sha256(b"blockferry id" + key_id).digest()[:5])[:4]


def format_peer_id(key_id: bytes) -> str:
    characters = (base32_encode(key_id) + peer_check(key_id)).upper()
    return "-".join(characters[i:i + 7] for i in range(0, 56, 7))


def decode_peer_id(text: str) -> Fields:
    groups = text.split("-")
    require(len(groups) == 8 and all(len(group) == 7 for group in groups), "bad-grouping")
    characters = "".join(groups)
    base32_decode(characters, BASE32.upper())  # all 56 characters are 35 bytes: only the alphabet can fail here
    key_id = base32_decode(characters[:52], BASE32.upper())
    require(characters[52:] == peer_check(key_id).upper(), "checksum")
    return {"key_id": key_id}


# A captured stream (sections 4, 5, 11) ----------------------------------------------------------------------------

FROM_SENDER = {"HELLO", "OPEN", "BEGIN", "RECORD", "SEAL", "COMMIT", "PAIR", "REFUSE", "PING"}
FROM_RECEIVER = {"WELCOME", "STATE", "READY", "ACK", "COMMITTED", "REFUSE", "PING", "PROGRESS", "PAIRED"}

# What each direction may send after what, as far as one direction alone shows it.
FOLLOWS: dict[str, set[str]] = {
    "": {"HELLO", "WELCOME"}, "HELLO": {"OPEN", "PAIR"}, "OPEN": {"BEGIN"}, "PAIR": set(),
    "BEGIN": {"RECORD", "COMMIT"}, "RECORD": {"RECORD", "SEAL"}, "SEAL": {"RECORD", "COMMIT"}, "COMMIT": set(),
    "WELCOME": {"STATE", "PAIRED"}, "STATE": {"READY"}, "READY": {"ACK", "PROGRESS", "COMMITTED"},
    "ACK": {"ACK", "PROGRESS", "COMMITTED"}, "PROGRESS": {"ACK", "PROGRESS", "COMMITTED"}, "COMMITTED": set(),
    "PAIRED": set(), "REFUSE": set(),
}


class Stream:
    """Follows one direction of a session, frame by frame."""

    def __init__(self, ctx: Context, next_segment: int = 0) -> None:
        self.ctx, self.next_segment = ctx, next_segment
        self.sequence, self.after, self.side = 0, "", ""
        self.begun: Fields | None = None
        self.begin_payload = b""
        self.segment = Segment(next_segment)
        self.digests: list[bytes] = []
        self.durable = 0

    def frame(self, f: Fields, payload: bytes) -> Fields:
        """Checks a frame's place and content; returns the message's fields."""
        name = f["type"]
        if not self.side and name not in ("PING", "REFUSE"):
            self.side = "sender" if name in FROM_SENDER else "receiver"
        allowed = {"sender": FROM_SENDER, "receiver": FROM_RECEIVER}.get(self.side, FROM_SENDER | FROM_RECEIVER)
        require(name in allowed, "wrong-direction", f"{name} from the {self.side}")
        if name == "PING":
            require(self.after != "REFUSE" and (self.after != "" or self.side != "sender"), "wrong-state", "PING")
        elif name == "REFUSE":
            require(self.after != "REFUSE", "wrong-state", "REFUSE after REFUSE")
        else:
            require(name in FOLLOWS[self.after], "wrong-state", f"{name} after {self.after or 'nothing'}")
        message = decode_message(name, payload, self.ctx)
        self.after = self.after if name == "PING" else name
        self.sequence += 1
        self._transfer(name, message, payload)
        return message

    def _transfer(self, name: str, message: Fields, payload: bytes) -> None:
        ctx = self.ctx
        if name == "BEGIN":
            self.begun, self.begin_payload = message, payload
            ctx.volume_size, ctx.full = message["volume_size"], message["kind"] == 1
            ctx.tag_algorithm = message["tag_algorithm"]
            if ctx.full:
                ctx.tag_key = message["tag_key"]
            if self.next_segment == 0:
                ctx.previous_end = 0
            elif ctx.previous_end is None:
                ctx.unchecked["order of the first record"] += 1
            ctx.values["begin"] = payload
        elif name == "RECORD":
            self.segment.add(message)
            ctx.previous_end = self.segment.end
            require(self.segment.records <= SEGMENT_RECORDS, "bad-record-count", str(self.segment.records))
            require(self.segment.content <= SEGMENT_CONTENT, "content-limit", str(self.segment.content))
        elif name == "SEAL":
            check_seal(message, self.segment.sealed())
            self.digests.append(message["segment_digest"])
            self.segment = Segment(self.segment.index + 1)
        elif name == "COMMIT":
            values: Fields = {"begin": self.begin_payload, "sealed_segments": self.segment.index,
                              "unsealed_records": self.segment.records, "last_end": ctx.previous_end or 0}
            if self.next_segment == 0:
                values["sealed_delta_digest"] = delta_digest(self.digests)
            else:
                ctx.unchecked["delta digest"] += 1
            check_commit(message, values)
        elif name == "ACK":
            require(message["durable_segments"] >= self.durable, "ack-went-back", str(message["durable_segments"]))
            self.durable = message["durable_segments"]
        elif name == "READY":
            self.durable = message["next_segment"]


def decode_stream(data: bytes | mmap.mmap, stream: Stream) -> Iterator[tuple[int, Fields, Fields]]:
    at, data = 0, memoryview(data)
    while at < len(data):
        f, payload, size = decode_frame(data[at:], stream.sequence)
        yield at, f, stream.frame(f, payload)
        at += size


# Vectors ----------------------------------------------------------------------------------------------------------

def printable(value: Any) -> Any:
    """A value as the vectors write it: bytes as hex, integers from 2^53 as decimal strings."""
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, dict):
        return {key: printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [printable(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1 << 53:
        return str(value)
    return value


def vector_bytes(vector: Fields) -> bytes:
    if "hex" in vector:
        return bytes.fromhex(vector["hex"])
    pieces = []
    for part in vector["hex_parts"]:
        if "hex" in part:
            pieces.append(bytes.fromhex(part["hex"]))
        elif "repeat" in part:
            pieces.append(bytes.fromhex(part["repeat"]) * part["count"])
        else:
            pieces.append(hashlib.shake_128(str(part["random_seed"]).encode()).digest(part["count"]))
    return b"".join(pieces)


BYTES_IN_CONTEXT = {"tag_key", "log_id", "begin", "peer_key_id", "sealed_delta_digest", "segment_digest"}


def context_value(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: context_value(key, item) for key, item in value.items()}
    if name in BYTES_IN_CONTEXT:
        return bytes.fromhex(value)
    return int(value) if isinstance(value, str) else value


def vector_context(vector: Fields) -> Context:
    values = {name: context_value(name, value) for name, value in vector.get("context", {}).items()}
    return Context(values.get("volume_size"), values.get("previous_end"), values.get("full", False),
                   values.get("tag_key"), values.get("tag_algorithm"), values)


def decode_digest(vector: Fields) -> Fields:
    """Structure `digest`: recomputes a checksum or digest from its inputs."""
    inputs = vector.get("inputs", {})
    kind = vector["type"]
    if kind == "crc32c":
        return {"value": crc32c(vector_bytes(vector))}
    if kind == "xxh3":
        return {"value": xxh3(vector_bytes(vector))}
    if kind == "tag":
        return {"value": tag(inputs["tag_algorithm"], bytes.fromhex(inputs["tag_key"]), vector_bytes(vector))}
    if kind == "generation-id":
        return {"value": hashlib.sha256(vector_bytes(vector)).digest()}
    if kind == "delta":
        return {"value": delta_digest([bytes.fromhex(item) for item in inputs["segment_digests"]])}
    segment = Segment(int(inputs["segment_index"]))
    for record in inputs["records"]:
        segment.add({"kind": record["kind"], "offset": int(record["offset"]), "length": int(record["length"]),
                     "tags": [bytes.fromhex(item) for item in record["tags"]]})
    return {"value": segment.sealed()["segment_digest"]}


def decode_vector(vector: Fields, ctx: Context) -> Fields:
    structure = vector["structure"]
    if structure == "invitation":
        return decode_invitation(vector["text"])
    if structure == "peer-id":
        return decode_peer_id(vector["text"])
    if structure == "digest":
        return decode_digest(vector)
    data = vector_bytes(vector)
    if structure == "frame":
        f, payload, size = decode_frame(data, ctx.values.get("sequence", 0))
        f["message"] = decode_message(f["type"], payload, ctx)
        require(size == len(data), "trailing-bytes")
        return f
    if structure == "message":
        return decode_message(vector["type"], data, ctx)
    if structure == "record":
        return decode_record(data, ctx)
    if structure == "generation":
        return decode_message("COMMIT", data, ctx)
    if structure == "staging-log-header":
        return decode_log_header(data)
    if structure == "staging-log-segment":
        values = ctx.values
        f, _, end = decode_segment(data, values["mode"], values["log_id"], values["segment_index"], ctx)
        return {**f, "size": end}
    if structure == "staging-log":
        log = decode_staging_log(data, ctx)
        return {"mode": log["header"]["mode"], "log_id": log["header"]["log_id"], "segments": len(log["segments"]),
                "end_position": log["end_position"], "ends": log["ends"], "delta_digest": log["delta_digest"]}
    raise ValueError(f"unknown structure {structure}")


def check_vector(path: Path) -> tuple[str, bool, Counter[str]]:
    """What is wrong with a vector (empty: nothing), whether it is a valid one, and what was not checked."""
    vector = json.loads(path.read_text("utf-8"))
    ctx = vector_context(vector)
    valid = "fields" in vector
    try:
        found: Any = printable(decode_vector(vector, ctx))
        reason = None
    except Refused as refusal:
        found, reason = None, refusal.reason
    problem = ""
    if vector["name"] != path.stem or not vector.get("note") or valid == ("reason" in vector):
        problem = "badly formed vector"
    elif valid and reason is not None:
        problem = f"refused ({reason}), but valid"
    elif valid and found != vector["fields"]:
        differing = [name for name in {**found, **vector["fields"]} if found.get(name) != vector["fields"].get(name)]
        problem = "; ".join(f"{name}: {found.get(name)}, expected {vector['fields'].get(name)}" for name in differing)
    elif not valid and reason != vector["reason"]:
        problem = f"{reason or 'accepted'}, expected {vector['reason']}"
    return problem, valid, ctx.unchecked


def run_vectors(directory: Path) -> int:
    paths = sorted(directory.glob("*.json"))
    counts, failures, unchecked = Counter[bool](), 0, Counter[str]()
    for path in paths:
        problem, valid, missed = check_vector(path)
        counts[valid] += 1
        unchecked.update(missed)
        if problem:
            failures += 1
            print(f"FAIL {path.stem}: {problem}")
    print(f"{len(paths)} vectors, {counts[True]} valid, {counts[False]} invalid")
    for what, count in unchecked.items():
        print(f"NOT CHECKED: {what}, {count} times")
    if len(paths) < 120:
        print("too few vectors: at least 120 are expected")
    return 1 if failures or unchecked or len(paths) < 120 else 0


# Self-test --------------------------------------------------------------------------------------------------------

def run_selftest() -> int:
    rfc_key = bytes.fromhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
    checks = {
        "CRC-32C of 123456789": crc32c(b"123456789") == 0xE3069283,
        "XXH3 of nothing": xxh3(b"") == 0x2D06800538D394C2,
        "Poly1305, RFC 8439 2.5.2": poly1305(rfc_key, b"Cryptographic Forum Research Group").hex()
        == "a8061dc1305136c6c22b8baf0c0127a9",
        "base32 of foobar": base32_encode(b"foobar") == "mzxw6ytboi" and base32_decode("mzxw6ytboi") == b"foobar",
    }
    name = ctypes.util.find_library("xxhash")
    if name is None:
        print("XXH3 against libxxhash: NOT CHECKED, no library")
    else:
        library = ctypes.CDLL(name)
        library.XXH3_64bits.restype = ctypes.c_uint64
        library.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
        noise = hashlib.shake_128(b"selftest").digest(1 << 20)
        lengths = [*range(0, 2200), 4095, 4096, 4097, 65_535, 65_536, 65_537, 1 << 20]
        wrong = [n for n in lengths if xxh3(noise[:n]) != library.XXH3_64bits(noise, n)]
        checks[f"XXH3 against libxxhash, {len(lengths)} lengths"] = not wrong
    for what, passed in checks.items():
        print(f"{'ok  ' if passed else 'FAIL'} {what}")
    return 0 if all(checks.values()) else 1


# Command line -----------------------------------------------------------------------------------------------------

def shown(fields: Fields, leave_out: tuple[str, ...] = ()) -> Any:
    """Fields for output. A key or secret is never printed."""
    hidden = {name: "(not shown)" for name in ("tag_key", "secret") if any(fields.get(name, b""))}
    return printable({name: value for name, value in (fields | hidden).items() if name not in leave_out})



def show_unchecked(ctx: Context) -> None:
    for what, count in ctx.unchecked.items():
        print(f"NOT CHECKED: {what}, {count} times", file=sys.stderr)


def map_file(path: str) -> Any:
    """The file's bytes, without reading all of them at once."""
    with open(path, "rb") as file:
        if file.seek(0, 2) == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def tag_context(arguments: argparse.Namespace) -> Context:
    key = bytes.fromhex(arguments.tag_key) if arguments.tag_key else None
    require(key is None or len(key) == 32, "bad-tag-key", "32 bytes in hex are expected")
    return Context(tag_key=key)


def run_frames(arguments: argparse.Namespace) -> int:
    data, ctx = map_file(arguments.file), tag_context(arguments)
    stream = Stream(ctx, arguments.next_segment)
    listed, refusal = [], ""
    try:
        for at, f, message in decode_stream(data, stream):
            if arguments.json:
                listed.append({"position": at, **f, "message": shown(message)})
            else:
                print(f"{at:10} {f['sequence']:6} {f['type']:9} {json.dumps(shown(message, ('tags',)))}")
    except Refused as error:
        refusal = str(error)
    if arguments.json:
        result = {"frames": listed, "refused": refusal or None, "unchecked": dict(ctx.unchecked)}
        print(json.dumps(printable(result), indent=1))
    else:
        print(f"{stream.sequence} frames from the {stream.side or 'unknown side'}, last {stream.after or 'none'}")
        if refusal:
            print(f"REFUSED at frame {stream.sequence}: {refusal}")
    show_unchecked(ctx)
    return 1 if refusal else 0


def run_staging_log(arguments: argparse.Namespace) -> int:
    data, ctx = map_file(arguments.file), tag_context(arguments)
    log = decode_staging_log(data, ctx)
    if arguments.json:
        header = {**log["header"], "begin": shown(log["header"]["begin"])}
        print(json.dumps(printable({**log, "header": header, "unchecked": dict(ctx.unchecked)}), indent=1))
    else:
        header = log["header"]
        print(f"{'staged' if header['mode'] == STAGED else 'in place'}, log id {header['log_id'].hex()}")
        print(f"BEGIN {json.dumps(shown(header['begin']))}")
        for s in log["segments"]:
            print(f"segment {s['segment_index']} at {s['position']}: {s['record_count']} records, {s['content']} bytes "
                  f"of content, end {s['end_offset']}, digest {s['segment_digest'].hex()}")
        print(f"{len(log['segments'])} valid segments; the log ends at {log['end_position']} of {len(data)}: "
              f"{log['ends']}")
    show_unchecked(ctx)
    return 0


def run_generation(argument: str) -> int:
    path = Path(argument)
    data = path.read_bytes() if len(argument) < 256 and path.is_file() else bytes.fromhex(argument)
    print(json.dumps(printable(decode_message("COMMIT", data, Context())), indent=1))
    return 0


def run_peer_id(argument: str) -> int:
    if re.fullmatch(r"[0-9a-fA-F]{64}", argument):
        print(format_peer_id(bytes.fromhex(argument)))
    else:
        print(decode_peer_id(argument)["key_id"].hex())
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Strict decoder of the Blockferry protocol.")
    commands = parser.add_subparsers(dest="command", required=True)
    vectors = commands.add_parser("vectors", help="check every vector")
    vectors.add_argument("directory", nargs="?", type=Path, default=Path(__file__).parent / "Vectors")
    for name in ("frames", "staging-log"):
        command = commands.add_parser(name, help=f"decode a file: {name}")
        command.add_argument("file")
        command.add_argument("--json", action="store_true")
        command.add_argument("--tag-key", metavar="HEX", help="the lineage's key, which a delta does not carry")
        if name == "frames":
            command.add_argument("--next-segment", type=int, default=0, help="what READY said (default 0)")
    for name in ("generation", "invitation", "peer-id"):
        commands.add_parser(name, help=f"decode one {name}").add_argument("value")
    commands.add_parser("selftest", help="prove the checksums")
    arguments = parser.parse_args()

    try:
        match arguments.command:
            case "vectors":
                return run_vectors(arguments.directory)
            case "frames":
                return run_frames(arguments)
            case "staging-log":
                return run_staging_log(arguments)
            case "generation":
                return run_generation(arguments.value)
            case "invitation":
                print(json.dumps(shown(decode_invitation(arguments.value)), indent=1))
                return 0
            case "peer-id":
                return run_peer_id(arguments.value)
            case _:
                return run_selftest()
    except Refused as refusal:
        print(f"REFUSED: {refusal}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
