#!/usr/bin/env python3
# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Writes Vectors/*.json: an example of every structure, and of every way to break one.

Deterministic: keys, ids and content come from SHAKE-128 of fixed numbers. What a valid vector's fields are is said here,
by the values the structure is built from, never by decoding it. `decode.py vectors` then has to agree.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import encode as e
from checksums import crc32c, tag, xxh3

HERE = Path(__file__).parent / "Vectors"
U64, TOP = (1 << 64) - 1, 1 << 62
BLOCK, MIB = 65_536, 1 << 20
VECTORS: dict[str, dict[str, Any]] = {}
LONG_NOISE: dict[bytes, tuple[int, int]] = {}


# How vectors are written ------------------------------------------------------------------------------------------

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


# Things that many vectors use -------------------------------------------------------------------------------------

KEY, LINEAGE, TRANSFER, LOG_ID = noise(1, 32), noise(2, 16), noise(3, 16), noise(4, 16)
PARENT, ROOT, SENDER, RECEIVER, SECRET = noise(5, 32), noise(6, 32), noise(7, 32), noise(8, 32), noise(9, 16)
TIME = 1_753_000_000_123_456_789

FULL: dict[str, Any] = {
    "transfer": TRANSFER, "kind": 1, "tag_algorithm": 1, "lineage": LINEAGE, "number": 1, "parent": bytes(32),
    "volume_size": 1 << 30, "source_time": TIME, "planned_content": 1 << 29, "planned_segments": 16,
    "held_segments": 0, "tag_key": KEY, "source_identity": "lvm:vg0/vm-disk uuid=0d3f",
}
DELTA = FULL | {"kind": 2, "number": 7, "parent": PARENT, "tag_key": bytes(32), "held_segments": 3}
GENERATION: dict[str, Any] = {
    "kind": 1, "tag_algorithm": 1, "lineage": LINEAGE, "number": 1, "parent": bytes(32), "volume_size": 1 << 30,
    "source_time": TIME, "segment_count": 16, "delta_digest": noise(10, 32), "volume_root": ROOT,
    "sender_key_id": SENDER, "source_identity": "lvm:vg0/vm-disk uuid=0d3f",
}
GENERATION_DELTA = GENERATION | {"kind": 2, "number": 7, "parent": PARENT, "volume_root": bytes(32)}
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


# Messages ---------------------------------------------------------------------------------------------------------

def greetings() -> None:
    base = {"lowest_version": 1, "highest_version": 1, "features": 0, "software": "blockferry 1.0"}
    good("hello", "HELLO", "As version 1 sends it.", base)
    good("hello-widest", "HELLO", "Every version, every feature bit, the longest software string.",
         {"lowest_version": 1, "highest_version": 65_535, "features": 0xFFFFFFFF, "software": "x" * 64})
    good("hello-no-software", "HELLO", "An empty software string.", base | {"software": ""})
    good("hello-software-unicode", "HELLO", "Length is counted in bytes: 16 characters of 4 bytes are 64.",
         base | {"software": "\U0001F6A2" * 16})
    good("hello-software-c1", "HELLO", "U+0080, U+FEFF and U+FFFF are none of the forbidden characters.",
         base | {"software": "\u0080\ufeff\uffff"})
    good("hello-future", "HELLO", "A sender that knows only versions 2 to 3: well formed, the receiver refuses it later.",
         base | {"lowest_version": 2, "highest_version": 3})
    bad_each("hello", "HELLO", base, [
        ("magic", "bad-magic", {"magic": b"BLKFERRX"}),
        ("lowest-zero", "bad-version", {"lowest_version": 0}),
        ("software-long", "bad-string-length", {"software": "x" * 65}),
    ])
    bad("hello-range-backwards", "HELLO", "bad-version-range", "The highest version is below the lowest.",
        e.hello(3, 2))
    bad("hello-order-lowest-zero-range", "HELLO", "bad-version", "Lowest and highest version are 0: lowest comes first.",
        e.hello(0, 0))
    bad("hello-order-range-software", "HELLO", "bad-version-range", "A backwards range and a software string too long.",
        e.hello(3, 2, software="x" * 65))
    bad("hello-magic-short", "HELLO", "truncated", "Seven bytes, all wrong: they are not there before they are wrong.",
        b"XXXXXXX")
    bad("hello-order-magic-truncated", "HELLO", "bad-magic",
        "Wrong magic, and the rest is missing: fields are read in order, so the magic comes first.", b"XXXXXXXX")
    for suffix, data, reason, what in BAD_STRINGS:
        bad(f"hello-software-{suffix}", "HELLO", reason, f"The software string holds {what}.", e.hello()[:16] + data)
    bad("hello-software-length-beyond", "HELLO", "truncated", "The software string says more bytes than follow.",
        e.hello()[:16] + e.string("abc", length=4))
    bad("hello-software-length-half", "HELLO", "truncated", "Half of the string's length.", e.hello()[:17])
    bad("hello-order-length-truncated", "HELLO", "bad-string-length",
        "A length beyond the limit whose bytes are not there either: the limit comes first.",
        e.hello()[:16] + e.string("abc", length=65))
    bad("hello-order-utf8-characters", "HELLO", "bad-string-utf8", "A control character before broken UTF-8.",
        e.hello()[:16] + e.string(b"\x01\xff"))
    bad("hello-order-characters-trailing", "HELLO", "bad-string-characters", "A control character, then a byte too many.",
        e.hello()[:16] + e.string(b"\x01") + b"\0")
    bad_ends("hello", "HELLO", e.hello())

    offered = {"hello_lowest": 1, "hello_highest": 3, "hello_features": 5}
    base = {"version": 1, "features": 0, "software": "blockferryd 1.0"}
    good("welcome", "WELCOME", "As version 1 sends it.", base)
    good("welcome-offered", "WELCOME", "The highest version offered, a subset of the features.",
         {"version": 3, "features": 4, "software": ""}, offered)
    bad_each("welcome", "WELCOME", base, [
        ("magic", "bad-magic", {"magic": b"blkferry"}),
        ("version-zero", "version-not-offered", {"version": 0}),
        ("reserved", "reserved-bits", {"reserved": 0x8000}),
        ("software-long", "bad-string-length", {"software": "x" * 65}),
    ])
    bad("welcome-version-above", "WELCOME", "version-not-offered", "A version above the highest in HELLO.", e.welcome(4),
        offered)
    bad("welcome-version-below", "WELCOME", "version-not-offered", "A version below the lowest in HELLO.", e.welcome(1),
        {"hello_lowest": 2, "hello_highest": 3})
    bad("welcome-features", "WELCOME", "features-not-offered", "A feature that HELLO did not have.", e.welcome(1, 2),
        offered)
    bad("welcome-order-reserved-features", "WELCOME", "reserved-bits", "A reserved bit and a feature not offered.",
        e.welcome(1, 2, reserved=1), offered)
    bad_ends("welcome", "WELCOME", e.welcome())


