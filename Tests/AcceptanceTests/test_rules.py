# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Refusals that need a course of events of their own: each is met as an operator meets it, and leaves the copy as it was.
Needs root for bind mounts."""

from __future__ import annotations

import fcntl
import os
import pathlib
import random
import sqlite3
import subprocess
import threading
import unittest

from harness import BIN, Proxy, Result, Site, sha256, until

MIB = 1 << 20
# A point of small order (RFC 7748, 6.1): whatever is agreed with it is zero.
NO_KEY = b"\1" + bytes(31)


def mount(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, timeout=60)


class Rules(unittest.TestCase):
    """A standby that holds generation 1 of a plain file, reached through a proxy that does what a test says."""

    def setUp(self) -> None:
        self.site, self.random = Site(), random.Random(15)
        self.addCleanup(self.site.close)
        self.site.start_daemon()
        self.limit, self.held = 1 << 60, None
        self.proxy = Proxy(self.site.port, self.tamper)
        self.addCleanup(self.proxy.close)
        self.plain, self.target = self.site.path / "plain", self.site.path / "copy"
        self.change(40_000)
        self.site.pair("vol", self.target, port=self.proxy.port)
        self.assertEqual(self.send().code, 0)
        self.before = sha256(self.target)

    def tamper(self, data: bytes, at: int) -> bytes | None:
        """Beyond the limit the stream waits for an event, or ends if there is none."""
        if at < self.limit:
            return data
        return data if self.held and self.held.wait(60) else None

    def change(self, count: int) -> None:
        self.plain.write_bytes(self.random.randbytes(count))

    def command(self, verb: str, *more: object) -> Result:
        return self.site.run("blockferry", verb, self.plain, "--to", "standby", "--volume", "vol", *more)

    def send(self) -> Result:
        return self.command("send", "--json")

    def refused(self, result: Result, code: int, rule: str, *words: str) -> None:
        self.assertEqual(result.code, code, result)
        for word in (f"(rule {rule})", *words):
            self.assertIn(word, result.error)
        self.assertEqual((sha256(self.target), self.site.status("vol")["generation"]), (self.before, 1))

    def arrives(self, result: Result, generation: int = 2) -> None:
        self.assertEqual(result.code, 0, result)
        self.assertEqual((sha256(self.target), self.site.status("vol")["generation"]), (sha256(self.plain), generation))

    # Sends

    def test_a_session_whose_volume_was_taken_over(self) -> None:
        """Somebody takes it for dead, removes its lock and would promote the copy. It commits nothing any more."""
        self.change(8 * MIB)
        self.limit, self.held = MIB, threading.Event()
        self.addCleanup(self.held.set)
        sending = self.site.start_send("vol", self.plain)
        self.assertTrue(until(30, lambda: self.site.status("vol")["state"] == "staging"))
        promote = ("blockferryd", "promote", "vol")
        self.refused(self.site.run(*promote), 3, "busy")
        (self.site.standby / "locks/vol").unlink()
        self.refused(self.site.run(*promote), 9, "not-the-copy", "in use")
        self.held.set()
        out, error = sending.communicate(timeout=90)
        self.refused(Result(subprocess.CompletedProcess(sending.args, sending.returncode, out, error)), 3, "fenced", "newer")
        self.arrives(self.send())

    def test_a_store_that_is_older_than_that_of_its_base(self) -> None:
        """The two are mixed up: nothing in the base's store tells what was written between them."""
        origin, *stores = self.site.unpack("cow-chain-16k", "origin", "cow-s0", "cow-s1")
        copy = self.site.path / "chain"
        self.site.pair("chain", copy)
        self.assertEqual(self.site.send("chain", "--cow-origin", origin, "--cow-store", stores[1]).code, 0)
        before = sha256(copy)
        result = self.site.send("chain", "--cow-origin", origin, "--cow-store", stores[0], "--base-store", stores[1])
        self.refused(result, 7, "no-list", "is older than")
        self.assertEqual((sha256(copy), self.site.status("chain")["generation"]), (before, 1))

    # States

    def read_only(self, state: pathlib.Path) -> None:
        mount("mount", "--bind", state, state)
        self.addCleanup(subprocess.run, ["umount", "-l", state], check=False, stderr=subprocess.DEVNULL)
        mount("mount", "-o", "remount,ro,bind", state)

    def test_a_state_directory_that_has_become_read_only(self) -> None:
        self.change(50_000)
        self.read_only(self.site.source)
        self.refused(self.send(), 12, "state-read-only", str(self.site.source))
        mount("umount", self.site.source)
        # A daemon ends when it finds that.
        self.site.kill_daemon()
        self.read_only(self.site.standby)
        self.refused(self.site.run("blockferryd", "promote", "vol"), 12, "state-read-only", str(self.site.standby))
        mount("umount", self.site.standby)
        self.site.start_daemon()
        self.arrives(self.send())

    # Exports

    def export(self, *more: object) -> tuple[Result, pathlib.Path]:
        file = self.site.path / "file.bfx"
        return self.command("export", "--output", file, *more), file

    def imports(self, file: pathlib.Path) -> Result:
        return self.site.run("blockferryd", "import", "vol", file)

    def test_a_resync_that_was_begun_and_cut_comes_first(self) -> None:
        self.change(40 * MIB)
        self.limit = 36 * MIB
        self.assertIn(self.command("resync").code, (4, 5))
        self.limit = 1 << 60
        self.assertTrue(until(20, lambda: self.site.is_free("vol")))
        result, file = self.export()
        self.refused(result, 7, "unfinished-resync", "begun and not finished")
        self.assertFalse(file.exists() or file.with_name(file.name + ".part").exists())
        self.arrives(self.command("resync"))
        self.change(MIB)
        result, file = self.export("--allow-shrink")
        self.assertEqual(result.code, 0, result)
        self.arrives(self.imports(file), 3)

    def test_a_key_that_nothing_can_be_encrypted_to(self) -> None:
        with sqlite3.connect(self.site.source / "catalog.sqlite") as catalog:
            catalog.execute("UPDATE receiver SET export_key = ?", (NO_KEY,))
        catalog.close()
        self.change(50_000)
        result, file = self.export()
        self.refused(result, 6, "bad-export-key", "nothing can be encrypted")
        self.assertFalse(file.exists() or file.with_name(file.name + ".part").exists())
        self.assertEqual(self.site.run("blockferry", "peers", "--contact", "standby").code, 0)
        result, file = self.export()
        self.assertEqual(result.code, 0, result)
        self.arrives(self.imports(file))

    def test_a_reader_that_goes_away_at_the_end(self) -> None:
        """All but the header is in the last piece, of which the pipe holds a page. Nothing is pending after it."""
        self.change(50_000)
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        arguments = [BIN / "blockferry", "export", self.plain, "--to", "standby", "--volume", "vol", "--output", "-"]
        process = subprocess.Popen(arguments, stdout=writer, stderr=subprocess.PIPE, text=True,
                                   env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)})
        os.close(writer)
        with open(reader, "rb") as pipe:
            self.assertEqual(len(pipe.read(1024 + 8192)), 1024 + 8192)
        _, error = process.communicate(timeout=60)
        self.refused(Result(subprocess.CompletedProcess(arguments, process.returncode, "", error)), 1, "export-cut",
                     "cannot be imported")
        self.assertNotEqual(self.site.run("blockferry", "status", "--json").json["volumes"][0]["state"], "exported")
        result, file = self.export()
        self.assertEqual(result.code, 0, result)
        self.arrives(self.imports(file))


if __name__ == "__main__":
    unittest.main()
