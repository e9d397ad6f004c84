# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Years of sends in short: a daemon that takes ten thousand of them, catalogs as after 525,000 generations, and clocks that go on
by five minutes with each send and leap. Nothing may grow without a bound, and no send may become slower.

`BLOCKFERRY_YEARS_SENDS` says how many sends (10,000; not below 300), `BLOCKFERRY_SEED` seeds what is written. The sends of the
volumes go side by side; how long one takes is measured apart from that, against a pair of hosts that is new, by turns, since
machines have busy minutes."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import random
import re
import sqlite3
import statistics
import sys
import time
import unittest

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "HostTests"))
from host import HostSite, sha256, until  # noqa: E402
from test_clock import WallClock  # noqa: E402

SENDS = max(300, int(os.environ.get("BLOCKFERRY_YEARS_SENDS", "10000")))
SEED = int(os.environ.get("BLOCKFERRY_SEED", "16"))
VOLUMES = ("v0", "v1", "v2")
SIZE = 1 << 20
# What the aged catalogs have behind them: five years at five minutes.
GENERATIONS = 525_000
# By how much the median of the last hundred may exceed that of as many on new hosts, and how many are measured at once, and at most.
RATIO, PART, MOST = 1.1, 100, 400
DAY, YEAR = 86_400, 365 * 86_400
# As the standby writes its events.
INSERT = "INSERT INTO event (time, volume, kind, text) VALUES (?, ?, ?, ?)"
TRIM = """DELETE FROM event WHERE volume IS ?1 AND kind = ?2 AND number <= (
    SELECT number FROM event WHERE volume IS ?1 AND kind = ?2 ORDER BY number DESC LIMIT 1 OFFSET ?3)"""
# Sends while somebody reads both catalogs, and what their logs may have afterwards.
READ, LOG_LIMIT = 150, 8 << 20