def volumes() -> None:
    for suffix, volume in (("", "vm-disk.0"), ("-shortest", "0"), ("-longest", "a" * 63), ("-marks", "z._-")):
        good(f"open{suffix}", "OPEN", "A volume name that is allowed.", {"volume": volume})
    for suffix, volume, reason in (
            ("name-empty", "", "bad-string-length"), ("name-long", "a" * 64, "bad-string-length"),
            ("name-capital", "Disk", "bad-string-characters"), ("name-dot-first", ".disk", "bad-string-characters"),
            ("name-hyphen-first", "-disk", "bad-string-characters"), ("name-slash", "a/b", "bad-string-characters"),
            ("name-space", "a b", "bad-string-characters"), ("name-umlaut", "dä", "bad-string-characters"),
            ("name-combining", "a\u0301", "bad-string-characters"), ("name-other-digit", "a\u0663", "bad-string-characters"),
            ("name-newline", "disk\n", "bad-string-characters"), ("name-utf8", b"a\xff", "bad-string-utf8")):
        bad(f"open-{suffix}", "OPEN", reason, f"The volume name {volume!r} is not allowed.", e.open_(volume))
    bad_ends("open", "OPEN", e.open_())
    good("paired", "PAIRED", "A volume name, as in OPEN.", {"volume": "vm-disk.0"})
    bad("paired-name-capital", "PAIRED", "bad-string-characters", "The rule of OPEN holds here too.", e.open_("VM"))
    bad_ends("paired", "PAIRED", e.open_())

    good("pair", "PAIR", "A secret and a name.", {"secret": SECRET, "name": "host-a"})
    good("pair-longest", "PAIR", "A name of 64 bytes with spaces and accents.",
         {"secret": SECRET, "name": "é" * 31 + " b"})
    bad("pair-name-empty", "PAIR", "bad-string-length", "The name must not be empty.", e.pair(SECRET, ""))
    bad("pair-name-long", "PAIR", "bad-string-length", "65 bytes.", e.pair(SECRET, "n" * 65))
    bad("pair-name-newline", "PAIR", "bad-string-characters", "A line break in the name.", e.pair(SECRET, "a\nb"))
    bad_ends("pair", "PAIR", e.pair(SECRET, "host-a"))


def states() -> None:
    for number, what in enumerate(("empty", "initialising", "consistent", "staging", "applying", "promoted", "diverged",
                                   "suspect")):
        fields = STATE | {"state": number}
        if number < 2:
            fields |= {"committed_number": 0, "committed_id": bytes(32)}
        if number == 0:
            fields |= {"lineage": bytes(16)}
        if number in (1, 3):
            fields |= {"transfer": TRANSFER, "durable_segments": 5}
        good(f"state-{what}", "STATE", f"The state `{what}`.", fields)
    good("state-greatest", "STATE", "A file, and the greatest numbers.",
         STATE | {"target_kind": 2, "target_size": U64, "committed_number": U64, "transfer": b"\xff" * 16,
                  "durable_segments": U64})
    good("state-transfer-none-durable", "STATE", "An unfinished transfer of which nothing is durable; a file of size 0.",
         STATE | {"state": 3, "target_kind": 2, "target_size": 0, "transfer": TRANSFER})
    bad_each("state", "STATE", STATE, [
        ("unknown", "bad-state", {"state": 8}),
        ("target-kind-zero", "bad-target-kind", {"target_kind": 0}),
        ("reserved", "reserved-bits", {"reserved": b"\0\0\0\0\0\x01"}),
        ("committed-id-zeros", "committed-mismatch", {"committed_id": bytes(32)}),
        ("durable-no-transfer", "durable-without-transfer", {"durable_segments": 1}),
    ])
    bad("state-target-kind-three", "STATE", "bad-target-kind", "Target kinds end at 2.",
        e.state(**(STATE | {"target_kind": 3})))
    bad("state-committed-number-zero", "STATE", "committed-mismatch", "An id without a number.",
        e.state(**(STATE | {"committed_number": 0})))
    bad_ends("state", "STATE", e.state(**STATE))


def begins() -> None:
    good("begin-full", "BEGIN", "A full generation with poly1305 tags.", FULL)
    good("begin-full-sha256", "BEGIN", "A full generation with sha256 tags.", FULL | {"tag_algorithm": 2})
    good("begin-delta", "BEGIN", "A delta; it carries no key.", DELTA)
    good("begin-delta-sha256", "BEGIN", "A delta with sha256 tags.", DELTA | {"tag_algorithm": 2})
    good("begin-greatest", "BEGIN", "The greatest numbers and the longest source identity.",
         DELTA | {"number": U64, "volume_size": TOP, "source_time": U64, "planned_content": U64,
                  "planned_segments": U64, "held_segments": U64, "source_identity": "s" * 512})
    good("begin-smallest", "BEGIN", "A volume of one byte, everything else as small as it goes.",
         FULL | {"volume_size": 1, "source_time": 0, "planned_content": 0, "planned_segments": 0, "source_identity": "",
                 "transfer": bytes(15) + b"\1", "lineage": b"\1" + bytes(15), "tag_key": bytes(31) + b"\1"})
    good("begin-full-later-number", "BEGIN", "A full generation need not be number 1: the lineage may be older.",
         FULL | {"number": 9})
    good("begin-identity-decomposed", "BEGIN", "Strings are bytes: e with a combining accent stays two code points.",
         FULL | {"source_identity": "cafe\u0301"})
    breaks: list[Break] = [
        ("transfer-zeros", "zero-transfer", {"transfer": bytes(16)}),
        ("kind-three", "bad-kind", {"kind": 3}),
        ("tag-algorithm-zero", "bad-tag-algorithm", {"tag_algorithm": 0}),
        ("reserved", "reserved-bits", {"reserved": b"\x01\0\0\0\0\0"}),
        ("lineage-zeros", "zero-lineage", {"lineage": bytes(16)}),
        ("number-zero", "bad-number", {"number": 0}),
        ("parent", "bad-parent", {"parent": PARENT}),
        ("size-zero", "bad-volume-size", {"volume_size": 0}),
        ("key-zeros", "bad-tag-key", {"tag_key": bytes(32)}),
        ("identity-long", "bad-string-length", {"source_identity": "s" * 513}),
    ]
    bad_each("begin", "BEGIN", FULL, breaks)
    for suffix, reason, note, fields in (
            ("kind-zero", "bad-kind", "Kinds begin at 1.", FULL | {"kind": 0}),
            ("tag-algorithm-three", "bad-tag-algorithm", "Algorithms end at 2.", FULL | {"tag_algorithm": 3}),
            ("delta-no-parent", "bad-parent", "A delta needs a parent.", DELTA | {"parent": bytes(32)}),
            ("delta-key", "bad-tag-key", "A delta carries no key.", DELTA | {"tag_key": KEY}),
            ("size-too-great", "bad-volume-size", "One more than 2^62.", FULL | {"volume_size": TOP + 1}),
            ("identity-newline", "bad-string-characters", "A line break.", FULL | {"source_identity": "a\nb"})):
        bad(f"begin-{suffix}", "BEGIN", reason, note, e.begin(**fields))
    bad_ends("begin", "BEGIN", e.begin(**FULL))


