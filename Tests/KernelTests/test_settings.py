# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""LVM as hosts have it: settings that shape what it prints, snapshots that somebody has open, groups without room, long names."""

from __future__ import annotations

import fcntl
import os
import pathlib
import shutil
import subprocess

import devices
from devices import MIB
from harness import VOLUME, Disks, LiveTest, command, suspended

LOCAL = pathlib.Path("/etc/lvm/lvmlocal.conf")

# Each changes what `lvs` prints, or what the other commands say, from what a program that reads it expects.
SETTINGS = [
    'report { list_item_separator = ";" }',
    'report { list_item_separator = "" }',
    "report { binary_values_as_numeric = 1 }",
    "report { compact_output = 1 }",
    'report { compact_output_cols = "lv_tags,origin" }',
    "report { prefixes = 1 }",
    "report { prefixes = 1 quoted = 0 }",
    "report { headings = 0 }",
    "report { headings = 2 }",
    "report { columns_as_rows = 1 }",
    "report { aligned = 0 buffered = 0 }",
    'report { separator = "|" }',
    'report { time_format = "%Y" }',
    'report { output_format = "json" }',
    "report { mark_hidden_devices = 0 }",
    "report { two_word_unknown_device = 1 }",
    'report { lvs_sort = "-lv_size" lvs_cols = "lv_name" }',
    'log { prefix = "LVM: " }',
    'log { prefix = "{" }',
    "log { command_names = 1 }",
    "log { indent = 1 verbose = 3 }",
    "log { silent = 1 }",
    'log { report_command_log = 1 command_log_selection = "all" }',
    'global { units = "s" suffix = 1 }',
    "global { si_unit_consistency = 0 }",
]


class SettingsTests(LiveTest):
    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(LOCAL.unlink, missing_ok=True)

    def send_under_each(self, volume: str, name: str, target: str) -> None:
        site = self.pair(target)
        devices.write(volume, (0, 2 * MIB))
        self.send(site, target, name, expect="full")
        for number, setting in enumerate(SETTINGS):
            devices.write(volume, ((number + 3) * MIB, 256 << 10))
            LOCAL.write_text(setting + "\n")
            with self.subTest(setting=setting):
                result = self.assert_code(site.send_live(f"src/{name}", "db"), 0)
                LOCAL.unlink()
                self.assertEqual(result.json["result"], "delta", setting)
                # One base, known by its tags, inactive if it is thin; nothing leaked.
                self.assert_copy(target, name)
                self.assertEqual(len([row for row in self.source.rows("lv_name") if "_blockferry_" in row["lv_name"]]), 1)
            LOCAL.unlink(missing_ok=True)

    def test_a_send_under_each_setting_that_shapes_reports_thin(self) -> None:
        self.source.pool()
        volume = self.source.thin("t")
        self.send_under_each(volume, "t", self.standby.thick("copy"))

    def test_a_send_under_each_setting_that_shapes_reports_classic(self) -> None:
        volume = self.source.thick("t")
        self.send_under_each(volume, "t", self.standby.thick("copy"))


