# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A target whose file system is full, at each point of a generation's way, and a copy that something else has open. Needs root
for the file systems, which are loop-mounted, and the packages `btrfs-progs` and `qemu-system-common`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import random
import signal
import struct
import subprocess
import time
import unittest

from harness import Site, until

MIB = 1 << 20


def command(*words: object) -> str:
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True, timeout=60).stdout


class FileSystem:
    """A file system in a file, mounted, with so much room and a file in it that can be removed for more."""

    def __init__(self, path: pathlib.Path, kind: str, room: int, filler: int) -> None:
        self.path, self.filler = path, path / "filler"
        image = path.with_suffix(".img")
        path.mkdir()
        with image.open("wb") as file:
            file.truncate(room + filler)
        command(*{"ext4": ("mkfs.ext4", "-qF", "-m0"), "btrfs": ("mkfs.btrfs", "-q", "--mixed")}[kind], image)
        self.device = command("losetup", "-f", "--show", image).strip()
        command("mount", self.device, path)
        with self.filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, filler)

    def make_room(self) -> None:
        self.filler.unlink()
        command("sync", "-f", self.path)

    def close(self) -> None:
        command("umount", self.path)
        command("losetup", "-d", self.device)


class RoomTest(unittest.TestCase):
    def setUp(self) -> None:
        self.assertEqual(os.geteuid(), 0, "needs root for loop devices")
        self.site = Site()
        self.addCleanup(self.site.close)
        self.addCleanup(self.site.kill_daemon)
        self.random = random.Random(14)
        self.site.start_daemon()

    def mount(self, name: str, kind: str, room: int) -> FileSystem:
        system = FileSystem(self.site.path / name, kind, room, 100 * MIB)

        def close() -> None:
            self.site.kill_daemon()
            system.close()
        self.addCleanup(close)
        return system

    def volume(self, name: str, size: int, data: int) -> pathlib.Path:
        """A source with so many bytes of data at its beginning."""
        path = self.site.path / f"{name}.source"
        with path.open("wb") as file:
            file.write(self.random.randbytes(data))
            file.truncate(size)
        return path

    def write(self, path: pathlib.Path, offset: int, count: int) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(self.random.randbytes(count))

    def same(self, source: pathlib.Path, target: pathlib.Path) -> None:
        self.assertTrue(source.read_bytes() == target.read_bytes(), f"{target} is not {source}")

    def state(self, volume: str) -> str:
        return self.site.status(volume)["state"]


