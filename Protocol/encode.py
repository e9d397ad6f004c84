# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Builds any structure of the Blockferry protocol, right ones by default and wrong ones on demand.

Nothing is validated: every rule can be broken by giving a field another value, and checksums follow the bytes unless they
are given. So a vector or a rogue peer breaks exactly what it means to break. `decode.py` shares no layout with this file.
"""

from __future__ import annotations

import hashlib
import struct
from base64 import b32encode

import hpke
from checksums import crc32c, tag, xxh3

BLOCK = 65_536
MAGIC = b"BLKFERRY"
ZEROS16, ZEROS32 = bytes(16), bytes(32)


def string(text: str | bytes, length: int | None = None) -> bytes:
    """A string; `bytes` to break UTF-8, `length` to lie about the length."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<H", len(data) if length is None else length) + data


# Frames -----------------------------------------------------------------------------------------------------------

TYPE = {name: number for number, name in enumerate(
    ("HELLO", "WELCOME", "OPEN", "STATE", "BEGIN", "READY", "RECORD", "SEAL", "ACK", "COMMIT", "COMMITTED", "REFUSE",
     "PING", "PROGRESS", "PAIR", "PAIRED", "PREPARED", "ABANDON", "COMPARE", "COMPARED", "ASK", "NODES", "EXPORTKEY",
     "CURRENT"), start=1)}


def frame(type_: str | int, payload: bytes = b"", sequence: int = 0, *, length: int | None = None, flags: int = 0,
          payload_checksum: int | None = None, reserved: int = 0, header_checksum: int | None = None) -> bytes:
    header = struct.pack(
        "<IHHQQI", len(payload) if length is None else length, TYPE[type_] if isinstance(type_, str) else type_, flags,
        sequence, xxh3(payload) if payload_checksum is None else payload_checksum, reserved)
    checksum = crc32c(header) if header_checksum is None else header_checksum
    return header + struct.pack("<I", checksum) + payload


# Messages ---------------------------------------------------------------------------------------------------------

def hello(lowest_version: int = 1, highest_version: int = 1, features: int = 0, software: str | bytes = "blockferry 1.0",
          *, magic: bytes = MAGIC) -> bytes:
    return magic + struct.pack("<HHI", lowest_version, highest_version, features) + string(software)


def welcome(version: int = 1, features: int = 0, software: str | bytes = "blockferryd 1.0", *, magic: bytes = MAGIC,
            reserved: int = 0) -> bytes:
    return magic + struct.pack("<HHI", version, reserved, features) + string(software)


def open_(volume: str | bytes = "vm-disk.0") -> bytes:
    return string(volume)


def state(state: int = 0, target_kind: int = 1, target_size: int = 1 << 30, lineage: bytes = ZEROS16,
          committed_number: int = 0, committed_id: bytes = ZEROS32, transfer: bytes = ZEROS16, durable_segments: int = 0,
          *, reserved: bytes = bytes(6)) -> bytes:
    return (struct.pack("<BB", state, target_kind) + reserved + struct.pack("<Q", target_size) + lineage
            + struct.pack("<Q", committed_number) + committed_id + transfer + struct.pack("<Q", durable_segments))


def begin(transfer: bytes, kind: int, tag_algorithm: int, lineage: bytes, number: int, parent: bytes, volume_size: int,
          source_time: int = 0, planned_content: int = 0, planned_segments: int = 0, held_segments: int = 0,
          tag_key: bytes = ZEROS32, source_identity: str | bytes = "", *, flags: int = 0,
          segment_growth: int = 0, members: int = 0, group: bytes = ZEROS16, compared_root: bytes = ZEROS32) -> bytes:
    return (transfer + struct.pack("<BBBBI", kind, tag_algorithm, flags, segment_growth, members) + lineage
            + struct.pack("<Q", number) + parent
            + struct.pack("<5Q", volume_size, source_time, planned_content, planned_segments, held_segments)
            + tag_key + group + compared_root + string(source_identity))


