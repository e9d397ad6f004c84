# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Groups: several volumes are committed together or not at all, whatever ends at whatever step."""

import fcntl
import os
import random
import shutil
import subprocess
import threading
import time
import unittest
from collections import Counter

from harness import BIN, Proxy, Result, Rogue, Site, sha256, until

import encode  # found by way of harness

TYPE = encode.TYPE
NAMES = ("data", "log")


class GroupSite(unittest.TestCase):
    """Two plain files on a source host and their targets, with a proxy between the hosts."""

    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()
        self.rng = random.Random(7)
        self.plain = {name: self.site.path / f"{name}.img" for name in NAMES}
        self.target = {name: self.site.path / f"{name}.copy" for name in NAMES}
        # What happens at the n-th piece that the standby answers, counted over all connections.
        self.answers, self.connections, self.step = 0, 0, lambda: False
        self.lock = threading.Lock()
        self.proxy = Proxy(self.site.port, self.count, self.trigger)
        self.addCleanup(self.proxy.close)
        for name in NAMES:
            self.plain[name].write_bytes(self.rng.randbytes(3 << 20) + bytes(1 << 20))
            self.site.pair(name, self.target[name], port=self.proxy.port)

    def count(self, data: bytes, at: int) -> bytes:
        if at == 0:
            self.connections += 1
        return data

    def trigger(self, data: bytes, at: int) -> bytes | None:
        with self.lock:
            self.answers += 1
            return None if self.step() else data

    def command(self) -> list:
        return [BIN / "blockferry", "send", *self.plain.values(), "--to", "standby", "--group", "db", "--volume", "data",
                "--volume", "log", "--json"]

    def start_group(self) -> subprocess.Popen:
        return subprocess.Popen(list(map(str, self.command())), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)})

    def send_group(self, *more: str) -> Result:
        return self.site.run("blockferry", *self.command()[1:], *more)

    def decisions(self) -> tuple[int, list[str]]:
        """What a dry run of the group says of each member."""
        result = self.send_group("--dry-run")
        self.assertEqual(result.json["group"], "db")
        return result.code, [volume["decision"] for volume in result.json["volumes"]]

    def change(self) -> None:
        """Something new in both, as one application would write it."""
        for path in self.plain.values():
            with open(path, "r+b") as file:
                for _ in range(3):
                    file.seek(self.rng.randrange(3 << 20))
                    file.write(self.rng.randbytes(20_000))

    def digests(self, paths: dict) -> tuple:
        return tuple(sha256(path) for path in paths.values())

    def states(self) -> tuple:
        return tuple(self.site.status(name)["state"] for name in NAMES)

    def generations(self) -> tuple:
        return tuple(self.site.status(name).get("generation") for name in NAMES)

    def settle(self) -> None:
        """Waits until no process of the standby has a volume, and a daemon has recovered what was to be recovered: what is
        found then is what a crash has left."""
        self.assertTrue(until(30, lambda: all(self.site.is_free(name) for name in NAMES)
                              and (self.site.daemon is None or "applying" not in self.states())))

    def full_copies(self) -> None:
        result = self.send_group()
        self.assertEqual(result.code, 0, result)
        self.assertEqual(self.digests(self.target), self.digests(self.plain))

    def cut_before_second(self) -> None:
        """Cuts the connection that would send the second member."""
        self.connections = 0
        self.step = lambda: self.connections >= 4
        result = self.send_group()
        self.step = lambda: False
        self.assertNotEqual(result.code, 0, result)
        self.settle()

    def stop_before_second(self) -> None:
        """Leaves the first member prepared, and the generation before on both targets."""
        self.cut_before_second()
        self.assertEqual(self.states(), ("prepared", "consistent"))
        self.assertEqual(self.decisions(), (0, ["wait", "delta"]))