def small_messages() -> None:
    for type_, name in (("READY", "next_segment"), ("ACK", "durable_segments")):
        lower = type_.lower()
        for suffix, value in (("", 3), ("-zero", 0), ("-greatest", U64), ("-2-53", 1 << 53)):
            good(f"{lower}{suffix}", type_, "Any number of 64 bits.", {name: value})
        bad_ends(lower, type_, e.ready(3))

    good("seal", "SEAL", "Two records.", SEAL)
    good("seal-greatest", "SEAL", "The most records and content, the highest end.",
         SEAL | {"segment_index": U64, "record_count": 65_536, "content": 33_554_432, "end_offset": TOP})
    good("seal-no-content", "SEAL", "One record, a zero or unmap.", SEAL | {"record_count": 1, "content": 0})
    bad_each("seal", "SEAL", SEAL, [
        ("records-zero", "bad-record-count", {"record_count": 0}),
        ("reserved", "reserved-bits", {"reserved": 1}),
        ("content-limit", "content-limit", {"content": 33_554_433}),
    ])
    bad("seal-records-too-many", "SEAL", "bad-record-count", "65,537 records.",
        e.seal(**(SEAL | {"record_count": 65_537})))
    bad_ends("seal", "SEAL", e.seal(**SEAL))
    sealed = {"sealed": SEAL}
    good("seal-agrees", "SEAL", "What the receiver counted is what SEAL says.", SEAL, sealed)
    breaks: list[Break] = [
        ("index", "segment-index", {"segment_index": 4}), ("count", "record-count", {"record_count": 3}),
        ("content", "content-mismatch", {"content": 4608}), ("end", "end-offset", {"end_offset": 512}),
        ("digest", "segment-digest", {"segment_digest": noise(12, 32)})]
    for suffix, reason, change in breaks:
        bad(f"seal-against-{suffix}", "SEAL", reason, "SEAL disagrees with the records before it.",
            e.seal(**(SEAL | change)), sealed)
    bad("seal-against-order", "SEAL", "segment-index", "Everything disagrees: the index comes first.",
        e.seal(4, 3, 4608, 512, noise(12, 32)), sealed)

    good("committed", "COMMITTED", "A committed generation.", {"number": 7, "generation_id": PARENT})
    good("committed-greatest", "COMMITTED", "The greatest number.", {"number": U64, "generation_id": b"\xff" * 32})
    bad_ends("committed", "COMMITTED", e.committed(7, PARENT))

    rules = ("unsupported-version", "malformed", "not-authorised", "busy", "parent-mismatch", "in-use", "space",
             "storage", "corrupt", "limit", "stopping", "invitation")
    for code, rule in enumerate(rules, start=1):
        good(f"refuse-{code:02}-{rule}", "REFUSE", f"Code {code}.",
             {"code": code, "rule": rule, "text": "The standby refuses this."})
    good("refuse-longest", "REFUSE", "The longest rule and text.", {"code": 2, "rule": "r" * 64, "text": "t" * 256})
    good("refuse-shortest", "REFUSE", "A rule that nobody knows counts as its code; no text.",
         {"code": 12, "rule": "0", "text": ""})
    base = {"code": 2, "rule": "malformed", "text": "A sentence."}
    bad_each("refuse", "REFUSE", base, [
        ("code-zero", "bad-code", {"code": 0}),
        ("reserved", "reserved-bits", {"reserved": 0x100}),
        ("rule-empty", "bad-string-length", {"rule": ""}),
        ("text-newline", "bad-string-characters", {"text": "a\nb"}),
    ])
    for suffix, reason, change in (
            ("code-thirteen", "bad-code", {"code": 13}), ("rule-long", "bad-string-length", {"rule": "r" * 65}),
            ("rule-capital", "bad-string-characters", {"rule": "Malformed"}),
            ("rule-underscore", "bad-string-characters", {"rule": "in_use"}),
            ("text-long", "bad-string-length", {"text": "t" * 257}),
            ("text-utf8", "bad-string-utf8", {"text": b"\xfe"})):
        bad(f"refuse-{suffix}", "REFUSE", reason, f"Only `{suffix}` is wrong.", e.refuse(**(base | change)))
    bad_ends("refuse", "REFUSE", e.refuse(**base))

    good("ping", "PING", "No payload.", {})
    bad("ping-payload", "PING", "trailing-bytes", "One byte of payload.", b"\0")

    good("progress-proving", "PROGRESS", "Nothing proved yet.", {"phase": 1, "done": 0, "total": 1 << 30})
    good("progress-applying", "PROGRESS", "All applied.", {"phase": 2, "done": U64, "total": U64})
    good("progress-nothing", "PROGRESS", "Nothing to do.", {"phase": 2, "done": 0, "total": 0})
    base = {"phase": 1, "done": 5, "total": 9}
    bad_each("progress", "PROGRESS", base, [
        ("phase-zero", "bad-phase", {"phase": 0}),
        ("reserved", "reserved-bits", {"reserved": b"\0" * 6 + b"\x80"}),
        ("past-total", "done-past-total", {"done": 10}),
    ])
    bad("progress-phase-three", "PROGRESS", "bad-phase", "Phases end at 2.", e.progress(3, 0, 0))
    bad_ends("progress", "PROGRESS", e.progress(1, 5, 9))


def generations() -> None:
    good("generation-full", "COMMIT", "A full generation with a volume root.", GENERATION)
    good("generation-delta", "COMMIT", "A delta without a volume root.", GENERATION_DELTA)
    good("generation-sha256", "COMMIT", "sha256 tags.", GENERATION | {"tag_algorithm": 2})
    good("generation-greatest", "COMMIT", "The greatest numbers and the longest source identity.",
         GENERATION_DELTA | {"number": U64, "volume_size": TOP, "source_time": U64, "segment_count": U64,
                             "source_identity": "é" * 256})
    good("generation-empty-delta", "COMMIT", "A delta of no segments.",
         GENERATION_DELTA | {"segment_count": 0, "delta_digest": e.delta_digest([]), "source_identity": ""})
    bad_each("generation", "COMMIT", GENERATION, [
        ("magic", "bad-magic", {"magic": b"BFGX"}),
        ("format-two", "bad-format", {"format": 2}),
        ("kind-zero", "bad-kind", {"kind": 0}),
        ("tag-algorithm-three", "bad-tag-algorithm", {"tag_algorithm": 3}),
        ("lineage-zeros", "zero-lineage", {"lineage": bytes(16)}),
        ("number-zero", "bad-number", {"number": 0}),
        ("parent", "bad-parent", {"parent": PARENT}),
        ("size-too-great", "bad-volume-size", {"volume_size": TOP + 1}),
        ("identity-long", "bad-string-length", {"source_identity": "s" * 513}),
    ])
    bad("generation-delta-no-parent", "COMMIT", "bad-parent", "A delta needs a parent.",
        e.generation(**(GENERATION_DELTA | {"parent": bytes(32)})))
    bad("generation-size-zero", "COMMIT", "bad-volume-size", "A volume has at least one byte.",
        e.generation(**(GENERATION | {"volume_size": 0})))
    bad("generation-identity-utf8", "COMMIT", "bad-string-utf8", "Broken UTF-8.",
        e.generation(**(GENERATION | {"source_identity": b"\xc3"})))
    bad_ends("generation", "COMMIT", e.generation(**GENERATION))

    transfer = {"begin": e.begin(**FULL), "peer_key_id": SENDER, "sealed_segments": 16,
                "sealed_delta_digest": GENERATION["delta_digest"], "unsealed_records": 0, "last_end": 1 << 30}
    good("commit-agrees", "COMMIT", "The record agrees with the transfer.", GENERATION, transfer)
    good("commit-delta-agrees", "COMMIT", "A delta need not cover the volume.", GENERATION_DELTA,
         transfer | {"begin": e.begin(**DELTA), "last_end": 512})
    for suffix, change in (
            ("kind", {"kind": 2, "parent": PARENT}), ("tag-algorithm", {"tag_algorithm": 2}),
            ("lineage", {"lineage": noise(13, 16)}), ("number", {"number": 2}), ("size", {"volume_size": 1 << 29}),
            ("source-time", {"source_time": TIME + 1}), ("identity", {"source_identity": "other"})):
        bad(f"commit-begin-{suffix}", "COMMIT", "begin-mismatch", f"Another {suffix} than in BEGIN.",
            e.generation(**(GENERATION | change)), transfer)
    bad("commit-begin-parent", "COMMIT", "begin-mismatch", "A delta onto another parent than in BEGIN.",
        e.generation(**(GENERATION_DELTA | {"parent": noise(14, 32)})), transfer | {"begin": e.begin(**DELTA)})
    bad("commit-begin-identity-composed", "COMMIT", "begin-mismatch",
        "Canonically equivalent strings are different bytes, so they do not agree.",
        e.generation(**(GENERATION | {"source_identity": "caf\u00e9"})),
        transfer | {"begin": e.begin(**(FULL | {"source_identity": "cafe\u0301"}))})
    checks: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
        ("source-time", "begin-mismatch", {"source_time": 0}, {}),
        ("sender", "sender-key", {"sender_key_id": RECEIVER}, {}),
        ("segments", "segment-count", {"segment_count": 15}, {}),
        ("delta-digest", "delta-digest", {"delta_digest": noise(15, 32)}, {}),
        ("unsealed", "records-after-seal", {}, {"unsealed_records": 1}),
        ("uncovered", "volume-not-covered", {}, {"last_end": (1 << 30) - 512}),
    ]
    for (suffix, reason, change, context) in checks[1:]:
        bad(f"commit-{suffix}", "COMMIT", reason, f"Only `{suffix}` is wrong.", e.generation(**(GENERATION | change)),
            transfer | context)
    for (suffix1, reason, change1, context1), (suffix2, _, change2, context2) in zip(checks, checks[1:]):
        bad(f"commit-order-{suffix1}-{suffix2}", "COMMIT", reason, "Two disagreements: the first in the text is reported.",
            e.generation(**(GENERATION | change1 | change2)), transfer | context1 | context2)


