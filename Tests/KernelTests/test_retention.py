# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Generations that a standby keeps as snapshots of a thin target: by number, by age, and through every mishap."""

from __future__ import annotations

import os
import pathlib
import stat
import sys
import tempfile
import time

import devices
from devices import MIB
from harness import KernelTest, command, until
from test_standby import Source

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "Protocol"))
import helper  # noqa: E402

SIZE = 8 * MIB


class RetentionTests(KernelTest):
    """One volume, sent again and again; what each generation held is remembered as a checksum."""

    def setUp(self) -> None:
        super().setUp()
        self.standby.pool()
        self.target = self.standby.thin("co-py", SIZE)
        self.digests: dict[int, str] = {}
        path = os.environ["PATH"]
        self.addCleanup(os.environ.__setitem__, "PATH", path)

    def begin(self, *keep: str) -> None:
        self.host = self.site()
        self.origin = Source(self, self.host, SIZE)
        self.host.pair("db", self.target)
        if keep:
            self.assert_code(self.host.run("blockferryd", "keep", "db", *keep), 0)

    def generation(self, number: int) -> None:
        self.origin.fill((number * 131072 + 4096) % SIZE, 200_000)
        self.origin.arrives(self.host, self.target, number)
        self.digests[number] = devices.sha256(self.target)

    def kept(self) -> list[int]:
        return [entry["generation"] for entry in self.host.status("db")["kept"]]

    def own(self) -> list[str]:
        return [name for name in self.standby.tagged() if name != "co-py"]

    def assert_kept(self, *numbers: int) -> None:
        """The catalog, LVM and the content agree."""
        status = self.host.status("db")
        self.assertEqual(self.kept(), list(numbers))
        self.assertIsNone(status["keeping"].get("problem"), status)
        self.assertEqual(len(self.own()), len(numbers))
        rows = {row["lv_name"]: row for row in self.standby.rows("lv_name,lv_attr,lv_tags,pool_lv,origin")}
        for entry in status["kept"]:
            group, name = entry["snapshot"].split("/")
            row = rows[name]
            self.assertEqual((group, row["lv_attr"][1], row["pool_lv"], row["origin"]), ("sby", "r", "pool", "co-py"))
            self.assertFalse(self.standby.is_active(name), name)
            self.assert_tags(row["lv_tags"].split(","), entry)
            self.assert_content(name, self.digests[entry["generation"]])

    def assert_tags(self, tags: list[str], entry: dict) -> None:
        """Two of them, which the reader of the specification understands."""
        packed, = (tag for tag in tags if tag != "blockferry")
        self.assertEqual((sorted(tags), len("".join(tags)) <= 100), (sorted(["blockferry", packed]), True), tags)
        read = helper.read_tag(packed.encode())
        self.assertEqual((read["volume"], read["number"], read["id"]), ("db", entry["generation"], entry["generation_id"]))

    def assert_content(self, name: str, digest: str) -> None:
        command("lvchange", "-qq", "-ay", "-K", f"sby/{name}")
        self.assertEqual(devices.sha256(self.standby.path(name)), digest, name)
        command("lvchange", "-qq", "-an", f"sby/{name}")

    def wrap(self, program: str, script: str) -> pathlib.Path:
        """Puts a script in the place of a program; REAL in it is the program. The daemon must be started again."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="wrapped.", dir="/run"))
        real = command("sh", "-c", f"command -v {program}").stdout.strip()
        path = folder / program
        path.write_text("#!/bin/sh\n" + script.replace("REAL", real) + "\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
        self.restart()
        return path

    def restart(self) -> None:
        self.host.kill_daemon()
        self.assertTrue(until(20, lambda: self.host.is_free("db")))
        self.host.start_daemon()

    # Limits

    def test_the_last_generations_are_kept_and_the_oldest_go(self) -> None:
        self.begin("--generations", "3")
        for number in range(1, 6):
            self.generation(number)
            self.assert_kept(*range(number, max(number - 3, 0), -1))
        fewer = self.assert_code(self.host.run("blockferryd", "keep", "db", "--generations", "2", "--json"), 0)
        self.assertEqual([entry["generation"] for entry in fewer.json["kept"]], [5, 4])
        self.assert_kept(5, 4)
        volumes = self.host.run("blockferryd", "volumes", "--json").json["volumes"]
        self.assertEqual([entry["generation"] for entry in volumes[0]["kept"]], [5, 4])
        self.assertEqual(volumes[0]["keeping"], {"generations": 2})

    def test_generations_go_by_age_but_the_newest_stays(self) -> None:
        self.begin("--for", "1s")
        self.generation(1)
        time.sleep(2.5)
        self.assert_kept(1)
        self.generation(2)
        self.assert_kept(2)
        self.assert_code(self.host.run("blockferryd", "keep", "db", "--generations", "9", "--for", "1h"), 0)
        self.generation(3)
        self.assert_kept(3, 2)

    def test_a_clock_that_leaps_takes_nothing_and_the_order_is_that_of_the_snapshots(self) -> None:
        leaps = []

        def leap(seconds: int) -> None:
            leaps.append(seconds)
            command("date", "-s", f"@{int(time.time()) + seconds}")

        self.addCleanup(lambda: command("date", "-s", f"@{int(time.time()) - sum(leaps)}"))
        day = 86_400
        self.begin("--generations", "2")
        self.generation(1)
        self.generation(2)
        leap(-5 * 365 * day)
        self.generation(3)
        self.assert_kept(3, 2)
        self.assert_code(self.host.run("blockferryd", "keep", "db", "--for", "7d"), 0)
        leap(5 * 365 * day)
        self.generation(4)
        self.assert_kept(4, 3, 2)
        # One send with a clock that is far ahead.
        leap(400 * day)
        self.origin.fill(5 * 131072, 200_000)
        self.origin.arrives(self.host, self.target, 5)
        self.digests[5] = devices.sha256(self.target)
        status = self.host.status("db")
        self.assertEqual(self.kept(), [5, 4, 3, 2])
        self.assertIn("by the clock", status["keeping"]["problem"])
        leap(-400 * day)
        self.generation(6)
        self.assert_kept(6, 5, 4, 3, 2)
        # The clock was right, says the operator.
        leap(400 * day)
        self.assertEqual(self.host.run("blockferryd", "keep", "db", "--for", "7d").code, 1)
        self.assertEqual(self.kept(), [6, 5, 4, 3, 2])
        self.generation(7)
        self.assertEqual(self.kept(), [7, 6, 5, 4, 3, 2])
        self.assert_code(self.host.run("blockferryd", "keep", "db", "--trust-clock"), 0)
        # Of what is dated between two others it is not known when it was made.
        self.assert_kept(7, 6, 5)

    def test_what_frees_comes_first_and_a_snapshot_that_cannot_be_made_holds_nothing_back(self) -> None:
        self.begin("--generations", "3")
        for number in range(1, 4):
            self.generation(number)
        self.assert_kept(3, 2, 1)
        path = self.wrap("lvcreate", "echo 'no room in the metadata' >&2; exit 5")
        self.generation(4)
        self.assertEqual(self.kept(), [3, 2])
        fewer = self.host.run("blockferryd", "keep", "db", "--generations", "2")
        self.assertEqual((fewer.code, "no room" in fewer.error), (1, True), fewer)
        self.assertEqual(self.kept(), [3])
        self.assertIn("no room", self.host.status("db")["keeping"]["problem"])
        path.unlink()
        self.assert_code(self.host.run("blockferryd", "keep", "db", "--generations", "2"), 0)
        self.assert_kept(4, 3)

    def test_the_archive_of_lvm_gets_no_file_of_ours(self) -> None:
        """It has those of the operator's own changes, and the backup of the group is of the last change."""
        local, folder = pathlib.Path("/etc/lvm/lvmlocal.conf"), pathlib.Path(tempfile.mkdtemp(prefix="archive.", dir="/run"))
        local.write_text(f'backup {{ archive = 1 backup = 1 archive_dir = "{folder}/archive" backup_dir = "{folder}/backup" }}\n')
        self.addCleanup(local.unlink)
        archive = folder / "archive"
        self.begin("--generations", "1")
        command("lvchange", "--addtag", "operators", "sby/co-py")
        before = sorted(archive.iterdir())
        self.assertTrue(before)
        for number in range(1, 4):
            self.generation(number)
        self.assert_kept(3)
        self.assertIn("blockferry_g3", (folder / "backup/sby").read_text())
        self.assertEqual(sorted(archive.iterdir()), before)
        command("lvchange", "--deltag", "operators", "sby/co-py")
        self.assertEqual(len(list(archive.iterdir())), len(before) + 1)

    def test_limits_are_given_with_the_invitation_and_taken_away(self) -> None:
        self.begin()
        self.generation(1)
        self.assertEqual((self.kept(), self.own()), ([], []))
        self.host.invite("db", self.target, "--keep", "2", "--keep-for", "7d")
        self.assertEqual(self.host.status("db")["keeping"], {"generations": 2, "for_seconds": 604_800})
        self.generation(2)
        # The one that the target still held when the limits came is kept too.
        self.assert_kept(2, 1)
        self.assert_code(self.host.run("blockferryd", "keep", "db", "--off"), 0)
        self.generation(3)
        self.assertEqual(self.kept(), [2, 1], "--off removes nothing and makes nothing")
        self.assertEqual(len(self.own()), 2)

    def test_limits_are_refused_where_nothing_can_be_kept(self) -> None:
        self.begin()
        thick, site = self.standby.thick("thick", SIZE), self.host
        for name, target in (("thick", thick), ("file", site.path / "file.img")):
            refused = site.run("blockferryd", "invite", name, "--target", target, "--create", "--address",
                               "127.0.0.1:1", "--keep", "2")
            self.assert_code(refused, 9, "thin", str(target))
            self.assertEqual(site.run("blockferryd", "status", name).code, 6, "the volume must not be registered")
            site.invite(name, target)
            self.assert_code(site.run("blockferryd", "keep", name, "--generations", "1"), 9, "thin", str(target))
        self.assert_code(site.run("blockferryd", "keep", "none", "--generations", "1"), 6)
        self.assertEqual(self.own(), [])

    # Only its own

    def test_nothing_is_removed_but_what_this_standby_made_for_this_volume(self) -> None:
        self.begin("--generations", "1")
        self.generation(1)
        tags = next(row["lv_tags"] for row in self.standby.rows("lv_name,lv_tags")
                    if row["lv_name"] == "co-py_blockferry_g1").split(",")
        packed, = (tag for tag in tags if tag != "blockferry")
        read = helper.read_tag(packed.encode())

        def other(**changes) -> list[str]:
            fields = {**read, **changes}
            return ["blockferry", helper.tag(bytes.fromhex(fields["standby"]), fields["volume"], fields["number"],
                                             bytes.fromhex(fields["id"]), fields["time"], fields["committed"])]
        foreign = {
            "by-hand": ["blockferry"],
            "another-volume": other(volume="db2"),
            "another-standby": other(standby="0123456789abcdef"),
            "no-mark": [packed],
            "writable": other(id="00" + read["id"][2:]),
        }
        for name, more in foreign.items():
            self.standby.snapshot(name, "co-py")
            command("lvchange", "-qq", *(word for tag in more for word in ("--addtag", tag)), f"sby/{name}")
        command("lvchange", "-qq", "-an", "sby/writable")
        command("lvchange", "-qq", "-prw", "sby/writable")
        for number in (2, 3):
            self.generation(number)
            self.assertEqual(self.kept(), [number])
        names = [row["lv_name"] for row in self.standby.rows("lv_name")]
        for name in foreign:
            self.assertIn(name, names)
        self.assertNotIn("co-py_blockferry_g1", names)

    def test_generations_with_the_tags_of_earlier_versions_are_kept_and_released(self) -> None:
        self.begin("--generations", "2")
        self.generation(1)
        self.generation(2)
        entry = self.host.status("db")["kept"][1]
        name = "co-py_blockferry_g1"
        packed, = (tag for tag in self.standby.tags()[name] if tag != "blockferry")
        read = helper.read_tag(packed.encode())
        first = [f"blockferry.{key}={value}" for key, value in (
            ("standby", read["standby"]), ("volume", "db"), ("generation", 1), ("id", read["id"]), ("time", read["time"]),
            ("committed", read["committed"]))]
        command("lvchange", "-qq", "--deltag", packed, *(word for tag in first for word in ("--addtag", tag)), f"sby/{name}")
        self.assert_code(self.host.run("blockferryd", "keep", "db", "--generations", "2"), 0)
        self.assertEqual(self.host.status("db")["kept"][1], entry)
        self.generation(3)
        self.assert_kept(3, 2)
        self.assertNotIn(name, [row["lv_name"] for row in self.standby.rows("lv_name")])

    def test_a_kept_generation_that_is_in_use_stays_until_it_is_not(self) -> None:
        self.begin("--generations", "1")
        self.generation(1)
        command("lvchange", "-qq", "-ay", "-K", "sby/co-py_blockferry_g1")
        with open(self.standby.path("co-py_blockferry_g1"), "rb"):
            self.generation(2)
            self.generation(3)
            self.assertEqual(self.kept(), [3, 1])
            self.assertIn("in use", self.host.status("db")["keeping"]["problem"].lower())
        command("lvchange", "-qq", "-an", "sby/co-py_blockferry_g1")
        self.restart()
        self.assert_kept(3)

    def test_a_kept_generation_that_the_operator_renamed_stays(self) -> None:
        self.begin("--generations", "1")
        self.generation(1)
        command("lvrename", "-qq", "sby", "co-py_blockferry_g1", "yesterday")
        for number in (2, 3):
            self.generation(number)
            self.assertEqual(self.kept(), [number])
        self.assertIn("yesterday", [row["lv_name"] for row in self.standby.rows("lv_name")])

    def test_a_kept_generation_that_was_written_stays_and_is_told(self) -> None:
        """It is read-only again; only the pool's metadata says so."""
        self.begin("--generations", "1")
        self.generation(1)
        name = "co-py_blockferry_g1"
        command("lvchange", "-qq", "-prw", f"sby/{name}")
        command("lvchange", "-qq", "-ay", "-K", f"sby/{name}")
        devices.write(self.standby.path(name), (0, 4096))
        command("lvchange", "-qq", "-an", f"sby/{name}")
        command("lvchange", "-qq", "-pr", f"sby/{name}")
        self.generation(2)
        self.assertIn(name, [row["lv_name"] for row in self.standby.rows("lv_name")])
        self.assertIn("written to it", self.host.status("db")["keeping"]["problem"])

    def test_a_snapshot_that_the_operator_removed_is_struck_out(self) -> None:
        self.begin("--generations", "5")
        for number in (1, 2):
            self.generation(number)
        self.standby.remove("co-py_blockferry_g1")
        self.generation(3)
        self.assert_kept(3, 2)

    # Mishaps

    def test_a_target_that_somebody_wrote_is_not_kept_as_the_generation_whose_snapshot_is_gone(self) -> None:
        """The catalog still knows that snapshot; what LVM has decides whether one is made."""
        self.begin("--generations", "3")
        for number in (1, 2, 3):
            self.generation(number)
        command("lvrename", "-qq", "sby", "co-py_blockferry_g3", "mine")
        devices.write(self.target, (0, SIZE))
        kept = self.host.run("blockferryd", "keep", "db", "--generations", "2")
        self.assert_code(kept, 1, "holds something else")
        self.assertEqual((self.kept(), sorted(self.own())), ([2, 1], ["co-py_blockferry_g1", "co-py_blockferry_g2", "mine"]))
        for number in (1, 2):
            self.assert_content(f"co-py_blockferry_g{number}", self.digests[number])

    def test_what_off_has_left_and_what_a_rename_brings(self) -> None:
        """After `--off` the snapshots are the operator's for good; a volume that is renamed keeps those that it has."""
        self.begin("--generations", "2")
        self.generation(1)
        self.generation(2)
        self.assert_code(self.host.run("blockferryd", "keep", "db", "--off"), 0)
        self.assert_code(self.host.run("blockferryd", "keep", "db", "--generations", "1"), 0)
        self.generation(3)
        self.assertEqual(self.kept(), [3])
        self.assertEqual(len([name for name in self.own() if name.startswith("co-py_blockferry_g")]), 3, self.own())
        self.assert_code(self.host.run("blockferryd", "rename", "db", "new"), 0)
        self.assert_code(self.host.run("blockferry", "rename", "db", "new", "--to", "standby"), 0)
        self.origin.fill(4096, 9000)
        self.assert_code(self.host.send("new", self.origin.path), 0)
        status = self.host.status("new")
        self.assertEqual([entry["generation"] for entry in status["kept"]], [4], status)
        self.assertEqual(self.own(), ["co-py_blockferry_g1", "co-py_blockferry_g2", "co-py_blockferry_g4"])

    def test_a_snapshot_that_fails_leaves_the_generation_committed_and_is_told(self) -> None:
        self.begin("--generations", "3")
        self.generation(1)
        path = self.wrap("lvcreate", "echo 'pool is full' >&2; exit 5")
        self.generation(2)
        status = self.host.status("db")
        self.assertEqual((status["state"], status["generation"], self.kept()), ("consistent", 2, [1]))
        self.assertIn("pool is full", status["keeping"]["problem"])
        log = (self.host.path / "daemon.log").read_text()
        self.assertIn("pool is full", log)
        text = self.assert_code(self.host.run("blockferryd", "status", "db"), 0).out
        self.assertIn("not kept", text)
        path.unlink()
        # The target still holds it, so it is kept after all.
        self.restart()
        self.assert_kept(2, 1)
        self.generation(3)
        self.assert_kept(3, 2, 1)

    def test_a_crash_around_the_snapshot_leaves_it_made_once(self) -> None:
        for moment, script in enumerate((
                'kill -9 "$PPID"; sleep 1; exit 5',
                'REAL "$@"; kill -9 "$PPID"; sleep 1; exit 0')):
            with self.subTest(moment=moment):
                if moment:
                    self.doCleanups()
                    self.setUp()
                self.begin("--generations", "3")
                self.generation(1)
                path = self.wrap("lvcreate", script)
                self.origin.fill(4096, 9000)
                lost = self.host.send("db", self.origin.path)
                self.assertNotEqual(lost.code, 0, "the worker was to die")
                self.assertTrue(until(20, lambda: self.host.is_free("db")))
                self.assertEqual(self.kept(), [1])
                self.assertEqual(len(self.own()), 1 + moment)
                self.digests[2] = devices.sha256(self.target)
                self.origin.compare(self.target)
                path.unlink()
                self.restart()
                self.assert_kept(2, 1)
                again = self.assert_code(self.host.send("db", self.origin.path), 0)
                self.assertEqual(again.json["result"], "up-to-date")
                self.generation(3)
                self.assert_kept(3, 2, 1)

    def test_a_crash_around_a_removal_leaves_it_removed(self) -> None:
        self.begin("--generations", "1")
        self.generation(1)
        path = self.wrap("lvremove", 'REAL "$@"; kill -9 "$PPID"; sleep 1; exit 0')
        self.origin.fill(4096, 9000)
        self.assertNotEqual(self.host.send("db", self.origin.path).code, 0)
        self.assertTrue(until(20, lambda: self.host.is_free("db")))
        self.digests[2] = devices.sha256(self.target)
        path.unlink()
        # The newer one was there before; the catalog hears of the removal when the volume is opened next.
        self.assertEqual((self.kept(), len(self.own())), ([2, 1], 1))
        self.restart()
        self.assert_kept(2)
        self.generation(3)
        self.assert_kept(3)

    # Life

    def test_kept_generations_outlive_promotion_and_reset(self) -> None:
        self.begin("--generations", "2")
        for number in (1, 2):
            self.generation(number)
        self.assert_code(self.host.run("blockferryd", "promote", "db"), 0)
        devices.write(self.target, (0, MIB))
        self.restart()
        self.assert_kept(2, 1)
        self.assert_code(self.host.run("blockferryd", "reset", "db", "--overwrite"), 7, "not-demoted")
        self.assert_code(self.host.run("blockferryd", "demote", "db"), 0)
        self.assert_code(self.host.run("blockferryd", "reset", "db", "--overwrite"), 0)
        self.assert_kept(2, 1)
        self.assert_code(self.host.run("blockferry", "forget", "--to", "standby", "--volume", "db"), 0)
        old = self.digests[2]
        # The new lineage begins with number 1 again.
        self.generation(1)
        self.digests[2] = old
        self.assert_kept(1, 2)
        names = self.own()
        self.assertEqual(len(names), 2)
        self.assertIn("co-py_blockferry_g2", names)

    def test_a_kept_generation_can_be_looked_into_and_gone_back_to(self) -> None:
        """The commands of docs/OPERATIONS.md."""
        self.begin("--generations", "3")
        for number in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                pathlib.Path(folder, "letter").write_text(f"generation {number}")
                command("mkfs.ext4", "-q", "-F", "-d", folder, self.origin.path, f"{SIZE // 1024}k")
            self.origin.arrives(self.host, self.target, number)
        where = tempfile.mkdtemp(prefix="mount.", dir="/run")
        self.addCleanup(self.unmount, where)
        snapshot = "sby/co-py_blockferry_g1"
        command("lvchange", "-ay", "-K", snapshot)
        command("mount", "-o", "ro,noload", self.standby.path("co-py_blockferry_g1"), where)
        self.assertEqual(pathlib.Path(where, "letter").read_text(), "generation 1")
        command("umount", where)
        command("lvchange", "-an", snapshot)
        self.assert_code(self.host.run("blockferryd", "promote", "db"), 0)
        command("lvcreate", "-s", "-kn", "-prw", "-n", "db-restored", snapshot)
        command("mount", self.standby.path("db-restored"), where)
        self.assertEqual(pathlib.Path(where, "letter").read_text(), "generation 1")
        pathlib.Path(where, "letter").write_text("written")
        command("umount", where)
        self.assertEqual(self.kept(), [2, 1])

    test_the_last_generations_are_kept_and_the_oldest_go.cost = 30
    test_a_crash_around_the_snapshot_leaves_it_made_once.cost = 30
    test_nothing_is_removed_but_what_this_standby_made_for_this_volume.cost = 15
    test_a_kept_generation_that_is_in_use_stays_until_it_is_not.cost = 35


