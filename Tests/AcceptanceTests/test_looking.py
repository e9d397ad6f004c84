# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Commands that promise to change nothing, beside those that change something; what they print of others' words; and names."""

from __future__ import annotations

import os
import pathlib
import random
import subprocess
import threading
import time
import unittest

from harness import BIN, Site, sha256

# Of the source host, of the standby; "SOURCE" is the file that is sent. The last three of the source lock the volume, as they say:
# a command that writes hears "busy" beside them, and does its work when it comes again.
SOURCE_LOOKS = [
    ["send", "SOURCE", "--to", "standby", "--volume", "vol", "--dry-run"],
    ["explain", "--to", "standby", "--volume", "vol"],
    ["status"], ["status", "--json"], ["peers"], ["id"], ["rules"],
    ["peers", "--rename", "standby", "other", "--dry-run"],
    ["peers", "--remove", "standby", "--dry-run"],
]
STANDBY_LOOKS = [["status"], ["status", "vol", "--json"], ["volumes", "--json"], ["peers"], ["id"],
                 ["rename", "vol", "other", "--dry-run"]]
LOCKING_LOOKS = [["verify", "SOURCE", "--to", "standby", "--volume", "vol"],
                 ["resync", "SOURCE", "--to", "standby", "--volume", "vol", "--plan"]]


