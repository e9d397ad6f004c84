# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Storage that fails: at the Nth call on the target, the staging log and maps, the catalog, or the source's own state,
once or from then on, with EIO or ENOSPC; reads that fail; transfers that are short or interrupted.

What must hold: a send that ends with 0 has brought the generation; a state that names a generation tells the truth; the
daemon stays up and serves another volume; once the fault is gone the next send completes, or is refused with a rule for
which OPERATIONS.md says what to do, and that works. The default takes an even part of the calls; with
BLOCKFERRY_CAMPAIGN=1 each is taken."""

from __future__ import annotations

import errno
import os
import time
import unittest
from collections import Counter

from faults import (BLOCK, CAMPAIGN, CHANGING, ERROR_FROM, ERROR_ONCE, INTERRUPT, READ, SHORT, SOCKET, library, ranges,
                    told, until)
from scenarios import Full, Resync, Scenario

LEAST = 1500 if CAMPAIGN else 150
# What fails how, and at how many calls of each region by default; of reads 2.
KINDS = (("EIO once", ERROR_ONCE, errno.EIO, 3), ("EIO from then on", ERROR_FROM, errno.EIO, 2),
         ("ENOSPC from then on", ERROR_FROM, errno.ENOSPC, 3))
# States in which nobody takes the target for a copy.
DECLARED = {"empty", "initialising", "applying", "diverged", "suspect"}


class Two:
    """Beside the volume whose storage fails the standby has another one."""

    def build(self) -> None:
        self.other = self.site.path / "other.img"
        self.other.write_bytes(self.rng.randbytes(1 << 20))
        self.site.pair("other", self.site.path / "other.copy")
        self.must(self.site.send("other", self.other))
        super().build()

    def files(self) -> list:
        return [*super().files(), self.other, self.site.path / "other.copy"]

    def regions(self, region: str) -> tuple[str, int, list[str]]:
        """Which program, which calls, which paths."""
        standby, source = self.site.standby, self.site.source
        return {
            "target": ("standby", CHANGING, [self.target["vol"]]),
            "log and maps": ("standby", CHANGING, [standby / "staging/vol", standby / "maps/vol"]),
            "directories": ("standby", CHANGING, [f"{standby}/staging=", f"{standby}/maps="]),
            "catalog": ("standby", CHANGING, [standby / "catalog"]),
            "reads of the target": ("standby", READ, [self.target["vol"]]),
            "reads of log and maps": ("standby", READ, [standby / "staging/vol", standby / "maps/vol"]),
            "source's state": ("source", CHANGING, [source]),
            "source's reads": ("source", READ, [source / "maps", source / "plans", self.source["vol"]]),
            "everything": ("standby", CHANGING | READ | SOCKET, [standby, self.target["vol"]]),
            "everything of the source": ("source", CHANGING | READ | SOCKET, [source, self.source["vol"]]),
        }[region]

    def begin(self, region: str):
        side, _, roots = self.regions(region)
        preload = self.site.control.environment(*roots)
        assert self.site.begin_daemon(preload if side == "standby" else None)
        self.site.control.arm()
        return self.site.begin(*self.command(), preload=preload if side == "source" else None)


class TwoFull(Two, Full):
    pass


class TwoIncrement(Two, Scenario):
    pass


class TwoResync(Two, Resync):
    pass


# Where another volume cannot be told apart from the one that fails.
SHARED = {"catalog", "directories"}
WRITES = ("target", "log and maps", "directories", "catalog", "source's state")
READS = ("reads of the target", "reads of log and maps", "source's reads")


class InputOutputErrors(unittest.TestCase):
    injections, ran, began = 0, 0, 0.0

    @classmethod
    def setUpClass(cls) -> None:
        cls.began = time.monotonic()

    @classmethod
    def tearDownClass(cls) -> None:
        print(f"input and output errors: {cls.injections} injections, {time.monotonic() - cls.began:.0f} s", flush=True)
        if cls.ran == 3 and cls.injections < LEAST:
            raise AssertionError(f"{cls.injections} injections, {LEAST} were to be done")

    def workload(self, make: type) -> None:
        scenario = make(self)
        for place, region in enumerate(WRITES + READS):
            self.region(scenario, region, place)
        type(self).ran += 1

    def region(self, scenario, region: str, phase: int) -> None:
        site, (side, mask, _) = scenario.site, scenario.regions(region)
        site.restore()
        # An error that never comes counts reads too.
        site.control.reset(ERROR_ONCE, 1 << 30, mask=mask)
        scenario.must(site.end(scenario.begin(region)))
        site.settle("vol")
        site.control["armed"] = 0
        names = site.control.steps()
        count = len(names)
        kinds = KINDS[:2] if mask == READ else KINDS
        for turn, (kind, action, code, share) in enumerate(kinds):
            began = time.monotonic()
            share = 2 if mask == READ else share
            numbers = range(1, count + 1) if CAMPAIGN or count <= share else sorted({
                1 + int((place + (turn + phase / 8) / len(kinds)) * count / share) for place in range(share)})
            found: Counter = Counter()
            done, missed, failed = [], [], 0
            for number in numbers:
                site.restore()
                site.control.reset(action, number, mask=mask, error=code)
                place = f"{scenario.name}, {region}, {kind} at {number} of {count} ({names[number - 1]})"
                with self.subTest(place):
                    with told(place):
                        fault = names[number - 1], action, code
                        (done if self.one(scenario, region, number, fault, found) else missed).append(number)
                    continue
                failed += 1
            type(self).injections += len(done) + failed
            print(f"{scenario.name}, {region}, {kind}: {count} calls found, {len(done) + failed} failed on purpose, "
                  f"{dict(found)}, bad {failed}, {time.monotonic() - began:.1f} s; not reached {ranges(missed)}; "
                  f"skipped {ranges([number for number in range(1, count + 1) if number not in numbers])}", flush=True)
            self.assertGreaterEqual(len(done) + failed, len(numbers) * 8 // 10)

    def is_up(self, site) -> bool:
        pid = site.daemon.pid
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def truthful(self, scenario, result) -> str:
        """What the state says of the target is so."""
        status = scenario.site.status("vol")
        state, target = status["state"], scenario.digests(scenario.target)
        if result.code == 0:
            self.assertEqual((target, state), (scenario.new, "consistent"), result)
        if state not in DECLARED:
            # The state before is a generation 1, of which a resync and an increment make a second.
            generations = {1: scenario.new} if isinstance(scenario, Full) else {1: scenario.old, 2: scenario.new}
            self.assertEqual(target, generations.get(status["generation"]), (status, result))
        return state

    def told_of_target(self, scenario, number: int, fault: tuple, result, state: str) -> None:
        """What is said of a target that failed, and what becomes of the volume."""
        name, action, code = fault
        if "fallocate" in name and code == errno.EIO:
            # What cannot be reserved is found when it is written.
            return
        self.assertEqual(result.code, 12 if code == errno.ENOSPC else 11, (result, state))
        if isinstance(scenario, Full):
            # In place, also if the next flush would succeed: nobody knows what the first one has lost. Room mends the rest.
            self.assertIn(state, {"initialising", "applying"} if code == errno.ENOSPC else {"suspect"}, result)
            return
        # The log is whole, and the standby tries again by itself; what fails twice, and not for want of room, is given up.
        allowed = {"applying", "consistent"}
        allowed |= {"staging"} if code == errno.ENOSPC else {"suspect"} if action == ERROR_FROM else set()
        self.assertIn(state, allowed, result)

    def one(self, scenario, region: str, number: int, fault: tuple, found: Counter) -> bool:
        """One fault (its call, whether it comes once, its code) and what comes after; returns whether the call was
        reached."""
        site = scenario.site
        result = site.end(scenario.begin(region))
        self.assertNotIn("did not end within", result.error)
        site.settle("vol")
        reached = site.control["hits"] > 0
        self.assertTrue(self.is_up(site), "the daemon ended")
        if region not in SHARED:
            # In spite of the fault, which is still in force.
            scenario.write(scenario.other, 3, b"other")
            scenario.must(site.send("other", scenario.other))
        site.control["armed"] = 0
        state = self.truthful(scenario, result)
        if reached and region == "target":
            self.told_of_target(scenario, number, fault, result, state)
        if reached and result.code:
            self.assertTrue(result.error.strip(), "it does not say why")
            self.assertGreater(result.code, 0, result)
        if number % 2 == 0:
            # What a restart makes of it.
            site.kill_daemon()
            site.start_daemon()
            site.settle("vol")
            state = self.truthful(scenario, result)
        again = scenario.again()
        after = "completes"
        if again.code:
            # OPERATIONS.md, 7: suspect and diverged are mended by a resync; so is whatever has a rule of its own there.
            self.assertEqual(again.code, 7, (result, state, again))
            rule = again.error.split("(rule ")[-1].split(")")[0]
            self.assertIn(rule, ("suspect", "diverged", "not-compared"), (result, state, again))
            self.mend(scenario)
            after = "resync"
        self.assertEqual(scenario.digests(scenario.target), scenario.digests(scenario.source))
        scenario.follow()
        if region in SHARED:
            scenario.write(scenario.other, 3, b"after")
            scenario.must(site.send("other", scenario.other))
        if reached:
            found[f"exit {result.code} {state} {after}"] += 1
        return reached

    def mend(self, scenario) -> None:
        """What OPERATIONS.md says: a resync, and after *not-compared* the same resync again."""
        command = ["blockferry", "resync", scenario.source["vol"], "--to", "standby", "--volume", "vol"]
        result = scenario.site.run(*command)
        if result.code == 7 and "(rule not-compared)" in result.error:
            scenario.site.settle("vol")
            result = scenario.site.run(*command)
        scenario.must(result)

    def test_full(self) -> None:
        self.workload(TwoFull)

    def test_increment(self) -> None:
        self.workload(TwoIncrement)

    def test_resync(self) -> None:
        self.workload(TwoResync)

    def test_failed_flush(self) -> None:
        """The flush of the target fails once and would succeed the next time: every one of each workload. Nothing is
        acknowledged by that success. In place the copy is given up; else all of the log is written again, and the target
        is read before the generation counts."""
        flushes = redone = 0
        for make in (TwoFull, TwoIncrement, TwoResync):
            scenario = make(self)
            site = scenario.site
            site.restore()
            site.control.reset(mask=CHANGING)
            scenario.must(site.end(scenario.begin("target")))
            steps = site.control.steps()
            for number, name in enumerate(steps, 1):
                if "sync" not in name:
                    continue
                with self.subTest(f"{scenario.name}: {name}, {number}"):
                    site.restore()
                    old = scenario.target["vol"].read_bytes() if make is not TwoFull else b""
                    site.control.reset(ERROR_ONCE, number, mask=CHANGING, error=errno.EIO)
                    result = site.end(scenario.begin("target"))
                    self.assertEqual((site.control["hits"], result.code), (1, 11), result)
                    flushes += 1
                    if make is TwoFull:
                        self.given_up(scenario)
                        continue
                    # What the failed flush has lost, as the kernel may after it has told that once: a block is old again.
                    new = scenario.source["vol"].read_bytes()
                    at = next(at for at in range(0, len(new), BLOCK) if new[at:at + BLOCK] != old[at:at + BLOCK])
                    with scenario.target["vol"].open("r+b", buffering=0) as target:
                        if scenario.found_states() == {"applying"}:
                            os.pwrite(target.fileno(), old[at:at + BLOCK], at)
                    self.assertTrue(until(30, lambda: scenario.found_states() == {"consistent"}), site.status("vol"))
                    self.assertEqual(scenario.digests(scenario.target), scenario.new)
                    self.assertEqual(site.send("vol", scenario.source["vol"]).code, 0)
                    scenario.follow()
                    redone += 1
        print(f"failed flushes of the target: {flushes}, {redone} generations written again", flush=True)
        self.assertGreaterEqual((flushes, redone), (3, 2))

    def given_up(self, scenario) -> None:
        site = scenario.site
        site.settle("vol")
        send = ["blockferry", "send", scenario.source["vol"], "--to", "standby", "--volume", "vol"]
        for command in (send, ["blockferryd", "promote", "vol"]):
            refused = site.run(*command)
            self.assertEqual((refused.code, "suspect" in refused.error), (7, True), refused)
        site.kill_daemon()
        site.start_daemon()
        self.assertEqual(scenario.found_states(), {"suspect"})
        self.mend(scenario)
        self.assertEqual(scenario.digests(scenario.target), scenario.digests(scenario.source))
        scenario.follow()

    def test_short_and_interrupted(self) -> None:
        """Every transfer brings half of what was asked for, or every call is interrupted once: nobody notices."""
        for make in (TwoFull, TwoIncrement, TwoResync):
            scenario = make(self)
            site = scenario.site
            for region in ("everything", "everything of the source"):
                for action, kind in ((SHORT, "short"), (INTERRUPT, "interrupted")):
                    with self.subTest(f"{scenario.name}, {region}, {kind}"):
                        site.restore()
                        _, mask, _ = scenario.regions(region)
                        site.control.reset(action, mask=mask)
                        result = scenario.must(site.end(scenario.begin(region)))
                        site.settle("vol")
                        hits = site.control["hits"]
                        self.assertEqual(self.truthful(scenario, result), "consistent")
                        site.control["armed"] = 0
                        self.assertTrue(self.is_up(site))
                        scenario.follow()
                        print(f"{scenario.name}, {region}: {hits} calls {kind}, equal bytes", flush=True)
                        self.assertGreater(hits, 10)


if __name__ == "__main__":
    library()
    unittest.main()