class PoolRoomTests(KernelTest):
    """What a generation needs of the pool of a thin target is asked before the commit point, where it is certain."""

    def begin(self, size: int, *keep: str) -> None:
        self.standby.pool(size=size)
        self.target = self.standby.thin("copy", SIZE)
        self.host = self.site()
        self.origin = Source(self, self.host, SIZE)
        self.host.pair("db", self.target)
        if keep:
            self.assert_code(self.host.run("blockferryd", "keep", "db", *keep), 0)
        self.origin.arrives(self.host, self.target, 1)

    def test_a_generation_that_needs_more_blocks_than_the_pool_has_is_refused(self) -> None:
        self.begin(16 * MIB, "--generations", "1")
        self.origin.fill(0, 6 * MIB)
        self.origin.arrives(self.host, self.target, 2)
        devices.write(self.standby.thin("filler", 6 * MIB), (0, 6 * MIB))
        before = devices.sha256(self.target)
        self.origin.fill(MIB, 4 * MIB)
        self.assert_code(self.host.send("db", self.origin.path), 12, "thin pool", "generation 2, as before")
        self.assertEqual(self.host.status("db")["state"], "staging")
        self.assertEqual(devices.sha256(self.target), before)
        self.standby.grow("pool", 32 * MIB)
        result = self.assert_code(self.host.send("db", self.origin.path), 0)
        self.assertEqual((result.json["generation"], result.json["resumed_segments"] > 0), (3, True), result)
        self.origin.compare(self.target)

    def test_blocks_that_are_the_targets_alone_need_no_room(self) -> None:
        self.begin(8 * MIB)
        self.origin.fill(0, 6 * MIB)
        self.origin.arrives(self.host, self.target, 2)
        # Here too, although the catalog believes that a snapshot shares them.
        self.standby.grow("pool", 20 * MIB)
        self.assert_code(self.host.run("blockferryd", "keep", "db", "--generations", "2"), 0)
        self.origin.fill(0, MIB)
        self.origin.arrives(self.host, self.target, 3)
        for name in [name for name in self.standby.tagged() if name != "copy"]:
            self.standby.remove(name)
        devices.write(self.standby.thin("filler", 12 * MIB), (0, 11 * MIB))
        self.origin.fill(8192, 6 * MIB)
        self.origin.arrives(self.host, self.target, 4)
