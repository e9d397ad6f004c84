# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Targets whose device fails (B1, B7, B8) or has other blocks than one expects (B9): a device-mapper device that gives
errors, loses its writes' answers, vanishes, shrinks, becomes read-only or takes a second for a write. Nothing is told as
committed that is not, the daemon lives on and serves its other volume, and the documented next command ends well."""

from __future__ import annotations

import os
import pathlib
import random
import subprocess
import time
import unittest

import devices
from devices import MIB
from harness import SEED, KernelTest, Result, Volumes, command, until

SIZE = 8 * MIB
VOLUME = 6 * MIB
TARGET = "/dev/mapper/faulty"
BLOCK = 65536


class Faulty:
    """A device over a logical volume, whose table a test changes."""

    def __init__(self, volumes: Volumes) -> None:
        self.under = volumes.thick("copy", SIZE)
        command("dmsetup", "create", "faulty", "--table", self.healthy())

    def healthy(self, size: int = SIZE) -> str:
        return f"0 {size // 512} linear {self.under} 0"

    def broken(self, start: int, length: int) -> str:
        """Errors for every access to a part."""
        lines = [(0, start, f"linear {self.under} 0"), (start, length, "error"),
                 (start + length, SIZE - start - length, f"linear {self.under} {(start + length) // 512}")]
        return "\n".join(f"{at // 512} {count // 512} {what}" for at, count, what in lines if count)

    def flaky(self, up: int, down: int, *features: str) -> str:
        more = f" {len(features)} {' '.join(features)}" if features else ""
        return f"0 {SIZE // 512} flakey {self.under} 0 {up} {down}{more}"

    def slow(self, milliseconds: int) -> str:
        return f"0 {SIZE // 512} delay {self.under} 0 0 {self.under} 0 {milliseconds}"

    def load(self, table: str, *more: str) -> None:
        subprocess.run(["dmsetup", "load", *more, "faulty"], input=table, text=True, check=True)
        command("dmsetup", "resume", "--noflush", "faulty")


class DeviceTest(KernelTest):
    def setUp(self) -> None:
        super().setUp()
        self.random = random.Random(SEED)
        self.device = Faulty(self.standby)
        devices.write(TARGET, (0, SIZE))
        self.behind = bytes(devices.content(TARGET)[VOLUME:])
        self.hosts = self.site()
        self.plain, self.other = self.hosts.path / "plain", self.hosts.path / "other"
        self.hosts.pair("db", TARGET, "--overwrite")
        self.hosts.pair("other", self.hosts.path / "other.copy")
        self.plain.write_bytes(self.random.randbytes(VOLUME))
        self.other.write_bytes(self.random.randbytes(BLOCK))

    def change(self, where: pathlib.Path | None = None) -> None:
        with open(where or self.plain, "r+b") as file:
            for offset, length in ((100, 300), (20 * BLOCK, 3 * BLOCK), (40 * BLOCK + 4096, 70_000), (90 * BLOCK, 900)):
                file.seek(offset if where is None else 0)
                file.write(self.random.randbytes(length if where is None else 300))

    def settle(self, name: str = "db") -> None:
        until(20, lambda: not (self.hosts.standby / "locks" / name).exists() or self.hosts.is_free(name))

    def run_db(self, verb: str = "send", timeout: float = 120) -> Result:
        """The command, once nothing of an earlier one holds the volume any more."""
        self.settle()
        return self.hosts.run("blockferry", verb, self.plain, "--to", "standby", "--volume", "db", "--json",
                              timeout=timeout)

    def committed(self) -> int:
        return self.hosts.status("db").get("generation", 0)

    def assert_loud(self, result: Result, before: int, what: str, applied: bool = False) -> None:
        """It failed, said so in one sentence, and nothing counts as committed; but for what was committed before its
        target failed, and what the standby has brought there by itself since."""
        self.assertGreater(result.code, 0, f"{what}: {result}")
        self.assertLess(result.code, 100, f"{what}: {result}")
        self.assertNotEqual(result.error.strip(), "", what)
        self.assertNotIn("Fatal error", result.error, what)
        if not applied or self.committed() != before + 1:
            self.assertEqual(self.committed(), before, f"{what}: {result}")
        else:
            self.assert_equal(what)
        self.assertIsNone(self.hosts.daemon.poll(), f"{what}: the daemon has ended")
        self.assertNotIn("Fatal error", (self.hosts.path / "daemon.log").read_text(), what)

    def assert_other(self) -> None:
        """The other volume knows nothing of it."""
        self.change(self.other)
        self.assert_code(self.hosts.send("other", self.other), 0)

    def assert_equal(self, what: str) -> None:
        found = bytes(devices.content(TARGET))
        self.assertEqual(found[:VOLUME], self.plain.read_bytes(), f"{what}: not the generation")
        self.assertEqual(found[VOLUME:], self.behind, f"{what}: something behind the volume was written")

    def mend(self, what: str) -> str:
        """The send once more, and a resync if that is what it takes; returns what it took."""
        result, took = self.run_db(), "send"
        if result.code != 0:
            result, took = self.run_db("resync"), "resync"
        self.assertEqual(result.code, 0, f"{what}, {took}: {result}")
        self.assert_equal(what)
        return took


class ErrorTests(DeviceTest):
    FAULTS = {
        "a part gives errors": lambda device: device.broken(20 * BLOCK, 2 * BLOCK),
        "everything gives errors": lambda device: device.broken(0, SIZE),
        "writes give errors": lambda device: device.flaky(0, 1000, "error_writes"),
        "errors every other second": lambda device: device.flaky(1, 1, "error_writes"),
    }

    def test_errors_while_a_generation_comes_in(self) -> None:
        """The first copy, in place; an increment, staged; a resync."""
        took: dict[str, int] = {}
        cases = 0
        for name, table in self.FAULTS.items():
            for verb in ("first", "send", "resync"):
                what = f"{verb}, {name}"
                with self.subTest(what):
                    if verb == "first":
                        self.again()
                    before = self.committed()
                    self.change()
                    self.device.load(table(self.device))
                    result = self.run_db("resync" if verb == "resync" else "send")
                    # Of a device that is well every other second the writes may have come through.
                    if result.code == 0:
                        self.assertIn("other second", what, result)
                        self.device.load(self.device.healthy())
                        self.assert_equal(what)
                    else:
                        self.assert_loud(result, before, what, applied="other second" in what)
                        self.assert_other()
                        self.device.load(self.device.healthy())
                        way = self.mend(what)
                        took[way] = took.get(way, 0) + 1
                    cases += 1
        print(f"    {cases} cases, mended by {took}", flush=True)
        self.assertEqual(cases, 3 * len(self.FAULTS))

    def again(self) -> None:
        """A volume of the standby that has no generation yet."""
        self.device.load(self.device.healthy())
        if self.committed() == 0:
            return
        self.settle()
        self.hosts.kill_daemon()
        for state in (self.hosts.source, self.hosts.standby):
            command("rm", "-r", state)
        (self.hosts.path / "other.copy").unlink()
        self.hosts.start_daemon()
        self.hosts.pair("db", TARGET, "--overwrite")
        self.hosts.pair("other", self.hosts.path / "other.copy")

    test_errors_while_a_generation_comes_in.cost = 75


class ChangedDeviceTests(DeviceTest):
    def setUp(self) -> None:
        super().setUp()
        self.assert_code(self.run_db(), 0)
        self.assert_equal("first copy")

    def test_changed_between_two_sends(self) -> None:
        """Vanished, smaller, read-only, and then as before."""
        changes = {
            "vanished": (lambda: command("dmsetup", "remove", "--retry", "faulty"),
                         lambda: command("dmsetup", "create", "faulty", "--table", self.device.healthy())),
            "smaller": (lambda: self.device.load(self.device.healthy(VOLUME // 2)),
                        lambda: self.device.load(self.device.healthy())),
            "read-only": (lambda: command("blockdev", "--setro", TARGET),
                          lambda: command("blockdev", "--setrw", TARGET)),
        }
        for name, (spoil, restore) in changes.items():
            for verb in ("send", "resync"):
                with self.subTest(f"{name}, {verb}"):
                    before, found = self.committed(), devices.sha256(self.device.under)
                    self.change()
                    spoil()
                    try:
                        self.assert_loud(self.run_db(verb), before, name)
                        self.assert_other()
                        self.assertEqual(devices.sha256(self.device.under), found, f"{name}: written")
                    finally:
                        restore()
                    # A target that is smaller than its generation has lost it.
                    self.assertEqual(self.mend(name), "resync" if name == "smaller" else "send")

    def test_changed_in_the_middle(self) -> None:
        """While a generation is written: the device is slow enough to be caught."""
        changes = {
            "vanished": lambda: self.device.load(self.device.broken(0, SIZE)),
            "smaller": lambda: self.device.load(self.device.healthy(VOLUME // 2)),
            "read-only": lambda: command("blockdev", "--setro", TARGET),
        }
        told = {}
        for name, spoil in changes.items():
            for verb in ("send", "resync"):
                what = f"{name} in the middle, {verb}"
                with self.subTest(what):
                    before = self.committed()
                    self.change()
                    self.device.load(self.device.slow(2500))
                    sender = subprocess.Popen(
                        self.arguments(verb), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                        env={**os.environ, "BLOCKFERRY_STATE": str(self.hosts.source)})
                    try:
                        until(60, lambda: sender.poll() is not None or self.hosts.status("db")["state"] == "applying")
                        self.assertIsNone(sender.poll(), f"{what}: it was too fast to be caught")
                        spoil()
                        out, error = sender.communicate(timeout=120)
                    finally:
                        sender.kill()
                        command("blockdev", "--setrw", TARGET)
                    result = Result(subprocess.CompletedProcess([], sender.returncode, out, error))
                    told[what] = result.code
                    self.device.load(self.device.healthy())
                    if result.code == 0:
                        self.assert_equal(what)
                    else:
                        self.assert_loud(result, before, what, applied=True)
                        self.mend(what)
        print(f"    exit codes: {told}", flush=True)

    def arguments(self, verb: str) -> list[str]:
        from harness import acceptance
        return [str(acceptance.BIN / "blockferry"), verb, str(self.plain), "--to", "standby", "--volume", "db", "--json"]

    def test_slow(self) -> None:
        """A second for each write: a healthy transfer is not given up, and nothing grows meanwhile."""
        self.change()
        self.device.load(self.device.slow(1000))
        began = time.monotonic()
        self.assert_code(self.run_db(timeout=300), 0)
        self.assertGreater(time.monotonic() - began, 2, "was it slow at all?")
        self.device.load(self.device.healthy())
        self.assert_equal("slow")

    test_changed_between_two_sends.cost = 35
    test_changed_in_the_middle.cost = 40
    test_slow.cost = 25


class BlockSizeTests(KernelTest):
    def test_sizes_and_blocks(self) -> None:
        """Exact, or refused with nothing written: whole blocks and not, larger and smaller devices."""
        hosts, cases, refused = self.site(), 0, 0
        generator = random.Random(SEED)
        plain = hosts.path / "plain"
        for block in (512, 4096):
            for volume in (MIB, MIB + 512, MIB + 4096, MIB + BLOCK + 700, 3 * BLOCK - 1, 511):
                for more in (0, 2 * BLOCK, -block):
                    size = (volume + block - 1) // block * block + more
                    if size <= 0:
                        continue
                    name, what = f"v{cases}", f"blocks of {block}, volume of {volume}, device of {size}"
                    with self.subTest(what):
                        # A device is the target of one volume: each has its own, to the end.
                        before, backing = generator.randbytes(size), hosts.path / f"backing{cases}"
                        backing.write_bytes(before)
                        loop = command("losetup", "--find", "--show", "--sector-size", block, backing).stdout.strip()
                        self.addCleanup(command, "losetup", "-d", loop)
                        hosts.pair(name, loop, "--overwrite")
                        for _ in range(2):
                            plain.write_bytes(generator.randbytes(volume))
                            result = hosts.send(name, plain)
                            if more < 0:
                                self.assert_code(result, 9, "bytes, the volume")
                                refused += 1
                                break
                            self.assert_code(result, 0)
                            until(20, lambda: hosts.is_free(name))
                        found = pathlib.Path(loop).read_bytes()
                        wanted = before if more < 0 else plain.read_bytes() + before[volume:]
                        self.assertEqual(found, wanted, what)
                    cases += 1
        print(f"    {cases} combinations, {refused} of them refused", flush=True)
        self.assertGreaterEqual(cases, 34)
        self.assertGreaterEqual(refused, 10)

    test_sizes_and_blocks.cost = 105


if __name__ == "__main__":
    unittest.main()
