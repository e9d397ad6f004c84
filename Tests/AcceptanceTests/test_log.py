# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What both programs' `log` tells of the past, and the half transfer of a source that is gone: seen, and dropped."""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import random
import shutil
import subprocess
import time
import unittest

from harness import BIN, Proxy, Site, sha256, until

MIB = 1 << 20


class Past(unittest.TestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()
        self.random = random.Random(16)
        self.plain, self.target = self.site.path / "plain", self.site.path / "copy"
        self.plain.write_bytes(self.random.randbytes(300_000))

    def change(self, at: int = 1000, count: int = 100) -> None:
        with open(self.plain, "r+b") as file:
            file.seek(at)
            file.write(self.random.randbytes(count))

    def sent(self, code: int = 0) -> None:
        result = self.site.send("vol", self.plain)
        self.assertEqual(result.code, code, result)

    def ours(self, *arguments: object, code: int = 0):
        result = self.site.run("blockferryd", *arguments)
        self.assertEqual(result.code, code, result)
        return result

    def events(self, *more: object) -> list[dict]:
        return self.ours("log", "--json", *more).json["events"]


class Log(Past):
    def test_the_standby_tells_what_was_done_the_newest_last(self) -> None:
        self.site.pair("vol", self.target)
        self.site.pair("two", self.site.path / "two")
        self.sent()
        # A target that is away is refused at each try, and told once.
        away = self.target.rename(self.site.path / "away")
        for _ in range(3):
            self.change()
            self.sent(9)
        away.rename(self.target)
        self.sent()
        self.assertTrue(until(20, lambda: self.site.is_free("vol")))
        self.ours("promote", "vol")
        found = self.events()
        self.assertEqual([event["number"] for event in found], sorted({event["number"] for event in found}))
        for event in found:
            self.assertRegex(event["time"], r"^\d{4}-\d\d-\d\dT[\d:]+Z$")
            self.assertEqual((type(event["message"]), event.get("volume", "vol") in ("vol", "two")), (str, True), event)
        mine = [event["event"] for event in found if event.get("volume") == "vol"]
        steps = ["begun", "applying", "committed"]
        self.assertEqual(mine, ["volume-added", "invited", "paired", *steps, "refused", *steps, "promoted"])
        self.assertEqual([event["event"] for event in found if "volume" not in event], ["peer-added"])
        self.assertIn("(rule missing)", [event for event in found if event["event"] == "refused"][0]["message"])
        # Parts of it.
        self.assertEqual(self.events("--volume", "vol", "-n", 2), [event for event in found if event.get("volume") == "vol"][-2:])
        self.assertEqual(self.events("--limit", 3), found[-3:])
        self.assertEqual(self.events("--since", "1h"), found)
        time.sleep(2.1)
        self.assertEqual(self.events("--since", "1s"), [])
        lines = self.ours("log").out.splitlines()
        self.assertEqual((len(lines), lines[0].split()[:3]), (len(found) + 1, ["TIME", "VOLUME", "EVENT"]))
        self.assertRegex(lines[-1], r"^\S+Z  vol +promoted +at generation 2, ")
        # What is forgotten is remembered.
        self.ours("remove", "vol")
        self.assertEqual(self.events("--volume", "vol")[-1]["event"], "volume-removed")
        unknown = self.ours("log", "--volume", "never", code=6)
        self.assertIn("next: see which there are: blockferryd volumes", unknown.error)
        self.ours("log", "-n", 0, code=2)

    def test_the_source_tells_what_was_sent_and_compared(self) -> None:
        for name in ("vol", "two"):
            self.site.pair(name, self.site.path / name)
        self.sent()
        self.assertEqual(self.site.send("two", self.plain).code, 0)
        compared = self.site.run("blockferry", "verify", self.plain, "--to", "standby", "--volume", "vol")
        self.assertEqual(compared.code, 0, compared)
        self.change()
        self.sent()
        status = self.site.status("vol")

        def entries(*more: object) -> list[dict]:
            result = self.site.run("blockferry", "log", "--json", *more)
            self.assertEqual((result.code, result.json["schema_version"]), (0, 1), result)
            return result.json["entries"]
        found = entries()
        self.assertEqual([(entry["volume"], entry["type"], entry.get("generation")) for entry in found],
                         [("vol", "generation", 1), ("two", "generation", 1), ("vol", "verification", None),
                          ("vol", "generation", 2)])
        last = found[-1]
        self.assertEqual((last["generation_id"], last["peer"], last["bytes_changed"]),
                         (status["generation_id"], "standby", 65_536))
        self.assertTrue(last["bytes_on_wire"] > 0 and last["seconds"] > 0, last)
        self.assertEqual([found[2].get(key) for key in ("first_piece", "end_piece", "pieces", "differing_blocks")], [0, 1, 1, 0])
        self.assertEqual(entries("--volume", "vol"), [entry for entry in found if entry["volume"] == "vol"])
        self.assertEqual((entries("-n", 1), entries("--since", "1h"), entries("--volume", "no")), (found[-1:], found, []))
        text = self.site.run("blockferry", "log").out
        self.assertRegex(text, r"vol +standby +generation 2 \([0-9a-f]{8}\): 64\.0 KiB changed, [\d.]+ KiB on wire, [\d.]+ s\n")
        self.assertRegex(text, r"vol +standby +verified \([0-9a-f]{8}\): pieces 0 to 1 of 1, equal\n")

    def test_a_log_needs_no_lock_and_no_right_to_write(self) -> None:
        self.site.pair("vol", self.target)
        self.sent()
        self.assertTrue(until(20, lambda: self.site.is_free("vol")))
        with open(self.site.standby / "locks/vol") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.assertEqual(self.events()[-1]["event"], "committed")
        self.site.kill_daemon()
        os.chmod(self.site.path, 0o755)
        for program, name, state in (("blockferryd", "BLOCKFERRYD_STATE", self.site.standby),
                                     ("blockferry", "BLOCKFERRY_STATE", self.site.source)):
            copy = self.site.path / f"copy-{state.name}"
            shutil.copytree(state, copy)
            for path in [copy, *copy.rglob("*")]:
                path.chmod(0o500 if path.is_dir() else 0o400)
                os.chown(path, 65534, 65534)
            before = sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in copy.rglob("*"))
            read = subprocess.run([BIN / program, "log", "--json"], capture_output=True, text=True, timeout=60, user=65534,
                                  env={**os.environ, name: str(copy)})
            facts = json.loads(read.stdout)
            self.assertEqual((read.returncode, facts["note"] in read.stderr), (0, True), read)
            self.assertEqual(len(facts.get("events", facts.get("entries"))), 7 if program == "blockferryd" else 1)
            after = sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in copy.rglob("*"))
            self.assertEqual(before, after, "it was written")


