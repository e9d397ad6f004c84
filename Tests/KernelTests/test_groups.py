# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Several volumes, taken at one moment and committed together; and what runs around that moment."""

from __future__ import annotations

import mmap
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time
import unittest

import devices
from devices import MIB
from harness import VOLUME, LiveTest, Result, Site, acceptance, command, suspended, until

PAGE = 4096


class Counter:
    """Writes the next number to the first page of each device in turn, each only when the one before is on disk: at any
    moment no device may hold more than the one before it."""

    def __init__(self, *paths: str) -> None:
        self.files = [os.open(path, os.O_RDWR | os.O_DIRECT) for path in paths]
        self.number, self.error = 0, None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Counter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(60)
        alive = self._thread.is_alive()
        for file in self.files:
            os.close(file)
        if alive or self.error:
            raise AssertionError(f"the writer hangs or failed: {self.error}")

    def _run(self) -> None:
        page = mmap.mmap(-1, PAGE)
        try:
            while not self._end.is_set() and self.number < 1_000_000:
                self.number += 1
                page[:8] = self.number.to_bytes(8, "little")
                for file in self.files:
                    os.pwritev(file, [page], 0)
                # A page that was never written before: so that every generation has changes elsewhere, too.
                for file in self.files:
                    os.pwritev(file, [page], PAGE * (1 + self.number % 512))
        except BaseException as error:
            self.error = error


def number(path: str) -> int:
    return int.from_bytes(devices.read(path, 0, PAGE)[:8], "little")


