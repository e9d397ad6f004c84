# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What the random administrator knows to be right, and the checks. He knows every byte, since only he writes to the sources.
He decides what content is right and what must not be written, never which exit code should come."""

from __future__ import annotations

import collections
import errno
import json
import os
import pathlib
import random
import re
import subprocess
import traceback

from contents import Classic, Content, File, Loop, Thin, attach, mark, object_of
from harness import BIN, until
from hosts import Ended, Site, Standby

USABLE = ("consistent", "staging", "prepared")
KINDS: dict[str, "Kind"] = {}


class Kind:
    """A kind of step: something that an administrator may do."""

    def __init__(self, run, weight: float, needs: tuple[str, str] | None) -> None:
        self.name, self.run, self.weight, self.needs = run.__name__.replace("_", "-"), run, weight, needs


def kind(weight: float, needs: tuple[str, str] | None = None):
    """Registers a kind, which `needs` a word in the help of a command: (command, word)."""
    def register(run):
        made = Kind(run, weight, needs)
        KINDS[made.name] = made
        return run
    return register


def has(command: str, word: str, cache: dict = {}) -> bool:
    """Whether the help of a command, such as "blockferry send", names a word."""
    if command not in cache:
        program, *rest = command.split()
        cache[command] = subprocess.run([BIN / program, *rest, "--help"], capture_output=True, text=True).stdout
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", cache[command]) is not None


class Wrong(Exception):
    """The programs did what they must not do."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


class Skip(Exception):
    """A step that is not possible as things are; it does not count."""


class Copy:
    """A volume on a standby."""

    def __init__(self, volume: str, source, standby: Standby, path: pathlib.Path) -> None:
        self.volume, self.source, self.standby, self.path = volume, source, standby, path
        self.is_chain = False
        self.forget()

    def forget(self) -> None:
        """Nothing was committed yet."""
        # What a generation may hold, by its id; more than one until it is seen.
        self.generations: dict[str, list[Content]] = {}
        self.attempts: list[Content] = []
        self.number = 0
        # What the administrator did to the target, its path or the standby's state since the copy was seen to be right.
        self.touched: list[str] = []
        # Whether he made the target longer: what lies behind the volume is not looked at, and stays until something is written.
        self.may_be_longer = False
        # Which object was sent, if the source is certain to know it.
        self.origin: tuple | None = None
        self.promoted: tuple | None = None
        self.export: tuple[pathlib.Path, Content] | None = None

    def __str__(self) -> str:
        return f"{self.volume}@{self.standby.name}"

    def attempt(self, contents: list[Content]) -> None:
        self.attempts = (self.attempts + [one for one in contents if one not in self.attempts])[-24:]


class Chained:
    """The copy that another standby keeps, as a source."""

    kind = "chain"

    def __init__(self, copy: Copy) -> None:
        self.copy = copy

    def arguments(self) -> list[str]:
        return [str(self.copy.path)]

    def content(self) -> Content | None:
        return Content.of(self.copy.path)

    def object(self) -> tuple:
        return object_of(self.copy.path)


