# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A dry run says what the send would do: each history of the two sides, with each kind of source, by each option, is asked
first and then sent. Both give the same rule and exit code, or the dry run has said what was sent.

`BLOCKFERRY_DECISIONS=all` takes every combination of options, each on a volume of its own; else a volume is used until
something of it was sent."""

import itertools
import os
import pathlib
import shutil
import unittest

from harness import Proxy, Result, Site

ALL = os.environ.get("BLOCKFERRY_DECISIONS") == "all"
SIZE, BLOCK = 1 << 20, 1 << 16
LEAST = 2000 if ALL else 150
OPTIONS = [list(some) for count in range(4)
           for some in itertools.combinations(("--adopt-source", "--allow-shrink", "--sample-unchanged=0"), count)]


class Decisions(unittest.TestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()
        # The sender's stream ends after so many bytes.
        self.limit: int | None = None
        proxy = Proxy(self.site.port, lambda data, at: None if self.limit is not None and at + len(data) > self.limit else data)
        self.addCleanup(proxy.close)
        self.port, self.number, self.asked, self.refused, self.sent = proxy.port, 0, 0, {}, {}

    # One volume

    def begin(self) -> None:
        """A volume with a source of its own, whose state directory is its own, too."""
        self.number += 1
        self.volume = f"v{self.number}"
        self.source = self.site.path / f"source-{self.number}"
        self.target = self.site.path / f"copy-{self.number}"
        self.state = self.site.path / f"state-{self.number}"
        self.source.write_bytes(os.urandom(SIZE))
        self.site.pair(self.volume, self.target, port=self.port, state=self.state)

    def end(self) -> None:
        shutil.rmtree(self.state)
        for path in (self.source, self.source.with_suffix(".group")):
            path.unlink(missing_ok=True)
        self.site.run("blockferryd", "remove", self.volume)
        self.target.unlink(missing_ok=True)

    def command(self, verb: str, *more: str) -> Result:
        return self.site.run("blockferry", verb, self.source, "--to", "standby", "--volume", self.volume, *more, "--json",
                             state=self.state)

    def succeed(self, *more: str, verb: str = "send") -> None:
        result = self.command(verb, *more)
        self.assertEqual(result.code, 0, result)

    def cut(self) -> None:
        """A send that ends in the middle of its content."""
        self.limit = SIZE // 2
        result = self.command("send", "--compress", "never")
        self.limit = None
        self.assertIn(result.code, (4, 5), result)

    def write(self, path: pathlib.Path, block: int, count: int = 1) -> None:
        with open(path, "r+b") as file:
            file.seek(block * BLOCK)
            file.write(os.urandom(count * BLOCK))

    # The histories

    def nothing(self) -> None: pass

    def cut_first(self) -> None: self.cut()

    def sent_once(self) -> None: self.succeed()

    def cut_delta(self) -> None:
        self.succeed()
        self.write(self.source, 0, SIZE // BLOCK)
        self.cut()

    def promoted(self) -> None:
        self.succeed()
        self.assertEqual(self.site.run("blockferryd", "promote", self.volume).code, 0)

    def target_written(self) -> None:
        self.succeed()
        self.write(self.target, 0, SIZE // BLOCK)

    def target_damaged(self) -> None:
        self.succeed()
        self.write(self.target, 3)
        self.assertEqual(self.site.run("blockferryd", "scrub", self.volume).code, 8)

    def target_gone(self) -> None:
        self.succeed()
        self.target.unlink()

    def source_went_back(self) -> None:
        self.succeed()
        old = self.state.with_suffix(".old")
        shutil.copytree(self.state, old)
        self.write(self.source, 2)
        self.succeed()
        shutil.rmtree(self.state)
        old.rename(self.state)

    def exported(self) -> None:
        self.succeed()
        self.write(self.source, 2)
        file = self.site.path / f"export-{self.number}"
        self.succeed("--output", str(file), verb="export")
        file.unlink()

    def map_lost(self) -> None:
        self.succeed()
        shutil.rmtree(self.state / "maps")

    # The sources

    def same(self) -> None: pass

    def changed(self) -> None: self.write(self.source, 5)

    def grown(self) -> None: os.truncate(self.source, SIZE + 3 * 4096)

    def shrunk(self) -> None: os.truncate(self.source, SIZE - 3 * 4096)

    def another(self) -> None:
        self.source.rename(self.source.with_suffix(".other"))
        self.source.write_bytes(os.urandom(SIZE))
        self.source.with_suffix(".other").unlink()

    def another_and_smaller(self) -> None:
        self.another()
        self.shrunk()

    # What is compared

    def rule(self, result: Result) -> str | None:
        return result.json.get("rule") if result.code else None

    def ask_and_send(self, options: list[str], name: str) -> bool:
        """True if something was sent."""
        dry = self.command("send", "--dry-run", *options)
        real = self.command("send", *options)
        self.asked += 1
        if real.code:
            self.refused[self.rule(real)] = self.refused.get(self.rule(real), 0) + 1
            self.assertEqual((dry.code, self.rule(dry)), (real.code, self.rule(real)), f"{name}: {dry}{real}")
            return False
        self.sent[real.json["result"]] = self.sent.get(real.json["result"], 0) + 1
        self.assertEqual((dry.code, dry.json["decision"]), (0, real.json["result"]), f"{name}: {dry}{real}")
        return True

    def run_history(self, history) -> None:
        for source in (self.same, self.changed, self.grown, self.shrunk, self.another, self.another_and_smaller):
            todo = list(OPTIONS)
            while todo:
                self.begin()
                history()
                source()
                while todo:
                    options = todo.pop(0)
                    name = f"{history.__name__}, {source.__name__}, {' '.join(options)}"
                    if self.ask_and_send(options, name) or ALL:
                        break
                self.end()
                if not ALL:
                    break

    def test_a_dry_run_decides_as_the_send(self) -> None:
        for _ in range(4 if ALL else 1):
            for history in (self.nothing, self.cut_first, self.sent_once, self.cut_delta, self.promoted, self.target_written,
                            self.target_damaged, self.target_gone, self.source_went_back, self.exported,
                            self.map_lost):
                self.run_history(history)
        print(f"decisions asked and carried out: {self.asked}; sent {self.sent}; refused {self.refused}")
        self.assertGreaterEqual(self.asked, LEAST)


if __name__ == "__main__":
    unittest.main()
