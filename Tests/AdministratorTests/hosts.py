# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A source host and two standbys on loopback, on file systems of their own, all in a directory that `close` removes."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from harness import BIN, Result, adopt_orphans, is_reaped, until


def tool(*words: object, check: bool = True) -> int:
    """Runs one of the system's programs, as an administrator does."""
    done = subprocess.run([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 or not check, (words, done.stderr)
    return done.returncode


def has_flock(path: pathlib.Path) -> bool:
    """Whether somebody holds the lock of a file. Looks only: to try it could make another process find it held."""
    try:
        facts = os.stat(path)
    except OSError:
        return False
    where = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:{facts.st_ino}"
    return any(words[5] == where and words[1] == "FLOCK" for words in map(str.split, open("/proc/locks"))
               if words[1] != "->")


@dataclasses.dataclass
class Ended(Result):
    """How a program ended; a negative code is a signal."""

    code: int
    out: str
    error: str

    @property
    def said(self) -> str:
        return " ".join((self.error or self.out).split())


class Standby:
    """One standby host: a state directory, a daemon, a port that stays its own."""

    def __init__(self, name: str, folder: pathlib.Path, log: pathlib.Path) -> None:
        self.name, self.state, self.log = name, folder / f"standby-{name}", open(log, "ab")
        self.state.mkdir(mode=0o700)
        self.port_file = log.with_suffix(".port")
        self.daemon: subprocess.Popen | None = None
        self.reserved = socket.socket()
        self.reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.reserved.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.reserved.getsockname()[1]}"

    def start(self) -> None:
        self.port_file.unlink(missing_ok=True)
        self.daemon = subprocess.Popen(
            [BIN / "blockferryd", "serve", "--listen", self.address, "--port-file", self.port_file], stderr=self.log,
            env={**os.environ, "BLOCKFERRYD_STATE": str(self.state)}, start_new_session=True)
        until(60, lambda: self.port_file.exists() or self.daemon.poll() is not None)
        assert self.port_file.exists(), "the daemon does not listen: " + self.journal()

    def stop(self, how: int = signal.SIGTERM) -> int | None:
        """Ends the daemon and its workers, which have a session of their own. Returns the daemon's exit code."""
        if not self.daemon:
            return None
        group = self.daemon.pid
        if how == signal.SIGKILL:
            os.killpg(group, signal.SIGKILL)
        else:
            self.daemon.send_signal(how)
        code = self.daemon.wait(60)
        self.daemon = None
        assert until(60, lambda: is_reaped(group)), "a worker does not end"
        return code

    def close(self) -> None:
        self.stop(signal.SIGKILL)
        self.log.close()
        self.reserved.close()

    def journal(self) -> str:
        return pathlib.Path(self.log.name).read_text(errors="replace")[-3000:]

    def is_busy(self, name: str) -> bool:
        return has_flock(self.state / "locks" / name)


class FileSystem:
    """An ext4 in a file, mounted over a loop device."""

    def __init__(self, image: pathlib.Path, at: pathlib.Path, size: int) -> None:
        self.image, self.at, self.device = image, at, ""
        at.mkdir()
        image.touch()
        os.truncate(image, size)
        tool("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", image)
        self.mount()

    @property
    def is_mounted(self) -> bool:
        return self.device != ""

    def mount(self) -> None:
        """Mounts it by whatever loop device is free: the device number of its files changes."""
        done = subprocess.run(["losetup", "--find", "--show", self.image], capture_output=True, text=True, check=True)
        device = done.stdout.strip()
        if tool("mount", "-o", "noatime", device, self.at, check=False):
            tool("losetup", "-d", device)
            raise AssertionError(f"{self.at} cannot be mounted")
        self.device = device

    def unmount(self) -> bool:
        """Whether it could be unmounted: not while somebody has a file open."""
        if not self.is_mounted or tool("umount", self.at, check=False):
            return False
        tool("losetup", "-d", self.device, check=False)
        self.device = ""
        return True


class Site:
    def __init__(self) -> None:
        adopt_orphans()
        folder = os.environ.get("TMPDIR") or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="blockferry-administrator.", dir=folder))
        self.loops: list[str] = []
        self.systems: list[FileSystem] = []
        self.standbys: list[Standby] = []
        # The standby whose copies are sent on from this host.
        self.onward: Standby | None = None
        # How long the last send has taken: kills and writes come within that.
        self.seconds = 0.05
        try:
            self.host = self.file_system("host", 1 << 30)
            self.disk = self.file_system("disk", 1 << 30)
            self.source = self.host / "source"
            self.source.mkdir(mode=0o700)
            self.attic = self.path / "attic"
            self.attic.mkdir()
            for name in ("a", "b"):
                self.standbys.append(Standby(name, self.host, self.path / f"daemon-{name}.log"))
                self.standbys[-1].start()
        except BaseException:
            self.close()
            raise

    def file_system(self, name: str, size: int) -> pathlib.Path:
        self.systems.append(FileSystem(self.path / f"{name}.img", self.path / name, size))
        return self.systems[-1].at

    def close(self) -> None:
        for standby in self.standbys:
            standby.close()
        for device in self.loops:
            tool("losetup", "-d", device, check=False)
        for system in reversed(self.systems):
            if not until(10, lambda: not system.is_mounted or system.unmount()):
                tool("umount", "-l", system.at, check=False)
        shutil.rmtree(self.path, ignore_errors=True)

    # Programs

    def blockferry(self, *words: object, kill_after: float | None = None, beside=None) -> Ended:
        """Runs `blockferry`. `kill_after` s later SIGKILL ends it, or `beside` is called instead, if there is one."""
        there = {"BLOCKFERRYD_STATE": str(self.onward.state)} if self.onward else {}
        return self._run("blockferry", words, {"BLOCKFERRY_STATE": str(self.source), **there}, kill_after, beside)

    def blockferryd(self, standby: Standby, *words: object, kill_after: float | None = None) -> Ended:
        return self._run("blockferryd", words, {"BLOCKFERRYD_STATE": str(standby.state)}, kill_after, None)

    def _run(self, program: str, words: tuple, environment: dict, kill_after: float | None, beside) -> Ended:
        began = time.monotonic()
        process = subprocess.Popen([BIN / program, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, env={**os.environ, **environment})
        if kill_after is not None:
            time.sleep(kill_after)
            process.kill() if beside is None else beside()
        try:
            out, error = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            out, error = process.communicate()
            raise AssertionError(f"{program} {' '.join(map(str, words))} does not end: {out}{error}") from None
        if words[0] == "send" and process.returncode == 0:
            self.seconds = time.monotonic() - began
        return Ended(process.returncode, out, error)


def hold_as_an_emulator(path: os.PathLike | str) -> int:
    """Opens a copy and takes the record locks that qemu takes on a raw image that it may write. Closing it lets go."""
    handle = os.open(path, os.O_RDWR)
    F_OFD_SETLK = 37
    import struct
    for byte in (100, 101, 103, 201, 203):
        fcntl.fcntl(handle, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
    return handle
