# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A snapshot that Blockferry has made, and that somebody has made something else of, is never removed: not by a send, not
by a resync, not by `cleanup`, and not from an older copy of the state. What it has made and nobody needs goes."""

from __future__ import annotations

import pathlib
import shutil

import devices
from devices import MIB
from harness import SOURCE, LiveTest, command


class OwnershipTests(LiveTest):
    STORE: tuple[str, ...] = ()

    def begin(self) -> str:
        """A volume whose first generation was sent; returns the name of its base."""
        self.make()
        self.volume, self.target = self.source.path("t"), self.standby.thick("copy")
        self.site_ = self.pair(self.target)
        devices.write(self.volume, (0, 2 * MIB))
        self.send(self.site_, self.target, "t", "db", *self.STORE, expect="full")
        return self.base("t")

    def make(self) -> None:
        self.source.pool()
        self.source.thin("t")

    def names(self) -> set[str]:
        return {row["lv_name"] for row in self.source.rows("lv_name")}

    def cleanup(self, *more: str, state: pathlib.Path | None = None) -> str:
        return self.assert_code(self.site_.run("blockferry", "cleanup", *more, state=state), 0).out

    def forget(self) -> None:
        """Nobody needs the snapshot any more."""
        self.assert_code(self.site_.run("blockferry", "forget", "--to", "standby", "--volume", "db"), 0)

    def assert_left(self, name: str, why: str, sends: int | None = None) -> None:
        """The volume outlives everything that follows, with its content, and it is said why it is left."""
        before = devices.sha256(self.source.path(name)) if self.source.is_active(name) else None
        said = ""
        for verb in ("send", "resync", "send", "send"):
            devices.write(self.volume, (4 * MIB, 65536))
            result = self.site_.live(verb, f"{SOURCE}/t", "db", *self.STORE)
            self.assertIn(result.code, (0, sends) if sends else (0,), result)
            said += result.error
            self.assertIn(name, self.names(), f"{verb} removed it: {result}")
        said += self.cleanup("--dry-run") + self.cleanup() + self.cleanup("--json")
        self.assertIn(name, self.names(), "cleanup removed it")
        self.assertIn(why, said)
        self.assertIn("left alone", said)
        if before:
            self.assertEqual(devices.sha256(self.source.active(name)), before)
        # The copy is at a new point in time, and its base is another snapshot, the only one besides.
        ours = [name for name in self.source.tagged("blockferry.volume=db") if name != self.left]
        self.assertEqual(len(ours), 1)
        if not self.source.is_active(ours[0]):
            command("lvchange", "-qq", "-ay", "-K", f"{SOURCE}/{ours[0]}")
        self.assert_same(self.target, self.source.path(ours[0]))


class ThinOwnershipTests(OwnershipTests):
    def writable(self, name: str) -> str:
        command("lvchange", "-qq", "-an", f"{SOURCE}/{name}")
        command("lvchange", "-qq", "-prw", f"{SOURCE}/{name}")
        command("lvchange", "-qq", "-ay", "-K", f"{SOURCE}/{name}")
        return self.source.path(name)

    def test_a_base_that_the_operator_works_with_under_another_name(self) -> None:
        base, self.left = self.begin(), "restored"
        command("lvrename", "-qq", SOURCE, base, "restored")
        devices.write(self.writable("restored"), (6 * MIB, MIB))
        self.assert_left("restored", "renamed", sends=7)

    def test_a_base_that_was_only_renamed(self) -> None:
        base, self.left = self.begin(), "yesterday"
        command("lvrename", "-qq", SOURCE, base, "yesterday")
        # It is still what was sent, and a delta may start from it.
        self.assert_left("yesterday", "renamed")

    def test_a_base_that_was_made_writable(self) -> None:
        self.left = self.begin()
        self.writable(self.left)
        self.assert_left(self.left, "writable")

    def test_a_base_that_was_written_and_is_read_only_again(self) -> None:
        """Only the pool's metadata says so."""
        self.left = self.begin()
        devices.write(self.writable(self.left), (6 * MIB, MIB))
        command("lvchange", "-qq", "-an", f"{SOURCE}/{self.left}")
        command("lvchange", "-qq", "-pr", f"{SOURCE}/{self.left}")
        command("lvchange", "-qq", "-ay", "-K", f"{SOURCE}/{self.left}")
        self.assert_left(self.left, "written", sends=7)

    def test_what_is_left_of_a_volume_that_is_gone(self) -> None:
        self.left = self.begin()
        # Nobody, but for the operator, whose volume is lost.
        self.forget()
        self.source.remove("t")
        self.assertIn("gone", self.cleanup())
        self.assertIn(self.left, self.names())

    def test_a_snapshot_that_nobody_needs_goes(self) -> None:
        """The other side of it: what no proof is missing for is removed."""
        base = self.begin()
        self.forget()
        self.assertIn(f"{SOURCE}/{base} would be removed", self.cleanup("--dry-run"))
        self.assertIn(base, self.names())
        self.assertIn(f"{SOURCE}/{base} was removed", self.cleanup())
        self.assertNotIn(base, self.names())
        self.assertIn("nothing is left over", self.cleanup())

    def test_a_snapshot_of_a_renamed_group_goes(self) -> None:
        base = self.begin()
        self.forget()
        command("vgrename", "-qq", SOURCE, "other")
        self.addCleanup(command, "vgremove", "-qq", "-ff", "-y", "other", check=False)
        self.assertIn(f"other/{base} was removed", self.cleanup())

    def test_cleanup_with_an_older_state_leaves_the_base_of_the_newer(self) -> None:
        self.begin()
        older = self.site_.path / "older"
        shutil.copytree(self.site_.source, older)
        devices.write(self.volume, (4 * MIB, MIB))
        self.send(self.site_, self.target, "t", expect="delta")
        newer = self.base("t")
        self.assertIn("has not made it", self.cleanup(state=older))
        self.assertEqual(self.base("t"), newer)
        devices.write(self.volume, (5 * MIB, MIB))
        self.send(self.site_, self.target, "t", expect="delta")

    def test_status_names_what_is_not_ours_any_more(self) -> None:
        base, self.left = self.begin(), "restored"
        command("lvrename", "-qq", SOURCE, base, "restored")
        devices.write(self.writable("restored"), (6 * MIB, MIB))
        entry, = self.assert_code(self.site_.run("blockferry", "status", "--json"), 0).json["snapshots"]
        self.assertEqual((entry["snapshot"], entry["role"]), (f"{SOURCE}/restored", "unknown"))


class ClassicOwnershipTests(OwnershipTests):
    STORE = ("--cow-size", "16M")

    def make(self) -> None:
        self.source.thick("t")

    def test_a_classic_base_that_was_renamed_and_made_writable(self) -> None:
        base, self.left = self.begin(), "restored"
        command("lvrename", "-qq", SOURCE, base, "restored")
        command("lvchange", "-qq", "-prw", f"{SOURCE}/restored")
        devices.write(self.source.path("restored"), (6 * MIB, MIB))
        self.assert_left("restored", "renamed")

    def test_a_classic_base_that_was_split_from_its_volume(self) -> None:
        """Its store is a volume of its own then, under the same name and with our tags."""
        self.left = self.begin()
        command("lvconvert", "-qq", "-y", "--splitsnapshot", f"{SOURCE}/{self.left}")
        self.assert_left(self.left, "no snapshot any more", sends=7)
