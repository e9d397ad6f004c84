# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What the daemon's journal and both programs' `status` tell of what happened."""

import contextlib
import json
import os
import pathlib
import re
import signal
import sqlite3
import subprocess
import sys
import time
import unittest

from harness import BIN, ROOT, Proxy, Rogue, Site, note_json, sha256, until

import encode  # found by way of harness

CHECK = ROOT / "deploy/monitoring/check_blockferryd"


class Telling(unittest.TestCase):
    options: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.start()
        self.plain, self.target = self.site.path / "plain", self.site.path / "copy"
        self.plain.write_bytes(os.urandom(300_000))
        self.site.pair("vol", self.target)

    def start(self) -> None:
        """Starts the daemon as the harness does, with more options."""
        ports = self.site.path / "port"
        ports.unlink(missing_ok=True)
        self.site.daemon = subprocess.Popen(
            [BIN / "blockferryd", "serve", "--listen", f"127.0.0.1:{self.site.port}", "--port-file", ports, *self.options],
            stderr=self.site.log, env={**os.environ, "BLOCKFERRYD_STATE": str(self.site.standby)}, start_new_session=True)
        self.assertTrue(until(60, lambda: ports.exists() and ports.read_text()), self.site.journal())

    def sent(self, code: int = 0) -> None:
        result = self.site.send("vol", self.plain)
        self.assertEqual(result.code, code, result)

    def change(self) -> None:
        with open(self.plain, "r+b") as file:
            file.write(os.urandom(4096))

    def told(self, pattern: str) -> re.Match:
        """A line of the journal, which a session writes at its end, and the daemon a moment after an event."""
        self.assertTrue(until(10, lambda: re.search(pattern, self.site.journal(), re.M)), (pattern, self.site.journal()))
        return re.search(pattern, self.site.journal(), re.M)


class Age(Telling):
    def age(self) -> int:
        return self.site.status("vol")["age_seconds"]

    def check(self) -> int:
        status = self.site.run("blockferryd", "status", "--json").out
        return subprocess.run([sys.executable, CHECK, "--warning", "3600", "--critical", "7200"], input=status, text=True,
                              capture_output=True, check=False).returncode

    def make_old(self) -> None:
        old = time.time() - 200_000
        os.utime(self.plain, (old, old))

    def test_a_send_that_finds_nothing_confirms_the_copy_as_current(self) -> None:
        self.make_old()
        self.sent()
        self.assertGreater(self.age(), 190_000)
        self.assertEqual(self.site.status("vol").get("confirmed"), None)
        before = sha256(self.target)
        for command in (["explain"], ["send", self.plain, "--dry-run"]):
            self.assertEqual(self.site.run("blockferry", *command, "--to", "standby", "--volume", "vol").code, 0)
        self.assertEqual((self.check(), self.site.status("vol").get("confirmed")), (2, None), "asking is no confirmation")
        self.sent()
        self.assertLess(self.age(), 60)
        self.assertEqual(self.check(), 0)
        self.assertTrue(self.site.status("vol")["confirmed"])
        mine = self.site.run("blockferry", "status", "--json").json["volumes"][0]
        self.assertEqual((mine["age_seconds"] < 60, bool(mine["confirmed"])), (True, True), mine)
        self.assertEqual((sha256(self.target), self.site.status("vol")["generation"]), (before, 1))
        self.told(r"send of vol 1→1: up to date, \d+ bytes on wire")
        # The next generation is not older than it is, and nobody has confirmed it.
        self.change()
        self.make_old()
        self.sent()
        self.assertEqual((self.age() > 190_000, self.site.status("vol").get("confirmed")), (True, None))

    def test_times_that_have_not_come_yet_say_nothing(self) -> None:
        """The standby's clock was ahead when the copy was committed, or confirmed."""
        self.make_old()
        self.sent()
        self.sent()
        self.assertLess(self.age(), 60)
        ahead = time.time_ns() + 10 * 365 * 86_400 * 10**9

        def set_times(**times: int) -> None:
            with contextlib.closing(sqlite3.connect(self.site.standby / "catalog.sqlite")) as catalog, catalog:
                for column, value in times.items():
                    catalog.execute(f"UPDATE volume SET {column} = ?", (value,))

        set_times(confirmed_at=ahead)
        self.assertEqual((self.age() > 190_000, self.check()), (True, 2))
        set_times(committed_at=ahead)
        self.assertEqual((self.age() > 190_000, self.check()), (True, 2))
        # The source's was ahead as well.
        self.change()
        os.utime(self.plain, (2_000_000_000 + 10**9, 2_000_000_000 + 10**9))
        self.sent()
        set_times(committed_at=ahead)
        self.assertEqual((self.site.status("vol").get("age_seconds"), self.check()), (None, 3))

    def test_a_file_that_was_written_before_the_standby_answered_is_not_confirmed(self) -> None:
        self.sent()
        written = []

        def write_first(data: bytes, at: int) -> bytes:
            if not written:
                self.change()
                written.append(at)
            return data

        proxy = Proxy(self.site.port, write_first)
        self.addCleanup(proxy.close)
        moved = self.site.run("blockferry", "peers", "--address", "standby", f"127.0.0.1:{proxy.port}")
        self.assertEqual(moved.code, 0, moved)
        result = self.site.send("vol", self.plain)
        self.assertEqual((len(written), result.code, "source-changed-while-sent" in result.error), (1, 5, True), result)
        self.assertEqual(self.site.status("vol").get("confirmed"), None)
        self.sent()
        self.assertEqual((sha256(self.target), self.site.status("vol")["generation"]), (sha256(self.plain), 2))

    def test_a_group_confirms_its_members_and_a_point_in_the_past_confirms_nothing(self) -> None:
        other = self.site.path / "other"
        other.write_bytes(os.urandom(70_000))
        self.site.pair("two", self.site.path / "two")
        self.make_old()
        command = ["send", self.plain, other, "--to", "standby", "--group", "g", "--volume", "vol", "--volume", "two"]
        for _ in range(2):
            result = self.site.run("blockferry", *command)
            self.assertEqual(result.code, 0, result)
        self.assertLess(self.age(), 60)
        self.site.pair("thin", self.site.path / "thin")
        pool = self.site.pool()
        for _ in range(2):
            self.assertEqual(self.site.send("thin", *pool.source("s0")).code, 0)
        self.assertEqual(self.site.status("thin").get("confirmed"), None)

    def test_what_is_confirmed_must_be_what_the_standby_holds(self) -> None:
        self.sent()
        number, identifier = 1, bytes.fromhex(self.site.status("vol")["generation_id"])
        for features, said, answer in ((8, (number, identifier), "COMMITTED"), (8, (2, identifier), "REFUSE"),
                                       (8, (number, bytes(32)), "REFUSE"), (6, (number, identifier), "REFUSE")):
            # The session before lets go of the volume a moment after its end.
            self.assertTrue(until(20, lambda: self.site.is_free("vol")))
            rogue = Rogue(self.site, self.site.source / "identity.pem")
            rogue.send("HELLO", encode.hello(features=features))
            self.assertEqual(rogue.answer()[0], encode.TYPE["WELCOME"])
            rogue.send("OPEN", encode.open_("vol"))
            self.assertEqual(rogue.answer()[0], encode.TYPE["STATE"])
            rogue.send("CURRENT", encode.committed(*said))
            kind, payload = rogue.answer()
            rogue.close()
            self.assertEqual(kind, encode.TYPE[answer], payload)
            if answer == "COMMITTED":
                self.assertEqual(payload, encode.committed(*said))