# Frames -----------------------------------------------------------------------------------------------------------

def frames() -> None:
    samples: dict[str, dict[str, Any]] = {
        "HELLO": {"lowest_version": 1, "highest_version": 1, "features": 0, "software": "blockferry 1.0"},
        "WELCOME": {"version": 1, "features": 0, "software": "blockferryd 1.0"},
        "OPEN": {"volume": "vm-disk.0"}, "STATE": STATE, "BEGIN": FULL, "READY": {"next_segment": 0}, "SEAL": SEAL,
        "ACK": {"durable_segments": 4}, "COMMIT": GENERATION, "COMMITTED": {"number": 1, "generation_id": PARENT},
        "REFUSE": {"code": 4, "rule": "busy", "text": "Another session has the volume."}, "PING": {},
        "PROGRESS": {"phase": 2, "done": 1, "total": 2}, "PAIR": {"secret": SECRET, "name": "host-a"},
        "PAIRED": {"volume": "vm-disk.0"},
    }
    for sequence, (type_, fields) in enumerate(samples.items()):
        payload = e.MESSAGES[type_](**fields)
        put(f"frame-{type_.lower()}", "frame", f"{type_} as the frame number {sequence}.",
            e.frame(type_, payload, sequence), context={"sequence": sequence},
            fields={"type": type_, "sequence": sequence, "payload_length": len(payload),
                    "payload_checksum": xxh3(payload), "message": message_fields(type_, payload, fields)})
    content = noise(20, 512)
    payload = e.data_record(0, content, KEY, 1)
    put("frame-record", "frame", "RECORD with 512 bytes of data.", e.frame("RECORD", payload, 4),
        context={"sequence": 4, "volume_size": 1 << 30, "previous_end": 0, "full": True, "tag_key": KEY,
                 "tag_algorithm": 1},
        fields={"type": "RECORD", "sequence": 4, "payload_length": len(payload), "payload_checksum": xxh3(payload),
                "message": record_fields(1, 0, 0, content, content, KEY, 1)})
    put("frame-sequence-greatest", "frame", "The last sequence number there is.", e.frame("PING", b"", U64),
        context={"sequence": U64}, fields={"type": "PING", "sequence": U64, "payload_length": 0,
                                           "payload_checksum": 0x2D06800538D394C2, "message": {}})

    hello = e.hello()

    def wrong(name: str, reason: str, note: str, data: bytes, sequence: int = 0) -> None:
        put(f"frame-{name}", "frame", note, data, context={"sequence": sequence} if sequence else None, reason=reason)

    good_frame = e.frame("HELLO", hello)
    wrong("header-short", "truncated", "31 bytes.", good_frame[:31])
    wrong("header-none", "truncated", "No bytes at all.", b"")
    wrong("header-checksum", "header-checksum", "One bit of the checksum is wrong.",
          e.frame("HELLO", hello, header_checksum=crc32c(good_frame[:28]) ^ 1))
    flipped = bytearray(good_frame)
    flipped[16] ^= 0x10
    wrong("header-flip", "header-checksum", "A flipped bit in the payload checksum is an error of the header.",
          bytes(flipped))
    wrong("flags", "reserved-bits", "A flag.", e.frame("HELLO", hello, flags=0x8000))
    wrong("reserved", "reserved-bits", "The reserved word is not zero.", e.frame("HELLO", hello, reserved=1 << 31))
    for number in (0, 17, 0xFFFF):
        wrong(f"type-{number}", "unknown-type", f"There is no type {number}.", e.frame(number, hello))
    wrong("type-263", "unknown-type", "The type has 16 bits: 263 is not 7.", e.frame(263, hello))
    wrong("control-too-long", "payload-too-long", "1,025 bytes in a control frame; only the header is there.",
          e.frame("HELLO", length=1025))
    wrong("record-too-long", "payload-too-long", "1,048,881 bytes in RECORD; only the header is there.",
          e.frame("RECORD", length=1_048_881))
    wrong("ping-too-long", "payload-too-long", "PING has no payload.", e.frame("PING", b"\0"))
    wrong("length-greatest", "payload-too-long", "4 GiB less one byte: nothing may be allocated for it.",
          e.frame("RECORD", length=0xFFFFFFFF))
    wrong("control-greatest-cut", "truncated", "1,024 bytes are within the limit, but they are not there.",
          e.frame("HELLO", length=1024))
    wrong("record-greatest-cut", "truncated", "1,048,880 bytes are within the limit, but they are not there.",
          e.frame("RECORD", length=1_048_880))
    wrong("sequence-ahead", "sequence", "Frame 1 where 0 is expected.", e.frame("HELLO", hello, 1))
    wrong("sequence-again", "sequence", "Frame 4 again where 5 is expected.", e.frame("PING", b"", 4), 5)
    wrong("payload-short", "truncated", "The last byte of the payload is missing.", good_frame[:-1])
    wrong("payload-checksum", "payload-checksum", "The header is right, the payload's checksum is not.",
          e.frame("HELLO", hello, payload_checksum=xxh3(hello) ^ 1 << 63))
    wrong("payload-flip", "payload-checksum", "A flipped bit in the payload.",
          good_frame[:-1] + bytes([good_frame[-1] ^ 1]))
    wrong("ping-checksum", "payload-checksum", "PING with the checksum 0 in place of that of no bytes.",
          e.frame("PING", payload_checksum=0))
    wrong("message", "bad-magic", "A right frame around a wrong message.", e.frame("HELLO", e.hello(magic=b"blkferry")))
    wrong("message-trailing", "trailing-bytes", "A right frame around a message with a byte too many.",
          e.frame("ACK", e.ack() + b"\0"))
    wrong("record-empty", "truncated", "RECORD without a record.", e.frame("RECORD"))
    wrong("order-checksum-flags", "header-checksum", "Wrong header checksum and a flag.",
          e.frame("HELLO", hello, flags=1, header_checksum=0))
    wrong("order-flags-type", "reserved-bits", "A flag on an unknown type.", e.frame(99, hello, flags=1))
    wrong("order-reserved-type", "reserved-bits", "The reserved word, and an unknown type.",
          e.frame(99, hello, reserved=1))
    wrong("order-type-length", "unknown-type", "An unknown type with a great length.", e.frame(99, length=0xFFFFFFFF))
    wrong("order-length-sequence", "payload-too-long", "Too long, and out of sequence.",
          e.frame("HELLO", sequence=9, length=1025))
    wrong("order-sequence-truncated", "sequence", "Out of sequence, and the payload is missing.",
          e.frame("HELLO", sequence=9, length=30))
    wrong("order-sequence-checksum", "sequence", "Out of sequence, and a wrong payload checksum.",
          e.frame("HELLO", hello, 9, payload_checksum=0))
    wrong("order-payload-message", "payload-checksum", "A wrong payload checksum around a wrong message.",
          e.frame("HELLO", e.hello(magic=b"blkferry"), payload_checksum=0))


# Records ----------------------------------------------------------------------------------------------------------

