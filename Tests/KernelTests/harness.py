# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A source and a standby in one guest: volume groups on scratch disks, and the programs that users run, over TLS on
loopback. Runs only in the lab's guest; see `run`."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import devices
from devices import MIB

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE, STANDBY = "src", "sby"
VOLUME = 32 * MIB
# The seed of every random choice of a run; printed by `suite.py`.
SEED = int(os.environ.get("BLOCKFERRY_SEED", "1"))

if os.environ.get("LAB_GUEST") != "1":
    sys.exit("these tests make and remove volume groups: run them with Tests/KernelTests/run")

_specification = importlib.util.spec_from_file_location(
    "acceptance", ROOT / "Tests/AcceptanceTests/harness.py")
acceptance = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(acceptance)
Result, until = acceptance.Result, acceptance.until


def command(*arguments: object, check: bool = True, timeout: float = 300, env: dict | None = None,
            ) -> subprocess.CompletedProcess:
    done = subprocess.run([str(argument) for argument in arguments], capture_output=True, text=True, timeout=timeout,
                          env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


# What stands at the other side of a lab: disks, volume groups, dm devices.

class Volumes:
    """The logical volumes of one volume group."""

    def __init__(self, group: str, disk: str) -> None:
        self.group, self.disk = group, disk

    def make(self) -> None:
        command("vgcreate", "-qq", "-y", "-s", "1m", self.group, self.disk)

    def path(self, name: str) -> str:
        return f"/dev/mapper/{mapped(self.group)}-{mapped(name)}"

    def active(self, name: str) -> str:
        """The path of a volume that rests between sends, active from now on."""
        if not self.is_active(name):
            command("lvchange", "-qq", "-ay", "-K", f"{self.group}/{name}")
        return self.path(name)

    def thick(self, name: str, size: int = VOLUME) -> str:
        command("lvcreate", "-qq", "-y", "-Wn", "-n", name, "-L", f"{size}b", self.group)
        return self.path(name)

    def pool(self, name: str = "pool", chunk: int = 64 << 10, size: int = 256 * MIB, metadata: int = 8 * MIB) -> str:
        command("lvcreate", "-qq", "-y", "--type", "thin-pool", "-c", f"{chunk}b", "-L", f"{size}b",
                "--poolmetadatasize", f"{metadata}b", "-Zy", "-n", name, self.group)
        return name

    def thin(self, name: str, size: int = VOLUME, pool: str = "pool") -> str:
        command("lvcreate", "-qq", "-y", "-Wn", "-V", f"{size}b", "-T", f"{self.group}/{pool}", "-n", name)
        return self.path(name)

    def snapshot(self, name: str, origin: str, *, store: int | None = None, chunk: int = 4096) -> str:
        """A classic snapshot if it has a store, else a thin one, read-only and active."""
        kind = ("-L", f"{store}b", "-c", f"{chunk}b") if store else ("-kn",)
        command("lvcreate", "-qq", "-y", "-s", "-pr", *kind, "-n", name, f"{self.group}/{origin}")
        return self.path(name)

    def remove(self, name: str) -> None:
        command("lvremove", "-qq", "-y", f"{self.group}/{name}")

    def grow(self, name: str, size: int) -> None:
        command("lvextend", "-qq", "-y", "-L", f"{size}b", f"{self.group}/{name}")

    def rows(self, fields: str) -> list[dict]:
        text = command("lvs", "-a", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields, self.group).stdout
        return json.loads(text)["report"][0]["lv"]

    def text(self) -> str:
        """LVM's text of the group, from the disk: asking LVM takes a third of a second."""
        header = devices.read(self.disk, 4096, 4096)
        assert header[4:20] == b" LVM2 x[5A%r0N*>", "no metadata area of LVM"
        size, = struct.unpack_from("<Q", header, 32)
        offset, length = struct.unpack_from("<QQ", header, 40)
        area = devices.read(self.disk, 4096, (size + 4095) // 4096 * 4096)
        # A text may go on at the beginning, behind the header.
        text = (area[offset:size] + area[512:])[:length] if offset + length > size else area[offset:offset + length]
        return text.decode()

    def tags(self) -> dict[str, list[str]]:
        """The tags of each volume, active or not."""
        volumes = self.text().partition("logical_volumes {")[2]
        return {name: re.findall(r'"([^"]*)"', "".join(re.findall(r"^tags = (\[.*?\])", head, re.M | re.S)))
                for name, head in re.findall(r"^(\S+) \{\nid = .*?\n(.*?)^segment_count", volumes, re.M | re.S)}

    def tagged(self, tag: str = "blockferry") -> list[str]:
        """Names of the volumes that carry the tag."""
        return sorted(name for name, tags in self.tags().items() if tag in tags)

    def pool_status(self, pool: str = "pool") -> list[str]:
        line = command("dmsetup", "status", f"{mapped(self.group)}-{mapped(pool)}-tpool").stdout.split()
        return line[3:]

    def held(self, pool: str = "pool") -> str:
        """The block of the metadata snapshot that the pool holds, or `-`."""
        return self.pool_status(pool)[3]

    def message(self, text: str, pool: str = "pool", check: bool = True) -> subprocess.CompletedProcess:
        return command("dmsetup", "message", f"{mapped(self.group)}-{mapped(pool)}-tpool", 0, text, check=check)

    def is_active(self, name: str) -> bool:
        return os.path.exists(self.path(name))


def mapped(name: str) -> str:
    return name.replace("-", "--")


def suspended() -> list[str]:
    """Names of the devices that are suspended."""
    return [(path / "name").read_text().strip() for path in pathlib.Path("/sys/block").glob("dm-*/dm")
            if (path / "suspended").read_text().strip() == "1"]


def resume_all() -> None:
    for name in suspended():
        command("dmsetup", "resume", name, check=False)


class Disks:
    """The guest's disks: one for each volume group, one with a file system for states and files."""

    source, standby, files = (os.environ.get(f"LAB_DISK{number}", "") for number in range(3))
    mount = pathlib.Path("/run/kernel-tests")

    @classmethod
    def prepare(cls) -> None:
        if not cls.mount.is_mount():
            cls.mount.mkdir(parents=True, exist_ok=True)
            command("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", cls.files)
            command("mount", "-o", "noatime", cls.files, cls.mount)
            tempfile.tempdir = str(cls.mount)

    @classmethod
    def wipe(cls) -> None:
        """Leaves nothing of a test: mounts, dm devices, volume groups, content."""
        resume_all()
        for line in reversed(pathlib.Path("/proc/mounts").read_text().splitlines()):
            device, where = line.split()[:2]
            if device.startswith("/dev/mapper/"):
                command("umount", "-l", where, check=False)
        command("dmsetup", "remove_all", "--force", check=False)

        def is_gone() -> bool:
            # What LVM has left in the background may look at a device just now.
            if any(name.startswith("dm-") for name in os.listdir("/sys/class/block")):
                command("dmsetup", "remove_all", check=False)
            return not any(name.startswith("dm-") for name in os.listdir("/sys/class/block"))

        if not until(30, is_gone):
            raise AssertionError("devices that cannot be removed: " + command("dmsetup", "ls").stdout)
        for directory in pathlib.Path("/dev").iterdir():
            links = [] if directory.is_symlink() or not directory.is_dir() else list(directory.iterdir())
            if links and all(link.is_symlink() and not link.exists() for link in links):
                for link in links:
                    link.unlink()
                directory.rmdir()
        for disk in (cls.source, cls.standby):
            devices.discard(disk, 0, devices.size(disk))


class Site(acceptance.Site):
    """Both hosts' programs and states."""

    PORT = 7441
    _paired: dict[tuple[str, str], pathlib.Path] = {}

    @classmethod
    def paired(cls, volume: str, target: str) -> "Site":
        """Two hosts that know each other, and the daemon runs. What pairing leaves is kept for the next test with the
        same volume and target: it takes seconds here, and is tested elsewhere."""
        site = cls()
        site.port = cls.PORT
        kept = cls._paired.get((volume, target))
        if kept is None:
            site.start_daemon()
            site.pair(volume, target)
            site.kill_daemon()
            kept = pathlib.Path(tempfile.mkdtemp())
            cls._paired[volume, target] = kept
            for side in (site.standby, site.source):
                shutil.copytree(side, kept / side.name)
        else:
            for side in (site.standby, site.source):
                shutil.copytree(kept / side.name, side)
            # The volume of this name was made anew since: it is another one.
            moved = site.run("blockferryd", "retarget", volume, target)
            assert moved.code == 0, moved
        site.start_daemon()
        return site

    def send_live(self, volume: str, name: str, *more: object, timeout: float = 300,
                  env: dict | None = None) -> Result:
        """`blockferry send VG/LV`; `name` is what the standby calls the volume."""
        return self.live("send", volume, name, *more, timeout=timeout, env=env)

    def live(self, verb: str, volume: str, name: str, *more: object, timeout: float = 300,
             env: dict | None = None) -> Result:
        """`blockferry VERB VG/LV`: send, resync or verify."""
        return Result(subprocess.run(
            self.live_arguments(volume, name, *more, verb=verb), capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL, env=self.environment(env)))

    def start_live(self, volume: str, name: str, *more: object, verb: str = "send",
                   env: dict | None = None) -> subprocess.Popen:
        return subprocess.Popen(
            self.live_arguments(volume, name, *more, verb=verb), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, stdin=subprocess.DEVNULL, env=self.environment(env))

    @staticmethod
    def live_arguments(volume: str, name: str, *more: object, verb: str = "send") -> list[str]:
        return [str(acceptance.BIN / "blockferry"), verb, volume, "--to", "standby", "--volume", name, "--json",
                *map(str, more)]

    def environment(self, more: dict | None = None) -> dict:
        return {**os.environ, "BLOCKFERRY_STATE": str(self.source), **(more or {})}


class Writer:
    """Writes to a device or below a mount point until it is stopped, a bounded number of times."""

    def __init__(self, where: str, within: int = 0, *, seed: int = 0, limit: int = 20_000, pause: float = 0.01,
                 length: int = 4096, discards: bool = False) -> None:
        self.where, self.within, self.limit, self.pause, self.length = where, within, limit, pause, length
        self.discards, self.random = discards, random.Random(SEED * 1_000_003 + seed)
        self.writes, self.error = 0, None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(30)
        if self._thread.is_alive():
            resume_all()
            raise AssertionError(f"the writer of {self.where} hangs after {self.writes} writes")
        if self.error:
            raise self.error

    def _run(self) -> None:
        step = self._file if os.path.isdir(self.where) else self._device
        try:
            while self.writes < self.limit and not self._end.is_set():
                step()
                self.writes += 1
                self._end.wait(self.pause)
        except BaseException as error:
            self.error = error

    def _device(self) -> None:
        place = self.random.randrange((self.within - self.length) // 4096 + 1) * 4096
        if self.discards and self.random.random() < 0.2:
            begin = place // 65536 * 65536
            devices.discard(self.where, begin, min(131072, self.within - begin))
        else:
            devices.write(self.where, (place, self.length), flush=self.random.random() < 0.1)

    def _file(self) -> None:
        path = os.path.join(self.where, f"file-{self.random.randrange(24)}")
        if self.random.random() < 0.25:
            if os.path.exists(path):
                os.unlink(path)
            return
        with open(path, "wb") as file:
            file.write(self.random.randbytes(self.random.randrange(1, 96) * 1024))
            if self.random.random() < 0.3:
                file.flush()
                os.fsync(file.fileno())


class KernelTest(unittest.TestCase):
    """A test with empty disks, two volume groups and, when it asks, two hosts."""

    source_disk = Disks.source
    standby_disk = Disks.standby

    def setUp(self) -> None:
        Disks.prepare()
        Disks.wipe()
        self.prepare_disks()
        self.source, self.standby = Volumes(SOURCE, self.source_disk), Volumes(STANDBY, self.standby_disk)
        self.source.make()
        self.standby.make()
        self.addCleanup(resume_all)

    def prepare_disks(self) -> None:
        """What a test puts between a disk and its volume group."""

    def site(self) -> Site:
        site = Site()
        self.addCleanup(site.close)
        site.start_daemon()
        return site

    def assert_code(self, result: Result, code: int, *words: str) -> Result:
        self.assertEqual(result.code, code, result)
        for word in words:
            self.assertIn(word.lower(), result.error.lower(), result)
        return result

    def assert_same(self, copy: str, original: str, length: int | None = None) -> None:
        """Byte for byte, and not for want of content. The base of a thin volume rests between sends."""
        if not os.path.exists(original):
            name = command("lvs", "--noheadings", "-o", "lv_full_name", "--select", f'lv_dm_path="{original}"').stdout.strip()
            command("lvchange", "-qq", "-ay", "-K", name)
            try:
                return self.assert_same(copy, original, length)
            finally:
                command("lvchange", "-qq", "-an", name)
        length = devices.size(original) if length is None else length
        self.assertGreater(length, 0)
        count, first = devices.differing(copy, original, length)
        self.assertEqual((count, first), (0, None), f"{copy} differs from {original}: bytes, first at")

    def mount(self, device: str, kind: str) -> str:
        """Makes a file system and mounts it; unmounted at the end."""
        # mkfs.xfs makes nothing below 300 MB unless it believes to be under test, which it is.
        environment = {"QA_CHECK_FS": "1", "TEST_DIR": "-", "TEST_DEV": "-"} if kind == "xfs" else {}
        # What ext4 leaves for later, a kernel thread writes behind the back of a test that compares.
        eager = ["-E", "lazy_itable_init=0,lazy_journal_init=0"] if kind == "ext4" else []
        command(f"mkfs.{kind}", "-q", *eager, device, env=environment)
        where = tempfile.mkdtemp(prefix="mount.", dir="/run")
        command("mount", "-t", kind, device, where)
        command("sync", "-f", where)
        self.addCleanup(self.unmount, where)
        return where

    def rows_of(self, text: str) -> list[tuple[int, int, str]]:
        """Offset, length and kind of each line that `blockferry changes` has printed."""
        return [(int(offset), int(length), kind) for offset, length, kind in map(str.split, text.splitlines())]

    @staticmethod
    def unmount(where: str) -> None:
        if os.path.ismount(where):
            command("umount", where, check=False)


class LiveTest(KernelTest):
    """Sends volumes in use with `blockferry send VG/LV`."""

    def pair(self, target: str, name: str = "db", site: Site | None = None, **more: object) -> Site:
        if site is None:
            site = Site.paired(name, target)
            self.addCleanup(site.close)
        else:
            site.pair(name, target, **more)
        return site

    def base(self, volume: str, name: str = "db", volumes: Volumes | None = None) -> str:
        """The one snapshot that is kept for a volume of the standby; fails if there are more or fewer."""
        volumes = volumes or self.source
        wanted = f"blockferry.volume={name}"
        found = volumes.tagged(wanted)
        self.assertEqual(len(found), 1, f"snapshots kept for {name}")
        self.assertRegex(found[0], f"^{volume}_blockferry_[0-9a-f]{{8}}$")
        return found[0]

    def assert_released(self, pool: str = "pool") -> None:
        """No metadata snapshot is held any more: what a killed sender held goes by itself."""
        until(30, lambda: self.source.held(pool) == "-")
        self.assertEqual(self.source.held(pool), "-", "a metadata snapshot was left behind")

    def assert_copy(self, target: str, volume: str, name: str = "db", volumes: Volumes | None = None) -> str:
        """The target is what the snapshot that is kept shows, byte for byte. Returns the snapshot's name."""
        volumes = volumes or self.source
        snapshot = self.base(volume, name, volumes)
        was_active = volumes.is_active(snapshot)
        if not was_active:
            command("lvchange", "-qq", "-ay", "-K", f"{volumes.group}/{snapshot}")
        self.assert_same(target, volumes.path(snapshot))
        if not was_active:
            command("lvchange", "-qq", "-an", f"{volumes.group}/{snapshot}")
        return snapshot

    def send(self, site: Site, target: str, volume: str, name: str = "db", *more: object, expect: str | None = None,
             volumes: Volumes | None = None) -> dict:
        """One generation that must arrive: exit code 0, one snapshot kept, equal bytes. Returns the result."""
        volumes = volumes or self.source
        result = self.assert_code(site.send_live(f"{volumes.group}/{volume}", name, *more), 0)
        facts = result.json
        if expect:
            self.assertEqual(facts["result"], expect, result)
        self.assert_copy(target, volume, name, volumes)
        return facts

    def assert_refused(self, site: Site, target: str, volume: str, code: int, *words: str, name: str = "db",
                       more: tuple = ()) -> Result:
        """A send that must fail, with the target as it was."""
        before = devices.sha256(target)
        result = self.assert_code(site.send_live(f"{self.source.group}/{volume}", name, *more), code, *words)
        self.assertEqual(devices.sha256(target), before, "a refused send has written")
        return result
