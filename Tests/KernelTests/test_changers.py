# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Programs that change device-mapper (lvcreate, lvremove, lvchange) are waited for, however long they take, and never
ended; what one that failed has left suspended is resumed. The volume in use is usable after every end."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import devices
from devices import MIB
from harness import SOURCE, LiveTest, command, mapped, suspended, until


# Sectors.
OFFSET = 8192


class Stub:
    """Another program of a name, first on PATH. `$REAL` is the real one."""

    def __init__(self, name: str, script: str) -> None:
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="stub.", dir="/run"))
        program = self.path / name
        program.write_text(f"#!/bin/sh\nREAL={shutil.which(name)}\n{script}\n")
        program.chmod(0o755)

    @property
    def env(self) -> dict:
        return {"PATH": f"{self.path}:{os.environ['PATH']}"}


class ChangerTests(LiveTest):
    def begin(self) -> None:
        self.source.pool()
        self.volume, self.target = self.source.thin("t"), self.standby.thick("copy")
        self.site_ = self.pair(self.target)
        devices.write(self.volume, (0, MIB))
        self.send(self.site_, self.target, "t", expect="full")

    def assert_usable(self) -> None:
        """Nothing is suspended, and a write to the volume in use comes back."""
        self.assertEqual(suspended(), [])
        with open(self.volume, "r+b", buffering=0) as file:
            writing = subprocess.Popen(["dd", "if=/dev/zero", "of=/dev/stdout", "bs=4096", "count=1", "status=none",
                                        "conv=notrunc,fsync"], stdout=file)
        self.assertEqual(writing.wait(timeout=20), 0)

    def test_a_long_lvcreate_is_waited_for_and_told(self) -> None:
        self.begin()
        devices.write(self.volume, (2 * MIB, MIB))
        stub = Stub("lvcreate", 'sleep 33; exec "$REAL" "$@"')
        result = self.assert_code(self.site_.send_live(f"{SOURCE}/t", "db", env=stub.env), 0)
        self.assertIn("still waiting for: lvcreate", result.error)
        self.assert_copy(self.target, "t")
        self.assert_usable()

    def test_what_lvcreate_leaves_suspended_when_it_dies_is_resumed(self) -> None:
        """As when it is killed between suspending and resuming, by whomever."""
        self.begin()
        name = f"{mapped(SOURCE)}-t"
        pool = f"{mapped(SOURCE)}-pool-tpool"
        for script in (f"dmsetup suspend {name}; kill -9 $$", f"dmsetup suspend {name}; exit 5",
                       f"dmsetup suspend --noflush {pool}; exit 5"):
            with self.subTest(script=script):
                result = self.site_.send_live(f"{SOURCE}/t", "db", env=Stub("lvcreate", script).env)
                self.assertNotEqual(result.code, 0)
                self.assertIn("was resumed", result.error)
                self.assert_usable()
        devices.write(self.volume, (2 * MIB, MIB))
        self.send(self.site_, self.target, "t", expect="delta")

    def test_what_somebody_else_has_suspended_stays_so(self) -> None:
        self.begin()
        other = self.source.thin("other")
        command("dmsetup", "suspend", other)
        result = self.site_.send_live(f"{SOURCE}/t", "db", env=Stub("lvcreate", "exit 5").env)
        self.assertNotEqual(result.code, 0)
        self.assertEqual(suspended(), [f"{mapped(SOURCE)}-other"])

    def test_a_group_whose_snapshot_fails_stands_still_no_longer(self) -> None:
        self.source.pool()
        volumes = [self.source.thin(name) for name in ("a", "b")]
        self.volume = volumes[0]
        targets = [self.standby.thick(f"copy-{name}") for name in ("a", "b")]
        site = self.pair(targets[0], "a")
        self.pair(targets[1], "b", site)
        stub = Stub("dmsetup", 'case "$*" in *create_snap*) kill -9 $$;; esac\nexec "$REAL" "$@"')
        arguments = [str(pathlib.Path(os.environ["BLOCKFERRY_BIN"]) / "blockferry"), "send", f"{SOURCE}/a", f"{SOURCE}/b",
                     "--to", "standby", "--group", "both"]
        done = subprocess.run(arguments, capture_output=True, text=True, env=site.environment(stub.env), timeout=120)
        self.assertNotEqual(done.returncode, 0, done)
        self.assert_usable()
        done = subprocess.run(arguments, capture_output=True, text=True, env=site.environment(), timeout=120)
        self.assertEqual(done.returncode, 0, done)
        # What the failed run has left without a device is gone.
        self.assertEqual(len(self.source.tagged()), 2)

    def test_a_program_that_runs_on_keeps_the_volume_busy(self) -> None:
        """The sender is killed; lvcreate, and then lvremove, goes on to its end, and until then a second send is told."""
        self.begin()
        for program in ("lvcreate", "lvremove"):
            with self.subTest(program=program):
                devices.write(self.volume, (2 * MIB, MIB))
                log = pathlib.Path(tempfile.mkdtemp(dir="/run")) / "log"
                stub = Stub(program, f'echo started >{log}; sleep 6; "$REAL" "$@"; echo "ended $?" >>{log}')
                sending = self.site_.start_live(f"{SOURCE}/t", "db", env=stub.env)
                self.assertTrue(until(60, log.exists))
                sending.send_signal(signal.SIGTERM)
                sending.communicate(timeout=10)
                self.assertEqual(sending.returncode, -signal.SIGTERM)
                self.assert_code(self.site_.send_live(f"{SOURCE}/t", "db"), 3, "still running")
                self.assertTrue(until(60, lambda: "ended 0" in log.read_text()), "it did not come to its end")
                # Something of it may hold the lock for a moment more.
                self.assertTrue(until(10, lambda: self.site_.send_live(f"{SOURCE}/t", "db").code == 0))
                self.assert_copy(self.target, "t")
                self.assertEqual(len(self.source.tagged()), 1)
                self.assert_usable()

    def test_what_a_dead_sender_and_a_dead_lvcreate_have_left_is_resumed(self) -> None:
        """Both are killed, as by the kernel for want of memory. The next send knows whose doing it is."""
        self.begin()
        name = f"{mapped(SOURCE)}-t"
        stub = Stub("lvcreate", f"dmsetup suspend {name}; kill -9 $PPID $$")
        self.assertEqual(self.site_.send_live(f"{SOURCE}/t", "db", env=stub.env).code, -signal.SIGKILL)
        self.assertEqual(suspended(), [name])
        result = self.assert_code(self.site_.send_live(f"{SOURCE}/t", "db"), 0)
        self.assertIn("was resumed", result.error)
        self.assert_usable()
        # Nothing of ours is under way now: it is somebody else's.
        command("dmsetup", "suspend", name)
        self.assert_code(self.site_.send_live(f"{SOURCE}/t", "db"), 3, f"dmsetup resume {name}")
        self.assertEqual(suspended(), [name])
        command("dmsetup", "resume", name)

    def test_suspended_devices_are_named(self) -> None:
        self.begin()
        name = f"{mapped(SOURCE)}-t"
        command("dmsetup", "suspend", name)
        facts = self.assert_code(self.site_.run("blockferry", "status", "--json"), 0).json
        self.assertEqual(facts["suspended_devices"], [name])
        for verb in ("status", "cleanup"):
            told = self.assert_code(self.site_.run("blockferry", verb), 0).out
            self.assertIn(f"dmsetup resume {name}", told)
        # Nothing proves whose doing it is.
        self.assertEqual(suspended(), [name])
        command("dmsetup", "resume", name)
        self.assertNotIn("suspended,", self.site_.run("blockferry", "status").out)

    def test_a_suspended_target_is_named_and_not_waited_for(self) -> None:
        self.begin()
        name = f"{mapped('sby')}-copy"
        command("dmsetup", "suspend", name)
        told = self.assert_code(self.site_.run("blockferryd", "status"), 9).out
        self.assertIn(f"dmsetup resume {name}", told)
        devices.write(self.volume, (2 * MIB, MIB))
        self.assert_code(self.site_.send_live(f"{SOURCE}/t", "db"), 9, "suspended", f"dmsetup resume {name}")
        self.assert_code(self.site_.run("blockferryd", "promote", "db"), 9, f"dmsetup resume {name}")
        self.assertEqual(suspended(), [name])
        command("dmsetup", "resume", name)
        self.send(self.site_, self.target, "t", expect="delta")