def record_fields(kind: int, encoding: int, offset: int, content: bytes | int, stored: bytes = b"",
                  key: bytes = KEY, algorithm: int = 1) -> dict[str, Any]:
    """Content is bytes for data, a length for zero and unmap."""
    if isinstance(content, int):
        return {"kind": kind, "encoding": 0, "tag_count": 0, "stored_length": 0, "offset": offset, "length": content,
                "tags": []}
    tags = e.tags_of(offset, content, key, algorithm)
    return {"kind": kind, "encoding": encoding, "tag_count": len(tags), "stored_length": len(stored), "offset": offset,
            "length": len(content), "tags": tags, "content_sha256": hashlib.sha256(content).digest()}


# Made once with zstd 1.5.4 at level 19: real literals, sequences and a content checksum.
PHRASE = (b"the quick brown fox ferries blocks; " * 60)[:2048]
PHRASE_ZSTD = bytes.fromhex("28b52ffd6400076d0100440274686520717569636b2062726f776e20666f78206665727269657320626c6f636b73"
                            "3b200100ccfefcea09591d88dd")
SQUARES = b"".join(b"%d\n" % (i * i) for i in range(400))[:1536]
SQUARES_ZSTD = bytes.fromhex(
    "28b52ffd6400050d15000a60700a09b079a434b63b71dd09a100a100a4009376768159117dee7cbc7c00fee87e26f8aa25fb8c4c7ad9c7b2"
    "6ac84c94d12003288f1fcfbd5764ef129eb4de0bbc7ac56c8ab11303788ce4981fb172630fc6a4103bab2ba0ce301de11d8074047786e80a"
    "da9deca4d03d8a2b13e70f473a07708e15ce36570fee554e5aee42ae08381738be0650a369a65975f6f9a4df475695993cda03f0f8981b2b"
    "ea2e9db47b7175cee6580e8023cd5f798f4977aee67110d111a81d80b423b49da1d8159cdd19eca4c0ee31d0950d9d4fe848541cc08b63a3"
    "381b8aab0f712f13272d71971aaee8c3b91e8ee77000758efe39539cabf2dc8784935eb84f0857a570263247df1c80cdf134e75670450fee"
    "e2e0a40dee55e5ea53ce96726c940360391291f34fae6c728f929302b993802b3870060347287000001c816a86d70a5c3b5b9342ed41b4f2"
    "69be69a4d20048636b66cfac2eb3574cf7a4bdf71af1ea219e5df658b107407ba487e737bc32d57bb89e14ea9da757507a06028f60f00000"
    "3cc22b6668c50a8862a72926058a3d3eb17227e6d363243f06c0c7d891981d12ab97632f714c5ac72e14b12247cc65c4f8690cc08dd1d098"
    "e98c5583b14f414c7a887d0ab16a556792eae8560750d4f1429d5bea8a68ba8b4c27ed742f7a57977776dfb1251dc0a523553abfdc95efee"
    "11eea4e0ee9ce80a1c9d810134a36966a6ceac3a9f7df899f432fb80ccaae299a962463b6600d5191f9db9c4595139bb0ccca485d9ebf5d5"
    "599f7dfa58d207f0f948309f2fffcaf0ef21f24941be53fc15803f83c44780f800a41f01fa19845f01f03b053e29c0f7909295a164be908c"
    "042403f8c8588eccfe65755ef6bac8a415d9652c2baa652e858c8f90015465b42b33156555a1ec0394490fb20f41569df24c2d8f26f2004c"
    "1e5fe3b9325e118c77790082c89109")


def record_context(algorithm: int = 1, **changes: Any) -> dict[str, Any]:
    return {"volume_size": 1 << 30, "previous_end": 0, "full": False, "tag_key": KEY, "tag_algorithm": algorithm} | changes


def valid_records() -> None:
    def raw(name: str, note: str, offset: int, content: bytes, algorithm: int = 1, **context: Any) -> None:
        put(f"record-{name}", "record", note, e.data_record(offset, content, KEY, algorithm),
            context=record_context(algorithm, **context),
            fields=record_fields(1, 0, offset, content, content, KEY, algorithm))

    def packed(name: str, note: str, offset: int, content: bytes, stored: bytes, algorithm: int = 1, **context: Any) -> None:
        put(f"record-{name}", "record", note, e.data_record(offset, content, KEY, algorithm, stored=stored),
            context=record_context(algorithm, **context),
            fields=record_fields(1, 1, offset, content, stored, KEY, algorithm))

    small, block = noise(20, 512), noise(21, BLOCK)
    raw("raw-512", "The smallest data that is no end of a volume.", 4096, small)
    raw("raw-512-sha256", "The same content under sha256.", 4096, small, 2)
    raw("raw-block", "One whole block: its tag is the block's own.", 3 * BLOCK, block)
    raw("raw-block-sha256", "One whole block under sha256.", 3 * BLOCK, block, 2)
    raw("raw-two-tags", "1,024 bytes across the border of two blocks.", BLOCK - 512, noise(22, 1024))
    raw("raw-two-tags-sha256", "The same under sha256.", BLOCK - 512, noise(22, 1024), 2)
    raw("raw-last-sectors", "Ends exactly at the end of a block: one tag.", BLOCK - 1024, noise(22, 1024))
    raw("raw-mib-aligned", "1 MiB from the beginning of a block: 16 tags.", 16 * BLOCK, noise(23, MIB))
    raw("raw-mib-unaligned", "1 MiB from inside a block: 17 tags.", 512, noise(23, MIB))
    raw("raw-mib-unaligned-sha256", "17 tags under sha256.", BLOCK - 512, noise(23, MIB), 2)
    raw("raw-zeros", "Zeros as data are valid.", 0, bytes(4096))
    raw("raw-repeat", "A block of one byte.", 0, b"\xaa" * BLOCK)
    raw("raw-odd-end", "Ends the volume at an odd length.", 4096, noise(24, 777), volume_size=4096 + 777)
    raw("raw-odd-end-two-tags", "Ends the volume, one byte into the second block.", BLOCK - 512, noise(25, 513),
        volume_size=BLOCK + 1)
    raw("raw-one-byte", "A volume of one byte.", 0, b"\x5a", volume_size=1, full=True)
    raw("raw-full-next", "In a full generation, exactly behind the record before.", 8192, small, previous_end=8192,
        full=True)
    raw("raw-delta-gap", "In a delta a gap is allowed.", 8192, small, previous_end=512)
    raw("raw-high", "The last sector below 2^62.", TOP - 512, small, volume_size=TOP, previous_end=TOP - 512)
    packed("zstd-phrase", "zstd with matches and a content checksum.", 4096, PHRASE, PHRASE_ZSTD)
    packed("zstd-squares", "zstd with compressed literals and sequences.", 0, SQUARES, SQUARES_ZSTD, 2)
    packed("zstd-two-tags", "zstd across the border of two blocks: tags are over the plain content.", BLOCK - 1024,
           PHRASE, PHRASE_ZSTD)
    packed("zstd-mib", "1 MiB of one byte in 8 blocks, 17 tags; the window is the whole 1 MiB.", 512, b"\xc3" * MIB,
           e.zstd_frame([(1, 131_072, b"\xc3")] * 8, MIB))
    packed("zstd-window-mib", "A window descriptor of exactly 1 MiB.", 0, b"\x11" * 4096,
           e.zstd_frame([(1, 4096, b"\x11")], 4096, window=10 << 3))
    packed("zstd-one-below", "Stored length one below length: the longest that zstd may have.", 0,
           noise(26, 512)[:500] + b"\x77" * 524,
           e.zstd_frame([(0, 999, (noise(26, 512)[:500] + b"\x77" * 499)), (1, 25, b"\x77")], 1024))
    packed("zstd-odd-end", "Ends the volume at an odd length.", 0, b"\x11" * 999,
           e.zstd_frame([(1, 999, b"\x11")], 999), volume_size=999, full=True)
    for kind, what, make in ((2, "zero", e.zero_record), (3, "unmap", e.unmap_record)):
        for suffix, note, offset, length, context in (
                ("512", "One sector.", 512, 512, {}),
                ("above-data-limit", "Longer than data may be.", 4096, MIB + 512, {}),
                ("whole", "The whole of the greatest volume.", 0, TOP, {"volume_size": TOP, "full": True}),
                ("high", "The last sector below 2^62.", TOP - 512, 512, {"volume_size": TOP, "previous_end": 512}),
                ("odd-end", "Ends the volume at an odd length.", 1 << 40, 12_345,
                 {"volume_size": (1 << 40) + 12_345})):
            put(f"record-{what}-{suffix}", "record", note, make(offset, length),
                context=record_context(**context), fields=record_fields(kind, 0, offset, length))
    content = noise(20, 512)
    put("record-message", "message", "The payload of RECORD is a record.", e.data_record(0, content, KEY, 2),
        type="RECORD", context=record_context(2), fields=record_fields(1, 0, 0, content, content, KEY, 2))