class Looking(unittest.TestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()
        self.target = self.site.path / "copy"
        self.plain = self.site.path / "plain"
        self.plain.write_bytes(random.Random(4).randbytes(24 << 20))
        self.site.pair("vol", self.target)
        first = self.site.send("vol", self.plain)
        self.assertEqual(first.code, 0, first)

    def test_json_of_each_command_has_a_schema(self) -> None:
        """The harness keeps what is printed; `.ci/schemas` holds it against docs/schemas."""
        pool = self.site.pool()
        images = ["--thin-metadata", pool.metadata, "--thin-data", pool.data]
        older, newer = list(pool.devices.values())[:2]
        changes = ["changes", *images[:2], "--from", older, "--to", newer, "--volume-size", pool.size, "--format", "json"]
        output = self.site.path / "export"
        to = ["--to", "standby", "--volume", "vol"]
        for command in (["rules"], ["peers"], ["cleanup"], ["cleanup", "--dry-run"], ["log"], ["status"],
                        ["export", self.plain, *to, "--output", output], ["resync", self.plain, *to, "--plan"],
                        ["resync", self.plain, *to], ["verify", self.plain, *to], ["explain", *to]):
            result = self.site.run("blockferry", *command, "--json")
            self.assertEqual((result.code, "schema_version" in result.out), (0, True), result)
        for command in (changes, ["inspect", *images[:2], "--format", "json"]):
            result = self.site.run("blockferry", *command)
            self.assertEqual((result.code, result.json["schema_version"]), (0, 1), result)
        other = self.site.path / "other"
        for command in (["rules"], ["peers"], ["volumes"], ["log"], ["status"], ["keep", "vol"], ["scrub", "vol"],
                        ["invite", "other", "--target", other, "--create", "--address", "127.0.0.1:1"]):
            result = self.site.run("blockferryd", *command, "--json")
            self.assertEqual((result.code, result.json["schema_version"]), (0, 1), result)

    def change(self, number: int) -> None:
        with open(self.plain, "r+b") as file:
            file.seek(number % 300 << 16)
            file.write(os.urandom(100))

    def beside(self, looks: list[tuple[str, list[str]]], allowed: set[int], write) -> dict:
        """Runs each look in a loop of its own until `write` has ended; returns how often each exit code was seen."""
        ended, seen, wrong = threading.Event(), {}, []

        def loop(program: str, arguments: list[str]) -> None:
            arguments = [str(self.plain) if word == "SOURCE" else word for word in arguments]
            while not ended.is_set():
                result = self.site.run(program, *arguments)
                seen[result.code] = seen.get(result.code, 0) + 1
                if result.code not in allowed:
                    wrong.append((arguments, result))

        threads = [threading.Thread(target=loop, args=look) for look in looks]
        for thread in threads:
            thread.start()
        try:
            write()
        finally:
            ended.set()
            for thread in threads:
                thread.join(120)
        self.assertEqual(wrong, [])
        return seen

    def written(self, number: int, *arguments: str | os.PathLike, waits: bool = False) -> None:
        due = time.monotonic() + 60
        while True:
            result = self.site.run("blockferry", *arguments)
            if not waits or result.code != 3 or time.monotonic() > due:
                break
            time.sleep(0.02)
        self.assertEqual(result.code, 0, (number, result))

    def rounds(self, count: int, waits: bool = False) -> None:
        """What changes something, in turn: send, resync, export and its discard, cleanup."""
        to = ("--to", "standby", "--volume", "vol")
        for number in range(count):
            self.change(number)
            if number % 4 == 2:
                file = self.site.path / f"file{number}"
                self.written(number, "export", self.plain, *to, "--output", file, waits=waits)
                self.assertTrue(file.exists())
            if number % 4 == 3:
                self.written(number, "cleanup", waits=waits)
            self.written(number, "resync" if number % 3 == 1 else "send", self.plain, *to, waits=waits)
            self.assertEqual(sha256(self.target), sha256(self.plain), number)

    def test_what_only_looks_disturbs_nothing_that_writes(self) -> None:
        looks = [("blockferry", look) for look in SOURCE_LOOKS] + [("blockferryd", look) for look in STANDBY_LOOKS]
        # 7: a dry run says that the send would be refused, as beside a resync or an export that is not finished; 5: the file was
        # written while it was read.
        seen = self.beside(looks, {0, 3, 5, 7}, lambda: self.rounds(12))
        self.assertGreater(seen.get(0, 0), 50, seen)
        # Nothing of theirs is left.
        self.assertEqual([path.name for path in (self.site.source / "maps").iterdir()], ["vol@standby"])
        self.assertEqual(list((self.site.source / "plans").iterdir()), [])

    def test_what_looks_with_a_lock_makes_others_wait_and_no_more(self) -> None:
        seen = self.beside([("blockferry", look) for look in LOCKING_LOOKS], {0, 3, 5, 7}, lambda: self.rounds(6, waits=True))
        self.assertGreater(seen.get(0, 0), 2, seen)

    def test_files_of_a_look_that_was_killed_go_with_the_next(self) -> None:
        maps = self.site.source / "maps"
        for _ in range(8):
            self.change(_)
            process = subprocess.Popen(
                [BIN / "blockferry", "send", self.plain, "--to", "standby", "--volume", "vol", "--dry-run"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)})
            due = time.monotonic() + 20
            while process.poll() is None and time.monotonic() < due and not any(
                    path.name.startswith("@") for path in maps.iterdir()):
                pass
            process.kill()
            process.wait()
            if any(path.name.startswith("@") for path in maps.iterdir()):
                break
        else:
            self.fail("no look was caught with files")
        result = self.site.send("vol", self.plain)
        self.assertEqual(result.code, 0, result)
        self.assertEqual([path.name for path in maps.iterdir()], ["vol@standby"])

    def test_every_part_of_a_volume_is_verified_once(self) -> None:
        for pieces in (1, 2, 10):
            with open(self.plain, "r+b") as file:
                file.truncate((pieces << 24) - 12345)
            result = self.site.run("blockferry", "send", self.plain, "--to", "standby", "--volume", "vol", "--allow-shrink")
            self.assertEqual(result.code, 0, result)
            for count in (1, 2, 3, 7, 11):
                total = 0
                for part in range(1, count + 1):
                    result = self.site.run("blockferry", "verify", self.plain, "--to", "standby", "--volume", "vol",
                                           "--part", f"{part}/{count}", "--json")
                    self.assertEqual(result.code, 0, (pieces, part, count, result))
                    share = result.json["difference"]["bytes_compared"]
                    first, end = pieces * (part - 1) // count, pieces * part // count
                    self.assertEqual(share, min(end << 24, (pieces << 24) - 12345) - (first << 24) if end > first else 0)
                    total += share
                self.assertEqual(total, (pieces << 24) - 12345)

    def test_a_plan_of_an_empty_target_loses_nothing(self) -> None:
        self.site.pair("other", self.site.path / "empty")
        result = self.site.run("blockferry", "resync", self.plain, "--to", "standby", "--volume", "other", "--plan", "--json")
        self.assertEqual(result.code, 0, result)
        facts = result.json.get("difference", result.json)
        self.assertEqual(facts["bytes_lost"], 0, result)
        self.assertEqual(facts["bytes_differing"], 24 << 20)

    def test_paths_move_no_cursor(self) -> None:
        path = self.site.path / "c\x1b[31mo\x9bp\u202ey"
        self.site.pair("odd", path)
        self.assertEqual(self.site.send("odd", self.plain).code, 0)
        said = []
        for arguments in (["volumes"], ["volumes", "--json"], ["status"], ["status", "odd", "--json"], ["promote", "odd"],
                          ["demote", "odd"], ["remove", "odd", "--dry-run"]):
            result = self.site.run("blockferryd", *arguments)
            said.append(result.out + result.error)
        self.assertTrue(any("c?[31mo?p?y" in text for text in said), said)
        for text in said:
            for sign in "\x1b\x9b\u202e":
                self.assertNotIn(sign, text)
        # As JSON it is the path itself.
        listed = self.site.run("blockferryd", "volumes", "--json").json["volumes"]
        self.assertIn(str(path), [row["target"] for row in listed])


