# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A logical volume that keeps its name and is another one: a snapshot merged into it, or made anew."""

from __future__ import annotations

import os
import pathlib
import random

import devices
from devices import MIB
from harness import KernelTest, command, until
from test_standby import Source

SIZE = 8 * MIB
CONTROL, HIDDEN = "/dev/mapper/control", "/dev/mapper/hidden-control"


class TargetIdentityTests(KernelTest):
    def setUp(self) -> None:
        super().setUp()
        self.standby.pool()
        self.target = self.standby.thin("copy", SIZE)
        self.host = self.site()
        self.origin = Source(self, self.host, SIZE)

    def generation(self, number: int) -> None:
        self.origin.fill((number * 131072 + 4096) % SIZE, 200_000)
        self.origin.arrives(self.host, self.target, number)

    def merge(self, snapshot: str) -> None:
        """What LVM's manual says: the volume has the snapshot's content, and keeps its name and its UUID."""
        before = self.uuid()
        command("lvchange", "-qq", "-an", "sby/copy")
        command("lvconvert", "-qq", "-y", "--merge", f"sby/{snapshot}")
        command("lvchange", "-qq", "-ay", "sby/copy")
        self.assertTrue(until(20, lambda: os.path.exists(self.target)))
        self.assertEqual(self.uuid(), before)

    def uuid(self) -> str:
        return command("lvs", "--noheadings", "-o", "lv_uuid", "sby/copy").stdout.strip()

    def assert_refused_everywhere(self, *words: str) -> None:
        """Idle, with a change, and in promote; and nothing was written."""
        content = devices.sha256(self.target)
        for change in (False, True):
            if change:
                self.origin.fill(3 * MIB, 70_000)
            self.assert_code(self.host.send("db", self.origin.path), 9, *words)
        self.assert_code(self.host.run("blockferryd", "promote", "db"), 9)
        self.assertEqual(devices.sha256(self.target), content)

    def assert_mended(self, number: int) -> None:
        self.assert_code(self.host.run("blockferryd", "retarget", "db", self.target, "--for-resync"), 0)
        self.assert_code(self.host.run("blockferry", "resync", self.origin.path, "--to", "standby", "--volume", "db"), 0)
        self.assertEqual(devices.sha256(self.target, SIZE), devices.sha256(self.origin.path))
        self.generation(number)

    def test_a_device_that_a_program_has_open_is_not_written(self) -> None:
        """As an emulator has the disk of a guest open: without claiming it."""
        self.host.pair("db", self.target)
        self.generation(1)
        content = devices.sha256(self.target)
        self.origin.fill(3 * MIB, 70_000)
        for flags in (os.O_RDWR, os.O_RDONLY):
            descriptor = os.open(self.target, flags)
            try:
                self.assert_code(self.host.send("db", self.origin.path), 9, "in use")
            finally:
                os.close(descriptor)
            self.assertEqual(devices.sha256(self.target), content)
        self.assert_code(self.host.send("db", self.origin.path), 0)
        self.origin.compare(self.target)
        self.assert_code(self.host.run("blockferryd", "promote", "db"), 0)
        with open(self.target, "rb"):
            self.assert_code(self.host.run("blockferryd", "demote", "db"), 9, "in use")
        self.assert_code(self.host.run("blockferryd", "demote", "db"), 0)

    def test_a_kept_generation_that_was_merged_back_is_another_target(self) -> None:
        self.host.pair("db", self.target)
        self.assert_code(self.host.run("blockferryd", "keep", "db", "--generations", "5"), 0)
        for number in (1, 2, 3):
            self.generation(number)
        kept = {entry["generation"]: entry for entry in self.host.status("db")["kept"]}
        self.assertEqual(sorted(kept), [1, 2, 3])
        self.merge(kept[1]["snapshot"].split("/")[1])
        self.assert_refused_everywhere("rule foreign", "thin device")
        status = self.host.status("db")
        self.assertIn("thin device", status["target_problem"])
        # The mix was not kept.
        self.assertEqual([entry["generation"] for entry in status["kept"] if entry["generation"] > 3], [])
        self.assert_mended(5)

    def test_a_volume_that_was_made_anew_is_another_target(self) -> None:
        self.host.pair("db", self.target)
        self.generation(1)
        self.standby.remove("copy")
        self.standby.thin("copy", SIZE)
        self.assert_refused_everywhere("rule foreign")
        self.assert_mended(3)

    def test_a_merge_is_found_by_reading_where_device_mapper_may_not_be_asked(self) -> None:
        """As a daemon without the right to ask: a merge leaves nothing to see but the content."""
        def hidden(on: bool) -> None:
            if os.path.exists(HIDDEN) != on:
                os.rename(*(CONTROL, HIDDEN) if on else (HIDDEN, CONTROL))
        self.addCleanup(hidden, False)
        hidden(True)
        self.host.pair("db", self.target)
        self.generation(1)
        hidden(False)
        command("lvcreate", "-qq", "-y", "-s", "-kn", "-n", "yesterday", "sby/copy")
        # One byte: sampled blocks would hardly show it.
        device = self.standby.path("yesterday")
        with open(device, "r+b") as file:
            file.seek(5 * MIB + 3)
            byte = file.read(1)
            file.seek(5 * MIB + 3)
            file.write(bytes([byte[0] ^ 1]))
            file.flush()
            os.fsync(file.fileno())
        command("lvchange", "-qq", "-an", "sby/yesterday")
        self.merge("yesterday")
        hidden(True)
        self.assert_code(self.host.send("db", self.origin.path), 7, "rule diverged")
        self.assertIn(f"at bytes {5 * MIB}", self.host.status("db")["reason"])

    test_a_kept_generation_that_was_merged_back_is_another_target.cost = 30


