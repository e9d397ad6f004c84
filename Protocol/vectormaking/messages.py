# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Messages and the generation record."""

from __future__ import annotations

from typing import Any

import encode as e
from vectormaking.common import (
    BAD_STRINGS, BLOCK, Break, COMPARED, DELTA, FULL, GENERATION, GENERATION_DELTA, GENERATION_RESYNC, GROUP, GROUPED, KEY,
    PARENT, RECEIVER, RESYNC, RESYNC_FIRST, SEAL, SECRET, SENDER, STATE, TIME, TOP, TRANSFER, U64, bad, bad_each,
    bad_ends, good, noise,
)


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
    good("hello-retry-after", "HELLO", "The sender reads the time in REFUSE.",
         {"lowest_version": 1, "highest_version": 1, "features": 2, "software": "blockferry 1.0"})
    good("welcome-retry-after", "WELCOME", "The receiver knows that feature too.", base | {"features": 2}, {"hello_features": 2})
    good("hello-wide-names", "HELLO", "The sender knows names of volumes as LVM gives them.",
         {"lowest_version": 1, "highest_version": 1, "features": 7, "software": "blockferry 1.0"})
    good("welcome-wide-names", "WELCOME", "So does the receiver.", base | {"features": 4}, {"hello_features": 7})
    good("hello-current", "HELLO", "The sender may say that nothing has changed.",
         {"lowest_version": 1, "highest_version": 1, "features": 8, "software": "blockferry 1.0"})
    good("welcome-current", "WELCOME", "The receiver knows that feature too.", base | {"features": 8}, {"hello_features": 15})
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
    for suffix, volume in (("", "vm-disk.0"), ("-shortest", "0"), ("-longest", "a" * 63), ("-marks", "z._-"),
                           ("-capitals", "LogVol00"), ("-plus", "vm+data"), ("-plus-alone", "+"), ("-low-line-first", "_db"),
                           ("-dot-first", ".disk"), ("-three-dots", "..."), ("-wide-longest", "Z+" * 31 + "A")):
        good(f"open{suffix}", "OPEN", "A volume name that is allowed.", {"volume": volume})
    for suffix, volume, reason in (
            ("name-empty", "", "bad-string-length"), ("name-long", "a" * 64, "bad-string-length"),
            ("name-wide-long", "A" * 64, "bad-string-length"), ("name-dot", ".", "bad-string-characters"),
            ("name-dots", "..", "bad-string-characters"), ("name-at", "a@b", "bad-string-characters"),
            ("name-hash", "a#b", "bad-string-characters"), ("name-colon", "a:b", "bad-string-characters"),
            ("name-zero", "a\0", "bad-string-characters"), ("name-fullwidth", "\uff21", "bad-string-characters"),
            ("name-hyphen-first", "-disk", "bad-string-characters"), ("name-slash", "a/b", "bad-string-characters"),
            ("name-space", "a b", "bad-string-characters"), ("name-umlaut", "dä", "bad-string-characters"),
            ("name-combining", "a\u0301", "bad-string-characters"), ("name-other-digit", "a\u0663", "bad-string-characters"),
            ("name-newline", "disk\n", "bad-string-characters"), ("name-utf8", b"a\xff", "bad-string-utf8")):
        bad(f"open-{suffix}", "OPEN", reason, f"The volume name {volume!r} is not allowed.", e.open_(volume))
    bad_ends("open", "OPEN", e.open_())
    good("paired", "PAIRED", "A volume name, as in OPEN.", {"volume": "vm-disk.0"})
    good("paired-name-capital", "PAIRED", "The alphabet of OPEN holds here too.", {"volume": "VM"})
    bad("paired-name-dots", "PAIRED", "bad-string-characters", "The rule of OPEN holds here too.", e.open_(".."))
    bad_ends("paired", "PAIRED", e.open_())

    key = bytes(range(1, 33))
    good("exportkey", "EXPORTKEY", "A key.", {"key": key})
    good("exportkey-last-bit", "EXPORTKEY", "All but the last bit is zero.", {"key": bytes(31) + b"\x80"})
    bad("exportkey-zeros", "EXPORTKEY", "zero-key", "Zeros are no key.", bytes(32))
    bad_ends("exportkey", "EXPORTKEY", key)

    good("pair", "PAIR", "A secret and a name.", {"secret": SECRET, "name": "host-a"})
    good("pair-longest", "PAIR", "A name of 64 bytes with spaces and accents.",
         {"secret": SECRET, "name": "é" * 31 + " b"})
    bad("pair-name-empty", "PAIR", "bad-string-length", "The name must not be empty.", e.pair(SECRET, ""))
    bad("pair-name-long", "PAIR", "bad-string-length", "65 bytes.", e.pair(SECRET, "n" * 65))
    bad("pair-name-newline", "PAIR", "bad-string-characters", "A line break in the name.", e.pair(SECRET, "a\nb"))
    bad_ends("pair", "PAIR", e.pair(SECRET, "host-a"))


