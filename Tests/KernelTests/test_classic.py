# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Volumes with classic snapshots, in use, sent with one command."""

from __future__ import annotations

import os
import tempfile

import devices
from devices import MIB
from harness import SOURCE, VOLUME, Disks, LiveTest, Volumes, Writer, acceptance, command
from test_cache import exceptions
from test_thin import CHANGES

STORE = ("--cow-size", "16M")


class ClassicTests(LiveTest):
    def chunk_of(self, snapshot: str) -> int:
        return int(command("dmsetup", "table", f"{SOURCE}-{snapshot}").stdout.split()[6]) * 512

    def generations(self, chunk: int, target: str) -> None:
        volume = self.source.thick("o")
        site = self.pair(target)
        devices.write(volume, (0, 6 * MIB), *devices.scattered(1, 40, VOLUME))
        before = b""
        for number, expect in enumerate(("full", "delta", "delta"), start=1):
            result = self.assert_code(site.send_live(f"{SOURCE}/o", "db", *STORE, "--cow-chunk", f"{chunk >> 10}K"), 0)
            self.assertEqual((result.json["result"], result.json["generation"]), (expect, number))
            base = self.assert_copy(target, "o")
            self.assertEqual(self.chunk_of(base), chunk)
            self.assertNotEqual(devices.sha256(target, VOLUME), before)
            before = devices.sha256(target, VOLUME)
            if expect == "delta":
                self.assertLess(result.json["bytes_changed"], VOLUME)
            # The first and the last sector, less than a page, less than a chunk, across chunks.
            devices.write(volume, (0, 512), (VOLUME - 512, 512), *devices.scattered(number, 12, VOLUME, 512, 512),
                          *devices.scattered(number + 50, 4, VOLUME, 100 << 10))

    def test_classic_4k_to_thick(self) -> None:
        self.generations(4 << 10, self.standby.thick("copy"))

    def test_classic_64k_to_thin_with_256k(self) -> None:
        self.standby.pool(chunk=256 << 10)
        self.generations(64 << 10, self.standby.thin("copy"))

    def test_classic_512k_to_file(self) -> None:
        self.generations(512 << 10, os.path.join(tempfile.mkdtemp(), "copy.img"))

    def test_classic_size_that_is_no_multiple_of_the_chunk(self) -> None:
        """The last chunk is short; what lies behind it in the store is not the volume's."""
        size = 5 * MIB
        group = Volumes("odd", self.source.disk)
        command("vgremove", "-qq", "-y", SOURCE)
        command("vgcreate", "-qq", "-y", "-s", "64k", "odd", group.disk)
        volume = group.thick("o", size + (64 << 10))
        target = self.standby.thick("copy", 6 * MIB)
        site = self.pair(target)
        for number, expect in enumerate(("full", "delta")):
            devices.write(volume, (size + (60 << 10), 4096), (number * 4096, 4096))
            result = self.assert_code(site.send_live("odd/o", "db", "--cow-size", "4M", "--cow-chunk", "512K"), 0)
            self.assertEqual(result.json["result"], expect)
            self.assertEqual(result.json["volume_bytes"], size + (64 << 10))
            self.assert_copy(target, "o", volumes=group)

    def mounted(self, kind: str) -> None:
        size = 64 * MIB
        volume, target = self.source.thick("o", size), self.standby.thick("copy", size)
        where = self.mount(volume, kind)
        site = self.pair(target)
        with Writer(where, seed=6) as writer:
            for number in range(4):
                marker = os.path.join(where, f"marker-{number}")
                with open(marker, "w") as file:
                    file.write(str(number))
                    os.fsync(file.fileno())
                before = writer.writes
                self.send(site, target, "o", "db", "--cow-size", "64M", expect="delta" if number else "full")
                self.assertGreater(writer.writes, before, "nothing was written during the send")
        if kind == "ext4":
            command("e2fsck", "-fn", target)
        copy = tempfile.mkdtemp(dir="/run")
        command("mount", "-t", kind, "-o", "ro,nouuid" if kind == "xfs" else "ro", target, copy)
        self.addCleanup(self.unmount, copy)
        for number in range(4):
            with open(os.path.join(copy, f"marker-{number}")) as file:
                self.assertEqual(file.read(), str(number))

    def test_classic_ext4_mounted_and_written(self) -> None:
        self.mounted("ext4")

    def test_classic_xfs_mounted_and_written(self) -> None:
        self.mounted("xfs")

    def test_classic_volume_that_grew(self) -> None:
        """What is written behind the base's end is in no store; it is sent all the same."""
        volume, target = self.source.thick("o"), self.standby.thick("copy", VOLUME + 8 * MIB)
        site = self.pair(target)
        devices.write(volume, (0, MIB))
        self.send(site, target, "o", "db", *STORE, expect="full")
        # LVM resizes an origin with snapshots only while it is not active.
        command("lvchange", "-qq", "-an", f"{SOURCE}/o")
        self.source.grow("o", VOLUME + 8 * MIB)
        command("lvchange", "-qq", "-ay", f"{SOURCE}/o")
        devices.write(volume, (VOLUME - 8192, MIB), (VOLUME + 7 * MIB, 4096), (4096, 4096))
        self.send(site, target, "o", "db", *STORE, expect="delta")
        self.assertEqual(devices.size(volume), VOLUME + 8 * MIB)

    def test_classic_hyphens_in_names(self) -> None:
        command("vgrename", "-qq", SOURCE, "my-vg--x")
        group = Volumes("my-vg--x", self.source.disk)
        volume = group.thick("a-b--c")
        # A volume whose store has the name that a wrong guess at the other's would give.
        group.thick("a-b--c-cow", 4 * MIB)
        target = self.standby.thick("co--py")
        site = self.pair(target)
        devices.write(volume, (0, 2 * MIB))
        self.send(site, target, "a-b--c", "db", *STORE, volumes=group, expect="full")
        devices.write(volume, *devices.scattered(4, 20, VOLUME))
        self.send(site, target, "a-b--c", "db", *STORE, volumes=group, expect="delta")

    def second_disk(self) -> str:
        """A loop device over a file."""
        image = os.path.join(tempfile.mkdtemp(), "disk.img")
        with open(image, "wb") as file:
            file.truncate(256 * MIB)
        loop = command("losetup", "-f", "--show", image).stdout.strip()
        self.addCleanup(command, "losetup", "-d", loop, check=False)
        self.addCleanup(Disks.wipe)
        return loop

    def test_classic_striped_origin(self) -> None:
        """The device below the snapshot is found in its table, whatever LVM has made it of."""
        command("vgextend", "-qq", "-y", SOURCE, self.second_disk())
        command("lvcreate", "-qq", "-y", "-Wn", "--type", "striped", "-i", "2", "-n", "o", "-L", f"{VOLUME}b", SOURCE)
        volume, target = self.source.path("o"), self.standby.thick("copy")
        site = self.pair(target)
        devices.write(volume, (0, 2 * MIB))
        self.send(site, target, "o", "db", *STORE, expect="full")
        devices.write(volume, *devices.scattered(4, 20, VOLUME))
        self.send(site, target, "o", "db", *STORE, expect="delta")

    def test_changes_of_a_live_classic_snapshot(self) -> None:
        """The chunks that an own reader of the store finds, while the origin is being written; a superset of what
        differs."""
        for chunk in (4 << 10, 64 << 10, 512 << 10):
            with self.subTest(chunk=chunk):
                name = f"o{chunk >> 10}"
                volume = self.source.thick(name)
                snapshot = self.source.snapshot(f"s{chunk >> 10}", name, store=40 * MIB, chunk=chunk)
                devices.write(volume, *devices.scattered(11, 60, VOLUME))
                listed = self.rows_of(command(*CHANGES, f"{SOURCE}/s{chunk >> 10}").stdout)
                covered = {block for offset, length, _ in listed
                           for block in range(offset // chunk, (offset + length + chunk - 1) // chunk)}
                now, then = devices.content(volume), devices.content(snapshot)
                really = {block for block in range(VOLUME // chunk)
                          if now[block * chunk:(block + 1) * chunk] != then[block * chunk:(block + 1) * chunk]}
                self.assertEqual(covered, really)
                if chunk == 4096:
                    self.assertEqual(covered, set(exceptions(f"/dev/mapper/{SOURCE}-s4-cow", direct=True)))
                with Writer(volume, VOLUME, seed=12, pause=0):
                    later = self.rows_of(command(*CHANGES, f"{SOURCE}/s{chunk >> 10}").stdout)
                grown = {block for offset, length, _ in later
                         for block in range(offset // chunk, (offset + length + chunk - 1) // chunk)}
                self.assertTrue(covered <= grown, "a change was forgotten")

