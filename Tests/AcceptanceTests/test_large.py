# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The largest volumes: one of 2^50 bytes that holds next to nothing, and more content than 16 TiB, which `content.c` makes of the
holes of a sparse file. What it costs is measured in processor time and memory, of a program and all that it starts."""

from __future__ import annotations

import atexit
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest

from harness import BIN, Rogue, Site, rules, until
from test_room import FileSystem
import decode
import encode

MIB, TIB = 1 << 20, 1 << 40
GREATEST = 1 << 50
BLOCK = 65_536
SECONDS, KIB = 2, 64 << 10
SENDING_KIB = 96 << 10  # of a side, while content passes through it


def library() -> str:
    """`content.c`, compiled once for each run of the tests."""
    global _library
    if _library is None:
        folder = tempfile.mkdtemp(prefix="blockferry-content.")
        atexit.register(shutil.rmtree, folder, True)
        _library = f"{folder}/content.so"
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", _library,
                        pathlib.Path(__file__).with_name("content.c"), "-ldl"], check=True)
    return _library


_library: str | None = None


def content(path: pathlib.Path, pause: int) -> dict[str, str]:
    """The environment in which a file has content, of which a mebibyte takes so many microseconds to read."""
    return {"LD_PRELOAD": library(), "CONTENT_FILE": str(path), "CONTENT_PAUSE": str(pause)}


def peak(pid: int) -> int:
    """The most memory that a process has had, in KiB."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


