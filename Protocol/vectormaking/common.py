# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""How vectors are written, and the values that many of them use."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import encode as e

U64, TOP = (1 << 64) - 1, 1 << 62
BLOCK, MIB = 65_536, 1 << 20
VECTORS: dict[str, dict[str, Any]] = {}
LONG_NOISE: dict[bytes, tuple[int, int]] = {}


def noise(seed: int, count: int) -> bytes:
    data = hashlib.shake_128(str(seed).encode()).digest(count)
    if count >= 1024:
        LONG_NOISE[data] = (seed, count)
    return data


def plain(value: Any) -> Any:
    """As the vectors write values: bytes as hex, integers from 2^53 as decimal strings."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1 << 53:
        return str(value)
    return value


def parts(data: bytes) -> list[dict[str, Any]]:
    """`data` with noise and long runs of one byte written short."""
    for block, (seed, count) in LONG_NOISE.items():
        at = data.find(block)
        if at >= 0:
            return parts(data[:at]) + [{"random_seed": seed, "count": count}] + parts(data[at + count:])
    out, at = [], 0
    for run in re.finditer(rb"(.)\1{63,}", data, re.DOTALL):
        if run.start() > at:
            out.append({"hex": data[at:run.start()].hex()})
        out.append({"repeat": run[1].hex(), "count": run.end() - run.start()})
        at = run.end()
    return out + ([{"hex": data[at:].hex()}] if at < len(data) else [])


def put(name: str, structure: str, note: str, data: bytes | str | None, *, type: str | None = None,
        context: dict[str, Any] | None = None, inputs: dict[str, Any] | None = None,
        fields: dict[str, Any] | None = None, reason: str | None = None) -> None:
    assert name not in VECTORS, name
    vector: dict[str, Any] = {"name": name, "structure": structure}
    if type is not None:
        vector["type"] = type
    if isinstance(data, str):
        vector["text"] = data
    elif data is not None:
        pieces = parts(data)
        if len(pieces) > 1 or (pieces and "hex" not in pieces[0]):
            vector["hex_parts"] = pieces
        else:
            vector["hex"] = data.hex()
    if context:
        vector["context"] = plain(context)
    if inputs:
        vector["inputs"] = plain(inputs)
    if fields is not None:
        vector["fields"] = plain(fields)
    if reason is not None:
        vector["reason"] = reason
    vector["note"] = note
    VECTORS[name] = vector


KEY, LINEAGE, TRANSFER, LOG_ID = noise(1, 32), noise(2, 16), noise(3, 16), noise(4, 16)
GROUP, COMPARED = noise(17, 16), noise(18, 32)
PARENT, ROOT, SENDER, RECEIVER, SECRET = noise(5, 32), noise(6, 32), noise(7, 32), noise(8, 32), noise(9, 16)
TIME = 1_753_000_000_123_456_789

FULL: dict[str, Any] = {
    "transfer": TRANSFER, "kind": 1, "tag_algorithm": 1, "flags": 0, "segment_growth": 0, "members": 0, "lineage": LINEAGE,
    "number": 1, "parent": bytes(32),
    "volume_size": 1 << 30, "source_time": TIME, "planned_content": 1 << 29, "planned_segments": 16,
    "held_segments": 0, "tag_key": KEY, "group": bytes(16), "compared_root": bytes(32),
    "source_identity": "lvm:vg0/vm-disk uuid=0d3f",
}
DELTA = FULL | {"kind": 2, "number": 7, "parent": PARENT, "tag_key": bytes(32), "held_segments": 3}
RESYNC = DELTA | {"kind": 3, "compared_root": COMPARED}
RESYNC_FIRST = FULL | {"kind": 3, "compared_root": COMPARED}  # without parent: begins a lineage
GROUPED = DELTA | {"members": 2, "group": GROUP}
GENERATION: dict[str, Any] = {
    "kind": 1, "tag_algorithm": 1, "lineage": LINEAGE, "number": 1, "parent": bytes(32), "volume_size": 1 << 30,
    "source_time": TIME, "segment_count": 16, "delta_digest": noise(10, 32), "volume_root": ROOT,
    "sender_key_id": SENDER, "source_identity": "lvm:vg0/vm-disk uuid=0d3f",
}
GENERATION_DELTA = GENERATION | {"kind": 2, "number": 7, "parent": PARENT, "volume_root": bytes(32)}
GENERATION_RESYNC = GENERATION | {"kind": 3, "number": 7, "parent": PARENT}
STATE: dict[str, Any] = {
    "state": 2, "target_kind": 1, "target_size": 1 << 30, "lineage": LINEAGE, "committed_number": 6,
    "committed_id": PARENT, "transfer": bytes(16), "durable_segments": 0,
}
SEAL: dict[str, Any] = {
    "segment_index": 3, "record_count": 2, "content": 4096, "end_offset": 1 << 20, "segment_digest": noise(11, 32),
}

# What a wrong string looks like: (suffix, bytes as they are, reason, what it is).
BAD_STRINGS = [
    ("utf8-lone-continuation", e.string(b"a\x80"), "bad-string-utf8", "a continuation byte alone"),
    ("utf8-overlong", e.string(b"\xc1\x81"), "bad-string-utf8", "an overlong form"),
    ("utf8-surrogate", e.string(b"\xed\xa0\x80"), "bad-string-utf8", "an encoded surrogate"),
    ("utf8-cut", e.string(b"a\xe2\x82"), "bad-string-utf8", "a character cut at the end"),
    ("utf8-too-high", e.string(b"\xf4\x90\x80\x80"), "bad-string-utf8", "a code point above U+10FFFF"),
    ("nul", e.string(b"a\x00b"), "bad-string-characters", "NUL"),
    ("tab", e.string(b"a\tb"), "bad-string-characters", "U+0009"),
    ("crlf", e.string(b"a\r\nb"), "bad-string-characters", "CR LF, which some libraries call one character"),
    ("unit-separator", e.string(b"\x1f"), "bad-string-characters", "U+001F, the last control character below space"),
    ("delete", e.string(b"a\x7f"), "bad-string-characters", "U+007F"),
]


def message_fields(type_: str, payload: bytes, fields: dict[str, Any]) -> dict[str, Any]:
    if type_ == "COMMIT":
        return {"format": 1, **fields, "generation_id": hashlib.sha256(payload).digest()}
    return fields


def good(name: str, type_: str, note: str, fields: dict[str, Any], context: dict[str, Any] | None = None) -> None:
    payload = e.MESSAGES[type_](**fields)
    structure, kind = ("generation", None) if type_ == "COMMIT" else ("message", type_)
    put(name, structure, note, payload, type=kind, context=context, fields=message_fields(type_, payload, fields))


def bad(name: str, type_: str, reason: str, note: str, payload: bytes, context: dict[str, Any] | None = None) -> None:
    structure, kind = ("generation", None) if type_ == "COMMIT" else ("message", type_)
    put(name, structure, note, payload, type=kind, context=context, reason=reason)


Break = tuple[str, str, dict[str, Any]]  # suffix, reason, the fields that break it


def bad_each(prefix: str, type_: str, base: dict[str, Any], breaks: list[Break]) -> None:
    """One vector for each break, and one for each neighbouring pair: the first of the two is the reason."""
    for suffix, reason, change in breaks:
        bad(f"{prefix}-{suffix}", type_, reason, f"Only `{suffix}` is wrong.", e.MESSAGES[type_](**(base | change)))
    for (suffix1, reason1, change1), (suffix2, reason2, change2) in zip(breaks, breaks[1:]):
        if reason1 != reason2 and not change1.keys() & change2.keys():
            bad(f"{prefix}-order-{suffix1}-{suffix2}", type_, reason1,
                f"Breaks `{reason1}` and `{reason2}`: the first in the order of the fields is reported.",
                e.MESSAGES[type_](**(base | change1 | change2)))


def bad_ends(prefix: str, type_: str, payload: bytes) -> None:
    bad(f"{prefix}-truncated", type_, "truncated", "The last byte is missing.", payload[:-1])
    bad(f"{prefix}-no-bytes", type_, "truncated", "No bytes at all.", b"")
    bad(f"{prefix}-trailing", type_, "trailing-bytes", "One zero byte too many.", payload + b"\0")
