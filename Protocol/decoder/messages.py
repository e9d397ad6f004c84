# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Frames, messages and the generation record (sections 4, 5 and 7)."""

from __future__ import annotations

import hashlib
import re
from typing import Callable

from checksums import crc32c, xxh3
from decoder.core import (LARGEST_GROWTH, LARGEST_OFFSET, PAGE, SEGMENT_CONTENT, SEGMENT_RECORDS, SEGMENTS, Context, Fields,
                          Reader, require, volume_name)
from decoder.records import check_seal, decode_record

MAGIC = b"BLKFERRY"
READ, STORED = 1, 2
NODES_ASKED = 16
FULL, DELTA, RESYNC = 1, 2, 3
SHRINK_ALLOWED, IN_PLACE = 1, 2
RETRY_AFTER = 2            # feature of HELLO and WELCOME
BUSY, STOPPING = 4, 11     # codes of REFUSE
FLAGS = {FULL: 0, DELTA: SHRINK_ALLOWED, RESYNC: SHRINK_ALLOWED | IN_PLACE}


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
    require(f["state"] <= 8, "bad-state", str(f["state"]))
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


def tag_algorithm(r: Reader) -> int:
    algorithm = r.integer(1)
    require(algorithm in (1, 2), "bad-tag-algorithm", str(algorithm))
    return algorithm


def volume_size(r: Reader) -> int:
    size = r.integer(8)
    require(1 <= size <= LARGEST_OFFSET, "bad-volume-size", str(size))
    return size


def kind_and_algorithm(r: Reader) -> tuple[int, int]:
    kind = r.integer(1)
    require(kind in (FULL, DELTA, RESYNC), "bad-kind", str(kind))
    return kind, tag_algorithm(r)


def lineage_to_size(r: Reader, kind: int, in_place: bool = False) -> Fields:
    """lineage, number, parent and volume size: the same rules in BEGIN and, but for the flag, in the generation record."""
    lineage = r.bytes(16)
    require(any(lineage), "zero-lineage")
    number = r.integer(8)
    require(number >= 1, "bad-number")
    parent = r.bytes(32)
    require(kind == RESYNC or any(parent) == (kind == DELTA), "bad-parent")
    require(not (in_place and any(parent)), "bad-parent", "in place")
    return {"lineage": lineage, "number": number, "parent": parent, "volume_size": volume_size(r)}


def begin(r: Reader, ctx: Context) -> Fields:
    f: Fields = {"transfer": r.bytes(16)}
    require(any(f["transfer"]), "zero-transfer")
    f["kind"], f["tag_algorithm"] = kind_and_algorithm(r)
    f["flags"] = r.integer(1)
    require(f["flags"] & ~FLAGS[f["kind"]] == 0, "reserved-bits", f"flags {f['flags']:#x}")
    f["segment_growth"] = r.integer(1)
    require(f["segment_growth"] <= LARGEST_GROWTH, "bad-segment-growth", str(f["segment_growth"]))
    f["members"] = r.integer(4)
    require(f["members"] == 0 or 2 <= f["members"] <= 256, "bad-members", str(f["members"]))
    f.update(lineage_to_size(r, f["kind"], bool(f["flags"] & IN_PLACE)))
    for name in ("source_time", "planned_content", "planned_segments"):
        f[name] = r.integer(8)
    require(f["planned_segments"] <= SEGMENTS, "planned-segments", str(f["planned_segments"]))
    f["held_segments"] = r.integer(8)
    f["tag_key"] = r.bytes(32)
    require(any(f["tag_key"]) != any(f["parent"]), "bad-tag-key")
    f["group"] = r.bytes(16)
    require(any(f["group"]) == (f["members"] != 0), "bad-group")
    f["compared_root"] = r.bytes(32)
    require(any(f["compared_root"]) == (f["kind"] == RESYNC), "bad-compared-root")
    f["source_identity"] = r.string(512)
    return f


def ready(r: Reader, ctx: Context) -> Fields:
    return {"next_segment": r.integer(8)}


def seal(r: Reader, ctx: Context) -> Fields:
    f: Fields = {"segment_index": r.integer(8), "record_count": r.integer(4)}
    require(1 <= f["record_count"] <= SEGMENT_RECORDS << LARGEST_GROWTH, "bad-record-count", str(f["record_count"]))
    r.reserved(4)
    f["content"] = r.integer(8)
    require(f["content"] <= SEGMENT_CONTENT << LARGEST_GROWTH, "content-limit", str(f["content"]))
    f["end_offset"] = r.integer(8)
    f["segment_digest"] = r.bytes(32)
    return f


def ack(r: Reader, ctx: Context) -> Fields:
    return {"durable_segments": r.integer(8)}