class SlowDiskTest(LiveTest):
    """A disk that takes its time for each write below the volumes of one side (dm-delay)."""

    slow = "source_disk"

    def prepare_disks(self) -> None:
        self.under = getattr(self, self.slow)
        # Not from the disk's beginning, where LVM would find the same volume group once more.
        self.sectors = devices.size(self.under) // 512 - OFFSET
        command("dmsetup", "create", "slow", "--table", self.table(0))
        setattr(self, self.slow, "/dev/mapper/slow")

    def table(self, milliseconds: int) -> str:
        return f"0 {self.sectors} delay {self.under} {OFFSET} 0 {self.under} {OFFSET} {milliseconds}"

    def delay(self, milliseconds: int) -> None:
        command("dmsetup", "suspend", "--noflush", "slow")
        command("dmsetup", "reload", "slow", "--table", self.table(milliseconds))
        command("dmsetup", "resume", "slow")


class SlowSourceTests(SlowDiskTest):
    def test_a_snapshot_of_a_mounted_volume_over_a_slow_disk(self) -> None:
        volume, target = self.source.thick("t", 32 * MIB), self.standby.thick("copy")
        where = self.mount(volume, "ext4")
        site = self.pair(target)
        self.assert_code(site.send_live(f"{SOURCE}/t", "db", "--cow-size", "16M"), 0)
        (pathlib.Path(where) / "much").write_bytes(os.urandom(2 * MIB))
        self.delay(1500)
        began = time.monotonic()
        sending = site.start_live(f"{SOURCE}/t", "db", "--cow-size", "16M")
        time.sleep(5)
        self.delay(0)
        out, error = sending.communicate(timeout=120)
        self.assertEqual(sending.returncode, 0, error)
        self.assertGreater(time.monotonic() - began, 5)
        self.assertEqual(suspended(), [])
        (pathlib.Path(where) / "after").write_bytes(b"x")
        command("sync", "-f", where)
        self.assert_copy(target, "t")

    def test_every_changer_of_a_send(self) -> None:
        """A thin and a classic volume, each with a base that is removed: all over a disk that is slow from end to end."""
        self.source.pool()
        volumes = {"t": self.source.thin("t"), "c": self.source.thick("c", 32 * MIB)}
        targets = {name: self.standby.thick(f"copy-{name}") for name in volumes}
        more = {"t": (), "c": ("--cow-size", "16M")}
        site = None
        for name, target in targets.items():
            site = self.pair(target, name, site)
            self.send(site, target, name, name, *more[name], expect="full")
        for name, volume in volumes.items():
            with self.subTest(volume=name):
                devices.write(volume, (2 * MIB, MIB))
                self.delay(150)
                result = site.send_live(f"{SOURCE}/{name}", name, *more[name])
                self.assertEqual(suspended(), [])
                self.delay(0)
                self.assertEqual((result.code, result.json["result"]), (0, "delta"), result)
                devices.write(volume, (4 * MIB, MIB))
                self.assert_copy(targets[name], name, name)
        self.assertEqual(len(self.source.tagged()), 2)


class SlowStandbyTests(SlowDiskTest):
    slow = "standby_disk"

    def test_every_changer_of_keeping(self) -> None:
        """A generation is kept and an older one removed over a disk that is slow from end to end."""
        self.source.pool()
        self.standby.pool()
        volume, target = self.source.thin("t"), self.standby.thin("copy")
        site = self.pair(target)
        self.assert_code(site.run("blockferryd", "keep", "db", "--generations", "1"), 0)
        devices.write(volume, (0, MIB))
        self.send(site, target, "t", expect="full")
        devices.write(volume, (2 * MIB, MIB))
        self.delay(150)
        result = site.send_live(f"{SOURCE}/t", "db")
        # It is kept after the answer; whoever has the volume next waits for it.
        settled = until(120, lambda: [entry["generation"] for entry in site.status("db")["kept"]] == [2])
        self.assertEqual(suspended(), [])
        self.delay(0)
        self.assertEqual((result.code, result.json["result"]), (0, "delta"), result)
        self.assertTrue(settled, site.status("db"))
        self.assert_copy(target, "t")
        self.assertEqual(len([name for name in self.standby.tagged() if name != "copy"]), 1)