class Dropped(Past):
    """40 MiB, of which the source has sent two segments when it goes away for good."""

    def setUp(self) -> None:
        super().setUp()
        self.plain.write_bytes(self.random.randbytes(40 * MIB))
        self.limit = 1 << 60
        self.proxy = Proxy(self.site.port, lambda data, at: data if at < self.limit else None)
        self.addCleanup(self.proxy.close)
        self.log = self.site.standby / "staging/vol.log"

    def cut(self, *verb: str) -> None:
        self.limit = 36 * MIB
        result = self.site.run("blockferry", *(verb or ("send",)), self.plain, "--to", "standby", "--volume", "vol")
        self.assertIn(result.code, (4, 5), result)
        self.limit = 1 << 60
        self.assertTrue(until(20, lambda: self.site.is_free("vol")))

    def drop(self, generation: int, told: str, state: str) -> None:
        self.assertTrue(self.log.exists())
        before = self.site.status("vol")
        begins = f"the transfer of generation {generation} of vol ("
        dry = self.ours("drop-transfer", "vol", "--dry-run").out
        self.assertTrue(dry.startswith(begins) and "would be dropped" in dry and told in dry, dry)
        after = self.site.status("vol")
        for facts in (before, after):
            facts.pop("age_seconds", None)
            facts["unfinished"].pop("age_seconds")
        self.assertEqual((after, self.log.exists()), (before, True))
        done = self.ours("drop-transfer", "vol").out
        self.assertTrue(done.startswith(begins) and "is dropped" in done and told in done, done)
        self.assertEqual((self.site.status("vol")["state"], self.site.status("vol").get("unfinished"), self.log.exists()),
                         (state, None, False))
        self.assertEqual(self.events("--volume", "vol")[-1]["event"], "abandoned")

    def test_an_increment(self) -> None:
        self.site.pair("vol", self.target, port=self.proxy.port)
        self.sent()
        first = sha256(self.target)
        self.plain.write_bytes(self.random.randbytes(40 * MIB))
        self.cut()
        found = self.site.status("vol")["unfinished"]
        self.assertEqual((found["generation"], found["kind"], found["in_place"], found["staged_bytes"]),
                         (2, "delta", False, self.log.stat().st_size))
        self.assertGreater(found["staged_bytes"], 32 * MIB)
        self.assertLess(found["age_seconds"], 60)
        old = time.time() - 3 * 86_400
        os.utime(self.log, (old, old))
        self.assertAlmostEqual(self.site.status("vol")["unfinished"]["age_seconds"], 3 * 86_400, delta=60)
        self.assertRegex(self.ours("status").out,
                         r"vol +staging +1 .*generation 2 is not finished: 3\d\.\d MiB in the staging log, written 3d ago\n")
        self.drop(2, "the copy stays at generation 1", "consistent")
        self.assertEqual(sha256(self.target), first)
        again = self.ours("drop-transfer", "vol", code=7)
        self.assertIn("(rule no-transfer)", again.error)
        # The source comes back after all.
        self.sent()
        self.assertEqual((sha256(self.target), self.site.status("vol")["generation"]), (sha256(self.plain), 2))
        # And without it the copy can be promoted.
        self.plain.write_bytes(self.random.randbytes(40 * MIB))
        self.cut()
        self.drop(3, "the copy stays at generation 2", "consistent")
        self.ours("promote", "vol")

    def test_a_first_copy_and_names_that_are_none(self) -> None:
        self.site.pair("vol", self.target, port=self.proxy.port)
        self.cut()
        found = self.site.status("vol")
        self.assertEqual((found["state"], found["unfinished"]["kind"], found["unfinished"]["in_place"]),
                         ("initialising", "full", True))
        self.drop(1, "there is no copy yet", "empty")
        self.sent()
        self.assertEqual(sha256(self.target), sha256(self.plain))
        self.assertIn("next: see which there are: blockferryd volumes", self.ours("drop-transfer", "no", code=6).error)

    def test_a_resync_of_a_diverged_copy_and_a_session_that_has_the_volume(self) -> None:
        self.site.pair("vol", self.target, port=self.proxy.port)
        self.sent()
        with open(self.target, "r+b") as file:
            file.write(self.random.randbytes(40 * MIB))
        self.ours("scrub", "vol", code=8)
        self.cut("resync")
        found = self.site.status("vol")
        self.assertEqual((found["state"], found["unfinished"]["kind"]), ("diverged", "resync"))
        with open(self.site.standby / "locks/vol") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.assertIn("(rule busy)", self.ours("drop-transfer", "vol", code=3).error)
        self.drop(2, "the copy stays at generation 1", "diverged")
        done = self.site.run("blockferry", "resync", self.plain, "--to", "standby", "--volume", "vol")
        self.assertEqual((done.code, sha256(self.target)), (0, sha256(self.plain)), done)


if __name__ == "__main__":
    unittest.main()
