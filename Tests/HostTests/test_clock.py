# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The wall clock jumps (A9), before and in the middle of sends, resumes, a promotion, a scrub and a pairing, on one
side or both. Nothing is ordered by it: generations arrive as ever, and the only thing that changes is what people are
told.

The clock is that of `clock.c`, preloaded. Keeping past generations needs a thin volume, so a kernel: what jumps do
to `keep --for` is in CatalogTests/RetentionTests. Invitations do end by the wall clock; see `test_invitations`."""

from __future__ import annotations

import atexit
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import time
import unittest

from host import HostSite, Proxy, count, ended_well, sha256

YEAR = 365 * 86_400
# Ten years there and back, an hour, a day, past 2038, past 2106, and to the first day of 1970.
JUMPS = (10 * YEAR, -10 * YEAR, 3600, -3600, 86_400, -86_400, 12 * YEAR + 86_400, -30 * YEAR, 80 * YEAR + 86_400,
         200 * YEAR, -int(time.time()) + 86_400, 0)
_library: str | None = None


def library() -> str:
    """`clock.c`, compiled once for each run of the tests."""
    global _library
    if _library is None:
        folder = tempfile.mkdtemp(prefix="blockferry-clock.")
        atexit.register(shutil.rmtree, folder, True)
        _library = f"{folder}/clock.so"
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", _library,
                        pathlib.Path(__file__).with_name("clock.c")], check=True)
    return _library


def at(seconds: int) -> int:
    """So many seconds from now, but not before 1970: Linux does not let anybody set that."""
    return max(seconds, 86_400 - int(time.time()))


class WallClock:
    """The wall clock of some programs."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        path.write_bytes(bytes(16))
        self.environment = {"LD_PRELOAD": library(), "CLOCK_FILE": str(path)}

    def set(self, seconds: int) -> None:
        with open(self.path, "r+b") as file:
            file.write(struct.pack("<q", at(seconds)))

    @property
    def asked(self) -> int:
        return struct.unpack("<qQ", self.path.read_bytes())[1]