class Names(unittest.TestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()

    def test_names_of_lvm_are_names_of_volumes(self) -> None:
        """Those that differ in case alone are two, and each has files of its own."""
        plain = {}
        names = ["LogVol00", "logvol00", "LOGVOL00", "vm+data", "_db", ".hidden", "...", "+", "A" * 63]
        for number, name in enumerate(names):
            plain[name] = self.site.path / f"plain{number}"
            plain[name].write_bytes(random.Random(number).randbytes(2 << 20))
            self.site.pair(name, self.site.path / f"copy{number}")
        for _ in range(2):
            for number, name in enumerate(names):
                result = self.site.send(name, plain[name])
                self.assertEqual(result.code, 0, (name, result))
                self.assertEqual(sha256(self.site.path / f"copy{number}"), sha256(plain[name]))
                with open(plain[name], "r+b") as file:
                    file.write(os.urandom(100))
        self.assertEqual({path.name for path in (self.site.source / "maps").iterdir()}, {f"{name}@standby" for name in names})

    def test_names_that_begin_with_a_dot_are_names_like_others(self) -> None:
        """Beside the locks of volumes are marks of the state, and what the daemon notes."""
        names = [".fence.9223372036854775807", ".fence.4", ".daemon", ".mounts", "vm+data"]
        plain = {}
        for name in names:
            plain[name] = self.site.path / f"plain{name}"
            plain[name].write_bytes(os.urandom(100_000))
            self.site.pair(name, self.site.path / f"copy{name}")
        for _ in range(3):
            for name in names:
                result = self.site.send(name, plain[name])
                self.assertEqual(result.code, 0, (name, result))
                with open(plain[name], "r+b") as file:
                    file.write(os.urandom(100))
        self.site.kill_daemon()
        self.site.start_daemon()
        locks = set(os.listdir(self.site.standby / "locks"))
        self.assertEqual({name for name in locks if "@" not in name}, set(names))
        self.assertEqual(len([name for name in locks if name.startswith("@fence.")]), 1, locks)
        for name in names:
            self.assertFalse(self.site.status(name)["restored"], name)
            self.assertEqual(self.site.send(name, plain[name]).code, 0)
            self.assertEqual(sha256(self.site.path / f"copy{name}"), sha256(plain[name]))
        # As a unit hands on its instance.
        result = self.site.run("blockferryd", "scrub", "vm\\x2bdata")
        self.assertEqual(result.code, 0, result)
        self.assertEqual(self.site.run("blockferryd", "scrub", "vm\\x2").code, 2)
        self.assertEqual(self.site.run("blockferryd", "promote", ".fence.4").code, 0)

    def test_what_is_no_name_is_refused_with_the_rule(self) -> None:
        for name in ("my db", "ü", "a/b", "a@b", ".", "..", "a" * 64, "a#b", ""):
            result = self.site.run("blockferryd", "invite", name, "--target", self.site.path / "copy", "--create")
            self.assertEqual(result.code, 2, (name, result))
            self.assertIn("A-Z, a-z, 0-9, '+', '_', '.', '-'", result.error, name)
        for name in ("A", "+", "a@b"):
            result = self.site.run("blockferry", "pair", "bf1.x", "--name", name)
            self.assertEqual(result.code, 2, (name, result))
            self.assertIn("a-z, 0-9", result.error)

    def test_an_address_without_brackets_is_refused_in_words(self) -> None:
        for address in ("2001:db8::1", "::1", "fe80::1:7441"):
            result = self.site.run("blockferryd", "invite", "vol", "--target", self.site.path / "copy", "--create",
                                   "--address", address)
            self.assertEqual(result.code, 2, result)
            self.assertIn(f"[{address}]:7441", result.error)
        for address in ("standby1", "standby1:", "standby1:0x", ""):
            result = self.site.run("blockferryd", "invite", "vol", "--target", self.site.path / "copy", "--create",
                                   "--address", address)
            self.assertEqual(result.code, 2, result)
            self.assertIn("host:port", result.error)
        self.assertFalse((self.site.path / "copy").exists())
        result = self.site.run("blockferryd", "serve", "--listen", "localhost")
        self.assertEqual(result.code, 2, result)

    def test_one_key_has_one_name(self) -> None:
        self.site.pair("one", self.site.path / "one")
        invitation = self.site.invite("two", self.site.path / "two")
        result = self.site.run("blockferry", "pair", invitation, "--name", "again")
        self.assertNotEqual(result.code, 0, result)
        self.assertIn("is called standby here", result.error)
        self.assertEqual(len(self.site.run("blockferry", "peers", "--json").json["peers"]), 1)
        # The invitation was not used.
        result = self.site.run("blockferry", "pair", invitation, "--name", "standby")
        self.assertEqual(result.code, 0, result)


if __name__ == "__main__":
    unittest.main()