class FullTests(RoomTest):
    def test_before_the_commit_point_it_is_refused_and_goes_on_with_room(self) -> None:
        system = self.mount("small", "ext4", 24 * MIB)
        source, target = self.volume("v", 32 * MIB, 4 * MIB), system.path / "copy"
        self.site.pair("v", target)
        self.assertEqual(self.site.send("v", source).code, 0)
        before, held = target.read_bytes(), os.stat(target).st_blocks
        self.write(source, 8 * MIB, 20 * MIB)
        refused = self.site.send("v", source)
        self.assertEqual((refused.code, "room" in refused.error, "generation 1" in refused.error), (12, True, True), refused)
        self.assertIn(self.state("v"), ("consistent", "staging"))
        self.assertEqual(self.site.status("v")["generation"], 1)
        self.assertTrue(target.read_bytes() == before, "the copy was written")
        # But for what the file system needs itself to know where the file lies.
        self.assertLess(os.stat(target).st_blocks, held + 64, "room is held for nothing")
        system.make_room()
        sent = self.site.send("v", source)
        self.assertEqual((sent.code, sent.json["generation"]), (0, 2), sent)
        self.same(source, target)

    def test_the_staging_log_has_a_file_system_of_its_own(self) -> None:
        """Its room is asked, not that of the state directory."""
        self.site.kill_daemon()
        source, target = self.volume("v", 16 * MIB, 4 * MIB), self.site.path / "copy"
        system = self.mount("staging", "ext4", 24 * MIB)
        system.path.chmod(0o700)
        command("mount", "--bind", system.path, self.site.standby / "staging")
        self.addCleanup(command, "umount", self.site.standby / "staging")
        system.filler.unlink()
        self.site.start_daemon()
        self.site.pair("v", target)
        self.assertEqual(self.site.send("v", source).code, 0)
        rest = os.statvfs(system.path)
        with system.filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, rest.f_bavail * rest.f_frsize - 4 * MIB)
        self.write(source, 8 * MIB, 6 * MIB)
        refused = self.site.send("v", source)
        self.assertEqual((refused.code, "are free in" in refused.error), (12, True), refused)
        self.assertEqual(self.state("v"), "consistent")
        system.make_room()
        self.assertEqual(self.site.send("v", source).code, 0)
        self.same(source, target)

    def test_a_copy_is_not_given_up_for_one_in_place_that_does_not_fit(self) -> None:
        system = self.mount("small", "ext4", 24 * MIB)
        source, target = self.volume("v", 32 * MIB, 4 * MIB), system.path / "copy"
        self.site.pair("v", target)
        self.assertEqual(self.site.send("v", source).code, 0)
        before = target.read_bytes()
        self.write(source, 8 * MIB, 24 * MIB)
        resync = ("blockferry", "resync", source, "--to", "standby", "--volume", "v", "--in-place")
        refused = self.site.run(*resync)
        self.assertEqual((refused.code, "Nothing was written; the copy is generation 1" in refused.error), (12, True), refused)
        self.assertTrue(target.read_bytes() == before, "the copy was written")
        self.assertEqual(self.site.status("v")["generation"], 1)
        # The source believes in it, too.
        with source.open("r+b") as file:
            file.truncate(8 * MIB)
            file.truncate(32 * MIB)
        sent = self.site.send("v", source)
        self.assertEqual((sent.code, sent.json["result"]), (0, "delta"), sent)
        self.same(source, target)
        self.write(source, 8 * MIB, 24 * MIB)
        system.make_room()
        self.assertEqual(self.site.run(*resync).code, 0)
        self.same(source, target)

    def test_before_the_commit_point_the_copy_may_be_promoted(self) -> None:
        system = self.mount("small", "ext4", 24 * MIB)
        source, target = self.volume("v", 32 * MIB, 4 * MIB), system.path / "copy"
        self.site.pair("v", target)
        self.assertEqual(self.site.send("v", source).code, 0)
        before = target.read_bytes()
        self.write(source, 8 * MIB, 20 * MIB)
        self.assertEqual(self.site.send("v", source).code, 12)
        self.assertEqual(self.site.run("blockferryd", "promote", "v").code, 0)
        self.assertTrue(target.read_bytes() == before)

    def copy_on_write(self, name: str = "v", site_volume: str = "v") -> tuple[FileSystem, pathlib.Path, pathlib.Path]:
        """A copy of which all blocks are shared with a snapshot of the operator's, so that each write needs new room that
        nobody can reserve; and a source that has written nearly all of them."""
        system = self.mount(name, "btrfs", 100 * MIB)
        command("btrfs", "subvolume", "create", system.path / "copies")
        source, target = self.volume(name, 56 * MIB, 56 * MIB), system.path / "copies/copy"
        self.site.pair(site_volume, target)
        self.assertEqual(self.site.send(site_volume, source).code, 0)
        command("btrfs", "subvolume", "snapshot", "-r", system.path / "copies", system.path / "snapshot")
        # But for the last block.
        self.write(source, 0, 56 * MIB - 65536)
        return system, source, target

    def fill(self) -> tuple[FileSystem, pathlib.Path, pathlib.Path]:
        system, source, target = self.copy_on_write()
        refused = self.site.send("v", source)
        self.assertEqual((refused.code, "committed" in refused.error), (12, True), refused)
        status = self.site.status("v")
        self.assertEqual(status["state"], "applying")
        self.assertIn("No space left", status["reason"])
        return system, source, target

    def test_after_the_commit_point_the_daemon_goes_on_by_itself(self) -> None:
        system, source, target = self.fill()
        # Without room it stays what it is, whoever asks.
        self.assertEqual(self.site.send("v", source).code, 12)
        promoted = self.site.run("blockferryd", "promote", "v")
        self.assertEqual((promoted.code, self.state("v")), (12, "applying"), promoted)
        command("btrfs", "subvolume", "delete", "-c", system.path / "snapshot")
        self.assertTrue(until(60, lambda: self.state("v") == "consistent"), self.site.status("v"))
        self.same(source, target)
        self.assertIsNone(self.site.status("v").get("reason"))
        again = self.site.send("v", source)
        self.assertEqual((again.code, again.json["generation"]), (0, 2), again)

    def test_after_the_commit_point_promote_finishes_it(self) -> None:
        system, source, target = self.fill()
        self.site.kill_daemon()
        system.make_room()
        promoted = self.site.run("blockferryd", "promote", "v")
        self.assertEqual((promoted.code, "generation 2" in promoted.out), (0, True), promoted)
        self.same(source, target)

    def test_after_the_commit_point_the_next_start_finishes_it(self) -> None:
        system, source, target = self.fill()
        self.site.kill_daemon()
        system.make_room()
        self.site.start_daemon()
        self.assertEqual(self.state("v"), "consistent")
        self.same(source, target)

    def test_a_log_and_a_target_that_are_not_there_yet_are_waited_for(self) -> None:
        """As when `staging/` or the target's file system is mounted after the daemon has started, or udev comes late."""
        system, source, target = self.fill()
        self.site.kill_daemon()
        system.make_room()
        log = self.site.standby / "staging" / "v.log"
        for path in (log, target):
            path.rename(path.with_suffix(".away"))
            for _ in range(3):
                self.site.start_daemon()
                self.assertNotEqual(self.site.run("blockferryd", "promote", "v").code, 0)
                self.assertEqual(self.state("v"), "applying")
                self.site.kill_daemon()
            path.with_suffix(".away").rename(path)
        self.site.start_daemon()
        self.assertTrue(until(60, lambda: self.state("v") == "consistent"), self.site.status("v"))
        self.same(source, target)

    def retarget(self, target: pathlib.Path, *more: str):
        return self.site.run("blockferryd", "retarget", "v", target, *more)

    def test_a_target_that_moves_while_a_generation_is_written_to_it(self) -> None:
        """The same file in another place, or a copy of it that holds what the generation does not touch."""
        for isCopy in (False, True):
            with self.subTest(isCopy=isCopy):
                system, source, target = self.fill()
                self.site.kill_daemon()
                system.make_room()
                moved = system.path / "copies" / "moved"
                if isCopy:
                    moved = self.site.path / "copied"
                    moved.write_bytes(target.read_bytes())
                    target.unlink()
                    # Behind what the generation touches.
                    self.write(moved, 56 * MIB - 100, 100)
                    refused = self.retarget(moved)
                    self.assertEqual((refused.code, self.state("v")), (9, "applying"), refused)
                    with source.open("rb") as file, moved.open("r+b") as there:
                        file.seek(56 * MIB - 65536)
                        there.seek(56 * MIB - 65536)
                        there.write(file.read(65536))
                else:
                    target.rename(moved)
                self.assertEqual(self.retarget(moved, "--dry-run").code, 0)
                found = self.retarget(moved)
                self.assertEqual((found.code, "applying" in found.out), (0, True), found)
                self.site.start_daemon()
                self.assertTrue(until(60, lambda: self.state("v") == "consistent"), self.site.status("v"))
                self.same(source, moved)
                self.write(source, 0, 65536)
                self.assertEqual(self.site.send("v", source).code, 0)
                self.same(source, moved)
            self.doCleanups()
            self.setUp()

    def test_a_volume_whose_log_is_the_only_whole_generation_is_not_removed(self) -> None:
        system, source, target = self.fill()
        self.site.kill_daemon()
        for more in (("--dry-run",), ()):
            refused = self.site.run("blockferryd", "remove", "v", *more)
            self.assertEqual((refused.code, "blockferryd promote v" in refused.error), (1, True), refused)
        system.make_room()
        self.assertEqual(self.site.run("blockferryd", "promote", "v").code, 0)
        self.same(source, target)
        self.assertEqual(self.site.run("blockferryd", "remove", "v").code, 0)

    def test_a_copy_that_changed_before_it_was_written_again_is_not_taken_for_the_generation(self) -> None:
        """What the log does not hold is proven too, after an error: by the root."""
        system, source, target = self.fill()
        self.site.kill_daemon()
        system.make_room()
        # Behind what the log has.
        self.write(target, 56 * MIB - 100, 100)
        self.site.start_daemon()
        self.assertEqual(self.state("v"), "suspect")
        self.assertEqual(self.site.run("blockferryd", "promote", "v").code, 7)

    def test_a_first_copy_goes_on_with_room(self) -> None:
        system = self.mount("small", "ext4", 48 * MIB)
        source, target = self.volume("v", 64 * MIB, 64 * MIB), system.path / "copy"
        self.site.pair("v", target)
        refused = self.site.send("v", source)
        self.assertEqual((refused.code, self.state("v")), (12, "initialising"), refused)
        system.make_room()
        sent = self.site.send("v", source)
        self.assertEqual((sent.code, sent.json["resumed_segments"] > 0), (0, True), sent)
        self.same(source, target)

    def test_one_member_of_a_group_waits_for_room_and_the_other_does_not(self) -> None:
        system, source, target = self.copy_on_write()
        other, copy = self.volume("w", 4 * MIB, 4 * MIB), self.site.path / "w.copy"
        self.site.pair("w", copy)
        self.assertEqual(self.site.send("w", other).code, 0)
        self.write(other, 0, MIB)
        group = ("blockferry", "send", source, other, "--to", "standby", "--group", "both", "--volume", "v", "--volume", "w")
        refused = self.site.run(*group)
        self.assertEqual(refused.code, 12, refused)
        self.assertTrue(until(30, lambda: self.state("w") == "consistent"), self.site.status("w"))
        self.assertEqual(self.state("v"), "applying")
        command("btrfs", "subvolume", "delete", "-c", system.path / "snapshot")
        self.assertTrue(until(60, lambda: self.state("v") == "consistent"), self.site.status("v"))
        self.same(source, target)
        self.same(other, copy)
        self.assertEqual(self.site.run(*group).code, 0)


