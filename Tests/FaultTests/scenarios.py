# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What is interrupted: each scenario makes the state before, runs one command, and knows what may be found
afterwards."""

from __future__ import annotations

import pathlib
import random
import subprocess
from collections import Counter

from faults import BLOCK, KILL_BEFORE, FaultSite, Result, sha256


class Scenario:
    """An increment of one volume; the others differ from it."""

    name = "increment"
    volumes: tuple[str, ...] = ("vol",)
    # Where the faults are: in the daemon and its workers, in the sender, or in a command on the standby.
    sides: tuple[str, ...] = ("standby", "source")
    states = {"consistent", "staging"}
    size = (4 << 20) + 700

    def __init__(self, test) -> None:
        self.test, self.site = test, FaultSite()
        test.addCleanup(self.site.close)
        self.rng = random.Random(self.name)
        self.source = {name: self.site.path / f"{name}.img" for name in self.volumes}
        self.target = {name: self.site.path / f"{name}.copy" for name in self.volumes}
        # While the state before is made, the command is that which leads there.
        self.building = True
        self.site.start_daemon()
        self.build()
        self.building = False
        self.old = self.digests(self.target) if all(path.exists() for path in self.target.values()) else None
        self.new = self.digests(self.source)
        self.site.kill_daemon()
        self.site.save(*(path for path in self.files() if path.exists()))

    def files(self) -> list[pathlib.Path]:
        return [*self.source.values(), *self.target.values()]

    # The state before

    def build(self) -> None:
        self.make()
        self.pair()
        self.must(self.again())
        self.change()

    def make(self) -> None:
        for path in self.source.values():
            path.write_bytes(self.rng.randbytes(1 << 20).ljust(3 << 20, b"\0")
                             + self.rng.randbytes(self.size - (3 << 20)))

    def pair(self) -> None:
        for name in self.volumes:
            self.site.pair(name, self.target[name])

    def change(self) -> None:
        """Whole blocks, parts of them, content where zeros were, zeros where content was, and the last bytes."""
        for path in self.source.values():
            for offset, content in ((3 * BLOCK + 100, self.rng.randbytes(80_000)), (8 * BLOCK, bytes(BLOCK)),
                                    (20 * BLOCK, self.rng.randbytes(BLOCK)), (self.size - 9, self.rng.randbytes(9))):
                self.write(path, offset, content)

    @staticmethod
    def write(path: pathlib.Path, offset: int, content: bytes) -> None:
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(content)

    # What is interrupted

    def command(self) -> list:
        return ["blockferry", "send", self.source["vol"], "--to", "standby", "--volume", "vol", "--json"]

    def roots(self, side: str) -> list[pathlib.Path]:
        return [self.site.source] if side == "source" else [self.site.standby, *self.target.values()]

    def start(self, side: str) -> subprocess.Popen | None:
        """Begins the command, with faults on one side; nothing if the daemon did not live to see it."""
        control = self.site.control
        preload = control.environment(*self.roots(side))
        assert self.site.begin_daemon(preload if side == "standby" else None)
        control.arm()
        return self.site.begin(*self.command(), preload=None if side == "standby" else preload)

    def again(self) -> Result:
        """The same command without faults."""
        return self.site.run(*self.command())

    # What must hold

    def must(self, result: Result) -> Result:
        self.test.assertEqual(result.code, 0, result)
        return result

    def digests(self, paths: dict) -> tuple:
        return tuple(sha256(path) for path in paths.values())

    def found_states(self) -> set[str]:
        return {self.site.status(name)["state"] for name in self.volumes}

    def revive(self, side: str) -> None:
        """Recovers without the sender."""
        if side != "source":
            self.site.kill_daemon()
            self.site.start_daemon()
        self.site.settle(*self.volumes)

    def check(self, acknowledged: bool) -> str:
        """What is there after recovery; returns which generation it is."""
        found, states = self.digests(self.target), self.found_states()
        self.test.assertIn(found, (self.old, self.new), f"torn, {states}")
        self.test.assertLessEqual(states, self.states)
        if acknowledged:
            self.test.assertEqual(found, self.new, "it was acknowledged")
        return "new" if found == self.new else "old"

    def finish(self) -> None:
        """The same again ends well, and the life of the volume goes on."""
        self.must(self.again())
        self.test.assertEqual(self.digests(self.target), self.digests(self.source))
        self.follow()

    def follow(self) -> None:
        for path in self.source.values():
            self.write(path, 11 * BLOCK + 5, b"and on")
        # A worker may still hold the lock when its sender has its answer; then the next command would be told to wait.
        self.site.settle(*self.volumes)
        for name in self.volumes:
            self.must(self.site.send(name, self.source[name]))
        self.test.assertEqual(self.digests(self.target), self.digests(self.source))
        self.site.settle(*self.volumes)
        for name in self.volumes:
            scrub = self.must(self.site.run("blockferryd", "scrub", name, "--json"))
            self.test.assertTrue(scrub.json["clean"], scrub)

    # Helpers of those that begin in the middle

    def interrupt(self, picks, wanted: str) -> None:
        """Kills the daemon in the command at the first step that is picked, by its name and how often that came, and leaves the state
        wanted."""
        site = self.site
        site.kill_daemon()
        site.save(*self.files())
        # A session that is told to wait takes steps too, which a later run need not take: then their numbers are found anew.
        for _ in range(5):
            site.restore()
            site.control.reset()
            site.end(self.start("standby"))
            steps = site.control.steps()
            seen = Counter()
            for number, name in enumerate(steps, 1):
                seen[name] += 1
                if not picks(name, seen):
                    continue
                site.restore()
                site.control.reset(KILL_BEFORE, number)
                site.end(self.start("standby"))
                site.kill_daemon()
                if site.control["hits"] and site.status("vol")["state"] == wanted:
                    return
        self.test.fail(f"no step leaves {wanted}: {steps}")


class Full(Scenario):
    name, states = "full", {"empty", "initialising", "consistent"}

    def build(self) -> None:
        self.make()
        self.pair()

    def check(self, acknowledged: bool) -> str:
        found, states = self.digests(self.target), self.found_states()
        self.test.assertLessEqual(states, self.states)
        if acknowledged or states == {"consistent"}:
            self.test.assertEqual((found, states), (self.new, {"consistent"}))
            return "new"
        # Nothing is committed, and the state says so.
        return "old"


class Resync(Scenario):
    """Of a copy that somebody else has written to."""

    name, states = "resync", {"diverged", "consistent"}

    def build(self) -> None:
        super().build()
        self.write(self.target["vol"], 40 * BLOCK + 3, b"not ours")
        self.test.assertEqual(self.site.run("blockferryd", "scrub", "vol").code, 8)

    def command(self) -> list:
        return ["blockferry", "resync", self.source["vol"], "--to", "standby", "--volume", "vol", "--json"]

    def again(self) -> Result:
        # The first copy is made by a send.
        return super().again() if self.target["vol"].stat().st_size else self.site.send("vol", self.source["vol"])


class ResyncInPlace(Resync):
    """The copy is given up at the beginning: until the end the state says that it is none."""

    name, states = "resync-in-place", {"diverged", "initialising", "empty", "consistent"}

    def command(self) -> list:
        return [*super().command(), "--in-place"]

    def check(self, acknowledged: bool) -> str:
        found, states = self.digests(self.target), self.found_states()
        self.test.assertLessEqual(states, self.states)
        if states == {"diverged"}:
            self.test.assertEqual(found, self.old)
        if acknowledged or states == {"consistent"}:
            self.test.assertEqual((found, states), (self.new, {"consistent"}))
        return "new" if states == {"consistent"} else "old"


class Resume(Scenario):
    """An increment of two segments, of which the first is on the standby."""

    name = "resume"
    size = (18 << 20) + 700

    def make(self) -> None:
        self.fill(0)

    def fill(self, salt: int) -> None:
        # Blocks that differ and compress well.
        with open(self.source["vol"], "wb" if salt == 0 else "r+b") as file:
            for number in range(self.size // BLOCK):
                file.write(f"{salt} {number:06} ".encode().ljust(64, b".") * (BLOCK // 64))
            file.write(self.rng.randbytes(self.size % BLOCK))

    def build(self) -> None:
        self.make()
        self.pair()
        self.must(self.again())
        self.fill(1)
        old = sha256(self.target["vol"])

        def second(name: str, seen: Counter) -> bool:
            return name.startswith("fdatasync staging/") and seen[name] >= 3

        # The log's header is the first, then one for each segment.
        self.interrupt(second, "staging")
        self.test.assertEqual(sha256(self.target["vol"]), old)


class Applying(Scenario):
    """The daemon died while it applied; what dies at each step now is its recovery."""

    name, sides, states = "recovery", ("standby",), {"consistent"}

    def build(self) -> None:
        super().build()
        self.interrupt(lambda name, _: name.startswith("pwrite") and name.endswith(".copy"), "applying")

    def start(self, side: str) -> subprocess.Popen | None:
        if self.building:
            return super().start(side)
        self.site.control.arm()
        self.site.begin_daemon(self.site.control.environment(*self.roots(side)))
        return None

    def check(self, acknowledged: bool) -> str:
        self.test.assertEqual((self.digests(self.target), self.found_states()), (self.new, {"consistent"}))
        return "new"


class Promote(Scenario):
    """Of a volume with an unfinished increment."""

    name, sides, states = "promote", ("command",), {"staging", "consistent", "promoted"}
    left = ("fdatasync staging/", "staging")

    def build(self) -> None:
        super().build()
        self.interrupt(lambda name, _: name.startswith(self.left[0]) or name.endswith(self.left[0]), self.left[1])

    def command(self) -> list:
        return super().command() if self.building else ["blockferryd", "promote", "vol"]

    def start(self, side: str) -> subprocess.Popen | None:
        if self.building:
            return super().start(side)
        self.site.control.arm()
        return self.site.begin(*self.command(), preload=self.site.control.environment(*self.roots(side)))

    def check(self, acknowledged: bool) -> str:
        kept = self.old
        found, states = self.digests(self.target), self.found_states()
        self.test.assertEqual(found, kept)
        self.test.assertLessEqual(states, self.states)
        if acknowledged:
            self.test.assertEqual(states, {"promoted"})
        return "new" if states == {"promoted"} else "old"

    def finish(self) -> None:
        before = self.digests(self.target)
        again = self.again()
        if self.found_states() == {"promoted"}:
            # A second promotion is told that it is one, or does nothing.
            self.test.assertIn(again.code, (0, 1, 7), again)
        else:
            self.test.fail(f"not promoted: {again}")
        self.test.assertEqual(self.digests(self.target), before)
        self.test.assertEqual(self.site.send("vol", self.source["vol"]).code, 7)
        self.must(self.site.run("blockferryd", "demote", "vol"))
        self.must(self.site.run("blockferry", "resync", self.source["vol"], "--to", "standby", "--volume", "vol",
                                "--overwrite-promoted"))
        self.test.assertEqual(self.digests(self.target), self.digests(self.source))
        self.follow()


class PromoteApplying(Promote):
    """Of a volume that is being applied: it is finished first."""

    name, states = "promote-applying", {"applying", "consistent", "promoted"}
    left = (".copy", "applying")

    def check(self, acknowledged: bool) -> str:
        # The daemon has recovered: what was being applied is there.
        self.old = self.new
        return super().check(acknowledged)


class Group(Scenario):
    """Both members are old, or both are new."""

    name, volumes, states = "group", ("data", "log"), {"consistent", "staging", "prepared"}

    def command(self) -> list:
        return ["blockferry", "send", *self.source.values(), "--to", "standby", "--group", "db",
                *(word for name in self.volumes for word in ("--volume", name)), "--json"]


class Import(Scenario):
    """An increment that came by disk."""

    name, sides = "import", ("command",)

    def build(self) -> None:
        super().build()
        self.exported = self.site.path / "vol.bfx"
        self.must(self.site.run("blockferry", "export", self.source["vol"], "--to", "standby", "--volume", "vol",
                                "--output", self.exported, "--json"))

    def command(self) -> list:
        if self.building:
            return super().command()
        return ["blockferryd", "import", "vol", self.exported, "--json"]

    def start(self, side: str) -> subprocess.Popen | None:
        assert self.site.begin_daemon()
        self.site.control.arm()
        return self.site.begin(*self.command(), preload=self.site.control.environment(*self.roots(side)))


class Verify(Scenario):
    """Of a generation that both sides have: whoever dies, nothing changes."""

    name, states = "verify", {"consistent"}

    def build(self) -> None:
        self.make()
        self.pair()
        self.must(self.again())

    def command(self) -> list:
        if self.building:
            return super().command()
        return ["blockferry", "verify", self.source["vol"], "--to", "standby", "--volume", "vol", "--json"]

    def follow(self) -> None:
        """The generation can be verified only as long as nobody writes to its source: another file goes on from there."""
        next_one = self.source["vol"].with_suffix(".next")
        next_one.write_bytes(self.source["vol"].read_bytes())
        self.write(next_one, 11 * BLOCK + 5, b"and on")
        self.site.settle("vol")
        self.must(self.site.run("blockferry", "send", next_one, "--to", "standby", "--volume", "vol", "--adopt-source"))
        self.test.assertEqual(sha256(self.target["vol"]), sha256(next_one))
        self.site.settle("vol")
        self.test.assertTrue(self.must(self.site.run("blockferryd", "scrub", "vol", "--json")).json["clean"])


class Scrub(Import):
    """The same of the standby alone."""

    name = "scrub"

    def build(self) -> None:
        self.make()
        self.pair()
        self.must(self.again())

    def command(self) -> list:
        return super(Import, self).command() if self.building else ["blockferryd", "scrub", "vol", "--json"]
