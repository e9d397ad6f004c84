# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""State directories in which something is not what it should be (H1-H3): each of their files and directories is
replaced by a link to somebody else's, by a FIFO, a device, a directory, by one of another owner or mode, by nothing and
by garbage. Then the program runs. Whatever it does, the foreign file keeps every byte, nobody hangs or traps, what is
refused is refused with one sentence, and the target is the old or the new generation.

The default takes FIFOs, hard links and foreign directories for every path, and a quarter of the others;
BLOCKFERRY_CAMPAIGN=1 takes all."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import unittest
from collections import Counter

from host import CAMPAIGN, HostSite, count, ended_well, in_parallel, sha256

# What each state directory holds in the middle of a transfer; `*` is the key of the peer, or the transfer.
FILES = {
    "standby": ["identity.pem", "export-key.pem", "catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm", "catalog.lock",
                "staging/vol.log", "maps/vol.map", "locks/vol"],
    "source": ["identity.pem", "catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm", "catalog.lock",
               "plans/vol@standby@*[0-9a-f]", "plans/vol@standby@*.seals", "maps/vol@standby", "maps/vol@standby@updates",
               "maps/vol@standby@whole", "locks/vol@standby"]}
# Names that the program will make: what stands there already is none of its files.
MADE = {"standby": ["maps/vol.updates", "maps/vol.compared"], "source": ["maps/vol@standby@scan"]}
DIRECTORIES = {"standby": ["", "staging", "maps", "locks"], "source": ["", "plans", "maps", "locks"]}
LINKS = ("symlink to the same bytes", "symlink to other bytes", "symlink to nothing", "hard link to the same bytes",
         "hard link to other bytes", "FIFO")
OTHERS = ("directory", "device", "socket", "other owner", "writable by the group", "writable by all", "empty",
          "garbage")
FOLDERS = ("symlink to a foreign directory", "symlink to nothing", "file", "FIFO", "other owner", "writable by all")
PRECIOUS = b"precious " * 1000


def cases(side: str) -> list[tuple[str, str, str]]:
    out = [(side, path, kind) for path in FILES[side] + MADE[side] for kind in LINKS
           if "same" not in kind or path in FILES[side]]
    out += [(side, path, kind) for path in DIRECTORIES[side] for kind in FOLDERS]
    others = [(side, path, kind) for path in FILES[side] for kind in OTHERS]
    if CAMPAIGN:
        return out + others
    always = ("FIFO", "hard link to the same bytes", "symlink to a foreign directory")
    return ([case for case in out if case[2] in always] + [case for case in out if case[2] not in always][::4]
            + others[::4])


class Replacement:
    """One thing in place of another, and the foreign files that it leads to."""

    def __init__(self, site: HostSite, side: str, name: str, kind: str) -> None:
        self.state = {"standby": site.standby, "source": site.source}[side]
        found = list(self.state.glob(name)) if "*" in name else []
        self.path = found[0] if found else self.state / name if name else self.state
        self.foreign = site.path / "foreign"
        shutil.rmtree(self.foreign, ignore_errors=True)
        self.foreign.mkdir(mode=0o755)
        (self.foreign / "precious").write_bytes(PRECIOUS)
        self.make(kind)
        self.before = self.seen()

    def seen(self) -> dict:
        """Everything foreign: names, kinds, modes, owners, bytes."""
        out = {}
        for path in sorted(self.foreign.rglob("*")):
            facts = path.lstat()
            out[str(path.relative_to(self.foreign))] = (
                facts.st_mode, facts.st_uid, path.read_bytes() if path.is_file() and not path.is_symlink() else None)
        return out

    def away(self) -> bytes:
        """Takes what is there away; returns its bytes."""
        path = self.path
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
            return b""
        data = path.read_bytes() if path.is_file() else b""
        path.unlink(missing_ok=True)
        return data

    def make(self, kind: str) -> None:
        path = self.path
        if path in (self.state / "catalog.sqlite-wal", self.state / "catalog.sqlite-shm") and not path.exists():
            # SQLite removes both with the last connection, and takes empty ones for none.
            path.touch(mode=0o600)
        match kind:
            case "other owner":
                return os.chown(path, 12_345, 12_345)
            case "writable by the group" | "writable by all":
                return path.chmod(path.stat().st_mode & 0o7777 | (0o060 if kind.endswith("group") else 0o066))
            case "symlink to a foreign directory":
                # Of the same names, other bytes, and another owner.
                copy = self.foreign / "directory"
                shutil.copytree(path, copy, symlinks=True)
                for file in copy.rglob("*"):
                    if file.is_file():
                        file.write_bytes(PRECIOUS)
                    os.chown(file, 12_345, 12_345)
                os.chown(copy, 12_345, 12_345)
                self.away()
                return path.symlink_to(copy)
        data = self.away()
        path.parent.mkdir(exist_ok=True, mode=0o700)
        # Foreign files with our own owner and mode: nothing but the link tells that they are not ours.
        target = self.foreign / "file"
        if "link to" in kind and "nothing" not in kind:
            target.write_bytes(data if "same" in kind else PRECIOUS)
            target.chmod(0o600)
        match kind:
            case "symlink to nothing": path.symlink_to(self.foreign / "none")
            case "symlink to the same bytes" | "symlink to other bytes": path.symlink_to(target)
            case "hard link to the same bytes" | "hard link to other bytes": os.link(target, path)
            case "FIFO": os.mkfifo(path, 0o600)
            case "directory": path.mkdir(0o700)
            # /dev/null: who takes it for a file believes every write.
            case "device": os.mknod(path, 0o020600, os.makedev(1, 3))
            case "socket":
                listener = socket.socket(socket.AF_UNIX)
                folder = os.open(path.parent, os.O_PATH)
                listener.bind(f"/proc/self/fd/{folder}/{path.name}")
                os.close(folder)
                listener.close()
            case "empty" | "file": path.write_bytes(b"")
            case "garbage": path.write_bytes(bytes(range(256)) * 64)
            case _: raise AssertionError(kind)
        if kind in ("empty", "garbage", "file"):
            path.chmod(0o600)


