# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What the source is: a base whose recording was interrupted, another volume under the same name, writes that are in a disk's
cache only, devices that are used or are somebody's copy."""

from __future__ import annotations

import fcntl
import os
import pathlib
import sqlite3
import sys
from contextlib import closing

import devices
from devices import MIB
from harness import ROOT, SOURCE, VOLUME, Disks, LiveTest, Volumes, command, until

sys.path.insert(0, str(ROOT / "Tests/PowerTests"))
import write_log

STORE = ("--cow-size", "16M")
LINEAGE = 7


FILTERS = pathlib.Path("/etc/lvm/lvmlocal.conf")


def hide(test: LiveTest, disk: str) -> None:
    """LVM does not look at a disk, but at what stands on it, until the test ends."""
    before = FILTERS.read_text() if FILTERS.exists() else None
    test.addCleanup(lambda: FILTERS.write_text(before) if before is not None else FILTERS.unlink())
    FILTERS.write_text(f'devices {{\n global_filter=[ "r|^{disk}$|" ]\n}}\n')


def loop(test: LiveTest, name: str, size: int) -> tuple[str, str]:
    """A loop device and its file, gone after the test."""
    path = os.path.join(str(Disks.mount), f"{name}-{os.getpid()}-{test.id()}")
    with open(path, "wb") as file:
        file.truncate(size)
    device = command("losetup", "-f", "--show", path).stdout.strip()
    test.addCleanup(lambda: (command("losetup", "-d", device, check=False), os.unlink(path)))
    # What stands on it goes first.
    test.addCleanup(Disks.wipe)
    return device, path


class InterruptedRecordingTests(LiveTest):
    """The base of a classic volume looks valid, and its store lacks something."""

    def begin(self) -> str:
        self.volume, self.target = self.source.thick("o"), self.standby.thick("copy")
        self.site_ = self.pair(self.target)
        devices.write(self.volume, (0, 4 * MIB))
        self.send(self.site_, self.target, "o", "db", *STORE, expect="full")
        return self.base("o")

    def reactivate(self) -> None:
        command("lvchange", "-qq", "-an", f"{SOURCE}/o")
        command("lvchange", "-qq", "-ay", f"{SOURCE}/o")

    def compared(self, words: str) -> dict:
        """The next increment reads the source, and says why; only what has changed travels, and the copy is right."""
        result = self.assert_code(self.site_.send_live(f"{SOURCE}/o", "db", *STORE), 0, "is read and compared", words)
        self.assertIn(words, result.json["compared_because"])
        self.assertEqual(result.json["bytes_read_to_compare"], VOLUME)
        self.assert_copy(self.target, "o")
        return result.json

    def listed(self) -> None:
        devices.write(self.volume, (9 * MIB, 4096))
        result = self.send(self.site_, self.target, "o", "db", *STORE, expect="delta")
        self.assertNotIn("compared_because", result)

    def test_source_activated_anew(self) -> None:
        base = self.begin()
        self.listed()
        self.reactivate()
        devices.write(self.volume, (20 * MIB, 4096))
        self.assertEqual(self.compared("activated anew")["bytes_changed"], 64 << 10)
        self.assertNotEqual(self.base("o"), base)
        # Of the copy of before there is nothing to verify until then; now there is.
        self.assert_code(self.site_.live("verify", f"{SOURCE}/o", "db"), 0)
        self.listed()
        self.reactivate()
        self.assert_code(self.site_.live("verify", f"{SOURCE}/o", "db"), LINEAGE, "not what generation")

    def test_source_written_while_its_base_was_split_off(self) -> None:
        """`lvconvert --splitsnapshot` and back: the header is valid, the write in between is in no store."""
        base = self.begin()
        command("lvconvert", "-qq", "-y", "--splitsnapshot", f"{SOURCE}/{base}")
        devices.write(self.volume, (20 * MIB, 4096))
        command("lvconvert", "-qq", "-y", "-s", "-Zn", f"{SOURCE}/o", f"{SOURCE}/{base}")
        self.assertIn(" snapshot ", command("dmsetup", "status", f"{SOURCE}-{base}").stdout)
        self.assertEqual(self.compared("activated anew")["bytes_changed"], 64 << 10)

    def test_source_whose_store_failed_for_a_while(self) -> None:
        """The kernel gives the snapshot up and cannot write that down. Whoever sees it, sees it for good."""
        size = devices.size(self.source_disk)
        command("vgremove", "-qq", "-y", "-ff", SOURCE)
        command("dmsetup", "create", "broken", "--table", f"0 {size // 512} linear {self.source_disk} 0")
        hide(self, self.source_disk)
        self.source = Volumes(SOURCE, "/dev/mapper/broken")
        sound, _ = loop(self, "data", 128 * MIB)
        command("vgcreate", "-qq", "-y", "-s", "1m", SOURCE, "/dev/mapper/broken", sound)
        command("lvcreate", "-qq", "-y", "-Wn", "-n", "o", "-L", f"{VOLUME}b", SOURCE, sound)
        command("pvchange", "-qq", "-xn", sound)
        self.volume, self.target = self.source.path("o"), self.standby.thick("copy")
        self.site_ = self.pair(self.target)
        devices.write(self.volume, (0, 4 * MIB))
        self.assert_code(self.site_.send_live(f"{SOURCE}/o", "db", *STORE), 0)

        def table(target: str) -> None:
            command("dmsetup", "suspend", "--nolockfs", "broken")
            command("dmsetup", "load", "broken", "--table", f"0 {size // 512} {target}")
            command("dmsetup", "resume", "broken")

        table("error")
        command("dd", "if=/dev/urandom", f"of={self.volume}", "bs=64k", "seek=300", "count=1", "oflag=direct", "status=none")
        self.assertIn("snapshot Invalid", command("dmsetup", "status").stdout)
        table(f"linear {self.source_disk} 0")
        self.assert_code(self.site_.run("blockferry", "status"), 0)
        with closing(sqlite3.connect(self.site_.source / "catalog.sqlite")) as catalog:
            self.assertEqual(catalog.execute("SELECT base_given_up FROM replica").fetchall(), [(1,)])
        self.reactivate()
        self.assertNotIn("Invalid", command("dmsetup", "status").stdout)
        result = self.assert_code(self.site_.send_live(f"{SOURCE}/o", "db", *STORE), 0, "given up")
        self.assertEqual(result.json["bytes_changed"], 64 << 10)
        tagged = command("lvs", "--noheadings", "-o", "lv_name", "--select", "lv_tags=blockferry", SOURCE).stdout.split()
        self.assertEqual(len(tagged), 1)
        self.assert_same(self.target, self.source.path(tagged[0]))
        with closing(sqlite3.connect(self.site_.source / "catalog.sqlite")) as catalog:
            self.assertEqual(catalog.execute("SELECT base_given_up FROM replica").fetchall(), [(0,)])


