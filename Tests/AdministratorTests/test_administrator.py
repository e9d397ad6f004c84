# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A random administrator of a source and two standbys: what he may do, ours and other programs', in any order, with kills.
Whatever ends with 0 is true of the copy, to the byte, and what is nobody's business is left alone.

    BLOCKFERRY_SEED=N        one episode, the one that failed
    BLOCKFERRY_COMMANDS=N    so many commands at least; BLOCKFERRY_CAMPAIGN=1: 100,000
    BLOCKFERRY_LEFT_OUT=A,B  without these kinds of steps: what lies behind a defect that is known
    BLOCKFERRY_SURVEY=1      goes on after a failure, and counts them by rule at the end
"""

from __future__ import annotations

import collections
import os
import pathlib
import signal
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "AcceptanceTests"))

import ours  # noqa: E402, F401
import others  # noqa: E402, F401
import theirs  # noqa: E402
from model import KINDS, Skip, World, has  # noqa: E402

CAMPAIGN = os.environ.get("BLOCKFERRY_CAMPAIGN") == "1"
COMMANDS = int(os.environ.get("BLOCKFERRY_COMMANDS", "100000" if CAMPAIGN else "3000"))
STEPS = 120
SEED = int(os.environ.get("BLOCKFERRY_SEED", "0"))
LEFT_OUT = set(filter(None, os.environ.get("BLOCKFERRY_LEFT_OUT", "").split(",")))
FIRST = int(os.environ.get("BLOCKFERRY_FIRST_SEED", time.time_ns() // 1000 % 1_000_000_000))
# Refusals that a run must have met, or it did not try what they are for.
REFUSALS = {"promoted", "diverged", "missing", "foreign", "not-empty", "other-source", "occupied", "target-taken",
            "target-replaced", "in-use", "source-is-target"}


class Episode:
    """One site from its set-up to its end."""

    def __init__(self, seed: int) -> None:
        self.world, self.failure, self.rule = World(seed), "", ""

    def run(self, kinds: list) -> None:
        world = self.world
        try:
            weights = [kind.weight for kind in kinds]
            for kind in world.rng.choices(kinds, weights, k=STEPS):
                try:
                    world.step(kind.name)
                except Skip:
                    world.say("  is not possible now")
            world.now = "end"
            theirs.see_all_right(world)
        except Exception as error:  # noqa: BLE001: whatever it is, the steps that led to it are told
            self.rule = getattr(error, "rule", type(error).__name__)
            self.failure = world.report(error)
        finally:
            world.close()


class RandomAdministrator(unittest.TestCase):
    def test_random_administrator(self) -> None:
        # Ended from outside it unmounts and detaches too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
        self.assertEqual(os.geteuid(), 0, "it mounts file systems and attaches loop devices")
        absent = {kind.name for kind in KINDS.values() if kind.needs and not has(*kind.needs)}
        absent |= LEFT_OUT
        kinds = [kind for kind in KINDS.values() if kind.name not in absent]
        commands, episodes, failed = 0, 0, collections.Counter()
        codes, refusals = collections.Counter(), collections.Counter()
        began = time.monotonic()

        def lacking() -> set:
            """Kinds and refusals that did not come yet."""
            return {kind.name for kind in kinds} - {name for name, _ in codes} | REFUSALS - set(refusals)

        # What is rare comes in the end, or never does.
        while commands < COMMANDS or lacking() and commands < 2 * COMMANDS and not LEFT_OUT:
            if SEED and episodes:
                break
            episode = Episode(SEED or FIRST + episodes)
            episode.run(kinds)
            world = episode.world
            episodes += 1
            commands += world.commands
            codes += world.codes
            refusals += world.refusals
            if episode.failure:
                failed[episode.rule] += 1
                if not os.environ.get("BLOCKFERRY_SURVEY"):
                    self.fail(episode.failure)
                print(f"{episode.rule}: BLOCKFERRY_SEED={world.seed}; {episode.failure.split(chr(10) + '---')[0].splitlines()[-1][:400]}",
                      flush=True)
        seconds = time.monotonic() - began
        names = {name for name, _ in codes}
        sends = {name for name in names if name.startswith("send")}
        done = sum(codes[name, 0] for name in sends) / max(1, sum(codes[key] for key in codes if key[0] in sends))
        print(f"{commands} commands of {len(names)} kinds in {episodes} episodes, {seconds:.0f} s; of sends {done:.0%} ended "
              f"with 0; refusals: {dict(refusals.most_common())}; not there: {sorted(absent)}")
        if os.environ.get("BLOCKFERRY_SURVEY"):
            print(f"failed: {dict(failed)}")
            for name in sorted(names):
                print(f"  {name}: {dict(sorted((code, codes[name, code]) for each, code in codes if each == name))}")
        self.assertFalse(failed)
        if SEED or LEFT_OUT:
            return
        self.assertEqual(absent, set(), "kinds that the programs do not have")
        self.assertGreaterEqual(commands, COMMANDS)
        self.assertGreaterEqual(len(names), 30)
        self.assertGreaterEqual(done, 0.25, "nearly everything is refused")
        self.assertEqual(lacking(), set(), "kinds and refusals that never came")


if __name__ == "__main__":
    unittest.main()