class Journal(Telling):
    def test_one_line_a_session_and_one_an_event(self) -> None:
        self.sent()
        self.told(r"\(source\): pairing of vol: done, ")
        self.told(r"^volume vol: paired: source, ")
        self.told(r"^127\.0\.0\.1 \(source\): send of vol 0→1: committed, \d+ bytes on wire, \d+\.\d s$")
        self.told(r"^volume vol: committed: generation 1, ")
        self.change()
        self.sent()
        self.told(r"send of vol 1→2: committed, ")
        to = ("--to", "standby", "--volume", "vol")
        for command, line in ((["explain"], "question of vol: done, "),
                              (["send", self.plain, "--dry-run"], "question of vol: done, "),
                              (["verify", self.plain], "verify of vol: done, "),
                              (["resync", self.plain], r"resync of vol 2→3: committed, ")):
            result = self.site.run("blockferry", *command, *to)
            self.assertEqual(result.code, 0, result)
            self.told(line)
        # The third is the increment's first session: it ends before the source is read.
        self.assertEqual(len(re.findall("question of vol: done", self.site.journal())), 3)
        self.assertEqual(self.site.run("blockferryd", "scrub", "vol").code, 0)
        self.told(r"^volume vol: scrubbed: clean at generation 3, 300000 bytes read$")
        # What a command does while there is no daemon is told by the next one, once.
        self.site.kill_daemon()
        self.assertEqual(self.site.run("blockferryd", "promote", "vol").code, 0)
        self.start()
        self.told(r"^volume vol: promoted: at generation 3, ")
        self.site.kill_daemon()
        self.start()
        time.sleep(1.5)
        self.assertEqual(len(re.findall("^volume vol: promoted", self.site.journal(), re.M)), 1)
        self.assertNotRegex(self.site.journal(), "closed early|refused|interrupted")

    def test_a_group_and_a_cut(self) -> None:
        other = self.site.path / "other"
        other.write_bytes(os.urandom(70_000))
        self.site.pair("two", self.site.path / "two")
        self.assertEqual(self.site.run("blockferry", "send", self.plain, other, "--to", "standby", "--group", "g", "--volume",
                                       "vol", "--volume", "two").code, 0)
        self.told("group send of vol 0→1: prepared, ")
        self.told("group send of two 0→1: committed, ")
        rogue = Rogue(self.site, self.site.source / "identity.pem")
        rogue.send("HELLO", encode.hello())
        rogue.answer()
        rogue.send("OPEN", encode.open_("vol"))
        rogue.answer()
        rogue.close()
        self.told(r"question of vol: interrupted, .*: ")

    def test_a_worker_that_is_killed_is_the_daemons_news(self) -> None:
        self.sent()
        rogue = Rogue(self.site, self.site.source / "identity.pem")
        self.addCleanup(rogue.close)
        rogue.send("HELLO", encode.hello())
        rogue.answer()
        rogue.send("OPEN", encode.open_("vol"))
        rogue.answer()
        parent = self.site.daemon.pid
        workers = [int(child) for child in pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        holding = [worker for worker in workers if any(
            os.readlink(link).endswith("/locks/vol") for link in pathlib.Path(f"/proc/{worker}/fd").iterdir()
            if link.is_symlink())]
        self.assertEqual(len(holding), 1, workers)
        os.kill(holding[0], signal.SIGKILL)
        self.told(rf"^127\.0\.0\.1: the worker {holding[0]} was ended by signal 9$")


class Status(Telling):
    def refusal(self) -> dict | None:
        return self.site.status("vol").get("last_refusal")

    def mine(self) -> dict | None:
        volumes = self.site.run("blockferry", "status", "--json").json["volumes"]
        return volumes[0].get("last_error") if volumes else None

    def test_both_sides_say_why_the_last_send_failed(self) -> None:
        self.sent()
        self.assertEqual((self.refusal(), self.mine()), (None, None))
        self.change()
        # The standby refuses: its target is not there.
        away = self.target.rename(self.site.path / "away")
        self.sent(9)
        found = self.refusal()
        self.assertEqual(found["rule"], "missing")
        self.assertIn(str(self.target), found["message"])
        self.assertRegex(found["time"], r"^\d{4}-\d\d-\d\dT")
        self.assertEqual((self.mine()["rule"], str(self.target) in self.mine()["message"]), ("missing", True))
        self.assertIn("does not exist (rule missing)", self.site.run("blockferry", "status").out)
        self.told(r"\(source\): question of vol: refused, .* \(rule missing\)$")
        away.rename(self.target)
        self.sent()
        self.assertEqual((self.refusal(), self.mine()), (None, None))
        # The source refuses: the standby hears why nothing comes.
        self.assertEqual(self.site.run("blockferryd", "promote", "vol").code, 0)
        self.change()
        self.sent(7)
        self.assertTrue(until(5, lambda: self.refusal()))
        self.assertEqual((self.refusal()["rule"], self.mine()["rule"]), ("promoted", "promoted"))
        self.assertIn("(rule promoted)", self.site.run("blockferryd", "status").out)
        self.told(r"question of vol: stopped, .* \(rule promoted\)$")

    def test_a_first_send_that_fails_and_what_fails_nothing(self) -> None:
        os.utime(self.plain)
        self.site.kill_daemon()
        self.sent(4)
        self.assertEqual(self.mine()["rule"], "unreachable")
        self.start()
        explained = self.site.run("blockferry", "send", self.plain, "--to", "standby", "--volume", "vol", "--dry-run")
        self.assertEqual((explained.code, self.mine()["rule"]), (0, "unreachable"), "a dry run changes nothing")
        self.sent()
        self.assertIsNone(self.mine())


class Objects(Telling):
    options = ("--log-format", "json")

    def test_one_object_a_line(self) -> None:
        self.sent()
        self.told('"event":"committed"')
        self.site.kill_daemon()
        lines = [json.loads(line) for line in self.site.journal().splitlines()]
        for line in self.site.journal().splitlines():
            note_json("blockferryd-serve", line)
        for line in lines:
            self.assertEqual((line["schema_version"], type(line["message"])), (1, str), line)
            self.assertIn(line["type"], ("message", "session", "event"))
            self.assertRegex(line["time"], r"^\d{4}-\d\d-\d\dT[\d:]+Z$")
        sent = [line for line in lines if line.get("kind") == "send"]
        self.assertEqual(len(sent), 1, lines)
        self.assertEqual({key: sent[0].get(key) for key in ("volume", "peer", "outcome", "from_generation", "to_generation")},
                         {"volume": "vol", "peer": "source", "outcome": "committed", "from_generation": 0, "to_generation": 1})
        self.assertGreater(sent[0]["bytes_on_wire"], 300_000)
        self.assertGreaterEqual(sent[0]["seconds"], 0)
        self.assertIn({"event": "committed", "volume": "vol"},
                      [{key: line.get(key) for key in ("event", "volume")} for line in lines])


if __name__ == "__main__":
    unittest.main()