class OtherVolumeTests(LiveTest):
    def other(self, make) -> None:
        """A volume is removed and made anew under its name; nothing of it is sent, and no snapshot is taken."""
        volume, target = make("o"), self.standby.thick("copy")
        site = self.pair(target)
        devices.write(volume, (0, 4 * MIB))
        self.send(site, target, "o", "db", *STORE, expect="full")
        command("lvremove", "-qq", "-y", f"{SOURCE}/{self.base('o')}")
        command("lvremove", "-qq", "-y", f"{SOURCE}/o")
        make("o")
        devices.write(volume, (0, 4 * MIB), (8 * MIB, MIB))
        self.assert_refused(site, target, "o", LINEAGE, "other-source", "--adopt-source", more=STORE)
        self.assert_code(site.live("resync", f"{SOURCE}/o", "db"), LINEAGE, "other-source")
        self.assert_code(site.live("export", f"{SOURCE}/o", "db", "--output", site.path / "file"), LINEAGE, "other-source")
        self.assertEqual(self.source.tagged(), [])
        result = self.send(site, target, "o", "db", *STORE, "--adopt-source", expect="delta")
        self.assertIn("another source", result["compared_because"])

    def test_source_made_anew_thick(self) -> None:
        self.other(self.source.thick)

    def test_source_made_anew_thin(self) -> None:
        self.source.pool()
        self.other(self.source.thin)

    def test_source_renamed_is_the_same(self) -> None:
        volume, target = self.source.thick("o"), self.standby.thick("copy")
        site = self.pair(target)
        devices.write(volume, (0, 4 * MIB))
        self.send(site, target, "o", "db", *STORE, expect="full")
        command("lvrename", "-qq", SOURCE, "o", "renamed")
        command("vgrename", "-qq", SOURCE, "moved")
        devices.write("/dev/mapper/moved-renamed", (20 * MIB, 4096))
        result = self.assert_code(site.send_live("moved/renamed", "db", *STORE), 0)
        self.assertEqual(result.json["result"], "delta")
        self.assertNotIn("compared_because", result.json)

    def test_source_of_a_cloned_group(self) -> None:
        """`vgimportclone`: LVM's id of the volume is the same, that of the group is not."""
        command("vgremove", "-qq", "-y", "-ff", SOURCE)
        first, _ = loop(self, "first", 96 * MIB)
        second, _ = loop(self, "second", 96 * MIB)
        command("vgcreate", "-qq", "-y", "-s", "1m", SOURCE, first)
        volume, target = self.source.thick("o"), self.standby.thick("copy")
        site = self.pair(target)
        devices.write(volume, (0, 4 * MIB))
        self.assert_code(site.send_live(f"{SOURCE}/o", "db", *STORE), 0)
        command("dd", f"if={first}", f"of={second}", "bs=1M", "iflag=direct", "oflag=direct", "status=none")
        command("vgimportclone", "-n", "clone", second)
        command("lvchange", "-qq", "-ay", "clone/o")
        devices.write("/dev/mapper/clone-o", (9 * MIB, 4096))
        before = devices.sha256(target)
        self.assert_code(site.send_live("clone/o", "db", *STORE), LINEAGE, "other-source", "group")
        self.assertEqual(devices.sha256(target), before)

    def test_source_device_that_is_used_or_another(self) -> None:
        """A device of device-mapper with a UUID, and another one under the same name."""
        disk, sectors = Disks.standby, 32 * MIB // 512
        command("vgremove", "-qq", "-y", "-ff", self.standby.group)
        for number, name in enumerate("ab"):
            command("dmsetup", "create", name, "--uuid", f"disk-{name}", "--table",
                    f"0 {sectors} linear {disk} {number * sectors}")
            devices.write(f"/dev/mapper/{name}", (0, MIB))
        site = self.site()
        target = f"{Disks.mount}/device-{os.getpid()}.copy"
        site.pair("db", target)
        self.assertEqual(site.send("db", "/dev/mapper/a").json["result"], "full")
        self.assert_same(target, "/dev/mapper/a")
        self.assert_code(site.send("db", "/dev/mapper/b"), LINEAGE, "other-source", "disk-a", "disk-b")
        command("dmsetup", "create", "above", "--table", "0 8 linear /dev/mapper/a 0")
        self.assert_code(site.send("db", "/dev/mapper/a"), 1, "source-in-use")
        command("dmsetup", "remove", "above")
        devices.write("/dev/mapper/a", (MIB, 4096))
        self.assertEqual(site.send("db", "/dev/mapper/a").json["result"], "delta")
        self.assert_same(target, "/dev/mapper/a")

    def test_source_that_is_a_target(self) -> None:
        """A standby's logical volume is sent on: not while it is written."""
        volume, middle = self.source.thick("o"), self.standby.thick("copy")
        site = self.pair(middle)
        devices.write(volume, (0, 4 * MIB))
        self.send(site, middle, "o", "db", *STORE, expect="full")
        target = f"{Disks.mount}/chain-{os.getpid()}.copy"
        chain = site.path / "chain"
        site.pair("chain", target, state=chain)
        environment = {"BLOCKFERRY_STATE": str(chain), "BLOCKFERRYD_STATE": str(site.standby)}
        arguments = (f"{self.standby.group}/copy", "chain", *STORE)
        with open(site.standby / "locks/db") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.assert_code(site.send_live(*arguments, env=environment), 1, "source-is-target")
        self.assertEqual(self.standby.tagged(), [])
        self.assert_code(site.send_live(*arguments, env=environment), 0)
        self.assert_same(target, volume)


