# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The standby's state directory is restored from a backup, or moved: what it says of targets is out of date. Needs root for
loop-mounted file systems."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import unittest

import test_room
from harness import Site, sha256, until
from test_room import MIB


class RestoredTest(unittest.TestCase):
    SIZE = 2 * MIB

    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()
        self.plain, self.target = self.site.path / "plain", self.site.path / "copy"
        self.plain.write_bytes(os.urandom(self.SIZE))
        self.backup = self.site.path / "backup"

    def change(self, path: pathlib.Path, at: int = 5 * 65536) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(os.urandom(4096))

    def send(self, code: int = 0):
        result = self.site.send("vol", self.plain)
        self.assertEqual(result.code, code, result)
        return result

    def keep_state(self) -> None:
        self.site.kill_daemon()
        shutil.copytree(self.site.standby, self.backup)
        self.site.start_daemon()

    def restore(self, how: str) -> None:
        self.site.kill_daemon()
        if how == "made anew":
            shutil.rmtree(self.site.standby)
        else:
            # Each file that is there keeps its inode; SQLite's log of what came later must go.
            for name in ("catalog.sqlite-wal", "catalog.sqlite-shm"):
                (self.site.standby / name).unlink(missing_ok=True)
        subprocess.run(["cp", "-aT", self.backup, self.site.standby], check=True, timeout=60)
        self.site.start_daemon()

    def both(self):
        for how in ("made anew", "written over"):
            with self.subTest(how):
                yield how
            self.doCleanups()
            self.setUp()

    def is_left_alone(self, code: int, word: str) -> None:
        before = sha256(self.target)
        self.assertIn(word, self.send(code).error)
        self.assertEqual(sha256(self.target), before)


