# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Room for kept generations: they give way to the copy in a pool that is full, lead on where the target is lost, and are told
where pool or volume group become full."""

from __future__ import annotations

import json
import random
import re

import devices
from devices import MIB
from harness import LiveTest, command, until
from test_standby import Source

SIZE = 8 * MIB
BLOCK = 64 << 10


class KeptTest(LiveTest):
    """A thin target of 8 MiB, all of it with content."""

    def begin(self, size: int, *keep: str) -> None:
        self.standby.pool(size=size)
        self.target = self.standby.thin("copy", SIZE)
        self.host = self.site()
        self.origin = Source(self, self.host, SIZE)
        self.host.pair("db", self.target)
        if keep:
            self.assert_code(self.host.run("blockferryd", "keep", "db", *keep), 0)
        self.random = random.Random(7)
        self.digests: dict[int, str] = {}
        self.origin.arrives(self.host, self.target, 1)
        self.digests[1] = devices.sha256(self.target)

    def rewrite(self, offset: int, length: int) -> None:
        self.origin.fill(offset, length, self.random)

    def generation(self, number: int, offset: int = 0, length: int = 4 * MIB) -> None:
        self.rewrite(offset, length)
        self.origin.arrives(self.host, self.target, number)
        self.digests[number] = devices.sha256(self.target)

    def kept(self) -> list[int]:
        return [entry["generation"] for entry in self.host.status("db")["kept"]]

    def keeping(self) -> dict:
        return self.host.status("db")["keeping"]

    def assert_kept(self, *numbers: int) -> None:
        """The catalog and LVM agree, and what is kept is what it was."""
        self.assertEqual(self.kept(), list(numbers))
        names = [f"copy_blockferry_g{number}" for number in numbers]
        self.assertEqual(sorted(name for name in self.standby.tagged() if name.startswith("copy_")), sorted(names))
        for number, name in zip(numbers, names):
            self.assertEqual(devices.sha256(self.standby.active(name)), self.digests[number], name)
            command("lvchange", "-qq", "-an", f"sby/{name}")

    def free_blocks(self) -> int:
        used, total = map(int, self.standby.pool_status()[2].split("/"))
        return total - used

    def events(self) -> str:
        return (self.host.path / "daemon.log").read_text()


class GivingWayTests(KeptTest):
    """Each generation rewrites the same half of the volume, 64 blocks of the pool, which only one kept one has each."""

    def test_the_oldest_kept_generations_give_way_to_the_copy_one_by_one(self) -> None:
        self.begin(24 * MIB, "--generations", "9")
        for number in range(2, 5):
            self.generation(number)
        self.assert_kept(4, 3, 2, 1)
        self.assertEqual(self.free_blocks(), 64)
        # One of them is enough for 96 blocks.
        self.generation(5, length=6 * MIB)
        self.assert_kept(5, 4, 3, 2)
        status = self.keeping()
        self.assertNotIn("problem", status)
        self.assertIn("no room for generation 5: generation 1", status["warning"])
        self.assertRegex(self.events(), "released: generation 1, sby/copy_blockferry_g1: the thin pool has no room for generation 5")
        self.assertIn("generation 1", self.assert_code(self.host.run("blockferryd", "status", "db"), 0).out)
        # Two of them go for 128; what somebody has open stays.
        command("lvchange", "-qq", "-ay", "-K", "sby/copy_blockferry_g2")
        with open(self.standby.path("copy_blockferry_g2"), "rb"):
            self.generation(6, length=8 * MIB)
        kept = self.kept()
        self.assertEqual((kept[:2], kept[-1], 3 in kept), ([6, 5], 2, False), kept)
        command("lvchange", "-qq", "-an", "sby/copy_blockferry_g2")
        self.generation(7, length=64 << 10)
        self.assertNotIn("before their time", self.keeping().get("warning", ""))

    def test_no_kept_generation_goes_for_one_that_would_not_fit_without_any(self) -> None:
        self.begin(15 * MIB, "--generations", "9")
        self.generation(2, length=6 * MIB)
        self.rewrite(0, 7 * MIB + 512 * 1024)
        refused = self.assert_code(self.host.send("db", self.origin.path), 12, "thin pool", "generation 2, as before")
        self.assertNotIn("before their time", refused.error)
        self.assert_kept(2, 1)
        self.standby.grow("pool", 32 * MIB)
        self.assert_code(self.host.send("db", self.origin.path), 0)
        self.digests[3] = devices.sha256(self.target)
        self.assert_kept(3, 2, 1)

    def test_the_snapshot_of_the_committed_generation_never_goes_and_what_went_is_told(self) -> None:
        self.begin(20 * MIB, "--generations", "9")
        self.generation(2)
        devices.write(self.standby.thin("filler", 6 * MIB), (0, 6 * MIB))
        self.assertEqual(self.free_blocks(), 32)
        self.rewrite(0, 7 * MIB)
        self.assert_code(self.host.send("db", self.origin.path), 12, "thin pool", "generation 2, as before", "generation 1")
        self.assertEqual(devices.sha256(self.target), self.digests[2])
        self.assert_kept(2)
        self.standby.remove("filler")
        self.assert_code(self.host.send("db", self.origin.path), 0)
        self.digests[3] = devices.sha256(self.target)
        self.origin.compare(self.target)
        self.assert_kept(3, 2)

    def test_snapshots_without_limits_are_the_operators(self) -> None:
        self.begin(20 * MIB, "--generations", "9")
        self.generation(2)
        self.generation(3)
        self.assert_code(self.host.run("blockferryd", "keep", "db", "--off"), 0)
        self.rewrite(0, 6 * MIB)
        self.assert_code(self.host.send("db", self.origin.path), 12, "thin pool")
        self.assert_kept(3, 2, 1)

    def test_kept_generations_give_way_to_one_that_is_being_applied(self) -> None:
        """That it does not fit is not certain before the commit: the committed one is not kept, so that nobody knows what of the
        target is shared."""
        self.begin(24 * MIB, "--generations", "9")
        for number in range(2, 5):
            self.generation(number)
        command("lvchange", "-qq", "--errorwhenfull", "y", "sby/pool")
        self.standby.remove("copy_blockferry_g4")
        devices.write(self.standby.thin("filler", 2 * MIB), (0, 2 * MIB))
        self.assertEqual(self.free_blocks(), 32)
        self.rewrite(0, 8 * MIB)
        self.host.send("db", self.origin.path)
        self.assertTrue(until(60, lambda: self.host.is_free("db") and self.host.status("db")["state"] == "consistent"),
                        self.host.status("db"))
        self.origin.compare(self.target)
        self.digests[5] = devices.sha256(self.target)
        self.assert_kept(5, 3, 2)
        self.assertIn("no room for generation 5: generation 1", self.keeping()["warning"])

    test_the_oldest_kept_generations_give_way_to_the_copy_one_by_one.cost = 40
    test_kept_generations_give_way_to_one_that_is_being_applied.cost = 30


class LostTargetTests(KeptTest):
    def follow(self, promoted, name: str = "again") -> None:
        """The commands of the line `next:`, as printed, with a name of the operator's."""
        line = next(line for line in promoted.error.splitlines() if line.startswith("next: "))
        found = re.search(r"(lvcreate .*?), (blockferryd retarget .*?), (blockferryd promote .*)$", line)
        self.assertTrue(found, line)
        make, retarget, promote = (text.replace("NEWNAME", name).split() for text in found.groups())
        command(*make)
        self.assert_code(self.host.run(*retarget), 0)
        self.assert_code(self.host.run(*promote), 0)
        status = self.host.status("db")
        self.assertEqual((status["state"], status["target"]), ("promoted", f"/dev/sby/{name}"))

    def test_a_lost_target_is_replaced_from_the_kept_snapshot_as_promote_says(self) -> None:
        self.begin(64 * MIB, "--generations", "3")
        self.generation(2)
        self.host.kill_daemon()
        # In use is not lost.
        with open(self.target, "r+b"):
            held = self.host.run("blockferryd", "promote", "db")
            self.assert_code(held, 9, "in use", "not-the-copy")
        self.standby.remove("copy")
        lost = self.assert_code(self.host.run("blockferryd", "promote", "db"), 9, "target-lost", "does not exist", "generation 2",
                                "/dev/sby/copy_blockferry_g2")
        self.assertNotIn("copy_blockferry_g1", lost.error)
        # Under the lost one's name: then the older ones stay the volume's.
        self.follow(lost, "copy")
        self.assertEqual(devices.sha256(self.target), self.digests[2])
        devices.write(self.target, (0, MIB))
        self.assert_code(self.host.run("blockferryd", "keep", "db", "--generations", "3"), 0)
        self.assert_kept(2, 1)

    def test_a_target_that_holds_something_else_is_replaced_too(self) -> None:
        self.begin(64 * MIB, "--generations", "3")
        self.generation(2)
        devices.write(self.target, (0, SIZE))
        self.follow(self.assert_code(self.host.run("blockferryd", "promote", "db"), 9, "target-lost", "generation 2"))
        self.assertEqual(devices.sha256("/dev/sby/again"), self.digests[2])

    def test_a_generation_that_only_the_log_holds_is_finished_on_the_kept_one_before(self) -> None:
        self.begin(64 * MIB, "--generations", "3")
        self.generation(2)
        # The pool has no room, so that generation 3 waits in its log.
        command("lvchange", "-qq", "--errorwhenfull", "y", "sby/pool")
        self.standby.remove("copy_blockferry_g1")
        filler = self.standby.thin("filler", 64 * MIB)
        devices.write(filler, (0, (self.free_blocks() - 8) * BLOCK))
        # Refused, as long as all is shared with a kept one.
        self.rewrite(0, 4 * MIB)
        self.assert_code(self.host.send("db", self.origin.path), 12, "thin pool")
        self.assertEqual(self.kept(), [2])
        command("lvrename", "-qq", "sby", "copy_blockferry_g2", "elsewhere")
        self.host.send("db", self.origin.path)
        command("lvrename", "-qq", "sby", "elsewhere", "copy_blockferry_g2")
        # The daemon tries again, and finds it again.
        self.assertTrue(until(60, lambda: self.kept() == [2]), self.host.status("db"))
        self.assertEqual(self.host.status("db")["state"], "applying")
        self.host.kill_daemon()
        self.assertTrue(until(20, lambda: self.host.is_free("db")))
        self.standby.remove("copy")
        lost = self.assert_code(self.host.run("blockferryd", "promote", "db"), 9, "target-lost", "generation 2", "generation 3")
        self.standby.remove("filler")
        self.follow(lost)
        self.origin.compare("/dev/sby/again")
        self.assertEqual(self.host.status("db")["generation"], 3)


