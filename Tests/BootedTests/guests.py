# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Two hosts that booted: guests of the lab with systemd as process 1 and udev, and a cable between them."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Another Debian, whose kernel and root the guests have.
SUITE = os.environ.get("BOOTED_SUITE", "")
ADDRESSES = {"source": "192.0.2.1", "standby": "192.0.2.7"}
# Where the reader of the manual stands: the package and the built tree are there.
DESK = "/opt/desk"


@dataclass
class Done:
    host: str
    text: str
    code: int
    output: str

    def __str__(self) -> str:
        return f"{self.host}: {self.text}: exit {self.code}\n{self.output}"


class Guest:
    """One of the two."""

    def __init__(self, name: str, where: pathlib.Path, cable: socket.socket, processor: int) -> None:
        self.name, self.where = name, where
        self.requests = 0
        for directory in ("requests", "answers"):
            (where / directory).mkdir(parents=True)
        log = open(where / "lab.log", "wb")
        self.lab = subprocess.Popen(
            [ROOT / "Tests/Lab/lab", "run", "--systemd", *(["--suite", SUITE, "--root", f"@{SUITE}"] if SUITE else []),
             "--network", str(cable.fileno()), "--scratch", "1G", "--mem", "1536", "--pin", str(processor),
             "--timeout", "3000", "--out", where, "--klog", where / "klog", "--", "python3", "-B", pathlib.Path(__file__).with_name("agent.py")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[cable.fileno()])
        log.close()

    def wait_ready(self, seconds: float = 300) -> None:
        self._answer("ready", seconds)

    def _answer(self, name: str, seconds: float) -> dict:
        path, due = self.where / "answers" / name, time.monotonic() + seconds
        while not path.exists():
            if self.lab.poll() is not None or time.monotonic() > due:
                raise AssertionError(f"{self.name} does not answer ({name}):\n{self.log()}")
            time.sleep(0.02)
        return json.loads(path.read_text())

    def start(self, text: str, user: str = "root", seconds: float = 300, directory: str = DESK) -> str:
        """Begins a command and returns its number, for `end`."""
        self.requests += 1
        name = f"{self.requests:05}"
        made = self.where / "requests" / f".{name}"
        made.write_text(json.dumps([user, text, directory, seconds]))
        made.rename(self.where / "requests" / name)
        return name

    def end(self, name: str, text: str = "", seconds: float = 300) -> Done:
        found = self._answer(name, seconds + 60)
        return Done(self.name, text, found["code"], found["output"])

    def run(self, text: str, user: str = "root", seconds: float = 300, directory: str = DESK) -> Done:
        return self.end(self.start(text, user, seconds, directory), text, seconds)

    def check(self, text: str, user: str = "root", seconds: float = 300, directory: str = DESK) -> str:
        """Output of a command that must succeed."""
        done = self.run(text, user, seconds, directory)
        if done.code != 0:
            raise AssertionError(str(done))
        return done.output

    def property(self, unit: str, name: str) -> str:
        return self.check(f"systemctl show --value -p {name} {unit}").strip()

    def log(self) -> str:
        texts = [(self.where / name).read_text(errors="replace")[-4000:] for name in ("lab.log", "klog")
                 if (self.where / name).exists()]
        return "\n".join(texts)

    def close(self) -> None:
        if self.lab.poll() is None:
            (self.where / "requests/end").write_text(json.dumps("end"))
            try:
                self.lab.wait(20)
            except subprocess.TimeoutExpired:
                self.lab.terminate()
                self.lab.wait(20)


def boot(where: pathlib.Path, package: pathlib.Path, programs: pathlib.Path) -> dict[str, Guest]:
    """Both hosts, up, with names, addresses, and what the reader of the manual has before its first command."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    first = os.getpid()
    guests = {name: Guest(name, where / name, end, (first + number) % (os.cpu_count() or 1))
              for number, (name, end) in enumerate(zip(ADDRESSES, ends))}
    for end in ends:
        end.close()
    try:
        for name, guest in guests.items():
            shutil.copytree(programs, guest.where / "programs")
            shutil.copy(package, guest.where)
        for name, guest in guests.items():
            guest.wait_ready()
            names = "".join(f"{address} {host}1\\n" for host, address in ADDRESSES.items())
            guest.check(
                f"hostname {name}1; printf '127.0.0.1 localhost\\n{names}' > /etc/hosts; "
                # Nothing is fetched; to read the lists of an archive takes longer than to install.
                # Nor is anything here that this machine's programs have left.
                f"rm -rf /var/lib/apt/lists/* /var/lib/blockferry*; "
                f"ip address add {ADDRESSES[name]}/24 dev vec0 && ip link set vec0 up && mkdir {DESK} && cd {DESK} && "
                f"ln -s {ROOT}/deploy . && mkdir .build && ln -s /out/programs .build/release && ln -s /out/{package.name} .",
                directory="/")
    except BaseException:
        for guest in guests.values():
            guest.close()
        raise
    return guests
