# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Volumes of a thin pool, in use, sent with one command."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile

import devices
from devices import MIB
from harness import SOURCE, STANDBY, VOLUME, LiveTest, Volumes, Writer, acceptance, command

CHANGES = (acceptance.BIN / "blockferry", "changes")


class ThinTests(LiveTest):
    def generations(self, chunk: int, target: str, *more: str) -> None:
        """A full copy and two increments with writes of every size and discards in between. `more` goes to the invitation."""
        self.source.pool(chunk=chunk)
        volume = self.source.thin("t")
        site = self.site() if more else self.pair(target)
        if more:
            site.pair("db", target, *more)
        devices.write(volume, (0, 6 * MIB), (20 * MIB, 512 << 10), *devices.scattered(1, 40, VOLUME))
        self.assertEqual(self.send(site, target, "t", expect="full")["generation"], 1)
        first = devices.sha256(target, VOLUME)
        devices.write(volume, *devices.scattered(2, 30, VOLUME), *devices.scattered(3, 20, VOLUME, 512 << 10),
                      (VOLUME - 4096, 4096))
        # Whole blocks, ragged ends, and less than a block.
        devices.discard(volume, 1 * MIB, 2 * MIB)
        devices.discard(volume, 4 * MIB + 4096, 1 * MIB)
        devices.discard(volume, 20 * MIB + 8192, 4096)
        facts = self.send(site, target, "t", expect="delta")
        self.assertEqual(facts["from_generation"], 1)
        self.assertLess(facts["bytes_changed"], VOLUME)
        self.assertNotEqual(devices.sha256(target, VOLUME), first)
        # Written where it had been discarded, discarded where it had been written.
        devices.write(volume, (2 * MIB, 256 << 10))
        devices.discard(volume, 0, 256 << 10)
        self.send(site, target, "t", expect="delta")
        self.assert_released()

    def test_thin_64k_to_thin(self) -> None:
        self.standby.pool()
        self.generations(64 << 10, self.standby.thin("copy"))
        self.assertTrue(devices.zeros(self.standby.path("copy"), 0, 256 << 10))

    def test_thin_256k_to_thin_with_64k(self) -> None:
        self.standby.pool()
        self.generations(256 << 10, self.standby.thin("copy"))

    def test_thin_64k_to_thin_with_256k(self) -> None:
        self.standby.pool(chunk=256 << 10)
        self.generations(64 << 10, self.standby.thin("copy"))

    def test_thin_256k_to_thick(self) -> None:
        target = self.standby.thick("copy")
        devices.write(target, (0, VOLUME))
        self.generations(256 << 10, target, "--overwrite")

    def test_thin_64k_to_file(self) -> None:
        target = os.path.join(tempfile.mkdtemp(), "copy.img")
        self.generations(64 << 10, target)
        self.assertLess(os.stat(target).st_blocks * 512, VOLUME, "what is not mapped must stay a hole")

    def mounted(self, kind: str) -> None:
        """Written all the time, and the copy is a file system with what was synced before."""
        self.source.pool()
        size = 64 * MIB
        volume = self.source.thin("t", size)
        target = self.standby.thick("copy", size)
        where = self.mount(volume, kind)
        site = self.pair(target)
        with Writer(where, seed=5) as writer:
            for number in range(4):
                marker = os.path.join(where, f"marker-{number}")
                with open(marker, "w") as file:
                    file.write(str(number))
                    os.fsync(file.fileno())
                before = writer.writes
                self.send(site, target, "t", expect="delta" if number else "full")
                self.assertGreater(writer.writes, before, "nothing was written during the send")
        self.assert_released()
        self.assert_mountable(target, kind, 4)

    def assert_mountable(self, target: str, kind: str, markers: int) -> None:
        if kind == "ext4":
            command("e2fsck", "-fn", target)
        where = tempfile.mkdtemp(dir="/run")
        command("mount", "-t", kind, "-o", "ro,nouuid" if kind == "xfs" else "ro", target, where)
        self.addCleanup(self.unmount, where)
        for number in range(markers):
            with open(os.path.join(where, f"marker-{number}")) as file:
                self.assertEqual(file.read(), str(number))

    def test_thin_ext4_mounted_and_written(self) -> None:
        self.mounted("ext4")

    def test_thin_xfs_mounted_and_written(self) -> None:
        self.mounted("xfs")

    def test_thin_fstrim_of_a_mounted_file_system(self) -> None:
        """What was deleted and trimmed is given back on a thin standby, and reads as zeros."""
        self.source.pool()
        self.standby.pool()
        volume, target = self.source.thin("t", 64 * MIB), self.standby.thin("copy", 64 * MIB)
        where = self.mount(volume, "ext4")
        big = os.path.join(where, "big")
        with open(big, "wb") as file:
            file.write(os.urandom(1 * MIB) * 24)
            os.fsync(file.fileno())
        site = self.pair(target)
        self.send(site, target, "t", expect="full")
        full = self.mapped_bytes("copy")
        os.unlink(big)
        os.sync()
        command("fstrim", where)
        self.send(site, target, "t", expect="delta")
        self.assertLess(self.mapped_bytes("copy"), full - 20 * MIB, "the standby's pool has got nothing back")

    def mapped_bytes(self, name: str) -> int:
        return int(command("dmsetup", "status", f"{STANDBY}-{name}").stdout.split()[3]) * 512

    def test_thin_volume_that_grew(self) -> None:
        self.source.pool()
        volume, target = self.source.thin("t"), self.standby.thick("copy")
        site = self.pair(target)
        devices.write(volume, (0, MIB))
        self.send(site, target, "t", expect="full")
        self.source.grow("t", VOLUME + 8 * MIB)
        devices.write(volume, (VOLUME - 64 * 1024, MIB), (4096, 4096))
        # A target that is too small is refused with the reason, and nothing is written.
        self.assert_refused(site, target, "t", 9)
        self.standby.grow("copy", VOLUME + 8 * MIB)
        self.send(site, target, "t", expect="delta")
        self.assert_released()

    def test_thin_volume_that_shrank(self) -> None:
        self.source.pool()
        volume, target = self.source.thin("t"), self.standby.thick("copy")
        site = self.pair(target)
        devices.write(volume, (0, MIB), (VOLUME - MIB, MIB))
        self.send(site, target, "t", expect="full")
        command("lvreduce", "-qq", "-y", "-f", "-L", f"{VOLUME - 8 * MIB}b", f"{SOURCE}/t")
        devices.write(volume, (8192, 4096))
        self.assert_refused(site, target, "t", 7, "size-shrunk")
        facts = self.send(site, target, "t", "db", "--allow-shrink")
        self.assertEqual(facts["volume_bytes"], VOLUME - 8 * MIB)

    def test_hyphens_in_names(self) -> None:
        command("vgrename", "-qq", SOURCE, "my-vg--x")
        group = Volumes("my-vg--x", self.source.disk)
        group.pool("the-pool")
        volume = group.thin("a-b--c", pool="the-pool")
        # A volume whose node has the name that a wrong guess at the other's would give.
        group.thin("a-b-c", pool="the-pool")
        devices.write(volume, (0, 2 * MIB))
        target = self.standby.thick("c-o--py")
        site = self.pair(target)
        self.send(site, target, "a-b--c", volumes=group, expect="full")
        devices.write(volume, *devices.scattered(4, 20, VOLUME))
        self.send(site, target, "a-b--c", volumes=group, expect="delta")
        self.assertEqual(group.held("the-pool"), "-")

    def test_two_volumes_of_one_pool_at_once(self) -> None:
        """The pool has one metadata snapshot; both sends need it."""
        self.source.pool()
        names = ("one", "two")
        volumes = {name: self.source.thin(name) for name in names}
        targets = {name: self.standby.thick(name) for name in names}
        site = self.site()
        for name in names:
            devices.write(volumes[name], (0, MIB), *devices.scattered(7, 20, VOLUME))
            self.pair(targets[name], name, site)
        for expect in ("full", "delta", "delta"):
            started = {name: site.start_live(f"{SOURCE}/{name}", name) for name in names}
            for name, process in started.items():
                out, error = process.communicate(timeout=300)
                self.assertEqual(process.returncode, 0, error)
                self.assertIn(f'"{expect}"', out)
            for name in names:
                self.assert_copy(targets[name], name, name)
                devices.write(volumes[name], *devices.scattered(8, 20, VOLUME))
            self.assertEqual(len(self.source.tagged()), 2)
        self.assert_released()

    def test_one_volume_to_two_standby_volumes(self) -> None:
        """A base for each, and neither disturbs the other's."""
        self.source.pool()
        volume = self.source.thin("t")
        targets = {name: self.standby.thick(name) for name in ("one", "two")}
        site = self.site()
        for name, target in targets.items():
            self.pair(target, name, site)
            devices.write(volume, *devices.scattered(9, 20, VOLUME))
            self.send(site, target, "t", name, expect="full")
        for name in ("one", "two", "one"):
            devices.write(volume, *devices.scattered(10, 20, VOLUME))
            self.send(site, targets[name], "t", name, expect="delta")
        self.assertEqual(len(self.source.tagged()), 2)

    def test_changes_between_two_live_snapshots(self) -> None:
        """The same list as thin_delta's, while the origin is being written; and it is exact."""
        self.source.pool()
        volume = self.source.thin("t")
        devices.write(volume, (0, 4 * MIB))
        one = self.source.snapshot("s1", "t")
        devices.write(volume, *devices.scattered(11, 30, VOLUME))
        devices.discard(volume, MIB, 256 << 10)
        two = self.source.snapshot("s2", "t")
        with Writer(volume, VOLUME, seed=11):
            listed = command(*CHANGES, f"{SOURCE}/s1", f"{SOURCE}/s2").stdout
            as_xml = command(*CHANGES, f"{SOURCE}/s1", f"{SOURCE}/s2", "--format", "xml").stdout
        self.assert_released()
        rows = self.rows_of(listed)
        self.assertIn((MIB, 256 << 10, "unmapped"), rows)
        covered = set()
        for offset, length, _ in rows:
            covered.update(range(offset >> 16, (offset + length) >> 16))
        one_content, two_content = devices.content(one), devices.content(two)
        really = {block for block in range(VOLUME >> 16)
                  if one_content[block << 16:(block + 1) << 16] != two_content[block << 16:(block + 1) << 16]}
        self.assertGreater(len(really), 20)
        self.assertEqual(covered, really)
        self.source.message("reserve_metadata_snap")
        try:
            ids = {row["lv_name"]: row["thin_id"] for row in self.source.rows("lv_name,thin_id")}
            theirs = command("thin_delta", "-m", "--snap1", ids["s1"], "--snap2", ids["s2"],
                             f"/dev/mapper/{SOURCE}-pool_tmeta").stdout
        finally:
            self.source.message("release_metadata_snap")
        elements = re.compile(r"<(different|left_only|right_only) begin=\"(\d+)\" length=\"(\d+)\"")
        self.assertEqual(elements.findall(as_xml), elements.findall(theirs))

    def test_cleanup_removes_only_its_own(self) -> None:
        """Snapshots of others, tagged alike or named alike, stay; so does the base."""
        self.source.pool()
        volume, target = self.source.thin("t"), self.standby.thick("copy")
        site = self.pair(target)
        devices.write(volume, (0, MIB))
        self.send(site, target, "t")
        base = self.base("t")
        self.source.snapshot("t_blockferry_0badcafe", "t")
        self.source.snapshot("mine", "t")
        command("lvchange", "-qq", "--addtag", "blockferry", f"{SOURCE}/mine")
        for more in (("--dry-run",), (), ("--json",)):
            self.assert_code(site.run("blockferry", "cleanup", *more), 0)
        names = {row["lv_name"] for row in self.source.rows("lv_name")}
        self.assertTrue({base, "t_blockferry_0badcafe", "mine"} <= names, names)
        devices.write(volume, (MIB, MIB))
        self.assertEqual(site.send_live(f"{SOURCE}/t", "db").json["result"], "delta")

    def test_status_shows_the_space_that_a_snapshot_holds(self) -> None:
        self.source.pool()
        volume, target = self.source.thin("t"), self.standby.thick("copy")
        site = self.pair(target)
        devices.write(volume, (0, 2 * MIB))
        self.send(site, target, "t")
        result = self.assert_code(site.run("blockferry", "status", "--json"), 0)
        self.assertEqual(len(result.json["snapshots"]), 1, result)
        self.assertIn(self.base("t"), result.out)


if __name__ == "__main__":
    subprocess.sys.exit("run these with Tests/KernelTests/run")