def committed(r: Reader, ctx: Context) -> Fields:
    return {"number": r.integer(8), "generation_id": r.bytes(32)}


def abandon(r: Reader, ctx: Context) -> Fields:
    f: Fields = {"transfer": r.bytes(16)}
    require(any(f["transfer"]), "zero-transfer")
    return f


def refuse(r: Reader, ctx: Context) -> Fields:
    code = r.integer(2)
    require(1 <= code <= 12, "bad-code", str(code))
    retry_after = r.integer(2)
    may = code in (BUSY, STOPPING) and ctx.values.get("hello_features", 0xFFFFFFFF) & RETRY_AFTER
    require(bool(may) or retry_after == 0, "reserved-bits", f"retry-after {retry_after}")
    require(retry_after <= 3600, "bad-retry-after", str(retry_after))
    rule = r.string(64, least=1)
    require(re.fullmatch(r"[a-z0-9-]+", rule, re.ASCII) is not None, "bad-string-characters", repr(rule))
    return {"code": code, "retry_after": retry_after, "rule": rule, "text": r.string(256)}


def ping(r: Reader, ctx: Context) -> Fields:
    return {}


def progress(r: Reader, ctx: Context) -> Fields:
    phase = r.integer(1)
    require(phase in (1, 2, 3), "bad-phase", str(phase))
    r.reserved(7)
    done, total = r.integer(8), r.integer(8)
    require(total >= done, "done-past-total", f"{done} of {total}")
    return {"phase": phase, "done": done, "total": total}


def pair(r: Reader, ctx: Context) -> Fields:
    return {"secret": r.bytes(16), "name": r.string(64, least=1)}


def compare(r: Reader, ctx: Context) -> Fields:
    f: Fields = {"mode": r.integer(1)}
    require(f["mode"] in (READ, STORED), "bad-mode", str(f["mode"]))
    f["tag_algorithm"] = tag_algorithm(r)
    r.reserved(6)
    f["volume_size"] = volume_size(r)
    f["first_page"], f["pages"], f["tag_key"] = r.integer(8), r.integer(8), r.bytes(32)
    require(f["mode"] == READ or not any(f["tag_key"]), "bad-tag-key", "with a stored map")
    return f


def compared(r: Reader, ctx: Context) -> Fields:
    root = r.bytes(32)
    require(any(root), "zero-root")
    f: Fields = {"root": root, "read": r.integer(8), "committed_size": r.integer(8)}
    require(f["committed_size"] <= LARGEST_OFFSET, "bad-volume-size", str(f["committed_size"]))
    return f


def ask(r: Reader, ctx: Context) -> Fields:
    f: Fields = {"level": r.integer(1)}
    r.reserved(7)
    f["index"], f["count"] = r.integer(8), r.integer(4)
    require(1 <= f["count"] <= NODES_ASKED, "bad-count", str(f["count"]))
    r.reserved(4)
    return f


def nodes(r: Reader, ctx: Context) -> Fields:
    f = ask(r, ctx)
    return {**f, "content": r.bytes(f["count"] * PAGE)}


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
    if f["kind"] == FULL and "last_end" in values:
        require(values["last_end"] == f["volume_size"], "volume-not-covered", str(values["last_end"]))


def export_key(r: Reader, ctx: Context) -> Fields:
    key = r.bytes(32)
    require(any(key), "zero-key")
    return {"key": key}


MESSAGES: dict[str, Callable[[Reader, Context], Fields]] = {
    "HELLO": hello, "WELCOME": welcome, "OPEN": open_, "STATE": state, "BEGIN": begin, "READY": ready, "SEAL": seal,
    "ACK": ack, "COMMIT": generation, "COMMITTED": committed, "REFUSE": refuse, "PING": ping, "PROGRESS": progress,
    "PAIR": pair, "PAIRED": open_, "PREPARED": committed, "ABANDON": abandon, "COMPARE": compare,
    "COMPARED": compared, "ASK": ask, "NODES": nodes, "EXPORTKEY": export_key,
    "CURRENT": committed,
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


TYPES = {1: "HELLO", 2: "WELCOME", 3: "OPEN", 4: "STATE", 5: "BEGIN", 6: "READY", 7: "RECORD", 8: "SEAL", 9: "ACK",
         10: "COMMIT", 11: "COMMITTED", 12: "REFUSE", 13: "PING", 14: "PROGRESS", 15: "PAIR", 16: "PAIRED",
         17: "PREPARED", 18: "ABANDON", 19: "COMPARE", 20: "COMPARED", 21: "ASK", 22: "NODES",
         23: "EXPORTKEY", 24: "CURRENT"}


def payload_limit(name: str) -> int:
    return {"RECORD": 1_048_880, "PING": 0, "NODES": 65_560}.get(name, 1024)


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
