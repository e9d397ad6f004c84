# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Comparing: resync, verify, scrub, and what the tag maps of both sides find. The oracle is the bytes of both files, compared
block by block here, and the decoder in Python."""

from __future__ import annotations

import os
import pathlib
import random
import re
import resource
import signal
import shutil
import sqlite3
import subprocess
import threading
import time
import unittest

from harness import BIN, Site, sha256, until
from test_room import FileSystem, command

from decoder.tag_map import decode_tag_map, map_of_volume  # by way of harness: Protocol is on the path

BLOCK = 65536
CASES = int(os.environ.get("BLOCKFERRY_DIVERGENCES", "2000"))
SEED = int(os.environ.get("BLOCKFERRY_SEED", time.time_ns() % 1_000_000))


def blocks_differing(first: pathlib.Path, second: pathlib.Path) -> list[int]:
    """Offsets of the 64 KiB blocks in which two files of one size differ."""
    offsets, at = [], 0
    with open(first, "rb") as left, open(second, "rb") as right:
        while content := left.read(1 << 20):
            other = right.read(1 << 20)
            if content != other:
                offsets += [at + start for start in range(0, len(content), BLOCK)
                            if content[start:start + BLOCK] != other[start:start + BLOCK]]
            at += len(content)
    return offsets


def bytes_of(offsets: list[int], size: int) -> int:
    return sum(min(BLOCK, size - offset) for offset in offsets)


def extents(facts: dict) -> list[int]:
    """The blocks that a comparison names."""
    return [offset for extent in facts["extents"]
            for offset in range(extent["offset"], extent["offset"] + extent["length"], BLOCK)]


class Comparing(unittest.TestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()

    def volume(self, name: str, size: int, *, sparse: bool = False) -> tuple[pathlib.Path, pathlib.Path]:
        source, target = self.site.path / f"{name}.source", self.site.path / f"{name}.copy"
        if sparse:
            source.touch()
            os.truncate(source, size)
        else:
            source.write_bytes(random.Random(SEED).randbytes(size))
        self.site.pair(name, target)
        result = self.site.send(name, source)
        self.assertEqual(result.code, 0, result)
        return source, target

    def blockferry(self, command: str, name: str, *arguments: object, code: int = 0) -> dict:
        result = self.site.run("blockferry", command, *arguments, "--to", "standby", "--volume", name, "--json")
        self.assertEqual(result.code, code, (result, f"seed {SEED}"))
        return result.json if result.out else {}

    def scrub(self, name: str, code: int = 0) -> dict:
        result = self.site.run("blockferryd", "scrub", name, "--json")
        self.assertEqual(result.code, code, result)
        return result.json

    def write(self, path: pathlib.Path, *places: tuple[int, bytes]) -> None:
        with open(path, "r+b") as file:
            for offset, content in places:
                file.seek(offset)
                file.write(content)


class Divergence(Comparing):
    """Random differences, of every size: all of them and nothing else is sent."""

    def diverge(self, rng: random.Random, path: pathlib.Path, size: int) -> str:
        """Makes a file differ in some blocks."""
        count = (size - 1) // BLOCK + 1
        pattern = rng.choice(["none", "one", "percent", "half", "all", "zeros", "first", "last", "bytes"])
        chosen = {
            "none": [], "one": [rng.randrange(count)],
            "percent": rng.sample(range(count), max(1, count // 100)), "half": rng.sample(range(count), count // 2),
            "all": range(count), "first": [0], "last": [count - 1], "bytes": [rng.randrange(count)],
        }.get(pattern)
        with open(path, "r+b") as file:
            if chosen is None:
                start = rng.randrange(count)
                length = min(rng.randrange(1, 9) * BLOCK, size - start * BLOCK)
                file.seek(start * BLOCK)
                file.write(bytes(length))
            for block in chosen or []:
                length = min(BLOCK, size - block * BLOCK)
                file.seek(block * BLOCK)
                if pattern == "bytes":
                    file.seek(block * BLOCK + rng.randrange(length))
                    file.write(rng.randbytes(1))
                else:
                    file.write(rng.randbytes(length))
        return pattern

    def run_cases(self, name: str, source: list, content: pathlib.Path, target: pathlib.Path, cases: int,
                  is_file: bool, done: dict, seed: int) -> None:
        rng = random.Random(seed)
        size = content.stat().st_size
        for case in range(cases):
            # The other host of a file may be the one that has changed.
            changed = content if is_file and rng.random() < 0.5 else target
            pattern = self.diverge(rng, changed, size)
            wanted = blocks_differing(content, target)
            if changed is target and len(wanted) * 10 >= -(-size // BLOCK) * 9:
                # That is no copy with differences, but something else: the standby's operator has to say that it is meant.
                refused = self.site.run("blockferry", "resync", *source, "--to", "standby", "--volume", name)
                self.assertEqual((refused.code, "rule target-replaced" in refused.error), (9, True), refused)
                meant = self.site.run("blockferryd", "retarget", name, target, "--for-resync")
                self.assertEqual(meant.code, 0, meant)
            if changed is target:
                found = self.blockferry("verify", name, *source, code=8 if wanted else 0) \
                    if case % 4 == 0 else None
                if found:
                    self.assertEqual(extents(found["difference"]), wanted, f"{name} {pattern} seed {seed}")
            facts = self.blockferry("resync", name, *source)
            self.assertEqual(facts["result"]["result"], "resync")
            difference = facts["difference"]
            self.assertEqual(extents(difference), wanted, f"{name} {pattern} seed {seed} case {case}")
            self.assertEqual(difference["bytes_differing"], bytes_of(wanted, size))
            self.assertEqual(facts["result"]["bytes_changed"], bytes_of(wanted, size))
            self.assertEqual(difference["bytes_compared"], size)
            self.assertEqual(blocks_differing(content, target), [], f"{name} {pattern} seed {seed} case {case}")
            if case % 4 == 0:
                self.assertEqual(self.blockferry("verify", name, *source)["difference"]["blocks_differing"], 0)
            done[name] = done.get(name, 0) + 1
            done[pattern] = done.get(pattern, 0) + 1
        done[f"{name} blocks"] = (size - 1) // BLOCK + 1

    def test_random_divergence(self) -> None:
        jobs, done, failures = [], {}, []
        for number, size in enumerate((33 * BLOCK + 512 * 7, 24 * BLOCK, 20 * BLOCK + 100)):
            source, target = self.volume(f"file{number}", size)
            jobs.append((f"file{number}", [source], source, target, CASES * 27 // 100, True))
        pool = self.site.pool()
        content = self.site.path / "thin.content"
        jobs.append(self.image("thin", pool.source("s1"), content, CASES // 10))
        origin, store = self.site.unpack("cow-4k", "origin", "cow")
        jobs.append(self.image("classic", ["--cow-origin", origin, "--cow-store", store],
                               self.site.path / "classic.content", CASES // 10))

        def work(number: int) -> None:
            try:
                for index, job in enumerate(jobs):
                    if index % 2 == number:
                        self.run_cases(*job, done, SEED + index)
            except BaseException as error:  # noqa: BLE001: it is raised again below
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        cases = sum(done[job[0]] for job in jobs)
        print(f"divergences: {cases} (seed {SEED}): { {key: done[key] for key in sorted(done)} }")
        self.assertGreaterEqual(cases, CASES)

    def image(self, name: str, source: list, content: pathlib.Path, cases: int) -> tuple:
        """A volume whose source does not change; what it holds is what the first full copy shows."""
        target = self.site.path / f"{name}.copy"
        self.site.pair(name, target)
        result = self.site.send(name, *source)
        self.assertEqual(result.code, 0, result)
        content.write_bytes(target.read_bytes())
        return name, source, content, target, cases, False


class Maps(Comparing):
    def root(self, name: str) -> tuple[bytes, int, bytes, int]:
        """Root, algorithm and key of the committed generation, from the source's catalog."""
        with sqlite3.connect(self.site.source / "catalog.sqlite") as catalog:
            record, algorithm, key = catalog.execute(
                "SELECT committed, tag_algorithm, tag_key FROM replica WHERE volume = ?", (name,)).fetchone()
        return record[120:152], algorithm, key, int.from_bytes(record[64:72], "little")

    def test_every_generation_has_the_root_that_its_bytes_have(self) -> None:
        """The decoder in Python computes the root from the target's bytes alone; both sides' map files hold it."""
        rng = random.Random(SEED)
        source, target = self.volume("vol", 18 * (1 << 20) + 3 * 512)
        for step in range(12):
            size = source.stat().st_size
            if step in (4, 8):
                # Grows; then shrinks, into the middle of a block.
                size = size + 5 * BLOCK + 512 if step == 4 else size - 9 * BLOCK - 1024
                os.truncate(source, size)
            self.write(source, *((rng.randrange(size - 5000), rng.randbytes(rng.randrange(1, 5000)))
                                 for _ in range(6)), (rng.randrange(size // BLOCK) * BLOCK, bytes(BLOCK)))
            result = self.site.run("blockferry", "send", source, "--to", "standby", "--volume", "vol",
                                   "--json", *(["--allow-shrink"] if step == 8 else []))
            self.assertEqual(result.code, 0, result)
            self.assertEqual(sha256(source), sha256(target))
            root, algorithm, key, recorded = self.root("vol")
            self.assertEqual(recorded, size)
            with open(target, "rb") as file:
                _, expected = map_of_volume(file, algorithm, key, size)
            self.assertEqual(root, expected, f"generation {result.json['generation']}, seed {SEED}")
            for path in (self.site.source / "maps/vol@standby", self.site.standby / "maps/vol.map"):
                fields, _ = decode_tag_map(path.read_bytes())
                self.assertEqual(fields["root"], expected.hex() if isinstance(fields["root"], str) else expected)

    def test_a_plain_file_ships_only_what_differs(self) -> None:
        source, target = self.volume("vol", 8 << 20)
        self.write(source, (3 * BLOCK + 10, b"written!"), (100 * BLOCK, bytes(BLOCK)))
        facts = self.blockferry("send", "vol", source)
        self.assertEqual((facts["result"], facts["bytes_changed"]), ("delta", 2 * BLOCK))
        self.assertEqual(sha256(source), sha256(target))

    def test_lost_maps_are_made_anew(self) -> None:
        source, target = self.volume("vol", 4 << 20)
        for lost in ([self.site.source / "maps/vol@standby"], [self.site.standby / "maps/vol.map"],
                     [self.site.source / "maps/vol@standby", self.site.standby / "maps/vol.map"]):
            for path in lost:
                path.unlink()
            self.write(source, (5 * BLOCK, os.urandom(100)))
            self.assertEqual(self.blockferry("send", "vol", source)["result"], "delta")
            self.assertEqual(sha256(source), sha256(target))
            self.scrub("vol")
            self.assertTrue(all(path.exists() for path in lost))

    def test_damaged_maps_are_not_believed(self) -> None:
        rng = random.Random(SEED)
        source, target = self.volume("vol", 4 << 20)
        for _ in range(12):
            for path in (self.site.source / "maps/vol@standby", self.site.standby / "maps/vol.map"):
                self.write(path, (rng.randrange(path.stat().st_size), rng.randbytes(1)))
            self.write(source, (rng.randrange(60) * BLOCK, os.urandom(100)))
            self.assertEqual(self.blockferry("send", "vol", source)["result"], "delta")
            self.assertEqual(sha256(source), sha256(target))
        self.scrub("vol")

    def test_writes_behind_our_back_are_reported_before_the_next_apply(self) -> None:
        """Of a block that the increment replaces whole, and of one that it replaces in part (a thin pool's is whole; a
        classic store has chunks of 4 KiB)."""
        for name, first, second, kind in (
                ("thin", self.site.pool().source("s0"), self.site.pool().source("s1"), "whole"),
                ("classic", *self.chain(), "part")):
            target = self.site.path / f"{name}.copy"
            self.site.pair(name, target)
            result = self.site.send(name, *first)
            self.assertEqual(result.code, 0, result)
            probe = self.site.path / f"{name}.probe"
            self.site.pair(f"{name}2", probe)
            self.assertEqual(self.site.send(f"{name}2", *first).code, 0)
            before = probe.read_bytes()
            self.assertEqual(self.site.send(f"{name}2", *second).code, 0)
            after = probe.read_bytes()
            changed = [offset for offset in range(0, len(before), BLOCK)
                       if before[offset:offset + BLOCK] != after[offset:offset + BLOCK]]
            place = changed[len(changed) // 2]
            content = bytes(byte ^ 1 for byte in before[place + 777:place + 778])
            self.write(target, (place + 777, content))
            written = sha256(target)
            refused = self.site.send(name, *second)
            self.assertEqual((refused.code, "diverged" in refused.error, f"bytes {place}" in refused.error),
                             (7, True, True), (kind, place, refused))
            self.assertEqual(sha256(target), written, "it was applied all the same")
            self.assertEqual(self.site.status(name)["state"], "diverged")
            facts = self.blockferry("resync", name, *second)
            self.assertIn(place, extents(facts["difference"]))
            self.assertEqual(sha256(target), sha256(probe))

    def chain(self) -> tuple[list, list]:
        origin, *stores = self.site.unpack("cow-chain-16k", "origin", "cow-s0", "cow-s1")
        return (["--cow-origin", origin, "--cow-store", stores[0]],
                ["--cow-origin", origin, "--cow-store", stores[1], "--base-store", stores[0]])

    def test_a_change_list_that_lies_is_found(self) -> None:
        """A block changes behind the pool's metadata, and behind the file system that holds the images, as on a disk that
        loses a write: no change list and no time names it. The sample finds it within as many sends as it takes to pass
        over the volume once, and verify at once."""
        system = FileSystem(self.site.path / "images", "ext4", 300 << 20, 1 << 20)
        self.addCleanup(system.close)
        pool = self.site.pool()
        for name in ("metadata", "data"):
            setattr(pool, name, pathlib.Path(shutil.move(getattr(pool, name), system.path)))
        target = self.site.path / "copy"
        self.site.pair("vol", target)
        self.assertEqual(self.site.send("vol", *pool.source("s0")).code, 0)
        # A block of data that s0 and s1 share.
        before = target.read_bytes()
        shared = None
        self.site.pair("probe", self.site.path / "probe")
        self.assertEqual(self.site.send("probe", *pool.source("s1")).code, 0)
        after = (self.site.path / "probe").read_bytes()
        data = pool.data.read_bytes()
        places: dict[bytes, list[int]] = {}
        for place in range(0, len(data), BLOCK):
            places.setdefault(data[place:place + BLOCK], []).append(place)
        for offset in range(0, len(before), BLOCK):
            content = before[offset:offset + BLOCK]
            if content != bytes(BLOCK) and content == after[offset:offset + BLOCK] \
                    and len(places.get(content, [])) == 1:
                shared = (offset, places[content][0])
        self.assertIsNotNone(shared)
        offset, place = shared
        command("umount", system.path)
        disk = (self.site.path / "images.img").read_bytes()
        found = disk.find(data[place:place + BLOCK])
        self.assertGreater(found, 0)
        self.assertEqual(disk.find(data[place:place + BLOCK], found + 1), -1)
        self.write(self.site.path / "images.img",
                   (found + 5, b"lie" if data[place + 5:place + 8] != b"lie" else b"LIE"))
        command("mount", system.device, system.path)
        self.assertNotEqual(pool.data.read_bytes(), data)
        found = self.blockferry("verify", "vol", *pool.source("s0"), code=8)
        self.assertEqual(extents(found["difference"]), [offset])
        blocks = pool.size // BLOCK
        sends = 0
        sample = 512
        while True:
            sends += 1
            device = pool.source("s1" if sends % 2 else "s0")
            result = self.site.run("blockferry", "send", *device, "--to", "standby", "--volume", "vol",
                                   "--sample-unchanged", str(sample), "--json")
            if result.code:
                break
            self.assertLessEqual(sends, blocks // sample + 1, "the sample has passed over all of the volume")
        self.assertEqual((result.code, f"at bytes {offset}" in result.error, "resync" in result.error),
                         (7, True, True), result)
        print(f"a lie of the change list: found by send {sends} of at most {blocks // sample + 1}")
        self.blockferry("resync", "vol", *device)
        self.assertEqual(self.blockferry("verify", "vol", *device)["difference"]["blocks_differing"], 0)


class States(Comparing):
    """Resync from every state a standby can be in, and what a plan promises."""

    def test_plan_writes_nothing(self) -> None:
        source, target = self.volume("vol", 2 << 20)
        self.write(target, (BLOCK, b"mine"), (2 * BLOCK, bytes(BLOCK)))
        before = sha256(target)
        state = self.site.status("vol")
        facts = self.blockferry("resync", "vol", source, "--plan")
        self.assertEqual((facts["bytes_differing"], facts["bytes_lost"]), (2 * BLOCK, BLOCK))
        self.assertEqual(sha256(target), before)
        # That somebody has written the target is known from now on.
        after = self.site.status("vol")
        self.assertIn(f"at bytes {BLOCK}, {2 * BLOCK}", after.pop("reason"))
        self.assertEqual({**after, "age_seconds": 0}, {**state, "age_seconds": 0, "state": "diverged"})

    def test_promoted(self) -> None:
        source, target = self.volume("vol", 2 << 20)
        self.assertEqual(self.site.run("blockferryd", "promote", "vol").code, 0)
        self.write(target, (7 * BLOCK, b"new data"))
        before = sha256(target)
        refused = self.site.run("blockferry", "resync", source, "--to", "standby", "--volume", "vol")
        self.assertEqual((refused.code, "promoted" in refused.error), (7, True), refused)
        trusting = self.site.run("blockferry", "resync", source, "--to", "standby", "--volume", "vol",
                                 "--overwrite-promoted", "--trust-map")
        self.assertEqual((trusting.code, "no-map" in trusting.error), (7, True), trusting)
        self.assertEqual(sha256(target), before)
        # The word of the source's operator alone is not enough.
        alone = self.site.run("blockferry", "resync", source, "--to", "standby", "--volume", "vol",
                              "--overwrite-promoted")
        self.assertEqual((alone.code, "not-demoted" in alone.error), (7, True), alone)
        with target.open("r+b"):
            used = self.site.run("blockferryd", "demote", "vol")
            self.assertEqual((used.code, "in use" in used.error), (9, True), used)
        for dry in (("--dry-run",), ()):
            self.assertEqual(self.site.run("blockferry", "resync", source, "--to", "standby", "--volume", "vol",
                                           "--overwrite-promoted").code, 7)
            self.assertEqual(self.site.run("blockferryd", "demote", "vol", *dry).code, 0)
        self.assertEqual(sha256(target), before)
        self.assertTrue(self.site.status("vol")["demoted"])
        self.assertEqual(self.site.run("blockferryd", "demote", "vol", "--undo").code, 0)
        self.assertFalse(self.site.status("vol")["demoted"])
        self.assertEqual(self.site.run("blockferry", "resync", source, "--to", "standby", "--volume", "vol",
                                       "--overwrite-promoted").code, 7)
        self.assertEqual(self.site.run("blockferryd", "demote", "vol").code, 0)
        facts = self.blockferry("resync", "vol", source, "--overwrite-promoted")
        self.assertEqual(extents(facts["difference"]), [7 * BLOCK])
        self.assertEqual(sha256(source), sha256(target))
        self.write(source, (0, b"on we go"))
        self.assertEqual(self.blockferry("send", "vol", source)["result"], "delta")
        # It was for one resync.
        self.assertEqual(self.site.run("blockferryd", "demote", "vol").code, 7)
        self.assertEqual(self.site.run("blockferryd", "promote", "vol").code, 0)
        again = self.site.run("blockferry", "resync", source, "--to", "standby", "--volume", "vol",
                              "--overwrite-promoted")
        self.assertEqual((again.code, "not-demoted" in again.error), (7, True), again)

    def test_one_that_was_refused_costs_the_source_nothing(self) -> None:
        """Also one that would begin a lineage: what was committed and its base are known as before."""
        source, target = self.volume("vol", 2 << 20)
        self.assertEqual(self.site.run("blockferryd", "promote", "vol").code, 0)
        self.write(source, (3 * BLOCK, b"newer"))
        def known() -> str:
            # A plan that was refused may stay; it is used by the same resync, if the standby allows it.
            # So may what went wrong.
            return re.sub(r'"last_error":\{[^}]*\},|"(age_seconds":\d+|state":"(committed|unfinished)")', "",
                          self.site.run("blockferry", "status", "--json").out)

        before = known()
        for options in ((), ("--in-place",)):
            refused = self.site.run("blockferry", "resync", source, "--to", "standby", "--volume", "vol",
                                    "--overwrite-promoted", *options)
            self.assertEqual((refused.code, "not-demoted" in refused.error), (7, True), refused)
            self.assertEqual(known(), before)
        self.assertEqual(self.site.run("blockferryd", "demote", "vol").code, 0)
        self.blockferry("resync", "vol", source, "--overwrite-promoted")
        self.assertEqual(self.site.status("vol")["generation"], 2)
        self.assertEqual(sha256(source), sha256(target))

    def test_one_in_place_that_failed_before_it_had_begun(self) -> None:
        """The standby has its copy, and the source believes in it."""
        source, target = self.volume("vol", 2 << 20)
        self.write(source, (3 * BLOCK, b"newer"))
        hindrance = self.site.standby / "maps/vol.updates"
        hindrance.mkdir()
        failed = self.site.run("blockferry", "resync", source, "--to", "standby", "--volume", "vol", "--in-place")
        self.assertEqual((failed.code, self.site.status("vol")["state"]), (11, "consistent"), failed)
        hindrance.rmdir()
        sent = self.site.send("vol", source)
        self.assertEqual((sent.code, sent.json["result"]), (0, "delta"), sent)
        self.assertEqual(sha256(source), sha256(target))

    def test_one_in_place_that_failed_after_it_had_begun(self) -> None:
        """The standby has given its copy up by then: the source does not go on believing in it."""
        source, target = self.volume("vol", 2 << 20)
        os.truncate(source, 8 << 20)
        resource.prlimit(self.site.daemon.pid, resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
        failed = self.site.run("blockferry", "resync", source, "--to", "standby", "--volume", "vol", "--in-place")
        self.assertEqual((failed.code, "and no whole one" in failed.error), (12, True), failed)
        self.assertEqual(self.site.status("vol")["state"], "initialising")
        volumes = self.site.run("blockferry", "status", "--json").json["volumes"]
        self.assertNotIn("committed", [volume["state"] for volume in volumes])
        exported = self.site.run("blockferry", "export", source, "--to", "standby", "--volume", "vol", "--output",
                                 self.site.path / "file")
        self.assertNotIn("1→2", exported.out)
        self.site.kill_daemon()
        self.site.start_daemon()
        self.blockferry("resync", "vol", source, "--in-place")
        self.assertEqual(sha256(source), sha256(target))

    def test_the_emergency_exit_of_promote_is_open_after_it_was_refused(self) -> None:
        source, target = self.volume("vol", 2 << 20)
        self.write(target, *((at * BLOCK, b"by somebody") for at in range(0, 12)))
        before = sha256(target)
        for _ in range(2):
            refused = self.site.run("blockferryd", "promote", "vol")
            self.assertEqual((refused.code, "--without-check" in refused.error), (9, True), refused)
            self.assertEqual(self.site.status("vol")["state"], "diverged")
        self.assertEqual(self.site.run("blockferryd", "promote", "vol", "--without-check").code, 0)
        self.assertEqual((self.site.status("vol")["state"], sha256(target)), ("promoted", before))

    def test_a_copy_that_a_program_is_writing_is_not_handed_over(self) -> None:
        source, target = self.volume("vol", 2 << 20)
        with target.open("r+b"):
            refused = self.site.run("blockferryd", "promote", "vol")
            self.assertEqual((refused.code, "in use" in refused.error), (9, True), refused)
            self.assertEqual(self.site.status("vol")["state"], "consistent")
        self.assertEqual(self.site.run("blockferryd", "promote", "vol").code, 0)

    def test_a_promoted_copy_is_not_reset_without_its_operators_word(self) -> None:
        source, target = self.volume("vol", 2 << 20)
        self.assertEqual(self.site.run("blockferryd", "promote", "vol").code, 0)
        refused = self.site.run("blockferryd", "reset", "vol", "--overwrite")
        self.assertEqual((refused.code, "blockferryd demote vol" in refused.error), (7, True), refused)
        self.assertEqual(self.site.status("vol")["state"], "promoted")
        for verb in (("demote",), ("reset", "--overwrite")):
            self.assertEqual(self.site.run("blockferryd", verb[0], "vol", *verb[1:]).code, 0)
        self.assertEqual(self.site.status("vol")["state"], "empty")

    def test_first_contact_with_an_older_copy(self) -> None:
        """The target holds most of the volume, and neither side knows anything of the other."""
        source, target = self.site.path / "source.img", self.site.path / "old.img"
        content = bytearray(random.Random(SEED).randbytes(6 << 20))
        source.write_bytes(content)
        content[5 * BLOCK:5 * BLOCK + 4] = b"old!"
        target.write_bytes(content)
        self.site.pair("vol", target, "--overwrite")
        facts = self.blockferry("resync", "vol", source)
        self.assertEqual((facts["result"]["generation"], extents(facts["difference"])), (1, [5 * BLOCK]))
        self.assertEqual(sha256(source), sha256(target))
        self.write(source, (0, b"go on"))
        self.assertEqual(self.blockferry("send", "vol", source)["result"], "delta")
        self.scrub("vol")

    def test_onto_a_target_of_another_size(self) -> None:
        source, target = self.site.path / "source.img", self.site.path / "old.img"
        source.write_bytes(random.Random(SEED).randbytes((2 << 20) + 700))
        for size in (0, BLOCK + 5, (2 << 20) + 700, 3 << 20):
            target.write_bytes(source.read_bytes()[:size].ljust(size, b"\1"))
            name = f"vol{size}"
            self.site.pair(name, target, "--overwrite")
            self.blockferry("resync", name, source)
            self.assertEqual(sha256(source), sha256(target), f"from {size} bytes")
            self.assertEqual(self.blockferry("verify", name, source)["difference"]["blocks_differing"], 0)
            target = self.site.path / f"next{size}"

    def test_a_target_that_lost_nothing_but_zeros_is_not_whole(self) -> None:
        """Past the end of a file there are zeros, and the volume ends with zeros."""
        for name, kept in (("part", 5 * BLOCK + 100), ("block", 5 * BLOCK), ("sector", 9 * BLOCK + 512), ("all", 0)):
            with self.subTest(name):
                source, target = self.volume(name, 9 * BLOCK + 1024, sparse=True)
                content = b"content" * 1000 if kept else b""
                with open(source, "r+b") as file:
                    file.write(content)
                result = self.site.send(name, source)
                self.assertEqual(result.code, 0, result)
                os.truncate(target, kept)
                facts = self.blockferry("verify", name, source, code=8)
                self.assertEqual(extents(facts["difference"]), [9 * BLOCK])
                found = self.scrub(name, 8)
                self.assertEqual((found["offsets"], found["bytes_missing"]), ([9 * BLOCK], 9 * BLOCK + 1024 - kept))
                self.assertEqual(self.site.status(name)["state"], "diverged")
                self.assertEqual(self.site.send(name, source).code, 7)
                self.blockferry("resync", name, source)
                self.assertEqual((target.stat().st_size, sha256(target)), (source.stat().st_size, sha256(source)))
                self.blockferry("verify", name, source)
                self.assertEqual(self.scrub(name)["differing_blocks"], 0)

    def test_a_restored_standby_goes_on_in_its_lineage(self) -> None:
        source, target = self.volume("vol", 2 << 20)
        self.site.kill_daemon()
        shutil.copytree(self.site.standby, self.site.path / "backup")
        shutil.copy(target, self.site.path / "backup.copy")
        self.site.start_daemon()
        self.write(source, (3 * BLOCK, b"second"))
        self.blockferry("send", "vol", source)
        self.site.kill_daemon()
        shutil.rmtree(self.site.standby)
        shutil.copytree(self.site.path / "backup", self.site.standby)
        self.write(target, (0, (self.site.path / "backup.copy").read_bytes()))
        self.site.start_daemon()
        self.write(source, (9 * BLOCK, b"third"))
        refused = self.site.send("vol", source)
        self.assertEqual((refused.code, "target-went-back" in refused.error), (7, True), refused)
        facts = self.blockferry("resync", "vol", source)
        self.assertEqual((facts["result"]["generation"], extents(facts["difference"])), (3, [3 * BLOCK, 9 * BLOCK]))
        self.assertEqual(sha256(source), sha256(target))

    def test_in_place(self) -> None:
        source, target = self.volume("vol", 2 << 20)
        self.write(target, (0, b"written!"))
        facts = self.blockferry("resync", "vol", source, "--in-place")
        self.assertEqual((facts["result"]["generation"], sha256(target)), (1, sha256(source)))
        self.scrub("vol")

    def test_trusting_the_map_reads_nothing_there_and_says_little(self) -> None:
        """64 GiB, sparse: less than 64 KiB on the wire for equal copies, 128 KiB and the block for one that differs."""
        source, target = self.volume("vol", 64 << 30, sparse=True)
        rng = random.Random(SEED)
        self.write(source, *((rng.randrange(1 << 20) * BLOCK, rng.randbytes(BLOCK)) for _ in range(500)))
        self.blockferry("send", "vol", source)
        equal = self.blockferry("resync", "vol", source, "--trust-map")
        self.assertEqual((equal["difference"]["bytes_read_there"], equal["difference"]["blocks_differing"]), (0, 0))
        self.assertLess(equal["result"]["bytes_on_wire"], 65536)
        self.write(source, (12345 * BLOCK, rng.randbytes(BLOCK)))
        one = self.blockferry("resync", "vol", source, "--trust-map")
        self.assertEqual(extents(one["difference"]), [12345 * BLOCK])
        self.assertLess(one["result"]["bytes_on_wire"], 131_072 + BLOCK)
        print(f"64 GiB by the map: {equal['result']['bytes_on_wire']} bytes on the wire if equal, "
              f"{one['result']['bytes_on_wire'] - BLOCK} and the block if one differs")

    def test_parts_and_samples(self) -> None:
        source, target = self.volume("vol", 40 << 20)
        self.write(target, ((39 << 20) + 3, b"written!"))
        shares = [self.blockferry("verify", "vol", source, "--part", f"{number}/3", code=8 if number == 3 else 0)
                  for number in (1, 2, 3)]
        self.assertEqual(sum(found["difference"]["bytes_compared"] for found in shares), 40 << 20)
        self.assertEqual(extents(shares[2]["difference"]), [39 << 20])
        seen, found = 0, 0
        for _ in range(3):
            result = self.site.run("blockferry", "verify", source, "--to", "standby", "--volume", "vol",
                                   "--sample", "30", "--json")
            self.assertIn(result.code, (0, 8), result)
            found += result.code == 8
            seen += result.json["difference"]["bytes_compared"]
        self.assertEqual((found, seen >= 40 << 20), (1, True))
        for wrong in (["--part", "0/3"], ["--part", "4/3"], ["--sample", "0"], ["--part", "1/2", "--sample", "3"]):
            self.blockferry("verify", "vol", source, *wrong, code=2)
        # Of more parts than pieces most hold nothing, and nothing differs in them.
        self.assertEqual(self.blockferry("verify", "vol", source, "--part", "1/900")["difference"]["bytes_compared"], 0)
        self.blockferry("verify", "vol", source, "--part", "900/900", code=8)

    def test_verify_of_a_source_that_is_another_point_in_time(self) -> None:
        source, _ = self.volume("vol", 2 << 20)
        self.write(source, (0, b"later"))
        os.utime(source)
        self.blockferry("verify", "vol", source, code=7)


class Shrunk(Comparing):
    """A source that has become smaller than what the standby has committed."""

    SIZE, SMALL = 8 << 20, (1 << 20) + 512

    def resync(self, source: pathlib.Path, *options: str):
        return self.site.run("blockferry", "resync", source, "--to", "standby", "--volume", "vol", *options)

    def refused(self, source: pathlib.Path, *options: str):
        result = self.resync(source, *options)
        self.assertEqual((result.code, "rule size-shrunk" in result.error), (7, True), result)
        return result

    def test_only_with_consent(self) -> None:
        for how in ([], ["--trust-map"], ["--in-place"]):
            with self.subTest(how):
                source, target = self.volume("vol", self.SIZE)
                os.truncate(source, self.SMALL)
                before = sha256(target), self.site.status("vol")["generation"]
                self.refused(source, *how)
                self.assertEqual((sha256(target), self.site.status("vol")["generation"]), before)
                # Without consent a resync that cuts nothing goes on as ever.
                os.truncate(source, self.SIZE)
                self.assertEqual(self.resync(source, *[option for option in how if option != "--trust-map"]).code, 0)
                os.truncate(source, self.SMALL)
                result = self.resync(source, *[option for option in how if option != "--trust-map"], "--allow-shrink")
                self.assertEqual((result.code, sha256(target)), (0, sha256(source)), result)
                self.scrub("vol")
            self.doCleanups()
            self.setUp()

    def test_a_source_that_knows_nothing_of_the_copy(self) -> None:
        source, target = self.volume("vol", self.SIZE)
        os.truncate(source, self.SMALL)
        self.assertEqual(self.site.run("blockferry", "forget", "--to", "standby", "--volume", "vol").code, 0)
        before = sha256(target)
        for how in ([], ["--in-place"]):
            self.refused(source, *how)
            self.assertEqual((sha256(target), self.site.status("vol")["state"]), (before, "consistent"))
        self.assertEqual(self.resync(source, "--allow-shrink").code, 0)
        self.assertEqual(sha256(target), sha256(source))

    def test_a_plan_ends_as_the_resync_would(self) -> None:
        source, target = self.volume("vol", self.SIZE)
        self.write(source, (0, b"changed"))
        os.truncate(source, self.SMALL)
        before = sha256(target)
        for forgotten in (False, True):
            if forgotten:
                self.assertEqual(self.site.run("blockferry", "forget", "--to", "standby", "--volume", "vol").code, 0)
            for more, code in (([], 7), (["--allow-shrink"], 0)):
                facts = self.blockferry("resync", "vol", source, "--plan", *more, code=code)
                self.assertEqual((facts["bytes_cut"], facts["bytes_differing"]), (self.SIZE - self.SMALL, BLOCK))
                said = self.resync(source, "--plan", *more)
                self.assertEqual((said.code, "behind the end of the source" in said.out), (code, True), said)
            self.assertIn("size-shrunk", self.refused(source, "--plan").error)
        self.assertEqual(sha256(target), before)

    def test_a_cut_one_goes_on_with_the_consent_that_it_had(self) -> None:
        source, target = self.volume("vol", 64 << 20)
        with source.open("r+b") as file:
            file.write(os.urandom(40 << 20))
        os.truncate(source, 48 << 20)
        log = self.site.standby / "staging/vol.log"
        interrupt(self, source, log, "--allow-shrink")
        facts = self.blockferry("resync", "vol", source)
        self.assertGreater(facts["result"]["resumed_segments"], 0)
        self.assertEqual(sha256(target), sha256(source))


def interrupt(test: Comparing, source: pathlib.Path, log: pathlib.Path, *options: str) -> None:
    """A resync that ends with some segments durable."""
    name = log.stem
    process = subprocess.Popen(
        [BIN / "blockferry", "resync", source, "--to", "standby", "--volume", name, "--compress", "never", *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "BLOCKFERRY_STATE": str(test.site.source)})
    while not log.exists() or log.stat().st_size < 20 << 20:
        test.assertIsNone(process.poll(), "it was too fast")
    process.kill()
    process.wait()
    test.assertTrue(until(30, lambda: test.site.is_free(name)))
    test.assertTrue(log.exists())


class Trusting(Comparing):
    """The standby's map is believed only where both sides know the same generation."""

    def refused(self, source: pathlib.Path, target: pathlib.Path, *options: str) -> None:
        before = sha256(target)
        for more in ([], ["--plan"]):
            result = self.site.run("blockferry", "resync", source, "--to", "standby", "--volume", "vol", "--trust-map",
                                   *options, *more)
            self.assertEqual((result.code, "without --trust-map" in result.error), (7, True), result)
        self.assertEqual(sha256(target), before)

    def mended(self, source: pathlib.Path, target: pathlib.Path, *options: str) -> None:
        self.blockferry("resync", "vol", source, *options)
        self.assertEqual(sha256(target), sha256(source))
        self.scrub("vol")
        self.blockferry("resync", "vol", source, "--trust-map")

    def test_a_standby_that_went_back(self) -> None:
        """Its state alone was restored, with nothing that would show that; and the application takes its change back, so that
        the old map fits the source, and the target does not. The standby itself finds that only where its sample meets it."""
        for _ in range(8):
            source, target = self.volume("vol", 64 << 20)
            self.go_back(source)
            before = sha256(target)
            if self.site.send("vol", source).error.find("target-went-back") >= 0:
                break
            self.doCleanups()
            self.setUp()
        else:
            self.fail("the sample has met the block each time")
        self.refused(source, target)
        self.assertEqual(sha256(target), before)
        self.mended(source, target)

    def go_back(self, source: pathlib.Path) -> None:
        self.site.kill_daemon()
        backup = self.site.path / "backup"
        shutil.copytree(self.site.standby, backup)
        self.site.start_daemon()
        place = random.randrange(1000) * BLOCK
        old = source.read_bytes()[place:place + BLOCK]
        self.write(source, (place, os.urandom(BLOCK)))
        self.blockferry("send", "vol", source)
        self.site.kill_daemon()
        for name in ("catalog.sqlite-wal", "catalog.sqlite-shm"):
            (self.site.standby / name).unlink(missing_ok=True)
        for mark in (self.site.standby / "locks").glob("@fence.*"):
            mark.unlink()
        subprocess.run(["cp", "-aT", backup, self.site.standby], check=True, timeout=60)
        self.site.start_daemon()
        self.write(source, (place, old))

    def test_another_lineage(self) -> None:
        source, target = self.volume("vol", 2 << 20)
        self.assertEqual(self.site.run("blockferry", "forget", "--to", "standby", "--volume", "vol").code, 0)
        self.refused(source, target)
        self.mended(source, target)

    def test_a_copy_that_is_not_trusted(self) -> None:
        source, target = self.volume("vol", 2 << 20)
        self.write(target, (5 * BLOCK, b"written!"))
        self.scrub("vol", 8)
        self.refused(source, target)
        self.mended(source, target)
        self.assertEqual(self.site.run("blockferryd", "promote", "vol").code, 0)
        self.refused(source, target, "--overwrite-promoted")

    def test_a_target_without_a_generation(self) -> None:
        source, target = self.site.path / "plain", self.site.path / "copy"
        source.write_bytes(os.urandom(1 << 20))
        self.site.pair("vol", target)
        target.touch()
        self.refused(source, target)


class Cut(Comparing):
    """A resync that was cut, and what happens to the target before it goes on."""

    def cut(self, name: str, source: pathlib.Path, *options: str) -> None:
        """Ends with some segments durable."""
        interrupt(self, source, self.site.standby / "staging" / f"{name}.log", *options)

    def begin(self, *, diverged: bool = True) -> tuple[pathlib.Path, pathlib.Path]:
        source, target = self.volume("vol", 64 << 20)
        if diverged:
            self.write(target, (1000 * BLOCK + 5, b"x"))
            self.scrub("vol", 8)
        with source.open("r+b") as file:
            file.write(os.urandom(40 << 20))
        return source, target

    def holed(self, target: pathlib.Path) -> pathlib.Path:
        """A copy of a target that lacks three blocks, which the resync has found equal."""
        other = self.site.path / "other.copy"
        shutil.copy(target, other)
        self.write(other, (800 * BLOCK, bytes(3 * BLOCK)))
        return other

    def test_another_target_is_compared_anew(self) -> None:
        source, target = self.begin()
        self.cut("vol", source)
        other = self.holed(target)
        self.assertEqual(self.site.run("blockferryd", "retarget", "vol", other, "--for-resync").code, 0)
        self.blockferry("resync", "vol", source)
        self.assertEqual(sha256(other), sha256(source))
        self.scrub("vol")

    def test_a_proven_target_is_compared_anew(self) -> None:
        source, target = self.begin(diverged=False)
        other = self.site.path / "other.copy"
        shutil.copy(target, other)
        # Somebody has brought the old target partly ahead.
        self.write(target, (800 * BLOCK, b"ahead" * BLOCK))
        self.write(source, (800 * BLOCK, b"ahead" * BLOCK))
        self.cut("vol", source)
        self.assertEqual(self.site.run("blockferryd", "retarget", "vol", other).code, 0)
        self.assertEqual(self.site.status("vol")["state"], "consistent")
        self.blockferry("resync", "vol", source)
        self.assertEqual(sha256(other), sha256(source))

    def test_a_target_that_was_mended_meanwhile(self) -> None:
        source, target = self.begin()
        right = self.site.path / "right.copy"
        shutil.copy(target, right)
        self.write(right, (1000 * BLOCK + 5, source.read_bytes()[1000 * BLOCK + 5:1000 * BLOCK + 6]))
        self.cut("vol", source)
        self.assertEqual(self.site.run("blockferryd", "retarget", "vol", right).code, 0)
        self.assertEqual(self.site.status("vol")["state"], "consistent")
        self.blockferry("send", "vol", source)
        self.assertEqual(sha256(right), sha256(source))

    def test_a_promoted_copy_that_was_used_meanwhile(self) -> None:
        source, target = self.begin(diverged=False)
        for verb in ("promote", "demote"):
            self.assertEqual(self.site.run("blockferryd", verb, "vol").code, 0)
        self.cut("vol", source, "--overwrite-promoted")
        self.write(target, (800 * BLOCK, bytes(3 * BLOCK)))
        before = sha256(target)
        refused = self.site.run("blockferry", "resync", source, "--to", "standby", "--volume", "vol", "--overwrite-promoted")
        self.assertEqual((refused.code, "not-compared" in refused.error), (7, True), refused)
        self.assertEqual((sha256(target), self.site.status("vol")["state"]), (before, "promoted"))
        self.blockferry("resync", "vol", source, "--overwrite-promoted")
        self.assertEqual(sha256(target), sha256(source))

    def lose_maps(self) -> None:
        self.site.kill_daemon()
        for path in (self.site.standby / "maps").iterdir():
            path.unlink()
        self.site.start_daemon()

    def test_one_that_trusted_the_map_begins_anew(self) -> None:
        for again in (["--trust-map"], []):
            with self.subTest(again):
                source, target = self.begin(diverged=False)
                self.cut("vol", source, "--trust-map")
                facts = self.blockferry("resync", "vol", source, *again)
                self.assertEqual((facts["result"]["resumed_segments"], facts["difference"]["bytes_differing"]), (0, 40 << 20))
                self.assertEqual(sha256(target), sha256(source))
                self.scrub("vol")
            self.doCleanups()
            self.setUp()

    def test_a_standby_without_its_maps_compares_anew(self) -> None:
        for diverged, how in ((True, []), (False, []), (False, ["--in-place"])):
            with self.subTest((diverged, how)):
                source, target = self.begin(diverged=diverged)
                if how:
                    self.cut_in_place(source)
                else:
                    self.cut("vol", source)
                self.lose_maps()
                self.blockferry("resync", "vol", source, *how)
                self.assertEqual(sha256(target), sha256(source))
                self.scrub("vol")
            self.doCleanups()
            self.setUp()

    def cut_in_place(self, source: pathlib.Path) -> None:
        process = subprocess.Popen(
            [BIN / "blockferry", "resync", source, "--to", "standby", "--volume", "vol", "--compress", "never", "--in-place"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)})
        while self.site.status("vol")["state"] != "initialising":
            self.assertIsNone(process.poll(), "it was too fast")
        process.kill()
        process.wait()
        self.assertTrue(until(30, lambda: self.site.is_free("vol")))

    def test_a_send_gives_up_what_cannot_go_on(self) -> None:
        """The send that finds it says so; the next one is an increment."""
        source, target = self.begin(diverged=False)
        self.cut("vol", source, "--trust-map")
        refused = self.site.send("vol", source)
        self.assertEqual((refused.code, "given up" in refused.error), (7, True), refused)
        self.assertEqual(self.blockferry("send", "vol", source)["result"], "delta")
        self.assertEqual(sha256(target), sha256(source))
        self.scrub("vol")

    def test_nothing_happened_meanwhile(self) -> None:
        source, target = self.begin()
        self.cut("vol", source)
        facts = self.blockferry("resync", "vol", source)
        self.assertGreater(facts["result"]["resumed_segments"], 0)
        self.assertEqual(sha256(target), sha256(source))


class Interrupted(Comparing):
    def test_kills_in_resync(self) -> None:
        """SIGKILL of either side at random moments: a copy that was consistent is the old or the new one, and the same
        command again ends in success."""
        kills_wanted = int(os.environ.get("BLOCKFERRY_RESYNC_KILLS", "40"))
        rng = random.Random(SEED)
        source, target = self.volume("vol", 24 << 20)
        began = time.monotonic()
        self.blockferry("resync", "vol", source)
        usual = (time.monotonic() - began) * 1.5
        kills = old_after = new_after = 0
        while kills < kills_wanted:
            for block in range(0, 384, 2):
                self.write(source, (block * BLOCK + rng.randrange(BLOCK - 8), rng.randbytes(8)))
            old, new = sha256(target), sha256(source)
            for _ in range(rng.randint(1, 3)):
                process = subprocess.Popen(
                    [BIN / "blockferry", "resync", source, "--to", "standby", "--volume", "vol", "--json"],
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                    env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)})
                time.sleep(rng.random() * usual)
                if rng.random() < 0.5:
                    process.send_signal(signal.SIGKILL)
                else:
                    self.site.kill_daemon()
                process.communicate(timeout=60)
                kills += 1
                if self.site.daemon is None:
                    self.site.start_daemon()
                self.assertTrue(until(30, lambda: self.site.is_free("vol")), f"seed {SEED}")
                found = sha256(target)
                self.assertIn(found, (old, new), f"torn after kill {kills}, seed {SEED}")
                old_after += found == old
                new_after += found == new
            self.assertTrue(until(30, lambda: self.site.run(
                "blockferry", "resync", source, "--to", "standby", "--volume", "vol").code == 0), f"seed {SEED}")
            self.assertEqual(sha256(target), new, f"seed {SEED}")
            self.scrub("vol")
        print(f"kills in resync: {kills} (seed {SEED}), afterwards old {old_after}, new {new_after}")
        self.assertGreaterEqual(kills, kills_wanted)
        self.assertGreater(old_after, 0)
