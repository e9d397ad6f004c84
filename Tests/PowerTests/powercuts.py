# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Power cuts of a standby below a real file system: one device carries the state's ext4 and the target, and every write of
it is logged while full copies, increments and resyncs come in. Each prefix of that log is what a power cut may leave, also
with its last write torn, or without some of the writes that were not flushed. On each, ext4 and then the daemon recover,
and the target is compared byte for byte. Recovery itself is logged and cut as well.

What logs and what carries the images is a `Machine`: device-mapper in the lab's guest (`KernelTests/test_power.py`), loop
devices on the host (`test_power.py`)."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import random
import shutil

import devices
import write_log
from devices import MIB

STATE, TARGET = 40 * MIB, 6 * MIB
# No multiple of a block, and less than the target has.
VOLUME = 4 * MIB + 700
# The mark behind which somebody else writes to the target.
FOREIGN = "foreign"


class Machine:
    """The standby's disk: a file system for the state, and the target, on one device that may be logged.

    `state` and `target` are their devices, the same ones however often the machine is built; `where` is where the file
    system is mounted."""

    state: str
    target: str
    where: pathlib.Path

    def build(self, logged: bool) -> None:
        raise NotImplementedError

    def remove(self) -> list[write_log.Entry]:
        """Takes the devices away; returns what was logged."""
        raise NotImplementedError

    def mark(self, text: str) -> None:
        """Puts a mark behind what has been written so far."""
        raise NotImplementedError

    def command(self, *arguments: object) -> None:
        raise NotImplementedError

    def format(self) -> None:
        self.command("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.state)
        devices.write(self.target, (0, TARGET))

    def mount(self) -> None:
        self.where.mkdir(exist_ok=True)
        self.command("mount", "-o", "noatime", self.state, self.where)

    def unmount(self) -> None:
        self.command("umount", self.where)

    def put(self, image: bytearray) -> None:
        """Writes an image past every cache of it."""
        view = memoryview(image)
        for path, start, length in ((self.state, 0, STATE), (self.target, STATE, TARGET)):
            self.command("blockdev", "--flushbufs", path)
            with open(path, "wb", buffering=0) as file:
                for offset in range(start, start + length, MIB):
                    file.write(view[offset:offset + min(MIB, start + length - offset)])
                os.fsync(file.fileno())
            self.command("blockdev", "--flushbufs", path)


@dataclasses.dataclass
class Phase:
    """One command: what the target held before and holds afterwards, and the sender's state when it began."""

    name: str
    old: bytes
    new: bytes
    sender: pathlib.Path
    plain: bytes


@dataclasses.dataclass
class Place:
    """A write that is the last one of an image: whose it is, and whether that was acknowledged before; where it is torn,
    if it is, and which writes before it were lost."""

    number: int
    phase: Phase
    acknowledged: bool
    half: int | None = None
    lost: frozenset[int] = frozenset()

    @property
    def is_whole(self) -> bool:
        return self.half is None and not self.lost

    def __str__(self) -> str:
        return (f"{self.phase.name}, entry {self.number}" + (f", torn at {self.half}" if self.half else "")
                + (f", without {sorted(self.lost)}" if self.lost else ""))


class PowerCuts:
    """What a test of power cuts does; the test gives `machine`, `site` and `until`, and is a `unittest.TestCase`."""

    def prepare(self, machine: Machine, site, until, seed: int) -> None:
        self.machine, self.site, self.until, self.seed = machine, site, until, seed
        self.random = random.Random(seed)
        site.standby = machine.where / "standby"
        self.plain = site.path / "plain"
        self.phases: list[Phase] = []
        self.tried = self.torn = self.lossy = self.again = self.nested = self.compared = 0
        self.found: dict[str, int] = {}

    # What is logged

    def target(self) -> bytes:
        return bytes(devices.content(self.machine.target))

    def send(self, verb: str):
        return self.site.run("blockferry", verb, self.plain, "--to", "standby", "--volume", "db", "--json", timeout=120)

    def phase(self, name: str, verb: str, plain: bytes) -> None:
        """Runs one command that must succeed, between two marks."""
        sender = self.site.path / f"sender-{len(self.phases)}"
        shutil.copytree(self.site.source, sender)
        self.plain.write_bytes(plain)
        old = self.target()
        self.machine.mark(f"begin-{len(self.phases)}")
        result = self.send(verb)
        self.assertEqual(result.code, 0, result)
        self.machine.mark(f"done-{len(self.phases)}")
        new = self.target()
        self.assertTrue(new == plain + old[len(plain):], f"{name}: what was sent is not there")
        self.until(10, lambda: self.site.is_free("db"))
        self.phases.append(Phase(name, old, new, sender, plain))

    def changed(self, plain: bytes) -> bytes:
        content = bytearray(plain)
        for offset, length in ((self.random.randrange(7 * 65536), 80_000), (self.random.randrange(9, 60) * 65536, 65536),
                               (VOLUME - 9, 9)):
            content[offset:offset + length] = self.random.randbytes(length)
        content[8 * 65536:9 * 65536] = bytes(65536)
        return bytes(content)

    def record(self) -> list[write_log.Entry]:
        self.machine.build(logged=True)
        self.machine.format()
        self.machine.mount()
        self.site.start_daemon()
        self.site.pair("db", self.machine.target, "--overwrite")
        plain = self.random.randbytes(MIB) + bytes(2 * MIB) + self.random.randbytes(VOLUME - 3 * MIB)
        self.phase("full copy", "send", plain)
        self.phase("increment", "send", self.changed(plain))
        self.machine.mark(FOREIGN)
        devices.write(self.machine.target, (5 * 65536, 8192))
        self.phase("resync", "resync", self.changed(self.phases[-1].plain))
        self.phase("another increment", "send", self.changed(self.phases[-1].plain))
        self.site.kill_daemon()
        self.machine.mark("end")
        self.machine.unmount()
        entries = self.machine.remove()
        marks = [entry.mark for entry in entries if entry.mark and entry.mark != FOREIGN]
        self.assertEqual(
            marks, [f"{word}-{number}" for number in range(len(self.phases)) for word in ("begin", "done")] + ["end"])
        self.final = self.site.path / "sender-final"
        shutil.copytree(self.site.source, self.final)
        return entries

    def places(self, entries: list[write_log.Entry]) -> list[Place]:
        """Every write from the first phase on, but those of somebody else to the target: whole, torn, and with losses."""
        places: list[Place] = []
        phase, acknowledged = None, False
        # Writes that no flush has followed yet.
        loose: list[int] = []
        for number, entry in enumerate(entries):
            if entry.mark and entry.mark.startswith("begin"):
                phase, acknowledged = self.phases[int(entry.mark.split("-")[1])], False
            elif entry.mark == FOREIGN:
                phase = None
            elif entry.mark:
                acknowledged = True
            if entry.flags & write_log.FLUSH:
                loose = []
            if not entry.changes:
                continue
            if phase is not None:
                places.append(Place(number, phase, acknowledged))
                # ext4 does not mount if a block of its own is torn, such as the journal's first.
                unit = 4096 if entry.offset < STATE else 512
                if entry.length > unit:
                    half = self.random.randrange(unit, entry.length, unit)
                    places.append(Place(number, phase, acknowledged, half))
                if loose:
                    lost = self.random.sample(loose, self.random.randint(1, len(loose)))
                    places.append(Place(number, phase, acknowledged, lost=frozenset(lost)))
            if not entry.flags & write_log.FUA:
                loose.append(number)
        return places

    # What is tried

    def recover(self, phase: Phase, acknowledged: bool, what: str) -> bytes:
        """Recovers an image as a host that starts again does; returns what the target then holds."""
        self.machine.mount()
        self.site.start_daemon()
        self.until(20, lambda: self.site.status("db")["state"] not in ("applying", "prepared"))
        status, found = self.site.status("db"), self.target()
        self.compared += len(found)
        finished = status["state"] not in ("initialising", "empty")
        self.found[status["state"]] = self.found.get(status["state"], 0) + 1
        if acknowledged:
            self.assertEqual((status["state"], found == phase.new), ("consistent", True), f"{what}: acknowledged")
        elif finished:
            self.assertTrue(found in (phase.old, phase.new), f"{what}: torn, {status['state']}")
        self.assertTrue(found[len(phase.plain):] == phase.old[len(phase.plain):], f"{what}: behind the volume")
        return found

    def leave(self) -> None:
        self.site.kill_daemon()
        self.machine.unmount()

    def go_on(self, phase: Phase, found: bytes, what: str) -> None:
        """The sender, whose host had its own power cut, or not, sends again."""
        self.again += 1
        shutil.rmtree(self.site.source)
        shutil.copytree(self.final if found == phase.new else phase.sender, self.site.source)
        self.plain.write_bytes(phase.plain)
        verb = "resync" if phase.name == "resync" or found == phase.new and phase is not self.phases[-1] else "send"
        result = self.send(verb)
        self.assertEqual(result.code, 0, f"{what}, {verb}: {result}")
        self.assertTrue(self.target()[:len(phase.plain)] == phase.plain, f"{what}: what was sent is not there")

    def try_image(self, image: bytearray, phase: Phase, acknowledged: bool, what: str, again: bool) -> None:
        self.tried += 1
        self.machine.put(image)
        found = self.recover(phase, acknowledged, what)
        if again:
            self.go_on(phase, found, what)
        self.leave()

    def cut_recovery(self, image: bytearray, place: Place, pieces: int) -> None:
        """Logs the recovery of an image, and recovers again from prefixes of that log."""
        self.machine.put(image)
        self.machine.remove()
        self.machine.build(logged=True)
        self.recover(place.phase, place.acknowledged, str(place))
        self.leave()
        entries = [entry for entry in self.machine.remove() if entry.changes]
        self.machine.build(logged=False)
        chosen = set(self.random.sample(range(len(entries)), min(pieces, len(entries))))
        for number, entry in enumerate(entries):
            entry.apply(image)
            if number in chosen:
                self.nested += 1
                self.try_image(image, place.phase, place.acknowledged, f"{place}, recovery cut after write {number}", False)

    def try_all(self, entries: list[write_log.Entry], images: int | None, nested: int, pieces: int) -> None:
        """Tries every image, or so many of them; of so many whole ones recovery is cut, into so many pieces at most."""
        places = self.places(entries)
        if images is not None:
            places = sorted(self.random.sample(places, images), key=lambda place: place.number)
        cut = {place.number for place in self.random.sample([place for place in places if place.is_whole], nested)}
        self.machine.build(logged=False)
        # What was stable when the last flush had ended, and what was written since.
        stable, loose, done = bytearray(STATE + TARGET), [], 0
        for order, place in enumerate(places):
            for number in range(done, place.number):
                if entries[number].flags & write_log.FLUSH:
                    for earlier in loose:
                        entries[earlier].apply(stable)
                    loose = []
                if entries[number].changes:
                    loose.append(number)
            done = place.number
            image = bytearray(stable)
            for number in loose:
                if number not in place.lost:
                    entries[number].apply(image)
            entries[place.number].apply(image, place.half)
            with self.subTest(str(place)):
                self.torn += place.half is not None
                self.lossy += bool(place.lost)
                self.try_image(image, place.phase, place.acknowledged, str(place), again=order % 10 == 0)
                if place.number in cut and place.is_whole:
                    self.cut_recovery(image, place, pieces)
                continue
            # A failure has left the block above.
            self.site.kill_daemon()
            if self.machine.where.is_mount():
                self.machine.unmount()
        changes = sum(entry.changes for entry in entries)
        print(f"    {len(entries)} entries of the log, {changes} writes; {self.tried} images, {self.torn} of them torn, "
              f"{self.lossy} with lost writes, {self.nested} of cut recoveries; {self.again} sent again; {self.compared >> 20} MiB compared; "
              f"found {self.found}; seed {self.seed}", flush=True)
        self.assertGreaterEqual(self.tried, len(places))
        self.assertGreater(self.nested, 0)
        self.assertGreaterEqual(self.again, len(places) // 10)