class Groups(GroupSite):
    def test_life(self) -> None:
        """Full copies and increments; what did not change is left out; the second send of the same does nothing."""
        for number in range(1, 4):
            self.assertEqual(self.decisions(), (0, ["full" if number == 1 else "delta"] * 2))
            result = self.send_group()
            self.assertEqual(result.code, 0, result)
            self.assertEqual(result.json["group"], "db")
            kinds = [volume["result"] for volume in result.json["volumes"]]
            self.assertEqual(kinds, ["full" if number == 1 else "delta"] * 2)
            self.assertEqual(self.digests(self.target), self.digests(self.plain))
            self.assertEqual((self.states(), self.generations()), (("consistent",) * 2, (number,) * 2))
            again = self.send_group()
            self.assertEqual([volume["result"] for volume in again.json["volumes"]], ["up-to-date"] * 2, again)
            self.change()
        with open(self.plain["log"], "r+b") as file:
            file.write(b"only here")
        self.assertEqual(self.send_group().code, 0)
        with open(self.plain["log"], "r+b") as file:
            file.write(b"and again")
        self.assertEqual(self.decisions(), (0, ["up-to-date", "delta"]))
        result = self.send_group()
        self.assertEqual([volume["result"] for volume in result.json["volumes"]], ["up-to-date", "delta"], result)
        self.assertEqual(self.generations(), (4, 5))
        self.assertEqual(self.digests(self.target), self.digests(self.plain))

    def test_one_refused_means_none(self) -> None:
        """A member that is refused is found out before anything is sent, and is named."""
        self.full_copies()
        before = self.digests(self.target)
        self.change()
        os.truncate(self.plain["log"], 1 << 20)
        for words in ("size-shrunk", "promoted"):
            self.assertEqual(self.decisions(), (7, ["delta", "refuse"]))
            result = self.send_group()
            self.assertEqual((result.code, result.is_one_sentence), (7, True), result)
            self.assertIn(words, result.error)
            self.assertIn("log: ", result.error)
            self.assertEqual(self.digests(self.target), before)
            self.assertEqual(self.states()[0], "consistent")
            self.settle()
            self.site.run("blockferryd", "promote", "log")

    def test_a_damaged_map_is_made_again(self) -> None:
        self.full_copies()
        self.change()
        with open(self.site.source / "maps/data@standby", "r+b") as file:
            file.seek(8192 + 20)
            byte = file.read(1)
            file.seek(8192 + 20)
            file.write(bytes([byte[0] ^ 1]))
        self.assertEqual(self.decisions(), (0, ["delta"] * 2))
        result = self.send_group()
        self.assertEqual(result.code, 0, result)
        self.assertEqual(self.digests(self.target), self.digests(self.plain))

    def test_the_first_member_that_is_refused_decides(self) -> None:
        """Also where the standby refuses a later one; either is named."""
        self.full_copies()
        self.change()
        self.assertEqual(self.site.run("blockferryd", "remove", "log").code, 0)
        dry, real = self.send_group("--dry-run"), self.send_group()
        self.assertEqual((dry.code, dry.json), (real.code, real.json))
        self.assertIn("log: ", dry.error)
        os.truncate(self.plain["data"], 1 << 20)
        self.assertEqual(self.decisions(), (7, ["refuse"]))
        self.assertEqual(self.send_group().code, 7)

    def test_every_step(self) -> None:
        """At each answer of the standby its daemon ends, or the sender, or the connection: both old or both new."""
        self.full_copies()
        found, steps = Counter(), {}
        for kind in ("daemon", "sender", "connection"):
            wanted, generation = 0, self.generations()
            while True:
                self.change()
                old, new = self.digests(self.target), self.digests(self.plain)
                self.answers, self.connections, fired = 0, 0, threading.Event()
                process = None

                def step() -> bool:
                    if fired.is_set() or self.answers <= wanted:
                        return fired.is_set()
                    fired.set()
                    if kind == "daemon":
                        self.site.kill_daemon()
                    if kind == "sender":
                        process.kill()
                    return True

                # The sender must be known before the first answer comes.
                with self.lock:
                    self.step = step
                    process = self.start_group()
                process.communicate(timeout=60)
                self.step = lambda: False
                if self.site.daemon is None:
                    self.site.start_daemon()
                self.settle()
                now, states = self.digests(self.target), self.states()
                place = f"{kind} at answer {wanted}: {states}"
                self.assertIn(now, (old, new), place)
                if fired.is_set():
                    found["new" if now == new else "old"] += 1
                    found["prepared"] += "prepared" in states
                    # Prepared is what has not happened yet; and what has happened is on the targets.
                    self.assertTrue(now == old or "prepared" not in states, place)
                    self.assertTrue({"prepared", "staging", "consistent"}.issuperset(states), place)
                result = self.send_group()
                self.assertEqual(result.code, 0, (place, result, self.site.journal()[-2000:]))
                self.assertEqual(self.digests(self.target), new, place)
                self.assertEqual(self.states(), ("consistent",) * 2, place)
                generation = tuple(number + 1 for number in generation)
                self.assertEqual(self.generations(), generation, place)
                if not fired.is_set():
                    break
                wanted += 1
            steps[kind] = wanted
        print(f"groups, ended at every answer: {steps}, afterwards {dict(found)}")
        self.assertTrue(all(count >= 10 for count in steps.values()), steps)
        self.assertTrue(all(found[what] >= 5 for what in ("old", "new", "prepared")), found)

    def test_random_kills(self) -> None:
        """SIGKILL to the daemon or the sender at random times, also several times at one set of points in time."""
        kills_wanted = int(os.environ.get("BLOCKFERRY_GROUP_KILLS", "40"))
        seed = int(os.environ.get("BLOCKFERRY_SEED", time.time_ns() % 1_000_000))
        rng = random.Random(seed)
        began = time.monotonic()
        self.full_copies()
        usual = time.monotonic() - began
        found, kills = Counter(), 0
        while kills < kills_wanted:
            self.change()
            old, new = self.digests(self.target), self.digests(self.plain)
            for _ in range(rng.randint(1, 3)):
                process = self.start_group()
                time.sleep(rng.random() * usual * 1.1)
                if rng.random() < 0.5:
                    process.kill()
                else:
                    self.site.kill_daemon()
                process.communicate(timeout=60)
                kills += 1
                if self.site.daemon is None:
                    self.site.start_daemon()
                self.settle()
                now = self.digests(self.target)
                self.assertIn(now, (old, new), f"{self.states()} after kill {kills}, seed {seed}")
                found["new" if now == new else "old"] += 1
            result = self.send_group()
            self.assertEqual(result.code, 0, f"seed {seed}: {result}")
            self.assertEqual(self.digests(self.target), new, f"seed {seed}")
        print(f"groups, kills: {kills} (seed {seed}), afterwards {dict(found)}")
        self.assertGreaterEqual(kills, kills_wanted)

    def test_alone_meanwhile(self) -> None:
        """The group's sender is killed, and one member is sent alone at once, while the standby may still be committing
        the other: whichever comes first, the source knows what the standby holds."""
        self.full_copies()
        found, wanted = Counter(), 0
        while True:
            self.change()
            old, new = self.digests(self.target), self.digests(self.plain)
            self.answers, self.connections, fired = 0, 0, threading.Event()
            process = None

            def step() -> bool:
                # From the answers to the last member on.
                if self.connections >= 4 and not fired.is_set():
                    if self.passed >= wanted:
                        fired.set()
                        process.kill()
                    self.passed += 1
                return fired.is_set()

            self.passed = 0
            with self.lock:
                self.step = step
                process = self.start_group()
            process.communicate(timeout=60)
            self.step = lambda: False

            def completes() -> bool:
                result = self.site.send("data", self.plain["data"])
                self.assertIn(result.code, (0, 3), (wanted, result))
                return result.code == 0

            self.assertTrue(until(30, completes))
            self.settle()
            now = self.digests(self.target)
            self.assertEqual(now[0], new[0])
            self.assertIn(now[1], (old[1], new[1]))
            if fired.is_set():
                found["together" if now[1] == new[1] else "alone"] += 1
            result = self.send_group()
            self.assertEqual(result.code, 0, (wanted, result))
            self.assertEqual((self.digests(self.target), self.states()), (new, ("consistent",) * 2))
            if not fired.is_set():
                break
            wanted += 1
        print(f"groups, one member sent alone after a kill: {dict(found)}")
        self.assertTrue(found["together"] >= 2 and found["alone"] >= 2, found)

    def test_promoted_incomplete(self) -> None:
        """A member that waits for its group is promoted at the generation before, and so is the other."""
        self.full_copies()
        before = self.digests(self.target)
        self.change()
        self.stop_before_second()
        for name in NAMES:
            result = self.site.run("blockferryd", "promote", name)
            self.assertEqual(result.code, 0, result)
            self.assertIn("generation 1", result.out)
        self.assertEqual((self.digests(self.target), self.states()), (before, ("promoted",) * 2))
        result = self.send_group()
        self.assertEqual(result.code, 7, result)

    def test_a_first_copy_that_was_written_while_it_waited_is_not_committed(self) -> None:
        self.cut_before_second()
        self.assertEqual(self.states()[0], "prepared")
        with open(self.target["data"], "r+b") as file:
            file.seek(1 << 20)
            file.write(self.rng.randbytes(100))
        self.assertNotEqual(self.send_group().code, 0)
        self.assertEqual(self.states()[0], "diverged")
        for _ in range(2):
            self.assertEqual(self.send_group().code, 7)
        result = self.site.run("blockferry", "resync", self.plain["data"], "--to", "standby", "--volume", "data")
        self.assertEqual(result.code, 0, result)
        self.full_copies()

    def test_a_prepared_member_is_resynced_by_a_restored_source(self) -> None:
        """The source's state is one from before the generation that waits, and the lineage went on without it."""
        self.full_copies()
        backup = self.site.path / "backup"
        shutil.copytree(self.site.source, backup)
        self.change()
        self.full_copies()
        self.change()
        self.stop_before_second()
        shutil.rmtree(self.site.source)
        shutil.copytree(backup, self.site.source)
        self.assertEqual(self.send_group().code, 7)
        for name in NAMES:
            result = self.site.run("blockferry", "resync", self.plain[name], "--to", "standby", "--volume", name)
            self.assertEqual(result.code, 0, result)
        self.assertEqual(self.digests(self.target), self.digests(self.plain))
        self.change()
        self.full_copies()

    def leave_first_applying(self) -> tuple:
        """The group is committed, and its first member not on its target yet; returns what it should be."""
        self.full_copies()
        self.change()
        new = self.digests(self.plain)
        before = sha256(self.target["data"])
        held = open(self.site.standby / "locks/data")

        def step() -> bool:
            # While the last member is sent somebody has the first one, which therefore is not applied with it.
            if self.connections == 4:
                fcntl.flock(held, fcntl.LOCK_EX)
            if self.connections >= 5:
                self.site.kill_daemon()
            return self.connections >= 5

        self.connections, self.step = 0, step
        self.assertNotEqual(self.send_group().code, 0)
        self.step = lambda: False
        held.close()
        self.settle()
        self.assertEqual(self.states(), ("applying", "consistent"))
        self.assertEqual((sha256(self.target["data"]), sha256(self.target["log"])), (before, new[1]))
        return new

    def test_promoted_complete(self) -> None:
        """Once the last member is committed, each is promoted at the new generation, without daemon and network."""
        new = self.leave_first_applying()
        for name in NAMES:
            result = self.site.run("blockferryd", "promote", name)
            self.assertEqual(result.code, 0, result)
            self.assertIn("generation 2", result.out)
        self.assertEqual((self.digests(self.target), self.states()), (new, ("promoted",) * 2))

    def test_written_by_somebody_before_it_is_applied(self) -> None:
        """What the log does not touch is looked at before it is written again, and proven afterwards."""
        self.leave_first_applying()
        with open(self.target["data"], "r+b") as file:
            file.seek(3 << 20)
            file.write(b"somebody else")
        refused = self.site.run("blockferryd", "promote", "data")
        self.assertEqual((refused.code, self.states()), (11, ("suspect", "consistent")), refused)
        self.assertEqual(self.site.run("blockferryd", "promote", "data").code, 7)

    def test_its_target_is_gone_before_it_is_applied(self) -> None:
        """Another file in its place, of the same size, gets nothing; with the right one back it is finished."""
        new = self.leave_first_applying()
        target, away = self.target["data"], self.target["data"].with_suffix(".away")
        target.rename(away)
        for content in (None, bytes(4 << 20)):
            if content is not None:
                target.write_bytes(content)
            refused = self.site.run("blockferryd", "promote", "data")
            self.assertEqual((refused.code, self.states()[0]), (9, "applying"), refused)
        self.assertEqual(target.read_bytes(), content)
        away.rename(target)
        self.assertEqual(self.site.run("blockferryd", "promote", "data").code, 0)
        self.assertEqual(self.digests(self.target), new)

    def test_first_copies_promoted(self) -> None:
        """A full copy that waits for its group is no generation: there is nothing to promote."""
        self.cut_before_second()
        self.assertEqual((self.states(), self.generations()), (("prepared", "empty"), (None, None)))
        self.site.kill_daemon()
        self.site.start_daemon()
        self.assertEqual(self.states()[0], "prepared")
        result = self.site.run("blockferryd", "promote", "data")
        self.assertEqual((result.code, self.states()[0]), (7, "empty"), result)
        self.full_copies()

    def test_given_up(self) -> None:
        """A group that waits is given up for later points in time, or for one of its volumes alone."""
        self.full_copies()
        before = sha256(self.target["log"])
        self.change()
        self.stop_before_second()
        self.change()
        result = self.send_group()
        self.assertEqual(result.code, 0, result)
        self.assertEqual(self.digests(self.target), self.digests(self.plain))
        self.assertEqual(self.generations(), (2, 2))

        before = sha256(self.target["log"])
        self.change()
        self.stop_before_second()
        explained = self.site.run("blockferry", "explain", "--to", "standby", "--volume", "data", "--json")
        self.assertEqual((explained.json["decision"], explained.json["rule"]), ("wait", "prepared"), explained)
        self.settle()
        refused = self.site.run("blockferryd", "drop-transfer", "data")
        self.assertEqual((refused.code, "(rule prepared)" in refused.error), (7, True), refused)
        self.assertEqual(self.states()[0], "prepared")
        result = self.site.send("data", self.plain["data"])
        self.assertEqual(result.code, 0, result)
        self.assertEqual(sha256(self.target["data"]), sha256(self.plain["data"]))
        self.assertEqual((sha256(self.target["log"]), self.generations()), (before, (3, 2)))
        self.full_copies()
        self.assertEqual(self.generations(), (3, 3))

    def test_damaged_log(self) -> None:
        """A prepared generation whose log is damaged or gone is sent again, in the same group."""
        self.full_copies()
        log = self.site.standby / "staging/data.log"
        for number, damage in enumerate((
                lambda: log.unlink(), lambda: os.truncate(log, 4096),
                lambda: log.write_bytes(log.read_bytes()[:9000] + b"\xff" + log.read_bytes()[9001:])), start=2):
            self.change()
            self.stop_before_second()
            damage()
            self.full_copies()
            self.assertEqual(self.generations(), (number, number))


