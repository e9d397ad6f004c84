# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy that does one thing at one byte of one direction. One thread has all sockets, so that a reset is a reset:
nobody else holds them."""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
import time

UP, DOWN = 0, 1  # from the sender to the standby, and back


class FaultProxy:
    """Offsets count the bytes of a direction over all connections since `plan`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.plan(None, 0, 0)
        self.wake, self._woken = os.pipe()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        self.selector.register(self.wake, selectors.EVENT_READ, None)
        self.pairs: list = []
        self.stopping = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def plan(self, action: str | None, direction: int, offset: int, length: int = 0) -> None:
        """What happens once `offset` bytes of the direction have been passed on."""
        with self.lock:
            self.action, self.direction, self.offset, self.length = action, direction, offset, length
            self.passed, self.recorded, self.fired = [0, 0], [bytearray(), bytearray()], False
            self.connections, self.starts = 0, [[], []]

    def close(self) -> None:
        self.stopping = True
        os.write(self._woken, b"x")
        self.thread.join(10)
        self.listener.close()
        self.selector.close()
        os.close(self.wake)
        os.close(self._woken)

    def _run(self) -> None:
        while not self.stopping:
            for key, _ in self.selector.select(1):
                if key.fileobj is self.listener:
                    self._accept()
                elif key.data is not None:
                    with self.lock:
                        self._pump(*key.data)
        for pair in list(self.pairs):
            self._end(pair)

    def _accept(self) -> None:
        near, _ = self.listener.accept()
        with self.lock:
            try:
                far = socket.create_connection(("127.0.0.1", self.target), 10)
            except OSError:
                near.close()
                return
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                end.settimeout(10)
            pair = (near, far)
            self.pairs.append(pair)
            self.connections += 1
            for direction in (UP, DOWN):
                self.starts[direction].append(self.passed[direction])
            self.selector.register(near, selectors.EVENT_READ, (pair, UP))
            self.selector.register(far, selectors.EVENT_READ, (pair, DOWN))
            self._due(pair, UP)
            self._due(pair, DOWN)

    def _pump(self, pair: tuple, direction: int) -> None:
        if pair not in self.pairs:
            return
        source, sink = pair if direction == UP else pair[::-1]
        try:
            data = source.recv(65_536)
        except OSError:
            return self._end(pair, "rst")
        if not data:
            self._ended(pair, direction)
            return
        try:
            self._pass(pair, direction, data, sink)
        except OSError:
            # One side has gone; what the other one still has to say is no use to it.
            self._end(pair)

    def _pass(self, pair: tuple, direction: int, data: bytes, sink: socket.socket) -> None:
        if self.action in ("half", "swallow all") and self.fired and direction == self.direction:
            return
        if self.action is None or direction != self.direction or self.fired:
            return self._send(direction, data, sink)
        if self.action == "trickle":
            for at in range(len(data)):
                self._send(direction, data[at:at + 1], sink)
            return
        room = self.offset - self.passed[direction]
        self._send(direction, data[:room], sink)
        if len(data) < room or not self._due(pair, direction):
            return
        rest = data[room:]
        if self.action == "stall":
            time.sleep(0.3)
            self._send(direction, rest, sink)
        elif self.action == "swallow":
            # What is still to be swallowed of later pieces is left: a hole is a hole.
            self._send(direction, rest[self.length:], sink)
        elif self.action == "flip" and rest:
            self._send(direction, bytes([rest[0] ^ 1]) + rest[1:], sink)
        elif self.action == "duplicate":
            # The same bytes on a connection of their own, while this one goes on.
            self._send(direction, rest, sink)
            self._again(bytes(self.recorded[UP][self.starts[UP][-1]:]))

    def _send(self, direction: int, data: bytes, sink: socket.socket) -> None:
        self.passed[direction] += len(data)
        self.recorded[direction] += data
        sink.sendall(data)

    def _due(self, pair: tuple, direction: int) -> bool:
        """Does what is planned if the offset is reached; true if what follows is to be changed."""
        if self.fired or self.action in (None, "trickle") or direction != self.direction or (
                self.passed[direction] != self.offset):
            return False
        self.fired = True
        if self.action in ("fin", "rst"):
            self._end(pair, self.action)
            return False
        if self.action == "half":
            (pair[1] if direction == UP else pair[0]).shutdown(socket.SHUT_WR)
        return True

    def _again(self, data: bytes) -> None:
        try:
            with socket.create_connection(("127.0.0.1", self.target), 5) as copy:
                copy.settimeout(0.5)
                copy.sendall(data)
                while copy.recv(65_536):
                    pass
        except OSError:
            pass

    def _ended(self, pair: tuple, direction: int) -> None:
        """One side has ended its stream: so does the proxy, and keeps the other direction."""
        source, sink = pair if direction == UP else pair[::-1]
        self.selector.unregister(source)
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        if not any(end.fileno() in self.selector.get_map() for end in pair):
            self._end(pair)

    def _end(self, pair: tuple, how: str = "fin") -> None:
        if pair not in self.pairs:
            return
        self.pairs.remove(pair)
        for end in pair:
            try:
                self.selector.unregister(end)
            except KeyError:
                pass
            try:
                if how == "rst":
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()


def tls_records(stream: bytes, starts: list[int]) -> list[int]:
    """Where the TLS records of the recorded connections begin and end: the handshake's messages, then the frames."""
    edges = set()
    for number, start in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else len(stream)
        at = start
        while at + 5 <= end:
            edges.add(at)
            at += 5 + int.from_bytes(stream[at + 3:at + 5], "big")
        edges.add(min(at, end))
    return sorted(edges)