def invalid_records() -> None:
    content = noise(30, 1000) + b"\x01" * 24
    tags = e.tags_of(4096, content, KEY, 1)
    base: dict[str, Any] = {"kind": 1, "encoding": 0, "offset": 4096, "length": 1024, "tags": tags, "stored": content}
    zero: dict[str, Any] = {"kind": 2, "encoding": 0, "offset": 4096, "length": 1024, "tags": [], "stored": b""}

    def wrong(name: str, reason: str, note: str, data: bytes, **context: Any) -> None:
        put(f"record-{name}", "record", note, data, context=record_context(**context), reason=reason)

    def change(name: str, reason: str, note: str, fields: dict[str, Any], start: dict[str, Any] = base,
               **context: Any) -> None:
        wrong(name, reason, note, e.raw_record(**(start | fields)), **context)

    whole = e.raw_record(**base)
    wrong("empty", "truncated", "No bytes at all.", b"")
    wrong("header-short", "truncated", "31 bytes.", whole[:31])
    wrong("order-short-kind", "truncated", "31 bytes with an unknown kind.", b"\xff" * 31)
    for kind in (0, 4, 255):
        change(f"kind-{kind}", "bad-kind", f"There is no kind {kind}.", {"kind": kind})
    change("encoding", "bad-encoding", "Encodings of data end at 1.", {"encoding": 2})
    change("zero-encoding", "bad-encoding", "A zero record has no encoding.", {"encoding": 1}, zero)
    change("unmap-encoding", "bad-encoding", "An unmap record has no encoding.", {"kind": 3, "encoding": 1}, zero)
    change("reserved", "reserved-bits", "The reserved word is not zero.", {"reserved": 1})
    change("length-zero", "zero-length", "A zero record of length 0.", {"length": 0}, zero)
    change("data-length-zero", "zero-length", "A data record of length 0.", {"length": 0, "tags": [], "stored": b""})
    change("extent-past-top", "extent-overflow", "Ends one sector past 2^62.", {"offset": TOP, "length": 512}, zero)
    change("extent-wraps", "extent-overflow", "Offset plus length passes 2^64 and wraps to 512.",
           {"offset": U64 - 511, "length": 1024}, zero)
    change("extent-length-greatest", "extent-overflow", "The greatest length.", {"offset": 0, "length": U64}, zero)
    change("offset-odd", "offset-alignment", "The offset is no multiple of 512.", {"offset": 4097})
    change("offset-256", "offset-alignment", "The offset is a multiple of 256 only.", {"offset": 4096 + 256}, zero)
    change("data-too-long", "data-too-long", "1 MiB and one sector of data.", {"length": MIB + 512})
    change("data-too-long-odd", "data-too-long", "1 MiB and one byte of data.", {"length": MIB + 1})
    change("tags-too-few", "tag-count", "Two blocks are touched, one tag is there.", {"offset": BLOCK - 512})
    change("tags-too-many", "tag-count", "One block is touched, two tags are there.", {"tags": tags * 2})
    change("tags-none", "tag-count", "Data without a tag.", {"tags": []})
    change("zero-tags", "tag-count", "A zero record with a tag.", {"tags": tags}, zero)
    change("unmap-tags", "tag-count", "An unmap record with a tag.", {"kind": 3, "tags": tags}, zero)
    change("raw-stored-short", "stored-length", "Raw, but fewer bytes stored than the length.",
           {"stored": content[:512]})
    change("raw-stored-long", "stored-length", "Raw, but more bytes stored than the length.",
           {"stored": content + bytes(512)})
    change("zero-stored", "stored-length", "A zero record with content.", {"stored": bytes(1024)}, zero)
    change("unmap-stored", "stored-length", "An unmap record with content.", {"kind": 3, "stored": b"\0"}, zero)
    change("zstd-stored-none", "stored-length", "zstd with nothing stored.", {"encoding": 1, "stored": b""})
    change("zstd-stored-equal", "stored-length", "zstd that saves nothing.", {"encoding": 1})
    wrong("cut", "truncated", "The last byte is missing.", whole[:-1])
    wrong("cut-tags", "truncated", "The end lies inside the tag.", whole[:40])
    wrong("trailing", "trailing-bytes", "One byte too many.", whole + b"\0")
    wrong("zero-trailing", "trailing-bytes", "One byte behind a zero record.", e.zero_record(0, 512) + b"\0")
    change("checksum", "header-checksum", "The checksum is wrong.", {"header_checksum": 0})
    flipped = bytearray(whole)
    flipped[33] ^= 1
    wrong("checksum-tag", "header-checksum", "A flipped bit in a tag is an error of the header.", bytes(flipped))
    header_only = whole[:28] + crc32c(whole[:28]).to_bytes(4, "little") + whole[32:]
    wrong("checksum-without-tags", "header-checksum", "A checksum that leaves the tags out.", header_only)

    wrong("past-end", "past-volume-end", "Ends past the volume.", whole, volume_size=5119)
    wrong("length-odd", "length-alignment", "An odd length that does not end the volume.",
          e.data_record(4096, content[:1000], KEY, 1))
    wrong("zero-length-odd", "length-alignment", "An odd length of zeros that does not end the volume.",
          e.zero_record(4096, 1000), volume_size=5097)
    wrong("order-backwards", "order", "Begins before the end of the record before.", whole, previous_end=4608)
    wrong("order-same", "order", "The same extent again.", whole, previous_end=5120)
    wrong("full-gap", "order", "A gap in a full generation.", whole, previous_end=3584, full=True)
    wrong("full-first", "order", "The first record of a full generation does not begin at 0.", whole, full=True)
    wrong("full-backwards", "order", "An overlap in a full generation.", whole, previous_end=4608, full=True)

    def packed(name: str, reason: str, note: str, stored: bytes, plain_content: bytes = b"\x11" * 4096) -> None:
        wrong(f"zstd-{name}", reason, note, e.data_record(0, plain_content, KEY, 1, stored=stored))

    run = [(1, 4096, b"\x11")]
    packed("magic", "zstd-frame", "No zstd frame.", b"\x00" * 32)
    packed("skippable", "zstd-frame", "A skippable frame first.",
           b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + e.zstd_frame(run, 4096))
    packed("magic-only", "zstd-frame", "Nothing behind the magic.", b"\x28\xb5\x2f\xfd")
    packed("no-size", "zstd-frame", "No content size in the header.", e.zstd_frame(run, None, window=2 << 3))
    packed("dictionary", "zstd-frame", "A dictionary id in the header.", e.zstd_frame(run, 4096, dictionary=True))
    packed("reserved", "zstd-frame", "The reserved bit of the descriptor.", e.zstd_frame(run, 4096, reserved_bit=True))
    packed("window", "zstd-frame", "A window of 1 MiB and an eighth.", e.zstd_frame(run, 4096, window=10 << 3 | 1))
    packed("window-huge", "zstd-frame", "The greatest window.", e.zstd_frame(run, 4096, window=0xFF))
    packed("size-above", "zstd-length", "The content size is above length: a bomb by announcement.",
           e.zstd_frame([(1, 4608, b"\x11")], 4608))
    packed("size-below", "zstd-length", "The content size is below length.", e.zstd_frame([(1, 3584, b"\x11")], 3584))
    packed("bomb", "zstd-content", "The size says 4,096, the blocks make 1 MiB.",
           e.zstd_frame([(1, 131_072, b"\x11")] * 8, 4096, window=10 << 3))
    packed("less", "zstd-content", "The size says 4,096, the blocks make 4,095.", e.zstd_frame([(1, 4095, b"\x11")], 4096))
    packed("block-type", "zstd-content", "The reserved block type.", e.zstd_frame([(3, 1, b"\x11")], 4096))
    packed("cut", "zstd-content", "The last block is missing.", e.zstd_frame(run, 4096)[:-4])
    packed("garbage", "zstd-content", "A compressed block of noise.", e.zstd_frame([(2, 64, noise(31, 64))], 4096))
    packed("second-frame", "zstd-content", "A second, empty frame behind the first.",
           e.zstd_frame(run, 4096) + e.zstd_frame([(0, 0, b"")], 0))
    packed("trailing", "zstd-content", "A byte behind the frame.", e.zstd_frame(run, 4096) + b"\0")
    packed("checksum", "zstd-content", "The frame's own content checksum is wrong.",
           PHRASE_ZSTD[:-1] + bytes([PHRASE_ZSTD[-1] ^ 1]), PHRASE)
    packed("order-frame-length", "zstd-frame", "Too great a window, and a wrong content size.",
           e.zstd_frame(run, 5120, window=0xFF))
    packed("order-length-content", "zstd-length", "A wrong content size, and a byte behind the frame.",
           e.zstd_frame([(1, 4608, b"\x11")], 4608) + b"\0")

    flipped = bytearray(whole)
    flipped[-1] ^= 1
    wrong("tag", "tag-mismatch", "A flipped bit in raw content.", bytes(flipped))
    wrong("tag-key", "tag-mismatch", "Tags under another key.", e.data_record(4096, content, noise(32, 32), 1))
    wrong("tag-algorithm", "tag-mismatch", "Tags of the other algorithm.", e.data_record(4096, content, KEY, 2))
    wrong("tag-second", "tag-mismatch", "Two tags, the second is wrong.",
          e.raw_record(1, 0, BLOCK - 512, 1024, e.tags_of(BLOCK - 512, content[:512] + bytes(512), KEY, 1), content))
    wrong("tag-swapped", "tag-mismatch", "Two right tags in the wrong order.",
          e.raw_record(1, 0, BLOCK - 512, 1024, e.tags_of(BLOCK - 512, content, KEY, 1)[::-1], content))
    wrong("tag-across", "tag-mismatch", "One tag over both blocks, given twice.",
          e.raw_record(1, 0, BLOCK - 512, 1024, e.tags_of(0, content, KEY, 1) * 2, content))
    wrong("zstd-tag", "tag-mismatch", "Tags over the stored bytes in place of the content.",
          e.raw_record(1, 1, 0, 2048, e.tags_of(0, PHRASE_ZSTD, KEY, 1), PHRASE_ZSTD))

    change("order-kind-encoding", "bad-kind", "Unknown kind and encoding.", {"kind": 9, "encoding": 9})
    change("order-encoding-reserved", "bad-encoding", "Unknown encoding and a reserved bit.",
           {"encoding": 9, "reserved": 1})
    change("order-reserved-length", "reserved-bits", "A reserved bit and length 0.", {"reserved": 1, "length": 0})
    change("order-length-extent", "zero-length", "Length 0 at an offset past 2^62.", {"length": 0, "offset": TOP + 512})
    change("order-extent-offset", "extent-overflow", "Past 2^62 and odd.", {"offset": TOP + 1})
    change("order-offset-limit", "offset-alignment", "An odd offset, and data too long.",
           {"offset": 4097, "length": MIB + 512})
    change("order-limit-tags", "data-too-long", "Data too long, with no tags.", {"length": MIB + 512, "tags": []})
    change("order-tags-stored", "tag-count", "No tags, and too little stored.", {"tags": [], "stored": b"\0"})
    wrong("order-stored-bytes", "stored-length", "A wrong stored length, and the end is missing.",
          e.raw_record(**(base | {"stored_length": 1023}))[:-100])
    wrong("order-bytes-checksum", "truncated", "The end is missing, and the checksum is wrong.",
          e.raw_record(**(base | {"header_checksum": 0}))[:-1])
    wrong("order-trailing-checksum", "trailing-bytes", "A byte too many, and the checksum is wrong.",
          e.raw_record(**(base | {"header_checksum": 0})) + b"\0")
    change("order-checksum-end", "header-checksum", "A wrong checksum, past the volume.", {"header_checksum": 0},
           volume_size=512)
    wrong("order-end-length", "past-volume-end", "Past the volume, with an odd length.", e.zero_record(4096, 1000),
          volume_size=4097)
    wrong("order-length-order", "length-alignment", "An odd length, and backwards.", e.zero_record(4096, 1000),
          previous_end=8192)
    wrong("order-order-content", "order", "Backwards, with wrong tags.", bytes(flipped), previous_end=8192)
    wrong("order-zstd-tag", "zstd-length", "Wrong content size, and tags of other content.",
          e.raw_record(1, 1, 0, 2048, tags, e.zstd_frame([(1, 4096, b"\x11")], 4096)))


