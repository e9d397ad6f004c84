# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Two hosts with systemd and udev: every command of the manual as it is written, those of systemd, udev and apt among
them, and what the shipped units promise. Started by `run`.

The tests go on from each other, in the order of their names: `test_NN_manual` runs section NN of the manual."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import shutil
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "KernelTests")]
import guests
import manual

# What the manual writes and what is run in its place. There is nothing else.
#
#   HOST#   a shell of root on that host; HOST$ the same as the user of the daemon's unit
#   bf1.…   the invitation that was printed last; where `blockferry pair` asks for it, it is typed in
#   _gN     the number of the generation that was kept last: the timer has sent some more
#   G       the reader's own volume group (`test_pool_counters.py` of the kernel tests)
#   nft     not run: user-mode Linux has no tables of both families
PACKAGE, PROGRAMS = (pathlib.Path(os.environ[f"BOOTED_{name}"]) for name in ("PACKAGE", "PROGRAMS"))
# To see more than the first failure.
GOES_ON = os.environ.get("BOOTED_GOES_ON") == "1"
STEPS = manual.steps()
ELSEWHERE, LEAST_COMMANDS, LEAST_OF_SYSTEMD, LEAST_COMPARED, LEAST_LINES = 6, 150, 14, 20, 70
if os.environ.get("BOOTED_SHORT") == "1":
    # From nothing and back to nothing. `test_operations.py` of the kernel tests runs the rest, where there is no systemd.
    STEPS = [step for step in STEPS if re.match(r"(1|13)\. ", step.section)]
    ELSEWHERE, LEAST_COMMANDS, LEAST_OF_SYSTEMD, LEAST_COMPARED, LEAST_LINES = 2, 45, 12, 4, 15


def is_elsewhere(step: manual.Step) -> bool:
    return step.is_of_readers_own_group or re.search(r"\bnft", step.text) is not None


