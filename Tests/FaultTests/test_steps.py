# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of the standby, of the sender or of a command at every call that changes something, in turn.

`faults.c` says what such a call is and numbers them over all processes of a program. For each: one run that dies there,
recovery without the other side, a look at the target, the same command again, one increment more, and a scrub. The
default takes an even part of each scenario's steps; with BLOCKFERRY_CAMPAIGN=1 each step is taken, before it is
done and after it was."""

from __future__ import annotations

import os
import signal
import time
import unittest
from collections import Counter

import first_start
import scenarios
from faults import CAMPAIGN, KILL_AFTER, KILL_BEFORE, ranges, spread, told

# Kills of each side of each scenario, and of all together.
SHARE = int(os.environ.get("BLOCKFERRY_STEP_KILLS", "16"))
LEAST = 2000 if CAMPAIGN else 300
VARIANT = {KILL_BEFORE: "before", KILL_AFTER: "after"}


class Steps(unittest.TestCase):
    kills, ran, began = 0, 0, 0.0

    @classmethod
    def setUpClass(cls) -> None:
        cls.began = time.monotonic()

    @classmethod
    def tearDownClass(cls) -> None:
        wanted = sum(name.startswith("test_") for name in dir(cls))
        print(f"steps: {cls.kills} kills in {cls.ran} of {wanted} scenarios, {time.monotonic() - cls.began:.0f} s",
              flush=True)
        if cls.ran == wanted and cls.kills < LEAST:
            raise AssertionError(f"{cls.kills} kills, {LEAST} were to be done")

    def enumerate(self, make: type[scenarios.Scenario]) -> None:
        scenario = make(self)
        for side in scenario.sides:
            self.enumerate_side(scenario, side)
        type(self).ran += 1

    def enumerate_side(self, scenario: scenarios.Scenario, side: str) -> None:
        began, site = time.monotonic(), scenario.site
        # Once without a kill, which counts.
        site.restore()
        site.control.reset()
        process = scenario.start(side)
        if process is not None:
            scenario.must(site.end(process))
        site.control["armed"] = 0
        names = site.control.steps()
        count = len(names)
        self.assertGreater(count, 0, "nothing was counted: is the library preloaded?")
        if CAMPAIGN:
            cases = [(number, action) for number in range(1, count + 1) for action in (KILL_BEFORE, KILL_AFTER)]
        else:
            numbers = spread(count, SHARE)
            cases = [(number, (KILL_BEFORE, KILL_AFTER)[place % 2]) for place, number in enumerate(numbers)]
            cases[-1] = (count, KILL_AFTER)
        found: Counter = Counter()
        killed, missed, failed = [], [], []
        for number, action in cases:
            place = f"{scenario.name}, {side}, {VARIANT[action]} step {number} of {count} ({names[number - 1]})"
            with self.subTest(place):
                with told(place):
                    if self.one(scenario, side, number, action, found):
                        killed.append((number, action))
                    else:
                        missed.append(number)
                continue
            # A failure has left the block above.
            failed.append(place)
        taken = {number for number, _ in killed}
        print(f"{scenario.name}, {side}: {count} steps found, {len(killed)} kills "
              f"(before {sum(action == KILL_BEFORE for _, action in killed)}, "
              f"after {sum(action == KILL_AFTER for _, action in killed)}), afterwards {dict(found)}, "
              f"failed {len(failed)}, {time.monotonic() - began:.1f} s\n"
              f"    not reached: {ranges(missed)}; skipped: "
              f"{ranges([number for number in range(1, count + 1) if number not in taken])}", flush=True)
        type(self).kills += len(killed)
        # How many pieces a stream is sent in is not the same in each run, so that the last steps may be missing.
        self.assertGreaterEqual(len(killed) + len(failed), len(cases) * 9 // 10)

    def one(self, scenario: scenarios.Scenario, side: str, number: int, action: int, found: Counter) -> bool:
        """One kill and what comes after; returns whether the step was reached."""
        site = scenario.site
        site.restore()
        site.control.reset(action, number)
        process = scenario.start(side)
        result = site.end(process) if process is not None else None
        if result is not None:
            self.assertNotIn("did not end within", result.error)
        # A daemon that has answered may have steps left, which are as good as any.
        reached = site.control["hits"] > 0
        if not reached and side == "standby":
            deadline = time.monotonic() + 0.3
            while time.monotonic() < deadline and site.control["hits"] == 0:
                time.sleep(0.005)
            reached = site.control["hits"] > 0
        site.control["armed"] = 0
        if reached and side != "standby" and result is not None:
            self.assertEqual(result.code, -signal.SIGKILL, result)
        scenario.revive(side)
        what = scenario.check(acknowledged=result is not None and result.code == 0)
        if reached:
            found[what] += 1
        scenario.finish()
        return reached

    def test_full(self) -> None:
        self.enumerate(scenarios.Full)

    def test_increment(self) -> None:
        self.enumerate(scenarios.Scenario)

    def test_resync(self) -> None:
        self.enumerate(scenarios.Resync)

    def test_resync_in_place(self) -> None:
        self.enumerate(scenarios.ResyncInPlace)

    def test_resume(self) -> None:
        self.enumerate(scenarios.Resume)

    def test_recovery(self) -> None:
        self.enumerate(scenarios.Applying)

    def test_promote(self) -> None:
        self.enumerate(scenarios.Promote)

    def test_promote_applying(self) -> None:
        self.enumerate(scenarios.PromoteApplying)

    def test_group(self) -> None:
        self.enumerate(scenarios.Group)

    def test_import(self) -> None:
        self.enumerate(scenarios.Import)

    def test_verify(self) -> None:
        self.enumerate(scenarios.Verify)

    def test_scrub(self) -> None:
        self.enumerate(scenarios.Scrub)

    def test_first_invite(self) -> None:
        self.enumerate(first_start.Invite)

    def test_first_serve(self) -> None:
        self.enumerate(first_start.Serve)

    def test_first_pair(self) -> None:
        self.enumerate(first_start.Pair)


if __name__ == "__main__":
    unittest.main()
