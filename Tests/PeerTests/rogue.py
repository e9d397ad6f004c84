# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What all tests of hostile peers stand on: a sender made of Protocol/encode.py, the generations it can send, and a
standby whose target and journal are looked at after every case. Nothing here shares code with the programs."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import pathlib
import random
import socket
import ssl
import struct
import sys
import time
import unittest
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "AcceptanceTests"))

from harness import Site, note_rule, until  # noqa: E402

import encode  # noqa: E402  found by way of harness
from decode import decode_invitation, decode_peer_id  # noqa: E402

TYPE = encode.TYPE
NAME = {number: name for name, number in TYPE.items()}
CAMPAIGN = os.environ.get("BLOCKFERRY_CAMPAIGN") == "1"
# Several processes may share the cases of a campaign that are mostly waited for: BLOCKFERRY_SHARE=2/8 is the second of eight.
SHARE, SHARES = map(int, os.environ.get("BLOCKFERRY_SHARE", "1/1").split("/"))
SEED = int(os.environ.get("BLOCKFERRY_SEED", "7"))
# How many bytes the volumes have: few, since Python makes their tags and checksums.
SIZE = 131_072
CODES = {"unsupported-version": 1, "malformed": 2, "not-authorised": 3, "busy": 4, "lineage": 5, "target": 6, "space": 7,
         "storage": 8, "corrupt": 9, "limit": 10, "stopping": 11, "invitation": 12}
REFUSE, PING, PROGRESS, STATE = TYPE["REFUSE"], TYPE["PING"], TYPE["PROGRESS"], TYPE["STATE"]
# What `Peer.answer` returns at the end of the stream: with `close_notify`, and without.
CLOSED, CUT = (0, b""), (-1, b"")


def count(ordinary: int, campaign: int) -> int:
    """How many cases: in continuous integration, and in a campaign."""
    return campaign if CAMPAIGN else ordinary


def share(cases: Sequence) -> Sequence:
    """Those cases that are this process's."""
    return cases[SHARE - 1::SHARES]


_addresses = itertools.count(1)


def new_address() -> str:
    """An address of 127.0.0.0/8 that was not used before: limits by address must not decide what a test sees."""
    number = next(_addresses)
    return f"127.{1 + number // 62_500 % 250}.{number // 250 % 250}.{1 + number % 250}"


def refusal(payload: bytes) -> tuple[int, str, str]:
    """Code, rule and text of a REFUSE; raises if it is not one by the rules."""
    code, reserved, length = struct.unpack_from("<HHH", payload)
    rule = payload[6:6 + length]
    (text_length,) = struct.unpack_from("<H", payload, 6 + length)
    text = payload[8 + length:]
    assert reserved == 0 and 1 <= length <= 64 and len(text) == text_length <= 256, payload
    assert code in CODES.values(), payload
    assert not any(byte < 0x20 or byte == 0x7F for byte in text), payload
    note_rule(rule.decode("ascii"))
    return code, rule.decode("ascii"), text.decode()


def first_flight() -> bytes:
    """A real ClientHello."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["blockferry/1"])
    out = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


class Peer:
    """A sender that is not ours, from an address of its own, with any identity."""

    contexts: dict = {}

    def __init__(self, port: int, identity: os.PathLike | None, alpn: str = "blockferry/1", *,
                 address: str | None = None, timeout: float = 20) -> None:
        key = (str(identity), alpn)
        if key not in self.contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if identity is not None:
                context.load_cert_chain(identity)
            context.set_alpn_protocols([alpn])
            self.contexts[key] = context
        raw = socket.create_connection(("127.0.0.1", port), timeout, (address or new_address(), 0))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket = self.contexts[key].wrap_socket(raw, suppress_ragged_eofs=False)
        except BaseException:
            raw.close()
            raise
        self.sequence, self.buffer = 0, b""

    def frame(self, kind: str | int, payload: bytes = b"", **wrong) -> bytes:
        """The next frame; it is counted as sent."""
        self.sequence += 1
        return encode.frame(kind, payload, wrong.pop("sequence", self.sequence - 1), **wrong)

    def write(self, data: bytes) -> None:
        """Sends; what the other side thinks of it shows in its answer, also if it has closed already."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            pass

    def send(self, kind: str | int, payload: bytes = b"", **wrong) -> None:
        self.write(self.frame(kind, payload, **wrong))

    def receive(self) -> tuple[int, bytes]:
        """The next frame, or how the stream ended."""
        while True:
            if len(self.buffer) >= 32:
                (length, kind) = struct.unpack_from("<IH", self.buffer)
                if len(self.buffer) >= 32 + length:
                    payload, self.buffer = self.buffer[32:32 + length], self.buffer[32 + length:]
                    return kind, payload
            try:
                more = self.socket.recv(65_536)
            except (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError):
                return CUT
            except ssl.SSLZeroReturnError:
                return CLOSED
            if not more:
                return CLOSED
            self.buffer += more

    def answer(self) -> tuple[int, bytes]:
        """The next frame that is neither PING nor PROGRESS, or how the stream ended."""
        while True:
            kind, payload = self.receive()
            if kind not in (PING, PROGRESS):
                return kind, payload

    def rest(self) -> list[int]:
        """Types of everything that still comes; the stream must end."""
        kinds = []
        while True:
            kind, payload = self.answer()
            if kind <= 0:
                return kinds
            kinds.append(kind)

    def hello(self) -> None:
        self.send("HELLO", encode.hello())
        kind, payload = self.answer()
        assert kind == TYPE["WELCOME"], (kind, payload)

    def close(self) -> None:
        self.socket.close()


