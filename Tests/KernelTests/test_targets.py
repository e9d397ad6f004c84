# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Targets that device-mapper makes: images as source, a thin volume, a thick volume and a file as target."""

from __future__ import annotations

import os
import unittest

import devices
from devices import MIB
from harness import KernelTest, acceptance, command


class TargetTests(KernelTest):
    """Three generations of a fixture pool to each kind of target; the fixture's manifest is the oracle."""

    def replicate(self, target: str, *more: str) -> None:
        site = self.site()
        pool = site.pool()
        site.pair("db", target, *more)
        for number, name in enumerate(("s0", "s1", "s2"), start=1):
            result = self.assert_code(site.send("db", *pool.source(name)), 0)
            self.assertEqual(result.json["generation"], number, result)
            self.assertEqual(devices.sha256(target, pool.size), pool.digests[name], f"{name} on {target}")

    def test_thin_volume_as_target(self) -> None:
        self.standby.pool(size=192 * MIB)
        self.replicate(self.standby.thin("copy", acceptance.Pool.size))
        mapped = int(command("dmsetup", "status", "sby-copy").stdout.split()[3]) * 512
        self.assertLess(mapped, acceptance.Pool.size, "a thin target must not be filled with what the source has not")

    def test_thin_volume_with_another_chunk_size_as_target(self) -> None:
        self.standby.pool(size=192 * MIB, chunk=256 << 10)
        self.replicate(self.standby.thin("copy", acceptance.Pool.size))

    def test_thick_volume_that_holds_something_as_target(self) -> None:
        target = self.standby.thick("copy", acceptance.Pool.size)
        devices.write(target, (0, acceptance.Pool.size))
        self.replicate(target, "--overwrite")

    def test_file_as_target(self) -> None:
        target = os.path.join(self.site_directory(), "copy.img")
        self.replicate(target)
        self.assertLess(os.stat(target).st_blocks * 512, acceptance.Pool.size, "holes must stay holes")

    def site_directory(self) -> str:
        import tempfile
        return tempfile.mkdtemp()


if __name__ == "__main__":
    unittest.main()