class Pair(HostSite):
    """A source and a standby with some volumes, whose programs have a wall clock of their own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.clock, self.random = WallClock(self.path / "clock"), random.Random(seed)
        self.seconds, self.sent = 0, {name: 0 for name in VOLUMES}
        for name in VOLUMES:
            (self.path / name).write_bytes(self.random.randbytes(SIZE))
        self.start()
        for name in VOLUMES:
            self.pair(name, self.path / f"copy-{name}")
            self.send_next(name)

    def start(self) -> None:
        failed = self.begin_daemon(more=self.clock.environment)
        assert failed is None, failed

    def go_on(self, seconds: int) -> None:
        self.seconds += seconds
        self.clock.set(self.seconds)

    def send_next(self, name: str) -> float:
        """Writes one block and sends it; how long that took. What does not end as it should is an error."""
        place, content = self.random.randrange(SIZE // 4096) * 4096, self.random.randbytes(4096)
        with open(self.path / name, "r+b") as file:
            file.seek(place)
            file.write(content)
        began = time.monotonic()
        result = self.bounded("blockferry", "send", self.path / name, "--to", "standby", "--volume", name, "--json", seconds=300,
                              more=self.clock.environment)
        took = time.monotonic() - began
        self.sent[name] += 1
        assert result.code == 0 and result.json["generation"] == self.sent[name], result
        assert self.sent[name] == 1 or result.json["result"] == "delta", result
        return took

    def check(self) -> None:
        for name in VOLUMES:
            assert sha256(self.path / name) == sha256(self.path / f"copy-{name}"), name

    def age(self) -> None:
        """Fills both catalogs with what they hold after so many generations of each volume: as many rows as the limits leave, with
        numbers as high as they are then, on as many pages."""
        assert until(20, lambda: self.journal().count(": committed: ") == len(VOLUMES))
        self.kill_daemon()
        first = len(VOLUMES) * GENERATIONS
        limits = {"begun": 100, "applying": 100, "committed": 10_000}
        with sqlite3.connect(self.standby / "catalog.sqlite") as catalog:
            catalog.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'event'", (3 * first,))
            # What operators did. Then sends, one behind the other, until the pages are filled as years fill them: of those that
            # held three events of a send, two are gone.
            for number in range(1000):
                for name in VOLUMES:
                    for kind in ("paired", "promoted"):
                        catalog.execute(INSERT, (number, name, kind, "0" * 64))
            for number in range(GENERATIONS - 2 * limits["committed"], GENERATIONS):
                for name in VOLUMES:
                    for kind, limit in limits.items():
                        # As long as the real ones: how full the pages stay depends on that.
                        text = f"delta generation {number}, transfer {'0' * 32}" if kind == "begun" else f"generation {number}, {'0' * 64}"
                        catalog.execute(INSERT, (time.time_ns(), name, kind, text))
                        catalog.execute(TRIM, (name, kind, limit))
            catalog.execute("UPDATE journal SET told = (SELECT max(number) FROM event)")
        catalog.close()
        with sqlite3.connect(self.source / "catalog.sqlite") as catalog:
            rows = [(number, name) for name in VOLUMES for number in range(10_000)]
            catalog.executemany(
                "INSERT INTO history (entry, receiver, volume, number, id, committed_at, changed_bytes, wire_bytes, duration)"
                " VALUES (?, 'standby', ?, ?, ?, ?, 65536, 70000, 300000000)",
                ((first + at, name, GENERATIONS - 10_000 + number, bytes(32), number) for at, (number, name) in enumerate(rows)))
        catalog.close()
        self.start()

    # What there is of everything

    def daemon_facts(self) -> dict[str, int]:
        process = pathlib.Path(f"/proc/{self.daemon.pid}")
        status = (process / "status").read_text()
        return {"RSS, KiB": int(re.search(r"VmRSS:\s+(\d+)", status)[1]), "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
                "descriptors": len(os.listdir(process / "fd"))}

    def state_facts(self) -> dict[str, int]:
        facts = {}
        for state in (self.standby, self.source):
            # Of a catalog's log and its index the size is another matter.
            files = [path for path in state.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm"))
                     and ".fence." not in path.name]
            facts[f"{state.name}, files"] = len(files)
            facts[f"{state.name}, KiB"] = sum(path.stat().st_size for path in files) >> 10
        return facts

    def log_size(self, state: pathlib.Path) -> int:
        path = state / "catalog.sqlite-wal"
        return path.stat().st_size if path.exists() else 0


def told(facts: dict[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


class YearsTests(unittest.TestCase):
    def test_many_sends(self) -> None:
        aged = Pair(SEED)
        self.addCleanup(aged.close)
        aged.age()
        with concurrent.futures.ThreadPoolExecutor(len(VOLUMES)) as pool:
            self.warm_up(aged, pool)
            # What is bounded by the limits of the catalogs is as large as it gets.
            states, daemon = aged.state_facts(), aged.daemon_facts()
            print(f"after {sum(aged.sent.values())} sends: {told(states)}; daemon: {told(daemon)}", flush=True)
            self.rounds(aged, pool)
        aged.check()
        self.assertTrue(until(60, lambda: all(aged.is_free(name) for name in VOLUMES)))
        total = sum(aged.sent.values())
        now, then = aged.state_facts(), aged.daemon_facts()
        print(f"after {total} sends: {told(now)}; daemon: {told(then)}", flush=True)
        self.assertGreater(aged.clock.asked, total, "nobody has asked for the clock that was moved")
        for name, value in now.items():
            # A page for each send would be 40 MiB.
            self.assertLessEqual(value, states[name] + (1024 if name.endswith("KiB") else 0), name)
        for name, value in then.items():
            self.assertLessEqual(value, daemon[name] + (2048 if name.startswith("RSS") else 0), name)
        self.journal(aged, total)
        self.speed(aged)

    def warm_up(self, aged: Pair, pool: concurrent.futures.Executor) -> None:
        for _ in range(20):
            list(pool.map(aged.send_next, VOLUMES))

    def rounds(self, aged: Pair, pool: concurrent.futures.Executor) -> None:
        """Most of the sends. At the end of the first half somebody begins to read both catalogs, and goes on for long."""
        count = SENDS // len(VOLUMES)
        leaps = {count // 5: DAY, count * 2 // 5: -DAY, count * 3 // 5: 5 * YEAR, count * 4 // 5: -5 * YEAR}
        readers: list[sqlite3.Connection] = []
        peak = {}
        for number in range(count):
            aged.go_on(300 + leaps.get(number, 0))
            list(pool.map(aged.send_next, VOLUMES))
            if number == count // 4:
                for state in (aged.standby, aged.source):
                    reader = sqlite3.connect(state / "catalog.sqlite", isolation_level=None)
                    reader.execute("BEGIN")
                    reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
                    readers.append(reader)
            if number == count // 4 + READ // len(VOLUMES):
                peak = {state.name: aged.log_size(state) for state in (aged.standby, aged.source)}
                for reader in readers:
                    reader.rollback()
                    reader.close()
            if number % 200 == 199:
                aged.check()
                print(f"    {sum(aged.sent.values())} sends", flush=True)
        after = {state.name: aged.log_size(state) for state in (aged.standby, aged.source)}
        print(f"log of the catalogs, bytes: with a reader {told(peak)}; afterwards {told(after)}", flush=True)
        self.assertGreater(peak["standby"], LOG_LIMIT, "the reader has held nothing up")
        for name, value in after.items():
            self.assertLessEqual(value, LOG_LIMIT, name)

    def journal(self, aged: Pair, total: int) -> None:
        """Each send has the line that says what it did, and nothing says otherwise."""
        patterns = {"send": r"127\.0\.0\.1 \(source\): send of v\d \d+→\d+: committed, \d+ bytes on wire, \d+\.\d s",
                    "event": r"volume v\d: committed: generation \d+, [0-9a-f]{64}",
                    "question": r"127\.0\.0\.1 \(source\): question of v\d: done, \d+ bytes on wire, \d+\.\d s",
                    "pairing": r"127\.0\.0\.1 \(source\): pairing of v\d: done, \d+ bytes on wire, \d+\.\d s",
                    "invitation": r"volume v\d: (invited|paired|volume-added): .*", "peer": r"peer-added: source, .*",
                    "start": r"listening on .*"}
        self.assertTrue(until(20, lambda: aged.journal().count(": committed: ") >= total))
        counts = dict.fromkeys(patterns, 0)
        strange = []
        for line in aged.journal().splitlines():
            kind = next((name for name, pattern in patterns.items() if re.fullmatch(pattern, line)), None)
            if kind:
                counts[kind] += 1
            else:
                strange.append(line)
        print(f"journal: {told(counts)}", flush=True)
        self.assertEqual(strange[:20], [])
        self.assertEqual((counts["send"], counts["event"]), (total, total))

    def speed(self, aged: Pair) -> None:
        """The aged hosts and new ones by turns: as many again if the machine was too busy to tell."""
        fresh = Pair(SEED + 1)
        self.addCleanup(fresh.close)
        old: list[float] = []
        new: list[float] = []
        ratio = 0.0
        while len(old) < MOST:
            for number in range(PART):
                name = VOLUMES[number % len(VOLUMES)]
                # Neither is always the first.
                for pair, took in ((aged, old), (fresh, new))[::1 if number % 2 else -1]:
                    took.append(pair.send_next(name))
            ratio = statistics.median(old) / statistics.median(new)
            print(f"a send, median of {len(old)}: {statistics.median(old):.3f} s aged, {statistics.median(new):.3f} s new, "
                  f"ratio {ratio:.3f}", flush=True)
            if ratio <= RATIO:
                break
        aged.check()
        self.assertLessEqual(ratio, RATIO)


if __name__ == "__main__":
    unittest.main()
