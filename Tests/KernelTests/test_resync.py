# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Copies that are compared: hosts that change places, lost bases, targets that somebody else has written, interrupted
resyncs. What a program says of a difference is held against the bytes."""

from __future__ import annotations

import os
import pathlib
import random
import re
import signal
import time

import devices
from devices import MIB
from harness import SEED, SOURCE, STANDBY, VOLUME, LiveTest, Result, Volumes, Writer, command, until
from test_doubt import Gate

BLOCK = 64 << 10
LINEAGE, MISMATCH, INTERRUPTED, UNREACHABLE = 7, 8, 5, 4
CLASSIC = ("--cow-size", "40M", "--cow-chunk", "4K")


def blocks_that_differ(path: str, other: str) -> list[int]:
    """Offsets of the blocks of 64 KiB in which two devices differ."""
    one, two = devices.content(path), devices.content(other)
    length = min(len(one), len(two))
    return [at for at in range(0, length, BLOCK) if one[at:at + BLOCK] != two[at:at + BLOCK]]


def offsets(difference: dict) -> list[int]:
    """Offsets of the blocks of 64 KiB that a comparison has named."""
    return [at for extent in difference["extents"]
            for at in range(extent["offset"], extent["offset"] + extent["length"], BLOCK)]


class ResyncTest(LiveTest):
    def resync(self, site, target: str, volume: str, *more: object, volumes: Volumes | None = None) -> dict:
        """A resync that must succeed: exit code 0, one snapshot kept, equal bytes. Returns the JSON."""
        volumes = volumes or self.source
        result = self.assert_code(site.live("resync", f"{volumes.group}/{volume}", "db", *more), 0)
        facts = result.json["result"]
        # One that was interrupted comes first, and what has changed since follows it as an increment.
        self.assertIn("resync", [each["result"] for each in (*facts["finished_before"], facts)], result)
        self.assert_copy(target, volume, "db", volumes)
        return result.json

    def assert_little(self, facts: dict, size: int = VOLUME) -> None:
        """Something was sent, and by far not the volume."""
        self.assertGreater(facts["result"]["bytes_changed"], 0)
        self.assertLess(facts["result"]["bytes_changed"], size // 4)
        self.assertLess(facts["result"]["bytes_on_wire"], size // 3)

    def assert_nothing_written(self, target: str, action, code: int, *words: str) -> Result:
        before = devices.sha256(target)
        result = self.assert_code(action(), code, *words)
        self.assertEqual(devices.sha256(target), before, "the target was written")
        return result

    def scrub(self, site, code: int = 0) -> dict:
        result = self.assert_code(site.run("blockferryd", "scrub", "db", "--json"), code)
        self.assertEqual(result.json["clean"], code == 0)
        return result.json


class FailoverTests(ResyncTest):
    """Two volume groups change places, twice there and back, while somebody writes to the volume in use."""

    def take_over(self, site, target: str, behind: str) -> None:
        """Promotes a copy, which is what was sent last, byte for byte."""
        before = devices.sha256(target)
        self.assert_code(site.run("blockferryd", "promote", "db"), 0)
        self.assertEqual(devices.sha256(target), before, "promote has written")
        self.assert_same(target, behind)

    def replicate_back(self, site, volumes: Volumes, name: str, target: str, seed: int, *more: str,
                       promoted: bool) -> None:
        """The host that took over sends to the other one: a resync onto what is there, then increments."""
        volume = volumes.path(name)
        arguments = (f"{volumes.group}/{name}", "db", *more)
        differ = len(blocks_that_differ(volume, target))
        self.assertGreater(differ, 0, "nothing differs: nothing is tested")
        with Writer(volume, 5 * MIB, seed=seed, pause=0.05) as writer:
            planned = self.assert_nothing_written(
                target, lambda: site.live("resync", *arguments, "--plan"), 0).json
            self.assertGreaterEqual(planned["blocks_differing"], differ)
            if promoted:
                self.assert_nothing_written(
                    target, lambda: site.live("resync", *arguments), LINEAGE, "promoted", "--overwrite-promoted")
                more = (*more, "--overwrite-promoted")
                self.assert_nothing_written(target, lambda: site.live("resync", *arguments, more[-1]), LINEAGE, "not-demoted")
                self.assert_code(site.run("blockferryd", "demote", "db"), 0)
            before = writer.writes
            facts = self.resync(site, target, name, *more, volumes=volumes)
            self.assert_little(facts)
            self.assertGreaterEqual(facts["difference"]["blocks_differing"], differ)
            more = tuple(word for word in more if word != "--overwrite-promoted")
            for _ in range(2):
                self.send(site, target, name, "db", *more, volumes=volumes, expect="delta")
            self.assertGreater(writer.writes, before + 10, "nothing was written meanwhile")
        # The planned switch: the writer has stopped, and nothing is lost.
        self.send(site, target, name, "db", *more, volumes=volumes, expect="delta")
        self.take_over(site, target, volume)

    def change_places(self, name: str, *more: str) -> None:
        source, target = self.source.path(name), self.standby.path("copy")
        devices.write(source, (0, VOLUME))
        there = self.pair(target)
        with Writer(source, 5 * MIB, seed=21) as writer:
            self.send(there, target, name, "db", *more, expect="full")
            self.send(there, target, name, "db", *more, expect="delta")
            self.assertGreater(writer.writes, 0)
        # The host fails: what was written last is lost to the copy.
        devices.write(source, *devices.scattered(7, 20, VOLUME))
        base = self.base(name)
        self.take_over(there, target, self.source.active(base))
        devices.write(target, *devices.scattered(8, 20, VOLUME))
        self.assert_refused(there, target, name, LINEAGE, "promoted", more=more)
        # The old source knows nothing of the standby's new role, and its volume is an older, different one.
        back = self.site()
        back.pair("db", source, "--overwrite")
        self.replicate_back(back, self.standby, "copy", source, 22, *more, promoted=False)
        devices.write(source, *devices.scattered(9, 20, VOLUME))
        self.replicate_back(there, self.source, name, target, 23, *more, promoted=True)
        devices.write(target, *devices.scattered(10, 20, VOLUME))
        self.replicate_back(back, self.standby, "copy", source, 24, *more, promoted=True)
        self.assertEqual(len(self.source.tagged()), 1, "snapshots of the old source")
        self.assertEqual(len(self.standby.tagged()), 1, "snapshots of the standby")
        for site, state in ((there, "promoted"), (back, "promoted")):
            self.assertEqual(site.status("db")["state"], state)

    def test_thin_volumes_change_places_under_a_writer(self) -> None:
        for volumes, name in ((self.source, "t"), (self.standby, "copy")):
            volumes.pool()
            volumes.thin(name)
        self.change_places("t")
        self.assert_released()

    def test_classic_volumes_change_places_under_a_writer(self) -> None:
        self.source.thick("o")
        self.standby.thick("copy")
        self.change_places("o", *CLASSIC)

    test_thin_volumes_change_places_under_a_writer.cost = 60
    test_classic_volumes_change_places_under_a_writer.cost = 50


class LostBaseTests(ResyncTest):
    """Nothing tells any more what changed, in a volume that is in use."""

    def mend(self, name: str, target: str, site, *more: str) -> None:
        volume = self.source.path(name)
        state = site.status("db")
        with Writer(volume, 5 * MIB, seed=31, pause=0.05):
            facts = self.resync(site, target, name, *more)
            self.assert_little(facts)
            # The lineage goes on.
            self.assertEqual(facts["result"]["generation"], state["generation"] + 1)
            for _ in range(2):
                self.send(site, target, name, "db", *more, expect="delta")
        self.assertEqual(len(self.source.tagged()), 1)
        self.assertTrue(self.scrub(site)["clean"])

    def test_thin_base_removed(self) -> None:
        self.source.pool()
        volume, target = self.source.thin("t"), self.standby.thick("copy")
        devices.write(volume, (0, VOLUME))
        site = self.pair(target)
        self.send(site, target, "t", expect="full")
        devices.write(volume, *devices.scattered(1, 20, VOLUME))
        self.source.remove(self.base("t"))
        self.assert_refused(site, target, "t", LINEAGE, "gone")
        self.mend("t", target, site)
        self.assert_released()

    def test_classic_store_overflowed(self) -> None:
        volume, target = self.source.thick("o"), self.standby.thick("copy")
        devices.write(volume, (0, VOLUME))
        site = self.pair(target)
        self.send(site, target, "o", "db", "--cow-size", "2M", expect="full")
        devices.write(volume, (8 * MIB, 4 * MIB))
        base = self.base("o")
        self.assertEqual(command("dmsetup", "status", f"{SOURCE}-{base}").stdout.split()[3], "Invalid",
                         "the store did not overflow: nothing is tested")
        self.assert_refused(site, target, "o", LINEAGE, "store", more=CLASSIC)
        self.mend("o", target, site, *CLASSIC)

    def test_the_standby_keeps_its_generation_until_a_resync_is_whole(self) -> None:
        """And a resync of a volume that has not changed sends nothing, and is a base all the same."""
        self.source.pool()
        volume, target = self.source.thin("t"), self.standby.thick("copy")
        devices.write(volume, (0, 2 * MIB))
        site = self.pair(target)
        self.send(site, target, "t", expect="full")
        self.source.remove(self.base("t"))
        facts = self.resync(site, target, "t")
        self.assertEqual((facts["result"]["bytes_changed"], facts["difference"]["blocks_differing"]), (0, 0))
        devices.write(volume, *devices.scattered(2, 5, VOLUME))
        self.send(site, target, "t", expect="delta")


class DivergedTests(ResyncTest):
    """Somebody else writes to the standby's target between two generations."""

    def send_onto(self, site, target: str, name: str, places: list[int], *more: str) -> None:
        """A send that must find what was written, and must not write itself."""
        self.assert_nothing_written(
            target, lambda: site.send_live(f"{SOURCE}/{name}", "db", *more), LINEAGE, "diverged")
        status = site.status("db")
        self.assertEqual(status["state"], "diverged", status)
        # The look at some blocks when the session begins finds some of them; what the increment touches, all.
        count, named = re.fullmatch(r"(\d+) blocks of 64 KiB were written.* at bytes ([\d, ]+)(?:, …)?", status["reason"]).groups()
        named = [int(at) for at in named.split(", ")]
        self.assertLessEqual(set(named), set(places))
        self.assertEqual(len(named), min(int(count), 8), status)
        self.assertLessEqual(int(count), len(places))
        # Nothing goes on by itself.
        self.assert_nothing_written(
            target, lambda: site.send_live(f"{SOURCE}/{name}", "db", *more), LINEAGE, "diverged")
        # The base, and that of the generation in doubt.
        self.assertLessEqual(len(self.source.tagged()), 2)

    def mend(self, site, target: str, name: str, most: int, *more: str) -> None:
        facts = self.resync(site, target, name, *more)
        self.assertLessEqual(facts["difference"]["blocks_differing"], most)
        self.assertEqual(self.scrub(site)["differing_blocks"], 0)
        self.assertEqual(site.status("db")["state"], "consistent")
        devices.write(self.source.path(name), *devices.scattered(3, 5, VOLUME))
        self.send(site, target, name, "db", *more, expect="delta")

    def scenario(self, name: str, target: str, *more: str) -> None:
        volume = self.source.path(name)
        devices.write(volume, (0, 8 * MIB))
        site = self.pair(target)
        self.send(site, target, name, "db", *more, expect="full")
        devices.write(volume, *devices.scattered(1, 10, VOLUME))
        self.send(site, target, name, "db", *more, expect="delta")

        # In a block of which the increment has another page, and in one which it replaces as a whole.
        part, whole = 5 * BLOCK, 9 * BLOCK
        devices.write(target, (part + 8192, 4096), (whole, 4096))
        devices.write(volume, (part + 32768, 4096), (whole, BLOCK), (20 * BLOCK, BLOCK))
        self.send_onto(site, target, name, [part, whole], *more)
        self.mend(site, target, name, 3, *more)

        # In the very page that the increment brings, and in blocks that have been zeros so far.
        places = [400 * BLOCK + 3 * number * BLOCK for number in range(10)]
        devices.write(target, *((at, 4096) for at in places))
        devices.write(volume, *((at, 4096) for at in places))
        self.send_onto(site, target, name, places, *more)
        self.mend(site, target, name, 10, *more)

        # In blocks which no increment touches: the last one is looked at each time, and a scrub finds them all.
        places = [3 * BLOCK, 70 * BLOCK, 71 * BLOCK, VOLUME - BLOCK]
        devices.write(target, *((at + 4096, 4096) for at in places))
        devices.write(volume, (30 * BLOCK, 4096))
        self.send_onto(site, target, name, places, *more)
        found = self.scrub(site, MISMATCH)
        self.assertEqual((found["differing_blocks"], found["offsets"]), (len(places), places))
        self.assertEqual(site.status("db")["state"], "diverged")
        self.mend(site, target, name, len(places) + 1, *more)

    def test_thin_whole_blocks(self) -> None:
        self.source.pool()
        self.source.thin("t")
        self.scenario("t", self.standby.thick("copy"))

    def test_classic_chunks_of_4k(self) -> None:
        self.source.thick("o")
        self.standby.pool()
        self.scenario("o", self.standby.thin("copy"), *CLASSIC)

    test_thin_whole_blocks.cost = 45
    test_classic_chunks_of_4k.cost = 40


