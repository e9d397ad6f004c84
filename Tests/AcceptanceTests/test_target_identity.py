# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Is it still the same target, and does it hold the copy? Targets are swapped, cut, copied, linked, mounted elsewhere and
registered twice; whatever ends with 0 is a generation that was sent, and nothing else was written."""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import subprocess
import unittest

from harness import Site, sha256, until
from test_identity import IdentityTest

BLOCK = 65_536
SIZE = 80 * BLOCK + 1000  # More blocks than are compared each time.


def run(*command: object) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout.strip()


def has_loop_devices() -> bool:
    return os.geteuid() == 0 and os.path.exists("/dev/loop-control")


class Targets(unittest.TestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()
        self.random = random.Random(14)
        self.source = self.site.path / "source.img"
        self.source.write_bytes(self.random.randbytes(SIZE))
        self.target = self.site.path / "copy"

    def paired(self, name: str = "vol", target: pathlib.Path | str | None = None) -> None:
        self.site.pair(name, target or self.target)
        self.sent(name)

    def sent(self, name: str = "vol") -> None:
        result = self.site.send(name, self.source)
        self.assertEqual(result.code, 0, result)

    def change(self) -> None:
        with open(self.source, "r+b") as file:
            file.seek(self.random.randrange(SIZE - 512))
            file.write(self.random.randbytes(512))

    def daemon(self, *arguments: object, code: int = 0, says: str = "") -> str:
        result = self.site.run("blockferryd", *arguments)
        self.assertEqual((result.code, says in result.out + result.error), (code, True), result)
        return result.out + result.error

    def refused(self, rule: str, code: int = 9, name: str = "vol") -> None:
        result = self.site.send(name, self.source)
        self.assertEqual((result.code, f"rule {rule}" in result.error), (code, True), result)

    def loop(self, file: pathlib.Path, *options: str) -> str:
        device = run("losetup", "-f", "--show", *options, file)
        self.addCleanup(subprocess.run, ["losetup", "-d", device], check=False, capture_output=True)
        return device

    # The object

    def test_a_copy_beside_the_target_is_not_the_target(self) -> None:
        self.paired()
        aside = self.site.path / "aside"
        run("cp", "-a", self.target, aside)
        run("mv", self.target, self.site.path / "kept")
        run("mv", aside, self.target)
        before = sha256(self.target)
        self.change()
        self.refused("foreign")
        self.assertEqual(self.site.status("vol")["target_present"], True)
        self.assertIn("not the target", self.site.status("vol")["target_problem"])
        self.daemon("promote", "vol", code=9, says="not the target")
        self.assertEqual(sha256(self.target), before)
        # Its operator may say so; that is proven.
        self.daemon("retarget", "vol", self.target, says="holds generation 1")
        self.sent()
        self.assertEqual(sha256(self.target), sha256(self.source))

    def test_an_older_copy_put_into_the_same_file(self) -> None:
        """Inode and mark are those of the target, the content is yesterday's."""
        self.paired()
        yesterday = self.site.path / "yesterday"
        shutil.copyfile(self.target, yesterday)
        self.source.write_bytes(self.random.randbytes(SIZE))
        self.sent()
        with open(yesterday, "rb") as old, open(self.target, "r+b") as file:
            file.write(old.read())
        self.refused("target-replaced")
        self.assertEqual(self.site.status("vol")["state"], "consistent")
        self.daemon("promote", "vol", code=9, says="something else")
        with open(self.source, "rb") as new, open(self.target, "r+b") as file:
            file.write(new.read())
        self.sent()

    def test_some_of_an_older_copy_is_diverged_with_the_offsets(self) -> None:
        self.paired()
        # Half of the blocks: none of a thousand runs would miss all of them.
        with open(self.target, "r+b") as file:
            for block in range(0, 80, 2):
                file.seek(block * BLOCK + 7)
                file.write(b"somebody else")
        self.refused("diverged", 7)
        self.assertIn("at bytes 0, ", self.site.status("vol")["reason"])
        self.daemon("promote", "vol", code=9)
        self.assertEqual(self.site.run("blockferry", "resync", self.source, "--to", "standby", "--volume", "vol").code, 0)
        self.assertEqual(sha256(self.target), sha256(self.source))
        self.sent()

    def test_an_idle_source_hears_of_a_target_that_is_cut_or_gone(self) -> None:
        for name, break_it, code, rule in (
                ("gone", lambda path: os.unlink(path), 9, "missing"),
                ("cut", lambda path: os.truncate(path, SIZE - 1), 7, "diverged"),
                ("empty", lambda path: os.truncate(path, 0), 7, "diverged")):
            with self.subTest(name):
                target = self.site.path / f"{name}.copy"
                self.paired(name, target)
                break_it(target)
                status = self.site.status(name)
                self.assertTrue(status["target_problem"])
                self.assertEqual(status["target_present"], name != "gone")
                self.assertEqual(self.site.run("blockferryd", "status", name).code, 9)
                self.daemon("promote", name, code=9)
                self.refused(rule, code, name)

    def test_promote_without_check_hands_over_whatever_there_is(self) -> None:
        self.paired()
        os.truncate(self.target, 5)
        self.assertIn("not checked", self.daemon("promote", "vol", "--without-check", says="promoted at generation 1"))

    def test_a_file_system_that_is_mounted_elsewhere(self) -> None:
        if not has_loop_devices():
            self.skipTest("needs root and loop devices")
        image = self.site.path / "fs"
        run("truncate", "-s", "64M", image)
        run("mkfs.ext4", "-q", "-F", image)
        first, second = self.site.path / "m1", self.site.path / "m2"
        first.mkdir(), second.mkdir()
        device = self.loop(image)
        run("mount", device, first)
        self.addCleanup(subprocess.run, ["umount", first], check=False, capture_output=True)
        self.paired(target=first / "copy")
        run("umount", first)
        run("losetup", "-d", device)
        holder = self.site.path / "holder"
        run("truncate", "-s", "1M", holder)
        run("losetup", device, holder)
        self.addCleanup(subprocess.run, ["losetup", "-d", device], check=False)
        other = self.loop(image)
        run("mount", other, second)
        self.addCleanup(subprocess.run, ["umount", second], check=False)
        self.change()
        self.refused("missing")
        self.daemon("retarget", "vol", second / "copy", says="holds generation 1")
        self.sent()
        self.assertEqual(sha256(second / "copy"), sha256(self.source))

    def test_a_device_of_another_file_behind_the_same_path(self) -> None:
        if not has_loop_devices():
            self.skipTest("needs root and loop devices")
        files = [self.site.path / f"disk{number}" for number in range(2)]
        for file in files:
            run("truncate", "-s", "16M", file)
        devices = [self.loop(file) for file in files]
        link = self.site.path / "link"
        link.symlink_to(devices[0])
        self.paired(target=link)
        link.unlink()
        link.symlink_to(devices[1])
        before = sha256(files[1])
        self.change()
        self.refused("foreign")
        self.daemon("promote", "vol", code=9)
        self.assertEqual(sha256(files[1]), before)
        # A loop device of the right file may have any number.
        run("losetup", "-d", devices[0])
        link.unlink()
        link.symlink_to(self.loop(files[0]))
        self.sent()

    # Owners

    def test_other_names_of_a_target_are_refused(self) -> None:
        self.paired()
        alias, hard = self.site.path / "alias", self.site.path / "hard"
        alias.symlink_to(self.target)
        os.link(self.target, hard)
        names = [alias, hard]
        if has_loop_devices():
            bound = self.site.path / "bound"
            bound.touch()
            run("mount", "--bind", self.target, bound)
            self.addCleanup(run, "umount", bound)
            names.append(bound)
        before = sha256(self.target)
        for name in names:
            for more in ((), ("--overwrite",)):
                self.daemon("invite", "two", "--target", name, *more, code=9, says="belongs to volume vol")
        self.daemon("invite", "two", "--target", self.target, "--overwrite", code=9)
        self.assertEqual(sha256(self.target), before)
        self.change()
        self.sent()

    def test_what_lies_on_a_target_is_refused(self) -> None:
        """A loop device and its file, a partition and its disk, a file on a file system on a target."""
        if not has_loop_devices():
            self.skipTest("needs root and loop devices")
        disk = self.site.path / "disk"
        run("truncate", "-s", "16M", disk)
        device = self.loop(disk)
        self.site.pair("vol", device)
        self.daemon("invite", "two", "--target", disk, "--overwrite", code=9)
        again = self.loop(disk)
        self.daemon("invite", "two", "--target", again, "--overwrite", code=9, says="belongs to volume vol")
        # Detached, the device is nowhere, but its file is.
        subprocess.run(["losetup", "-d", again], check=True)
        subprocess.run(["losetup", "-d", device], check=True)
        self.daemon("invite", "two", "--target", disk, "--overwrite", code=9, says="belongs to volume vol")
        subprocess.run(["losetup", device, disk], check=True)
        inner = self.loop(pathlib.Path(device))
        self.daemon("invite", "two", "--target", inner, "--overwrite", code=9)

    def test_another_standby_does_not_take_a_target(self) -> None:
        self.paired()
        other = self.site.path / "other-state"
        refused = self.site.run("blockferryd", "invite", "vol", "--target", self.target, state=other)
        self.assertEqual((refused.code, "is marked as the target of volume vol" in refused.error), (9, True), refused)
        # By a loop device it is the same, though there is nothing on it.
        if has_loop_devices():
            os.truncate(self.target, 0)
            os.truncate(self.target, 8 << 20)
            device = self.loop(self.target)
            refused = self.site.run("blockferryd", "invite", "vol", "--target", device, state=other)
            self.assertEqual((refused.code, "is marked as the target of volume vol" in refused.error), (9, True), refused)
            run("losetup", "-d", device)
        # Its operator may say so; then it is the first one that is told.
        self.assertEqual(self.site.run("blockferryd", "invite", "vol", "--target", self.target, "--overwrite",
                                       state=other).code, 0)
        self.refused("foreign")

    def test_a_copied_state_directory_does_not_write_to_the_target(self) -> None:
        self.paired()
        self.site.kill_daemon()
        shutil.copytree(self.site.standby, self.site.path / "twin")
        promoted = self.site.run("blockferryd", "promote", "vol", state=self.site.path / "twin")
        self.assertEqual((promoted.code, "cannot be a target" in promoted.error), (9, True), promoted)
        # Where the first one is gone, the copy is the standby: it was moved or restored.
        shutil.rmtree(self.site.standby)
        promoted = self.site.run("blockferryd", "promote", "vol", state=self.site.path / "twin")
        self.assertEqual(promoted.code, 0, promoted)

    def test_a_copied_state_directory_leaves_the_mark_to_the_first_one(self) -> None:
        for command in (["rename", "vol", "other"], ["retarget", "vol", "elsewhere"], ["remove", "vol"]):
            with self.subTest(command[0]):
                self.paired()
                shutil.copy(self.target, self.site.path / "elsewhere")
                words = [self.site.path / word if word == "elsewhere" else word for word in command]
                mark = os.getxattr(self.target, "user.blockferry.target")
                shutil.copytree(self.site.standby, self.site.path / "twin")
                done = self.site.run("blockferryd", *words, state=self.site.path / "twin")
                self.assertEqual(done.code, 0, done)
                self.assertEqual(os.getxattr(self.target, "user.blockferry.target"), mark)
                self.assertEqual(self.site.send("vol", self.source).code, 0)
            self.doCleanups()
            self.setUp()

    def test_our_own_state_is_no_target(self) -> None:
        self.site.run("blockferryd", "id")
        hard = self.site.path / "hard"
        os.link(self.site.standby / "identity.pem", hard)
        self.addCleanup(hard.unlink)
        inside = self.site.standby / "inside"
        inside.touch()
        files = [self.site.standby / "catalog.sqlite", hard, inside]
        before = [sha256(file) for file in files[1:]]
        for file in files:
            self.daemon("invite", "x", "--target", file, "--overwrite", code=9, says="the state of this standby")
        self.daemon("invite", "x", "--target", self.site.standby, code=9)
        self.assertEqual([sha256(file) for file in files[1:]], before)

    def test_source_and_target_the_same_file(self) -> None:
        self.site.pair("vol", self.source, "--overwrite")
        before = sha256(self.source)
        result = self.site.send("vol", self.source)
        self.assertNotEqual(result.code, 0, result)
        self.assertEqual(sha256(self.source), before)

    # What is there

    def test_what_a_target_holds_is_told_and_not_replaced(self) -> None:
        images = {}
        for name, command, words in (
                ("ext4", ["mkfs.ext4", "-q", "-F", "-L", "precious"], "a file system (ext4) labelled precious"),
                ("swap", ["mkswap", "-q"], "swap space"), ("xfs", ["mkfs.xfs", "-q"], "a file system (xfs)")):
            path = self.site.path / name
            run("truncate", "-s", "320M", path)
            if subprocess.run([*command, path], capture_output=True, check=False).returncode == 0:
                images[path] = words
        for name, offset in (("first", 0), ("last", (32 << 20) - 1), ("middle", 12_345_678)):
            path = self.site.path / name
            run("truncate", "-s", "32M", path)
            with open(path, "r+b") as file:
                file.seek(offset)
                file.write(b"!")
            images[path] = "data, at bytes"
        self.assertGreaterEqual(len(images), 4)
        for path, words in images.items():
            before = path.stat().st_mtime_ns
            self.daemon("invite", "x", "--target", path, code=9, says=words)
            self.assertEqual(path.stat().st_mtime_ns, before)
        self.assertNotIn("x", self.daemon("status"))
        # Zeros are no content, whether they take storage or not.
        self.target.write_bytes(bytes(3 << 20))
        self.daemon("invite", "x", "--target", self.target)
        print(f"contents that were told: {len(images)}")

    def test_what_came_onto_the_target_after_its_registration(self) -> None:
        self.site.pair("vol", self.target)
        self.target.write_bytes(b"somebody's" * 1000)
        before = sha256(self.target)
        for _ in range(2):
            self.refused("occupied")
        dry = self.site.run("blockferry", "send", self.source, "--to", "standby", "--volume", "vol", "--dry-run")
        self.assertEqual((dry.code, "rule occupied" in dry.error), (9, True), dry)
        self.assertEqual(sha256(self.target), before)
        self.daemon("invite", "vol", "--overwrite")
        self.sent()
        self.assertEqual(sha256(self.target), sha256(self.source))

    # Names, other places, the end

    def test_retarget_takes_nothing_but_the_copy(self) -> None:
        self.paired()
        wrong = self.site.path / "wrong"
        content = bytearray(self.target.read_bytes())
        content[40 * BLOCK] ^= 1
        wrong.write_bytes(content)
        short = self.site.path / "short"
        short.write_bytes(content[:-1])
        before = self.site.status("vol")
        self.daemon("retarget", "vol", wrong, code=9, says="1 blocks of 64 KiB differ")
        self.daemon("retarget", "vol", short, code=9, says=f"has {SIZE - 1} bytes")
        self.daemon("retarget", "vol", self.site.path / "none", code=9)
        self.assertEqual({**self.site.status("vol"), "age_seconds": 0}, {**before, "age_seconds": 0})
        right = self.site.path / "right"
        shutil.copyfile(self.target, right)
        self.daemon("retarget", "vol", right, "--dry-run", says="would be")
        self.assertEqual(self.site.status("vol")["target"], str(self.target))
        self.daemon("retarget", "vol", right)
        self.assertEqual(self.site.status("vol")["state"], "consistent")
        # What was staged is for the generation, wherever that is.
        self.change()
        self.sent()
        self.assertEqual(sha256(right), sha256(self.source))
        # The old file is nobody's any more.
        self.daemon("invite", "two", "--target", self.target, "--overwrite")
        # Anything, as the start of a resync.
        self.daemon("retarget", "vol", wrong, "--for-resync", says="diverged")
        self.refused("diverged", 7)
        self.assertEqual(self.site.run("blockferry", "resync", self.source, "--to", "standby", "--volume", "vol").code, 0)
        self.assertEqual(sha256(wrong), sha256(self.source))

    def test_names_can_be_changed_and_used_again(self) -> None:
        self.paired()
        for more in (["--dry-run"], []):
            self.daemon("rename", "vol", "new", *more)
        self.refused("not-authorised", 6)
        renamed = self.site.run("blockferry", "rename", "vol", "new", "--to", "standby")
        self.assertEqual(renamed.code, 0, renamed)
        self.change()
        result = self.site.send("new", self.source)
        self.assertEqual((result.code, result.json["result"], result.json["generation"]), (0, "delta", 2), result)
        self.daemon("scrub", "new", says="no difference")
        for arguments in (["--rename", "standby", "far"], ["--address", "far", f"127.0.0.1:{self.site.port}"]):
            for more in (["--dry-run"], []):
                changed = self.site.run("blockferry", "peers", *arguments, *more)
                self.assertEqual(changed.code, 0, changed)
        self.change()
        result = self.site.send("new", self.source, to="far")
        self.assertEqual((result.code, result.json["result"]), (0, "delta"), result)
        for more in (["--dry-run"], []):
            self.daemon("remove", "new", *more)
            removed = self.site.run("blockferry", "peers", "--remove", "far", *more)
            self.assertEqual(removed.code, 0, removed)
        self.assertEqual(self.site.run("blockferryd", "status", "--json").json["volumes"], [])
        self.assertEqual(self.site.run("blockferry", "peers", "--json").json["peers"], [])
        self.assertEqual(sha256(self.target), sha256(self.source))
        for folder in ("staging", "maps"):
            self.assertEqual(os.listdir(self.site.standby / folder), [])
        self.assertEqual(os.listdir(self.site.source / "maps"), [])
        # Both names again, and the target.
        self.site.pair("vol", self.target, "--overwrite")
        self.sent()

    # Maps and roots

    def test_a_lost_map_is_made_from_what_the_root_proves(self) -> None:
        self.paired()
        shutil.rmtree(self.site.standby / "maps")
        self.sent()
        shutil.rmtree(self.site.standby / "maps")
        with open(self.target, "r+b") as file:
            file.seek(70 * BLOCK)
            file.write(b"rot")
        self.refused("diverged", 7)