class GroupTests(LiveTest):
    names = ("one", "two", "three")
    kills = int(os.environ.get("BLOCKFERRY_GROUP_KILLS", "6"))

    def group(self, site: Site, *volumes: str) -> list[str]:
        names = [word for name in self.names[:len(volumes)] for word in ("--volume", name)]
        return [str(acceptance.BIN / "blockferry"), "send", *(f"src/{volume}" for volume in volumes), "--group", "all",
                "--to", "standby", "--json", *names]

    def send_group(self, site: Site, *volumes: str) -> Result:
        return Result(subprocess.run(self.group(site, *volumes), capture_output=True, text=True, timeout=240,
                                     stdin=subprocess.DEVNULL, env=site.environment()))

    def targets(self, site: Site, count: int) -> list[str]:
        paths = [self.standby.thick(name) for name in self.names[:count]]
        for name, path in zip(self.names, paths):
            site.pair(name, path)
        return paths

    def assert_moment(self, targets: list[str], volumes: tuple[str, ...], least: int) -> int:
        """Every copy is its snapshot, and all are of one moment."""
        for target, volume, name in zip(targets, volumes, self.names):
            self.assert_copy(target, volume, name)
        numbers = [number(target) for target in targets]
        self.assertEqual(numbers, sorted(numbers, reverse=True), "a later write arrived without an earlier one")
        self.assertLessEqual(numbers[0] - numbers[-1], 1, f"the copies are of different moments: {numbers}")
        self.assertGreaterEqual(numbers[-1], least, "nothing was written meanwhile")
        self.assertEqual(suspended(), [])
        self.assert_released()
        return numbers[-1]

    def prepare(self) -> Site:
        self.source.pool()
        site = self.site()
        return site

    def test_thin_and_classic_volumes_of_one_moment(self) -> None:
        site = self.prepare()
        volumes = ("ta", "kk", "tb")
        paths = [self.source.thin("ta"), self.source.thick("kk"), self.source.thin("tb")]
        targets = self.targets(site, 3)
        last = 0
        with Counter(*paths) as writer:
            for round in range(3):
                self.assertTrue(until(60, lambda: writer.number > last + 5))
                result = self.assert_code(self.send_group(site, *volumes), 0)
                self.assertEqual([part["result"] for part in result.json["volumes"]],
                                 ["full" if round == 0 else "delta"] * 3)
                last = self.assert_moment(targets, volumes, last + 1)
        # The pool is as LVM believes: it takes another snapshot, and gives it back.
        self.source.snapshot("later", "ta")
        self.source.remove("later")
        # And a member can go on alone.
        self.assert_code(site.send_live("src/ta", "one"), 0)
        self.assert_copy(targets[0], "ta", "one")

    def test_ext4_on_a_member_is_whole(self) -> None:
        site = self.prepare()
        device = self.source.thin("ta")
        self.source.thick("kk")
        where = self.mount(device, "ext4")
        targets = self.targets(site, 2)
        for round in range(2):
            (pathlib.Path(where) / f"file-{round}").write_bytes(os.urandom(200_000))
            self.assert_code(self.send_group(site, "ta", "kk"), 0)
            self.assertEqual(command("e2fsck", "-fn", targets[0], check=False).returncode, 0)
        self.assertEqual(suspended(), [])

    def test_a_group_with_a_target_that_is_too_small_changes_nothing(self) -> None:
        site = self.prepare()
        self.source.thin("ta")
        self.source.thin("tb")
        targets = [self.standby.thick("one"), self.standby.thick("two", VOLUME - 4 * MIB)]
        for name, path in zip(self.names, targets):
            site.pair(name, path)
        result = self.assert_code(self.send_group(site, "ta", "tb"), 9)
        self.assertIn("two", result.error)
        self.assertEqual([site.status(name)["state"] for name in self.names[:2]].count("consistent"), 0)
        self.assertEqual(suspended(), [])
        self.assert_code(Result(subprocess.run(
            [acceptance.BIN / "blockferry", "cleanup", "--json"], capture_output=True, text=True,
            env=site.environment())), 0)

    def test_killed_anywhere_all_or_none(self) -> None:
        """SIGKILL of the sender at moments spread over the whole send: afterwards all copies are of one generation, nothing
        is suspended, and the next send ends well as a delta."""
        site = self.prepare()
        volumes = ("ta", "kk")
        paths = [self.source.thin("ta"), self.source.thick("kk")]
        targets = self.targets(site, 2)
        self.assert_code(self.send_group(site, *volumes), 0)
        began = time.monotonic()
        self.assert_code(self.send_group(site, *volumes), 0)
        length = time.monotonic() - began
        old = new = 0
        self.assertGreaterEqual(self.kills, 6)
        with Counter(*paths):
            for step in range(self.kills):
                before = [site.status(name)["generation"] for name in self.names[:2]]
                sender = subprocess.Popen(self.group(site, *volumes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                          stdin=subprocess.DEVNULL, env=site.environment())
                try:
                    sender.wait(length * (step + 1) / (self.kills + 1))
                except subprocess.TimeoutExpired:
                    sender.send_signal(signal.SIGKILL)
                sender.wait(30)
                self.assertTrue(until(60, lambda: not suspended()), "volumes were left suspended")
                self.assertTrue(until(60, lambda: all(site.is_free(name) for name in self.names[:2])))
                after = self.assert_code(self.send_group(site, *volumes), 0).json["volumes"]
                self.assertEqual({part["result"] for part in after} - {"delta", "up-to-date"}, set(), after)
                self.assert_moment(targets, volumes, 1)
                more = {part["generation"] - was for part, was in zip(after, before)}
                self.assertEqual(len(more), 1, f"the members have parted: {before} {after}")
                old, new = (old + 1, new) if more == {1} else (old, new + 1)
        self.assertEqual(len(self.source.tagged()), 2, "snapshots were left behind")
        print(f"groups killed: {self.kills}, afterwards old {old}, new {new}")


GroupTests.test_killed_anywhere_all_or_none.cost = 120
GroupTests.test_thin_and_classic_volumes_of_one_moment.cost = 60


class HookTests(LiveTest):
    def prepare(self) -> tuple[Site, str, pathlib.Path]:
        self.source.pool()
        self.source.thin("vol")
        target = self.standby.thick("copy")
        site = self.pair(target)
        log = pathlib.Path(tempfile.mkdtemp()) / "hooks"
        return site, target, log

    def test_hooks_run_around_the_snapshot_with_the_volume_name(self) -> None:
        site, target, log = self.prepare()
        count = "ls /dev/mapper | grep -c vol_blockferry"
        self.send(site, target, "vol", "db", "--pre-snapshot", f"echo pre $1 $({count}) >>{log}",
                  "--post-snapshot", f"echo post $1 $({count}) >>{log}")
        self.assertEqual(log.read_text(), "pre src/vol 0\npost src/vol 1\n")

    def test_a_first_hook_that_fails_or_hangs_ends_the_send_and_the_second_is_run(self) -> None:
        site, target, log = self.prepare()
        # The limit is the second hook's too.
        for command_, words in (("echo no database >&2; exit 3", "no database"), ("sleep 100", "within 15 s")):
            self.assert_refused(site, target, "vol", 1, words, more=(
                "--pre-snapshot", command_, "--post-snapshot", f"echo post >>{log}", "--hook-timeout", "15"))
        self.assertEqual(log.read_text(), "post\npost\n")
        self.assertEqual(self.source.tagged(), [])

    def test_a_second_hook_that_fails_is_an_error(self) -> None:
        site, target, _ = self.prepare()
        self.assert_refused(site, target, "vol", 1, "thaw it", more=(
            "--post-snapshot", "echo cannot thaw it >&2; exit 1"))
        self.assertEqual(self.source.tagged(), [])

    def test_the_second_hook_is_run_if_the_sender_is_killed_in_the_first(self) -> None:
        site, _, log = self.prepare()
        sender = site.start_live("src/vol", "db", "--pre-snapshot", f"echo pre >>{log}; sleep 60", "--post-snapshot",
                                 f"echo post >>{log}")
        self.assertTrue(until(60, lambda: log.exists()))
        sender.send_signal(signal.SIGKILL)
        sender.communicate(timeout=30)
        self.assertTrue(until(30, lambda: log.read_text() == "pre\npost\n"), log.read_text())

    def test_a_snapshot_that_fails_runs_the_second_hook(self) -> None:
        site, target, log = self.prepare()
        shims = pathlib.Path(tempfile.mkdtemp())
        (shims / "lvcreate").write_text("#!/bin/sh\necho no room >&2\nexit 5\n")
        (shims / "lvcreate").chmod(0o755)
        result = site.send_live("src/vol", "db", "--post-snapshot", f"echo post >>{log}",
                                env={"PATH": f"{shims}:{os.environ['PATH']}"})
        self.assert_code(result, 1, "lvcreate", "exit status 5", "no room")
        self.assertEqual(log.read_text(), "post\n")

    def test_a_file_system_that_a_hook_froze_is_thawed_and_the_error_says_why(self) -> None:
        """Kernels before 6.8 freeze a file system once only, and LVM wants to do it; the send must not leave it frozen."""
        self.source.thick("vol")
        where = self.mount(self.source.path("vol"), "ext4")
        target = self.standby.thick("copy")
        site = self.pair(target)
        result = site.send_live("src/vol", "db", "--pre-snapshot", f"fsfreeze -f {where}", "--post-snapshot",
                                f"fsfreeze -u {where}")
        if result.code != 0:
            self.assert_code(result, 1, "freeze", "leave the freezing to LVM")
        (pathlib.Path(where) / "file").write_bytes(b"x")
        command("sync", "-f", where)
        self.send(site, target, "vol", "db")
        self.assertEqual(len(self.source.tagged()), 1)


if __name__ == "__main__":
    unittest.main()