class VerifyTests(ResyncTest):
    SIZE = 64 * MIB
    UNIT = 16 * MIB

    def verify(self, site, name: str, *more: str, code: int = 0) -> dict:
        result = self.assert_code(site.live("verify", f"{SOURCE}/{name}", "db", *more), code)
        facts = result.json
        self.assertEqual(facts["difference"]["blocks_differing"] == 0, code == 0)
        return facts

    def scenario(self, name: str, target: str, mapped: int, plant: list[int], *more: str) -> None:
        """`mapped`: bytes of the volume that have storage; `plant`: blocks in which the copy is changed."""
        site, volume = self.pair(target), self.source.path(name)
        self.send(site, target, name, "db", *more, expect="full")
        with Writer(volume, self.SIZE, seed=41) as writer:
            # What is written meanwhile is not in the generation.
            facts = self.verify(site, name)
            self.assertGreater(writer.writes, 0)
        found = facts["difference"]
        self.assertEqual((facts["generation"], facts["share"]), (1, 1))
        self.assertEqual(found["bytes_compared"], self.SIZE)
        self.assertEqual(found["bytes_read_here"], mapped, "ranges without storage were read")
        self.assertLess(found["bytes_on_wire"], 16384)

        for at in plant:
            devices.write(target, (at + 4096, 4096))
        self.assertEqual(blocks_that_differ(target, self.source.active(self.base(name))), plant)
        before = devices.sha256(target)
        found = self.verify(site, name, code=MISMATCH)["difference"]
        self.assertEqual(offsets(found), plant)
        self.assertEqual((found["blocks_differing"], found["bytes_differing"]), (len(plant), len(plant) * BLOCK))
        text = site.run("blockferry", "verify", f"{SOURCE}/{name}", "--to", "standby", "--volume", "db")
        self.assert_code(text, MISMATCH)
        for extent in found["extents"]:
            self.assertIn(f"at byte {extent['offset']}, {extent['length']} bytes", text.out)

        # Each part finds its own, and nothing else is read.
        parts = self.SIZE // self.UNIT
        for part in range(1, parts + 1):
            mine = [at for at in plant if at // self.UNIT == part - 1]
            facts = self.verify(site, name, "--part", f"{part}/{parts}", code=MISMATCH if mine else 0)
            self.assertEqual(offsets(facts["difference"]), mine)
            self.assertEqual(facts["difference"]["bytes_compared"], self.UNIT)
            self.assertLessEqual(facts["difference"]["bytes_read_there"], self.UNIT)
        # Samples go through all of it in turn.
        seen: list[int] = []
        for _ in range(parts):
            result = site.live("verify", f"{SOURCE}/{name}", "db", "--sample", str(100 // parts))
            self.assertIn(result.code, (0, MISMATCH), result)
            seen += offsets(result.json["difference"])
        self.assertEqual(sorted(seen), plant)
        facts = self.verify(site, name, "--max-duration", "1h", code=MISMATCH)
        self.assertEqual((facts["share"], offsets(facts["difference"])), (1, plant))
        self.assertEqual(devices.sha256(target), before, "verify has written")

        # A send in between goes on; then all is mended.
        self.resync(site, target, name, *more)
        self.verify(site, name)
        self.send(site, target, name, "db", *more, expect="delta")
        self.verify(site, name)
        self.assertEqual(len(self.source.tagged()), 1)

    def test_thin_volume_in_use(self) -> None:
        self.source.pool()
        volume, target = self.source.thin("t", self.SIZE), self.standby.thick("copy", self.SIZE)
        devices.write(volume, (0, 3 * MIB), (40 * MIB, BLOCK), (self.SIZE - BLOCK, BLOCK))
        # The second one is in a range that has no storage on the source.
        self.scenario("t", target, 3 * MIB + 2 * BLOCK, [MIB, 20 * MIB + BLOCK, self.SIZE - BLOCK])
        self.assert_released()

    def test_classic_volume_in_use(self) -> None:
        volume, target = self.source.thick("o", self.SIZE), self.standby.thick("copy", self.SIZE)
        devices.write(volume, (0, 3 * MIB))
        self.scenario("o", target, self.SIZE, [0, MIB, 50 * MIB], "--cow-size", "80M")

    def test_without_the_base_there_is_nothing_to_compare(self) -> None:
        self.source.pool()
        volume, target = self.source.thin("t"), self.standby.thick("copy")
        devices.write(volume, (0, MIB))
        site = self.pair(target)
        self.send(site, target, "t", expect="full")
        self.source.remove(self.base("t"))
        self.assert_code(site.live("verify", f"{SOURCE}/t", "db"), LINEAGE, "snapshot")

    test_thin_volume_in_use.cost = 35
    test_classic_volume_in_use.cost = 25


class FirstContactTests(ResyncTest):
    """A target that holds an older copy of the volume, from a backup or a disk that was carried over."""

    def scenario(self, name: str, target: str, *more: str) -> None:
        volume = self.source.path(name)
        devices.write(volume, (0, VOLUME // 2))
        command("dd", f"if={volume}", f"of={target}", "bs=1M", "oflag=direct", "iflag=direct")
        devices.write(volume, *devices.scattered(51, 30, VOLUME))
        expected = blocks_that_differ(volume, target)
        self.assertGreater(len(expected), 20)
        site = self.site()
        site.pair("db", target, "--overwrite")
        planned = self.assert_nothing_written(
            target, lambda: site.live("resync", f"{SOURCE}/{name}", "db", "--plan", *more), 0).json
        self.assertEqual((planned["standby_state"], offsets(planned)), ("empty", expected))
        self.assertEqual(site.status("db")["state"], "empty")
        self.assertEqual(self.source.tagged(), [], "a plan has taken a snapshot")
        facts = self.resync(site, target, name, *more)
        self.assert_little(facts)
        self.assertEqual(offsets(facts["difference"]), expected)
        self.assertEqual((facts["result"]["generation"], facts["result"].get("from_generation")), (1, None))
        devices.write(volume, *devices.scattered(52, 10, VOLUME))
        self.send(site, target, name, "db", *more, expect="delta")
        self.scrub(site)

    def test_thin_to_thin(self) -> None:
        self.source.pool()
        self.standby.pool()
        self.source.thin("t")
        self.scenario("t", self.standby.thin("copy"))
        self.assert_released()

    def test_classic_to_thick(self) -> None:
        self.source.thick("o")
        self.scenario("o", self.standby.thick("copy"), *CLASSIC)

    def test_a_target_that_is_larger_and_one_that_is_smaller(self) -> None:
        self.source.pool()
        volume = self.source.thin("t")
        devices.write(volume, (0, 4 * MIB))
        target = self.standby.thick("copy", VOLUME - 4 * MIB)
        site = self.pair(target)
        self.assert_nothing_written(
            target, lambda: site.live("resync", f"{SOURCE}/t", "db"), 9, "too-small", "lvextend")
        self.standby.grow("copy", VOLUME + 4 * MIB)
        devices.write(target, (VOLUME, MIB))
        site.invite("db", target, "--overwrite")
        past = devices.read(target, VOLUME, MIB)[:]
        result = self.assert_code(site.live("resync", f"{SOURCE}/t", "db"), 0)
        facts = result.json["result"]
        self.assertEqual(sum(each["bytes_changed"] for each in (*facts["finished_before"], facts)), 4 * MIB)
        self.assert_same(target, self.source.active(self.base("t")), VOLUME)
        self.assertEqual(devices.read(target, VOLUME, MIB)[:], past, "what is past the volume was written")


class InterruptedTests(ResyncTest):
    """SIGKILL of either side during a resync; then the same command again."""

    SIZE = 48 * MIB

    def begin(self, *, in_place: bool = False) -> None:
        """A standby whose generation has nothing to do with the volume any more, or that has none."""
        self.source.pool(size=400 * MIB)
        self.volume, self.target = self.source.thin("t", self.SIZE), self.standby.thick("copy", self.SIZE)
        self.site_ = self.pair(self.target)
        if not in_place:
            devices.write(self.volume, (0, MIB))
            self.send(self.site_, self.target, "t", expect="full")
            self.source.remove(self.base("t"))
        devices.write(self.volume, (0, self.SIZE))

    def gate(self, *how, **when) -> Gate:
        gate = Gate(self.site_.port, *how, **when)
        self.addCleanup(gate.proxy.close)
        self.addCleanup(gate.opened.set)
        self.assert_code(self.site_.run(
            "blockferry", "pair", self.site_.invite("db", self.target, port=gate.proxy.port), "--name", "standby",
            "--own-name", "source"), 0)
        return gate

    def start(self):
        return self.site_.start_live(f"{SOURCE}/t", "db", verb="resync")

    def kill(self, process) -> None:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, -signal.SIGKILL, "it had ended: nothing is tested")

    def durable(self) -> bool:
        """Whether the standby has a whole segment of the unfinished generation: its header is written last."""
        try:
            with open(self.site_.standby / "staging/db.log", "rb") as log:
                return any(log.read(8192)[4096:])
        except FileNotFoundError:
            return False

    def again(self, *, resumed: bool) -> dict:
        result = self.assert_code(self.site_.live("resync", f"{SOURCE}/t", "db"), 0)
        facts = result.json["result"]
        segments = sum(each["resumed_segments"] for each in (*facts["finished_before"], facts))
        self.assertEqual(segments > 0, resumed, result)
        self.assert_copy(self.target, "t")
        self.assertEqual(len(self.source.tagged()), 1, "a snapshot was left behind")
        self.assert_released()
        devices.write(self.volume, *devices.scattered(6, 5, self.SIZE))
        self.send(self.site_, self.target, "t", expect="delta")
        self.scrub(self.site_)
        return facts

    def transfer_is_cut(self, cut, *, in_place: bool) -> None:
        """`cut` ends one side when one segment of three is durable."""
        self.begin(in_place=in_place)
        before = devices.sha256(self.target)
        gate = self.gate(20 * MIB)
        process = self.start()
        self.assertTrue(gate.reached.wait(120), "the gate was not reached")
        self.assertTrue(until(60, self.durable))
        cut(process, gate)
        self.assertTrue(until(60, lambda: self.site_.is_free("db")))
        state = self.site_.status("db")
        if in_place:
            self.assertEqual(state["state"], "initialising")
        else:
            self.assertEqual((state["state"], state["generation"]), ("staging", 1))
            self.assertEqual(devices.sha256(self.target), before, "half of a resync is on the target")
        self.assertLessEqual(len(self.source.tagged()), 1)
        self.again(resumed=True)

    def kill_sender(self, process, gate: Gate) -> None:
        self.kill(process)
        gate.opened.set()

    def kill_daemon(self, process, gate: Gate) -> None:
        self.site_.kill_daemon()
        gate.opened.set()
        _, error = process.communicate(timeout=120)
        self.assertIn(process.returncode, (INTERRUPTED, UNREACHABLE), error)
        self.site_.start_daemon()

    def test_sender_killed_in_the_transfer(self) -> None:
        self.transfer_is_cut(self.kill_sender, in_place=False)

    def test_sender_killed_in_the_transfer_in_place(self) -> None:
        self.transfer_is_cut(self.kill_sender, in_place=True)

    def test_daemon_killed_in_the_transfer(self) -> None:
        self.transfer_is_cut(self.kill_daemon, in_place=False)

    def test_daemon_killed_in_the_transfer_in_place(self) -> None:
        self.transfer_is_cut(self.kill_daemon, in_place=True)

    def comparison_is_cut(self, cut) -> None:
        self.begin()
        before = devices.sha256(self.target)
        made = self.site_.standby / "maps/db.found"
        made.unlink(missing_ok=True)
        # Nothing that the sender says after it has asked for the comparison arrives.
        gate = self.gate(when=made.exists)
        process = self.start()
        self.assertTrue(until(60, lambda: made.exists() or process.poll() is not None))
        cut(process)
        gate.opened.set()
        # A worker reads to the end of the target.
        self.assertTrue(until(60, lambda: self.site_.is_free("db")))
        self.assertEqual(devices.sha256(self.target), before)
        self.assertEqual(self.site_.status("db")["state"], "consistent")
        self.again(resumed=False)

    def test_sender_killed_while_both_sides_read(self) -> None:
        self.comparison_is_cut(self.kill)

    def test_daemon_killed_while_both_sides_read(self) -> None:
        def cut(process) -> None:
            self.site_.kill_daemon()
            _, error = process.communicate(timeout=120)
            self.assertIn(process.returncode, (INTERRUPTED, UNREACHABLE), error)
            self.assertEqual(self.source.tagged(), [], "its snapshot was left behind")
            self.site_.start_daemon()
        self.comparison_is_cut(cut)

    def test_daemon_killed_at_random_while_it_commits(self) -> None:
        """The target is the old generation or the new one once the daemon is back, without the sender."""
        generator = random.Random(SEED * 7919)
        self.begin()
        ends = set()
        for _ in range(3):
            before = devices.sha256(self.target)
            process = self.start()
            updates = pathlib.Path(self.site_.standby / "maps/db.updates")
            self.assertTrue(until(120, lambda: updates.exists() or process.poll() is not None))
            time.sleep(generator.uniform(0, 0.8))
            self.site_.kill_daemon()
            process.communicate(timeout=120)
            self.site_.start_daemon()
            self.assertTrue(until(60, lambda: self.site_.is_free("db")))
            state, now = self.site_.status("db"), devices.sha256(self.target)
            self.assertIn(state["state"], ("consistent", "staging"), state)
            ends.add("old" if now == before else "new")
            if state["state"] == "consistent":
                self.scrub(self.site_)
            self.assert_code(self.site_.live("resync", f"{SOURCE}/t", "db"), 0)
            self.assert_copy(self.target, "t")
            self.assertEqual(len(self.source.tagged()), 1)
            # For the next attempt, everything differs again.
            devices.write(self.volume, (0, self.SIZE))
        print(f"    after the kill the target was {' or '.join(sorted(ends))}", flush=True)

    for cut in (test_sender_killed_in_the_transfer, test_sender_killed_in_the_transfer_in_place,
                test_daemon_killed_in_the_transfer, test_daemon_killed_in_the_transfer_in_place):
        cut.cost = 20
    test_daemon_killed_at_random_while_it_commits.cost = 30


class ChoiceTests(ResyncTest):
    """What the options of a resync and of a send do."""

    def test_the_map_that_is_trusted_is_not_read_anew(self) -> None:
        self.source.pool()
        volume, target = self.source.thin("t"), self.standby.thick("copy")
        devices.write(volume, (0, 8 * MIB))
        site = self.pair(target)
        self.send(site, target, "t", expect="full")
        self.source.remove(self.base("t"))
        devices.write(volume, *devices.scattered(61, 10, VOLUME))
        self.assertEqual(self.resync(site, target, "t", "--trust-map")["difference"]["bytes_read_there"], 0)
        # A copy that may have been written has no map to be trusted.
        self.assert_code(site.run("blockferryd", "promote", "db"), 0)
        self.assert_nothing_written(
            target, lambda: site.live("resync", f"{SOURCE}/t", "db", "--trust-map", "--overwrite-promoted"),
            LINEAGE, "no-map")

    def test_in_place_begins_a_lineage(self) -> None:
        self.source.pool()
        volume, target = self.source.thin("t"), self.standby.thick("copy")
        devices.write(volume, (0, 8 * MIB))
        site = self.pair(target)
        self.send(site, target, "t", expect="full")
        devices.write(volume, *devices.scattered(62, 10, VOLUME))
        facts = self.resync(site, target, "t", "--in-place")
        self.assertEqual(facts["result"]["generation"], 1)
        self.assert_little(facts)
        devices.write(volume, *devices.scattered(63, 10, VOLUME))
        self.send(site, target, "t", expect="delta")

    def test_a_block_that_the_list_hides_is_found_by_the_sample(self) -> None:
        """The kernel's list is made to lie: what was written to the volume below device-mapper is in no list."""
        volume, target = self.source.thick("o"), self.standby.thick("copy")
        devices.write(volume, (0, VOLUME))
        site = self.pair(target)
        self.send(site, target, "o", "db", *CLASSIC, expect="full")
        devices.write(volume, *devices.scattered(64, 5, VOLUME))
        hidden = 77 * BLOCK
        devices.write(f"/dev/mapper/{SOURCE}-o-real", (hidden + 4096, 4096))
        every = ("--sample-unchanged", str(VOLUME // BLOCK))
        result = self.assert_nothing_written(
            target, lambda: site.send_live(f"{SOURCE}/o", "db", *CLASSIC, *every), LINEAGE, "change list", str(hidden))
        self.assertIn("resync", result.error)
        self.assertEqual(len(self.source.tagged()), 1)
        self.resync(site, target, "o", *CLASSIC)
        devices.write(volume, *devices.scattered(65, 5, VOLUME))
        self.send(site, target, "o", "db", *CLASSIC, *every, expect="delta")


if __name__ == "__main__":
    raise SystemExit("run these with Tests/KernelTests/run")
