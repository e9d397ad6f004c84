# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Records, their zstd content, and the digests of segments (section 6)."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import shutil
import subprocess
import tempfile

from checksums import crc32c, tag
from decoder.core import BLOCK, LARGEST_OFFSET, RECORD_CONTENT, Context, Fields, Reader, printable, require

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


def check_seal(found: Fields, sealed: Fields) -> None:
    """A SEAL, or a segment header, against the records that it ends."""
    for name, reason in (("segment_index", "segment-index"), ("record_count", "record-count"),
                         ("content", "content-mismatch"), ("end_offset", "end-offset"),
                         ("segment_digest", "segment-digest")):
        require(found[name] == sealed[name], reason, f"{printable(found[name])}, not {printable(sealed[name])}")
