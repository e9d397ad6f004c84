# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A receiver that is not ours, with the key that a sender has pinned: it plays the honest one up to a step, and then does
something else."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import struct
import threading
from collections import Counter
from typing import Callable

import rogue
from harness import end_listener  # found by way of rogue
from rogue import TYPE, encode


class Stop(Exception):
    """The session is over for this side."""


class Session:
    """One connection of a sender."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.socket, self.sequence, self.buffer = connection, 0, b""

    def frame(self, kind: str | int, payload: bytes = b"", **wrong) -> bytes:
        self.sequence += 1
        return encode.frame(kind, payload, wrong.pop("sequence", self.sequence - 1), **wrong)

    def send(self, kind: str | int, payload: bytes = b"", **wrong) -> None:
        self.raw(self.frame(kind, payload, **wrong))

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> tuple[str, bytes]:
        while True:
            if len(self.buffer) >= 32:
                length, kind = struct.unpack_from("<IH", self.buffer)
                if len(self.buffer) >= 32 + length:
                    payload, self.buffer = self.buffer[32:32 + length], self.buffer[32 + length:]
                    return rogue.NAME[kind], payload
            more = self.socket.recv(65_536)
            if not more:
                raise Stop
            self.buffer += more

    def cut(self, how: str) -> None:
        """Ends the connection: with `close_notify`, by a FIN without it, by a reset, or in one direction."""
        if how == "close_notify":
            self.socket.settimeout(2)
            self.socket.unwrap()
        if how == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == "half":
            socket.socket.shutdown(self.socket, socket.SHUT_WR)
            self.socket.settimeout(2)
            try:
                while self.socket.recv(65_536):
                    pass
            except OSError:
                pass
        self.socket.close()
        raise Stop


Action = Callable[[Session, str, bytes], None]


class Receiver:
    """Listens, and plays its part. `step` is the honest answer, by name and how often it was due, at which `action` is
    done in its place; None is at every connection's handshake."""

    def __init__(self, identity: os.PathLike, state: bytes) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(identity)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.num_tickets = 0
        # Python asks for a client's certificate only where it would check it, which a self-signed one does not pass.
        self.context.verify_mode = ssl.CERT_NONE
        self.context.set_alpn_protocols(["blockferry/1", "blockferry-pair/1"])
        self.state = state
        self.step, self.action = ("", 0), None
        self.seen: Counter = Counter()
        self.error: BaseException | None = None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def close(self) -> None:
        end_listener(self.listener, self.thread)

    def play(self, step: str, occurrence: int, action: Action) -> None:
        self.step, self.action, self.seen, self.error = (step, occurrence), action, Counter(), None

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with self.context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=False) as tls:
                self._converse(Session(tls))
        except (Stop, OSError, ValueError):
            # The sender has gone, which is for the test to judge.
            pass
        except BaseException as error:
            self.error = error

    def _answer(self, session: Session, name: str, payload: bytes) -> None:
        self.seen[name] += 1
        if self.step == (name, self.seen[name]) and self.action is not None:
            self.action(session, name, payload)
        else:
            session.send(name, payload)

    def _converse(self, session: Session) -> None:
        segments = 0
        while True:
            kind, payload = session.receive()
            match kind:
                case "HELLO": self._answer(session, "WELCOME", encode.welcome())
                case "OPEN" | "ABANDON": self._answer(session, "STATE", self.state)
                case "PAIR": self._answer(session, "PAIRED", encode.open_("rogue"))
                case "BEGIN":
                    segments = 0
                    self._answer(session, "READY", encode.ready(0))
                case "COMPARE": self._answer(session, "COMPARED", encode.compared(b"\5" * 32, 1 << 20))
                case "ASK":
                    level, index, count = payload[0], *struct.unpack_from("<QI", payload, 8)
                    self._answer(session, "NODES", encode.nodes(level, index, count, b"\5" * 4096 * count))
                case "SEAL":
                    segments += 1
                    self._answer(session, "ACK", encode.ack(segments))
                case "COMMIT":
                    # Never the right answer: the standby does not hold what would be confirmed.
                    number = int.from_bytes(payload[24:32], "little")
                    self.record = (number, hashlib.sha256(payload).digest())
                    self._answer(session, "COMMITTED", encode.committed(number, b"\5" * 32))
                case "REFUSE": raise Stop


def instead(kind: str | int, payload: bytes, **wrong) -> Action:
    """Another frame in the place of the honest one."""
    return lambda session, _name, _payload: session.send(kind, payload, **wrong)


def before(kind: str | int, payload: bytes) -> Action:
    """Another frame, and then the honest one."""
    def act(session: Session, name: str, honest: bytes) -> None:
        session.send(kind, payload)
        session.send(name, honest)
    return act


def patched(offset: int, data: bytes) -> Action:
    """The honest frame with other bytes at one place."""
    return lambda session, name, honest: session.send(name, honest[:offset] + data + honest[offset + len(data):])


def bytes_instead(data: bytes) -> Action:
    return lambda session, _name, _payload: session.raw(data)


def cut(how: str, part: float | None = None) -> Action:
    """A cut in the place of the frame, or within it."""
    def act(session: Session, name: str, honest: bytes) -> None:
        if part is not None:
            frame = session.frame(name, honest)
            session.raw(frame[:int(len(frame) * part)])
        session.cut(how)
    return act


def flood(kind: str, payload: bytes, seconds: float) -> Action:
    """The same frame again and again, then a cut."""
    def act(session: Session, name: str, honest: bytes) -> None:
        import time
        due = time.monotonic() + seconds
        while time.monotonic() < due:
            session.raw(b"".join(session.frame(kind, payload) for _ in range(50)))
        session.cut("fin")
    return act