class Transfer:
    """One generation as a sender sends it: the announcement, the segments' records, and the generation record."""

    def __init__(self, volume: "Volume", changes: list[list[tuple[int, bytes]]], *, kind: int = 2, **announced) -> None:
        self.volume, self.changes = volume, changes
        first = kind == 1
        self.begin = {
            "transfer": os.urandom(16), "kind": kind, "tag_algorithm": 1, "lineage": volume.lineage,
            "number": 1 if first else volume.number + 1, "parent": bytes(32) if first else volume.id,
            "volume_size": SIZE, "source_time": 1, "planned_content": sum(len(data) for part in changes for _, data in part),
            "planned_segments": len(changes), "tag_key": volume.key if first else bytes(32), "source_identity": "rogue",
            **announced}
        self.segments = [[encode.data_record(offset, data, volume.key, 1) for offset, data in part] for part in changes]

    def seal(self, index: int, **wrong) -> bytes:
        part, records = self.changes[index], self.segments[index]
        fields = {"segment_index": index, "record_count": len(part), "content": sum(len(data) for _, data in part),
                  "end_offset": part[-1][0] + len(part[-1][1]), "segment_digest": encode.segment_digest(index, records)}
        return encode.seal(**(fields | wrong))

    def record(self, **wrong) -> bytes:
        digests = [encode.segment_digest(index, records) for index, records in enumerate(self.segments)]
        shared = ("kind", "tag_algorithm", "lineage", "number", "parent", "volume_size", "source_time", "source_identity")
        return encode.generation(**({name: self.begin[name] for name in shared} | {
            "segment_count": len(digests), "delta_digest": encode.delta_digest(digests), "volume_root": bytes(32),
            "sender_key_id": self.volume.peer} | wrong))

    def frames(self) -> list[tuple[str, bytes]]:
        """Everything after READY."""
        out = []
        for index, records in enumerate(self.segments):
            out += [("RECORD", record) for record in records] + [("SEAL", self.seal(index))]
        return out + [("COMMIT", self.record())]

    def result(self) -> bytes:
        """What the volume holds if this is committed."""
        content = bytearray(self.volume.content)
        for part in self.changes:
            for offset, data in part:
                content[offset:offset + len(data)] = data
        return bytes(content)

    def was_committed(self) -> None:
        volume = self.volume
        volume.content, volume.number = self.result(), self.begin["number"]
        volume.id = hashlib.sha256(self.record()).digest()