class TakenAway(IdentityTest):
    """The path of a target leads elsewhere while a generation comes in: what is written lies in a file that has no name."""

    def big(self) -> None:
        self.plain.write_bytes(os.urandom(64 << 20))
        self.sent("delta")

    def test_while_an_increment_comes_in(self) -> None:
        self.big()
        before = sha256(self.target)
        self.write(0, 32 << 20)

        def replace() -> None:
            aside = self.target.with_suffix(".new")
            run("cp", "-a", "--sparse=always", self.target, aside)
            aside.rename(self.target)

        self.during(8 << 20, replace)
        self.refused(self.site.send("vol", self.plain, "--compress", "never"), 9, "foreign")
        self.assertTrue(self.hit)
        self.assertEqual(sha256(self.target), before)
        self.readdress(self.site.port)
        self.assertEqual(self.site.run("blockferryd", "retarget", "vol", self.target).code, 0)
        self.sent("delta")

    def test_while_a_first_copy_comes_in(self) -> None:
        self.target = self.site.path / "second.copy"
        self.plain.write_bytes(os.urandom(32 << 20))
        self.site.pair("second", self.target)
        self.during(8 << 20, self.target.unlink)
        self.refused(self.site.send("second", self.plain, "--compress", "never"), 9, "does not exist")
        self.assertTrue(self.hit)
        self.assertEqual(self.site.status("second")["state"], "initialising")

    def test_what_proves_nothing_is_replaced_on_the_operators_word_alone(self) -> None:
        """The generation touches all that is not zeros, its target is gone, and the log is the only whole generation."""
        self.plain.write_bytes(os.urandom(64 << 20) + bytes(8 << 20))
        self.sent("delta")
        for _ in range(20):
            self.write(0, 64 << 20)
            sender = self.site.start_send("vol", self.plain)
            until(60, lambda: self.site.status("vol")["state"] == "applying" or sender.poll() is not None)
            self.site.kill_daemon()
            sender.communicate()
            if self.site.status("vol")["state"] == "applying":
                break
            self.site.start_daemon()
        self.assertEqual(self.site.status("vol")["state"], "applying")
        self.target.unlink()
        other = self.site.path / "somebody's"
        other.write_bytes(b"precious" * 1000)
        os.truncate(other, 72 << 20)
        before = sha256(other)
        refused = self.site.run("blockferryd", "retarget", "vol", other)
        self.assertEqual((refused.code, "--overwrite" in refused.error), (9, True), refused)
        self.site.start_daemon()
        self.assertEqual((sha256(other), self.site.status("vol")["state"]), (before, "applying"))
        self.assertEqual(self.site.run("blockferryd", "retarget", "vol", other, "--overwrite").code, 0)
        self.assertTrue(until(60, lambda: self.site.status("vol")["state"] == "consistent"), self.site.status("vol"))
        self.assertEqual(sha256(other), sha256(self.plain))

    def test_while_it_is_applied(self) -> None:
        """The log is the only whole generation then: it stays, and nobody takes it away unasked."""
        self.big()
        aside = self.target.with_suffix(".aside")
        for _ in range(20):
            self.write(0, 60 << 20)
            sender = self.site.start_send("vol", self.plain)
            reached = until(60, lambda: self.site.status("vol")["state"] == "applying" or sender.poll() is not None)
            # As `mv` to another file system does.
            shutil.copyfile(self.target, aside)
            self.target.unlink()
            out, error = sender.communicate()
            self.assertTrue(reached)
            if sender.returncode:
                break
            # It was complete already.
            self.site.status("vol")
            aside.rename(self.target)
            found = self.site.run("blockferryd", "retarget", "vol", self.target)
            if found.code:
                # What was copied while it was written is no copy.
                self.assertEqual(found.code, 9, found)
                self.assertEqual(self.site.run("blockferryd", "retarget", "vol", self.target, "--for-resync").code, 0)
                self.assertEqual(
                    self.site.run("blockferry", "resync", self.plain, "--to", "standby", "--volume", "vol").code, 0)
        self.assertEqual((sender.returncode, "does not exist" in error), (9, True), error)
        self.assertEqual(self.site.status("vol")["state"], "applying")
        plain = sha256(self.plain)
        self.plain.unlink()
        for verb in (("remove", "vol"), ("drop-transfer", "vol"), ("retarget", "vol", aside, "--for-resync")):
            for more in ((), ("--dry-run",)):
                refused = self.site.run("blockferryd", *verb, *more)
                self.assertEqual((refused.code, "only its staging log" in refused.error), (1, True), refused)
        self.assertEqual(self.site.run("blockferryd", "retarget", "vol", aside).code, 0)
        self.assertTrue(until(60, lambda: self.site.status("vol")["state"] == "consistent"), self.site.status("vol"))
        self.assertEqual(sha256(aside), plain)


if __name__ == "__main__":
    unittest.main()
