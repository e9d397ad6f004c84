# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Strangers whose ClientHello becomes whole (F1, F2): half handshakes and enrolments that nobody ends, and a peer that is
served meanwhile; and many sessions from one address (F1)."""

from __future__ import annotations

import multiprocessing
import os
import selectors
import socket
import subprocess
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

import rogue
from harness import BIN
from rogue import CODES, PING, REFUSE, STATE, TYPE, Peer, Standby, count, encode, first_flight, refusal

SESSIONS = 8           # of one peer, Specification 10
PLACES = 8             # before authentication
ENROLMENT_SECONDS = 10
ADDRESSES = [f"127.0.0.{number}" for number in range(1, 65)]


def half_handshakes(port: int, rate: int, stop: "multiprocessing.synchronize.Event", made: "multiprocessing.Value") -> None:
    """Sends whole ClientHellos and then nothing, from 64 addresses in turn, until it is told to stop."""
    hello, began, number = first_flight(), time.monotonic(), 0
    waiting, selector = {}, selectors.DefaultSelector()
    while not stop.is_set():
        while number < (time.monotonic() - began) * rate:
            stranger = socket.socket()
            number += 1
            try:
                stranger.bind((ADDRESSES[number % len(ADDRESSES)], 0))
                stranger.settimeout(0.5)
                stranger.connect(("127.0.0.1", port))
                stranger.sendall(hello)
                stranger.setblocking(False)
            except OSError:
                stranger.close()
                continue
            made.value += 1
            waiting[stranger] = time.monotonic()
            selector.register(stranger, selectors.EVENT_READ)
        # What the daemon has closed is closed; what is answered stays silent.
        for key, _ in selector.select(0.001):
            try:
                if key.fileobj.recv(65_536):
                    continue
            except OSError:
                pass
            selector.unregister(key.fileobj)
            del waiting[key.fileobj]
            key.fileobj.close()
        while waiting and (oldest := next(iter(waiting.items())))[1] < time.monotonic() - 8:
            selector.unregister(oldest[0])
            del waiting[oldest[0]]
            oldest[0].close()


def enrolments(port: int, identity: os.PathLike, wanted: int, stop: "multiprocessing.synchronize.Event",
               held: "multiprocessing.Value", longest: "multiprocessing.Value") -> None:
    """Keeps as many enrolments as it can alive by PING, and begins a new one for each that ends."""
    sessions: list[tuple[Peer, float]] = []
    while not stop.is_set():
        while len(sessions) < wanted and not stop.is_set():
            try:
                peer = Peer(port, identity, "blockferry-pair/1", timeout=2)
                peer.hello()
            except (AssertionError, OSError):
                break
            peer.socket.settimeout(0.001)
            sessions.append((peer, time.monotonic()))
            held.value = max(held.value, len(sessions))
        for peer, began in list(sessions):
            try:
                peer.socket.sendall(peer.frame("PING"))
                ended = peer.receive()[0] != PING
            except TimeoutError:
                ended = False
            except OSError:
                ended = True
            if ended:
                longest.value = max(longest.value, time.monotonic() - began)
                peer.close()
                sessions.remove((peer, began))
        stop.wait(0.02)


class HalfHandshakes(Standby):
    secrets: list[bytes] = []

    def invite(self, name: str) -> bytes:
        secret = super().invite(name)
        self.secrets.append(secret)
        return secret

    def use_all_invitations(self) -> None:
        while self.secrets:
            peer = Peer(self.site.port, self.vol.identity, "blockferry-pair/1")
            peer.hello()
            peer.send("PAIR", encode.pair(self.secrets.pop(), "again"))
            self.assertEqual(peer.answer()[0], TYPE["PAIRED"])
            peer.close()

    def start(self, target, *args) -> None:
        process = multiprocessing.get_context("spawn").Process(target=target, args=args, daemon=True)
        process.start()
        self.addCleanup(process.join, 20)
        self.addCleanup(process.kill)

    def test_peer_among_half_handshakes_and_enrolments(self) -> None:
        """1,000 half handshakes a second, every enrolment place taken, and a peer that shares its address with some of them."""
        context = multiprocessing.get_context("spawn")
        stop, made, held, longest = context.Event(), context.Value("q"), context.Value("q"), context.Value("d")
        self.addCleanup(stop.set)
        stranger = self.site.path / "stranger"
        self.assertEqual(self.site.run("blockferry", "id", state=stranger).code, 0)
        self.invite("vol")
        self.start(enrolments, self.site.port, stranger / "identity.pem", 64, stop, held, longest)
        self.assertTrue(rogue.until(20, lambda: held.value >= PLACES), f"only {held.value} enrolments are held")
        self.start(half_handshakes, self.site.port, 1000, stop, made)
        self.assertTrue(rogue.until(20, lambda: made.value > 1000))
        began, before, times = time.monotonic(), made.value, []
        for number in range(count(200, 1000)):
            since = time.monotonic()
            peer, _ = self.vol.open(address=ADDRESSES[0])
            times.append(time.monotonic() - since)
            peer.close()
            # As a timer or an operator comes, and not faster than the generators can make strangers.
            time.sleep(0.02)
        rate = (made.value - before) / (time.monotonic() - began)
        stop.set()
        late = [f"{took:.2f}" for took in times if took >= 1]
        print(f"a peer among {rate:.0f} half handshakes a second and {held.value} enrolments: served {len(times) - len(late)} of "
              f"{len(times)} times within 1 s, {sorted(times)[len(times) // 2]:.3f} s in the middle, {max(times):.3f} s at most",
              flush=True)
        self.assertEqual(late, [])
        self.assertGreaterEqual(rate, 500, "the strangers are too slow to prove anything")

    def test_enrolment_ends(self) -> None:
        """A session without a pinned key ends after its time, whatever it says, and at once when nobody is invited any more."""
        for seconds, invited in ((ENROLMENT_SECONDS, True), (3, False)):
            self.invite("vol")
            peer = Peer(self.site.port, self.vol.identity, "blockferry-pair/1")
            peer.hello()
            began = time.monotonic()
            if not invited:
                self.use_all_invitations()
            peer.socket.settimeout(0.2)
            kind, payload = PING, b""
            while kind == PING and time.monotonic() < began + 30:
                peer.send("PING")
                try:
                    kind, payload = peer.answer()
                except TimeoutError:
                    pass
            took = time.monotonic() - began
            peer.close()
            print(f"an enrolment ended after {took:.1f} s, {'invited' if invited else 'with nobody invited'}", flush=True)
            self.assertEqual((kind, refusal(payload)[0]), (REFUSE, CODES["invitation"]))
            self.assertLess(took, seconds + 3)
            if invited:
                self.assertGreater(took, seconds - 2)

    def test_known_peers_behind_one_address(self) -> None:
        """Two peers and 40 connections at once from one address: each is answered; who has too many is told when to come back,
        if it can read that."""
        address = rogue.new_address()

        def hello(number: int) -> tuple[int, bytes, Peer]:
            identity = (self.vol, self.theirs)[number % 2].identity
            # On a busy machine a handshake of many at once may take longer than its turn; whoever lost his comes again.
            for _ in range(8):
                try:
                    peer = Peer(self.site.port, identity, address=address, timeout=30)
                    peer.send("HELLO", encode.hello(features=number // 2 % 2 * 2))
                    answer = peer.answer()
                except OSError:
                    answer = (-1, b"")
                if answer[0] != -1:
                    break
                again.append(number)
                time.sleep(0.5)
            return *answer, peer

        again: list[int] = []
        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(hello, range(40)))
        told = []
        for number, (kind, payload, peer) in enumerate(answers):
            if kind == REFUSE:
                after = int.from_bytes(payload[2:4], "little")
                told.append(after)
                self.assertEqual(refusal(payload[:2] + bytes(2) + payload[4:])[:2], (CODES["busy"], "sessions"))
                self.assertEqual(after > 0, bool(number // 2 % 2), "retry-after is for those that offer to read it")
            else:
                self.assertEqual(kind, TYPE["WELCOME"], (number, kind, payload))
        welcomed = 40 - len(told)
        print(f"of 40 connections of two peers from one address {welcomed} had a session, {len(told)} were told busy, "
              f"{len(again)} came again", flush=True)
        self.assertTrue(SESSIONS <= welcomed <= 2 * SESSIONS, welcomed)
        for *_, peer in answers:
            peer.close()
        # The address is as good as before.
        peer, _ = self.vol.open(address=address)
        peer.close()

    def test_sender_waits_for_a_session(self) -> None:
        """With every session of its own taken a sender ends with `busy` once it may wait no longer, and has one when it is free."""
        held = []
        for _ in range(SESSIONS):
            peer = Peer(self.site.port, self.vol.identity)
            peer.hello()
            held.append(peer)
        source = self.site.path / "small"
        source.write_bytes(bytes(4096))

        def explain(wait: int) -> subprocess.Popen:
            return subprocess.Popen(
                [BIN / "blockferry", "send", source, "--to", "standby", "--volume", "vol", "--dry-run", "--wait", str(wait)],
                env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True)

        impatient = explain(1)
        said, _ = impatient.communicate(timeout=30)
        self.assertEqual(impatient.returncode, 3, said)
        self.assertIn("rule sessions", said)
        patient = explain(30)
        time.sleep(1)
        self.assertIsNone(patient.poll(), "it does not wait")
        held.pop().close()
        said, _ = patient.communicate(timeout=30)
        for peer in held:
            peer.close()
        # It was answered: another source than this one holds generations there.
        self.assertEqual((patient.returncode, "rule=not-empty" in said), (7, True), said)


if __name__ == "__main__":
    unittest.main()
