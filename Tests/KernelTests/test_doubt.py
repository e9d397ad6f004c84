# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Bases and pools that cannot be trusted or had. Each gives the right copy or the documented refusal, and the target is
not touched by a refusal."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import threading
import time

import devices
from devices import MIB
from harness import SOURCE, VOLUME, Disks, LiveTest, Result, acceptance, command

LINEAGE, BUSY = 7, 3
LOCK = "/var/run/thin-send-recv.lock"


class Gate:
    """Lets a sender's stream through up to a number of bytes, or as long as something is not so, then holds it until it
    is opened."""

    def __init__(self, port: int, after: int = 0, when=lambda: True) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.proxy = acceptance.Proxy(port, tamper=lambda data, at: self._pass(data, at >= after and when()))

    def _pass(self, data: bytes, is_held: bool) -> bytes:
        if is_held and not self.opened.is_set():
            self.reached.set()
            self.opened.wait(60)
        return data


class ThinDoubtTests(LiveTest):
    def setUp(self) -> None:
        super().setUp()
        self.source.pool()
        self.volume = self.source.thin("t")
        self.target = self.standby.thick("copy")
        devices.write(self.volume, (0, 2 * MIB))
        self.site_ = self.pair(self.target)

    def begin(self) -> str:
        """One generation; then something is written. Returns the base."""
        self.send(self.site_, self.target, "t", expect="full")
        devices.write(self.volume, *devices.scattered(1, 20, VOLUME))
        return self.base("t")

    def start_anew(self) -> None:
        """What the refusal tells to do: forget on both sides, then a full copy."""
        self.assert_code(self.site_.run("blockferryd", "reset", "db", "--overwrite"), 0)
        self.assert_code(self.site_.run("blockferry", "forget", "--to", "standby", "--volume", "db"), 0)
        self.send(self.site_, self.target, "t", expect="full")

    def test_base_snapshot_deleted(self) -> None:
        self.source.remove(self.begin())
        self.assert_refused(self.site_, self.target, "t", LINEAGE, "(rule base-lost)", "gone")
        self.assertEqual(self.source.tagged(), [], "a refused send left its snapshot")
        self.start_anew()

    def test_base_snapshot_deleted_and_its_device_id_reused(self) -> None:
        base = self.begin()
        row = next(row for row in self.source.rows("lv_name,thin_id,lv_tags") if row["lv_name"] == base)
        self.source.remove(base)
        # Somebody's snapshot gets the device id, then the name and the tags, too.
        self.source.snapshot("other", "t")
        reused = {row["lv_name"]: row["thin_id"] for row in self.source.rows("lv_name,thin_id")}
        self.assertEqual(reused["other"], row["thin_id"], "the device id was not used again: nothing is tested")
        self.assert_refused(self.site_, self.target, "t", LINEAGE, "gone")
        command("lvrename", "-qq", SOURCE, "other", base)
        command("lvchange", "-qq", *(word for tag in row["lv_tags"].split(",") for word in ("--addtag", tag)),
                f"{SOURCE}/{base}")
        self.assert_refused(self.site_, self.target, "t", LINEAGE)

    def test_base_snapshot_written(self) -> None:
        base = self.begin()
        command("lvchange", "-qq", "-an", f"{SOURCE}/{base}", check=False)
        command("lvchange", "-qq", "-prw", f"{SOURCE}/{base}")
        command("lvchange", "-qq", "-ay", "-K", f"{SOURCE}/{base}")
        devices.write(self.source.path(base), (MIB, 4096))
        self.assert_refused(self.site_, self.target, "t", LINEAGE, "written")

    def test_base_snapshot_merged(self) -> None:
        """The volume was set back to the base: the base is gone, and the origin has its device id."""
        base = self.begin()
        command("lvchange", "-qq", "-an", f"{SOURCE}/t")
        command("lvconvert", "-qq", "-y", "--merge", f"{SOURCE}/{base}")
        command("lvchange", "-qq", "-ay", f"{SOURCE}/t")
        self.assert_refused(self.site_, self.target, "t", LINEAGE)
        self.start_anew()

    def test_merge_that_waits_for_the_next_activation(self) -> None:
        base = self.begin()
        with open(self.volume, "rb"):
            command("lvconvert", "-qq", "-y", "--merge", f"{SOURCE}/{base}")
            self.assertTrue(any(row["lv_merging"] for row in self.source.rows("lv_name,lv_merging")),
                            "the merge does not wait: nothing is tested")
            result = self.site_.send_live(f"{SOURCE}/t", "db")
        self.assertIn(result.code, (1, LINEAGE), result)
        self.assertIn("merg", result.error.lower())

    def test_origin_replaced_by_another_volume_of_its_name(self) -> None:
        self.begin()
        command("lvrename", "-qq", SOURCE, "t", "old")
        devices.write(self.source.thin("t"), (0, MIB))
        self.assert_refused(self.site_, self.target, "t", LINEAGE)

    def test_volume_renamed(self) -> None:
        """LVM's id says that it is the same volume."""
        self.begin()
        command("lvrename", "-qq", SOURCE, "t", "renamed")
        result = self.assert_code(self.site_.send_live(f"{SOURCE}/renamed", "db"), 0)
        self.assertEqual(result.json["result"], "delta")
        self.assert_copy(self.target, "renamed")

    def test_snapshot_with_external_origin(self) -> None:
        """What is not mapped there is the external origin's, not zero."""
        self.source.thick("ext", VOLUME)
        devices.write(self.source.path("ext"), (0, VOLUME))
        command("lvchange", "-qq", "-an", f"{SOURCE}/ext")
        command("lvchange", "-qq", "-pr", f"{SOURCE}/ext")
        command("lvcreate", "-qq", "-y", "-s", "-kn", "--thinpool", f"{SOURCE}/pool", "-n", "e", f"{SOURCE}/ext")
        volume, target = self.source.path("e"), self.standby.thick("copy-e")
        site = self.pair(target, "ext", self.site_)
        devices.write(volume, *devices.scattered(2, 20, VOLUME))
        self.send(site, target, "e", "ext", expect="full")
        devices.write(volume, *devices.scattered(3, 20, VOLUME))
        devices.discard(volume, 0, 8 * MIB)
        self.send(site, target, "e", "ext", expect="delta")

    # The metadata snapshot

    def test_metadata_snapshot_held_by_somebody_else(self) -> None:
        self.begin()
        self.source.message("reserve_metadata_snap")
        held = self.source.held()
        result = self.assert_refused(self.site_, self.target, "t", BUSY, "(rule metadata-snapshot)", "fuser",
                                     more=("--wait", "1"))
        self.assertIn(held, result.error)
        self.assertEqual(self.source.held(), held, "somebody else's metadata snapshot was released")
        self.source.message("release_metadata_snap")
        self.send(self.site_, self.target, "t", expect="delta")
        self.assert_released()

    def test_metadata_snapshot_released_while_it_is_waited_for(self) -> None:
        self.begin()
        self.source.message("reserve_metadata_snap")
        sending = self.site_.start_live(f"{SOURCE}/t", "db", "--wait", "60")
        time.sleep(3)
        self.assertIsNone(sending.poll(), "it did not wait")
        self.source.message("release_metadata_snap")
        _, error = sending.communicate(timeout=90)
        self.assertEqual(sending.returncode, 0, error)
        self.assert_copy(self.target, "t")
        self.assert_released()

    def test_lock_of_other_tools_is_respected(self) -> None:
        self.begin()
        with open(LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.assert_refused(self.site_, self.target, "t", BUSY, LOCK, more=("--wait", "1"))
        self.send(self.site_, self.target, "t", expect="delta")

    # The pool

    def test_pool_filled(self) -> None:
        """A pool without room: the copy is right, or the refusal says why; with room again, a delta."""
        self.begin()
        command("lvchange", "-qq", "--errorwhenfull", "y", f"{SOURCE}/pool")
        filler = self.source.thin("filler", 256 * MIB)
        with self.assertRaises(OSError):
            devices.write(filler, (0, 256 * MIB))
        self.assertEqual(self.source.pool_status()[4], "out_of_data_space")
        result = self.site_.send_live(f"{SOURCE}/t", "db")
        if result.code == 0:
            self.assert_copy(self.target, "t")
        else:
            self.assertEqual(result.code, 1, result)
            self.assertIn("pool", result.error)
        self.assertLessEqual(len(self.source.tagged()), 1)
        self.assert_released()
        self.source.remove("filler")
        command("lvextend", "-qq", "-y", "-L", "+64m", f"{SOURCE}/pool")
        devices.write(self.volume, (4 * MIB, MIB))
        self.send(self.site_, self.target, "t", expect="delta")

    def test_pool_that_needs_a_check(self) -> None:
        """A pool that lost a transaction proves nothing any more."""
        self.begin()
        table = command("dmsetup", "table", f"{SOURCE}-pool_tmeta").stdout
        command("lvchange", "-qq", "-an", SOURCE)
        command("dmsetup", "create", "raw-tmeta", "--table", table)
        superblock = bytearray(devices.read("/dev/mapper/raw-tmeta", 0, 4096))
        struct.pack_into("<I", superblock, 4, struct.unpack_from("<I", superblock, 4)[0] | 1)
        struct.pack_into("<I", superblock, 0, crc32c(superblock[4:]) ^ 160774)
        with open("/dev/mapper/raw-tmeta", "r+b") as file:
            file.write(superblock)
            os.fsync(file.fileno())
        command("dmsetup", "remove", "--retry", "raw-tmeta")
        # Without LVM's thin_check, which would clear the flag.
        command("lvchange", "-qq", "-ay", "--config", 'global/thin_check_executable=""', f"{SOURCE}/t")
        self.assertIn("needs_check", self.source.pool_status())
        before = devices.sha256(self.target)
        result = self.site_.send_live(f"{SOURCE}/t", "db")
        self.assertIn(result.code, (1, LINEAGE), result)
        self.assertIn("pool", result.error)
        self.assertEqual(devices.sha256(self.target), before)

    def test_base_that_the_pool_has_lost(self) -> None:
        """LVM knows of it, the kernel does not: nothing that the pool says is believed."""
        base = self.begin()
        number, = (row["thin_id"] for row in self.source.rows("lv_name,thin_id") if row["lv_name"] == base)
        self.source.message(f"delete {number}")
        self.assert_refused(self.site_, self.target, "t", LINEAGE, "(rule pool-unsound)", f"no device {number}", base)
        self.assertEqual(self.source.tagged(), [base], "a refused send left its snapshot")
        self.assert_released()
        resynced = self.assert_code(self.site_.live("resync", f"{SOURCE}/t", "db"), 0)
        self.assertIn(f"{base} is left alone", resynced.error)
        self.source.remove(base)
        self.assert_copy(self.target, "t")
        self.send(self.site_, self.target, "t", expect="delta")


class ClassicDoubtTests(LiveTest):
    STORE = ("--cow-size", "24M")

    def setUp(self) -> None:
        super().setUp()
        self.volume = self.source.thick("o")
        self.target = self.standby.thick("copy")
        devices.write(self.volume, (0, 2 * MIB))
        self.site_ = self.pair(self.target)

    def begin(self, *store: str) -> str:
        self.send(self.site_, self.target, "o", "db", *(store or self.STORE), expect="full")
        devices.write(self.volume, *devices.scattered(1, 20, VOLUME))
        return self.base("o")

    def is_invalid(self, snapshot: str) -> bool:
        return command("dmsetup", "status", f"{SOURCE}-{snapshot}").stdout.split()[3] == "Invalid"

    def start_anew(self) -> None:
        self.assert_code(self.site_.run("blockferryd", "reset", "db", "--overwrite"), 0)
        self.assert_code(self.site_.run("blockferry", "forget", "--to", "standby", "--volume", "db"), 0)
        self.send(self.site_, self.target, "o", "db", *self.STORE, expect="full")

    def test_classic_base_deleted(self) -> None:
        self.source.remove(self.begin())
        self.assert_refused(self.site_, self.target, "o", LINEAGE, "gone", more=self.STORE)
        self.assertEqual(self.source.tagged(), [], "a refused send left its snapshot")
        self.start_anew()

    def test_classic_base_overflowed_between_two_sends(self) -> None:
        """What it does not know any more is not made up; and the origin's writers did not notice."""
        base = self.begin("--cow-size", "4M")
        devices.write(self.volume, (8 * MIB, 8 * MIB))
        self.assertTrue(self.is_invalid(base), "the store did not overflow: nothing is tested")
        self.assert_refused(self.site_, self.target, "o", LINEAGE, "(rule store-overflowed)", more=self.STORE)
        self.start_anew()

    def test_classic_store_overflows_during_the_read(self) -> None:
        """The new snapshot is given up half-way through its read; the copy stays the old generation."""
        self.begin("--cow-size", "64M")
        devices.write(self.volume, (0, VOLUME))
        before = devices.sha256(self.target)
        gate = Gate(self.site_.port, 2 * MIB)
        self.addCleanup(gate.proxy.close)
        self.addCleanup(gate.opened.set)
        self.redirect(gate.proxy.port)
        sending = self.site_.start_live(f"{SOURCE}/o", "db", "--cow-size", "4M")
        self.assertTrue(gate.reached.wait(60), "the gate was not reached")
        newer = [name for name in self.source.tagged() if name != self.base_of_catalog]
        self.assertEqual(len(newer), 1, newer)
        devices.write(self.volume, (0, 8 * MIB))
        self.assertTrue(self.is_invalid(newer[0]), "the store did not overflow: nothing is tested")
        gate.opened.set()
        out, error = sending.communicate(timeout=90)
        result = Result(subprocess.CompletedProcess(sending.args, sending.returncode, out, error))
        self.assert_code(result, 1, "(rule snapshot-overflowed)", "cow-size")
        self.assertEqual(devices.sha256(self.target), before, "half of a generation was applied")
        # The base was large enough, so that the next run is a delta.
        self.send(self.site_, self.target, "o", "db", "--cow-size", "48M", expect="delta")

    def test_classic_base_overflows_while_its_list_is_sent(self) -> None:
        """The list was whole when it was read, the content comes from the newer snapshot: the copy is right."""
        base = self.begin("--cow-size", "12M")
        devices.write(self.volume, (4 * MIB, 6 * MIB))
        gate = Gate(self.site_.port, 1 * MIB)
        self.addCleanup(gate.proxy.close)
        self.addCleanup(gate.opened.set)
        self.redirect(gate.proxy.port)
        sending = self.site_.start_live(f"{SOURCE}/o", "db", "--cow-size", "48M")
        self.assertTrue(gate.reached.wait(60), "the gate was not reached")
        devices.write(self.volume, (12 * MIB, 10 * MIB))
        self.assertTrue(self.is_invalid(base), "the store did not overflow: nothing is tested")
        gate.opened.set()
        _, error = sending.communicate(timeout=90)
        if sending.returncode == 0:
            self.assert_copy(self.target, "o")
        else:
            self.assertEqual(sending.returncode, LINEAGE, error)

    def redirect(self, port: int) -> None:
        """The source reaches the standby through a proxy from now on."""
        self.base_of_catalog = self.base("o")
        self.assert_code(self.site_.run("blockferry", "pair", self.site_.invite("db", self.target, port=port),
                                        "--name", "standby", "--own-name", "source"), 0)

    def test_classic_snapshot_written_to(self) -> None:
        """Harmless: what was written into the base stands in its store, and is sent anew from the newer snapshot. The base is
        the operator's from then on, and stays."""
        base = self.begin()
        command("lvchange", "-qq", "-prw", f"{SOURCE}/{base}")
        devices.write(self.source.path(base), (30 * MIB, 64 << 10))
        result = self.site_.send_live(f"{SOURCE}/o", "db", *self.STORE)
        if result.code == 0:
            left = [name for name in self.source.tagged("blockferry.volume=db") if name != base]
            self.assertEqual(len(left), 1, left)
            self.assert_same(self.target, self.source.path(left[0]))
        else:
            self.assertEqual(result.code, LINEAGE, result)
        self.assertIn(base, self.source.tagged("blockferry.volume=db"))

    def test_classic_volume_that_shrank(self) -> None:
        self.begin()
        command("lvreduce", "-qq", "-y", "-f", "-L", f"{VOLUME - 8 * MIB}b", f"{SOURCE}/o", check=False)
        if devices.size(self.volume) == VOLUME:
            # LVM does not shrink an origin that has a snapshot; then the base must go, and is missed.
            self.source.remove(self.base("o"))
            command("lvreduce", "-qq", "-y", "-f", "-L", f"{VOLUME - 8 * MIB}b", f"{SOURCE}/o")
        self.assert_refused(self.site_, self.target, "o", LINEAGE, more=self.STORE)

    def test_volumes_of_a_kind_that_cannot_be_sent(self) -> None:
        """A snapshot, a pool, its parts: refused before anything is made."""
        base = self.begin()
        self.source.pool()
        for name in (base, "pool", "pool_tmeta", "nothing"):
            with self.subTest(name=name):
                result = self.site_.send_live(f"{SOURCE}/{name}", "db")
                self.assertIn(result.code, (1, 2), result)
        self.assertEqual(self.source.tagged(), [base])


class MergeTests(LiveTest):
    """On a disk that can be made slow, behind the label that LVM would find twice."""

    source_disk = "/dev/mapper/slow-disk"

    def prepare_disks(self) -> None:
        command("dmsetup", "create", "slow-disk", "--table", self.table(0))

    @staticmethod
    def table(milliseconds: int) -> str:
        size = devices.size(Disks.source) // 512 - 2048
        return f"0 {size} delay {Disks.source} 2048 0 {Disks.source} 2048 {milliseconds}"

    def delay(self, milliseconds: int) -> None:
        """How long a write takes."""
        command("dmsetup", "load", "slow-disk", "--table", self.table(milliseconds))
        command("dmsetup", "suspend", "--nolockfs", "--noflush", "slow-disk")
        command("dmsetup", "resume", "slow-disk")

    def test_merge_in_progress(self) -> None:
        """The base is being merged into the origin, slowly: no list, no snapshot, nothing sent."""
        volume, target = self.source.thick("o"), self.standby.thick("copy")
        devices.write(volume, (0, 2 * MIB))
        site = self.pair(target)
        self.send(site, target, "o", "db", "--cow-size", "40M", expect="full")
        before = devices.sha256(target)
        devices.write(volume, *devices.scattered(2, 800, VOLUME))
        self.delay(200)
        self.addCleanup(self.delay, 0)
        command("lvconvert", "-qq", "-y", "--merge", "-b", f"{SOURCE}/{self.base('o')}")
        merging = ("dmsetup", "table", f"{SOURCE}-o")
        self.assertIn("snapshot-merge", command(*merging).stdout, "no merge is in progress: nothing is tested")
        result = site.send_live(f"{SOURCE}/o", "db")
        self.assertIn("snapshot-merge", command(*merging).stdout, "the merge ended too early: nothing is tested")
        self.assertIn(result.code, (1, LINEAGE), result)
        self.assertIn("merg", result.error)
        self.assertEqual(devices.sha256(target), before)


def crc32c(data: bytes) -> int:
    """The raw register: begun with ones, not inverted at the end, as device-mapper does it."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


if __name__ == "__main__":
    raise SystemExit("run these with Tests/KernelTests/run")
