# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Checks the vectors; the files are described in Vectors/README.md."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from checksums import crc32c, tag, xxh3
from decoder.core import Context, Fields, Refused, printable, require
from decoder.enrolment import decode_invitation, decode_peer_id
from decoder.export_file import decode_export_header, decode_export_trailer
from decoder.messages import decode_frame, decode_message
from decoder.records import Segment, decode_record, delta_digest
from decoder.staging_log import decode_log_header, decode_segment, decode_staging_log
from decoder.tag_map import (decode_map_header, decode_tag_map, decode_tag_map_update, decode_update_header,
                             entries_sha256, map_of_volume, node_digest, page_digest, root_digest, summary)


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
                   values.get("tag_key"), values.get("tag_algorithm"), values.get("segment_growth", 0), values)


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
    if kind == "map-page":
        return {"value": page_digest(int(inputs["page"]), vector_bytes(vector))}
    if kind == "map-node":
        return {"value": node_digest(int(inputs["level"]), int(inputs["index"]), vector_bytes(vector))}
    if kind == "map-root":
        return {"value": root_digest(inputs["tag_algorithm"], int(inputs["volume_size"]), vector_bytes(vector))}
    if kind == "map-volume":
        return {"value": map_of_volume(io.BytesIO(vector_bytes(vector)), inputs["tag_algorithm"],
                                       bytes.fromhex(inputs["tag_key"]), int(inputs["volume_size"]))[1]}
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
    if structure == "tag-map-header":
        return decode_map_header(data)
    if structure == "tag-map":
        header, pages = decode_tag_map(data)
        return {**header, "entries_sha256": entries_sha256(header["volume_size"], pages)}
    if structure == "tag-map-update-header":
        return decode_update_header(data)
    if structure == "tag-map-update":
        return summary(decode_tag_map_update(data))
    if structure == "export-header":
        found = decode_export_header(data)
        return {name: value for name, value in found.items() if name not in ("sender_key_id", "envelope")}
    if structure == "export-trailer":
        return decode_export_trailer(data, ctx.values.get("length"))
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
