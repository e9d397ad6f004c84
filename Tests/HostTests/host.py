# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of a host stand on: a site whose state can be put back, with every file that a state directory may
hold, and the rules that every ending of a program must keep."""

from __future__ import annotations

import os
import pathlib
import queue
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import unittest

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "AcceptanceTests"))
from harness import BIN, Proxy, Result, Site, sha256, until  # noqa: E402, F401

CAMPAIGN = os.environ.get("BLOCKFERRY_CAMPAIGN") == "1"
SEED = int(os.environ.get("BLOCKFERRY_SEED", "7"))
BLOCK = 65_536
# More than one segment, of which each is 16 MiB, in few bytes: each block repeats what it begins with.
BLOCKS = 258
# A code for what did not end in time; no program ends with it.
HUNG = 124
# Exit codes that OPERATIONS.md names.
DOCUMENTED = range(13)


def count(ordinary: int, campaign: int) -> int:
    """How many cases: in continuous integration, and in a campaign."""
    return campaign if CAMPAIGN else ordinary


def content(seed: int, blocks: int = BLOCKS) -> bytes:
    """A volume that compresses well, and whose blocks all differ."""
    rng = random.Random(seed)
    return b"".join(rng.randbytes(16) * (BLOCK // 16) for _ in range(blocks))


class HostSite(Site):
    """Both hosts, with bounded commands; what a case begins with can be kept and put back."""

    def __init__(self) -> None:
        super().__init__()
        self.saved, self.files = self.path / "saved", {}
        self.plain, self.target = self.path / "plain", self.path / "copy"

    def environment(self, program: str, more: dict | None = None) -> dict[str, str]:
        state = {"blockferryd": ("BLOCKFERRYD_STATE", self.standby), "blockferry": ("BLOCKFERRY_STATE", self.source)}
        name, path = state[program]
        return {**os.environ, name: str(path), **(more or {})}

    def begin(self, program: str, *arguments, more: dict | None = None, prepare=None) -> subprocess.Popen:
        """Starts a program in a session of its own, so that a kill of its group takes nothing else."""
        return subprocess.Popen([BIN / program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                stdin=subprocess.DEVNULL, text=True, errors="replace", start_new_session=True,
                                env=self.environment(program, more), preexec_fn=prepare)

    def end(self, process: subprocess.Popen, seconds: float = 20) -> Result:
        """Waits for it; one that hangs is killed, and its code is HUNG."""
        try:
            out, error = process.communicate(timeout=seconds)
            code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, error = process.communicate()
            code, error = HUNG, error + f"it did not end within {seconds} s\n"
        return Result(subprocess.CompletedProcess(process.args, code, out, error))

    def bounded(self, program: str, *arguments, seconds: float = 20, more: dict | None = None, prepare=None) -> Result:
        return self.end(self.begin(program, *arguments, more=more, prepare=prepare), seconds)

    def begin_daemon(self, *, more: dict | None = None, prepare=None, seconds: float = 20) -> Result | None:
        """Starts the daemon: nothing if it listens, else how it ended. Its words of this start are in the result."""
        ports, log = self.path / "port", self.path / "daemon.log"
        ports.unlink(missing_ok=True)
        before = log.stat().st_size
        self.daemon = daemon = subprocess.Popen(
            [BIN / "blockferryd", "serve", "--listen", f"127.0.0.1:{self.port}", "--port-file", ports],
            stderr=self.log, stdin=subprocess.DEVNULL, start_new_session=True,
            env=self.environment("blockferryd", more), preexec_fn=prepare)

        def has_ended() -> bool:
            # Its number stays taken until `kill_daemon`, so that no other group can have it.
            return os.waitid(os.P_PID, daemon.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

        def listens() -> bool:
            return ports.exists() and ports.stat().st_size > 0

        until(seconds, lambda: listens() or has_ended())
        if listens():
            self.port = int(ports.read_text())
            return None
        hung = not has_ended()
        self.kill_daemon()
        words = log.read_bytes()[before:].decode(errors="replace")
        code = HUNG if hung else daemon.returncode
        return Result(subprocess.CompletedProcess(daemon.args, code, "", words))

    def settled(self, volume: str = "vol", seconds: float = 20) -> bool:
        """Whether no process has the volume any more, after waiting for it."""
        return until(seconds, lambda: not (self.standby / "locks" / volume).exists() or self.is_free(volume))

    def sending(self) -> list:
        return ["send", self.plain, "--to", "standby", "--volume", "vol", "--compress", "always", "--json"]

    # What a case begins with

    def save(self) -> None:
        """Keeps both state directories and both volumes, while nothing runs."""
        assert self.daemon is None
        for state in (self.standby, self.source):
            if state.exists():
                shutil.copytree(state, self.saved / state.name)
        for path in (self.plain, self.target):
            if path.exists():
                facts = path.stat()
                self.files[path] = (path.read_bytes(), facts.st_atime_ns, facts.st_mtime_ns)

    def restore(self) -> None:
        """Puts everything back. A file that was not touched is left alone, and is recognised; of another one the kernel keeps
        the time of this change."""
        self.kill_daemon()
        for state in (self.standby, self.source):
            if state.is_symlink() or not state.is_dir():
                state.unlink(missing_ok=True)
            else:
                shutil.rmtree(state)
            if (self.saved / state.name).exists():
                shutil.copytree(self.saved / state.name, state)
        for path, (data, accessed, modified) in self.files.items():
            if path.read_bytes() != data:
                with open(path, "r+b") as file:
                    file.write(data)
                    file.truncate()
            if path.stat().st_mtime_ns != modified:
                os.utime(path, ns=(accessed, modified))

    def readdress(self, port: int) -> None:
        with sqlite3.connect(self.source / "catalog.sqlite") as catalog:
            catalog.execute("UPDATE receiver SET address = ?", (f"127.0.0.1:{port}",))
        catalog.close()

    def committed(self, size: int = BLOCKS) -> None:
        """Generation 1 on both sides."""
        self.plain.write_bytes(content(1, size))
        self.start_daemon()
        self.pair("vol", self.target)
        result = self.bounded("blockferry", *self.sending())
        assert result.code == 0, result

    def unfinished(self) -> None:
        """Generation 1 on both sides; of generation 2 the first segment is durable, the second is not. Every file that
        the two state directories can have is there, also what a comparison leaves."""
        self.committed()
        assert self.bounded("blockferry", "verify", self.plain, "--to", "standby", "--volume", "vol").code == 0
        self.settled()
        self.plain.write_bytes(content(2, BLOCKS - 2) + random.Random(2).randbytes(2 * BLOCK))
        log = self.standby / "staging/vol.log"

        def tamper(data: bytes, at: int) -> bytes | None:
            if at + len(data) < 100_000:
                return data
            # The first segment is acknowledged while the second one waits.
            until(10, lambda: log.exists() and b"BFSEGMT1" in log.read_bytes())
            time.sleep(3)
            return None

        proxy = Proxy(self.port, tamper)
        self.readdress(proxy.port)
        cut = self.bounded("blockferry", *self.sending())
        proxy.close()
        assert cut.code in (4, 5) and "1 of 2 segments" in cut.error, cut
        self.readdress(self.port)
        self.settled()
        self.kill_daemon()


def ended_well(test: unittest.TestCase, result: Result, case: str, *, codes=DOCUMENTED, lines: int = 1) -> None:
    """A documented code; if it is not 0, one sentence that says why, and maybe what comes next; never a trap."""
    test.assertNotEqual(result.code, HUNG, f"{case}: it hangs: {result}")
    test.assertIn(result.code, codes, f"{case}: {result}")
    test.assertNotIn("Fatal error", result.error, case)
    if result.code != 0:
        said = [line for line in result.error.splitlines() if line.strip() and not line.startswith("next: ")]
        test.assertEqual(1 <= len(said) <= lines, True, f"{case}: not one sentence: {result}")
        test.assertGreater(len(said[-1].split()), 2, f"{case}: not a sentence: {result}")


def in_parallel(make, work, cases: list, threads: int = 2) -> list:
    """Works through the cases on some sites at once, each made by `make` and closed in the end; results in order of the
    cases, an exception in place of a result. A site that fails to be made fails everything."""
    todo: queue.SimpleQueue = queue.SimpleQueue()
    for item in enumerate(cases):
        todo.put(item)
    results: list = [RuntimeError("not run")] * len(cases)

    def run() -> None:
        site = None
        try:
            site = make()
            while True:
                try:
                    number, case = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    results[number] = work(site, case)
                except Exception as error:  # noqa: BLE001  reported by the caller
                    results[number] = error
        finally:
            if site:
                site.close()

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return results
