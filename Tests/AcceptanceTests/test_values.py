# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Values of kernel, file system and caller that nobody expects: file times before 1970 and after 2554, a limit on the size of
files, no /proc, no arguments; and more sends at once than a source has sessions."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile
import time
import unittest

from harness import BIN, Site, sha256

PROGRAMS = ("blockferry", "blockferryd")
# tmpfs keeps every time of 64 bits.
FAR, FARTHER, BEFORE = 20_000_000_000, 20_000_000_001, -86_400


class Values(unittest.TestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()

    def sent(self, volume: str, source, target) -> None:
        result = self.site.send(volume, source)
        self.assertEqual(result.code, 0, result)
        self.assertEqual(sha256(source), sha256(target))

    def test_file_times(self) -> None:
        """A source and a target whose times no 64-bit count of nanoseconds holds: every content arrives, whatever the times."""
        with tempfile.TemporaryDirectory(prefix="blockferry-times.", dir="/dev/shm") as memory:
            source, target = os.path.join(memory, "source"), os.path.join(memory, "copy")
            self.site.pair("vol", target)
            contents = 0
            for stamp in (FAR, FARTHER, BEFORE, BEFORE - 1, BEFORE, FAR, 2**40):
                for whose in (source, target):
                    if whose == source:
                        with open(source, "wb") as file:
                            file.write(os.urandom(200_000))
                    subprocess.run(["touch", "-c", "-d", f"@{stamp}", whose], check=True)
                self.assertEqual(int(os.stat(source).st_mtime), stamp, "the file system cuts the time")
                self.sent("vol", source, target)
                contents += 1
            for program in PROGRAMS:
                self.assertIn(self.site.run(program, "status").code, (0, 9))
        self.assertEqual(contents, 7)
        self.assertNotIn("signal", self.site.journal())

    def test_limit_on_file_size(self) -> None:
        """What the limit ends is told as a sentence, in the daemon and in the sender, and goes on without it."""
        source, target = self.site.path / "data", self.site.path / "copy"
        source.write_bytes(os.urandom(3_000_000))
        self.site.pair("vol", target)
        self.site.kill_daemon()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
        try:
            self.site.start_daemon()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        result = self.site.send("vol", source)
        self.assertIn(result.code, (5, 11, 12), result)
        self.assertIn("File too large", result.error + self.site.journal())
        self.site.kill_daemon()
        self.site.start_daemon()
        if self.site.status("vol")["state"] == "suspect":
            self.assertEqual(self.site.run("blockferryd", "reset", "vol", "--yes").code, 0)
        self.sent("vol", source, target)
        self.assertNotIn("signal", self.site.journal())

    def test_limit_on_file_size_of_a_command(self) -> None:
        source = self.site.path / "data"
        source.write_bytes(os.urandom(3_000_000))
        self.site.pair("vol", self.site.path / "copy")
        output = self.site.path / "exported"
        ended = subprocess.run(
            [BIN / "blockferry", "export", source, "--to", "standby", "--volume", "vol", "--output", output],
            preexec_fn=lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_DFL),
                                resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))),
            env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)}, capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.returncode, 12, ended)
        self.assertIn(f"no room on the file system of {self.site.path}: ", ended.stderr)
        self.assertIn("File too large", ended.stderr)

    def test_arguments(self) -> None:
        """No arguments are wrong use; no list of them is a failure; without /proc they are the same as with it."""
        for program in PROGRAMS:
            plain = subprocess.run([BIN / program], capture_output=True, text=True, timeout=30)
            self.assertEqual((plain.returncode, plain.stdout), (2, ""))
            self.assertIn("SUBCOMMANDS", plain.stderr)
            # Kernels since 5.18 give an empty name in place of no list.
            none = subprocess.run([""], executable=BIN / program, capture_output=True, text=True, timeout=30)
            self.assertEqual((none.returncode, none.stdout), (1, ""))
            self.assertIn("without a list of arguments", none.stderr)
            hidden = subprocess.run(
                ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh",
                 BIN / program, "--version"], capture_output=True, text=True, timeout=30)
            self.assertEqual((hidden.returncode, hidden.stdout), (0, "0.1.0\n"), hidden.stderr)

    def test_more_sends_than_sessions(self) -> None:
        """A source sends twenty volumes at once: those that find no session wait, and all are done."""
        volumes = []
        for number in range(20):
            source, target = self.site.path / f"s{number}", self.site.path / f"t{number}"
            source.write_bytes(os.urandom(50_000))
            self.site.pair(f"v{number}", target)
            volumes.append((f"v{number}", source, target))
        began = time.monotonic()
        sends = [self.site.start_send(name, source) for name, source, _ in volumes]
        ended = [(send.communicate(timeout=90), send.returncode) for send in sends]
        print(f"twenty sends of one source at once took {time.monotonic() - began:.1f} s", flush=True)
        self.assertEqual([(said, code) for said, code in ended if code != 0], [])
        for _, source, target in volumes:
            self.assertEqual(sha256(source), sha256(target))


if __name__ == "__main__":
    unittest.main()
