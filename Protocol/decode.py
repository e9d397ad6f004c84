#!/usr/bin/env python3
# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A strict decoder of the Blockferry protocol, written from Specification.md, StagingLog.md,
TagMap.md and ExportFile.md alone.

Every decoder returns a dictionary of fields or raises `Refused` with the first violation in the order in which the text
lists the checks. The reasons are listed in Vectors/README.md.

    decode.py vectors [DIR]                check every vector
    decode.py frames FILE                  decode the captured plaintext of one direction
    decode.py staging-log FILE             decode and verify a staging log
    decode.py export FILE [--export-key F] decode and verify an export file, but for its signatures; without the standby's
                                           key the header alone
    decode.py tag-map FILE                 decode and verify a tag map
    decode.py tag-map-update FILE          decode the updates of a tag map
    decode.py map-root --volume FILE --key HEX --algorithm N [--size BYTES]
                                           the root of a volume's tag map
    decode.py generation FILE|HEX          decode a generation record, show its id
    decode.py invitation STRING            decode an invitation
    decode.py peer-id HEX|STRING           convert and check a peer id
    decode.py selftest                     prove the checksums, and HPKE by the vectors of its RFC
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import hashlib
import json
import mmap
import re
import sys
from pathlib import Path
from typing import Any

import helper
import hpke
from checksums import crc32c, poly1305, xxh3
from decoder.core import LARGEST_OFFSET, Context, Fields, Refused, printable, require
from decoder.enrolment import base32_decode, base32_encode, decode_invitation, decode_peer_id, format_peer_id
from decoder.export_file import decode_export_file, decode_export_header
from decoder.messages import decode_frame, decode_message
from decoder.records import decode_record
from decoder.staging_log import STAGED, decode_log_header, decode_segment, decode_staging_log
from decoder.stream import Stream, decode_stream
from decoder.tag_map import decode_tag_map, decode_tag_map_update, map_of_volume, page_count, summary
from decoder.vectors import decode_vector, run_vectors

# What a test or a tool imports from here.
__all__ = ["Context", "Refused", "Stream", "decode_export_file", "decode_export_header", "decode_frame", "decode_invitation",
           "decode_log_header", "decode_message", "decode_peer_id", "decode_record", "decode_segment",
           "decode_staging_log", "decode_stream", "decode_tag_map", "decode_tag_map_update", "decode_vector",
           "format_peer_id", "map_of_volume", "printable"]


def poly1305_by_words(key: bytes, message: bytes) -> bytes:
    """RFC 8439, 2.5.1, as it stands there."""
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    acc = 0
    for at in range(0, len(message), 16):
        acc = (acc + int.from_bytes(message[at:at + 16] + b"\x01", "little")) * r % ((1 << 130) - 5)
    return ((acc + int.from_bytes(key[16:], "little")) % (1 << 128)).to_bytes(16, "little")


