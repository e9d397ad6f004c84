# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Power cuts below loop devices (A4): their file is served by `qemu-storage-daemon`, which logs each write. What is tried
is told in `powercuts.py`. Needs root, and the package `qemu-system-common`.

With BLOCKFERRY_CAMPAIGN=1 every image of several histories is tried, and every write of some recoveries."""

from __future__ import annotations

import fcntl
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "AcceptanceTests"), str(HERE.parent / "KernelTests")]
import powercuts
import write_log
from harness import Site, until
from powercuts import STATE, TARGET

CAMPAIGN = os.environ.get("BLOCKFERRY_CAMPAIGN") == "1"
SEED = int(os.environ.get("BLOCKFERRY_SEED", time.time_ns() % 1_000_000))
# Histories; images of each; how many of them have their recovery cut, and into how many pieces at most.
HISTORIES, IMAGES, NESTED, PIECES = (4, None, 40, 1000) if CAMPAIGN else (1, 300, 4, 25)
LOOP_CTL_ADD, LOOP_CTL_REMOVE = 0x4C80, 0x4C81
if os.access("/dev/shm", os.W_OK):
    tempfile.tempdir = "/dev/shm"


def command(*arguments: object) -> None:
    done = subprocess.run([str(argument) for argument in arguments], capture_output=True, text=True, timeout=60,
                          stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stdout}{done.stderr}")


class LoopMachine(powercuts.Machine):
    """Two loop devices of a third one, which stays the same whatever it is made of: a target on a loop device is known by what
    that is made of."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path, self.where = path, path / "mounted"
        self.disk, self.log, self.logged = path / "disk", path / "log", path / "logged"
        self.daemon: subprocess.Popen | None = None
        self.marks: list[tuple[int, str]] = []
        self.numbers: list[int] = []
        self.attached: list[str] = []
        with open(self.disk, "wb") as file:
            file.truncate(STATE + TARGET)
        # High ones, which nobody is given who asks for any.
        number = 1000 + os.getpid() % 100_000
        while len(self.numbers) < 3:
            try:
                with open("/dev/loop-control") as control:
                    fcntl.ioctl(control, LOOP_CTL_ADD, number)
                self.numbers.append(number)
            except FileExistsError:
                pass
            number += 1
        self.whole, self.state, self.target = (f"/dev/loop{number}" for number in self.numbers)

    def command(self, *arguments: object) -> None:
        command(*arguments)

    def build(self, logged: bool) -> None:
        backing = self.disk
        if logged:
            self.log.write_bytes(b"")
            self.logged.touch()
            self.marks = []
            self.daemon = subprocess.Popen(
                ["qemu-storage-daemon",
                 "--blockdev", f"driver=file,node-name=disk,filename={self.disk}",
                 "--blockdev", f"driver=file,node-name=log,filename={self.log}",
                 "--blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log",
                 "--export", f"type=fuse,id=export,node-name=logged,mountpoint={self.logged},writable=on"],
                stdin=subprocess.DEVNULL)
            if not until(20, lambda: self.logged.stat().st_size == STATE + TARGET):
                raise AssertionError("qemu-storage-daemon does not serve the disk")
            backing = self.logged
        # With --direct-io=on what mkfs.ext4 writes into what it has zeroed is lost (Linux 6.18, QEMU 7.2).
        command("losetup", self.whole, backing)
        self.attached.append(self.whole)
        for device, offset, size in ((self.state, 0, STATE), (self.target, STATE, TARGET)):
            command("losetup", "--offset", offset, "--sizelimit", size, device, self.whole)
            self.attached.append(device)

    def remove(self) -> list[write_log.Entry]:
        while self.attached:
            command("losetup", "-d", self.attached.pop())
        if self.daemon is None:
            return []
        # The first sector of the log, which has the number of its entries, is written at the end.
        self.daemon.terminate()
        self.daemon.wait(20)
        self.daemon = None
        entries = write_log.read(self.log)
        for number, text in reversed(self.marks):
            entries.insert(number, write_log.Entry(0, 0, write_log.MARK, text.encode()))
        return entries

    def mark(self, text: str) -> None:
        self.marks.append((write_log.length(self.log), text))

    def close(self) -> None:
        """Takes away whatever is left of it."""
        subprocess.run(["umount", "-l", self.where], capture_output=True)
        for device in self.attached:
            subprocess.run(["losetup", "-d", device], capture_output=True)
        if self.daemon:
            self.daemon.terminate()
            self.daemon.wait(20)
        for number in self.numbers:
            with open("/dev/loop-control") as control:
                until(5, lambda: self.is_gone(control, number))

    @staticmethod
    def is_gone(control, number: int) -> bool:
        try:
            fcntl.ioctl(control, LOOP_CTL_REMOVE, number)
        except OSError:
            return False
        return True


class PowerTests(powercuts.PowerCuts, unittest.TestCase):
    def history(self, seed: int) -> None:
        site = Site()
        try:
            machine = LoopMachine(site.path)
            try:
                self.prepare(machine, site, until, seed)
                self.try_all(self.record(), IMAGES, NESTED, PIECES)
            finally:
                site.kill_daemon()
                machine.close()
        finally:
            site.close()

    def test_prefixes(self) -> None:
        for number in range(HISTORIES):
            self.history(SEED + number)


if __name__ == "__main__":
    unittest.main()