class RetryTests(RoomTest):
    def test_a_worker_that_is_killed_while_it_applies_is_followed_by_another(self) -> None:
        source, target = self.volume("v", 64 * MIB, 64 * MIB), self.site.path / "copy"
        self.site.pair("v", target)
        self.assertEqual(self.site.send("v", source).code, 0)
        hits = 0
        for _ in range(10):
            self.write(source, 0, 64 * MIB)
            sender = self.site.start_send("v", source)
            until(60, lambda: sender.poll() is not None or self.state("v") == "applying")
            workers = command("pgrep", "-P", self.site.daemon.pid).split() if sender.poll() is None else []
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(worker), signal.SIGKILL)
            sender.communicate(timeout=60)
            hits += sender.returncode != 0 and self.state("v") == "applying"
            self.assertTrue(until(30, lambda: self.state("v") == "consistent"), self.site.status("v"))
            self.assertEqual(self.site.send("v", source).code, 0)
            self.same(source, target)
            if hits == 2:
                return
        self.fail(f"hit the moment {hits} times")


class InUseTests(RoomTest):
    def setUp(self) -> None:
        super().setUp()
        self.source, self.target = self.volume("v", 4 * MIB, 4 * MIB), self.site.path / "copy"
        self.site.pair("v", self.target)
        self.assertEqual(self.site.send("v", self.source).code, 0)
        self.write(self.source, MIB, MIB)
        self.before = self.target.read_bytes()

    def refused(self) -> None:
        for words in (("send", self.source), ("resync", self.source)):
            result = self.site.run("blockferry", *words, "--to", "standby", "--volume", "v")
            self.assertEqual((result.code, "in use" in result.error), (9, True), result)
        self.assertTrue(self.target.read_bytes() == self.before, "written below what has it open")

    def accepted(self) -> None:
        self.assertEqual(self.site.send("v", self.source).code, 0)
        self.same(self.source, self.target)

    def test_an_emulator_has_it(self) -> None:
        address = self.site.path / "nbd"
        emulator = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=disk,filename={self.target}",
             "--nbd-server", f"addr.type=unix,addr.path={address}",
             "--export", "type=nbd,id=e,node-name=disk,writable=on"], stdin=subprocess.DEVNULL)
        try:
            self.assertTrue(until(20, address.exists))
            self.refused()
        finally:
            emulator.terminate()
            emulator.wait(20)
        self.accepted()

    def test_a_program_has_locked_a_part_of_it(self) -> None:
        for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK):
            with self.target.open("r+b") as file:
                # F_OFD_SETLK
                fcntl.fcntl(file, 37, struct.pack("hhqqi4x", kind, 0, 203, 1, 0))
                self.refused()
        self.accepted()

    def test_a_program_has_it_open_for_writing(self) -> None:
        with self.target.open("r+b"):
            self.refused()
        with self.target.open("rb"):
            self.accepted()

    def test_nobody_may_begin_while_it_is_written(self) -> None:
        """An emulator that begins in the middle of a generation gets no lock."""
        self.write(self.source, 0, 4 * MIB)
        sender = self.site.start_send("v", self.source)
        locked = 0
        while sender.poll() is None:
            with self.target.open("rb") as file:
                try:
                    fcntl.fcntl(file, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 100, 1, 0))
                except BlockingIOError:
                    locked += 1
            time.sleep(0.001)
        sender.communicate()
        self.assertIn(sender.returncode, (0, 9))
        self.assertGreater(locked, 0)
        self.accepted()


if __name__ == "__main__":
    unittest.main()
