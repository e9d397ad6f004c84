# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The list of changes is never less than what changed: volumes that grew, shrank, and grew again between snapshots, and
snapshots whose times say nothing. The oracle is the content: the older snapshot with the listed extents of the newer one
is the newer one, or the list is refused."""

from __future__ import annotations

import os
import pathlib

import devices
from devices import MIB
from harness import SOURCE, KernelTest, Result, command

BIN = pathlib.Path(os.environ.get("BLOCKFERRY_BIN", "/nowhere"))


class ListTests(KernelTest):
    def changes(self, older: str, newer: str, *more: str, check: bool = True):
        return command(BIN / "blockferry", "changes", f"{SOURCE}/{older}", f"{SOURCE}/{newer}", *more, check=check,
                       env={"BLOCKFERRY_STATE": "/run/lists"})

    def assert_list(self, older: str, newer: str) -> int:
        """How many bytes are listed."""
        rows = self.rows_of(self.changes(older, newer).stdout)
        before, after = devices.content(self.source.path(older)), devices.content(self.source.path(newer))
        made = bytearray(before[:len(after)].ljust(len(after), b"\0"))
        for offset, length, kind in rows:
            made[offset:offset + length] = after[offset:offset + length] if kind == "data" else bytes(length)
        self.assertEqual(len(made), len(after))
        self.assertTrue(made == after, f"the list from {older} to {newer} lacks something: {rows}")
        facts = Result(self.changes(older, newer, "--format", "json")).json
        self.assertEqual((facts["older_volume_bytes"], facts["volume_bytes"]), (len(before), len(after)))
        self.assertEqual([(each["offset"], each["length"], each["kind"]) for each in facts["extents"]], rows)
        return sum(length for _, length, _ in rows)

    def resize(self, name: str, size: int) -> None:
        command("lvresize", "-qq", "-y", "-f", "-L", f"{size}b", f"{SOURCE}/{name}")

    def test_a_thin_volume_that_shrank_and_grew(self) -> None:
        self.source.pool()
        volume = self.source.thin("t", 8 * MIB)
        devices.write(volume, (0, 8 * MIB))
        self.source.snapshot("full", "t")
        self.resize("t", 3 * MIB)
        self.source.snapshot("short", "t")
        self.resize("t", 8 * MIB)
        self.source.snapshot("again", "t")
        self.resize("t", 10 * MIB)
        devices.write(volume, (9 * MIB, 65536))
        self.source.snapshot("long", "t")
        self.assertEqual(self.assert_list("full", "short"), 0)
        # The metadata of both are the same.
        self.assertEqual(self.assert_list("short", "again"), 5 * MIB)
        self.assertEqual(self.assert_list("full", "again"), 0)
        self.assert_list("again", "long")
        self.assert_list("short", "long")
        refused = self.changes("short", "again", "--format", "xml", check=False)
        self.assertNotEqual(refused.returncode, 0)

    def classic(self) -> str:
        volume = self.source.thick("o", 8 * MIB)
        devices.write(volume, (0, 8 * MIB))
        return volume

    def test_a_classic_volume_that_grew(self) -> None:
        volume = self.classic()
        self.source.snapshot("before", "o", store=8 * MIB)
        command("lvchange", "-qq", "-an", f"{SOURCE}/o")
        self.resize("o", 12 * MIB)
        command("lvchange", "-qq", "-ay", f"{SOURCE}/o")
        devices.write(volume, (10 * MIB, 65536), (MIB, 4096))
        self.source.snapshot("after", "o", store=12 * MIB)
        self.assertEqual(self.assert_list("before", "after"), 4 * MIB + 4096)

    def test_no_clock_says_which_snapshot_is_the_older_one(self) -> None:
        """The host's clock is set back between the two."""
        volume = self.classic()
        self.source.snapshot("first", "o", store=8 * MIB)
        devices.write(volume, (0, 65536))
        now = int(command("date", "+%s").stdout)
        command("date", "-s", f"@{now - 86400}")
        self.addCleanup(command, "date", "-s", f"@{now + 60}")
        self.source.snapshot("second", "o", store=8 * MIB)
        devices.write(volume, (4 * MIB, 65536))
        times = {row["lv_name"]: row["lv_time"] for row in self.source.rows("lv_name,lv_time")}
        self.assertLess(times["second"], times["first"])
        self.assertEqual(self.assert_list("first", "second"), 131072)
        # The younger one's store does not name what was written between the two.
        refused = self.assert_code(Result(self.changes("second", "first", check=False)), 7, "(rule no-list)", "nothing proves")
        self.assertEqual(refused.out, "")
