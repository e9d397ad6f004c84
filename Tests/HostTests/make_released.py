#!/usr/bin/env python3
# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Writes Tests/Fixtures/released/N with the programs of today: what a released version leaves on disk, for the tests of
all later versions (test_versions.py). Run it once for each release that changes a format, before the release:

  BLOCKFERRY_BIN=… python3 make_released.py N

Three volumes, on both sides:
  thin   generation 1 (zeros) committed; of generation 2 the first of two segments is durable, the source has its plan
  small  generation 1 committed
  moved  generation 1 committed, generation 2 in an export file that was not imported yet

The sources of `thin` are in Tests/Fixtures/kernel/thin-64k and are recognised by the pool's metadata, wherever they
are. Everything else is in state.tar.xz."""

from __future__ import annotations

import hashlib
import json
import pathlib
import random
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time

from host import BIN, TESTS, HostSite, Proxy, content, sha256, until

RELEASED = TESTS / "Fixtures/released"
LARGEST = 300 * 1024
# The devices of the fixture that are sent, in order: nothing in it, then two snapshots.
DEVICES = {"empty": 2, "s0": 3, "s1": 5}


class Thin:
    """The fixture's pool; its first device has no blocks."""

    size = 134_217_728

    def __init__(self, site: HostSite) -> None:
        self.metadata, self.data = site.unpack("thin-64k", "tmeta-held-offline", "tdata")

    def send(self, name: str) -> list:
        return ["send", "--thin-metadata", self.metadata, "--thin-data", self.data, "--device", DEVICES[name],
                "--volume-size", self.size, "--to", "standby", "--volume", "thin", "--compress", "always", "--json"]


def interrupt(site: HostSite, arguments: list, log: pathlib.Path) -> None:
    """Sends until the first segment is durable."""

    def tamper(data: bytes, at: int) -> bytes | None:
        # The header of a segment is written with its last record; what has been passed on needs a moment to get there.
        if at > 1000 and until(0.7, lambda: log.exists() and b"BFSEGMT1" in log.read_bytes()):
            time.sleep(1)
            return None
        return data

    proxy = Proxy(site.port, tamper)
    site.readdress(proxy.port)
    result = site.bounded("blockferry", *arguments)
    proxy.close()
    assert result.code in (4, 5) and "1 of 2 segments" in result.error, result
    site.readdress(site.port)


def must(result):
    assert result.code == 0, result
    return result


def make(site: HostSite) -> dict:
    site.start_daemon()
    thin = Thin(site)
    small, moved = site.path / "small.img", site.path / "moved.img"
    small.write_bytes(content(11, 16))
    moved.write_bytes(content(12, 4))
    for name in ("thin", "small", "moved"):
        site.pair(name, site.path / f"{name}.copy")
    must(site.bounded("blockferry", *thin.send("empty")))
    for path in (small, moved):
        must(site.bounded("blockferry", "send", path, "--to", "standby", "--volume", path.stem))
    first = sha256(moved)
    moved.write_bytes(content(13, 3) + random.Random(14).randbytes(65_536))
    must(site.bounded("blockferry", "export", moved, "--to", "standby", "--volume", "moved", "--output",
                      site.path / "moved.bfx"))
    site.settled("thin")
    interrupt(site, thin.send("s0"), site.standby / "staging/thin.log")
    for name in ("thin", "small", "moved"):
        site.settled(name)
    state = site.status("thin")
    assert state["state"] == "staging", state
    site.kill_daemon()
    facts = json.loads((TESTS / "Fixtures/kernel/thin-64k/manifest.json").read_text())["generations"]
    return {"programs": subprocess.run([BIN / "blockferryd", "--version"], check=True, capture_output=True,
                                       text=True).stdout.strip(),
            "thin": {"generations": [hashlib.sha256(bytes(Thin.size)).hexdigest(), facts["s0"], facts["s1"]]},
            "small": {"generations": [sha256(small)]}, "moved": {"generations": [first, sha256(moved)]}}


def settle(catalog: pathlib.Path) -> None:
    """Everything into one file, and no more in it than there has to be."""
    database = sqlite3.connect(catalog, isolation_level=None)
    database.execute("VACUUM")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def nobody(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid, info.gid, info.uname, info.gname = 0, 0, "", ""
    return info


def main(number: int) -> None:
    # The only paths that get into the state are those of this directory, which is gone afterwards.
    tempfile.tempdir = "/tmp"
    site = HostSite()
    try:
        facts = make(site)
        for state in (site.standby, site.source):
            settle(state / "catalog.sqlite")
        folder = RELEASED / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / "state.tar.xz"
        # The target of `thin` holds nothing but zeros, and is made anew.
        names = ["standby", "source", "small.copy", "moved.copy", "small.img", "moved.img", "moved.bfx"]
        with tarfile.open(archive, "w:xz", preset=9) as tar:
            for name in names:
                tar.add(site.path / name, name, filter=nobody)
        manifest = folder / "manifest.json"
        manifest.write_text(json.dumps(facts, indent=1) + "\n")
        size = archive.stat().st_size + manifest.stat().st_size
        assert size <= LARGEST, f"{size} bytes are too many"
        print(f"{folder.relative_to(TESTS.parent)}: {size} bytes, {facts['programs']}")
    finally:
        site.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