class StateTests(RestoredTest):
    def test_what_was_written_after_a_promotion_that_the_backup_does_not_know(self) -> None:
        for how in self.both():
            self.site.pair("vol", self.target)
            self.send()
            self.keep_state()
            self.assertEqual(self.site.run("blockferryd", "promote", "vol").code, 0)
            # One block of many, which no sample has to meet.
            self.change(self.target, 17 * 65536)
            self.restore(how)
            self.change(self.plain)
            self.is_left_alone(7, "diverged")

    def test_a_diverged_copy_with_data_behind_its_end_is_resynced(self) -> None:
        """In one session: what the comparison has read is known, and is replaced."""
        for how in self.both():
            self.site.pair("vol", self.target)
            self.send()
            self.keep_state()
            self.change(self.target)
            self.restore(how)
            with self.target.open("ab") as file:
                file.write(os.urandom(3 * 65536))
            self.change(self.plain)
            self.assertIn("diverged", self.send(7).error)
            resynced = self.site.run("blockferry", "resync", self.plain, "--to", "standby", "--volume", "vol")
            self.assertEqual(resynced.code, 0, resynced)
            self.assertEqual(sha256(self.target), sha256(self.plain))

    def test_a_target_that_holds_what_the_backup_says_goes_on(self) -> None:
        for how in self.both():
            self.site.pair("vol", self.target)
            self.send()
            self.keep_state()
            self.site.run("blockferryd", "status")
            self.restore(how)
            self.change(self.plain)
            self.assertEqual(self.send().json["result"], "delta")
            self.assertEqual(sha256(self.target), sha256(self.plain))
            self.assertEqual(self.send().json["result"], "up-to-date")

    def test_a_first_copy_that_the_backup_has_begun(self) -> None:
        """It is finished, promoted and used; the backup would go on with it, in place."""
        for how in self.both():
            self.site.pair("vol", self.target)
            self.plain.write_bytes(os.urandom(64 * MIB))
            sender = self.site.start_send("vol", self.plain)
            self.assertTrue(until(20, lambda: self.target.stat().st_blocks > 4096))
            self.site.kill_daemon()
            sender.kill()
            sender.communicate()
            self.assertEqual(self.site.status("vol")["state"], "initialising")
            shutil.copytree(self.site.standby, self.backup)
            self.site.start_daemon()
            self.send()
            self.assertEqual(self.site.run("blockferryd", "promote", "vol").code, 0)
            self.change(self.target, 17 * 65536)
            self.restore(how)
            # The source knows of a generation; without it, it would begin anew.
            self.assertEqual(
                self.site.run("blockferry", "forget", "--to", "standby", "--volume", "vol").code, 0)
            self.is_left_alone(9, "occupied")

    def test_a_first_copy_that_begins_after_it_goes_on(self) -> None:
        self.site.pair("vol", self.target)
        self.plain.write_bytes(os.urandom(64 * MIB))
        self.keep_state()
        self.restore("made anew")
        sender = self.site.start_send("vol", self.plain)
        self.assertTrue(until(20, lambda: self.target.stat().st_blocks > 65536))
        self.site.kill_daemon()
        sender.kill()
        sender.communicate()
        self.site.start_daemon()
        self.assertEqual(self.site.status("vol")["state"], "initialising")
        self.assertGreater(self.send().json["resumed_segments"], 0)
        self.assertEqual(sha256(self.target), sha256(self.plain))

    def test_the_leave_to_overwrite_is_not_restored(self) -> None:
        for how in self.both():
            self.target.write_bytes(os.urandom(self.SIZE))
            self.site.pair("vol", self.target, "--overwrite")
            self.keep_state()
            self.send()
            self.assertEqual(self.site.run("blockferryd", "promote", "vol").code, 0)
            self.restore(how)
            self.assertEqual(
                self.site.run("blockferry", "forget", "--to", "standby", "--volume", "vol").code, 0)
            self.is_left_alone(9, "occupied")

    def test_a_directory_that_moves_within_its_file_system_is_the_same(self) -> None:
        self.site.pair("vol", self.target)
        self.send()
        self.site.kill_daemon()
        moved = self.site.path / "moved"
        self.site.standby.rename(moved)
        self.assertNotIn("restored", self.site.run("blockferryd", "status", state=moved).error)
        copied = self.site.path / "copied"
        shutil.copytree(moved, copied)
        shutil.rmtree(moved)
        self.assertIn("restored", self.site.run("blockferryd", "status", state=copied).error)
        self.assertNotIn("restored", self.site.run("blockferryd", "status", state=copied).error)


