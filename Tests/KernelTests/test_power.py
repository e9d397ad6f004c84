# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Power cuts below device-mapper (A7): its `log-writes` target carries the standby's disk. What is tried is told in
`PowerTests/powercuts.py`; the long list of images is tried on the host, where a program starts a hundred times faster.
BLOCKFERRY_CAMPAIGN=1 tries more of them here too."""

from __future__ import annotations

import os
import pathlib
import sys
import unittest

from harness import ROOT, SEED, Disks, Site, command, resume_all, until

sys.path.insert(0, str(ROOT / "Tests/PowerTests"))
import powercuts
import write_log
from powercuts import STATE, TARGET

# Images; how many of them have their recovery cut, and into how many pieces.
IMAGES, NESTED, PIECES = (200, 5, 8) if os.environ.get("BLOCKFERRY_CAMPAIGN") == "1" else (16, 1, 4)


class MapperMachine(powercuts.Machine):
    state, target, where = "/dev/mapper/power-state", "/dev/mapper/power-target", pathlib.Path("/run/power")

    def __init__(self, disk: str, log: str) -> None:
        self.disk, self.log, self.logged = disk, log, False

    def command(self, *arguments: object) -> None:
        command(*arguments)

    def build(self, logged: bool) -> None:
        self.logged = logged
        table = f"log-writes {self.disk} {self.log}" if logged else f"linear {self.disk} 0"
        command("dmsetup", "create", "power", "--table", f"0 {(STATE + TARGET) // 512} {table}")
        command("dmsetup", "create", "power-state", "--table", f"0 {STATE // 512} linear /dev/mapper/power 0")
        # As LVM's volumes have: without it, each image would be on a device that was attached anew, which is refused.
        command("dmsetup", "create", "power-target", "--uuid", "POWER-target", "--table",
                f"0 {TARGET // 512} linear /dev/mapper/power {STATE // 512}")

    def remove(self) -> list[write_log.Entry]:
        for name in ("power-target", "power-state", "power"):
            command("dmsetup", "remove", "--retry", name)
        # The last mark is the kernel's.
        return write_log.read(self.log)[:-1] if self.logged else []

    def mark(self, text: str) -> None:
        command("dmsetup", "message", "power", 0, "mark", text)


class PowerTests(powercuts.PowerCuts, unittest.TestCase):
    def setUp(self) -> None:
        Disks.prepare()
        Disks.wipe()
        self.addCleanup(resume_all)
        site = Site()
        self.addCleanup(site.close)
        self.prepare(MapperMachine(Disks.standby, Disks.source), site, until, SEED)

    def test_prefixes(self) -> None:
        self.try_all(self.record(), IMAGES, NESTED, PIECES)

    test_prefixes.cost = 95


if __name__ == "__main__":
    unittest.main()