class BootedTests(unittest.TestCase):
    failed: str | None = None
    invitation = ""
    kept = (0, 0)
    ran = of_systemd = compared = lines = elsewhere = 0

    @classmethod
    def setUpClass(cls) -> None:
        cls.where = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.where)
        began = time.monotonic()
        cls.hosts = guests.boot(cls.where, PACKAGE, PROGRAMS)
        for host in cls.hosts.values():
            cls.addClassCleanup(host.close)
        cls.source, cls.standby = cls.hosts["source"], cls.hosts["standby"]
        print(f"two hosts are up after {time.monotonic() - began:.0f} s", flush=True)
        # What the reader has: a volume in a thin pool and one outside, mounted, and room on the standby.
        cls.standby.check("vgcreate -s 1m backup /dev/ubda")
        cls.source.check(
            "vgcreate -s 1m vg0 /dev/ubda && lvcreate -y --type thin-pool -c 64k -L 256M --poolmetadatasize 8M -n pool vg0 && "
            "lvcreate -y -V 96M -T vg0/pool -n home && lvcreate -y -L 64M -n mail vg0 && for name in home mail; do "
            "mkfs.ext4 -q /dev/vg0/$name && mkdir /srv/$name && mount /dev/vg0/$name /srv/$name && "
            "dd if=/dev/urandom of=/srv/$name/old bs=1M count=20 conv=fsync || exit 1; done")

    def setUp(self) -> None:
        if BootedTests.failed:
            self.fail(f"it goes on from {BootedTests.failed}, which failed")
        self.began = time.monotonic()

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        before = len(result.failures) + len(result.errors) if result else 0
        super().run(result)
        if result and len(result.failures) + len(result.errors) > before and not BootedTests.failed:
            if self._testMethodName.endswith("_manual") and not GOES_ON:
                BootedTests.failed = self._testMethodName
            for host in self.hosts.values():
                print(host.run("journalctl -b -n 80 --no-pager; systemctl --failed --no-pager"), flush=True)
        return result

    def tearDown(self) -> None:
        print(f"    {time.monotonic() - self.began:.1f} s", flush=True)

    # The manual

    def run_section(self, section: str) -> None:
        for step in STEPS:
            if step.section == section and GOES_ON:
                with self.subTest(str(step)):
                    self.run_step(step)
            elif step.section == section:
                self.run_step(step)

    def run_step(self, step: manual.Step) -> None:
        if is_elsewhere(step):
            BootedTests.elsewhere += 1
            return
        host = self.hosts[step.host]
        text = step.with_invitation(self.invitation)
        written, found = self.kept
        text = re.sub(r"(_blockferry_g)(\d+)", lambda name: f"{name[1]}{int(name[2]) + found - written}", text)
        began = time.monotonic()
        done = host.run(text, "root" if step.is_root else host.property("blockferryd", "User"))
        print(f"{step}    [{time.monotonic() - began:.1f} s]\n{done.output}", end="", flush=True)
        self.assertEqual(done.code, step.code, f"{step}\n{done.output}")
        BootedTests.ran += 1
        BootedTests.of_systemd += not step.is_run
        if "blockferryd invite" in text and "bf1." in done.output:
            BootedTests.invitation = re.findall(r"bf1\.\S+", done.output)[-1]
        if "blockferryd keep" in text and step.shown:
            numbers = [re.findall(r"_blockferry_g(\d+)", lines) for lines in ("\n".join(step.shown), done.output)]
            BootedTests.kept = (int(numbers[0][0]), int(numbers[1][0]))
        for line in step.shown:
            if line.strip() not in ("", "…"):
                self.assertTrue(manual.is_shown(line, done.output),
                                f"{step}: the manual shows\n{line}\nand it printed\n{done.output}")
                BootedTests.lines += 1
        if step.makes_a_copy:
            self.compare(step)

    def compare(self, step: manual.Step) -> None:
        """Every copy that the command has made is its snapshot, byte for byte."""
        words = shlex.split(step.text)
        sources = [word for word in words[2:] if re.fullmatch(r"(vg0|backup)/\w+", word)]
        self.assertTrue(sources, step)
        for source in sources:
            name = words[words.index("--volume") + 1] if "--volume" in words else source.split("/")[1]
            self.assert_copy(step.host, source, name)

    def assert_copy(self, sender: str, source: str, name: str) -> None:
        receiver = self.hosts["standby" if sender == "source" else "source"]
        user = receiver.property("blockferryd", "User")
        listed = json.loads(receiver.check("blockferryd volumes --json", user))["volumes"]
        target = {entry["volume"]: entry["target"] for entry in listed}[name]
        group = source.split("/")[0]
        listing = self.hosts[sender].check(
            f"lvs --noheadings --separator '|' -o lv_name,lv_active,lv_tags --select origin={source.split('/')[1]} {group}")
        rows = [line.strip().split("|") for line in listing.splitlines()]
        snapshots = [(row[0], row[1]) for row in rows if f"blockferry.volume={name}" in row[2].split(",")
                     and any(tag.startswith("blockferry.to=") for tag in row[2].split(","))]
        self.assertEqual(len(snapshots), 1, f"snapshots that are kept:\n{listing}")
        path, is_active = f"{group}/{snapshots[0][0]}", bool(snapshots[0][1])
        read = f"blockdev --getsize64 /dev/{path} && dd if=/dev/{path} bs=1M iflag=direct status=none | sha256sum"
        found = self.hosts[sender].check(
            read if is_active else f"lvchange -ay -K {path} && udevadm settle && {read}; lvchange -an {path}").split()
        size, wanted = int(found[0]), found[1]
        self.assertGreater(size, 0)
        copy = receiver.check(f"dd if={target} bs=1M iflag=direct,count_bytes count={size} status=none | sha256sum").split()[0]
        self.assertEqual(copy, wanted, f"{target} on {receiver.name} is not the snapshot of {source}")
        BootedTests.compared += 1

    # What the units promise

    def journal(self, host: guests.Guest, unit: str) -> str:
        return host.check(f"journalctl -b --no-pager -o cat -u {shlex.quote(unit)}")

    def await_property(self, host: guests.Guest, unit: str, name: str, wanted: str, seconds: float = 60) -> None:
        due = time.monotonic() + seconds
        while (found := host.property(unit, name)) != wanted:
            self.assertLess(time.monotonic(), due, f"{unit}: {name} is {found}, not {wanted}")

    def test_01_then_the_timer_sends(self) -> None:
        """The clock goes to the timer's next time, on both hosts."""
        host, job = self.source, "blockferry-send@home.service"
        self.assertEqual(host.property(job, "ExecMainExitTimestampMonotonic"), "0", "the timer has fired before its time")
        text = host.property("blockferry-send@home.timer", "NextElapseUSecRealtime")
        due = int(host.check(f"date +%s -d {shlex.quote(text)}"))
        now = int(host.check("date +%s"))
        self.assertTrue(0 <= due - now <= 16 * 60, f"{due} after {now}")
        for each in self.hosts.values():
            each.check(f"date -s @{due - 1}")
        deadline = time.monotonic() + 90
        while host.property(job, "ExecMainExitTimestampMonotonic") == "0":
            self.assertLess(time.monotonic(), deadline, "the timer did not start the job")
        self.await_property(host, job, "ActiveState", "inactive")
        self.assertEqual((host.property(job, "Result"), host.property(job, "ExecMainStatus")), ("success", "0"))
        self.assertRegex(self.journal(host, job), r"home (\d+→\d+ committed|\d+ up to date)")
        self.assert_copy("source", "vg0/home", "home")
        # The rest of the manual has the time to itself.
        host.check("systemctl stop blockferry-send@home.timer")

    def test_01_then_the_units_make_no_noise(self) -> None:
        for host, unit in ((self.source, "blockferry-send@home"), (self.standby, "blockferryd")):
            text = self.journal(host, unit)
            self.assertTrue(text.strip())
            self.assertNotIn("thread priority", text)

    def test_01_then_a_scrub_by_its_unit(self) -> None:
        self.standby.check("systemctl start blockferryd-scrub@home")
        self.assertEqual(self.standby.property("blockferryd-scrub@home", "Result"), "success")
        self.source.check("blockferry send vg0/home --to standby1")

    def test_01_then_an_invitation_asks_what_the_service_may_write(self) -> None:
        host, directory = self.standby, "/etc/systemd/system/blockferryd.service.d"
        host.check("install -d -o blockferryd -g blockferryd -m 700 /srv/replicas")
        invite = "blockferryd invite disk --target {} --create --address standby1:7441"
        refused = host.run(invite.format("/srv/replicas/disk"), "blockferryd")
        self.assertEqual(refused.code, 9, refused)
        for words in ("(rule read-only)", "the service", "ReadWritePaths="):
            self.assertIn(words, refused.output)
        # The service has another /tmp.
        hidden = host.run(invite.format("/tmp/disk"), "blockferryd")
        self.assertEqual(hidden.code, 9, hidden)
        self.assertIn("(rule missing)", hidden.output)
        host.check("test ! -e /srv/replicas/disk && test ! -e /tmp/disk")
        host.check(f"mkdir -p {directory} && printf '[Service]\nReadWritePaths=-/srv/replicas\nNoExecPaths=-/srv/replicas\n' "
                   f"> {directory}/replicas.conf && systemctl daemon-reload && systemctl restart blockferryd")
        invitation = host.check(invite.format("/srv/replicas/disk"), "blockferryd").split()[-1]
        self.source.check("dd if=/dev/urandom of=/srv/disk bs=1M count=3 conv=fsync && "
                          f"echo {invitation} | blockferry pair --invitation - --name standby1 && "
                          "blockferry send /srv/disk --to standby1 --volume disk")
        wanted = self.source.check("sha256sum < /srv/disk")
        self.assertEqual(host.check("sha256sum < /srv/replicas/disk"), wanted)

    # Each of these begins a send that takes as long as it is let.

    def begin_slow_job(self, mebibytes: int) -> None:
        """The job of `home`, in the middle of its transfer, at 2 Mbit/s."""
        self.source.check("tc qdisc add dev vec0 root tbf rate 2mbit burst 16k latency 400ms && "
                          f"dd if=/dev/urandom of=/srv/home/more bs=1M count={mebibytes} conv=fsync && "
                          "systemctl start --no-block blockferry-send@home")
        user, due = self.standby.property("blockferryd", "User"), time.monotonic() + 90
        while "staging" not in self.standby.check("blockferryd status home || true", user):
            self.assertLess(time.monotonic(), due, self.journal(self.source, "blockferry-send@home"))

    def full_speed(self) -> None:
        self.source.check("tc qdisc del dev vec0 root")

    def test_12_then_an_upgrade_in_a_transfer(self) -> None:
        """The daemon is another one afterwards, the transfer goes on by itself, and nobody was alarmed."""
        job = "blockferry-send@home.service"
        before, alarms = self.standby.property("blockferryd", "MainPID"), self.alarms()
        self.begin_slow_job(16)
        self.standby.check(f"apt install --reinstall ./{PACKAGE.name}")
        self.assertNotEqual(self.standby.property("blockferryd", "MainPID"), before)
        due = time.monotonic() + 60
        while not re.search("status=[45]/", self.journal(self.source, job)):
            self.assertLess(time.monotonic(), due, self.journal(self.source, job))
        self.full_speed()
        self.await_property(self.source, job, "ActiveState", "inactive", 240)
        self.assertEqual(self.source.property(job, "Result"), "success")
        self.assertGreaterEqual(int(self.source.property(job, "NRestarts")), 1)
        self.assertRegex(self.journal(self.source, job), r"home \d+→\d+ committed")
        self.assertEqual(self.alarms(), alarms)
        self.assert_copy("source", "vg0/home", "home")

    def test_12_then_stopping_a_job_is_no_failure(self) -> None:
        self.begin_slow_job(4)
        self.source.check("systemctl stop blockferry-send@home")
        self.full_speed()
        self.assertEqual((self.source.property("blockferry-send@home", "ActiveState"),
                          self.source.property("blockferry-send@home", "Result")), ("inactive", "success"))
        self.source.check("blockferry send vg0/home --to standby1 --wait 90")

    def alarms(self) -> int:
        return self.source.check("journalctl -b --no-pager -o cat -t root -t logger").count("has failed")

    def test_12_then_a_failure_alarms_once(self) -> None:
        """A code that a person has to look at: no second try."""
        alarms = self.alarms()
        self.source.check("""echo 'BLOCKFERRY_SEND_ARGUMENTS="/srv/disk --to nobody --volume disk"' > /etc/blockferry/wrong.env""")
        self.assertNotEqual(self.source.run("systemctl start blockferry-send@wrong").code, 0)
        self.await_property(self.source, "blockferry-send@wrong", "ActiveState", "failed")
        self.assertEqual((self.source.property("blockferry-send@wrong", "ExecMainStatus"),
                          self.source.property("blockferry-send@wrong", "NRestarts")), ("6", "0"))
        due = time.monotonic() + 30
        while self.alarms() == alarms:
            self.assertLess(time.monotonic(), due)
        self.assertEqual(self.alarms(), alarms + 1)
        self.source.check("systemctl reset-failed")

    def test_12_then_a_daemon_that_stands_still_is_replaced(self) -> None:
        host, unit = self.standby, "blockferryd"
        self.assertEqual(host.property(unit, "WatchdogUSec"), "1min")
        host.check("mkdir -p /run/systemd/system/blockferryd.service.d && cd /run/systemd/system/blockferryd.service.d && "
                   "printf '[Service]\nWatchdogSec=6\n' > soon.conf && systemctl daemon-reload && systemctl restart blockferryd")
        process = host.property(unit, "MainPID")
        time.sleep(14)
        self.assertEqual(host.property(unit, "MainPID"), process, "a daemon that goes round was ended")
        host.check(f"kill -STOP {process}")
        due = time.monotonic() + 60
        while host.property(unit, "MainPID") in ("0", process):
            self.assertLess(time.monotonic(), due, "a daemon that stands still was left")
        self.await_property(host, unit, "ActiveState", "active")
        self.assertIn("Watchdog timeout", self.journal(host, unit))
        host.check("rm /run/systemd/system/blockferryd.service.d/soon.conf && systemctl daemon-reload")
        self.source.check("blockferry send vg0/home --to standby1 --wait 90")
        self.assertNotEqual(host.run("systemctl reload blockferryd").code, 0)

    def test_99_the_whole_manual_was_run(self) -> None:
        print(f"operations manual: {self.ran} of {len(STEPS)} commands run, {self.of_systemd} of them of systemd, udev and apt; "
              f"{self.compared} copies compared, {self.lines} lines of output found", flush=True)
        self.assertEqual(self.ran + self.elsewhere, len(STEPS))
        self.assertEqual(self.elsewhere, ELSEWHERE)
        for count, least in ((self.ran, LEAST_COMMANDS), (self.of_systemd, LEAST_OF_SYSTEMD), (self.compared, LEAST_COMPARED),
                             (self.lines, LEAST_LINES)):
            self.assertGreaterEqual(count, least)


for section in dict.fromkeys(step.section for step in STEPS):
    number = re.match(r"(\d+)\. ", section)
    assert number, f"commands outside of a numbered section: {section!r}"
    setattr(BootedTests, f"test_{int(number[1]):02}_manual",
            lambda self, section=section: self.run_section(section))


if __name__ == "__main__":
    unittest.main(verbosity=2)