# Writes to block devices fail as long as a file says so.
FAILING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>
ssize_t pwrite(int fd, const void *from, size_t count, off_t at) {
    struct stat status;
    if (fstat(fd, &status) == 0 && S_ISBLK(status.st_mode) && access("/run/failing", F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (real == 0) real = (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    return real(fd, from, count, at);
}
ssize_t pwrite64(int fd, const void *from, size_t count, off_t at) { return pwrite(fd, from, count, at); }
"""


class NamelessDeviceTests(KernelTest):
    """Devices that nothing names but their path, as virtual disks without a serial number: the path leads to another one."""

    def device(self, name: str, under: str) -> str:
        """Without a UUID."""
        command("dmsetup", "create", name, "--table", f"0 {devices.size(under) // 512} linear {under} 0")
        return f"/dev/mapper/{name}"

    def begin(self) -> None:
        self.host = self.site()
        self.path = pathlib.Path(self.host.path) / "vdb"

    def lead_to(self, device: str) -> None:
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(device)

    def test_another_source_is_refused_until_it_is_adopted(self) -> None:
        self.begin()
        target = self.standby.thick("copy", SIZE)
        disks = [self.device(name, self.source.thick(f"under-{name}", SIZE)) for name in ("one", "two")]
        for disk in disks:
            devices.write(disk, (0, SIZE))
        self.host.pair("db", target)
        self.lead_to(disks[0])
        self.assert_code(self.host.send("db", self.path), 0)
        before = devices.sha256(target)
        self.lead_to(disks[1])
        self.assert_code(self.host.send("db", self.path), 7, "nothing names the device", "--adopt-source")
        plan = self.host.run("blockferry", "send", self.path, "--to", "standby", "--volume", "db", "--dry-run", "--json")
        self.assertEqual((plan.json["decision"], plan.json["rule"]), ("refuse", "other-source"), plan)
        self.assertEqual(devices.sha256(target), before)
        self.lead_to(disks[0])
        devices.write(disks[0], (0, MIB))
        self.assert_code(self.host.send("db", self.path), 0)
        self.assert_same(target, disks[0])
        self.lead_to(disks[1])
        self.assert_code(self.host.send("db", self.path, "--adopt-source"), 0)
        self.assert_same(target, disks[1])

    def test_another_target_is_not_overwritten_by_a_resync(self) -> None:
        self.begin()
        origin = Source(self, self.host, SIZE)
        unders = [self.standby.thick(f"under-{name}", SIZE) for name in ("one", "two")]
        self.lead_to(self.device("one", unders[0]))
        self.host.pair("db", self.path)
        origin.arrives(self.host, str(self.path), 1)
        devices.write("/dev/mapper/one", (2 * MIB, 4096))
        self.assert_code(self.host.run("blockferryd", "scrub", "db"), 8)
        command("dmsetup", "remove", "one")
        other = self.device("two", unders[1])
        devices.write(other, (0, SIZE))
        before = devices.sha256(other)
        self.lead_to(other)
        resync = ("resync", origin.path, "--to", "standby", "--volume", "db")
        self.assert_code(self.host.run("blockferry", *resync), 9, "foreign", "retarget")
        self.assertEqual(devices.sha256(other), before)
        # Its operator says that it may be.
        self.assert_code(self.host.run("blockferryd", "retarget", "db", self.path, "--for-resync"), 0)
        self.assert_code(self.host.run("blockferry", *resync), 0)
        origin.compare(other)

    def other(self) -> tuple[str, str]:
        """Somebody's disk, to which the path leads from now on, and what it holds."""
        device = self.device("two", self.standby.thick("under-two", SIZE))
        devices.write(device, (0, SIZE))
        self.lead_to(device)
        return device, devices.sha256(device)

    def target_first(self) -> None:
        self.begin()
        self.lead_to(self.device("one", self.standby.thick("under-one", SIZE)))

    def test_a_first_copy_does_not_go_to_another_device(self) -> None:
        for how in ("invited", "reset"):
            with self.subTest(how):
                self.target_first()
                origin = Source(self, self.host, SIZE)
                if how == "reset":
                    self.host.pair("db", self.path)
                    origin.arrives(self.host, str(self.path), 1)
                    self.assert_code(self.host.run("blockferryd", "reset", "db", "--overwrite"), 0)
                    self.assert_code(self.host.run("blockferry", "forget", "--to", "standby", "--volume", "db"), 0)
                else:
                    self.host.pair("db", self.path, "--overwrite")
                other, before = self.other()
                self.assert_code(self.host.send("db", origin.path), 9, "foreign")
                self.assertEqual(devices.sha256(other), before)
            self.doCleanups()
            self.setUp()

    def test_another_device_is_not_demoted(self) -> None:
        self.target_first()
        origin = Source(self, self.host, SIZE)
        self.host.pair("db", self.path)
        origin.arrives(self.host, str(self.path), 1)
        self.assert_code(self.host.run("blockferryd", "promote", "db"), 0)
        one = os.readlink(self.path)
        other, before = self.other()
        resync = ("resync", origin.path, "--to", "standby", "--volume", "db", "--overwrite-promoted")
        self.assert_code(self.host.run("blockferryd", "demote", "db"), 9, "retarget")
        self.assert_code(self.host.run("blockferry", *resync), 7, "not-demoted")
        self.lead_to(one)
        self.assert_code(self.host.run("blockferryd", "demote", "db"), 0)
        self.lead_to(other)
        self.assert_code(self.host.run("blockferry", *resync), 9, "foreign")
        self.assertEqual(devices.sha256(other), before)
        self.lead_to(one)
        self.assert_code(self.host.run("blockferry", *resync), 0)
        origin.compare(one)

    def test_a_committed_generation_is_not_written_to_another_device(self) -> None:
        """One that replaces every block, so that nothing it leaves alone could tell the devices apart."""
        self.target_first()
        folder = pathlib.Path(self.host.path)
        (folder / "failing.c").write_text(FAILING)
        command("gcc", "-O1", "-shared", "-fPIC", "-o", folder / "failing.so", folder / "failing.c")
        failing = pathlib.Path("/run/failing")
        self.addCleanup(failing.unlink, missing_ok=True)
        origin = Source(self, self.host, SIZE)
        self.host.pair("db", self.path)
        origin.arrives(self.host, str(self.path), 1)
        origin.fill(0, SIZE, random.Random(2))
        self.host.kill_daemon()
        os.environ["LD_PRELOAD"] = str(folder / "failing.so")
        try:
            self.host.start_daemon()
        finally:
            del os.environ["LD_PRELOAD"]
        failing.touch()
        self.assert_code(self.host.send("db", origin.path), 11, "pwrite")
        self.assertEqual(self.host.status("db")["state"], "applying")
        one = os.readlink(self.path)
        other, before = self.other()
        failing.unlink()
        self.assert_code(self.host.run("blockferryd", "promote", "db"), 9, "blockferryd retarget db")
        self.assert_code(self.host.send("db", origin.path), 9, "target-replaced")
        self.assertEqual(devices.sha256(other), before)
        self.lead_to(one)
        self.assertTrue(until(90, lambda: self.host.status("db")["state"] == "consistent"), self.host.status("db"))
        origin.compare(one)