class ApplyingTests(test_room.RoomTest):
    fill, copy_on_write = test_room.FullTests.fill, test_room.FullTests.copy_on_write

    def finished_after_a_backup(self) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
        """A generation that was being applied when the state was backed up, and is on its target now."""
        system, source, target = self.fill()
        self.site.kill_daemon()
        backup = self.site.path / "backup"
        shutil.copytree(self.site.standby, backup)
        system.make_room()
        self.site.start_daemon()
        self.assertTrue(until(60, lambda: self.state("v") == "consistent"))
        return source, target, backup

    def is_left_alone(self, backup: pathlib.Path, target: pathlib.Path) -> None:
        """The state is restored; nothing of what it was applying is written."""
        before = target.read_bytes()
        self.site.kill_daemon()
        shutil.rmtree(self.site.standby)
        shutil.copytree(backup, self.site.standby)
        promoted = self.site.run("blockferryd", "promote", "v")
        self.assertEqual((promoted.code, "--without-check" in promoted.error), (9, True), promoted)
        self.assertEqual(self.state("v"), "applying")
        self.assertTrue(target.read_bytes() == before)

    def test_what_was_written_behind_the_end_of_the_generation(self) -> None:
        source, target, backup = self.finished_after_a_backup()
        self.assertEqual(self.site.run("blockferryd", "promote", "v").code, 0)
        self.write(target, 57 * MIB, MIB)
        self.is_left_alone(backup, target)

    def test_what_was_written_behind_the_end_of_the_generation_before(self) -> None:
        def grown(test: ApplyingTests):
            system, source, target = test_room.FullTests.copy_on_write(test)
            test.write(source, 56 * MIB, 2 * MIB)
            return system, source, target

        self.copy_on_write = lambda: grown(self)
        source, target, backup = self.finished_after_a_backup()
        self.same(source, target)
        self.assertEqual(self.site.run("blockferryd", "promote", "v").code, 0)
        self.write(target, 57 * MIB, 65536)
        self.is_left_alone(backup, target)

    def torn_and_restored(self) -> tuple[pathlib.Path, pathlib.Path]:
        """A generation that is being applied, with a block on its target that nobody could tell from a later one's."""
        system, source, target = self.fill()
        self.site.kill_daemon()
        system.make_room()
        self.write(target, 65536 + 100, 100)
        shutil.copytree(self.site.standby, self.site.path / "copy")
        shutil.rmtree(self.site.standby)
        (self.site.path / "copy").rename(self.site.standby)
        return source, target

    def test_a_generation_is_not_written_over_a_later_one(self) -> None:
        source, target, backup = self.finished_after_a_backup()
        self.write(source, 3 * MIB, 65536)
        self.assertEqual(self.site.send("v", source).code, 0)
        self.same(source, target)
        for how in ("made anew", "written over"):
            with self.subTest(how):
                self.site.kill_daemon()
                if how == "made anew":
                    shutil.rmtree(self.site.standby)
                subprocess.run(["cp", "-aT", backup, self.site.standby], check=True, timeout=60)
                promoted = self.site.run("blockferryd", "promote", "v")
                self.assertEqual((promoted.code, "--for-resync" in promoted.error), (9, True), promoted)
                self.site.start_daemon()
                self.assertNotEqual(self.site.send("v", source).code, 0)
                self.assertEqual(self.state("v"), "applying")
                self.same(source, target)
        self.site.kill_daemon()
        resync = ("retarget", "v", target, "--for-resync")
        refused = self.site.run("blockferryd", *resync)
        self.assertEqual((refused.code, "--give-up-generation" in refused.error), (1, True), refused)
        self.assertEqual(self.site.run("blockferryd", *resync, "--give-up-generation").code, 0)
        self.site.start_daemon()
        result = self.site.run("blockferry", "resync", source, "--to", "standby", "--volume", "v")
        self.assertEqual(result.code, 0, result)
        self.same(source, target)

    def test_in_an_emergency_it_is_written_on_the_operators_word(self) -> None:
        source, target = self.torn_and_restored()
        promoted = self.site.run("blockferryd", "promote", "v")
        self.assertEqual((promoted.code, "--without-check" in promoted.error), (9, True), promoted)
        promoted = self.site.run("blockferryd", "promote", "v", "--without-check")
        self.assertEqual(promoted.code, 0, promoted)
        self.same(source, target)

    def test_it_is_written_where_the_operator_says_that_this_is_the_target(self) -> None:
        """And what it does not touch is the copy's."""
        source, target = self.torn_and_restored()
        content = target.read_bytes()
        self.write(target, 56 * MIB - 100, 100)
        refused = self.site.run("blockferryd", "retarget", "v", target)
        self.assertEqual((refused.code, "is not the copy's" in refused.error, self.state("v")), (9, True, "applying"), refused)
        target.write_bytes(content)
        self.assertEqual(self.site.run("blockferryd", "retarget", "v", target).code, 0)
        self.site.start_daemon()
        self.assertTrue(until(60, lambda: self.state("v") == "consistent"), self.site.status("v"))
        self.same(source, target)

    def test_a_generation_that_was_written_meanwhile_is_committed(self) -> None:
        source, target, backup = self.finished_after_a_backup()
        self.site.kill_daemon()
        shutil.rmtree(self.site.standby)
        backup.rename(self.site.standby)
        self.site.start_daemon()
        self.assertTrue(until(60, lambda: self.state("v") == "consistent"), self.site.status("v"))
        self.write(source, 3 * MIB, 65536)
        self.assertEqual(self.site.send("v", source).code, 0)
        self.same(source, target)


if __name__ == "__main__":
    unittest.main()
