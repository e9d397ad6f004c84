# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Power cuts of a standby below a real file system (A4, A7): one device carries the state's ext4 and the target, and
device-mapper logs every write of it while full copies, increments and resyncs come in. Each prefix of that log is what a
power cut may leave, with its last write torn too. On each, ext4 and then the daemon recover, and the target is compared
byte for byte. Recovery itself is logged and cut in the same way."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import random
import shutil
import unittest

import devices
import write_log
from devices import MIB
from harness import SEED, Disks, Site, command, resume_all, until

STATE, TARGET = 40 * MIB, 6 * MIB
# No multiple of a block, and less than the target has.
VOLUME = 4 * MIB + 700
CAMPAIGN = os.environ.get("BLOCKFERRY_CAMPAIGN") == "1"
# Images in all; images whose recovery is logged and cut, and into how many pieces that is at most.
IMAGES, NESTED, PIECES = (1000, 20, 40) if CAMPAIGN else (30, 2, 4)
WHERE = pathlib.Path("/run/power")


@dataclasses.dataclass
class Phase:
    """One command: what the target held before and holds afterwards, and the sender's state when it began."""

    name: str
    old: bytes
    new: bytes
    sender: pathlib.Path
    plain: bytes
    entries: list[write_log.Entry] = dataclasses.field(default_factory=list)


class Machine:
    """The standby's disk: a file system for the state, and the target, on one device that may be logged."""

    def __init__(self, disk: str, log: str) -> None:
        self.disk, self.log = disk, log

    def build(self, logged: bool) -> None:
        sectors = (STATE + TARGET) // 512
        table = f"log-writes {self.disk} {self.log}" if logged else f"linear {self.disk} 0"
        command("dmsetup", "create", "power", "--table", f"0 {sectors} {table}")
        command("dmsetup", "create", "power-state", "--table", f"0 {STATE // 512} linear /dev/mapper/power 0")
        command("dmsetup", "create", "power-target", "--table",
                f"0 {TARGET // 512} linear /dev/mapper/power {STATE // 512}")

    def remove(self) -> None:
        for name in ("power-target", "power-state", "power"):
            command("dmsetup", "remove", "--retry", name)

    def mount(self) -> None:
        WHERE.mkdir(exist_ok=True)
        command("mount", "-o", "noatime", "/dev/mapper/power-state", WHERE)

    def unmount(self) -> None:
        command("umount", WHERE)

    def mark(self, text: str) -> None:
        command("dmsetup", "message", "power", 0, "mark", text)

    def put(self, image: bytearray) -> None:
        """Writes an image past every cache of it."""
        view = memoryview(image)
        for path, start, length in (("/dev/mapper/power-state", 0, STATE), ("/dev/mapper/power-target", STATE, TARGET)):
            command("blockdev", "--flushbufs", path)
            with open(path, "wb", buffering=0) as file:
                for offset in range(start, start + length, MIB):
                    file.write(view[offset:offset + min(MIB, start + length - offset)])
                os.fsync(file.fileno())
            command("blockdev", "--flushbufs", path)


