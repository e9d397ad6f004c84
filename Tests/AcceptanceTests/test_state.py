# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A state directory that is full or cannot be written, and a command that is ended. Needs root for mounts."""

import json
import os
import pathlib
import pty
import select
import shutil
import signal
import sqlite3
import subprocess
import time
import unittest

from harness import BIN, Proxy, Site, sha256, until

MIB = 1 << 20


def command(*words: str | os.PathLike) -> None:
    subprocess.run([*map(str, words)], check=True, capture_output=True)


class States(unittest.TestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.plain, self.target = self.site.path / "plain", self.site.path / "copy"
        self.plain.write_bytes(os.urandom(300_000))

    def begin(self) -> None:
        self.site.start_daemon()
        self.site.pair("vol", self.target)
        self.sent()

    def sent(self) -> None:
        result = self.site.send("vol", self.plain)
        self.assertEqual(result.code, 0, result)

    def change(self, count: int = 4096) -> None:
        with open(self.plain, "r+b") as file:
            file.write(os.urandom(count))

    def mount(self, path: pathlib.Path, size: int) -> None:
        path.mkdir(mode=0o700, exist_ok=True)
        command("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", path)
        self.addCleanup(command, "umount", path)

    def fill(self, path: pathlib.Path) -> pathlib.Path:
        """Takes all room that there is."""
        filler = path / "filler"
        with open(filler, "wb", buffering=0) as file:
            for piece in (MIB, 4096):
                try:
                    while True:
                        file.write(b"\1" * piece)
                except OSError:
                    pass
        self.assertEqual(os.statvfs(path).f_bavail, 0)
        return filler


class Full(States):
    def test_promote_works_when_the_disk_of_the_state_is_full(self) -> None:
        self.mount(self.site.standby, 32 * MIB)
        self.begin()
        reserve = self.site.standby / "reserve"
        self.assertEqual(reserve.stat().st_blocks * 512, 2 * MIB)
        for is_running in (True, False):
            with self.subTest(is_running=is_running):
                if not is_running:
                    self.site.kill_daemon()
                filler = self.fill(self.site.standby)
                # What is no emergency leaves the reserve alone.
                other = self.site.run("blockferryd", "invite", "new", "--target", self.site.path / "new", "--create")
                self.assertEqual((other.code, reserve.exists()), (12, True), other)
                result = self.site.run("blockferryd", "promote", "vol")
                self.assertEqual((result.code, "reserve" in result.error), (0, True), result)
                self.assertEqual(self.site.status("vol")["state"], "promoted")
                self.assertFalse(reserve.exists())
                filler.unlink()
                self.assertEqual(self.site.run("blockferryd", "demote", "vol").code, 0)
                self.assertEqual(reserve.stat().st_blocks * 512, 2 * MIB, "it is made again")
                if is_running:
                    resync = self.site.run("blockferry", "resync", self.plain, "--to", "standby", "--volume", "vol",
                                           "--overwrite-promoted")
                    self.assertEqual(resync.code, 0, resync)

    def test_a_full_state_of_the_source_is_12_and_names_the_file_system(self) -> None:
        self.site.source.mkdir(mode=0o700)
        self.mount(self.site.source, 16 * MIB)
        self.begin()
        for part in ("send", "explain", "status"):
            filler = self.fill(self.site.source)
            self.change(12 * MIB)
            full = self.site.send("vol", self.plain) if part == "send" else self.site.run(
                "blockferry", part, *(["--to", "standby", "--volume", "vol"] if part == "explain" else []))
            if part == "send" or full.code != 0:
                self.assertEqual((full.code, f"the file system of {self.site.source}" in full.error), (12, True), full)
            filler.unlink()
            self.sent()
            self.assertEqual(sha256(self.target), sha256(self.plain))

    def test_no_room_for_maps_and_plans_is_12_and_names_the_file_system(self) -> None:
        self.site.standby.mkdir(mode=0o700)
        self.site.source.mkdir(mode=0o700)
        self.mount(self.site.standby / "maps", MIB)
        self.begin()
        filler = self.fill(self.site.standby / "maps")
        with open(self.plain, "r+b") as file:
            os.truncate(self.plain, 40 * MIB)
            file.seek(20 * MIB)
            file.write(os.urandom(8 * MIB))
        full = self.site.send("vol", self.plain)
        self.assertEqual((full.code, f"the file system of {self.site.standby}/maps" in full.error), (12, True), full)
        filler.unlink()
        self.sent()
        self.assertEqual(sha256(self.target), sha256(self.plain))
        for part in ("plans", "maps"):
            self.site.source.joinpath(part).rename(self.site.source / "away")
            self.mount(self.site.source / part, MIB)
            for file in (self.site.source / "away").iterdir():
                shutil.copy2(file, self.site.source / part)
            filler = self.fill(self.site.source / part)
            self.change(12 * MIB)
            full = self.site.send("vol", self.plain)
            self.assertEqual((full.code, f"the file system of {self.site.source}/{part}" in full.error), (12, True), full)
            filler.unlink()
            self.sent()
            shutil.rmtree(self.site.source / "away")
        self.assertEqual(sha256(self.target), sha256(self.plain))


class ReadOnly(States):
    def look(self, state: pathlib.Path, **more) -> subprocess.CompletedProcess:
        program, name = ("blockferryd", "BLOCKFERRYD_STATE") if "standby" in str(state) else ("blockferry", "BLOCKFERRY_STATE")
        return subprocess.run([BIN / program, "status", "--json"], capture_output=True, text=True, timeout=60,
                              env={**os.environ, name: str(state)}, **more)

    def generation(self, state: pathlib.Path, **more) -> tuple:
        result = self.look(state, **more)
        self.assertIn(result.returncode, (0, 9), result)
        facts = json.loads(result.stdout)
        self.assertEqual(facts["note"] in result.stderr, True, result)
        return facts["volumes"][0]["generation"], "may be older" in facts["note"]

    def entries(self, state: pathlib.Path) -> list:
        return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in state.rglob("*"))

    def test_status_on_a_file_system_that_is_mounted_read_only(self) -> None:
        self.begin()
        views = []
        for state in (self.site.standby, self.site.source):
            view = self.site.path / f"view-{state.name}"
            view.mkdir()
            command("mount", "--bind", state, view)
            self.addCleanup(command, "umount", view)
            command("mount", "-o", "remount,ro,bind", view)
            views.append(view)
        # Beside a daemon, and after one that was killed and had not brought its log into the file.
        self.change()
        self.sent()
        self.assertEqual([self.generation(view) for view in views], [(2, False)] * 2)
        self.site.kill_daemon()
        self.assertEqual([self.generation(view) for view in views], [(2, False)] * 2)
        # After a clean end there is no log.
        self.assertEqual(self.site.status("vol")["generation"], 2)
        self.assertFalse((self.site.standby / "catalog.sqlite-wal").exists())
        self.assertEqual([self.generation(view) for view in views], [(2, False)] * 2)

    def test_status_of_a_copy_that_nobody_may_write(self) -> None:
        self.begin()
        # Generation 1 is in the catalog's file, generation 2 in its log alone.
        self.site.kill_daemon()
        self.site.status("vol")
        self.site.start_daemon()
        self.change()
        self.sent()
        os.chmod(self.site.path, 0o755)
        cases = {"whole": (), "without index": ("-shm",), "without log": ("-shm", "-wal")}
        for name, missing in cases.items():
            with self.subTest(name):
                copy = self.site.path / f"standby-{name.replace(' ', '-')}"
                shutil.copytree(self.site.standby, copy)
                for ending in missing:
                    (copy / f"catalog.sqlite{ending}").unlink()
                for path in copy.rglob("*"):
                    path.chmod(0o500 if path.is_dir() else 0o400)
                    os.chown(path, 65534, 65534)
                copy.chmod(0o500)
                os.chown(copy, 65534, 65534)
                before = self.entries(copy)
                found = self.generation(copy, user=65534)
                self.assertEqual(found, (2 if name == "whole" else 1, name == "without index"))
                self.assertEqual(self.entries(copy), before, "it was written")


