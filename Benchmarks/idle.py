# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What a send costs that finds nothing to do, and what the proofs of identity in it cost beside an increment of 1 GiB.

Two volumes, 1 GiB and one block. All that differs between their idle sends is the content anchor: 64 blocks that the
standby reads and compares. The same is read before the first byte of each increment.
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import time

from measure import end_daemon, finish, median, spread, start, table
from send import BIN, MIB, Run, Standby


def fill(path, size):
    with open(path, "r+b" if path.exists() else "wb") as file:
        for _ in range(max(1, size // MIB)):
            file.write(os.urandom(min(size, MIB)))
        os.fsync(file.fileno())
    # Younger than the tick of the file system, its times would prove nothing.
    time.sleep(1.1)


def idle(standby, source, count):
    """CPU seconds of both sides and wall seconds of one idle send."""
    run = Run()
    daemon, watcher = standby.serve(run)
    began = time.monotonic()
    for _ in range(count):
        sender = start([BIN / "blockferry", "send", source, "--to", "standby", "--volume", "vol", "--json", "--state",
                        standby.states[0]], watcher, run.sender, stdout=subprocess.PIPE)
        result = json.loads(sender.stdout.read())
        finish(sender, run.sender)
        if result["result"] != "up-to-date":
            raise SystemExit(f"not idle: {result}")
    wall = time.monotonic() - began
    end_daemon(daemon, watcher, run.receiver)
    return run.sender.cpu / count, run.receiver.cpu / count, wall / count


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("scratch", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--sends", type=int, default=30)
    arguments = parser.parse_args()
    volumes, increments, runs = {}, [], {}
    for name, size in (("one block", 65536), ("1 GiB", 1 << 30)):
        place = arguments.scratch / name.replace(" ", "-")
        place.mkdir()
        source = place / "source"
        fill(source, size)
        volumes[name] = Standby(place, "never"), source
        volumes[name][0].send(source)
    standby, source = volumes["1 GiB"]
    for _ in range(arguments.rounds):
        fill(source, 1 << 30)
        run = standby.send(source)
        increments.append(run.sender.cpu + run.receiver.cpu)
        for name in random.sample(list(volumes), 2):
            runs.setdefault(name, []).append(idle(*volumes[name], arguments.sends))
    table(["idle send of", "CPU ms sender", "receiver", "wall ms"],
          [[name] + [spread([1000 * run[part] for run in runs[name]], 1) for part in range(3)] for name in volumes])
    both = {name: median([run[0] + run[1] for run in runs[name]]) for name in volumes}
    anchor = both["1 GiB"] - both["one block"]
    print(f"an increment of 1 GiB: {spread(increments)} CPU seconds of both sides; "
          f"the anchor: {1000 * anchor:.1f} ms, {100 * anchor / median(increments):.2f} %")


if __name__ == "__main__":
    main()
