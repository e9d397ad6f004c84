# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A site whose programs run with `faults.c` preloaded, and whose state can be put back to what it was, so that every
case of an enumeration begins with the same bytes and has the same steps."""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "AcceptanceTests"))
from harness import BIN, Result, Site, sha256, until  # noqa: E402, F401

CAMPAIGN = os.environ.get("BLOCKFERRY_CAMPAIGN") == "1"
# The kinds of calls in `faults.c`.
WRITE, FLUSH, NAME, SIZE, SOCKET, READ = 1, 2, 4, 8, 16, 32
CHANGING = WRITE | FLUSH | NAME | SIZE
# What is done to them.
COUNT, KILL_BEFORE, KILL_AFTER, ERROR_ONCE, ERROR_FROM, SHORT, INTERRUPT = range(7)
BLOCK = 65536


def library() -> str:
    """`faults.c`, compiled once for each run of the tests."""
    global _library
    if _library is None:
        folder = tempfile.mkdtemp(prefix="blockferry-faults.")
        atexit.register(shutil.rmtree, folder, True)
        made = f"{folder}/faults.so"
        source = pathlib.Path(__file__).with_name("faults.c")
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", made, source, "-ldl"],
                       check=True)
        _library = made
    return _library


_library: str | None = None


class Control:
    """The counter that the preloaded processes share, and what is to happen at which call."""

    FIELDS = ("armed", "count", "at", "action", "error", "mask", "hits")

    def __init__(self, folder: pathlib.Path) -> None:
        self.path, self.log = folder / "faults", folder / "faults.log"
        self.path.write_bytes(bytes(4 * len(self.FIELDS)))
        with open(self.path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 4 * len(self.FIELDS))

    def __getitem__(self, name: str) -> int:
        return struct.unpack_from("<I", self.memory, 4 * self.FIELDS.index(name))[0]

    def __setitem__(self, name: str, value: int) -> None:
        struct.pack_into("<I", self.memory, 4 * self.FIELDS.index(name), value)

    def reset(self, action: int = COUNT, at: int = 0, *, mask: int = CHANGING | SOCKET, error: int = 0,
              armed: bool = False) -> None:
        self["armed"] = 0
        for name, value in (("count", 0), ("hits", 0), ("at", at), ("action", action), ("mask", mask),
                            ("error", error)):
            self[name] = value
        self.log.write_bytes(b"")
        self["armed"] = int(armed)

    def arm(self) -> None:
        self["armed"] = 1

    def environment(self, *roots: os.PathLike) -> dict[str, str]:
        return {"LD_PRELOAD": library(), "FAULTS_FILE": str(self.path), "FAULTS_LOG": str(self.log),
                "FAULTS_ROOTS": ":".join(map(str, roots))}

    def steps(self) -> list[str]:
        """The names of the calls that were counted, in order."""
        lines = [line.split(" ", 1) for line in self.log.read_text().splitlines()]
        return [name for _, name in sorted(lines, key=lambda line: int(line[0]))]

    def step(self, number: int) -> str:
        steps = self.steps()
        return steps[number - 1] if 0 < number <= len(steps) else "?"


class FaultSite(Site):
    """Both hosts, with faults in one of the programs."""

    def __init__(self) -> None:
        super().__init__()
        self.control = Control(self.path)
        self.saved = self.path / "saved"
        self.files: dict[pathlib.Path, tuple[bytes, int, int]] = {}

    def close(self) -> None:
        super().close()
        self.control.memory.close()

    # What a case begins with

    def save(self, *files: pathlib.Path) -> None:
        """Keeps both state directories and the files named, while nothing runs."""
        assert self.daemon is None
        shutil.rmtree(self.saved, ignore_errors=True)
        for state in (self.standby, self.source):
            if state.exists():
                shutil.copytree(state, self.saved / state.name)
        for path in files:
            # A copy has its storage from now on: what is reserved of it is the same each time.
            if path.suffix == ".copy" and path.exists():
                with open(path, "r+b") as file:
                    content = file.read()
                    file.seek(0)
                    file.write(content)
            facts = path.stat()
            self.files[path] = (path.read_bytes(), facts.st_atime_ns, facts.st_mtime_ns)

    def restore(self) -> None:
        """Puts everything back. A file that was not touched is left alone, and is recognised; of another one the kernel keeps
        the time of this change."""
        self.kill_daemon()
        for state in (self.standby, self.source):
            self.put_back(self.saved / state.name, state)
        for path, (content, accessed, modified) in self.files.items():
            if path.read_bytes() != content:
                with open(path, "r+b") as file:
                    file.write(content)
                    file.truncate()
            if path.stat().st_mtime_ns != modified:
                os.utime(path, ns=(accessed, modified))

    def put_back(self, saved: pathlib.Path, state: pathlib.Path) -> None:
        """In place, so that the programs do not take it for a backup that was restored: that is a test of its own."""
        if not saved.exists():
            return shutil.rmtree(state, ignore_errors=True)
        for path in sorted(state.rglob("*"), reverse=True):
            if not (saved / path.relative_to(state)).exists():
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in sorted(saved.rglob("*")):
            to = state / path.relative_to(saved)
            if path.is_dir():
                to.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif not to.exists():
                shutil.copy2(path, to)
            elif to.read_bytes() != path.read_bytes():
                to.write_bytes(path.read_bytes())

    # Programs

    def begin_daemon(self, preload: dict[str, str] | None = None) -> bool:
        """Starts the daemon; returns whether it came to listen."""
        ports = self.path / "port"
        ports.unlink(missing_ok=True)
        self.daemon = subprocess.Popen(
            [BIN / "blockferryd", "serve", "--listen", f"127.0.0.1:{self.port}", "--port-file", ports],
            stderr=self.log, start_new_session=True,
            env={**os.environ, "BLOCKFERRYD_STATE": str(self.standby), **(preload or {})})
        daemon = self.daemon

        def has_ended() -> bool:
            # Its number stays taken until `kill_daemon`, so that no other group can have it.
            return os.waitid(os.P_PID, daemon.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

        until(20, lambda: (ports.exists() and ports.stat().st_size > 0) or has_ended())
        if not ports.exists():
            return False
        self.port = int(ports.read_text())
        return True

    def begin(self, program: str, *arguments, preload: dict[str, str] | None = None) -> subprocess.Popen:
        """Starts a program in a session of its own, so that a kill of its group takes nothing else."""
        state = {"blockferryd": ("BLOCKFERRYD_STATE", self.standby), "blockferry": ("BLOCKFERRY_STATE", self.source)}
        name, path = state[program]
        return subprocess.Popen([BIN / program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, start_new_session=True,
                                env={**os.environ, name: str(path), **(preload or {})})

    def end(self, process: subprocess.Popen, seconds: float = 30) -> Result:
        """Waits for it; one that hangs is killed, which the code then tells."""
        try:
            out, error = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, error = process.communicate()
            error += f"\nit did not end within {seconds} s"
        return Result(subprocess.CompletedProcess(process.args, process.returncode, out, error))

    def is_settled(self, *volumes: str) -> bool:
        """Whether no process of the standby has any of the volumes."""
        return all(not (self.standby / "locks" / name).exists() or self.is_free(name) for name in volumes)

    def settle(self, *volumes: str) -> None:
        assert until(30, lambda: self.is_settled(*volumes)), f"{volumes}: a process does not let go of it"


def spread(count: int, wanted: int) -> list[int]:
    """So many of 1…count, evenly, the first and the last among them."""
    if wanted >= count:
        return list(range(1, count + 1))
    if wanted <= 1:
        return [count][:wanted]
    return sorted({1 + round(place * (count - 1) / (wanted - 1)) for place in range(wanted)})


def ranges(numbers: list[int]) -> str:
    """1-3,7 for 1, 2, 3, 7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in parts) or "none"


@contextlib.contextmanager
def told(place: str):
    """Says at once what went wrong: a campaign is long, and its report comes at the end."""
    try:
        yield
    except Exception as error:
        print(f"BAD {place}: {error}", flush=True)
        raise