def ready(next_segment: int = 0) -> bytes:
    return struct.pack("<Q", next_segment)


def seal(segment_index: int, record_count: int, content: int, end_offset: int, segment_digest: bytes, *,
         reserved: int = 0) -> bytes:
    return struct.pack("<QIIQQ", segment_index, record_count, reserved, content, end_offset) + segment_digest


def ack(durable_segments: int = 1) -> bytes:
    return struct.pack("<Q", durable_segments)


def committed(number: int, generation_id: bytes) -> bytes:
    return struct.pack("<Q", number) + generation_id


def abandon(transfer: bytes) -> bytes:
    return transfer


def refuse(code: int, rule: str | bytes, text: str | bytes = "", *, retry_after: int = 0) -> bytes:
    return struct.pack("<HH", code, retry_after) + string(rule) + string(text)


def ping() -> bytes:
    return b""


def progress(phase: int, done: int, total: int, *, reserved: bytes = bytes(7)) -> bytes:
    return struct.pack("<B", phase) + reserved + struct.pack("<QQ", done, total)


def pair(secret: bytes, name: str | bytes) -> bytes:
    return secret + string(name)


def compare(mode: int, tag_algorithm: int, volume_size: int, first_page: int = 0, pages: int = 0, tag_key: bytes = ZEROS32, *,
            reserved: bytes = bytes(6)) -> bytes:
    return (struct.pack("<BB", mode, tag_algorithm) + reserved + struct.pack("<3Q", volume_size, first_page, pages)
            + tag_key)


def compared(root: bytes, read: int = 0, committed_size: int = 0) -> bytes:
    return root + struct.pack("<QQ", read, committed_size)


def ask(level: int, index: int, count: int = 1, *, reserved: bytes = bytes(7), reserved_end: int = 0) -> bytes:
    return struct.pack("<B", level) + reserved + struct.pack("<QII", index, count, reserved_end)


def nodes(level: int, index: int, count: int, content: bytes, *, reserved: bytes = bytes(7),
          reserved_end: int = 0) -> bytes:
    return struct.pack("<B", level) + reserved + struct.pack("<QII", index, count, reserved_end) + content


def generation(kind: int, tag_algorithm: int, lineage: bytes, number: int, parent: bytes, volume_size: int,
               source_time: int, segment_count: int, delta_digest: bytes, volume_root: bytes, sender_key_id: bytes,
               source_identity: str | bytes, *, format: int = 1, magic: bytes = b"BFGR") -> bytes:
    return (magic + struct.pack("<HBB", format, kind, tag_algorithm) + lineage + struct.pack("<Q", number) + parent
            + struct.pack("<3Q", volume_size, source_time, segment_count) + delta_digest + volume_root + sender_key_id
            + string(source_identity))


def export_key(key: bytes) -> bytes:
    return key


MESSAGES = {
    "HELLO": hello, "WELCOME": welcome, "OPEN": open_, "STATE": state, "BEGIN": begin, "READY": ready, "SEAL": seal,
    "ACK": ack, "COMMIT": generation, "COMMITTED": committed, "REFUSE": refuse, "PING": ping, "PROGRESS": progress,
    "PAIR": pair, "PAIRED": open_, "PREPARED": committed, "ABANDON": abandon, "COMPARE": compare,
    "COMPARED": compared, "ASK": ask, "NODES": nodes, "EXPORTKEY": export_key,
    "CURRENT": committed,
}


# Records ----------------------------------------------------------------------------------------------------------

def tags_of(offset: int, content: bytes, key: bytes, algorithm: int) -> list[bytes]:
    """One tag for each block of 64 KiB that the content touches."""
    tags = []
    while content:
        room = BLOCK - offset % BLOCK
        tags.append(tag(algorithm, key, content[:room]))
        content, offset = content[room:], offset + room
    return tags


