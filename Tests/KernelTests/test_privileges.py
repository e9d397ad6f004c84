# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The daemon as the unit runs it, a user of its own without any capability: alone, and with the helper for logical volumes,
which is started for each request as its units say."""

from __future__ import annotations

import os
import pathlib
import tempfile

import devices
from devices import MIB
from harness import KernelTest, Site, acceptance, command, until
from lvm_helper import HelperSocket
from test_standby import SIZE, Source, ZeroingTests

USER = 65534
VOLUMES = pathlib.Path("/etc/blockferryd/volumes")


class PrivilegeTests(KernelTest):
    def restricted(self, chunk: int = 64 << 10, *change: str, thick: bool = False) -> tuple[Site, str]:
        """Both hosts, the standby's as another user; the target is that user's to write."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="programs.", dir="/run"))
        folder.chmod(0o755)
        os.symlink(acceptance.BIN / "blockferry", folder / "blockferry")
        (folder / "blockferryd").write_text(
            f"#!/bin/sh\nexec setpriv --reuid {USER} --regid {USER} --clear-groups --no-new-privs --bounding-set -all "
            f"--inh-caps -all --ambient-caps -all {acceptance.BIN / 'blockferryd'} \"$@\"\n")
        (folder / "blockferryd").chmod(0o755)
        self.programs = acceptance.BIN
        self.addCleanup(setattr, acceptance, "BIN", acceptance.BIN)
        acceptance.BIN = folder
        self.standby.pool(chunk=chunk)
        for option in change:
            command("lvchange", "-qq", "-y", *option.split(), "sby/pool")
        self.name = "co-py"
        self.target = self.standby.thick(self.name, SIZE) if thick else self.standby.thin(self.name, SIZE)
        self.own()
        site = Site()
        self.addCleanup(site.close)
        os.chown(site.path, USER, USER)
        site.start_daemon()
        return site, self.target

    def own(self) -> None:
        """What udev's rule does."""
        os.chown(os.path.realpath(self.target), USER, USER)

    def helper(self, *names: str) -> HelperSocket:
        VOLUMES.parent.mkdir(exist_ok=True)
        self.addCleanup(VOLUMES.unlink, missing_ok=True)
        VOLUMES.write_text("# by a test\n" + "".join(f"{name}\n" for name in names))
        VOLUMES.chmod(0o644)
        pathlib.Path("/var/lib").mkdir(parents=True, exist_ok=True)
        helper = HelperSocket(USER, self.started, pathlib.Path(tempfile.mkdtemp()) / "helper.log")
        self.addCleanup(helper.close)
        return helper

    def started(self, text: str) -> list[str]:
        text = text.replace("/usr/bin/", f"{self.programs}/").replace("--user blockferryd", "--user nobody")
        return ["bash", "-c", text]

    def replicate(self, site: Site, target: str, *more: str) -> dict:
        source = self.origin = Source(self, site)
        site.pair("db", target, *more)
        source.arrives(site, target, 1)
        source.zero(0, SIZE // 2)
        source.arrives(site, target, 2)
        return site.status("db")

    def mapped_bytes(self) -> int:
        return int(command("dmsetup", "status", "sby-co--py").stdout.split()[3]) * 512

    def kept(self, site: Site) -> list[int]:
        status = site.status("db")
        self.assertIsNone(status["keeping"].get("problem"), status)
        return [entry["generation"] for entry in status["kept"]]

    # Alone

    def test_alone_storage_is_given_back_and_what_is_not_kept_is_told(self) -> None:
        site, target = self.restricted()
        status = self.replicate(site, target, "--keep", "2")
        self.assertEqual(self.mapped_bytes(), SIZE // 2)
        self.assertEqual((status["generation"], status["kept"], status["wastes_storage"]), (2, [], False))
        self.assertIn("helper", status["keeping"]["problem"])

    def test_alone_every_content_is_right_where_the_pool_does_not_zero_its_blocks(self) -> None:
        for chunk in (64 << 10, 256 << 10, 1 << 20):
            with self.subTest(chunk=chunk):
                site, target = self.restricted(chunk, "-Zn", "--discards nopassdown")
                self.assertIn("skip_block_zeroing", command("dmsetup", "table", "sby-pool-tpool").stdout)
                # What the pool's blocks hold: a volume that was removed again. It had all of them, since the pool
                # takes its blocks in turn.
                other = self.standby.thin("other", 256 * MIB)
                devices.write(other, (0, 256 * MIB))
                command("lvremove", "-qq", "-y", "sby/other")
                source = Source(self, site)
                site.pair("db", target)
                source.arrives(site, target, 1)
                for generation, ranges in ((2, ZeroingTests.RANGES[::2]), (3, ZeroingTests.RANGES[1::2])):
                    for offset, length in ranges:
                        source.zero(offset, length)
                    source.arrives(site, target, generation)
                whole = sum(max((offset + length) // chunk - (offset + chunk - 1) // chunk, 0)
                            for offset, length in ZeroingTests.RANGES)
                self.assertGreater(whole, 0)
                self.assertEqual(self.mapped_bytes(), SIZE - whole * chunk)
                # What was given back is used again in part: the rest of a block must stay zero. First by content alone, then by
                # content between zeros.
                source.fill(256 << 10, 64 << 10)
                source.arrives(site, target, 4)
                for offset, length in ZeroingTests.RANGES:
                    source.fill(offset + length // 2 // 512 * 512, 512)
                source.arrives(site, target, 5)
                self.assertFalse(site.status("db")["wastes_storage"])
            self.doCleanups()
            self.setUp()

    test_alone_every_content_is_right_where_the_pool_does_not_zero_its_blocks.cost = 60

    def test_where_zeros_take_storage_invite_and_status_say_so(self) -> None:
        site, target = self.restricted(2 << 20)
        invited = site.run("blockferryd", "invite", "db", "--target", target, "--address", "127.0.0.1:1")
        self.assertEqual(invited.code, 0, invited)
        self.assertIn("zeros take storage", invited.error)
        self.assertTrue(site.status("db")["wastes_storage"])
        self.assertIn("zeros take storage", site.run("blockferryd", "status").out)
        # Who may ask device-mapper knows better.
        self.helper("sby/co-py")
        self.assertFalse(site.status("db")["wastes_storage"])
        self.replicate(site, target)

    # With the helper

    def test_with_the_helper_generations_are_kept_and_released(self) -> None:
        site, target = self.restricted()
        helper = self.helper("sby/co-py")
        self.replicate(site, target, "--keep", "2")
        self.assertEqual(self.kept(site), [2, 1])
        self.assertGreater(site.status("db")["snapshots_left"], 16_000_000)
        self.origin.fill(MIB, 4096)
        self.origin.arrives(site, target, 3)
        self.assertEqual(self.kept(site), [3, 2])
        self.assertEqual(sorted(name for name in self.standby.tagged()), ["co-py_blockferry_g2", "co-py_blockferry_g3"])
        # One that somebody has written to stays, and is told; so is one that is in use.
        command("lvchange", "-qq", "-prw", "sby/co-py_blockferry_g2")
        command("lvchange", "-qq", "-ay", "-K", "sby/co-py_blockferry_g2")
        devices.write(self.standby.path("co-py_blockferry_g2"), (0, 4096))
        command("lvchange", "-qq", "-an", "sby/co-py_blockferry_g2")
        command("lvchange", "-qq", "-pr", "sby/co-py_blockferry_g2")
        self.origin.fill(2 * MIB, 4096)
        self.origin.arrives(site, target, 4)
        self.assertIn("somebody has written to it", site.status("db")["keeping"]["problem"])
        self.assertIn("co-py_blockferry_g2", self.standby.tagged())
        self.assertGreater(helper.asked, 10)
        self.assertIn("keeping generation 4 of volume db", helper.log.read_text())

    def test_with_the_helper_a_thin_target_grows_with_its_source(self) -> None:
        site, target = self.restricted()
        self.helper("sby/co-py")
        self.replicate(site, target)
        self.origin.resize(SIZE + 5 * MIB + 512)
        self.origin.fill(SIZE - 4096, MIB)
        self.origin.arrives(site, target, 3)
        self.assertGreaterEqual(devices.size(target), SIZE + 5 * MIB + 512)

    def test_what_the_helper_may_not_do_stays_undone(self) -> None:
        """A volume that is not configured, and a thick one."""
        site, target = self.restricted()
        self.helper("sby/another", "sby/pool")
        status = self.replicate(site, target, "--keep", "2")
        self.assertEqual(status["kept"], [])
        self.assertIn("none of the volumes", status["keeping"]["problem"])
        self.origin.resize(SIZE + MIB)
        self.assert_code(site.send("db", self.origin.path), 9, "too-small")
        self.doCleanups()
        self.setUp()
        site, target = self.restricted(thick=True)
        self.helper("sby/co-py")
        self.replicate(site, target)
        self.origin.resize(SIZE + MIB)
        self.assert_code(site.send("db", self.origin.path), 9, "too-small")
        self.assertEqual(devices.size(target), SIZE)

    def test_with_the_helper_a_target_that_is_not_active_is_activated(self) -> None:
        site, target = self.restricted()
        self.helper("sby/co-py")
        self.replicate(site, target)
        command("lvchange", "-qq", "-an", "sby/co-py")
        self.origin.fill(MIB, 4096)
        site.send("db", self.origin.path)
        self.assertTrue(until(20, lambda: self.standby.is_active("co-py")))
        self.own()
        self.origin.arrives(site, target, 3)
        # A copy that was handed over is its operator's.
        self.assert_code(site.run("blockferryd", "promote", "db"), 0)
        command("lvchange", "-qq", "-an", "sby/co-py")
        self.assert_code(site.send("db", self.origin.path), 7)
        self.assertFalse(self.standby.is_active("co-py"))

    def test_with_the_helper_a_target_that_somebody_has_open_is_not_written(self) -> None:
        site, target = self.restricted()
        self.helper("sby/co-py")
        self.replicate(site, target)
        self.origin.fill(MIB, 4096)
        with open(target, "rb"):
            self.assert_code(site.send("db", self.origin.path), 9, "in-use")
        self.origin.arrives(site, target, 3)

    def test_a_daemon_that_cannot_open_its_state_ends(self) -> None:
        site, target = self.restricted()
        self.replicate(site, target)
        os.chown(site.standby, 0, 0)
        self.assertTrue(until(20, lambda: site.daemon.poll() is not None), "it goes on")
        self.assertNotEqual(site.daemon.returncode, 0)
        self.assertIn(str(site.standby), site.journal().splitlines()[-1])
        os.chown(site.standby, USER, USER)
        site.start_daemon()
        self.origin.fill(MIB, 4096)
        self.origin.arrives(site, target, 3)