class PowerTests(unittest.TestCase):
    def setUp(self) -> None:
        Disks.prepare()
        Disks.wipe()
        self.addCleanup(resume_all)
        self.random = random.Random(SEED)
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.standby = WHERE / "standby"
        self.plain = self.site.path / "plain"
        self.machine = Machine(Disks.standby, Disks.source)
        self.phases: list[Phase] = []
        self.tried = self.torn = self.again = self.nested = self.compared = 0
        self.found: dict[str, int] = {}

    # What is logged

    def target(self) -> bytes:
        return bytes(devices.content("/dev/mapper/power-target"))

    def send(self, *more: object, verb: str = "send"):
        return self.site.run("blockferry", verb, self.plain, "--to", "standby", "--volume", "db", "--json", *more,
                             timeout=120)

    def phase(self, name: str, verb: str, plain: bytes) -> None:
        """Runs one command that must succeed, between two marks."""
        sender = self.site.path / f"sender-{len(self.phases)}"
        shutil.copytree(self.site.source, sender)
        self.plain.write_bytes(plain)
        old = self.target()
        self.machine.mark(f"begin-{len(self.phases)}")
        result = self.send(verb=verb)
        self.assertEqual(result.code, 0, result)
        self.machine.mark(f"done-{len(self.phases)}")
        new = self.target()
        self.assertEqual(new, plain + old[len(plain):], name)
        until(10, lambda: self.site.is_free("db"))
        self.phases.append(Phase(name, old, new, sender, plain))

    def changed(self, plain: bytes) -> bytes:
        content = bytearray(plain)
        for offset, length in ((3 * 65536 + 100, 80_000), (20 * 65536, 65536), (VOLUME - 9, 9)):
            content[offset:offset + length] = self.random.randbytes(length)
        content[8 * 65536:9 * 65536] = bytes(65536)
        return bytes(content)

    def record(self) -> list[write_log.Entry]:
        self.machine.build(logged=True)
        command("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", "/dev/mapper/power-state")
        devices.write("/dev/mapper/power-target", (0, TARGET))
        self.machine.mount()
        self.site.start_daemon()
        self.site.pair("db", "/dev/mapper/power-target")
        plain = self.random.randbytes(MIB) + bytes(2 * MIB) + self.random.randbytes(VOLUME - 3 * MIB)
        self.phase("full copy", "send", plain)
        self.phase("increment", "send", self.changed(plain))
        # Somebody writes to the target.
        devices.write("/dev/mapper/power-target", (5 * 65536, 8192))
        self.phase("resync", "resync", self.changed(self.phases[-1].plain))
        self.phase("another increment", "send", self.changed(self.phases[-1].plain))
        self.site.kill_daemon()
        self.machine.mark("end")
        self.machine.unmount()
        self.machine.remove()
        return write_log.read(Disks.source)

    # What is tried

    def recover(self, phase: Phase, acknowledged: bool, place: str) -> bytes:
        """Recovers an image as a host that starts again does; returns what the target then holds."""
        self.machine.mount()
        self.site.start_daemon()
        until(20, lambda: self.site.status("db")["state"] not in ("applying", "prepared"))
        status, found = self.site.status("db"), self.target()
        self.compared += len(found)
        finished = status["state"] not in ("initialising", "empty")
        self.found[status["state"]] = self.found.get(status["state"], 0) + 1
        if acknowledged:
            self.assertEqual((status["state"], found == phase.new), ("consistent", True), f"{place}: acknowledged")
        elif finished:
            self.assertIn(found, (phase.old, phase.new), f"{place}: torn, {status['state']}")
        self.assertEqual(found[len(phase.plain):], phase.old[len(phase.plain):], f"{place}: behind the volume")
        return found

    def leave(self) -> None:
        self.site.kill_daemon()
        self.machine.unmount()

    def go_on(self, phase: Phase, found: bytes, place: str) -> None:
        """The sender, whose host had its own power cut, or not, sends again."""
        self.again += 1
        shutil.rmtree(self.site.source)
        shutil.copytree(self.final if found == phase.new else phase.sender, self.site.source)
        self.plain.write_bytes(phase.plain)
        verb = "resync" if phase.name == "resync" or found == phase.new and phase is not self.phases[-1] else "send"
        result = self.send(verb=verb)
        self.assertEqual(result.code, 0, f"{place}, {verb}: {result}")
        self.assertEqual(self.target()[:len(phase.plain)], phase.plain, place)

    def try_image(self, image: bytearray, phase: Phase, acknowledged: bool, place: str, again: bool) -> None:
        self.tried += 1
        self.machine.put(image)
        found = self.recover(phase, acknowledged, place)
        if again:
            self.go_on(phase, found, place)
        self.leave()

    def cut_recovery(self, image: bytearray, phase: Phase, acknowledged: bool, place: str) -> None:
        """Logs the recovery of an image, and recovers again from prefixes of that log."""
        self.machine.put(image)
        self.machine.remove()
        self.machine.build(logged=True)
        self.recover(phase, acknowledged, place)
        self.leave()
        self.machine.remove()
        entries = [entry for entry in write_log.read(Disks.source) if entry.changes]
        self.machine.build(logged=False)
        chosen = set(self.random.sample(range(len(entries)), min(PIECES, len(entries))))
        for number, entry in enumerate(entries):
            entry.apply(image)
            if number in chosen:
                self.nested += 1
                self.try_image(image, phase, acknowledged, f"{place}, recovery cut after write {number}", False)

    def test_every_prefix(self) -> None:
        entries = self.record()
        self.final = self.site.path / "sender-final"
        shutil.copytree(self.site.source, self.final)
        # The kernel writes the last one, when the device is removed.
        marks = [entry.mark for entry in entries if entry.mark][:-1]
        self.assertEqual(marks, [f"{word}-{number}" for number in range(len(self.phases)) for word in ("begin", "done")]
                         + ["end"])
        places = self.places(entries)
        chosen = places if CAMPAIGN else sorted(
            self.random.sample(places, IMAGES), key=lambda place: place[0])
        nested = {place[0] for place in self.random.sample([place for place in chosen if place[1] is None], NESTED)}
        self.machine.build(logged=False)
        image = bytearray(STATE + TARGET)
        done = 0
        for order, (number, half, phase, acknowledged) in enumerate(chosen):
            for entry in entries[done:number]:
                if entry.changes:
                    entry.apply(image)
            done = number
            entry = entries[number]
            place = f"{phase.name}, entry {number} of {len(entries)}" + (f", torn at {half}" if half else "")
            whole = bytearray(image)
            entry.apply(whole, half)
            with self.subTest(place):
                self.torn += half is not None
                self.try_image(whole, phase, acknowledged, place, again=order % 10 == 0)
                if number in nested and half is None:
                    entry.apply(image)
                    self.cut_recovery(bytearray(image), phase, acknowledged, place)
                continue
            # A failure has left the block above.
            self.site.kill_daemon()
            command("umount", WHERE, check=False)
        changes = sum(entry.changes for entry in entries)
        print(f"    {len(entries)} entries of the log, {changes} writes; {self.tried} images, {self.torn} of them torn, "
              f"{self.nested} of cut recoveries; {self.again} sent again; {self.compared >> 20} MiB compared; "
              f"found {self.found}; seed {SEED}", flush=True)
        self.assertGreaterEqual(self.tried, IMAGES)
        self.assertGreater(self.nested, 0)
        self.assertGreaterEqual(self.again, IMAGES // 10)

    def places(self, entries: list[write_log.Entry]) -> list[tuple[int, int | None, Phase, bool]]:
        """Every write inside a phase or between two: its number, where it is torn, whose it is, and whether that has been
        acknowledged."""
        places: list[tuple[int, int | None, Phase, bool]] = []
        phase, acknowledged = None, False
        for number, entry in enumerate(entries):
            if entry.mark and entry.mark.startswith("begin"):
                phase, acknowledged = self.phases[int(entry.mark.split("-")[1])], False
            elif entry.mark:
                acknowledged = True
            elif phase is not None and entry.changes:
                places.append((number, None, phase, acknowledged))
                if entry.length > 512:
                    places.append((number, self.random.randrange(1, entry.length // 512) * 512, phase, acknowledged))
        return places

    test_every_prefix.cost = 200


if __name__ == "__main__":
    unittest.main()
