# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Two copies of a volume compared and made equal over loopback: blockferry resync, with and without its tag map, against
rsync's daemon, which knows neither TLS nor a keyed digest.

The volume is one dense file, a quarter zeros, half random, a quarter like text. `equal`: nothing differs; `differs`: one
block of 64 KiB in a hundred does.
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import time

from measure import Watcher, end_daemon, finish, loopback_bytes, median, spread, start, table
from send import BIN, MIB, QUIET, Run, Standby, await_listener, free_port, text

BLOCK = 65536


def make(path, mib):
    rng = random.Random(7)
    words = text(rng)
    with open(path, "wb") as file:
        for number in range(mib):
            kind = number % 4
            file.write(bytes(MIB) if kind == 0 else words[number % 64 * 1000:][:MIB].ljust(MIB, b"x")
                       if kind == 1 else os.urandom(MIB))


def change(path, mib, seed):
    """One block in a hundred."""
    rng = random.Random(seed)
    blocks = rng.sample(range(mib * 16), mib * 16 // 100)
    with open(path, "r+b") as file:
        for block in blocks:
            file.seek(block * BLOCK)
            file.write(os.urandom(BLOCK))
    return len(blocks)


def same(first, second):
    if subprocess.run(["cmp", "-s", first, second]).returncode:
        raise SystemExit(f"{second} differs from {first}")


def resync(standby, source, *options):
    run = Run()
    daemon, watcher = standby.serve(run)
    before, began = loopback_bytes(), time.monotonic()
    sender = start([BIN / "blockferry", "resync", source, "--to", "standby", "--volume", "vol", "--json",
                    "--state", standby.states[0], "--compress", "never", *options], watcher, run.sender,
                   stdout=subprocess.PIPE)
    facts = json.loads(sender.stdout.read())
    finish(sender, run.sender)
    run.wall, run.wire = time.monotonic() - began, loopback_bytes() - before
    end_daemon(daemon, watcher, run.receiver)
    run.differing = facts["difference"]["blocks_differing"]
    return run


def rsync(scratch, source, target):
    run, watcher, port = Run(), Watcher(), free_port()
    configuration = scratch / "rsyncd.conf"
    configuration.write_text(f"use chroot = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n[v]\npath = {target.parent}\n"
                             "read only = no\n")
    daemon = start(["rsync", "--daemon", "--no-detach", "--address=127.0.0.1", f"--port={port}",
                    f"--config={configuration}"], watcher, run.receiver, **QUIET)
    await_listener(port)
    before, began = loopback_bytes(), time.monotonic()
    sender = start(["rsync", "--inplace", "--no-whole-file", "--ignore-times", "--block-size=65536", source,
                    f"rsync://127.0.0.1:{port}/v/{target.name}"], watcher, run.sender, **QUIET)
    finish(sender, run.sender)
    run.wall, run.wire = time.monotonic() - began, loopback_bytes() - before
    end_daemon(daemon, watcher, run.receiver)
    return run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("scratch", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=4096)
    arguments = parser.parse_args()
    scratch, mib = arguments.scratch, arguments.mib
    source, other = scratch / "source", scratch / "other"
    make(source, mib)
    subprocess.run(["cp", source, other], check=True)
    place = scratch / "standby"
    place.mkdir()
    standby = Standby(place, "never")
    standby.send(source)
    results = {}
    for number in range(arguments.rounds):
        def note(name, run):
            results.setdefault(name, []).append(run)
        note("equal: rsync", rsync(scratch, source, other))
        for name, options in (("equal: blockferry resync", []), ("equal: blockferry resync --trust-map",
                                                                  ["--trust-map"])):
            note(name, resync(standby, source, *options))
        for name, options in (("differs: blockferry resync", []),
                              ("differs: blockferry resync --trust-map", ["--trust-map"])):
            changed = change(source, mib, number * 2 + len(options))
            run = resync(standby, source, *options)
            if run.differing != changed:
                raise SystemExit(f"{run.differing} blocks differ, {changed} were changed")
            note(name, run)
            same(source, standby.target)
        # The peer has both changes to bring over; one is brought in front of the clock.
        subprocess.run(["cp", standby.target, other], check=True)
        change(other, mib, 100 + number)
        note("differs: rsync", rsync(scratch, source, other))
        same(source, other)
    report(results, mib / 1024)


def report(results, gib):
    rows = []
    for name, runs in sorted(results.items()):
        peers = results[name.split(":")[0] + ": rsync"]
        both = [(run.sender.cpu + run.receiver.cpu) / gib for run in runs]
        others = [(run.sender.cpu + run.receiver.cpu) / gib for run in peers]
        rows.append([
            name, spread([run.wall for run in runs], 2), spread([run.sender.cpu / gib for run in runs]),
            spread([run.receiver.cpu / gib for run in runs]), spread(both),
            f"{median([run.sender.rss for run in runs]):.0f}", f"{median([run.receiver.rss for run in runs]):.0f}",
            f"{median([run.wire for run in runs]) / 1e6:.2f}",
            f"{median([b.wall / a.wall for a, b in zip(runs, peers)]):.2f}",
            f"{median([b / a for a, b in zip(both, others)]):.2f}",
        ])
    table(["resync", "wall s", "CPU s/GiB sender", "receiver", "both", "RSS MiB sender", "receiver", "wire MB",
           "times faster", "times less CPU"], rows)


if __name__ == "__main__":
    main()