class CleaningTests(LiveTest):
    def test_a_base_that_somebody_has_open_fails_no_send(self) -> None:
        self.source.pool()
        volume, target = self.source.thin("t"), self.standby.thick("copy")
        site = self.pair(target)
        devices.write(volume, (0, 2 * MIB))
        self.send(site, target, "t", expect="full")
        base = self.base("t")
        self.assertFalse(self.source.is_active(base), "a base is inactive between two sends")
        command("lvchange", "-qq", "-ay", "-K", f"src/{base}")
        with open(self.source.path(base), "rb"):
            for number in range(3):
                devices.write(volume, ((number + 3) * MIB, 4096))
                result = self.assert_code(site.send_live("src/t", "db"), 0)
                self.assertEqual(result.json["generation"], number + 2)
                self.assertIn("is not removed now", result.error)
            self.assertEqual(len(self.source.tagged()), 2)
            self.assertIn("leftover", site.run("blockferry", "status").out)
        devices.write(volume, (9 * MIB, 4096))
        self.send(site, target, "t")
        self.assertEqual(len(self.source.tagged()), 1)

    def test_the_base_rests_after_verify_and_after_a_send_that_failed(self) -> None:
        self.source.pool()
        volume, target = self.source.thin("t"), self.standby.thick("copy")
        site = self.pair(target)
        devices.write(volume, (0, 2 * MIB))
        self.send(site, target, "t", expect="full")
        self.assert_code(site.live("verify", "src/t", "db"), 0)
        self.assertFalse(self.source.is_active(self.base("t")))
        site.kill_daemon()
        self.assertNotEqual(site.send_live("src/t", "db").code, 0)
        self.assertFalse(self.source.is_active(self.base("t")))

    def test_leftovers_of_another_volume_make_room(self) -> None:
        """A killed send of one volume has left a snapshot that takes what the group has; the send of another one needs it."""
        one, two = self.source.thick("one"), self.source.thick("two")
        target, other = self.standby.thick("copy"), self.standby.thick("other")
        site = self.pair(target, "one")
        self.pair(other, "two", site)
        devices.write(one, (0, MIB))
        devices.write(two, (0, MIB))
        self.send(site, target, "one", "one", "--cow-size", "32M")
        free = int(float(command("vgs", "--noheadings", "--units", "m", "--nosuffix", "-o", "vg_free", "src").stdout)) - 40
        # Everything but what a store needs, taken by a send that is killed after its snapshot was made.
        process = site.start_live("src/one", "one", "--cow-size", f"{free}M", "--post-snapshot", "kill -9 $PPID")
        process.communicate(timeout=120)
        self.assertNotEqual(process.returncode, 0)
        if len(self.source.tagged("blockferry.volume=one")) < 2:
            self.fail("the killed send has left nothing")
        self.send(site, other, "two", "two", "--cow-size", "64M", expect="full")
        self.assertEqual(len(self.source.tagged("blockferry.volume=one")), 1)


class NameTests(LiveTest):
    def test_names_that_are_long_together(self) -> None:
        group = "customer-storage-of-the-second-floor"
        command("vgrename", "-qq", "src", group)
        self.addCleanup(command, "vgrename", "-qq", group, "src", check=False)
        self.source.group = group
        self.addCleanup(setattr, self.source, "group", "src")
        self.source.pool()
        name = "vm-100-disk-0-" + "x" * 60
        volume, target = self.source.thin(name), self.standby.thick("copy")
        site = self.pair(target)
        for number in range(2):
            devices.write(volume, (number * MIB, 65536))
            self.assert_code(site.send_live(f"{group}/{name}", "db"), 0)
        found = self.source.tagged("blockferry.volume=db")
        self.assertEqual(len(found), 1)
        self.assertRegex(found[0], "^vm-100-disk-0-x*_blockferry_[0-9a-f]{8}$")
        command("lvremove", "-qq", "-y", group)

    def test_a_volume_with_the_skip_flag_and_the_command_in_the_refusal(self) -> None:
        self.source.pool()
        volume, target = self.source.thin("t"), self.standby.thick("copy")
        devices.write(volume, (0, 65536))
        command("lvcreate", "-qq", "-y", "-s", "-n", "monday", "src/t")
        site = self.pair(target)
        refused = site.send_live("src/monday", "db")
        self.assertNotEqual(refused.code, 0)
        advice = next(line for line in refused.error.splitlines() if "lvchange" in line)
        subprocess.run(advice[advice.index("lvchange"):].split("\n")[0].strip(), shell=True, check=True)
        self.assert_code(site.send_live("src/monday", "db"), 0)

    def test_names_as_lvm_gives_them(self) -> None:
        self.source.pool()
        for name in ("LogVol00", "vm+data", "_db", ".hidden"):
            volume, target = self.source.thin(name), self.standby.thick("copy-" + name)
            site = getattr(self, "site_", None)
            if site is None:
                self.site_ = site = self.pair(target, name)
            else:
                self.pair(target, name, site)
            devices.write(volume, (0, MIB))
            self.assert_code(site.send_live(f"src/{name}", name), 0)
            devices.write(volume, (2 * MIB, 65536))
            self.assert_code(site.send_live(f"src/{name}", name), 0)
            self.assertEqual(len(self.source.tagged(f"blockferry.volume={name}")), 1)
            self.assert_code(site.live("verify", f"src/{name}", name), 0)