class FullnessTests(KeptTest):
    def room(self) -> tuple[int, int]:
        """What LVM's text of the group can have, and what it has left."""
        area, free = map(int, command("vgs", "--noheadings", "--units", "b", "--nosuffix", "-o", "vg_mda_size,vg_mda_free",
                                      "sby").stdout.split())
        return area // 2 - 768, free

    def fill(self, left: int) -> list[str]:
        """Gives the group tags until so many bytes of its text are left."""
        tags: list[str] = []
        while (free := self.room()[1]) - left > 40:
            more = [f"filler{len(tags) + index}." + "x" * 900 for index in range(min(100, (free - left) // 950))]
            more = more or [f"filler{len(tags)}." + "x" * max(free - left - 40, 1)]
            command("vgchange", "-qq", *(word for tag in more for word in ("--addtag", tag)), "sby")
            tags += more
        return tags

    def test_a_kept_generation_takes_few_bytes_of_the_groups_text(self) -> None:
        self.begin(64 * MIB, "--generations", "20")
        limit, before = self.room()
        for number in range(2, 12):
            self.generation(number, length=4096)
        each = (before - self.room()[1]) / 10
        print(f"a kept generation takes {each:.0f} bytes of the group's text, which can have {limit}")
        self.assertTrue(300 < each <= 500, each)

    def test_a_group_whose_text_is_full_keeps_no_more_releases_still_and_says_so(self) -> None:
        self.begin(64 * MIB, "--generations", "4")
        for number in range(2, 5):
            self.generation(number, length=4096)
        limit, _ = self.room()
        tags = self.fill(limit // 10)
        self.generation(5, length=4096)
        self.assert_kept(5, 4, 3, 2)
        self.assertRegex(self.keeping()["warning"], r"LVM's metadata of the volume group of \S+ is (89|90) % full")
        tags += self.fill(limit // 30)
        # The copy goes on, what is beyond the limit goes, and what is left of the text is for others.
        for number in (6, 7):
            self.rewrite(4096, 4096)
            self.origin.arrives(self.host, self.target, number)
        self.assertEqual(self.kept(), [5, 4, 3])
        self.assertIn("metadata of volume group sby is full", self.keeping()["problem"])
        self.assertGreater(self.room()[1], 4096)
        command("lvcreate", "-qq", "-y", "-Wn", "-n", "operators", "-L", f"{MIB}b", "sby")
        fewer = self.host.run("blockferryd", "keep", "db", "--generations", "2")
        self.assert_code(fewer, 1, "is full")
        self.assertEqual(self.kept(), [5])
        command("vgchange", "-qq", *(word for tag in tags for word in ("--deltag", tag)), "sby")
        self.assert_code(self.host.run("blockferryd", "keep", "db", "--generations", "2"), 0)
        self.digests[7] = devices.sha256(self.target)
        self.assert_kept(7, 5)
        self.assertEqual(self.keeping(), {"generations": 2})

    def test_a_text_that_is_full_to_its_last_bytes_stops_no_release(self) -> None:
        self.begin(64 * MIB, "--generations", "3")
        for number in range(2, 4):
            self.generation(number, length=4096)
        self.fill(0)
        self.generation(4, length=4096)
        self.assertEqual(self.kept(), [3, 2])
        self.assert_code(self.host.run("blockferryd", "keep", "db", "--generations", "1"), 1)
        self.assertEqual(self.kept(), [3], "the newest stays until there is a newer one")

    def test_limits_that_do_not_fit_are_told(self) -> None:
        self.begin(64 * MIB, "--generations", "10")
        self.assertEqual(self.keeping(), {"generations": 10})
        kept = self.assert_code(self.host.run("blockferryd", "keep", "db", "--generations", "5000"), 0, "warning", "--metadatasize")
        fitting = int(re.search(r"room for about (\d+) kept generations of the 5000", kept.error)[1])
        self.assertTrue(900 < fitting < 1000, kept)
        self.assertIn("--metadatasize", json.dumps(self.keeping()))

    def test_a_pool_that_becomes_full_is_told_on_both_sides(self) -> None:
        self.begin(20 * MIB, "--generations", "9")
        for number in (2, 3):
            self.generation(number)
        self.generation(4, length=64 << 10)
        self.assertRegex(self.keeping()["warning"], r"the thin pool of \S+ is 8\d % full")
        self.source.pool(size=20 * MIB)
        volume = self.source.thin("live", 18 * MIB)
        devices.write(volume, (0, 17 * MIB))
        copy = self.standby.thick("live-copy", 18 * MIB)
        self.host.pair("live", copy)
        sent = self.assert_code(self.host.send_live("src/live", "live"), 0, "warning", "thin pool src/pool is 85 % full")
        self.assertEqual(sent.json["result"], "full")
        warnings = self.assert_code(self.host.run("blockferry", "status", "--json"), 0).json["warnings"]
        self.assertTrue(any("thin pool src/pool is 8" in text for text in warnings), warnings)
        self.assertIn("warning: the thin pool src/pool", self.host.run("blockferry", "status").out)

    test_a_group_whose_text_is_full_keeps_no_more_releases_still_and_says_so.cost = 40
    test_a_kept_generation_takes_few_bytes_of_the_groups_text.cost = 40
