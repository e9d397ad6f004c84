# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A random administrator of logical volumes: what he may do with ours and with LVM's programs, in any order, with kills. As
`Tests/AdministratorTests`, for what only device-mapper has. Whatever ends with 0 is true of the copy, to the byte; what is
his own stays; nothing stays suspended. `BLOCKFERRY_CAMPAIGN=1` makes twenty times as many steps."""

from __future__ import annotations

import collections
import os
import random
import re
import shutil
import tempfile
import time

import devices
from devices import MIB
from harness import SEED, STANDBY, LiveTest, command, suspended, until

STEPS = 1600 if os.environ.get("BLOCKFERRY_CAMPAIGN") == "1" else 80
# All of it is looked at by the standby before it takes anything.
SIZE = 4 * MIB
KINDS: list[tuple[float, str]] = []


def kind(weight: float):
    def register(function):
        KINDS.append((weight, function.__name__))
        return function
    return register


class Skip(Exception):
    """Not possible as things are."""


class AdministratorTests(LiveTest):
    """Two volumes, thin and classic, each with a target of its own kind; he is the only one who writes."""

    def test_random_administrator_of_logical_volumes(self) -> None:
        self.rng = random.Random(SEED)
        self.steps: list[str] = []
        self.codes: collections.Counter = collections.Counter()
        self.source.pool()
        self.standby.pool()
        self.host = self.site()
        self.volumes = {"t": self.source.thin("t", SIZE), "o": self.source.thick("o", SIZE)}
        self.targets = {"t": self.standby.thin("ct", SIZE), "o": self.standby.thick("co", SIZE)}
        self.promoted: dict[str, str] = {}
        self.touched: set[str] = set()
        # Volumes of his own by UUID, with what they hold: nothing of ours may remove or change them.
        self.own: dict[str, str] = {}
        self.backup = ""
        self.number = 0
        for name, path in self.volumes.items():
            devices.write(path, (0, SIZE // 2))
            self.invite(name)
        try:
            names = [name for _, name in KINDS]
            for name in self.rng.choices(names, [weight for weight, _ in KINDS], k=STEPS):
                self.steps.append(name)
                try:
                    getattr(self, name)()
                except Skip:
                    self.steps.append("  is not possible now")
                self.look()
            for name in self.volumes:
                self.get_going(name)
        except Exception as error:
            self.fail("\n".join([*self.steps, f"{error!r}", f"seed {SEED}", self.host.journal()[-1500:]]))
        sends = {code: count for (verb, code), count in self.codes.items() if verb == "send"}
        print(f"    {sum(self.codes.values())} commands in {STEPS} steps, seed {SEED}: "
              f"{dict(sorted((f'{verb} {code}', count) for (verb, code), count in self.codes.items()))}", flush=True)
        self.assertGreaterEqual(sends.get(0, 0) * 4, sum(sends.values()), "nearly everything is refused")
        self.assertGreaterEqual(len(set(self.steps) & set(names)), min(len(names), STEPS // 5))

    test_random_administrator_of_logical_volumes.cost = 200

    # Programs

    def ran(self, verb: str, words: str, code: int, said: str) -> int:
        self.codes[verb, code] += 1
        self.steps.append(f"  {verb} {words} → {code} {' '.join(said.split())[:240] if code else ''}")
        self.assertNotIn(code, (-4, -5, -6, -7, -8, -11), said)
        return code

    def invite(self, name: str, *more: str) -> int:
        result = self.host.run("blockferryd", "invite", name, "--target", self.targets[name], "--address",
                               f"127.0.0.1:{self.host.port}", *more)
        if self.ran("invite", name, result.code, result.error) == 0:
            word = re.search(r"bf1\.\S+", result.out)[0]
            result = self.host.run("blockferry", "pair", word, "--name", "standby", "--own-name", "source")
            self.ran("pair", name, result.code, result.error)
        return result.code

    def live(self, verb: str, name: str, *more: str, kill: bool = False) -> int:
        volume = self.lv_of(name)
        before = {each: self.digest(self.targets[each]) for each in self.promoted if "--overwrite-promoted" not in more}
        store = ["--cow-size", "12M"] if name == "o" and verb in ("send", "resync") else []
        process = self.host.start_live(volume, name, *store, *more, verb=verb)
        if kill:
            time.sleep(self.rng.random() * 3)
            process.kill()
        out, error = process.communicate(timeout=300)
        until(30, lambda: self.host.is_free(name))
        code = self.ran(verb, f"{volume} {' '.join(more)}{' killed' if kill else ''}", process.returncode, error or out)
        for each, digest in before.items():
            if self.digest(self.targets[each]) != digest:
                raise AssertionError(f"the promoted copy {each} was written")
        if code == 0 and verb in ("send", "resync") and "--dry-run" not in more and "--plan" not in more:
            self.assert_same(self.targets[name], self.volumes[name], devices.size(self.volumes[name]))
            self.touched.discard(name)
            self.promoted.pop(name, None)
        elif code == 0 and verb == "verify":
            self.assert_same(self.targets[name], self.volumes[name], devices.size(self.volumes[name]))
        return code

    def standby_runs(self, verb: str, name: str, *more: str) -> int:
        result = self.host.run("blockferryd", verb, name, *more)
        return self.ran(verb, f"{name} {' '.join(more)}", result.code, result.error)

    def lv_of(self, name: str) -> str:
        group, volume = self.volumes[name].removeprefix("/dev/mapper/").split("-", 1)
        return f"{group}/{volume}"

    @staticmethod
    def digest(path: str) -> str | None:
        return devices.sha256(path) if os.path.exists(path) else None

    def lvm(self, *words: object) -> None:
        """LVM's programs, which must do what they are told."""
        self.codes[str(words[0]), 0] += 1
        self.steps.append("  " + " ".join(map(str, words)))
        command(words[0], "-qq", "-y", *words[1:])

    def any(self) -> str:
        return self.rng.choice(list(self.volumes))

    def rows_by_uuid(self) -> dict[str, dict]:
        return {row["lv_uuid"]: row for volumes in (self.source, self.standby)
                for row in volumes.rows("lv_uuid,lv_name,vg_name,lv_tags,lv_attr,origin")}

    def look(self) -> None:
        """What must hold after each step."""
        self.assertEqual(suspended(), [])
        if self.own:
            rows = self.rows_by_uuid()
            for uuid, name in self.own.items():
                if uuid not in rows:
                    raise AssertionError(f"the administrator's own {name} is gone")

    def bases(self) -> list[dict]:
        """The snapshots of ours on the source."""
        return [row for row in self.source.rows("lv_uuid,lv_name,vg_name,lv_tags,lv_attr,origin")
                if "blockferry" in row["lv_tags"].split(",") and row["lv_uuid"] not in self.own]

    def a_base(self) -> dict:
        bases = self.bases()
        if not bases:
            raise Skip
        return self.rng.choice(bases)

    def takes(self, row: dict, name: str) -> None:
        self.own[row["lv_uuid"]] = name

    # Ours

    @kind(14)
    def send(self) -> None:
        self.live("send", self.any())

    @kind(16)
    def send_after_a_write(self) -> None:
        name = self.any()
        devices.write(self.volumes[name], *devices.scattered(self.rng.randrange(1 << 30), 3, SIZE))
        self.live("send", name)

    @kind(6)
    def send_and_kill(self) -> None:
        name = self.any()
        devices.write(self.volumes[name], *devices.scattered(self.rng.randrange(1 << 30), 3, SIZE))
        self.live("send", name, kill=True)

    @kind(2)
    def dry_run(self) -> None:
        self.live("send", self.any(), "--dry-run")

    @kind(3)
    def resync(self) -> None:
        self.live("resync", self.any())

    @kind(2)
    def verify(self) -> None:
        self.live("verify", self.any())

    @kind(2)
    def scrub(self) -> None:
        name = self.any()
        was = name in self.touched
        if self.standby_runs("scrub", name) == 0 and was:
            raise AssertionError(f"scrub finds nothing in {name}, which was written")

    @kind(2)
    def promote(self) -> None:
        name = self.any()
        was = name in self.touched and name not in self.promoted
        if self.standby_runs("promote", name) == 0:
            if was:
                raise AssertionError(f"{name} was promoted after it was written")
            self.promoted[name] = ""

    @kind(3)
    def cleanup(self) -> None:
        result = self.host.run("blockferry", "cleanup")
        self.ran("cleanup", "", result.code, result.error)

    @kind(1)
    def status(self) -> None:
        for program in ("blockferry", "blockferryd"):
            result = self.host.run(program, "status", "--json")
            self.ran("status", program, result.code, result.error)

    @kind(2)
    def crash_of_the_daemon(self) -> None:
        self.host.kill_daemon()
        self.host.start_daemon()

    @kind(1)
    def keep(self) -> None:
        self.standby_runs("keep", "t", "--generations", "2")

    # LVM's

    @kind(3)
    def snapshot_of_his_own(self) -> None:
        name = self.any()
        self.number += 1
        mine = f"mine{self.number}"
        store = ["-L", "12M"] if name == "o" else ["-kn"]
        group, volume = self.lv_of(name).split("/")
        self.lvm("lvcreate", "-s", *store, "-n", mine, f"{group}/{volume}")
        row = next(row for row in self.source.rows("lv_uuid,lv_name") if row["lv_name"] == mine)
        self.takes(row, mine)

    @kind(2)
    def remove_his_own(self) -> None:
        rows = self.rows_by_uuid()
        found = [uuid for uuid in self.own if uuid in rows]
        if not found:
            raise Skip
        uuid = self.rng.choice(found)
        row = rows[uuid]
        del self.own[uuid]
        self.lvm("lvremove", f"{row['vg_name']}/{row['lv_name']}")

    @kind(2)
    def merge_his_own(self) -> None:
        """Yesterday comes back: what is merged is gone as a snapshot, and the volume holds what it held."""
        rows = self.rows_by_uuid()
        found = [uuid for uuid in self.own if uuid in rows and rows[uuid]["origin"] in ("t", "o")]
        if not found:
            raise Skip
        uuid = self.rng.choice(found)
        row = rows[uuid]
        origin = f"{row['vg_name']}/{row['origin']}"
        del self.own[uuid]
        self.lvm("lvchange", "-an", origin)
        self.lvm("lvconvert", "--merge", f"{row['vg_name']}/{row['lv_name']}")
        self.lvm("lvchange", "-ay", origin)
        until(60, lambda: uuid not in self.rows_by_uuid())

    @kind(2)
    def take_over_a_base(self) -> None:
        """He renames a snapshot of ours, makes it writable and uses it: from now on it is his."""
        row = self.a_base()
        self.number += 1
        name = f"taken{self.number}"
        self.lvm("lvrename", row["vg_name"], row["lv_name"], name)
        self.takes(row, name)
        if self.rng.random() < 0.7:
            self.lvm("lvchange", "-prw", f"{row['vg_name']}/{name}")

    @kind(1)
    def make_a_base_writable(self) -> None:
        row = self.a_base()
        self.lvm("lvchange", "-prw", f"{row['vg_name']}/{row['lv_name']}")
        self.takes(row, row["lv_name"])

    @kind(1)
    def remove_a_base(self) -> None:
        row = self.a_base()
        self.lvm("lvremove", f"{row['vg_name']}/{row['lv_name']}")

    @kind(2)
    def deactivate_and_activate(self) -> None:
        name = self.rng.choice(["t", "o"])
        self.lvm("lvchange", "-an", self.lv_of(name))
        self.lvm("lvchange", "-ay", self.lv_of(name))

    @kind(1)
    def rename_the_source(self) -> None:
        name = self.any()
        group, volume = self.lv_of(name).split("/")
        self.number += 1
        new = f"{name}{self.number}"
        self.lvm("lvrename", group, volume, new)
        self.volumes[name] = self.source.path(new)

    @kind(1)
    def rename_a_target(self) -> None:
        """And back, or another one has its name."""
        name = self.any()
        path = self.targets[name].rpartition("-")[2]
        self.lvm("lvrename", STANDBY, path, "aside")
        self.standby_runs("status", name)
        self.lvm("lvrename", STANDBY, "aside", path)

    @kind(1)
    def make_a_target_anew(self) -> None:
        """Another volume has the target's name."""
        name = self.any()
        path = self.targets[name].rpartition("-")[2]
        if [row for row in self.standby.rows("lv_name,origin") if row["origin"] == path]:
            raise Skip
        self.lvm("lvremove", f"{STANDBY}/{path}")
        (self.standby.thin if name == "t" else self.standby.thick)(path, SIZE)
        self.steps.append(f"  another {path}")
        self.touched.add(name)
        self.promoted.pop(name, None)

    @kind(1)
    def merge_a_kept_generation(self) -> None:
        """lvconvert --merge: the target keeps its name and LVM's UUID, and holds an older generation."""
        kept = [row for row in self.standby.rows("lv_uuid,lv_name,lv_tags,origin") if "_blockferry_g" in row["lv_name"]]
        if len(kept) < 2:
            raise Skip
        row = min(kept, key=lambda row: int(row["lv_name"].rpartition("_g")[2]))
        self.lvm("lvchange", "-an", f"{STANDBY}/ct")
        self.lvm("lvconvert", "--merge", f"{STANDBY}/{row['lv_name']}")
        self.lvm("lvchange", "-ay", f"{STANDBY}/ct")
        until(60, lambda: row["lv_uuid"] not in self.rows_by_uuid())
        self.touched.add("t")

    @kind(2)
    def write_to_a_target(self) -> None:
        name = self.any()
        devices.write(self.targets[name], (self.rng.randrange(SIZE // 4096) * 4096, 4096))
        self.steps.append(f"  {name} is written")
        self.touched.add(name)

    @kind(1)
    def save_or_restore_the_state(self) -> None:
        if not self.backup:
            self.backup = tempfile.mkdtemp()
            shutil.copytree(self.host.source, f"{self.backup}/source")
            self.steps.append("  backup of the source's state")
            return
        shutil.rmtree(self.host.source)
        shutil.copytree(f"{self.backup}/source", self.host.source)
        shutil.rmtree(self.backup)
        self.backup = ""
        self.steps.append("  the source's state is restored")

    # The way back

    @kind(5)
    def get_one_going(self) -> None:
        self.get_going(self.any())

    def get_going(self, name: str) -> None:
        """What the manual says, until the copy is right."""
        adopt = ["--adopt-source"]
        if self.live("send", name) == 0 or self.live("resync", name, *adopt) == 0:
            return
        if self.standby_runs("demote", name) == 0 and self.live("resync", name, "--overwrite-promoted", *adopt) == 0:
            return
        self.standby_runs("remove", name)
        result = self.host.run("blockferry", "forget", "--to", "standby", "--volume", name)
        self.ran("forget", name, result.code, result.error)
        self.promoted.pop(name, None)
        self.invite(name, "--overwrite")
        if self.live("send", name) != 0:
            raise AssertionError(f"{name} cannot be brought up to date by anything in the manual")