class Files(unittest.TestCase):
    def setUp(self) -> None:
        self.assertEqual(os.geteuid(), 0, "device nodes and other owners need root")

    @staticmethod
    def site() -> HostSite:
        site = HostSite()
        site.unfinished()
        site.save()
        return site

    def one(self, site: HostSite, case: tuple[str, str, str]) -> str:
        """Runs both programs on it; returns what became of it."""
        side, name, kind = case
        told = f"{side} {name or '(state directory)'}: {kind}"
        site.restore()
        old, new = sha256(site.target), sha256(site.plain)
        replaced = Replacement(site, side, name, kind)
        failed = site.begin_daemon(seconds=20)
        logged = len(site.journal())
        if failed:
            self.assertEqual(side, "standby", f"{told}: {failed}")
            ended_well(self, failed, f"{told}: serve", lines=2)
        else:
            result = site.bounded("blockferry", *site.sending(), seconds=40)
            ended_well(self, result, f"{told}: send")
            found = sha256(site.target)
            self.assertIn(found, (old, new), f"{told}: torn")
            if result.code == 0:
                self.assertEqual(found, new, f"{told}: success without the generation")
        program = {"standby": "blockferryd", "source": "blockferry"}[side]
        ended_well(self, site.bounded(program, "status", "--json", seconds=20), f"{told}: status")
        after = replaced.seen()
        paths = after.keys() | replaced.before.keys()
        changed = sorted(path for path in paths if after.get(path) != replaced.before.get(path))
        self.assertEqual(changed, [], f"{told}: something foreign was changed")
        self.assertIn(sha256(site.target), (old, new), f"{told}: torn")
        journal = site.journal()[logged:]
        self.assertNotIn("was ended by signal", journal, told)
        self.assertNotIn("Fatal error", journal, told)
        return "not started" if failed else "works" if result.code == 0 else f"exit {result.code}"

    def enumerate(self, side: str, least: int) -> None:
        wanted = cases(side)
        results = in_parallel(self.site, self.one, wanted, 3)
        bad = [(case, result) for case, result in zip(wanted, results) if isinstance(result, Exception)]
        for case, result in bad:
            print(f"BAD {case}: {str(result)[:600]}", flush=True)
        print(f"{side}: {len(wanted)} replaced paths (at least {least}), of which "
              f"{dict(sorted(Counter(r for r in results if isinstance(r, str)).items()))}; {len(bad)} bad", flush=True)
        self.assertEqual([case for case, _ in bad], [])
        self.assertGreaterEqual(len(wanted), least)

    def test_standby(self) -> None:
        self.enumerate("standby", count(45, 140))

    def test_source(self) -> None:
        self.enumerate("source", count(50, 160))


SWAPPER = """
import os, sys, time
precious, *paths = sys.argv[1:]
loops = 0
parent = os.getppid()
while os.getppid() == parent:
    for path in paths:
        link = os.path.join(os.path.dirname(os.path.dirname(path)), '.swap')
        try:
            if loops % 2:
                os.symlink(precious, link)
            else:
                os.link(precious, link)
            os.rename(link, path)
            time.sleep(0.004 * (loops % 8))
            if loops % 3 == 0:
                os.unlink(path)
        except OSError:
            try:
                os.unlink(link)
            except OSError:
                pass
        loops += 1
        if loops % 100 == 0:
            print(loops, flush=True)
"""


class Races(unittest.TestCase):
    """While sends run, somebody swaps the files that they write with links to a precious one."""

    def test_races(self) -> None:
        site = HostSite()
        self.addCleanup(site.close)
        site.committed(4)
        precious = site.path / "precious"
        precious.write_bytes(PRECIOUS)
        precious.chmod(0o600)
        paths = ["staging/vol.log", "maps/vol.map", "maps/vol.updates"]
        # Nobody knows the name of the next plan; the list beside it has one.
        mine = ["plans/vol@standby@scan", "maps/vol@standby", "maps/vol@standby@updates", "maps/vol@standby@whole"]
        wanted, loops, sends, codes = count(200, 10_000), 0, 0, Counter()
        for side in [[site.standby / name for name in paths], [site.source / name for name in mine]]:
            reached = 0
            swapper = subprocess.Popen([sys.executable, "-c", SWAPPER, precious, *map(str, side)],
                                       stdout=subprocess.PIPE)
            os.set_blocking(swapper.stdout.fileno(), False)
            try:
                while reached < wanted // 2 or sends < 10:
                    with open(site.plain, "r+b") as file:
                        file.write(os.urandom(20_000))
                    result = site.bounded("blockferry", *site.sending())
                    ended_well(self, result, "race")
                    codes[result.code] += 1
                    sends += 1
                    self.assertEqual(precious.read_bytes(), PRECIOUS, f"the precious file was written; {result}")
                    reached = int(((swapper.stdout.read() or b"").split() or [reached])[-1])
            finally:
                swapper.kill()
                swapper.wait()
                swapper.stdout.close()
            loops += reached
        self.assertNotIn("was ended by signal", site.journal())
        self.assertIsNone(site.daemon.poll())
        self.assertEqual(precious.read_bytes(), PRECIOUS)
        print(f"races: {loops} swaps (at least {wanted}) during {sends} sends, codes {dict(codes)}", flush=True)
        self.assertGreaterEqual(loops, wanted)