class Volume:
    """What a peer knows of a volume that it replicates."""

    def __init__(self, site: Site, name: str, identity: pathlib.Path, peer: bytes) -> None:
        self.site, self.name, self.identity, self.peer = site, name, identity, peer
        self.target = site.path / f"{name}.copy"
        self.lineage, self.key = os.urandom(16), os.urandom(32)
        self.number, self.id, self.content = 0, bytes(32), bytes(SIZE)

    def wait(self, seconds: float = 20) -> None:
        """Until no worker has the volume."""
        with open(self.site.standby / "locks" / self.name) as lock:
            def free() -> bool:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                return True
            assert until(seconds, free), f"{self.name} stays busy"

    def open(self, **options) -> tuple[Peer, bytes]:
        """A session that has been told the volume's STATE. A worker that is ending keeps it for a moment."""
        due = time.monotonic() + 20
        while True:
            peer = Peer(self.site.port, self.identity, **options)
            peer.write(peer.frame("HELLO", encode.hello()) + peer.frame("OPEN", encode.open_(self.name)))
            assert peer.answer()[0] == TYPE["WELCOME"]
            kind, payload = peer.answer()
            if kind == STATE:
                return peer, payload
            peer.close()
            assert kind == REFUSE and refusal(payload)[0] == CODES["busy"] and time.monotonic() < due, (kind, payload)
            time.sleep(0.005)

    def delta(self, seed: int = 0, segments: int = 1, **announced) -> Transfer:
        """Some change of a few sectors, in this many segments."""
        rng = random.Random(seed * 1_000_003 + self.number)
        changes = [[(index * 8192 + 1024, rng.randbytes(1024))] for index in range(segments)]
        return Transfer(self, changes, **announced)

    def begun(self, transfer: Transfer, **options) -> Peer:
        """A session that was answered READY for the first segment."""
        peer, _ = self.open(**options)
        peer.send("BEGIN", encode.begin(**transfer.begin))
        kind, payload = peer.answer()
        assert (kind, payload) == (TYPE["READY"], bytes(8)), (kind, payload)
        return peer

    def send(self, transfer: Transfer) -> tuple[int, bytes]:
        """A whole transfer; the last answer."""
        peer = self.begun(transfer)
        peer.write(b"".join(peer.frame(kind, payload) for kind, payload in transfer.frames()))
        kind, payload = peer.answer()
        while kind == TYPE["ACK"]:
            kind, payload = peer.answer()
        peer.close()
        return kind, payload

    def commit(self, transfer: Transfer) -> None:
        kind, payload = self.send(transfer)
        assert kind == TYPE["COMMITTED"], (kind, payload)
        transfer.was_committed()

    def copy(self) -> None:
        """The first full copy."""
        content = os.urandom(SIZE)
        self.commit(Transfer(self, [[(at, content[at:at + 65_536]) for at in range(0, SIZE, 65_536)]], kind=1))


class Standby(unittest.TestCase):
    """A daemon, a peer that is pinned for `names`, and another one that is pinned for `theirs`."""

    names: tuple[str, ...] = ("vol",)

    @classmethod
    def setUpClass(cls) -> None:
        cls.site = Site()
        cls.addClassCleanup(cls.site.close)
        cls.site.start_daemon()
        cls.began = time.monotonic()
        cls.volumes = {name: cls.add(name, cls.site.source) for name in cls.names}
        cls.vol = cls.volumes[cls.names[0]]
        cls.theirs = cls.add("theirs", cls.site.path / "other")

    @classmethod
    def add(cls, name: str, state: pathlib.Path) -> Volume:
        """Pairs a volume and brings its first full copy."""
        cls.site.pair(name, cls.site.path / f"{name}.copy", state=state)
        shown = cls.site.run("blockferry", "id", state=state).out.strip()
        volume = Volume(cls.site, name, state / "identity.pem", decode_peer_id(shown)["key_id"])
        volume.copy()
        return volume

    def invite(self, name: str) -> bytes:
        """The secret of a new invitation."""
        return decode_invitation(self.site.invite(name, self.site.path / f"{name}.copy"))["secret"]

    def journal(self) -> str:
        return self.site.journal()

    def check(self, *case) -> None:
        """After every case: the targets hold what was committed, byte by byte, and the daemon is there."""
        for volume in (*self.volumes.values(), self.theirs):
            self.assertEqual(volume.target.read_bytes() == volume.content, True, (volume.name, *case))
        self.assertIsNone(self.site.daemon.poll(), case)

    def tearDown(self) -> None:
        self.check(self.id())
        # The supervisor's words for a worker that trapped.
        self.assertNotIn("was ended by signal", self.journal())

    def still_replicates(self) -> None:
        """An increment of each volume arrives: nothing that was tried has left it unusable."""
        for volume in (*self.volumes.values(), self.theirs):
            volume.commit(volume.delta(seed=volume.number))
        self.check("after all")

    def report(self, what: str, cases: int, bar: int) -> None:
        print(f"{what}: {cases} (at least {bar}), {time.monotonic() - self.began:.1f} s since the standby was there",
              flush=True)
        self.assertGreaterEqual(cases, bar, what)