def raw_record(kind: int, encoding: int, offset: int, length: int, tags: list[bytes], stored: bytes, *,
               tag_count: int | None = None, stored_length: int | None = None, reserved: int = 0,
               header_checksum: int | None = None) -> bytes:
    header = struct.pack("<BBHIQQI", kind, encoding, len(tags) if tag_count is None else tag_count,
                         len(stored) if stored_length is None else stored_length, offset, length, reserved)
    joined = b"".join(tags)
    checksum = crc32c(header + joined) if header_checksum is None else header_checksum
    return header + struct.pack("<I", checksum) + joined + stored


def data_record(offset: int, content: bytes, key: bytes, algorithm: int, *, stored: bytes | None = None) -> bytes:
    """Raw, or with `stored` zstd."""
    return raw_record(1, 0 if stored is None else 1, offset, len(content), tags_of(offset, content, key, algorithm),
                      content if stored is None else stored)


def zero_record(offset: int, length: int) -> bytes:
    return raw_record(2, 0, offset, length, [], b"")


def unmap_record(offset: int, length: int) -> bytes:
    return raw_record(3, 0, offset, length, [], b"")


def zstd_frame(blocks: list[tuple[int, int, bytes]], size: int | None, *, window: int | None = None,
               dictionary: bool = False, reserved_bit: bool = False) -> bytes:
    """A zstd frame made by hand. Blocks are (type, size, bytes): 0 raw, 1 repeat one byte `size` times.

    Single segment with an 8-byte content size; with `window` (the descriptor's byte) not single segment; without a
    `size` no content size.
    """
    descriptor = (0xC0 if size is not None else 0) | (0x20 if window is None else 0) | (1 if dictionary else 0)
    out = b"\x28\xb5\x2f\xfd" + bytes([descriptor | (8 if reserved_bit else 0)])
    out += b"" if window is None else bytes([window])
    out += b"\x07" if dictionary else b""
    out += b"" if size is None else struct.pack("<Q", size)
    for index, (block_type, block_size, data) in enumerate(blocks):
        last = 1 if index == len(blocks) - 1 else 0
        out += (last | block_type << 1 | block_size << 3).to_bytes(3, "little") + data
    return out


# Digests ----------------------------------------------------------------------------------------------------------

def segment_digest(index: int, records: list[bytes]) -> bytes:
    """From records that are well formed."""
    digest = hashlib.sha256(b"blockferry segment 1" + struct.pack("<Q", index))
    for record in records:
        (tag_count,) = struct.unpack_from("<H", record, 2)
        digest.update(record[0:1] + record[8:24] + record[32:32 + 16 * tag_count])
    return digest.digest()


def delta_digest(segment_digests: list[bytes]) -> bytes:
    joined = b"".join(segment_digests)
    return hashlib.sha256(b"blockferry delta 1" + struct.pack("<Q", len(segment_digests)) + joined).digest()


# Staging log ------------------------------------------------------------------------------------------------------

def page(body: bytes, checksum: int | None = None, rest: bytes = b"") -> bytes:
    """A header of 4096 bytes; `rest` stands at its end, before the checksum."""
    filled = body + bytes(4092 - len(body) - len(rest)) + rest
    return filled + struct.pack("<I", crc32c(filled) if checksum is None else checksum)


def log_header(begin_payload: bytes, log_id: bytes, mode: int = 1, *, magic: bytes = b"BFSTAGE1", format: int = 1,
               begin_length: int | None = None, reserved: int = 0, rest: bytes = b"",
               checksum: int | None = None) -> bytes:
    length = len(begin_payload) if begin_length is None else begin_length
    return page(magic + struct.pack("<II", format, mode) + log_id + struct.pack("<II", length, reserved) + begin_payload,
                checksum, rest)


