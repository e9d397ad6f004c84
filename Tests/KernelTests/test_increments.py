# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Live increments, one after the other, a writer running all the time; each is compared, byte for byte, with the
snapshot it came from. `BLOCKFERRY_INCREMENTS` says how many of each kind; `make soak` wants 1,000."""

from __future__ import annotations

import os
import time

import devices
from devices import MIB
from harness import SEED, VOLUME, LiveTest, Writer

COUNT = int(os.environ.get("BLOCKFERRY_INCREMENTS", "40"))
LEAST = 40


class IncrementTests(LiveTest):
    def increments(self, kind: str, volume: str, target: str, name: str, discards: bool, *more: str) -> None:
        devices.write(volume, (0, 4 * MIB))
        site = self.pair(target)
        done = written = changed = 0
        with Writer(volume, VOLUME, seed=ord(kind[0]), discards=discards, limit=1_000_000, pause=0.02,
                    length=16384) as writer:
            self.send(site, target, name, "db", *more, expect="full")
            began = time.monotonic()
            for number in range(COUNT):
                before = writer.writes
                facts = self.send(site, target, name, "db", *more, expect="delta")
                self.assertEqual(facts["generation"], number + 2)
                self.assertLessEqual(facts["bytes_changed"], VOLUME)
                self.assertGreater(writer.writes, before, "the writer does not write")
                written += writer.writes - before
                changed += facts["bytes_changed"]
                done += 1
                if done % 50 == 0:
                    print(f"    {done} {kind} increments", flush=True)
        print(f"    {done} live {kind} increments, {written} writes meanwhile, {changed} bytes sent, 0 differ, "
              f"{time.monotonic() - began:.0f} s, seed {SEED}", flush=True)
        self.assertEqual(len(self.source.tagged()), 1)
        self.assertGreaterEqual(done, LEAST)
        self.assertEqual(done, COUNT)
        self.assertGreater(changed, 0)

    def test_live_increments_thin(self) -> None:
        self.source.pool()
        self.standby.pool()
        self.increments("thin", self.source.thin("t"), self.standby.thin("copy"), "t", True)
        self.assert_released()

    def test_live_increments_classic(self) -> None:
        self.increments("classic", self.source.thick("o"), self.standby.thick("copy"), "o", False,
                        "--cow-size", "40M")

    test_live_increments_thin.cost = 140
    test_live_increments_classic.cost = 140
