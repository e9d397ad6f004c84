# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The network between the hosts ends, waits, trickles, swallows and repeats, at every byte (C1, C2, C5): the target is the
old generation or the new one, the sender says that the connection was lost, and the next send completes."""

import collections
import contextlib
import os
import random
import sqlite3
import struct
import time
import unittest

import rogue
from faultproxy import DOWN, UP, FaultProxy, tls_records
from harness import Result, Site, until

FAILED, UNREACHABLE, INTERRUPTED, IDENTITY = 1, 4, 5, 6
# So few bytes that a cut can be tried between any two.
SIZE = 1024


class Network(unittest.TestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()
        self.plain, self.target = self.site.path / "plain", self.site.path / "copy"
        self.number = 0
        self.change()
        self.site.pair("vol", self.target)
        self.proxy = FaultProxy(self.site.port)
        self.addCleanup(self.proxy.close)
        with contextlib.closing(sqlite3.connect(self.site.source / "catalog.sqlite")) as catalog, catalog:
            catalog.execute("UPDATE receiver SET address = ?", (f"127.0.0.1:{self.proxy.port}",))
        self.began = time.monotonic()
        self.codes: collections.Counter = collections.Counter()
        self.found: collections.Counter = collections.Counter()
        self.blamed: list = []
        self.unclear = 0
        self.complete()

    def change(self) -> None:
        """Other content in every byte."""
        self.number += 1
        self.plain.write_bytes(struct.pack("<Q", self.number) * (SIZE // 8))
        # A file that was written twice in one tick of the clock would look unchanged.
        os.utime(self.plain, ns=(self.number * 10**9, self.number * 10**9))

    def send(self) -> Result:
        return self.site.send("vol", self.plain)

    def complete(self) -> None:
        """The next send, through a network without faults."""
        self.proxy.plan(None, 0, 0)
        result = self.send()
        self.assertEqual(result.code, 0, result)
        self.assertEqual(self.target.read_bytes(), self.plain.read_bytes())

    def measure(self) -> list[tuple[int, list[int], int]]:
        """Per direction: its bytes in an ordinary increment, the borders of its TLS records, and its own number."""
        lengths = []
        for _ in range(3):
            self.change()
            self.complete()
            lengths.append(tuple(self.proxy.passed))
        # Signatures and compressed content differ by a few bytes from one time to the next.
        return [(max(length[direction] for length in lengths),
                 tls_records(bytes(self.proxy.recorded[direction]), self.proxy.starts[direction]), direction)
                for direction in (UP, DOWN)]

    def fault(self, action: str, direction: int, offset: int, length: int = 0) -> Result:
        """One increment with a fault; the target afterwards."""
        old = self.target.read_bytes()
        self.change()
        new = self.plain.read_bytes()
        self.proxy.plan(action, direction, offset, length)
        result = self.send()
        self.assertTrue(until(30, lambda: self.site.is_free("vol")), "the volume stays busy")
        now = self.target.read_bytes()
        case = (action, "up" if direction == UP else "down", offset, result)
        self.assertIn(now, (old, new), case)
        self.assertIsNone(self.site.daemon.poll(), case)
        if not self.proxy.fired or result.code == 0:
            # Past the end, or only what nobody waits for was lost: then it has to be there.
            self.assertEqual((result.code, now), (0, new), case)
        else:
            # Other codes are told at the end, all of them. What is damaged in a ClientHello, which goes in the clear, cannot
            # be told from a peer that wants something else.
            if action in ("flip", "swallow") and (
                    result.code == IDENTITY and any(words in result.error for words in ("protocol version", "unsupported protocol"))
                    or result.code == FAILED and "does not offer this protocol (rule unsupported-version)" in result.error):
                self.unclear += 1
            elif result.code not in (UNREACHABLE, INTERRUPTED):
                self.blamed.append((*case[:3], result.code, result.error.strip()))
            self.assertTrue(result.is_one_sentence, case)
        self.codes[result.code] += 1
        self.found["new" if now == new else "old"] += 1
        return result

    def done(self, what: str, cases: int, bar: int) -> None:
        self.complete()
        self.assertNotIn("was ended by signal", (self.site.path / "daemon.log").read_text())
        bar = bar // rogue.SHARES
        print(f"{what}: {cases} (at least {bar}); exit codes {dict(sorted(self.codes.items()))}, targets {dict(self.found)}, "
              f"{time.monotonic() - self.began:.1f} s", flush=True)
        self.assertGreaterEqual(cases, bar, what)
        self.assertLessEqual(self.unclear, cases // 5, "a ClientHello is a small part of the stream")
        words = collections.Counter((case[0], case[1], *case[3:]) for case in self.blamed)
        self.assertEqual(self.blamed[:5], [], f"{len(self.blamed)} faults of the network end with another exit code than "
                         f"{UNREACHABLE} and {INTERRUPTED}: {dict(words)}")

    def test_cut_at_every_byte(self) -> None:
        directions = self.measure()
        print("bytes of an increment, sent and answered: "
              + ", ".join(f"{length} in {len(edges)} TLS records" for length, edges, _ in directions))
        actions = ("fin", "rst", "half")
        cuts = []
        for length, edges, direction in directions:
            near = sorted({edge + by for edge in edges for by in (-1, 0, 1) if 0 <= edge + by <= length})
            if rogue.CAMPAIGN:
                cuts += [(action, direction, offset) for offset in range(length + 1) for action in actions]
            else:
                cuts += [(actions[number % 3], direction, offset) for number, offset in enumerate(near)]
                # The others evenly; which action an offset gets changes from one to the next.
                step = max(1, length // 60)
                cuts += [(actions[number % 3], direction, offset) for number, offset in enumerate(range(0, length, step))]
        cuts = rogue.share(cuts)
        for number, cut in enumerate(cuts, 1):
            self.fault(*cut)
            if number % 20 == 0:
                self.complete()
        self.done("cuts", len(cuts), rogue.count(250, 10_000))

    def test_waiting_and_trickling(self) -> None:
        """A network that is slow is no reason to fail."""
        directions = self.measure()
        cases = []
        for length, _, direction in directions:
            cases += [("stall", direction, offset)
                      for offset in range(1, length, max(1, length // rogue.count(8, 300)))]
            cases += [("trickle", direction, 0)] * rogue.count(2, 100)
        for case in (cases := rogue.share(cases)):
            result = self.fault(*case)
            self.assertEqual(result.code, 0, (case, result))
        self.done("stalls and trickles", len(cases), rogue.count(18, 600))

    def test_repeated_connections(self) -> None:
        """What a sender has sent comes once more on a connection of its own: nothing is taken from it."""
        directions = self.measure()
        length = directions[UP][0]
        offsets = rogue.share(range(300, length, max(1, length // rogue.count(10, 200))))
        for offset in offsets:
            result = self.fault("duplicate", UP, offset)
            self.assertEqual(result.code, 0, (offset, result))
        self.done("repeated connections", len(offsets), rogue.count(8, 150))

    def test_changed_and_lost_bytes(self) -> None:
        """A hole or a flipped bit in the stream: TLS finds it, nothing is taken, and the sender does not blame the keys."""
        directions = self.measure()
        rng = random.Random(rogue.SEED)
        cases = []
        for length, edges, direction in directions:
            for _ in range(rogue.count(20, 1000)):
                action, offset = rng.choice(("flip", "swallow")), rng.randrange(length)
                # A hole may leave both sides waiting for the rest of a record; those have 60 s for it. Not here.
                if action == "swallow":
                    offset = rng.choice([edge for edge in edges if edge < length])
                cases.append((action, direction, offset, rng.choice((1, 5, 17)) if rogue.CAMPAIGN else 5))
        for case in (cases := rogue.share(cases)):
            self.fault(*case)
        self.done("changed and lost bytes", len(cases), rogue.count(40, 2000))

    def test_flipped_session_ids(self) -> None:
        """One that is not echoed as it was sent is damage too, in whichever hello (found by the campaign)."""
        for direction in (UP, DOWN):
            # Behind the heads of record and message, a version, 32 random bytes and a length.
            for offset in (44, 75):
                self.assertIn(self.fault("flip", direction, offset).code, (UNREACHABLE, INTERRUPTED))
        self.done("session ids", 4, 4)


if __name__ == "__main__":
    unittest.main()