# Digests ----------------------------------------------------------------------------------------------------------

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


# Staging log ------------------------------------------------------------------------------------------------------

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
            ("longest", "The longest BEGIN there is.", 1, longest),
            ("shortest", "The shortest BEGIN there is: 154 bytes.", 1, LOG_BEGIN | {"source_identity": ""})):
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
    wrong("begin-short", "begin-length", "A BEGIN of 151 bytes.", e.log_header(payload[:151], LOG_ID))
    wrong("begin-long", "begin-length", "A BEGIN of 1,025 bytes.", e.log_header(payload, LOG_ID, begin_length=1025))
    wrong("begin-huge", "begin-length", "A BEGIN longer than the page.",
          e.log_header(payload, LOG_ID, begin_length=0xFFFFFFFF))
    wrong("reserved", "reserved-bits", "The word at 36.", e.log_header(payload, LOG_ID, reserved=1))
    wrong("rest", "reserved-bits", "The last byte before the checksum.", e.log_header(payload, LOG_ID, rest=b"\1"))
    wrong("begin-cut", "truncated", "BEGIN ends inside the source identity; the cut bytes are zeros.",
          e.log_header(payload[:152], LOG_ID))
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
              size: int, record_bytes: int | None = None) -> None:
        put(f"segment-{name}", "staging-log-segment", note, data, context=where, fields={
            "segment_index": where["segment_index"],
            "record_bytes": len(b"".join(records)) if record_bytes is None else record_bytes,
            "record_count": len(records), "content": content, "end_offset": end,
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
    place = context | {"mode": 2}
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
    put("log-header-wrong", "staging-log", "Without a valid header there is no log.",
        e.log_header(e.begin(**LOG_BEGIN), LOG_ID, format=2) + first, reason="bad-format")
    put("log-nothing", "staging-log", "An empty file is no log.", b"", reason="truncated")


# Enrolment --------------------------------------------------------------------------------------------------------

def enrolment() -> None:
    def right(name: str, note: str, volume: str, address: str) -> None:
        put(f"invitation-{name}", "invitation", note, e.invitation(e.invitation_bytes(RECEIVER, SECRET, volume, address)),
            fields={"version": 1, "receiver_key_id": RECEIVER, "secret": SECRET, "volume": volume, "address": address})

    right("name", "A host name.", "vm-disk.0", "standby.example.org:7411")
    right("v4", "An IPv4 address.", "vm-disk.0", "192.0.2.7:7411")
    right("v6", "An IPv6 address.", "vm-disk.0", "[2001:db8::7]:7411")
    right("v6-shortest", "The shortest IPv6 address, the greatest port.", "0", "[::]:65535")
    right("longest", "The longest volume name and address.", "a" * 63, "h" * 253 + ":1")
    for padding in range(1, 5):
        right(f"tail-{padding}", "Other lengths of the base32 tail.", "v" * padding, "a.b:80")

    def wrong(name: str, reason: str, note: str, text: str) -> None:
        put(f"invitation-{name}", "invitation", note, text, reason=reason)

    def broken(name: str, reason: str, note: str, volume: str | bytes = "disk", address: str | bytes = "a.b:80",
               **changes: Any) -> None:
        wrong(name, reason, note, e.invitation(e.invitation_bytes(RECEIVER, SECRET, volume, address, **changes)))

    data = e.invitation_bytes(RECEIVER, SECRET, "disk", "a.b:80")
    text = e.invitation(data)
    wrong("prefix", "bad-prefix", "Another prefix.", "bf2." + text[4:])
    wrong("prefix-capital", "bad-prefix", "The prefix in capitals.", "BF1." + text[4:])
    wrong("prefix-none", "bad-prefix", "No prefix.", text[4:])
    wrong("nothing", "bad-prefix", "An empty string.", "")
    wrong("capitals", "bad-base32", "Capitals.", "bf1." + text[4:].upper())
    wrong("character", "bad-base32", "1 is not in the alphabet.", text[:20] + "1" + text[21:])
    wrong("space", "bad-base32", "A space at the end.", text + " ")
    wrong("padding", "bad-base32", "Padding.", text + "=")
    clean = e.invitation(e.invitation_bytes(RECEIVER, SECRET, "disks", "a.b:80"))
    size = len(e.invitation_bytes(RECEIVER, SECRET, "disks", "a.b:80"))
    assert size % 5, "bits are left over"
    last = "abcdefghijklmnopqrstuvwxyz234567".index(clean[-1])
    wrong("bits-left", "bad-base32", "A bit behind the last byte is set.",
          clean[:-1] + "abcdefghijklmnopqrstuvwxyz234567"[last | 1])
    wrong("impossible-length", "bad-base32", "One character, which is no byte.", "bf1.a")
    wrong("no-bytes", "truncated", "Nothing behind the prefix.", "bf1.")
    wrong("three-bytes", "truncated", "Too short for a checksum.", e.invitation(b"\1\2\3"))
    broken("checksum", "checksum", "The checksum is wrong.", checksum=0)
    wrong("typing-error", "checksum", "One character replaced.", text[:30] + ("a" if text[30] != "a" else "b") + text[31:])
    prefixed = data[:-4] + crc32c(b"bf1." + data[:-4]).to_bytes(4, "little")
    wrong("checksum-prefix", "checksum", "A checksum that takes in the prefix.", e.invitation(prefixed))
    broken("version", "bad-version", "Version 2.", version=2)
    short = data[:40]
    wrong("cut", "truncated", "The secret is cut, under a right checksum.",
          e.invitation(short + crc32c(short).to_bytes(4, "little")))
    broken("volume-capital", "bad-string-characters", "A volume name in capitals.", volume="Disk")
    broken("volume-empty", "bad-string-length", "No volume name.", volume="")
    broken("address-empty", "bad-string-length", "No address.", address="")
    broken("address-long", "bad-string-length", "256 bytes of address.", address="h" * 253 + ":80")
    broken("address-utf8", "bad-string-utf8", "An address that is no UTF-8.", address=b"\xff:1")
    for suffix, address in (("no-port", "a.b"), ("empty-port", "a.b:"), ("port-zero", "a.b:0"),
                            ("port-above", "a.b:65536"), ("port-leading-zero", "a.b:080"), ("port-sign", "a.b:+80"),
                            ("no-host", ":80"), ("space", "a b:80"), ("bare-v6", "2001:db8::7:80"),
                            ("v6-open", "[2001:db8::7:80"), ("v6-wrong", "[2001:db8:::7]:80"), ("v6-v4", "[192.0.2.7]:80")):
        broken(f"address-{suffix}", "bad-address", f"{address!r} is no address.", address=address)
    broken("trailing", "trailing-bytes", "A byte between address and checksum.", extra=b"\0")
    wrong("order-prefix-base32", "bad-prefix", "Wrong prefix and characters.", "bf2.!!!")
    broken("order-checksum-version", "checksum", "Wrong checksum and version.", version=2, checksum=0)
    broken("order-version-volume", "bad-version", "Wrong version and volume name.", version=2, volume="Disk")
    broken("order-volume-address", "bad-string-characters", "Wrong volume name and address.", volume="Disk", address=":")
    broken("order-address-trailing", "bad-address", "A wrong address, and a byte too many.", address=":", extra=b"\0")

    for name, key_id in (("receiver", RECEIVER), ("sender", SENDER), ("zeros", bytes(32)), ("ones", b"\xff" * 32)):
        put(f"peer-id-{name}", "peer-id", "A key id as people see it.", e.peer_id(key_id), fields={"key_id": key_id})
    shown = e.peer_id(RECEIVER)

    def wrong_id(name: str, reason: str, note: str, value: str) -> None:
        put(f"peer-id-{name}", "peer-id", note, value, reason=reason)

    wrong_id("empty", "bad-grouping", "An empty string.", "")
    wrong_id("no-hyphens", "bad-grouping", "Without hyphens.", shown.replace("-", ""))
    wrong_id("short", "bad-grouping", "One character is missing.", shown[:-1])
    wrong_id("long", "bad-grouping", "A ninth group.", shown + "-AAAAAAA")
    wrong_id("spaces", "bad-grouping", "Spaces in place of hyphens.", shown.replace("-", " "))
    wrong_id("lower", "bad-base32", "Lower case.", shown.lower())
    wrong_id("digit-one", "bad-base32", "1 is not in the alphabet.", "1" + shown[1:])
    wrong_id("check-alphabet", "bad-base32", "0 among the check characters.", shown[:-1] + "0")
    flat = shown.replace("-", "")
    bits = flat[:51] + "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"["ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".index(flat[51]) | 1] + flat[52:]
    wrong_id("bits-left", "bad-base32", "A bit behind the key id is set.",
             "-".join(bits[at:at + 7] for at in range(0, 56, 7)))
    wrong_id("typing-error", "checksum", "One character replaced.", ("B" if shown[0] != "B" else "C") + shown[1:])
    wrong_id("check", "checksum", "One check character replaced.", shown[:-1] + ("A" if shown[-1] != "A" else "B"))
    swapped = shown[1] + shown[0] + shown[2:]
    assert swapped != shown
    wrong_id("swapped", "checksum", "Two characters swapped.", swapped)
    wrong_id("other-key", "checksum", "Check characters of another key.", shown[:-4] + e.peer_id(SENDER)[-4:])


def main() -> int:
    for group in (greetings, volumes, states, begins, small_messages, generations, frames, valid_records, invalid_records,
                  digests, log_headers, log_segments, logs, enrolment):
        group()
    HERE.mkdir(exist_ok=True)
    for old in HERE.glob("*.json"):
        old.unlink()
    for name, vector in VECTORS.items():
        text = json.dumps(vector, indent=1, ensure_ascii=True) + "\n"
        assert len(text) < 65_536, name
        (HERE / f"{name}.json").write_text(text, "utf-8")
    print(f"{len(VECTORS)} vectors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
