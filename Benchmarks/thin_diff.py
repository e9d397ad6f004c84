# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Difference of two thin devices: blockferry changes against thin_delta.

Shared trees: two devices that share all nodes but those on the paths to the changes, as the kernel
leaves them. Unshared: the same mappings, made by thin_restore, where no node is shared.
"""
import argparse
import json
import os
import pathlib
import random
import re
import subprocess
import sys

from measure import median, spread, table, timed

HERE = pathlib.Path(__file__).resolve().parent
GENERATOR = HERE.parent / "Tests/Fixtures/generate/thin_pool.py"
BLOCKFERRY = pathlib.Path(os.environ["BLOCKFERRY_BIN"]) / "blockferry"
BLOCK_BYTES = 65536


def make_shared(path, mappings, changes, run):
    subprocess.run(
        [sys.executable, str(GENERATOR), "bulk", str(mappings), str(changes), str(run), "1",
         str(path)],
        check=True, stdout=subprocess.DEVNULL)


def make_unshared(path, mappings, changes, run, restore):
    """XML of two devices with runs of about `run` blocks, and `changes` blocks of the second elsewhere."""
    rng = random.Random(7)
    runs, thin = [], 0
    while thin < mappings:
        length = min(max(1, run + rng.randrange(-run // 2, run // 2 + 1)) if run > 1 else 1,
                     mappings - thin)
        runs.append((thin, length))
        thin += length
    changed = set(rng.sample(range(mappings), changes))
    places, data = {}, 0
    order = runs[:]
    rng.shuffle(order)
    for begin, length in order:
        places[begin] = data
        data += length + 1
    total = data + changes
    xml = path.with_suffix(".xml")
    with open(xml, "w") as file:
        file.write(f'<superblock uuid="" time="2" transaction="1" version="2" '
                   f'data_block_size="128" nr_data_blocks="{total}">\n')
        fresh = data
        for device in (1, 2):
            file.write(f'<device dev_id="{device}" mapped_blocks="{mappings}" transaction="0" '
                       f'creation_time="0" snap_time="1">\n')
            for begin, length in runs:
                start, place = begin, places[begin]
                for block in range(begin, begin + length) if device == 2 else ():
                    if block in changed:
                        write(file, start, place + start - begin, block - start)
                        write(file, block, fresh, 1)
                        fresh += 1
                        start = block + 1
                write(file, start, place + start - begin, begin + length - start)
            file.write("</device>\n")
        file.write("</superblock>\n")
    with open(path, "wb") as file:
        file.truncate(256 << 20)
    subprocess.run([restore, "-i", xml, "-o", path], check=True, stdout=subprocess.DEVNULL)
    xml.unlink()


def write(file, thin, data, length):
    if length == 1:
        file.write(f'<single_mapping origin_block="{thin}" data_block="{data}" time="0"/>\n')
    elif length > 1:
        file.write(f'<range_mapping origin_begin="{thin}" data_begin="{data}" '
                   f'length="{length}" time="0"/>\n')


def changed_by_blockferry(output):
    blocks = set()
    for entry in json.loads(output)["extents"]:
        start = entry["offset"] // BLOCK_BYTES
        blocks.update(range(start, start + entry["length"] // BLOCK_BYTES))
    return blocks


def changed_by_thin_delta(output):
    blocks = set()
    for begin, length in re.findall(
            rb'<(?:different|left_only|right_only) begin="(\d+)" length="(\d+)"', output):
        blocks.update(range(int(begin), int(begin) + int(length)))
    return blocks


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("scratch", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mappings", type=int, default=2_300_000)
    parser.add_argument("--changes", type=int, default=200)
    arguments = parser.parse_args()
    old = os.environ.get("THIN_DELTA_09", "/usr/sbin/thin_delta")
    new = os.environ.get("THIN_DELTA_11")
    restore = os.environ.get("THIN_RESTORE", "/usr/sbin/thin_restore")
    if not new:
        print("THIN_DELTA_11 is not set: no comparison with thin_delta 1.1.0", file=sys.stderr)
    rows = []
    for shape in ("shared", "unshared"):
        for run in (16, 1):
            image = arguments.scratch / f"{shape}-{run}.meta"
            if shape == "shared":
                make_shared(image, arguments.mappings, arguments.changes, run)
            else:
                make_unshared(image, arguments.mappings, arguments.changes, run, restore)
            # A generated image has no space maps: its trees hang off a metadata snapshot too.
            snapshot = ["-m"] if shape == "shared" else []
            tools = {
                "blockferry": [BLOCKFERRY, "changes", "--thin-metadata", image, "--from", "1",
                               "--to", "2", "--format", "json"],
                "thin_delta 0.9.0": [old, *snapshot, "--snap1", "1", "--snap2", "2", image],
            }
            if new:
                tools["thin_delta 1.1.0"] = [
                    *new.split(), *snapshot, "--snap1", "1", "--snap2", "2", image]
            check(tools, arguments.changes)
            measure(shape, run, tools, arguments, rows)
            image.unlink()
    table(["trees", "runs of", "tool", "wall s", "CPU s", "RSS MiB", "ns a mapping",
           "x wall of blockferry", "x CPU of blockferry"], rows)


def check(tools, changes):
    answers = {}
    for name, command in tools.items():
        output = subprocess.run([str(w) for w in command], check=True, capture_output=True).stdout
        parse = changed_by_blockferry if name == "blockferry" else changed_by_thin_delta
        answers[name] = parse(output)
    first = answers["blockferry"]
    if len(first) != changes or any(found != first for found in answers.values()):
        raise SystemExit("the tools do not agree: "
                         + str({name: len(found) for name, found in answers.items()}))


def measure(shape, run, tools, arguments, rows):
    results = {name: [] for name in tools}
    with open(os.devnull, "wb") as null:
        for _ in range(arguments.rounds):
            for name, command in tools.items():
                wall, cost = timed(command, stdout=null)
                results[name].append((wall, cost.cpu, cost.rss))
    ours = results["blockferry"]
    for name, figures in results.items():
        walls, cpus, peaks = zip(*figures)
        rows.append([
            shape, run, name, spread(walls, 3), spread(cpus, 3), f"{median(peaks):.0f}",
            f"{median(cpus) * 1e9 / (2 * arguments.mappings):.1f}",
            f"{median([a[0] / b[0] for a, b in zip(figures, ours)]):.2f}",
            f"{median([a[1] / b[1] for a, b in zip(figures, ours)]):.2f}",
        ])


main()
