#!/usr/bin/env python3
# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Makes random dm-snapshot stores, and says which change list each must give.

Written from the description of the format alone. Prints one JSON object a line:
chunk_bytes, volume_bytes, store_bytes, pieces ([[offset, hex], ...]; the rest of the store is zero),
sequential (whether data chunks are in order), refused (true if there must be no list), and
extents ([[offset, length], ...]).
"""
import json
import random
import struct
import sys


def store(rng):
    sectors = rng.choice([1, 2, 4, 8, 8, 8, 16, 32, 64, 128])
    chunk = sectors * 512
    per_area = chunk // 16
    chunks = rng.choice([1, 2, 7, 63, 64, 65, 300, 1000, 5000])
    volume = chunks * chunk - (rng.randrange(chunk // 512) * 512 if rng.random() < 0.5 else 0)
    limit = min(chunks, 4 * per_area)
    count = rng.choice([0, 1, per_area - 1, per_area, per_area + 1, 2 * per_area, limit])
    count = min(count, limit) if rng.random() < 0.5 else rng.randrange(limit + 1)
    style = rng.random()
    if style < 0.4:
        old = rng.sample(range(chunks), count)
    elif style < 0.7:
        first = rng.randrange(chunks - count + 1)
        old = list(range(first, first + count))
    else:
        old = sorted(rng.sample(range(chunks), count), reverse=rng.random() < 0.5)
    new, candidate = [], 2
    while len(new) < count:
        if candidate % (per_area + 1) != 1:
            new.append(candidate)
        candidate += 1
    sequential = True
    if count > 1 and rng.random() < 0.2:
        rng.shuffle(new)
        sequential = new == sorted(new)
    areas = count // per_area + 1
    last = max([1 + (areas - 1) * (per_area + 1)] + new)
    total = last + 1 + rng.randrange(3)
    extra = rng.randrange(2) * rng.randrange(chunk // 512) * 512
    image = {0: struct.pack("<4I", 0x70416E53, 1, 1, sectors)}
    records = list(zip(old, new))
    damage = rng.choice(["magic", "valid", "version", "chunk", "new", "area", "old", "twice",
                         "garbage", "endless"]) if rng.random() < 0.25 else None
    refused = damage is not None
    if damage == "magic":
        image[0] = struct.pack("<4I", rng.choice([0, 1, 0x70416E52]), 1, 1, sectors)
    elif damage == "valid":
        image[0] = struct.pack("<4I", 0x70416E53, rng.choice([0, 2, 3]), 1, sectors)
    elif damage == "version":
        image[0] = struct.pack("<4I", 0x70416E53, 1, rng.choice([0, 2]), sectors)
    elif damage == "chunk":
        image[0] = struct.pack("<4I", 0x70416E53, 1, 1, rng.choice([0, 3, 1 << 22, 1 << 31]))
    elif damage in ("new", "area", "old", "twice"):
        if not records or (damage == "twice" and len(records) < 2):
            damage, refused = None, False
        else:
            at = rng.randrange(len(records))
            o, n = records[at]
            if damage == "new":
                records[at] = (o, rng.choice([1, total, total + 5, 1 << 60]))
            elif damage == "area":
                records[at] = (o, 1 + rng.randrange(areas) * (per_area + 1))
            elif damage == "old":
                records[at] = (rng.choice([chunks, chunks + 7, 1 << 63]), n)
            else:
                records[at] = (records[at - 1][0], n)
    elif damage == "endless":
        if len(records) % per_area:
            damage, refused = None, False
        elif areas == 1:
            total = 1
        else:
            total = max(new) + 1
            if total > 1 + (areas - 1) * (per_area + 1):
                damage, refused = None, False
                total = last + 1
    for area in range(areas):
        part = records[area * per_area:(area + 1) * per_area]
        body = b"".join(struct.pack("<QQ", o, n) for o, n in part)
        if damage == "garbage" and area == areas - 1:
            tail = per_area - len(part)
            where = rng.randrange(tail)
            junk = (rng.randrange(1, 9), 0) if where == 0 else (rng.randrange(9), rng.randrange(2, 9))
            body += bytes(16 * where) + struct.pack("<QQ", *junk)
        if body:
            image[(1 + area * (per_area + 1)) * chunk] = body
    # What was in the store before: past the end it must not matter.
    stale = 1 + areas * (per_area + 1)
    if stale < total and rng.random() < 0.5:
        image[stale * chunk] = bytes(rng.randrange(1, 256) for _ in range(64))
    extents = []
    for c in sorted(old):
        begin, end = c * chunk, min((c + 1) * chunk, volume)
        if extents and extents[-1][0] + extents[-1][1] == begin:
            extents[-1][1] += end - begin
        else:
            extents.append([begin, end - begin])
    size = total * chunk + extra
    pieces = [[at, data[:max(0, size - at)].hex()] for at, data in sorted(image.items()) if at < size]
    return {"chunk_bytes": chunk, "volume_bytes": volume, "store_bytes": size, "pieces": pieces,
            "sequential": sequential, "refused": refused, "damage": damage,
            "extents": [] if refused else extents}


def main():
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    for _ in range(count):
        print(json.dumps(store(rng), separators=(",", ":")))


main()