class FlushTests(LiveTest):
    """A log of all writes below the source's volume group: what a send has committed was flushed before it said so."""

    def prepare_disks(self) -> None:
        device, self.log = loop(self, "log", 900 * MIB)
        sectors = devices.size(Disks.source) // 512
        command("dmsetup", "create", "logged", "--table", f"0 {sectors} log-writes {Disks.source} {device}")
        self.source_disk = "/dev/mapper/logged"
        hide(self, Disks.source)

    def write(self, volume: str, place: int, length: int) -> None:
        """Past the kernel's cache, into that of the disk: the second time in place, so that a pool has nothing to commit, which
        would flush."""
        devices.write(volume, (place, length))
        devices.write(volume, (place, length), flush=False)

    def flushed(self, volume: str) -> None:
        target = self.standby.thick("copy")
        site = self.pair(target)
        self.assert_code(site.send_live(f"{SOURCE}/o", "db", *STORE), 0)
        blocks = []
        for number in range(3):
            place = (100 + 50 * number) * 65536
            self.write(volume, place, 64 << 10)
            blocks.append(devices.read(volume, place, 4096))
            self.assert_code(site.send_live(f"{SOURCE}/o", "db", *STORE), 0)
            command("dmsetup", "message", "logged", 0, "mark", f"sent-{number}")
        self.write(volume, 0, 4096)
        missing = devices.read(volume, 0, 4096)
        command("dmsetup", "message", "logged", 0, "mark", "end")

        def marks() -> dict[str, int]:
            return {entry.mark: index for index, entry in enumerate(write_log.read(self.log)) if entry.mark}

        self.assertTrue(until(30, lambda: "end" in marks()))
        entries, places = write_log.read(self.log), marks()
        for number, block in enumerate(blocks):
            self.assertTrue(any(block in entry.data for entry in entries[:places[f"sent-{number}"]]), "it was not flushed")
        # What nothing has flushed does not stand in the log.
        self.assertFalse(any(missing in entry.data for entry in entries[:places["end"]]), "the log tells nothing")

    def test_source_thick_is_flushed_before_committed(self) -> None:
        self.flushed(self.source.thick("o"))

    def test_source_thin_is_flushed_before_committed(self) -> None:
        self.source.pool()
        self.flushed(self.source.thin("o"))
