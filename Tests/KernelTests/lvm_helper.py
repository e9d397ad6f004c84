# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""In the place of systemd: listens as blockferryd-lvm.socket says, and starts the helper for each connection, as its unit
says."""

from __future__ import annotations

import os
import pathlib
import re
import socket
import subprocess
import threading
from typing import Callable

UNITS = pathlib.Path(__file__).resolve().parents[2] / "deploy/systemd"


def fact(unit: str, key: str) -> str:
    found = re.findall(rf"^{key}=(.*)$", (UNITS / unit).read_text(), re.M)
    assert len(found) == 1, f"{unit} says {key} {len(found)} times"
    return found[0]


class HelperSocket:
    """The socket unit while it is started. `start` makes the command of a process from that of the unit."""

    def __init__(self, user: int, start: Callable[[str], list[str]], log: pathlib.Path) -> None:
        assert fact("blockferryd-lvm.socket", "Accept") == "yes"
        self.path = pathlib.Path(fact("blockferryd-lvm.socket", "ListenSequentialPacket"))
        self.command = start("exec " + fact("blockferryd-lvm@.service", "ExecStart"))
        self.log, self.asked = log, 0
        self.path.parent.mkdir(mode=int(fact("blockferryd-lvm.socket", "DirectoryMode"), 8), exist_ok=True)
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(self.path))
        os.chmod(self.path, int(fact("blockferryd-lvm.socket", "SocketMode"), 8))
        os.chown(self.path, user, 0)
        self.listener.listen()
        self.children: list[subprocess.Popen] = []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            number = connection.fileno()
            self.asked += 1
            with connection, open(self.log, "ab") as log:
                self.children.append(subprocess.Popen(
                    ["bash", "-c", f'exec 3<&{number}; [ {number} = 3 ] || exec {number}<&-; exec "$@"', "helper",
                     *self.command], pass_fds=[number], stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            self.children = [child for child in self.children if child.poll() is None]

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)
        for child in self.children:
            child.wait(60)
