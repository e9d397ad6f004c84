# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The scenarios that thin-send-recv (tests 00 to 04) and lvmsync (tests 00, 05, 10) test themselves with, and some that
their users have reported, played with Blockferry."""

from __future__ import annotations

import os
import signal
import threading
import tempfile

import devices
from devices import MIB
from harness import SOURCE, LiveTest, acceptance, command, until
from test_rotation import RotationTests

BLOCK = 64 << 10


class ThinSendRecvTests(LiveTest):
    """A pool of 12 MiB, volumes of 100 MiB, single blocks of 64 KiB at random places."""

    SIZE = 100 * MIB

    def setUp(self) -> None:
        super().setUp()
        for volumes in (self.source, self.standby):
            volumes.pool("tpool", size=12 * MIB, metadata=4 * MIB)
        self.volume = self.source.thin("tlv_source", self.SIZE, "tpool")
        self.target = self.standby.thin("tlv_target", self.SIZE, "tpool")
        self.site_ = self.pair(self.target)

    def blocks(self, seed: int, count: int) -> list[tuple[int, int]]:
        return devices.scattered(seed, count, self.SIZE, BLOCK, BLOCK)

    def step(self, expect: str) -> dict:
        facts = self.send(self.site_, self.target, "tlv_source", expect=expect)
        self.assert_released("tpool")
        return facts

    def test_00_volume_copy(self) -> None:
        devices.write(self.volume, *self.blocks(1, 10))
        facts = self.step("full")
        self.assert_same(self.target, self.volume)
        self.assertLess(facts["bytes_on_wire"], 2 * MIB, "what is not mapped was sent")

    def test_01_volume_diff(self) -> None:
        self.step("full")
        devices.write(self.volume, *self.blocks(2, 5))
        self.step("delta")
        devices.write(self.volume, *self.blocks(3, 5))
        self.step("delta")
        self.assert_same(self.target, self.volume)

    def test_02_volume_diff_with_discards(self) -> None:
        self.step("full")
        written = self.blocks(4, 5)
        devices.write(self.volume, *written)
        self.step("delta")
        devices.write(self.volume, *self.blocks(5, 5))
        for offset, length in written:
            devices.discard(self.volume, offset, length)
        self.step("delta")
        self.assert_same(self.target, self.volume)
        self.assertTrue(all(devices.zeros(self.target, *block) for block in written))

    def test_04_incomplete_streams_and_a_base_that_was_written(self) -> None:
        """A stream that is cut anywhere changes nothing; what follows is complete. A base that somebody has written
        is noticed, where their test relies on nobody having done so."""
        devices.write(self.volume, *self.blocks(6, 5))
        self.step("full")
        for cut in (0, 1, 27, 28, 600, 4000, 70_000, 300_000):
            with self.subTest(cut=cut):
                devices.write(self.volume, *self.blocks(cut + 7, 5))
                before = devices.sha256(self.target)
                paired = threading.Event()
                proxy = acceptance.Proxy(self.site_.port, tamper=lambda data, at, cut=cut, paired=paired: (
                    data if at + len(data) <= cut or not paired.is_set() else None))
                try:
                    self.redirect(proxy.port)
                    paired.set()
                    result = self.site_.send_live(f"{SOURCE}/tlv_source", "db")
                finally:
                    proxy.close()
                    self.redirect(self.site_.port)
                self.assertNotEqual(result.code, 0, result)
                self.assertEqual(devices.sha256(self.target), before, "a part of a stream was applied")
        self.assert_code(self.site_.send_live(f"{SOURCE}/tlv_source", "db"), 0)
        base = self.assert_copy(self.target, "tlv_source")
        devices.write(self.volume, *self.blocks(8, 5))
        command("lvchange", "-qq", "-an", f"{SOURCE}/{base}", check=False)
        command("lvchange", "-qq", "-prw", f"{SOURCE}/{base}")
        command("lvchange", "-qq", "-ay", "-K", f"{SOURCE}/{base}")
        devices.write(self.source.path(base), *self.blocks(9, 5))
        self.assert_refused(self.site_, self.target, "tlv_source", 7)

    def redirect(self, port: int) -> None:
        self.assert_code(self.site_.run("blockferry", "pair", self.site_.invite("db", self.target, port=port),
                                        "--name", "standby", "--own-name", "source"), 0)

    def test_recv_onto_a_mounted_target(self) -> None:
        """Their issue 4: a target in use is refused; and so is what was put on it, until somebody says that it may go."""
        devices.write(self.volume, *self.blocks(1, 5))
        where = self.mount(self.target, "ext4")
        self.assert_refused(self.site_, self.target, "tlv_source", 9)
        self.unmount(where)
        self.assert_refused(self.site_, self.target, "tlv_source", 9, "occupied")
        self.site_.invite("db", self.target, "--overwrite")
        self.assertEqual(self.step("full")["finished_before"], [])


class SignalTests(RotationTests):
    """Their test 03: every signal while the metadata snapshot is reserved; none leaves it reserved."""

    SIGNALS = (signal.SIGKILL, signal.SIGABRT, signal.SIGALRM, signal.SIGBUS, signal.SIGFPE, signal.SIGHUP,
               signal.SIGPIPE, signal.SIGPWR, signal.SIGQUIT, signal.SIGSEGV, signal.SIGTERM, signal.SIGUSR1,
               signal.SIGUSR2, signal.SIGXCPU, signal.SIGXFSZ)

    def test_03_signals_while_the_metadata_is_reserved(self) -> None:
        self.source.pool("tpool", size=12 * MIB, metadata=4 * MIB)
        volume = self.source.thin("tlv_source", 100 * MIB, "tpool")
        self.target = self.standby.thick("copy", 100 * MIB)
        self.site_, self.name = self.pair(self.target), "tlv_source"
        self.send(self.site_, self.target, "tlv_source", expect="full")
        self.run_to_step(0)
        reserved = next(int(line.split()[0]) for line in self.steps()
                        if " after " in line and "reserve_metadata_snap" in line)
        for number in self.SIGNALS:
            with self.subTest(signal=number.name):
                devices.write(volume, *devices.scattered(number, 5, 100 * MIB, BLOCK, BLOCK))
                result = self.site_.send_live(f"{SOURCE}/tlv_source", "db", env={
                    **self.environment(reserved), "STEPS_SIGNAL": str(int(number))})
                self.assertTrue(any(line.startswith(f"{reserved} ") for line in self.steps()), result)
                until(30, lambda: self.source.held("tpool") == "-")
                if self.source.held("tpool") != "-":
                    self.source.message("release_metadata_snap", "tpool", check=False)
                    self.fail("the metadata snapshot was left reserved")
        self.assert_code(self.site_.send_live(f"{SOURCE}/tlv_source", "db"), 0)
        self.assert_copy(self.target, "tlv_source")
        self.assert_released("tpool")

    test_03_signals_while_the_metadata_is_reserved.cost = 40


class LvmsyncTests(LiveTest):
    """Volumes of 20 MiB full of noise; then 512 bytes at each MiB."""

    SIZE = 20 * MIB
    STORE = ("--cow-size", "20M")

    def setUp(self) -> None:
        super().setUp()
        self.volume = self.source.thick("__lvmsynctest_src", self.SIZE)
        devices.write(self.volume, (0, self.SIZE))

    def gibberish(self, every: int = MIB, begin: int = 0) -> None:
        devices.write(self.volume, *((offset, 512) for offset in range(begin, self.SIZE, every)))

    def play(self, target: str) -> None:
        site = self.pair(target)
        name = "__lvmsynctest_src"
        self.send(site, target, name, "db", *self.STORE, expect="full")
        self.gibberish()
        facts = self.send(site, target, name, "db", *self.STORE, expect="delta")
        self.assertEqual(facts["bytes_changed"], 20 * 4096, "one chunk for each write")
        self.assert_same(target, self.volume, self.SIZE)

    def test_00_simple_local_sync(self) -> None:
        self.play(self.standby.thick("__lvmsynctest_dest", self.SIZE))

    def test_05_sync_via_a_file(self) -> None:
        self.play(os.path.join(tempfile.mkdtemp(), "dest"))

    def test_10_complex_sync_between_two_snapshots(self) -> None:
        """What is written after the second snapshot does not arrive."""
        target = self.standby.thick("__lvmsynctest_dest", self.SIZE)
        site = self.pair(target)
        name = "__lvmsynctest_src"
        self.send(site, target, name, "db", *self.STORE, expect="full")
        self.gibberish()
        self.assert_code(site.send_live(f"{SOURCE}/{name}", "db", *self.STORE), 0)
        then = devices.sha256(self.volume)
        self.gibberish(MIB // 2, 5 * MIB)
        self.assertEqual(devices.sha256(target), then)
        self.assertNotEqual(devices.sha256(self.volume), then)
        self.assert_copy(target, name)

    def test_10_snapback(self) -> None:
        """Their undo file, for a sync that ends half-way: here the copy is still what it was, with nothing to apply."""
        target = self.standby.thick("__lvmsynctest_dest", self.SIZE)
        site = self.pair(target)
        name = "__lvmsynctest_src"
        self.send(site, target, name, "db", *self.STORE, expect="full")
        original = devices.sha256(target)
        self.gibberish()
        proxy = acceptance.Proxy(site.port, tamper=lambda data, at: data if at + len(data) < 60_000 else None)
        self.addCleanup(proxy.close)
        self.assert_code(site.run("blockferry", "pair", site.invite("db", target, port=proxy.port),
                                  "--name", "standby", "--own-name", "source"), 0)
        self.assertNotEqual(site.send_live(f"{SOURCE}/{name}", "db", *self.STORE).code, 0)
        self.assertEqual(devices.sha256(target), original)

    def test_target_smaller_than_the_source(self) -> None:
        """lvmsync drops what lies behind the end of the target and ends well."""
        target = self.standby.thick("__lvmsynctest_dest", self.SIZE - MIB)
        site = self.pair(target)
        self.assert_refused(site, target, "__lvmsynctest_src", 9, more=self.STORE)