def states() -> None:
    for number, what in enumerate(("empty", "initialising", "consistent", "staging", "applying", "promoted", "diverged",
                                   "suspect", "prepared")):
        fields = STATE | {"state": number}
        if number < 2:
            fields |= {"committed_number": 0, "committed_id": bytes(32)}
        if number == 0:
            fields |= {"lineage": bytes(16)}
        if number in (1, 3, 8):
            fields |= {"transfer": TRANSFER, "durable_segments": 5}
        good(f"state-{what}", "STATE", f"The state `{what}`.", fields)
    good("state-prepared-full", "STATE", "A full generation of a group, prepared: nothing is committed yet.",
         STATE | {"state": 8, "committed_number": 0, "committed_id": bytes(32), "lineage": bytes(16),
                  "transfer": TRANSFER, "durable_segments": 5})
    good("state-greatest", "STATE", "A file, and the greatest numbers.",
         STATE | {"target_kind": 2, "target_size": U64, "committed_number": U64, "transfer": b"\xff" * 16,
                  "durable_segments": U64})
    good("state-transfer-none-durable", "STATE", "An unfinished transfer of which nothing is durable; a file of size 0.",
         STATE | {"state": 3, "target_kind": 2, "target_size": 0, "transfer": TRANSFER})
    bad_each("state", "STATE", STATE, [
        ("unknown", "bad-state", {"state": 9}),
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
    good("begin-delta-shrink", "BEGIN", "A delta whose volume may be smaller than its parent.",
         DELTA | {"flags": 1, "volume_size": 1 << 29})
    good("begin-group", "BEGIN", "A delta of a group of two.", GROUPED)
    good("begin-group-full", "BEGIN", "A full generation of the greatest group, all bits of its id set.",
         FULL | {"members": 256, "group": b"\xff" * 16})
    good("begin-greatest", "BEGIN", "The greatest numbers and the longest source identity.",
         DELTA | {"members": 256, "group": bytes(15) + b"\1",
                  "number": U64, "volume_size": TOP, "source_time": U64, "planned_content": U64,
                  "planned_segments": 1 << 20, "held_segments": U64, "source_identity": "s" * 512})
    good("begin-smallest", "BEGIN", "A volume of one byte, everything else as small as it goes.",
         FULL | {"volume_size": 1, "source_time": 0, "planned_content": 0, "planned_segments": 0, "source_identity": "",
                 "transfer": bytes(15) + b"\1", "lineage": b"\1" + bytes(15), "tag_key": bytes(31) + b"\1"})
    good("begin-full-later-number", "BEGIN", "A full generation need not be number 1: the lineage may be older.",
         FULL | {"number": 9})
    good("begin-identity-decomposed", "BEGIN", "Strings are bytes: e with a combining accent stays two code points.",
         FULL | {"source_identity": "cafe\u0301"})
    good("begin-resync", "BEGIN", "A resync of a lineage that goes on: it has a parent and carries no key.", RESYNC)
    good("begin-resync-first", "BEGIN", "A resync that begins a lineage: without parent, with the lineage's key.",
         RESYNC_FIRST)
    good("begin-resync-in-place", "BEGIN", "A resync that begins a lineage and goes in place.", RESYNC_FIRST | {"flags": 2})
    good("begin-resync-shrink", "BEGIN", "A resync whose volume may be smaller than the committed one.", RESYNC | {"flags": 1})
    good("begin-resync-both-flags", "BEGIN", "In place, and the volume may be smaller than the committed one.",
         RESYNC_FIRST | {"flags": 3})
    good("begin-resync-sha256", "BEGIN", "A resync with sha256 tags; one bit of the compared root is enough.",
         RESYNC | {"tag_algorithm": 2, "compared_root": bytes(31) + b"\x80"})
    good("begin-resync-group", "BEGIN", "A resync of a group of two.", RESYNC | {"members": 2, "group": GROUP})
    good("begin-resync-greatest", "BEGIN", "The greatest numbers and the longest source identity.",
         RESYNC | {"members": 256, "group": b"\xff" * 16, "number": U64, "volume_size": TOP, "source_time": U64,
                   "planned_content": U64, "planned_segments": 1 << 20, "held_segments": U64,
                   "compared_root": b"\xff" * 32, "source_identity": "s" * 512})
    good("begin-grown", "BEGIN", "17 TiB of content: segments of twice the size.",
         FULL | {"volume_size": 17 << 40, "planned_content": 17 << 40, "planned_segments": 557_056, "segment_growth": 1})
    good("begin-grown-most", "BEGIN", "The greatest growth, beside both flags.",
         RESYNC_FIRST | {"flags": 3, "segment_growth": 7})
    good("begin-resync-first-later-number", "BEGIN", "As of a full generation: a decoder only asks for a number of at least 1.",
         RESYNC_FIRST | {"number": 9})
    breaks: list[Break] = [
        ("transfer-zeros", "zero-transfer", {"transfer": bytes(16)}),
        ("kind-four", "bad-kind", {"kind": 4}),
        ("tag-algorithm-zero", "bad-tag-algorithm", {"tag_algorithm": 0}),
        ("flag-shrink", "reserved-bits", {"flags": 1}),
        ("growth", "bad-segment-growth", {"segment_growth": 8}),
        ("members-one", "bad-members", {"members": 1, "group": GROUP}),
        ("lineage-zeros", "zero-lineage", {"lineage": bytes(16)}),
        ("number-zero", "bad-number", {"number": 0}),
        ("parent", "bad-parent", {"parent": PARENT}),
        ("size-zero", "bad-volume-size", {"volume_size": 0}),
        ("planned-segments", "planned-segments", {"planned_segments": (1 << 20) + 1}),
        ("key-zeros", "bad-tag-key", {"tag_key": bytes(32)}),
        ("group-zeros", "bad-group", {"members": 2}),
        ("compared-root", "bad-compared-root", {"compared_root": COMPARED}),
        ("identity-long", "bad-string-length", {"source_identity": "s" * 513}),
    ]
    bad_each("begin", "BEGIN", FULL, breaks)
    for suffix, reason, note, fields in (
            ("kind-zero", "bad-kind", "Kinds begin at 1.", FULL | {"kind": 0}),
            ("tag-algorithm-three", "bad-tag-algorithm", "Algorithms end at 2.", FULL | {"tag_algorithm": 3}),
            ("flag-in-place", "reserved-bits", "Bit 1 is only of a resync.", FULL | {"flags": 2}),
            ("delta-in-place", "reserved-bits", "Bit 1 is only of a resync.", DELTA | {"flags": 2}),
            ("delta-both-flags", "reserved-bits", "Bit 0 is a delta's, bit 1 is not.", DELTA | {"flags": 3}),
            ("flag-unknown", "reserved-bits", "Bit 2 says nothing yet.", DELTA | {"flags": 5}),
            ("resync-flag-unknown", "reserved-bits", "Bit 2 says nothing yet.", RESYNC_FIRST | {"flags": 6}),
            ("resync-flag-highest", "reserved-bits", "Bit 7 says nothing yet.", RESYNC_FIRST | {"flags": 0x80}),
            ("growth-highest", "bad-segment-growth", "The highest bit alone.", FULL | {"segment_growth": 0x80}),
            ("resync-in-place-parent", "bad-parent", "In place, but with a parent: reported where the parent stands.",
             RESYNC | {"flags": 2}),
            ("resync-number-zero", "bad-number", "Numbers begin at 1.", RESYNC_FIRST | {"number": 0}),
            ("resync-key", "bad-tag-key", "A resync with a parent carries no key.", RESYNC | {"tag_key": KEY}),
            ("resync-first-key-zeros", "bad-tag-key", "A resync without parent brings the lineage's key.",
             RESYNC_FIRST | {"tag_key": bytes(32)}),
            ("resync-no-parent", "bad-tag-key", "No parent and no key: a resync may have no parent, the key is missing.",
             RESYNC | {"parent": bytes(32)}),
            ("resync-first-parent", "bad-tag-key", "A parent and a key: a resync may have a parent, the key is too much.",
             RESYNC_FIRST | {"parent": PARENT}),
            ("resync-root-zeros", "bad-compared-root", "A resync names the root of COMPARED.",
             RESYNC | {"compared_root": bytes(32)}),
            ("resync-first-root-zeros", "bad-compared-root", "A resync names the root of COMPARED.",
             RESYNC_FIRST | {"compared_root": bytes(32)}),
            ("delta-root", "bad-compared-root", "Only a resync was compared.", DELTA | {"compared_root": COMPARED}),
            ("resync-group-no-members", "bad-group", "A group of nobody.", RESYNC | {"group": GROUP}),
            ("resync-order-shrink-parent", "reserved-bits", "An unknown flag, and in place with a parent.",
             RESYNC | {"flags": 6}),
            ("resync-order-number-parent", "bad-number", "Number 0, and in place with a parent.",
             RESYNC | {"flags": 2, "number": 0}),
            ("resync-order-parent-size", "bad-parent", "In place with a parent, and a volume of no bytes.",
             RESYNC | {"flags": 2, "volume_size": 0}),
            ("resync-order-parent-key", "bad-parent", "In place with a parent, and with a key.",
             RESYNC | {"flags": 2, "tag_key": KEY}),
            ("resync-order-key-group", "bad-tag-key", "A key with a parent, and a group of nobody.",
             RESYNC | {"tag_key": KEY, "group": GROUP}),
            ("resync-order-group-root", "bad-group", "A group of nobody, and no compared root.",
             RESYNC | {"group": GROUP, "compared_root": bytes(32)}),
            ("resync-order-root-identity", "bad-compared-root", "No compared root, and too long an identity.",
             RESYNC | {"compared_root": bytes(32), "source_identity": "s" * 513}),
            ("flag-highest", "reserved-bits", "Bit 7 says nothing yet.", DELTA | {"flags": 0x80}),
            ("members-many", "bad-members", "A group has at most 256 members.", GROUPED | {"members": 257}),
            ("members-huge", "bad-members", "The highest bit alone.", GROUPED | {"members": 1 << 31}),
            ("group-no-members", "bad-group", "A group of nobody.", GROUPED | {"members": 0}),
            ("delta-no-parent", "bad-parent", "A delta needs a parent.", DELTA | {"parent": bytes(32)}),
            ("delta-key", "bad-tag-key", "A delta carries no key.", DELTA | {"tag_key": KEY}),
            ("size-too-great", "bad-volume-size", "One more than 2^62.", FULL | {"volume_size": TOP + 1}),
            ("identity-newline", "bad-string-characters", "A line break.", FULL | {"source_identity": "a\nb"})):
        bad(f"begin-{suffix}", "BEGIN", reason, note, e.begin(**fields))
    bad_ends("begin", "BEGIN", e.begin(**FULL))
    bad("begin-root-truncated", "BEGIN", "truncated",
        "Ends inside the compared root: its bytes are not there before they are wrong.",
        e.begin(**(FULL | {"compared_root": COMPARED}))[:199])
    bad("begin-former-layout", "BEGIN", "bad-compared-root", "A source identity of 32 bytes where the compared root stands.",
        e.begin(**FULL)[:168] + e.string("lvm:vg0/vm-disk uuid=0d3f 123456"))


def small_messages() -> None:
    for type_, name in (("READY", "next_segment"), ("ACK", "durable_segments")):
        lower = type_.lower()
        for suffix, value in (("", 3), ("-zero", 0), ("-greatest", U64), ("-2-53", 1 << 53)):
            good(f"{lower}{suffix}", type_, "Any number of 64 bits.", {name: value})
        bad_ends(lower, type_, e.ready(3))

    good("seal", "SEAL", "Two records.", SEAL)
    good("seal-greatest", "SEAL", "The most records and content of the greatest growth, the highest end.",
         SEAL | {"segment_index": U64, "record_count": 65_536 << 7, "content": 33_554_432 << 7, "end_offset": TOP})
    good("seal-no-content", "SEAL", "One record, a zero or unmap.", SEAL | {"record_count": 1, "content": 0})
    bad_each("seal", "SEAL", SEAL, [
        ("records-zero", "bad-record-count", {"record_count": 0}),
        ("reserved", "reserved-bits", {"reserved": 1}),
        ("content-limit", "content-limit", {"content": (33_554_432 << 7) + 1}),
    ])
    bad("seal-records-too-many", "SEAL", "bad-record-count", "8,388,609 records.",
        e.seal(**(SEAL | {"record_count": (65_536 << 7) + 1})))
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
    good("prepared", "PREPARED", "A prepared generation.", {"number": 7, "generation_id": PARENT})
    good("prepared-greatest", "PREPARED", "The greatest number.", {"number": U64, "generation_id": b"\xff" * 32})
    bad_ends("prepared", "PREPARED", e.committed(7, PARENT))
    good("current", "CURRENT", "The committed generation, which is what the sender's volume holds now.",
         {"number": 7, "generation_id": PARENT})
    good("current-greatest", "CURRENT", "The greatest number.", {"number": U64, "generation_id": b"\xff" * 32})
    bad_ends("current", "CURRENT", e.committed(7, PARENT))
    good("abandon", "ABANDON", "An unfinished transfer.", {"transfer": TRANSFER})
    bad("abandon-zeros", "ABANDON", "zero-transfer", "There is no such transfer.", e.abandon(bytes(16)))
    bad("abandon-order-zeros-trailing", "ABANDON", "zero-transfer", "Zeros, then a byte too many.",
        e.abandon(bytes(17)))
    bad_ends("abandon", "ABANDON", e.abandon(TRANSFER))

    base = {"mode": 1, "tag_algorithm": 1, "volume_size": 1 << 30, "first_page": 0, "pages": 0, "tag_key": bytes(32)}
    good("compare-read", "COMPARE", "The whole volume, under the lineage's key.", base)
    good("compare-read-key", "COMPARE", "Under another key.", base | {"tag_key": KEY})
    good("compare-read-sha256", "COMPARE", "sha256 tags under another key; one bit of it is enough.",
         base | {"tag_algorithm": 2, "tag_key": bytes(31) + b"\x80"})
    good("compare-stored", "COMPARE", "The map that the receiver keeps.", base | {"mode": 2})
    good("compare-pages", "COMPARE", "Some pages.", base | {"first_page": 16, "pages": 4})
    good("compare-from-page", "COMPARE", "All pages from one on.", base | {"first_page": 3})
    good("compare-smallest", "COMPARE", "A volume of one byte.", base | {"volume_size": 1})
    good("compare-greatest", "COMPARE", "The greatest numbers.",
         {"mode": 2, "tag_algorithm": 2, "volume_size": TOP, "first_page": U64, "pages": U64, "tag_key": bytes(32)})
    bad_each("compare", "COMPARE", base, [
        ("mode-zero", "bad-mode", {"mode": 0}),
        ("tag-algorithm-zero", "bad-tag-algorithm", {"tag_algorithm": 0}),
        ("reserved", "reserved-bits", {"reserved": bytes(5) + b"\1"}),
        ("size-zero", "bad-volume-size", {"volume_size": 0}),
        ("stored-key", "bad-tag-key", {"mode": 2, "tag_key": KEY}),
    ])
    for suffix, reason, note, change in (
            ("mode-three", "bad-mode", "Modes end at 2.", {"mode": 3}),
            ("tag-algorithm-three", "bad-tag-algorithm", "Algorithms end at 2.", {"tag_algorithm": 3}),
            ("reserved-first", "reserved-bits", "The first reserved byte.", {"reserved": b"\x80" + bytes(5)}),
            ("size-too-great", "bad-volume-size", "One more than 2^62.", {"volume_size": TOP + 1})):
        bad(f"compare-{suffix}", "COMPARE", reason, note, e.compare(**(base | change)))
    bad("compare-order-stored-key-trailing", "COMPARE", "bad-tag-key", "A key with mode 2, and a byte too many.",
        e.compare(**(base | {"mode": 2, "tag_key": KEY})) + b"\0")
    bad_ends("compare", "COMPARE", e.compare(**base))

    good("compared", "COMPARED", "The root of the receiver's map.",
         {"root": COMPARED, "read": 1 << 30, "committed_size": 1 << 29})
    good("compared-nothing-read", "COMPARED", "A stored map; one bit of the root is enough.",
         {"root": b"\1" + bytes(31), "read": 0, "committed_size": 1})
    good("compared-nothing-committed", "COMPARED", "The receiver has no committed generation.",
         {"root": COMPARED, "read": 1 << 30, "committed_size": 0})
    good("compared-greatest", "COMPARED", "The greatest numbers.",
         {"root": b"\xff" * 32, "read": U64, "committed_size": TOP})
    bad("compared-size-too-great", "COMPARED", "bad-volume-size", "One more than 2^62.", e.compared(COMPARED, 1, TOP + 1))
    bad("compared-order-size-trailing", "COMPARED", "bad-volume-size", "Too great a size, and a byte too many.",
        e.compared(COMPARED, 1, TOP + 1) + b"\0")
    bad("compared-zeros", "COMPARED", "zero-root", "No map has this root.", e.compared(bytes(32), 1))
    bad("compared-order-zeros-truncated", "COMPARED", "zero-root", "A root of zeros, and the rest is missing.", bytes(32))
    bad("compared-order-zeros-trailing", "COMPARED", "zero-root", "A root of zeros, and a byte too many.",
        e.compared(bytes(32)) + b"\0")
    bad("compared-root-truncated", "COMPARED", "truncated", "31 bytes of zeros: they are not there before they are wrong.",
        bytes(31))
    bad_ends("compared", "COMPARED", e.compared(COMPARED, 1 << 30, 1 << 29))

    base = {"level": 1, "index": 5, "count": 2}
    asks: list[Break] = [
        ("reserved", "reserved-bits", {"reserved": bytes(6) + b"\1"}),
        ("count-zero", "bad-count", {"count": 0}),
        ("reserved-end", "reserved-bits", {"reserved_end": 1}),
    ]
    good("ask", "ASK", "The digests below two nodes.", base)
    good("ask-pages", "ASK", "The entries of sixteen pages.", {"level": 0, "index": 0, "count": 16})
    good("ask-one", "ASK", "One node.", {"level": 7, "index": 0, "count": 1})
    good("ask-greatest", "ASK", "The greatest numbers: whether the map has such a node is not a question of form.",
         {"level": 255, "index": U64, "count": 16})
    bad_each("ask", "ASK", base, asks)
    bad("ask-reserved-first", "ASK", "reserved-bits", "The first reserved byte: a level has 8 bits.",
        e.ask(1, 5, 2, reserved=b"\1" + bytes(6)))
    bad("ask-count-seventeen", "ASK", "bad-count", "At most 16 nodes are asked for at once.", e.ask(1, 5, 17))
    bad("ask-count-greatest", "ASK", "bad-count", "The greatest number.", e.ask(1, 5, 0xFFFFFFFF))
    bad("ask-order-count-truncated", "ASK", "bad-count", "A count of 0, and the rest is missing.", e.ask(1, 5, 0)[:20])
    bad_ends("ask", "ASK", e.ask(**base))

    base |= {"content": noise(82, 8192)}
    good("nodes", "NODES", "The digests below two nodes.", base)
    good("nodes-pages", "NODES", "The entries of two pages; the second is filled up with zeros.",
         {"level": 0, "index": 5, "count": 2, "content": noise(83, 4096) + noise(84, 160) + bytes(3936)})
    good("nodes-one", "NODES", "One page at the greatest index.",
         {"level": 0, "index": U64, "count": 1, "content": noise(83, 4096)})
    good("nodes-greatest", "NODES", "Sixteen whole pages.",
         {"level": 255, "index": 16, "count": 16, "content": noise(86, BLOCK)})
    good("nodes-zeros", "NODES", "A page of zeros.", {"level": 0, "index": 1, "count": 1, "content": bytes(4096)})
    bad_each("nodes", "NODES", base, [*asks, ("content-short", "truncated", {"content": noise(82, 8192)[:8176]})])
    for suffix, reason, note, count, content in (
            ("content-none", "truncated", "No content.", 1, b""),
            ("content-one-less", "truncated", "Two nodes are announced, one is there.", 2, noise(83, 4096)),
            ("content-one-more", "trailing-bytes", "One node is announced, two are there.", 1, noise(82, 8192)),
            ("content-entry-more", "trailing-bytes", "One entry more than sixteen pages.", 16, noise(88, BLOCK + 16)),
            ("count-seventeen", "bad-count", "At most 16 nodes are sent at once.", 17, noise(88, 17 * 4096)),
            ("order-count-content", "bad-count", "Count 0, which would have no content.", 0, b"")):
        bad(f"nodes-{suffix}", "NODES", reason, note, e.nodes(1, 5, count, content))
    bad("nodes-header-cut", "NODES", "truncated", "23 bytes: the reserved word is not whole.", e.nodes(1, 5, 2, b"")[:-1])
    bad_ends("nodes", "NODES", e.nodes(**base))

    rules = ("unsupported-version", "malformed", "not-authorised", "busy", "parent-mismatch", "in-use", "space",
             "storage", "corrupt", "limit", "stopping", "invitation")
    for code, rule in enumerate(rules, start=1):
        good(f"refuse-{code:02}-{rule}", "REFUSE", f"Code {code}.",
             {"code": code, "retry_after": 0, "rule": rule, "text": "The standby refuses this."})
    told = {"hello_features": 2}
    later = {"code": 4, "retry_after": 2, "rule": "sessions", "text": "A sentence."}
    good("refuse-retry-after", "REFUSE", "The sender may come back after two seconds.", later, told)
    good("refuse-retry-after-greatest", "REFUSE", "An hour; a receiver that is shutting down.",
         later | {"code": 11, "retry_after": 3600}, told)
    bad("refuse-retry-after-too-long", "REFUSE", "bad-retry-after", "One second more than an hour.",
        e.refuse(**(later | {"retry_after": 3601})), told)
    bad("refuse-retry-after-not-offered", "REFUSE", "reserved-bits", "HELLO does not have the feature.",
        e.refuse(**later), {"hello_features": 0xFFFFFFFD})
    bad("refuse-retry-after-code", "REFUSE", "reserved-bits", "A code of which no time is said.",
        e.refuse(**(later | {"code": 7})), told)
    bad("refuse-order-reserved-retry-after", "REFUSE", "reserved-bits", "Too long a time, and no feature.",
        e.refuse(**(later | {"retry_after": 3601})), {"hello_features": 0})
    bad("refuse-order-retry-after-rule", "REFUSE", "bad-retry-after", "Too long a time, and an empty rule.",
        e.refuse(**(later | {"retry_after": 3601, "rule": ""})), told)
    good("refuse-longest", "REFUSE", "The longest rule and text.", {"code": 2, "retry_after": 0, "rule": "r" * 64, "text": "t" * 256})
    good("refuse-shortest", "REFUSE", "A rule that nobody knows counts as its code; no text.",
         {"code": 12, "retry_after": 0, "rule": "0", "text": ""})
    base = {"code": 2, "retry_after": 0, "rule": "malformed", "text": "A sentence."}
    bad_each("refuse", "REFUSE", base, [
        ("code-zero", "bad-code", {"code": 0}),
        ("reserved", "reserved-bits", {"retry_after": 0x100}),
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
    good("progress-comparing", "PROGRESS", "Half of the target is read.", {"phase": 3, "done": 1 << 29, "total": 1 << 30})
    base = {"phase": 1, "done": 5, "total": 9}
    bad_each("progress", "PROGRESS", base, [
        ("phase-zero", "bad-phase", {"phase": 0}),
        ("reserved", "reserved-bits", {"reserved": b"\0" * 6 + b"\x80"}),
        ("past-total", "done-past-total", {"done": 10}),
    ])
    bad("progress-phase-four", "PROGRESS", "bad-phase", "Phases end at 3.", e.progress(4, 0, 0))
    bad_ends("progress", "PROGRESS", e.progress(1, 5, 9))


def generations() -> None:
    good("generation-full", "COMMIT", "A full generation with a volume root.", GENERATION)
    good("generation-delta", "COMMIT", "A delta without a volume root.", GENERATION_DELTA)
    good("generation-resync", "COMMIT", "A resync with a parent.", GENERATION_RESYNC)
    good("generation-resync-first", "COMMIT", "A resync that begins a lineage: its parent is zeros.",
         GENERATION_RESYNC | {"number": 1, "parent": bytes(32)})
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
    bad("generation-kind-four", "COMMIT", "bad-kind", "Kinds end at 3.", e.generation(**(GENERATION | {"kind": 4})))
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
    good("commit-resync-agrees", "COMMIT", "A resync need not cover the volume.", GENERATION_RESYNC,
         transfer | {"begin": e.begin(**RESYNC), "last_end": 1 << 20})
    good("commit-resync-first-agrees", "COMMIT", "Nor one that begins a lineage.", GENERATION | {"kind": 3},
         transfer | {"begin": e.begin(**RESYNC_FIRST), "last_end": 0})
    bad("commit-begin-kind-resync", "COMMIT", "begin-mismatch", "BEGIN said that it is a delta.",
        e.generation(**GENERATION_RESYNC), transfer | {"begin": e.begin(**DELTA)})
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


GROUPS = (greetings, volumes, states, begins, small_messages, generations)