def log_segment(log_id: bytes, index: int, records: list[bytes], *, magic: bytes = b"BFSEGMT1",
                in_place: bool = False, record_bytes: int | None = None, record_count: int | None = None,
                content: int | None = None, end_offset: int | None = None, digest: bytes | None = None,
                reserved: int = 0, rest: bytes = b"", checksum: int | None = None, padding: bytes = b"") -> bytes:
    """A segment; what is not given follows from the records. `padding` stands right behind the records."""
    joined = b"" if in_place else b"".join(records)
    offset, length = struct.unpack_from("<QQ", records[-1], 8)
    counted = sum(struct.unpack_from("<Q", record, 16)[0] for record in records if record[0] == 1)
    header = magic + log_id + struct.pack(
        "<QQIIQQ", index, len(joined) if record_bytes is None else record_bytes,
        len(records) if record_count is None else record_count, reserved, counted if content is None else content,
        offset + length if end_offset is None else end_offset)
    header += segment_digest(index, records) if digest is None else digest
    body = joined + padding
    return page(header, checksum, rest) + body + bytes(-len(body) % 4096)


# Tag map ----------------------------------------------------------------------------------------------------------

def map_page_digest(page_index: int, entries: bytes) -> bytes:
    """`entries` are filled up with zeros."""
    page_ = entries.ljust(4096, b"\0")
    digest = hashlib.sha256(b"blockferry map page 1" + struct.pack("<Q", page_index) + page_).digest()
    return digest if entries.strip(b"\0") else ZEROS32


def map_node_digest(level: int, index: int, below: bytes) -> bytes:
    node = below.ljust(4096, b"\0")
    digest = hashlib.sha256(b"blockferry map node 1" + struct.pack("<QQ", level, index) + node).digest()
    return digest if below.strip(b"\0") else ZEROS32


def map_root_digest(tag_algorithm: int, volume_size: int, top: bytes) -> bytes:
    return hashlib.sha256(b"blockferry map root 1" + struct.pack("<BQ", tag_algorithm, volume_size) + top).digest()


def map_entries(content: bytes, key: bytes, algorithm: int) -> bytes:
    """The entries of a volume with this content."""
    blocks = [content[at:at + BLOCK] for at in range(0, len(content), BLOCK)]
    return b"".join(tag(algorithm, key, block) if block.strip(b"\0") else ZEROS16 for block in blocks)