class SentenceTests(LiveTest):
    """What hosts' settings and other programs stop: told in words that lead on, and nothing is left behind."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(LOCAL.unlink, missing_ok=True)

    def sent(self, make: str, target: str | None = None) -> tuple:
        if make == "thin":
            self.source.pool()
        volume, target = getattr(self.source, make)("t"), target or self.standby.thick("copy")
        site = self.pair(target)
        devices.write(volume, (0, MIB))
        self.send(site, target, "t", expect="full")
        devices.write(volume, (2 * MIB, 65536))
        return site, target

    def refused(self, site, target: str, code: int, *words: str) -> str:
        """A send is refused, and the copy and the base are what they were."""
        before, digest = self.source.tags(), devices.sha256(target)
        refused = self.assert_code(site.send_live("src/t", "db"), code, *words)
        self.assertEqual((self.source.tags(), devices.sha256(target)), (before, digest), refused)
        self.assertEqual(suspended(), [], refused)
        return refused.error

    def test_a_group_that_may_not_be_activated(self) -> None:
        site, target = self.sent("thin")
        LOCAL.write_text('activation { volume_list = ["sby"] }\n')
        self.refused(site, target, 1, "volume_list", "@blockferry")
        # What the sentence says to add.
        LOCAL.write_text('activation { volume_list = ["sby", "@blockferry"] }\n')
        self.send(site, target, "t")

    def test_a_group_that_may_not_be_activated_classic(self) -> None:
        site, target = self.sent("thick")
        LOCAL.write_text('activation { volume_list = ["sby"] }\n')
        self.refused(site, target, 1, "volume_list")
        LOCAL.unlink()
        self.send(site, target, "t")

    def test_a_disk_that_a_filter_hides(self) -> None:
        site, target = self.sent("thick")
        LOCAL.write_text('devices { global_filter = ["r|.*|"] }\n')
        self.refused(site, target, 1, "global_filter")
        LOCAL.unlink()
        self.send(site, target, "t")

    def test_another_program_has_the_lock_of_the_group(self) -> None:
        site, target = self.sent("thin")
        LOCAL.write_text("global { wait_for_locks = 0 }\n")
        with open("/run/lock/lvm/V_src", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            error = self.refused(site, target, 3, "lock of a volume group", "fuser")
            advice = error[error.rindex("fuser"):].splitlines()[0].partition(" (rule")[0]
            found = subprocess.run(advice, shell=True, capture_output=True, text=True)
            self.assertIn(str(os.getpid()), found.stdout, (advice, found, os.listdir("/run/lock/lvm")))
        LOCAL.unlink()
        self.send(site, target, "t")

    def test_two_groups_of_one_name(self) -> None:
        target = str(Disks.mount / "copy")
        with open(target, "wb") as file:
            file.truncate(VOLUME)
        self.addCleanup(os.unlink, target)
        site, _ = self.sent("thick", target)
        other = command("vgs", "--noheadings", "-o", "vg_uuid", "sby").stdout.strip()
        # Its links keep LVM from giving the name; a disk that is attached later brings it all the same.
        shutil.rmtree("/dev/src")
        command("vgrename", "-qq", "--config", f'devices{{global_filter=["r|^{self.source.disk}$|","a|.*|"]}}', "sby", "src")
        error = self.refused(site, target, 1, "two volume groups have the same name", "vgs -o vg_name,vg_uuid")
        self.assertIn("vgrename UUID NEWNAME", error)
        command("vgrename", "-qq", other, "sby")
        self.send(site, target, "t")

    def test_a_device_in_the_pool_that_lvm_does_not_know(self) -> None:
        site, target = self.sent("thin")
        ids = [int(row["thin_id"]) for row in self.source.rows("lv_name,thin_id") if row["thin_id"]]
        self.source.message(f"create_thin {max(ids) + 1}")
        error = self.refused(site, target, 1, f"delete {max(ids) + 1}")
        advice = error[error.rindex("dmsetup message"):].splitlines()[0]
        subprocess.run(advice, shell=True, check=True)
        self.send(site, target, "t")
