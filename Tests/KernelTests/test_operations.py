# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Runs every command of the manual, in the order of its sections and as it is written there."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile

import devices
import manual
from devices import MIB
from harness import ROOT, Disks, KernelTest, Volumes, acceptance, command, until
from lvm_helper import HelperSocket, fact

# Fewer commands than this are not the manual.
LEAST_COMMANDS, LEAST_FAILING, LEAST_COMPARED, LEAST_LINES = 120, 10, 20, 70

# What the manual writes and what is run in its place. There is nothing else.
#
#   HOST#               a shell of root in that host's own mount and UTS namespaces: its own /etc, /var/lib, /srv, name
#   HOST$               the same as the user that the daemon's unit names
#   bf1.…               the invitation that was printed last
#   .build/release      the directory of the programs under test
#   standby1, source1   127.0.0.1 and 127.0.0.2, in /etc/hosts; /etc/default/blockferryd makes each daemon listen there,
#                       since both hosts have one network
#   udev                there is none: the rules file that the manual installs is followed before and after each command
#   ```sh               what needs systemd, apt or a firewall is not run, but for `systemctl VERB blockferryd` and the start
#                       of blockferryd-lvm.socket, which are done as the units say: ExecStart, User, EnvironmentFile and others
PROGRAMS = ".build/release"
ADDRESSES = {"standby": "127.0.0.1", "source": "127.0.0.2"}
UNIT = pathlib.Path("usr/lib/systemd/system/blockferryd.service")
# `ls` looks at what a unit has left.
NOT_RUN = ("apt", "make", "nft", "systemctl", "udevadm", "journalctl", "ls")


