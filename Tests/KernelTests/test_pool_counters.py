# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A thin pool's clock goes up with each snapshot, and the kernel packs it into 24 bits of each mapping. What comes close to
that is refused before a snapshot is taken, told long before, and there is a way out. The counters are set by thin_dump and
thin_restore, an oracle that shares no code with us."""

from __future__ import annotations

import re

import devices
from devices import MIB
from harness import SOURCE, LiveTest, Volumes, command

LIMIT = (1 << 24) - (1 << 12)


def edit_metadata(volumes: Volumes, edit, *, pool: str = "pool") -> None:
    """Gives a pool edited metadata, as docs/OPERATIONS.md says: all volumes inactive, dump, edit, restore, swap."""
    group = volumes.group
    command("vgchange", "-qq", "-an", group)
    command("lvchange", "-qq", "-y", "-ay", f"{group}/{pool}_tmeta")
    text = command("thin_dump", f"/dev/{group}/{pool}_tmeta").stdout
    command("lvchange", "-qq", "-an", f"{group}/{pool}_tmeta")
    path = "/run/metadata.xml"
    with open(path, "w") as file:
        file.write(edit(text))
    command("lvcreate", "-qq", "-y", "-Wn", "-n", "new_metadata", "-L", f"{8 * MIB}b", group)
    command("thin_restore", "-i", path, "-o", f"/dev/{group}/new_metadata")
    command("lvchange", "-qq", "-an", f"{group}/new_metadata")
    command("lvconvert", "-qq", "-y", "--thinpool", f"{group}/{pool}", "--poolmetadata", f"{group}/new_metadata")
    # The former metadata.
    command("lvremove", "-qq", "-y", f"{group}/new_metadata")
    command("vgchange", "-qq", "-ay", group)


def set_clock(time: int):
    return lambda text: re.sub(r'(<superblock [^>]*?\btime=")\d+', rf"\g<1>{time}", text, count=1)


def reset_times(text: str) -> str:
    """Every mapping is of time 0, and every device has had a snapshot at time 1: so that all blocks count as shared, and
    none is overwritten that a snapshot still has."""
    text = set_clock(1)(text)
    text = re.sub(r'(<(?:single|range)_mapping [^>]*?\btime=")\d+', r"\g<1>0", text)
    return re.sub(r'((?:creation|snap)_time=")\d+', r"\g<1>1", text)


class PoolCounterTests(LiveTest):
    def begin(self) -> None:
        self.source.pool()
        self.volume, self.target = self.source.thin("t"), self.standby.thick("copy")
        self.site_ = self.pair(self.target)
        devices.write(self.volume, (0, 2 * MIB))
        self.send(self.site_, self.target, "t", expect="full")

    def left(self) -> int:
        facts = self.assert_code(self.site_.run("blockferry", "status", "--json"), 0).json
        pool, = facts["pools"]
        self.assertEqual(pool["pool"], f"{SOURCE}/pool")
        return pool["snapshots_left"]

    def test_the_clock_is_watched_and_the_way_out_works(self) -> None:
        self.begin()
        self.assertGreater(self.left(), LIMIT - 100)
        edit_metadata(self.source, set_clock(LIMIT * 4 // 5 + 1))
        devices.write(self.volume, (4 * MIB, 65536))
        result = self.assert_code(self.site_.live("resync", f"{SOURCE}/t", "db"), 0)
        self.assertIn("more snapshots", result.error)
        self.assertIn("more snapshots", self.site_.send_live(f"{SOURCE}/t", "db", "--dry-run").error)

        edit_metadata(self.source, set_clock(LIMIT - 1))
        self.assertEqual(self.left(), 1)
        self.assert_code(self.site_.live("resync", f"{SOURCE}/t", "db"), 0)
        self.assertEqual(self.left(), 0)
        before = self.source.tagged()
        for more in ((), ("--dry-run",)):
            result = self.site_.send_live(f"{SOURCE}/t", "db", *more)
            self.assert_code(result, 1, "pool-exhausted")
        self.assertEqual(self.source.tagged(), before, "a snapshot was taken")

        # The way out. A snapshot of the operator's must keep what it shows, whatever is written afterwards.
        monday = self.source.snapshot("monday", "t")
        shown = devices.sha256(monday)
        edit_metadata(self.source, reset_times)
        devices.write(self.volume, (0, 6 * MIB))
        command("lvchange", "-qq", "-ay", "-K", f"{SOURCE}/monday")
        self.assertEqual(devices.sha256(monday), shown, "a block that a snapshot has was overwritten")
        self.assertGreater(self.left(), LIMIT - 100)
        self.assert_code(self.site_.live("resync", f"{SOURCE}/t", "db"), 0)
        devices.write(self.volume, (MIB, 65536))
        result = self.assert_code(self.site_.send_live(f"{SOURCE}/t", "db"), 0)
        self.assertEqual(result.json["result"], "delta")

    def test_inspect_says_how_many_are_left(self) -> None:
        self.begin()
        edit_metadata(self.source, set_clock(LIMIT - 5))
        command("vgchange", "-qq", "-an", SOURCE)
        command("lvchange", "-qq", "-y", "-ay", f"{SOURCE}/pool_tmeta")
        path = f"/dev/{SOURCE}/pool_tmeta"
        facts = self.assert_code(
            self.site_.run("blockferry", "inspect", "--thin-metadata", path, "--format", "json"), 0).json
        self.assertEqual((facts["time"], facts["snapshots_left"]), (LIMIT - 5, 5))
        self.assertIn("snapshots left    5\n", self.site_.run("blockferry", "inspect", "--thin-metadata", path).out)

    def test_no_generation_is_kept_in_a_pool_at_its_end(self) -> None:
        """The generation is committed; that it is not kept is told."""
        self.source.pool()
        volume = self.source.thin("t")
        self.standby.pool()
        target = self.standby.thin("copy")
        site = self.pair(target)
        self.assert_code(site.run("blockferryd", "keep", "db", "--generations", "3"), 0)
        devices.write(volume, (0, MIB))
        self.assert_code(site.send_live(f"{SOURCE}/t", "db"), 0)
        site.kill_daemon()
        edit_metadata(self.standby, set_clock(LIMIT))
        site.start_daemon()
        devices.write(volume, (MIB, MIB))
        self.assert_code(site.send_live(f"{SOURCE}/t", "db"), 0)
        facts = self.assert_code(site.run("blockferryd", "status", "db", "--json"), 0).json["volumes"][0]
        self.assertEqual((facts["generation"], facts["snapshots_left"], facts["state"]), (2, 0, "consistent"))
        self.assertIn("pool-exhausted", facts["keeping"]["problem"])
        self.assertEqual(len(facts["kept"]), 1)