def map_page_digests(entries: bytes) -> bytes:
    """Level 0: the digests of all pages, one after the other."""
    return b"".join(map_page_digest(at // 4096, entries[at:at + 4096]) for at in range(0, len(entries), 4096))


def map_root(tag_algorithm: int, volume_size: int, entries: bytes) -> bytes:
    """From the entries of all blocks."""
    digests, level = map_page_digests(entries), 0
    while len(digests) > 32:
        level += 1
        digests = b"".join(map_node_digest(level, at // 4096, digests[at:at + 4096]) for at in range(0, len(digests), 4096))
    return map_root_digest(tag_algorithm, volume_size, digests)


def map_header(tag_algorithm: int, volume_size: int, root: bytes, lineage: bytes = ZEROS16, generation_id: bytes = ZEROS32,
               *, magic: bytes = b"BFTAGMAP", format: int = 1, reserved: bytes = bytes(5), rest: bytes = b"",
               checksum: int | None = None) -> bytes:
    return page(magic + struct.pack("<HB", format, tag_algorithm) + reserved + lineage + generation_id
                + struct.pack("<Q", volume_size) + root, checksum, rest)


def map_strips(entries: bytes, digests: bytes | None = None) -> bytes:
    """All strips, with the last page as long as a page; `digests` to lie about level 0."""
    digests = map_page_digests(entries) if digests is None else digests
    out = b""
    for at in range(0, len(digests), 4096):
        below = entries[128 * at:128 * at + 128 * 4096]
        out += digests[at:at + 4096].ljust(4096, b"\0") + below + bytes(-len(below) % 4096)
    return out


def map_update_header(base: int, transfer: bytes, *, magic: bytes = b"BFTAGUPD", format: int = 1,
                      reserved: bytes = bytes(5), rest: bytes = b"", checksum: int | None = None) -> bytes:
    return page(magic + struct.pack("<HB", format, base) + reserved + transfer, checksum, rest)


def map_update_page(updates: list[tuple[int, bytes]], *, count: int | None = None, rest: bytes = b"",
                    checksum: int | None = None) -> bytes:
    """`rest` stands at the page's end."""
    body = b"".join(struct.pack("<Q", block) + entry for block, entry in updates)
    body += bytes(4088 - len(body) - len(rest)) + rest
    counted = struct.pack("<I", len(updates) if count is None else count)
    return counted + struct.pack("<I", crc32c(counted + body) if checksum is None else checksum) + body


def map_update_pages(updates: list[tuple[int, bytes]]) -> bytes:
    return b"".join(map_update_page(updates[at:at + 170]) for at in range(0, len(updates), 170))


# Export file ------------------------------------------------------------------------------------------------------

def sealed(body: bytes, size: int, checksum: int | None = None, rest: bytes = b"") -> bytes:
    """`body`, zeros, `rest`, and the CRC-32C as the last four of `size` bytes."""
    data = body.ljust(size - 4 - len(rest), b"\0") + rest
    return data + struct.pack("<I", crc32c(data) if checksum is None else checksum)


def export_envelope(standby: bytes, recipient: bytes, encapsulated: bytes, key: bytes, volume: str | bytes) -> bytes:
    return standby + recipient + encapsulated + key + string(volume)


def export_header(envelope: bytes, key_length: int, signature: bytes, *, magic: bytes = b"BFEXPORT", format: int = 2,
                  signature_length: int | None = None, reserved: int = 0, rest: bytes = b"",
                  checksum: int | None = None) -> bytes:
    length = len(signature) if signature_length is None else signature_length
    return sealed(magic + struct.pack("<IIII", format, key_length, length, reserved) + envelope + signature, 1024, checksum,
                  rest)


def export_chunks(content: bytes, envelope: bytes, recipient: bytes, ephemeral: bytes) -> bytes:
    context = hpke.sender(recipient, ephemeral, b"blockferry export 2" + envelope)
    starts = range(0, len(content), BLOCK)
    return b"".join(context.seal(bytes([start + BLOCK >= len(content)]), content[start:start + BLOCK]) for start in starts)


def export_statement(length: int, digest: bytes, generation_id: bytes, *, magic: bytes = b"BFEXPEND") -> bytes:
    return magic + struct.pack("<Q", length) + digest + generation_id


def export_trailer(statement: bytes, signature: bytes, *, signature_length: int | None = None, reserved: int = 0,
                   rest: bytes = b"", checksum: int | None = None) -> bytes:
    length = len(signature) if signature_length is None else signature_length
    return sealed(statement + struct.pack("<II", length, reserved) + signature, 256, checksum, rest)


# Enrolment --------------------------------------------------------------------------------------------------------

def invitation_bytes(receiver_key_id: bytes, secret: bytes, volume: str | bytes, address: str | bytes, *,
                     version: int = 1, extra: bytes = b"", checksum: int | None = None) -> bytes:
    body = bytes([version]) + receiver_key_id + secret + string(volume) + string(address) + extra
    return body + struct.pack("<I", crc32c(body) if checksum is None else checksum)


def invitation(data: bytes) -> str:
    return "bf1." + b32encode(data).decode().rstrip("=").lower()


def peer_id(key_id: bytes) -> str:
    check = b32encode(hashlib.sha256(b"blockferry id" + key_id).digest()[:5]).decode()[:4]
    characters = b32encode(key_id).decode().rstrip("=") + check
    return "-".join(characters[at:at + 7] for at in range(0, 56, 7))