class Empty(unittest.TestCase):
    """Volumes of the greatest size. Their files lie in memory, where a file may be as large."""

    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="blockferry-large.", dir="/dev/shm"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.site.start_daemon()
        self.source, self.target = self.folder / "source", self.folder / "target"
        with open(self.source, "wb") as file:
            file.truncate(GREATEST)
        self.site.pair("vol", self.target)

    def write(self, *places: int) -> None:
        with open(self.source, "r+b") as file:
            for place in places:
                file.seek(place)
                file.write(os.urandom(BLOCK))

    def test_one_that_is_larger_is_refused_by_all_that_would_bring_it(self) -> None:
        os.truncate(self.source, GREATEST + 512)
        output = self.site.path / "export"
        for how in (["send"], ["send", "--dry-run"], ["resync"], ["resync", "--plan"], ["export", "--output", output]):
            refused = self.site.run("blockferry", how[0], self.source, "--to", "standby", "--volume", "vol", *how[1:])
            said = "rule=limit" in refused.out if "--dry-run" in how else "(rule limit)" in refused.error
            self.assertEqual((refused.code, said), (rules()["limit"]["exit"], True), refused)
        self.assertFalse(output.exists())

    def cheap(self, usage, name: str) -> None:
        self.assertLess(usage.ru_utime + usage.ru_stime, SECONDS, name)
        self.assertLess(usage.ru_maxrss, KIB, name)

    def run_cheaply(self, program: str, *words: object, code: int = 0) -> str:
        name = "BLOCKFERRYD_STATE" if program == "blockferryd" else "BLOCKFERRY_STATE"
        state = self.site.standby if program == "blockferryd" else self.site.source
        with tempfile.TemporaryFile("w+") as out:
            process = subprocess.Popen([BIN / program, *map(str, words)], stdout=out, stderr=subprocess.STDOUT,
                                       env={**os.environ, name: str(state)})
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            text = out.read()
        self.assertEqual(process.returncode, code, text)
        self.cheap(usage, f"{program} {words}")
        return text

    def both_ways(self) -> None:
        """Scrub, verify and resync find the two equal."""
        to = ("--to", "standby", "--volume", "vol", "--json")
        self.run_cheaply("blockferryd", "scrub", "vol")
        self.run_cheaply("blockferry", "verify", self.source, *to)
        self.run_cheaply("blockferry", "resync", self.source, *to, "--plan")
        self.run_cheaply("blockferry", "resync", self.source, *to)

    def end_daemon(self) -> None:
        """Ends it and its workers, and says what all of them have cost."""
        daemon = self.site.daemon
        daemon.terminate()
        _, status, usage = os.wait4(daemon.pid, 0)
        daemon.returncode = os.waitstatus_to_exitcode(status)
        self.site.daemon = None
        self.cheap(usage, "the standby")

    def same(self, *places: int) -> None:
        self.assertEqual(self.target.stat().st_size, GREATEST)
        with open(self.source, "rb") as source, open(self.target, "rb") as target:
            for place in places:
                source.seek(place)
                target.seek(place)
                self.assertEqual(source.read(BLOCK), target.read(BLOCK), place)
        self.assertLess(self.target.stat().st_blocks, 2 * MIB // 512)

    def test_nothing(self) -> None:
        to = ("--to", "standby", "--volume", "vol", "--json")
        self.run_cheaply("blockferry", "send", self.source, *to)
        os.utime(self.source)
        self.run_cheaply("blockferry", "send", self.source, *to)
        self.both_ways()
        self.same(0, GREATEST // 2, GREATEST - BLOCK)
        for map in (*(self.site.standby / "maps").iterdir(), *(self.site.source / "maps").iterdir()):
            self.assertLess(map.stat().st_blocks * 512, 64 << 10, map)
        self.end_daemon()

    def test_next_to_nothing(self) -> None:
        """Blocks at both ends come, change and go, so that the map has its root over almost only zeros."""
        to = ("--to", "standby", "--volume", "vol", "--json")
        places = (0, 5 * TIB, GREATEST - BLOCK)
        self.write(*places)
        self.run_cheaply("blockferry", "send", self.source, *to)
        self.same(*places)
        self.write(GREATEST - BLOCK, 77 * TIB + 3 * BLOCK)
        self.run_cheaply("blockferry", "send", self.source, *to)
        self.both_ways()
        self.same(*places, 77 * TIB + 3 * BLOCK)
        with open(self.source, "r+b") as file:
            file.truncate(0)
            file.truncate(GREATEST)
        self.run_cheaply("blockferry", "send", self.source, *to)
        self.both_ways()
        self.same(*places, 77 * TIB + 3 * BLOCK)
        self.end_daemon()

    def test_one_record_in_place(self) -> None:
        """One record of 32 bytes unmaps the whole volume; the sender is gone right after it."""
        rogue, _ = self.opened()
        rogue.send("BEGIN", encode.begin(os.urandom(16), 1, 1, os.urandom(16), 1, bytes(32), GREATEST, planned_segments=1,
                                         tag_key=os.urandom(32)))
        self.assertEqual(rogue.answer()[0], encode.TYPE["READY"])
        rogue.send("RECORD", encode.unmap_record(0, GREATEST))
        rogue.close()
        self.assertTrue(until(20, lambda: self.site.is_free("vol")))
        self.end_daemon()

    def test_one_record_staged(self) -> None:
        """The same as an increment, over a copy that is almost empty."""
        self.write(0, 5 * TIB)
        self.assertEqual(self.site.send("vol", self.source).code, 0)
        self.assertTrue(until(20, lambda: self.site.is_free("vol")))
        rogue, state = self.opened()
        record = encode.unmap_record(0, GREATEST)
        begin = {"kind": 2, "tag_algorithm": 1, "lineage": state[16:32], "number": int.from_bytes(state[32:40], "little") + 1,
                 "parent": state[40:72], "volume_size": GREATEST}
        rogue.send("BEGIN", encode.begin(os.urandom(16), **begin, planned_segments=1))
        self.assertEqual(rogue.answer()[0], encode.TYPE["READY"])
        digest = encode.segment_digest(0, [record])
        rogue.send("RECORD", record)
        rogue.send("SEAL", encode.seal(0, 1, 0, GREATEST, digest))
        self.assertEqual(rogue.answer()[0], encode.TYPE["ACK"])
        key = decode.decode_peer_id(self.site.run("blockferry", "id").out.strip())["key_id"]
        rogue.send("COMMIT", encode.generation(
            **begin, source_time=0, segment_count=1, delta_digest=encode.delta_digest([digest]), volume_root=bytes(32),
            sender_key_id=key, source_identity=""))
        self.assertEqual(rogue.answer()[0], encode.TYPE["COMMITTED"])
        rogue.close()
        self.assertTrue(until(20, lambda: self.site.is_free("vol")))
        with open(self.target, "rb") as file:
            for place in (0, 5 * TIB):
                file.seek(place)
                self.assertEqual(file.read(BLOCK), bytes(BLOCK))
        self.end_daemon()

    def opened(self) -> tuple[Rogue, bytes]:
        rogue = Rogue(self.site, self.site.source / "identity.pem")
        self.addCleanup(rogue.close)
        rogue.send("HELLO", encode.hello())
        self.assertEqual(rogue.answer()[0], encode.TYPE["WELCOME"])
        rogue.send("OPEN", encode.open_("vol"))
        kind, state = rogue.answer()
        self.assertEqual(kind, encode.TYPE["STATE"])
        return rogue, state


class Gone(unittest.TestCase):
    def test_reading_ends_with_the_session(self) -> None:
        """Who asks for a comparison that takes hours, and is gone, leaves no worker behind that goes on reading."""
        site = Site()
        self.addCleanup(site.close)
        folder = pathlib.Path(tempfile.mkdtemp(prefix="blockferry-large.", dir="/dev/shm"))
        self.addCleanup(shutil.rmtree, folder)
        site.start_daemon()
        target = folder / "target"
        site.pair("vol", target, "--overwrite")
        os.truncate(target, 16 * TIB)
        site.kill_daemon()
        environment = content(target, 1000)
        os.environ.update(environment)
        try:
            site.start_daemon()
        finally:
            for name in environment:
                del os.environ[name]
        rogue = Rogue(site, site.source / "identity.pem")
        self.addCleanup(rogue.close)
        rogue.send("HELLO", encode.hello())
        rogue.send("OPEN", encode.open_("vol"))
        self.assertEqual([rogue.answer()[0], rogue.answer()[0]], [encode.TYPE["WELCOME"], encode.TYPE["STATE"]])
        rogue.send("COMPARE", encode.compare(1, 1, 16 * TIB, tag_key=os.urandom(32)))
        while True:
            kind, payload = rogue.receive()
            self.assertIn(kind, (encode.TYPE["PING"], encode.TYPE["PROGRESS"]), payload)
            if kind == encode.TYPE["PROGRESS"]:
                break
        self.assertFalse(site.is_free("vol"))
        rogue.close()
        self.assertTrue(until(20, lambda: site.is_free("vol")), "it still reads")


class Larger(unittest.TestCase):
    """17 TiB of content: more than fit into 1,048,576 segments of 16 MiB. Only the beginning is sent."""

    SIZE = 17 * TIB

    def setUp(self) -> None:
        self.assertEqual(os.geteuid(), 0, "needs root for loop devices")
        self.site = Site()
        self.addCleanup(self.site.close)
        # ext4 has no file as large; where a file's times prove nothing, a cut transfer starts again.
        self.files = FileSystem(self.site.path / "files", "btrfs", 2 << 30, MIB)
        self.addCleanup(self.files.close)
        self.addCleanup(self.site.kill_daemon)
        self.source, self.target = self.files.path / "source", self.files.path / "target"
        with open(self.source, "wb") as file:
            file.truncate(self.SIZE)
        self.site.start_daemon()
        self.site.pair("vol", self.target)

    def log(self) -> dict:
        """The staging log, by a decoder of its own."""
        try:
            return decode.decode_staging_log((self.site.standby / "staging/vol.log").read_bytes(), decode.Context())
        except (FileNotFoundError, decode.Refused):
            return {"segments": []}

    def send_until(self, segments: int) -> dict:
        """Sends until so many segments are durable, and then kills the sender."""
        sender = subprocess.Popen(
            [BIN / "blockferry", "send", self.source, "--to", "standby", "--volume", "vol"], stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **content(self.source, 5000), "BLOCKFERRY_STATE": str(self.site.source)})
        try:
            self.assertTrue(until(90, lambda: len(self.log()["segments"]) >= segments or sender.poll() is not None))
            self.assertIsNone(sender.poll(), sender.poll() is not None and sender.stdout.read())
            workers = [int(pid) for pid in
                       pathlib.Path(f"/proc/{self.site.daemon.pid}/task/{self.site.daemon.pid}/children").read_text().split()]
            self.assertTrue(workers)
            for pid in (sender.pid, *workers):
                self.assertLess(peak(pid), SENDING_KIB, pathlib.Path(f"/proc/{pid}/cmdline").read_text())
        finally:
            sender.send_signal(signal.SIGKILL)
            sender.communicate()
        self.assertTrue(until(20, lambda: self.site.is_free("vol")))
        return self.log()

    def test_plan_resume_and_memory(self) -> None:
        first = self.send_until(2)
        begin = first["header"]["begin"]
        self.assertEqual((begin["segment_growth"], begin["planned_segments"], begin["planned_content"]),
                         (1, 557_056, self.SIZE))
        plan = next(path for path in (self.site.source / "plans").iterdir() if path.name.endswith(begin["transfer"].hex()))
        magic, transfer, size, entries, planned, segments, growth = struct.unpack_from("<8s16sQQQIB", plan.read_bytes())
        self.assertEqual((magic, transfer, size, entries), (b"BFPLAN01", begin["transfer"], self.SIZE, 1))
        self.assertEqual((planned, segments, growth), (self.SIZE, 557_056, 1))
        self.assertEqual({segment["content"] for segment in first["segments"]}, {32 * MIB})

        count = len(first["segments"])
        second = self.send_until(count + 2)
        self.assertEqual(second["header"], first["header"], "another transfer began")
        self.assertEqual(second["segments"][:count], first["segments"])
        self.assertEqual([segment["end_offset"] for segment in second["segments"]],
                         [32 * MIB * (number + 1) for number in range(len(second["segments"]))])
        # What is durable is on the target, as the library makes it.
        with open(self.target, "rb") as file:
            for place in (0, 32 * MIB * (count + 1) + 8 * 777):
                file.seek(place)
                word = (place // 8 * 0x9E3779B97F4A7C15 + 0x0123456789ABCDEF) % (1 << 64)
                self.assertEqual(int.from_bytes(file.read(8), "little"), word)