class World:
    """The hosts, the copies, what was done, and what must hold."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rng, self.site = seed, random.Random(seed), Site()
        self.steps: list[str] = []
        self.commands = 0
        self.codes: collections.Counter = collections.Counter()
        self.refusals: collections.Counter = collections.Counter()
        self.now = ""
        # What stands in the way, and how it is taken away.
        self.obstacles: dict[str, object] = {}
        self.backups: dict[str, pathlib.Path] = {}
        self.strangers: dict[pathlib.Path, tuple | None] = {}
        self.held: dict[pathlib.Path, int] = {}
        self.unique = 0
        try:
            self.set_up()
        except BaseException:
            self.site.close()
            raise

    def close(self) -> None:
        for handle in self.held.values():
            os.close(handle)
        self.site.close()

    # Set-up

    def set_up(self) -> None:
        rng, site = self.rng, self.site
        size = rng.choice([1 << 20, 2 << 20, (2 << 20) + 4096 * 5, 4 << 20, 4 << 20])
        other = size if rng.random() < 0.6 else rng.choice([1 << 20, 3 << 20])
        folder = site.host / "sources"
        folder.mkdir()
        make = {"file": lambda name, size: File(folder / name, rng, size),
                "loop": lambda name, size: Loop(folder / name, rng, size, site.loops),
                "thin": lambda name, size: Thin(folder, name, rng, size),
                "classic": lambda name, size: Classic(folder, name, rng, size)}
        kinds = [rng.choice(["file", "file", "file", "loop"]), rng.choice(["file", "loop", "thin", "thin", "classic", "classic"])]
        self.sources = [make[each](f"source{number}", (size, other)[number]) for number, each in enumerate(kinds)]
        self.say(f"sources: {kinds[0]} of {size} bytes, {kinds[1]} of {other} bytes")
        self.copies: list[Copy] = []
        for number, source in enumerate(self.sources):
            for standby in site.standbys:
                target = site.disk / f"copy{number}-{standby.name}"
                if rng.random() < 0.25:
                    target = self.loop_target(target, 8 << 20)
                elif rng.random() < 0.2:
                    real = target.with_suffix(".img")
                    target.symlink_to(real)
                self.copies.append(Copy(f"v{number}", source, standby, target))
        # The target of a standby on this host, sent on to the other one.
        chained = self.copies[rng.randrange(len(self.copies))]
        site.onward = chained.standby
        onward = site.standbys[1] if chained.standby is site.standbys[0] else site.standbys[0]
        self.chain = Copy("chain", Chained(chained), onward, site.disk / "chain")
        self.chain.is_chain = True
        self.everyone = [*self.copies, self.chain]
        for copy in self.everyone:
            result = self.pair(copy)
            assert result.code == 0, result

    def loop_target(self, path: pathlib.Path, size: int) -> pathlib.Path:
        """A loop device over a new file, by a symbolic link. The file has all its storage: where that runs out, Linux 6.16
        and later call a write to a loop device done that was cut short."""
        backing = self.site.attic / f"{path.name}.loop"
        with open(backing, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        return self.link_to_loop(path, backing)

    def link_to_loop(self, path: pathlib.Path, backing: pathlib.Path) -> pathlib.Path:
        link = self.site.path / "devices" / path.name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(attach(backing, self.site.loops))
        return link

    def new_path(self, stem: str) -> pathlib.Path:
        self.unique += 1
        return self.site.disk / f"{stem}-{self.unique}"

    # What was done

    def say(self, text: str) -> None:
        self.steps.append(f"{len(self.steps)} {text}")

    def counted(self, words: tuple, result: Ended) -> Ended:
        self.commands += 1
        self.codes[self.now, result.code] += 1
        rule = re.search(r"\(rule ([a-z-]+)\)", result.error)
        if rule:
            self.refusals[rule[1]] += 1
        # A registration that is refused says it in words alone.
        for told, name in (("cannot be a target: ", "target-taken"), ("if that may be replaced", "occupied")):
            if not rule and told in result.error:
                self.refusals[name] += 1
        shown = " ".join(str(word) for word in words).replace(str(self.site.path), "…")
        self.say(f"  {shown[:300]} → {result.code} {result.said[:260].replace(str(self.site.path), '…') if result.code else ''}")
        if result.code in (-4, -5, -6, -7, -8, -11) or "Fatal error" in result.error:
            raise Wrong("trap", repr(result))
        if result.code == 2:
            raise Wrong("usage", f"{shown}: {result.said}")
        return result

    def blockferry(self, *words: object, **more) -> Ended:
        return self.counted(("blockferry", *words), self.site.blockferry(*words, **more))

    def blockferryd(self, standby: Standby, *words: object, **more) -> Ended:
        return self.counted((f"blockferryd[{standby.name}]", *words), self.site.blockferryd(standby, *words, **more))

    def did(self, text: str) -> None:
        """Something that another program did."""
        self.commands += 1
        self.codes[self.now, 0] += 1
        self.say("  " + text.replace(str(self.site.path), "…"))

    def pair(self, copy: Copy, *more: str) -> Ended:
        if not str(copy.path).startswith(str(self.site.path / "devices")) and not copy.path.is_symlink():
            more += ("--create",)
        elif copy.path.is_symlink() and not copy.path.exists():
            copy.path.resolve().touch()
        result = self.blockferryd(copy.standby, "invite", copy.volume, "--target", copy.path, "--address",
                                  copy.standby.address, *more)
        if result.code:
            return result
        found = re.search(r"bf1\.\S+", result.out)
        return self.blockferry("pair", found[0], "--name", copy.standby.name, "--own-name", "source")

    # What must hold

    def settle(self, copy: Copy) -> None:
        """Waits until nobody works on a volume any more: a worker that lost its sender goes on for a moment."""
        if not until(70, lambda: not copy.standby.is_busy(copy.volume)):
            raise Wrong("busy", f"the lock of {copy} is held for ever: {copy.standby.journal()}")

    def status(self, copy: Copy) -> dict | None:
        """What the standby says of a volume; None if it knows none of that name."""
        result = self.site.blockferryd(copy.standby, "status", copy.volume, "--json")
        try:
            volumes = json.loads(result.out)["volumes"]
        except (ValueError, KeyError):
            return None
        if not volumes:
            return None
        # An older state may name an older target.
        copy.path = pathlib.Path(volumes[0]["target"])
        return volumes[0]

    def see(self, copy: Copy, content: Content) -> None | str:
        """What of a copy is not this content."""
        seen = Content.of(copy.path, content.size, copy.may_be_longer)
        return None if seen == content else content.against(seen)

    def is_right(self, copy: Copy, right: list[Content], rule: str, facts: str = "") -> None:
        """A command ended with 0 and says so that the copy is right."""
        if not right:
            return
        faults = [self.see(copy, content) for content in right]
        if None not in faults:
            raise Wrong(rule, f"{copy} is not what it should be: {faults[-1]}; touched: {copy.touched}; "
                        f"{self.status(copy)}; {facts}")
        copy.touched = []

    def audit(self, copy: Copy) -> dict | None:
        """What `status` calls a generation is that, unless the administrator changed the target himself."""
        self.settle(copy)
        status = self.status(copy)
        if not status or status["state"] not in USABLE or "generation_id" not in status or copy.touched:
            return status
        seen = Content.of(copy.path, status["volume_bytes"], copy.may_be_longer)
        possible = copy.generations.get(status["generation_id"], copy.attempts)
        if seen in possible:
            copy.generations[status["generation_id"]] = [seen]
        elif self.status(copy) == status:
            raise Wrong("status", f"{copy} is {status['state']} at {status['generation']} and holds something else: "
                        f"{possible[-1].against(seen) if possible else 'nothing like it was sent'}")
        if status["generation"] < copy.number:
            raise Wrong("went-back", f"{copy} is at {status['generation']} after {copy.number} was committed")
        copy.number = status["generation"]
        return status

    def guard(self) -> dict:
        """What our programs must leave alone: sources, other files, copies that are promoted or in use."""
        files = {path: mark(path) for source in self.sources for path in source.files()}
        files |= {path: mark(path) for path in self.strangers}
        files |= {copy.path: mark(copy.path) for copy in self.everyone if copy.promoted}
        files |= {path: mark(path) for path in self.held}
        return files

    def guarded(self, before: dict, but: Copy | None = None, writing: bool = False) -> None:
        for path, facts in before.items():
            if but is not None and path == but.path and path not in self.held:
                continue
            if not writing and mark(path) != facts:
                raise Wrong("in-use-written" if path in self.held else "harmed", f"{path} was {facts} and is {mark(path)}")

    # Steps

    def step(self, name: str) -> None:
        self.now = name
        self.say(name)
        try:
            KINDS[name].run(self)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            # He fills the disk himself, and then cannot do everything either: what he wrote is in part there.
            for copy in self.everyone:
                copy.touched.append("a full disk")
            raise Skip from error

    def report(self, error: BaseException) -> str:
        text = "".join(traceback.format_exception(error)[-1:]) if isinstance(error, Wrong) else traceback.format_exc()
        journals = "".join(f"\n--- standby {one.name}\n{one.journal()[-700:]}" for one in self.site.standbys)
        return "\n".join([*self.steps, f"seed {self.seed}: {text}{journals}", f"BLOCKFERRY_SEED={self.seed} does the same again"])

