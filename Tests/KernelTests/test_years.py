# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What live sends use up, over many of them: snapshots, metadata of the pools, text of the volume groups, files of LVM's archive.
Half of the sends are of a thin volume to a thin one that keeps generations, half of a classic one; the pools' clocks begin
high, and the host's clock leaps. `make years` asks for it: `BLOCKFERRY_YEARS_LIVE` says how many sends."""

from __future__ import annotations

import os
import pathlib
import random
import statistics
import subprocess
import tempfile
import time

import devices
from devices import MIB
from harness import SEED, SOURCE, STANDBY, LiveTest, command
from test_pool_counters import edit_metadata, set_clock

COUNT = int(os.environ.get("BLOCKFERRY_YEARS_LIVE", "0"))
KEPT = 5
# What is written again and again, so that all of it has storage from the beginning.
WRITTEN = 8 * MIB
DAY = 86_400


class YearsTests(LiveTest):
    def begin(self) -> None:
        local, folder = pathlib.Path("/etc/lvm/lvmlocal.conf"), pathlib.Path(tempfile.mkdtemp(prefix="archive.", dir="/run"))
        local.write_text(f'backup {{ archive = 1 backup = 1 archive_dir = "{folder}/archive" backup_dir = "{folder}/backup" }}\n')
        self.addCleanup(local.unlink)
        self.archive = folder / "archive"
        self.random = random.Random(SEED)
        self.source.pool()
        self.standby.pool()
        self.sides = {"t": (self.source.thin("t"), self.standby.thin("copy"), "db", ()),
                      "o": (self.source.thick("o"), self.standby.thick("thick"), "mail", ("--cow-size", "12M"))}
        for volumes in (self.source, self.standby):
            edit_metadata(volumes, set_clock(1 << 23))
        self.host = self.pair(self.sides["t"][1])
        self.pair(self.sides["o"][1], "mail", self.host)
        self.assert_code(self.host.run("blockferryd", "keep", "db", "--generations", KEPT), 0)
        for source, *_ in self.sides.values():
            devices.write(source, (0, WRITTEN))

    def leap(self, seconds: int) -> None:
        command("date", "-s", f"@{int(time.time()) + seconds}")

    def facts(self) -> dict:
        """What there is of everything that a send could use up."""
        sizes = {}
        for name, volumes in (("source", self.source), ("standby", self.standby)):
            sizes[f"{name}: devices"] = len(volumes.rows("lv_name"))
            sizes[f"{name}: blocks of metadata"] = int(volumes.pool_status()[1].split("/")[0])
            sizes[f"{name}: bytes of text"] = len(volumes.text())
        sizes["files of the archive"] = len(list(self.archive.iterdir()))
        sizes["mapped devices"] = len(command("dmsetup", "ls").stdout.splitlines())
        for state in (self.host.standby, self.host.source):
            files = [path for path in state.rglob("*") if path.is_file()]
            sizes[f"{state.name}: files of the state"] = len(files)
            sizes[f"{state.name}: KiB of the state"] = sum(path.stat().st_size for path in files) >> 10
        status = pathlib.Path(f"/proc/{self.host.daemon.pid}/status").read_text()
        sizes["daemon: KiB"] = int(status.split("VmRSS:")[1].split()[0])
        sizes["daemon: descriptors"] = len(os.listdir(f"/proc/{self.host.daemon.pid}/fd"))
        return sizes

    def test_live_sends_use_nothing_up(self) -> None:
        self.begin()
        rounds, warm = COUNT // 2, min(2 * KEPT, COUNT // 4)
        took: dict[str, list[float]] = {name: [] for name in self.sides}
        leaps = {rounds // 3: 400 * DAY, rounds * 2 // 3: -400 * DAY}
        for number in range(1, rounds + 1):
            if number in leaps:
                self.leap(leaps[number])
            for name, (volume, target, called, more) in self.sides.items():
                place = self.random.randrange(WRITTEN // MIB * 15) * 65_536
                devices.write(volume, (place, 65_536))
                began = time.monotonic()
                result = self.assert_code(self.host.send_live(f"{SOURCE}/{name}", called, *more), 0)
                took[name].append(time.monotonic() - began)
                self.assertEqual((result.json["generation"], result.json["result"]), (number, "full" if number == 1 else "delta"))
                if number % 25 == 0 or number in (1, rounds):
                    self.assert_copy(target, name, called)
            if number == warm:
                before = self.facts()
            if number % 10 == 0:
                print(f"    {2 * number} live sends", flush=True)
        after = self.facts()
        self.assertEqual([len(values) for values in took.values()], [rounds, rounds])
        for name in sorted(before):
            print(f"    {name}: {before[name]} after {2 * warm} sends, {after[name]} after {2 * rounds}", flush=True)
        for name, values in took.items():
            part = max(1, rounds // 10)
            print(f"    {name}: {statistics.median(values[1:part + 1]):.2f} s the first {part} after the full copy, "
                  f"{statistics.median(values[-part:]):.2f} s the last", flush=True)
        # One base each, and the generations that are wanted.
        self.assertEqual(len(self.source.tagged()), 2)
        self.assertEqual(len(self.standby.tagged()), KEPT)
        self.assert_released()
        slack = {"blocks of metadata": 16, "bytes of text": 256, "KiB of the state": 12 << 10, "daemon: KiB": 2048}
        for name, value in after.items():
            allowed = next((more for what, more in slack.items() if name.endswith(what)), 0)
            self.assertLessEqual(value, before[name] + allowed, name)
        for wrong in ("early", "interrupted", "not kept", "refused"):
            self.assertNotIn(wrong, self.host.journal())
        kernel = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
        self.assertNotRegex(kernel, r"device-mapper: .*(error|fail|corrupt)")

    test_live_sends_use_nothing_up.cost = 20 + 10 * COUNT


if not COUNT:
    # Nobody has asked for it, and a test that is left out counts as one that failed.
    del YearsTests