class Ended(States):
    def start(self, *more: str, signal_at: int) -> tuple[subprocess.Popen, int]:
        """A send of 48 MiB whose network stops after `signal_at` bytes, on a terminal of its own."""
        self.plain.write_bytes(os.urandom(48 * MIB))
        self.site.start_daemon()
        state = {"passed": 0}

        def tamper(data: bytes, at: int) -> bytes:
            state["passed"] = at
            if at > signal_at:
                time.sleep(30)
            return data
        proxy = Proxy(self.site.port, tamper)
        self.addCleanup(proxy.close)
        self.site.pair("vol", self.target, port=proxy.port)
        self.passed = state
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        process = subprocess.Popen(
            [BIN / "blockferry", "send", self.plain, "--to", "standby", "--volume", "vol", *more], stdout=subprocess.PIPE,
            stderr=slave, stdin=subprocess.DEVNULL, env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)})
        os.close(slave)
        return process, master

    def said(self, master: int) -> str:
        text = b""
        while select.select([master], [], [], 1)[0]:
            try:
                text += os.read(master, 65536)
            except OSError:
                break
        return text.decode()

    def test_an_ended_send_says_what_is_safe_and_how_to_go_on(self) -> None:
        for number, more in ((signal.SIGINT, ()), (signal.SIGTERM, ("--json", "--progress"))):
            with self.subTest(number):
                process, master = self.start(*more, signal_at=38 * MIB)
                self.assertTrue(until(60, lambda: self.passed["passed"] > 38 * MIB))
                time.sleep(1)
                process.send_signal(number)
                out, _ = process.communicate(timeout=20)
                text = self.said(master)
                self.assertEqual(process.returncode, -number, text)
                *_, last, following = text.replace("\r\n", "\n").strip().split("\n")
                # The line that was there is taken away before anything is said.
                self.assertRegex(last.split("\x1b[K")[-1],
                                 r"^interrupted: what the standby has acknowledged, [\d.]+ MiB of 48\.0 MiB, is safe on its disk$")
                self.assertEqual(following, "next: the same command again; it goes on from there")
                if more:
                    facts = json.loads(out)
                    self.assertEqual((facts["exit"], facts["next"]), (128 + number, following.removeprefix("next: ")))
                else:
                    self.assertRegex(text, r"vol  sending  \d+%  [\d.]+ \w+ of 48\.0 MiB")
                self.site.kill_daemon()
                shutil.rmtree(self.site.standby)
                shutil.rmtree(self.site.source)
                self.target.unlink()

    def test_the_same_command_goes_on(self) -> None:
        process, master = self.start(signal_at=38 * MIB)
        self.assertTrue(until(60, lambda: self.passed["passed"] > 38 * MIB))
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        self.assertTrue(until(30, lambda: self.site.is_free("vol")))
        with sqlite3.connect(self.site.source / "catalog.sqlite") as catalog:
            catalog.execute("UPDATE receiver SET address = ?", (f"127.0.0.1:{self.site.port}",))
        result = self.site.send("vol", self.plain)
        self.assertEqual(result.code, 0, result)
        self.assertGreater(result.json["resumed_segments"], 0)
        self.assertEqual(sha256(self.target), sha256(self.plain))


if __name__ == "__main__":
    unittest.main()