class RogueGroups(GroupSite):
    """The receiver decides by itself; it does not rely on the sender's good will."""

    def setUp(self) -> None:
        super().setUp()
        self.full_copies()
        self.before = self.digests(self.target)
        self.key = sha_of_peer(self.site)

    def open(self, name: str) -> tuple[Rogue, bytes]:
        self.assertTrue(until(20, lambda: self.site.is_free(name)))
        rogue = Rogue(self.site, self.site.source / "identity.pem")
        self.addCleanup(rogue.close)
        rogue.send("HELLO", encode.hello())
        rogue.answer()
        rogue.send("OPEN", encode.open_(name))
        kind, state = rogue.answer()
        self.assertEqual(kind, TYPE["STATE"])
        return rogue, state

    def announce(self, state: bytes, group: bytes, members: int) -> dict:
        return {"transfer": self.rng.randbytes(16), "kind": 2, "tag_algorithm": 1, "lineage": state[16:32],
                "number": int.from_bytes(state[32:40], "little") + 1, "parent": state[40:72], "volume_size": 4 << 20,
                "members": members, "group": group}

    def record(self, begin: dict) -> bytes:
        """A delta of nothing."""
        shared = {name: begin[name] for name in ("kind", "tag_algorithm", "lineage", "number", "parent", "volume_size")}
        return encode.generation(**shared, source_time=0, segment_count=0, delta_digest=encode.delta_digest([]),
                                 volume_root=bytes(32), sender_key_id=self.key, source_identity="")

    def commit(self, name: str, group: bytes, members: int) -> tuple[int, bytes, dict]:
        rogue, state = self.open(name)
        begin = self.announce(state, group, members)
        rogue.send("BEGIN", encode.begin(**begin))
        kind, payload = rogue.answer()
        if kind != TYPE["READY"]:
            return kind, payload, begin
        rogue.send("COMMIT", self.record(begin))
        kind, payload = rogue.answer()
        rogue.close()
        return kind, payload, begin

    def test_frames(self) -> None:
        group = self.rng.randbytes(16)
        kind, payload, begin = self.commit("data", group, 2)
        self.assertEqual(kind, TYPE["PREPARED"])
        self.assertEqual(payload[:8], (2).to_bytes(8, "little"))
        # Nothing begins in its place, also not the same transfer.
        for change in ({}, {"transfer": b"\1" * 16}, {"members": 0, "group": bytes(16)}):
            rogue, state = self.open("data")
            self.assertEqual((state[0], state[72:88]), (8, begin["transfer"]))
            rogue.send("BEGIN", encode.begin(**(begin | change)))
            kind, payload = rogue.answer()
            self.assertEqual((kind, payload[:2], b"prepared" in payload), (TYPE["REFUSE"], b"\5\0", True))
            rogue.close()
        # Another member says that the group has another size.
        kind, payload, _ = self.commit("log", group, 3)
        self.assertEqual((kind, b"group-mismatch" in payload), (TYPE["REFUSE"], True), payload)
        self.assertEqual(self.states(), ("prepared", "staging"))
        # ABANDON names a transfer; another one's does nothing.
        rogue, _ = self.open("data")
        rogue.send("ABANDON", encode.abandon(b"\1" * 16))
        kind, state = rogue.answer()
        self.assertEqual((kind, state[0]), (TYPE["STATE"], 8))
        rogue.send("ABANDON", encode.abandon(begin["transfer"]))
        kind, state = rogue.answer()
        self.assertEqual((kind, state[0], any(state[72:])), (TYPE["STATE"], 2, False))
        rogue.send("ABANDON", encode.abandon(begin["transfer"]))
        kind, again = rogue.answer()
        self.assertEqual((kind, again), (TYPE["STATE"], state))
        # The session goes on: a generation of no group is committed at once.
        alone = self.announce(state, bytes(16), 0)
        rogue.send("BEGIN", encode.begin(**alone))
        self.assertEqual(rogue.answer()[0], TYPE["READY"])
        rogue.send("ABANDON", encode.abandon(alone["transfer"]))
        kind, payload = rogue.answer()
        self.assertEqual((kind, payload[:2]), (TYPE["REFUSE"], b"\2\0"), "ABANDON after READY")
        rogue.close()
        self.assertEqual(self.digests(self.target), self.before)
        # The other member alone completes nothing.
        self.assertEqual(self.commit("log", group, 2)[0], TYPE["PREPARED"])
        self.assertEqual(self.commit("data", group, 2)[0], TYPE["COMMITTED"])
        self.assertEqual(self.generations()[0], 2)
        rogue, state = self.open("log")
        self.assertEqual((state[0], state[32]), (2, 2))

    def test_abandoned_too_late(self) -> None:
        """A group that becomes complete while one of its members is open is not dropped any more."""
        group = self.rng.randbytes(16)
        kind, _, begin = self.commit("data", group, 2)
        self.assertEqual(kind, TYPE["PREPARED"])
        waiting, state = self.open("data")
        self.assertEqual(state[0], 8)
        self.assertEqual(self.commit("log", group, 2)[0], TYPE["COMMITTED"])
        self.assertEqual(self.states(), ("applying", "consistent"))
        waiting.send("ABANDON", encode.abandon(begin["transfer"]))
        kind, state = waiting.answer()
        self.assertEqual((kind, state[0], state[32]), (TYPE["STATE"], 2, 2))
        waiting.close()
        self.settle()
        self.assertEqual((self.states(), self.generations()), (("consistent",) * 2, (2, 2)))


def sha_of_peer(site: Site) -> bytes:
    from decode import decode_peer_id
    return decode_peer_id(site.run("blockferry", "id").out.strip())["key_id"]


if __name__ == "__main__":
    unittest.main()