class Host:
    """A host of the manual."""

    def __init__(self, name: str, where: pathlib.Path) -> None:
        self.name, self.where = name, where
        self.daemon: subprocess.Popen | None = None
        self.helper: HelperSocket | None = None
        where.mkdir()
        command("cp", "-a", "/etc", where / "etc")
        for directory in ("lib", "srv", "mnt"):
            (where / directory).mkdir()
        with open(where / "etc/hosts", "a") as hosts:
            hosts.writelines(f"{address} {host}1\n" for host, address in ADDRESSES.items())
        (where / "etc/default/blockferryd").write_text(f"BLOCKFERRYD_LISTEN={ADDRESSES[name]}:7441\n")
        script = (f"hostname {name}1; cd {shlex.quote(str(where))}; mount --bind lib /var/lib; mount --bind srv /srv; "
                  "mount --bind mnt /mnt; mount --bind etc /etc; echo ready; exec sleep 7200")
        self.inside = subprocess.Popen(["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", script],
                                       stdout=subprocess.PIPE, text=True)
        assert self.inside.stdout and self.inside.stdout.readline() == "ready\n", "no namespaces"

    def close(self) -> None:
        self.stop()
        if self.helper:
            self.helper.close()
        self.inside.kill()
        self.inside.wait()
        if self.inside.stdout:
            self.inside.stdout.close()

    def arguments(self, user: str, text: str) -> list[str]:
        become = [] if user == "root" else ["runuser", "-u", user, "--"]
        return ["nsenter", "--mount", "--uts", f"--target={self.inside.pid}", "--wd=" + str(ROOT), *become,
                "bash", "-c", text]

    def run(self, user: str, text: str, timeout: float = 120) -> subprocess.CompletedProcess:
        return subprocess.run(self.arguments(user, text), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=timeout, stdin=subprocess.DEVNULL)

    # In the place of udev and systemd

    def follow_rules(self) -> None:
        """Gives the nodes of the targets to the daemon's group, as the rules file says."""
        rules = self.where / "etc/udev/rules.d/60-blockferry-targets.rules"
        if not rules.exists():
            return
        text = rules.read_text()
        group, mode = re.findall(r'^GROUP="(\w+)", MODE="(\d+)"$', text, re.M)[0]
        number = int(re.findall(rf"^{group}:x:(\d+):", (self.where / "etc/group").read_text(), re.M)[0])
        for names in re.findall(r'DM_VG_NAME}=="([^"]+)", ENV{DM_LV_NAME}=="([^"]+)"', text):
            node = "/dev/mapper/" + "-".join(name.replace("-", "--") for name in names)
            if os.path.exists(node):
                os.chown(node, -1, number)
                os.chmod(node, int(mode, 8))

    def unit(self) -> dict[str, str]:
        """What the unit and its drop-ins say; the last one counts."""
        files = ["/" + str(UNIT), *sorted((self.where / "etc/systemd/system/blockferryd.service.d").glob("*.conf"))]
        facts = {}
        for path in files:
            for line in pathlib.Path(path).read_text().splitlines():
                key, separator, value = line.partition("=")
                if separator and key.isalpha():
                    facts[key] = value
        return facts

    def start_helper(self) -> None:
        """What `systemctl enable --now blockferryd-lvm.socket` does."""
        user = fact("blockferryd-lvm.socket", "SocketUser")
        number = int(re.findall(rf"^{user}:x:(\d+):", (self.where / "etc/passwd").read_text(), re.M)[0])
        self.helper = HelperSocket(number, lambda text: self.arguments("root", text), self.where / "helper.log")

    def service(self, verb: str) -> None:
        assert verb in ("start", "stop", "restart", "enable --now"), verb
        if verb in ("stop", "restart"):
            self.stop()
        if verb != "stop":
            self.start()

    def start(self) -> None:
        facts = self.unit()
        user = facts["User"]
        state = "/var/lib/" + facts["StateDirectory"]
        self.run("root", f"chown -R {user}: {state} && chmod {facts['StateDirectoryMode']} {state}")
        self.follow_rules()
        environment = facts["EnvironmentFile"].removeprefix("-")
        log = self.where / "daemon.log"
        log.touch()
        before = log.read_text().count("listening on ")
        with open(log, "ab") as sink:
            self.daemon = subprocess.Popen(self.arguments(user, f". {environment}; exec {facts['ExecStart']}"),
                                           stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        until(120, lambda: log.read_text().count("listening on ") > before or self.daemon.poll() is not None)
        if self.daemon.poll() is not None or log.read_text().count("listening on ") == before:
            raise AssertionError("the daemon does not listen: " + log.read_text())

    def stop(self) -> None:
        if self.daemon:
            self.daemon.terminate()
            self.daemon.wait(30)
            self.daemon = None


class OperationsTests(KernelTest):
    def setUp(self) -> None:
        Disks.prepare()
        Disks.wipe()
        # What the reader has: a volume in a thin pool and one outside, mounted, and room on the standby.
        self.source, self.standby = Volumes("vg0", Disks.source), Volumes("backup", Disks.standby)
        self.source.make()
        self.standby.make()
        self.source.pool("pool", size=256 * MIB)
        self.source.thin("home", 96 * MIB)
        self.source.thick("mail", 64 * MIB)
        where = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, where)
        self.hosts = {}
        for name in ADDRESSES:
            self.hosts[name] = Host(name, where / name)
            self.addCleanup(self.hosts[name].close)
        for name in ("home", "mail"):
            command("mkfs.ext4", "-q", self.source.path(name))
            done = self.hosts["source"].run(
                "root", f"mkdir /srv/{name} && mount /dev/vg0/{name} /srv/{name} && "
                f"dd if=/dev/urandom of=/srv/{name}/old bs=1M count=20 conv=fsync")
            self.assertEqual(done.returncode, 0, done.stdout)
        self.invitation = ""
        self.compared = self.lines = self.elsewhere = 0

    def test_every_command_of_the_manual(self) -> None:
        steps = manual.steps()
        ran = failing = 0
        for step in steps:
            if step.is_run:
                self.run_step(step)
                ran += 1
                failing += step.code != 0
            else:
                self.leave_out(step)
        wanted = sum(step.is_run for step in steps)
        print(f"operations manual: {ran} of {wanted} commands run, {failing} of them refused, {self.compared} copies "
              f"compared, {self.lines} lines of output found, {len(steps) - wanted} commands left to systemd and others",
              flush=True)
        self.assertEqual(ran, wanted)
        for count, least in ((ran, LEAST_COMMANDS), (failing, LEAST_FAILING), (self.compared, LEAST_COMPARED),
                             (self.lines, LEAST_LINES)):
            self.assertGreaterEqual(count, least)
        self.assertEqual(self.elsewhere, 4)
        # The tests of booted hosts run those.
        self.assertLess(len(steps) - wanted - self.elsewhere, 36, "too much of the manual is not run")

    test_every_command_of_the_manual.cost = 165

    def run_step(self, step: manual.Step) -> None:
        host = self.hosts[step.host]
        text = step.with_invitation(self.invitation).replace(PROGRAMS, str(acceptance.BIN))
        for each in self.hosts.values():
            each.follow_rules()
        done = host.run("root" if step.is_root else host.unit()["User"], text)
        print(f"{step}\n{done.stdout}", end="", flush=True)
        self.assertEqual(done.returncode, step.code, f"{step}\n{done.stdout}")
        if "blockferryd invite" in text:
            self.invitation = done.stdout.strip()
        for line in step.shown:
            if line.strip() not in ("", "…"):
                self.assertTrue(manual.is_shown(line, done.stdout), f"{step}: the manual shows\n{line}\nand it printed\n{done.stdout}")
                self.lines += 1
        if step.makes_a_copy:
            self.compare(step, shlex.split(text))

    def leave_out(self, step: manual.Step) -> None:
        """What is not run: only what the guest has not. The service is started and stopped in its place."""
        words = step.text.split()
        if step.is_of_readers_own_group:
            self.elsewhere += 1
            return
        self.assertIn(words[0], NOT_RUN, f"{step}: it belongs into a console block")
        if words[0] == "systemctl" and words[-1] == "blockferryd":
            print(f"{step} (as the unit says)", flush=True)
            self.hosts[step.host].service(" ".join(words[1:-1]))
        if step.text == "systemctl enable --now blockferryd-lvm.socket":
            print(f"{step} (as the units say)", flush=True)
            self.hosts[step.host].start_helper()

    def compare(self, step: manual.Step, words: list[str]) -> None:
        """Every copy that the command has made is its snapshot, byte for byte."""
        receiver = self.hosts["standby" if step.host == "source" else "source"]
        listed = json.loads(receiver.run(receiver.unit()["User"], "blockferryd volumes --json").stdout)["volumes"]
        targets = {entry["volume"]: entry["target"] for entry in listed}
        sources = [word for word in words[2:] if re.fullmatch(r"(vg0|backup)/\w+", word)]
        self.assertTrue(sources or "/" in words[2], step)
        for source in sources:
            group, volume = source.split("/")
            volume = words[words.index("--volume") + 1] if "--volume" in words else volume
            volumes = self.source if group == "vg0" else self.standby
            found = [row["lv_name"] for row in volumes.rows("lv_name,lv_tags")
                     if f"blockferry.volume={volume}" in row["lv_tags"].split(",")
                     and any(tag.startswith("blockferry.to=") for tag in row["lv_tags"].split(","))]
            self.assertEqual(len(found), 1, f"{step}: snapshots that are kept")
            was_active = volumes.is_active(found[0])
            if not was_active:
                command("lvchange", "-qq", "-ay", "-K", f"{group}/{found[0]}")
            self.assert_same(targets[volume], volumes.path(found[0]))
            if not was_active:
                command("lvchange", "-qq", "-an", f"{group}/{found[0]}")
            self.compared += 1
