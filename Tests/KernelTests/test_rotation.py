# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of the sender at every step of the rotation, in turn. `steps.c` says what a step is and numbers them.

For each step: a send that dies there, then a send that must end well, with no full copy, one snapshot kept, no metadata
snapshot held, nothing suspended, and equal bytes. The enumeration ends with the first send that has fewer steps than the
number it was to die at; so no step is left out, and none is made up."""

from __future__ import annotations

import os
import pathlib
import signal
import struct

import devices
from devices import MIB
from harness import SOURCE, VOLUME, LiveTest, suspended, until

PRELOAD = "/out/steps.so"
# A rotation is never shorter than this: lvs, lvcreate, the plan, the catalog, commit, lvremove.
LEAST = 20
MOST = 200


class RotationTests(LiveTest):
    def environment(self, kill_at: int) -> dict:
        steps, log = pathlib.Path("/run/steps"), pathlib.Path("/run/steps.log")
        steps.write_bytes(struct.pack("<III", 0, 0, kill_at))
        log.write_bytes(b"")
        return {"LD_PRELOAD": PRELOAD, "STEPS_FILE": str(steps), "STEPS_LOG": str(log)}

    def steps(self) -> list[str]:
        return pathlib.Path("/run/steps.log").read_text().splitlines()

    def run_to_step(self, number: int, *more: str) -> tuple[int, str]:
        """Exit code of a send that is killed at a step, and the step's name; the code is 0 if it has fewer."""
        result = self.site_.send_live(f"{SOURCE}/{self.name}", "db", *more, env=self.environment(number))
        taken = self.steps()
        self.assertGreater(len(taken), 0, "nothing was counted: is the library preloaded?")
        named = next((line for line in taken if line.split()[0] == str(number)), "")
        return result.code, named

    def enumerate_steps(self, volume: str, name: str, *more: str) -> list[str]:
        self.name = name
        killed: list[str] = []
        for number in range(1, MOST + 1):
            devices.write(volume, *devices.scattered(number, 6, VOLUME))
            code, step = self.run_to_step(number, *more)
            if code == 0 and not step:
                break
            with self.subTest(step=step):
                self.assertEqual(code, -signal.SIGKILL, f"step {step}")
                killed.append(step)
                # What the sender has started may still be at it: a command to its end, the release of a
                # metadata snapshot. Nothing of it may need the next run.
                self.assertTrue(until(10, lambda: not suspended()), f"suspended after {step}")
                devices.write(volume, *devices.scattered(1000 + number, 6, VOLUME))
                result = self.site_.send_live(f"{SOURCE}/{name}", "db", *more)
                if result.code != 0:
                    self.after(step)
                self.assert_code(result, 0)
                self.assertNotIn('"full"', result.out, f"a full copy after {step}")
                self.assert_copy(self.target, name)
                self.assertEqual(len(self.source.tagged()), 1, f"after {step}")
                self.after(step)
        else:
            self.fail(f"more than {MOST} steps")
        for step in killed:
            print(f"    killed at {step[:110]}", flush=True)
        print(f"    {len(killed)} steps, each killed at once", flush=True)
        self.assertGreaterEqual(len(killed), LEAST)
        return killed

    def after(self, step: str) -> None:
        """What else must hold after the recovery."""

    def assert_steps(self, killed: list[str], *wanted: str) -> None:
        for words in wanted:
            self.assertTrue(any(words in step for step in killed), f"{words} is no step: {killed}")


class ThinRotationTests(RotationTests):
    def after(self, step: str) -> None:
        try:
            self.assert_released()
        except AssertionError:
            # Told; and not told again at every step that follows.
            self.source.message("release_metadata_snap", check=False)
            raise

    def test_kill_at_every_step_thin(self) -> None:
        self.source.pool()
        volume = self.source.thin("t")
        self.target = self.standby.thick("copy")
        devices.write(volume, (0, 2 * MIB))
        self.site_ = self.pair(self.target)
        self.send(self.site_, self.target, "t", expect="full")
        killed = self.enumerate_steps(volume, "t")
        self.assert_steps(killed, "before lvs", "before lvcreate", "during lvcreate", "after lvcreate",
                          "reserve_metadata_snap", "release_metadata_snap", "during lvremove", "after lvremove",
                          "catalog.sqlite")

    def test_sigkill_right_after_the_reservation_releases_it(self) -> None:
        """Not only by the next run: the reservation goes by itself."""
        self.source.pool()
        volume = self.source.thin("t")
        self.target = self.standby.thick("copy")
        devices.write(volume, (0, 2 * MIB))
        self.site_, self.name = self.pair(self.target), "t"
        self.send(self.site_, self.target, "t", expect="full")
        self.run_to_step(0)
        wanted = [line for line in self.steps() if "reserve_metadata_snap" in line and " after " in line]
        self.assertGreater(len(wanted), 0, self.steps())
        for line in wanted:
            # What a kill leaves takes steps of its own.
            self.assert_code(self.site_.send_live("src/t", "db"), 0)
            code, step = self.run_to_step(int(line.split()[0]))
            self.assertEqual(code, -signal.SIGKILL)
            self.assertIn("reserve_metadata_snap", step)
            self.assert_released()

    test_kill_at_every_step_thin.cost = 340


class ClassicRotationTests(RotationTests):
    def test_kill_at_every_step_classic(self) -> None:
        volume = self.source.thick("o")
        self.target = self.standby.thick("copy")
        devices.write(volume, (0, 2 * MIB))
        self.site_ = self.pair(self.target)
        self.send(self.site_, self.target, "o", "db", "--cow-size", "16M", expect="full")
        killed = self.enumerate_steps(volume, "o", "--cow-size", "16M")
        self.assert_steps(killed, "before lvs", "before lvcreate", "during lvcreate", "after lvcreate",
                          "during lvremove", "after lvremove", "catalog.sqlite")

    test_kill_at_every_step_classic.cost = 230


class PrepareTests(LiveTest):
    def test_kill_in_the_first_send(self) -> None:
        """Before there is a base at all: the snapshot of the full copy is continued with, or removed."""
        self.source.pool()
        volume, target = self.source.thin("t"), self.standby.thick("copy")
        devices.write(volume, (0, 24 * MIB))
        site = self.pair(target)
        sending = site.start_live(f"{SOURCE}/t", "db")
        self.assertTrue(until(30, lambda: any("_blockferry_" in name for name in os.listdir("/dev/mapper"))
                              or sending.poll() is not None))
        sending.send_signal(signal.SIGKILL)
        sending.communicate(timeout=30)
        self.assertEqual(sending.returncode, -signal.SIGKILL, "it was too quick: nothing is tested")
        self.assert_code(site.send_live(f"{SOURCE}/t", "db"), 0)
        self.assert_copy(target, "t")
        self.assertEqual(len(self.source.tagged()), 1)
        self.assert_released()