class Clock(unittest.TestCase):
    def setUp(self) -> None:
        self.site = HostSite()
        self.addCleanup(self.site.close)
        self.standby, self.source = WallClock(self.site.path / "clock1"), WallClock(self.site.path / "clock2")

    def start(self) -> None:
        failed = self.site.begin_daemon(more=self.standby.environment)
        self.assertIsNone(failed, failed)

    def send(self, told: str, code: int = 0):
        result = self.site.bounded("blockferry", *self.site.sending(), more=self.source.environment)
        ended_well(self, result, told, codes=(code,))
        if code == 0:
            self.assertEqual(sha256(self.site.target), sha256(self.site.plain), told)
        return result

    def change(self) -> None:
        with open(self.site.plain, "r+b") as file:
            file.write(os.urandom(10_000))

    def told(self, case: str, generation: int, *, is_aged: bool = True) -> None:
        """Both tell the same generation, and an age that is none below zero; none at all where every time lies ahead."""
        for program, clock in (("blockferryd", self.standby), ("blockferry", self.source)):
            result = self.site.bounded(program, "status", "--json", more=clock.environment)
            ended_well(self, result, f"{case}: {program} status", codes=(0,))
            (volume,) = result.json["volumes"]
            self.assertEqual(volume["generation"], generation, f"{case}: {program}")
            self.assertGreaterEqual(volume.get("age_seconds", 0), 0, f"{case}: {program}")
            plain = self.site.bounded(program, "status", more=clock.environment)
            ended_well(self, plain, f"{case}: {program} status in words", codes=(0,))

    def test_jumps(self) -> None:
        site, jumps, generation = self.site, 0, 1
        site.committed(4)
        for number, seconds in enumerate(JUMPS):
            sides = (("both", "standby", "source") if count(0, 1) else (("both", "standby", "source")[number % 3],))
            for side in sides:
                # The daemon lives on while its clock is another one; every other time it is started anew.
                case = f"{seconds} s on {side}"
                if number % 2 == 0:
                    site.kill_daemon()
                for name, clock in (("standby", self.standby), ("source", self.source)):
                    clock.set(seconds if side in (name, "both") else 0)
                if number % 2 == 0:
                    self.start()
                self.change()
                result = self.send(case)
                generation += 1
                self.assertEqual((result.json["result"], result.json["generation"]), ("delta", generation), case)
                self.told(case, generation)
                scrub = site.bounded("blockferryd", "scrub", "vol", "--json", more=self.standby.environment)
                ended_well(self, scrub, f"{case}: scrub", codes=(0,))
                self.assertTrue(scrub.json["clean"], case)
                jumps += 1
        # During sends: the clocks jump while content is on its way, there and back again.
        for seconds in JUMPS[:-1]:
            self.change()
            moved = []

            def tamper(data: bytes, at: int, seconds=seconds, moved=moved) -> bytes:
                if at > 1000 and len(moved) < 4:
                    moved.append(seconds)
                    for clock in (self.standby, self.source):
                        clock.set(seconds if len(moved) % 2 else -seconds // 2)
                    time.sleep(0.02)
                return data

            proxy = Proxy(site.port, tamper)
            site.readdress(proxy.port)
            self.assertEqual(self.send(f"{seconds} s during a send").json["result"], "delta")
            site.readdress(site.port)
            proxy.close()
            generation += 1
            self.assertGreaterEqual(len(moved), 1, seconds)
            jumps += len(moved)
            self.told(f"{seconds} s during a send", generation)
        asked = (self.standby.asked, self.source.asked)
        print(f"jumps of the wall clock: {jumps} (at least 20), {generation} generations; the clock was "
              f"asked for {asked} times", flush=True)
        self.assertGreaterEqual(jumps, 20)
        self.assertGreaterEqual(min(asked), 20)

    def test_resumes_and_promotion(self) -> None:
        site = self.site
        site.unfinished()
        site.save()
        cases = 0
        for seconds in (10 * YEAR, -10 * YEAR, 200 * YEAR, -int(time.time()) + 86_400)[:count(3, 4)]:
            site.restore()
            for clock in (self.standby, self.source):
                clock.set(seconds)
            self.start()
            result = self.send(f"a resume after {seconds} s")
            # From the second time on the source was written since, though it is what it was: that begins anew.
            self.assertEqual((result.json["resumed_segments"], result.json["generation"]), (cases == 0, 2), result)
            self.told("a resume", 2)
            # Promoted at one time, refused at another.
            self.standby.set(-seconds // 2)
            promoted = site.bounded("blockferryd", "promote", "vol", more=self.standby.environment)
            ended_well(self, promoted, f"promote after {seconds} s", codes=(0,))
            before = sha256(site.target)
            for again in (seconds, 0, -seconds // 2):
                for clock in (self.standby, self.source):
                    clock.set(again)
                self.change()
                self.assertIn("promoted", self.send(f"a send to a promoted volume, {again} s", 7).error)
                self.assertEqual(sha256(site.target), before)
                cases += 1
            cases += 1
        print(f"resumes and refusals under another time: {cases}", flush=True)
        self.assertGreaterEqual(cases, 12)

    def test_invitations(self) -> None:
        """They are good for some minutes of the standby's wall clock. A jump forward ends one, with a clear refusal;
        a jump back makes it last longer, but never makes a used one good again, nor one that has been dropped."""
        site = self.site
        self.start()
        number = 0

        def invite() -> str:
            nonlocal number
            number += 1
            result = site.bounded("blockferryd", "invite", f"v{number}", "--target", site.path / f"t{number}",
                                  "--create", "--address", f"127.0.0.1:{site.port}", more=self.standby.environment)
            ended_well(self, result, "invite", codes=(0,))
            return result.out.strip()

        def pair(invitation: str, code: int, told: str) -> None:
            # Other invitations of the volume end with a pairing: each case has a volume of its own.
            result = site.bounded("blockferry", "pair", invitation, "--name", "standby")
            ended_well(self, result, told, codes=(code,))
            if code:
                self.assertIn("used or expired", result.error, told)

        first = invite()
        for seconds in (601, 86_400, 10 * YEAR):
            self.standby.set(seconds)
            pair(first, 6, f"{seconds} s later")
        self.standby.set(0)
        pair(first, 0, "back in time, never used")
        for seconds in (0, -3600, -10 * YEAR, 10 * YEAR, 0):
            self.standby.set(seconds)
            pair(first, 6, f"used already, {seconds} s")
        # Made in the future, dropped by a later invitation once it is over, and then back again.
        self.standby.set(10 * YEAR)
        used, unused = invite(), invite()
        pair(used, 0, "in the future")
        self.standby.set(20 * YEAR)
        invite()
        self.standby.set(10 * YEAR)
        pair(used, 6, "used, over, dropped, back in time")
        pair(unused, 6, "over, dropped, back in time")
        self.standby.set(0)
        pair(used, 6, "used in the future")
        print("invitations: 13 pairings under another time", flush=True)


if __name__ == "__main__":
    unittest.main()