def run_selftest() -> int:
    rfc_key = bytes.fromhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
    checks = {
        "CRC-32C of 123456789": crc32c(b"123456789") == 0xE3069283,
        "XXH3 of nothing": xxh3(b"") == 0x2D06800538D394C2,
        "Poly1305, RFC 8439 2.5.2": poly1305(rfc_key, b"Cryptographic Forum Research Group").hex()
        == "a8061dc1305136c6c22b8baf0c0127a9",
        "Poly1305, a block at once and word by word": poly1305(rfc_key, bytes(range(256)) * 256)
        == poly1305_by_words(rfc_key, bytes(range(256)) * 256),
        "base32 of foobar": base32_encode(b"foobar") == "mzxw6ytboi" and base32_decode("mzxw6ytboi") == b"foobar",
        "HPKE, RFC 9180": hpke.check_vectors(Path(__file__).parent / "hpke-vectors.json") >= 32,
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
                long = ("content",) if f["type"] == "NODES" else ("tags",)
                print(f"{at:10} {f['sequence']:6} {f['type']:9} {json.dumps(shown(message, long))}")
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


def run_export(arguments: argparse.Namespace) -> int:
    data, ctx = map_file(arguments.file), tag_context(arguments)
    header = decode_export_header(data)
    if arguments.export_key is None:
        print(json.dumps(printable(header), indent=1))
        print("NOT CHECKED: the content, without --export-key")
        return 0
    found = decode_export_file(data, ctx, hpke.private_key(Path(arguments.export_key).read_bytes()))
    trailer = found["trailer"]
    del found["content"], found["tags"]
    if arguments.json:
        frames = [frame for frame in found["frames"] if frame["type"] != "BEGIN"]
        print(json.dumps(printable({**found, "begin": shown(found["begin"]), "frames": frames,
                                    "unchecked": dict(ctx.unchecked)}), indent=1))
    else:
        print(f"volume {header['volume']} from {format_peer_id(header['sender_key_id'])}\n"
              f"for {format_peer_id(header['standby'])}")
        print(f"BEGIN {json.dumps(shown(found['begin']))}")
        kinds = [frame["type"] for frame in found["frames"]]
        print(f"{kinds.count('RECORD')} records in {kinds.count('SEAL')} segments, {trailer['length']} bytes")
        print(f"generation {found['generation']['number']}, id {trailer['generation_id'].hex()}")
    show_unchecked(ctx)
    return 0


def run_tag_map(arguments: argparse.Namespace) -> int:
    header, pages = decode_tag_map(map_file(arguments.file))
    count = page_count(header["volume_size"])
    if arguments.json:
        entries = {str(page): [content[at:at + 16] for at in range(0, 4096, 16)] for page, content in pages.items()}
        print(json.dumps(printable({"header": header, "page_count": count, "pages": entries}), indent=1))
    else:
        print(json.dumps(printable(header)))
        print(f"{count} pages, {len(pages)} not all zeros: each agrees with its digest, and the digests with the root")
    return 0


def run_tag_map_update(arguments: argparse.Namespace) -> int:
    found = decode_tag_map_update(map_file(arguments.file))
    if arguments.json:
        print(json.dumps(printable(found), indent=1))
    else:
        for block, entry in found["updates"]:
            print(f"{block:16} {entry.hex()}")
        print(json.dumps(printable(summary(found))))
    return 0


def run_map_root(arguments: argparse.Namespace) -> int:
    key = bytes.fromhex(arguments.key)
    require(len(key) == 32, "bad-tag-key", "32 bytes in hex are expected")
    with open(arguments.volume, "rb") as volume:
        size = volume.seek(0, 2) if arguments.size is None else arguments.size
        require(1 <= size <= LARGEST_OFFSET, "bad-volume-size", str(size))
        print(map_of_volume(volume, arguments.algorithm, key, size)[1].hex())
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
    for name in ("frames", "staging-log", "export"):
        command = commands.add_parser(name, help=f"decode a file: {name}")
        command.add_argument("file")
        command.add_argument("--json", action="store_true")
        command.add_argument("--tag-key", metavar="HEX", help="the lineage's key, which a delta does not carry")
        if name == "export":
            command.add_argument("--export-key", metavar="FILE", help="the standby's export-key.pem")
        if name == "frames":
            command.add_argument("--next-segment", type=int, default=0, help="what READY said (default 0)")
    for name in ("tag-map", "tag-map-update"):
        command = commands.add_parser(name, help=f"decode a file: {name}")
        command.add_argument("file")
        command.add_argument("--json", action="store_true")
    command = commands.add_parser("map-root", help="the root of a volume's tag map")
    command.add_argument("--volume", required=True, metavar="FILE")
    command.add_argument("--key", required=True, metavar="HEX", help="the lineage's key")
    command.add_argument("--algorithm", required=True, type=int, choices=(1, 2), help="1 poly1305, 2 sha256")
    command.add_argument("--size", type=int, metavar="BYTES", help="as if the volume had this size")
    for name in ("generation", "invitation", "peer-id"):
        commands.add_parser(name, help=f"decode one {name}").add_argument("value")
    commands.add_parser("selftest", help="prove the checksums")
    arguments = parser.parse_args()

    try:
        match arguments.command:
            case "vectors":
                print(f"{helper.check_vectors(Path(__file__).parent / 'helper-vectors.json')} vectors of the helper")
                return run_vectors(arguments.directory)
            case "frames":
                return run_frames(arguments)
            case "staging-log":
                return run_staging_log(arguments)
            case "export":
                return run_export(arguments)
            case "tag-map":
                return run_tag_map(arguments)
            case "tag-map-update":
                return run_tag_map_update(arguments)
            case "map-root":
                return run_map_root(arguments)
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
