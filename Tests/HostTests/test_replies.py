# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What strangers and peers can put into the journal (F6), and what they can learn from replies (F7).

Hostile text is tried wherever a peer may put text: names, sources, reasons, protocols of TLS, certificates. It is
refused or told, but never raw: no control character, no line that is not the daemon's, no change of direction.
Replies to a volume that is not there, to one of another peer and to one that nobody may send to are the same bytes;
how long they take is printed, not judged."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import random
import ssl
import statistics
import subprocess
import sys
import threading
import time
import unicodedata
import unittest
from concurrent.futures import ThreadPoolExecutor

import host
from host import count, until

sys.path.insert(0, str(host.TESTS / "PeerTests"))
import rogue  # noqa: E402
from rogue import CODES, REFUSE, Peer, Standby, encode, new_address, refusal  # noqa: E402

HOSTILE = {
    "colour": b"\x1b[31mred\x1b[0m", "line": b"x\nlistening on 0.0.0.0:1, port 1", "return": b"x\rstopping",
    "bell": b"\x07", "delete": b"x\x7f", "title": b"\x1b]0;title\x07", "eight bits": "\u009b31mred".encode(),
    "next line": "x\u0085listening on 0.0.0.0:1".encode(), "direction": "\u202egnippots".encode(),
    "separator": "x\u2028listening on".encode(), "zero": b"x\0y", "no UTF-8": b"\xff\xfe\xc0\x80",
    "mark": "\ufeffx".encode(),
    "format": b"%n%s%@%d", "shell": b"$(id)`id`", "long": b"A" * 4000, "half": b"\xe2\x82",
    "joined": "a\u200db".encode()}


def raw(text: str) -> list[str]:
    """Characters that a journal must not show, but for the ends of lines."""
    return sorted({f"U+{ord(char):04X}" for char in text
                   if char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs")})


class Replies(Standby):
    names = ("vol",)

    def session(self, alpn: str = "blockferry/1", identity: os.PathLike | None = None, **options) -> Peer:
        return Peer(self.site.port, identity or self.vol.identity, alpn, **options)

    def places(self) -> dict:
        """Where text can be put: a session that has put it there. What is refused on the way is refused."""

        def hello(text: bytes) -> Peer:
            peer = self.session()
            peer.send("HELLO", encode.hello(software=text))
            return peer

        def opened(text: bytes) -> Peer:
            peer = self.session()
            peer.hello()
            peer.send("OPEN", encode.open_(text))
            return peer

        def begin(text: bytes) -> Peer:
            self.vol.wait()
            peer, _ = self.vol.open()
            transfer = self.vol.delta(seed=1, source_identity=text)
            peer.send("BEGIN", encode.begin(**transfer.begin))
            return peer

        def reason(text: bytes) -> Peer:
            peer = self.session()
            peer.hello()
            peer.send("REFUSE", b"\1\0\0\0\4\0rule" + len(text).to_bytes(2, "little") + text)
            return peer

        def rule(text: bytes) -> Peer:
            peer = self.session()
            peer.hello()
            peer.send("REFUSE", b"\1\0\0\0" + len(text).to_bytes(2, "little") + text + b"\1\0x")
            return peer

        def pairing(text: bytes) -> Peer:
            self.paired += 1
            secret = self.invite(f"pair{self.paired}")
            peer = self.session("blockferry-pair/1", self.stranger)
            peer.hello()
            peer.send("PAIR", encode.pair(secret, text))
            return peer

        def unknown_frame(text: bytes) -> Peer:
            peer = self.session()
            peer.hello()
            peer.send(999, text)
            return peer

        return {"software": hello, "volume": opened, "source": begin, "reason": reason, "rule": rule,
                "name of a peer": pairing, "payload": unknown_frame}

    def test_text(self) -> None:
        self.paired, cases, told = 0, 0, 0
        stranger = self.site.path / "stranger"
        self.assertEqual(self.site.run("blockferry", "id", state=stranger).code, 0)
        self.stranger = stranger / "identity.pem"
        before = len(self.journal())
        for place, put in self.places().items():
            for text in HOSTILE.values():
                try:
                    peer = put(text)
                    peer.answer()
                    peer.close()
                except (ssl.SSLError, ConnectionError):
                    pass
                cases += 1
        # Protocols of the handshake, and certificates with such names.
        for name, text in HOSTILE.items():
            try:
                if len(text) < 200:
                    self.session(text.decode("latin-1")).close()
            except (ssl.SSLError, ConnectionError, ValueError, UnicodeError):
                pass
            cases += 1
            certificate = self.site.path / "hostile.pem"
            subject = "".join(char for char in text.decode(errors="replace") if char not in "\0/+=,")[:60]
            made = subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-utf8", "-subj", f"/CN={subject}",
                 "-keyout", certificate, "-out", f"{certificate}.crt"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if made.returncode == 0:
                with open(certificate, "ab") as file:
                    file.write(pathlib.Path(f"{certificate}.crt").read_bytes())
                try:
                    Peer.contexts.pop((str(certificate), "blockferry/1"), None)
                    peer = self.session(identity=certificate)
                    peer.send("HELLO", encode.hello())
                    peer.answer()
                    peer.close()
                except (ssl.SSLError, ConnectionError):
                    pass
                cases += 1
        until(5, lambda: not self.workers())
        words = (self.site.path / "daemon.log").read_bytes().decode()[before:]
        self.assertEqual(raw(words), [], "raw in the journal")
        lines = words.splitlines()
        # Besides what the catalog records, which the daemon tells once: of invitations and peers, no more than was done.
        events = [line for line in lines if line.startswith(("volume ", "peer-added: "))]
        self.assertLessEqual(len(lines) - len(events), cases)
        self.assertLessEqual(len(events), 4 * len(HOSTILE))
        self.assertEqual([line for line in lines if line.startswith(("listening", "stopping"))], [])
        self.assertLessEqual(max(map(len, lines)), 1000)
        # The names that were taken are shown by the tools.
        for arguments in (["peers"], ["volumes"], ["status"], ["status", "vol"], ["peers", "--json"],
                          ["status", "--json"]):
            result = self.site.run("blockferryd", *arguments)
            self.assertEqual(result.code, 0, result)
            if "--json" in arguments:
                # For programs: the text as it is, in which JSON escapes what it must.
                self.assertIsInstance(result.json, dict)
            else:
                self.assertEqual(raw(result.out), [], f"{arguments}: raw in the output")
            told += result.out.count("\n")
        print(f"hostile text: {cases} cases (at least 100), {len(lines)} lines in the journal, {told} of the tools",
              flush=True)
        self.assertGreaterEqual(cases, 100)

    def test_every_character(self) -> None:
        """A reason that a peer gives for ending comes into the journal: as it is, but for what would change the line."""

        def is_shown(char: str) -> bool:
            return unicodedata.category(char) not in ("Cc", "Cf", "Zl", "Zp")

        every = [chr(code) for code in itertools.chain(range(0x20, 0x7F), range(0x80, 0xD800), range(0xE000, 0x11_0000))]
        wanted = [char for char in every if not is_shown(char)]
        wanted += random.Random(rogue.SEED).sample(every, 3000) if count(1, 0) else [c for c in every if is_shown(c)]

        def pieces(chars: list[str]) -> list[str]:
            return ["".join(chars[at:at + 60]) for at in range(0, len(chars), 60)]

        # What is not assigned in the tables here may be in those of the program.
        known = pieces([char for char in wanted if unicodedata.category(char) != "Cn"])
        texts = known + pieces([char for char in wanted if unicodedata.category(char) == "Cn"])
        before = len(self.journal())

        def tell(text: str) -> None:
            peer = self.session()
            peer.hello()
            peer.send("REFUSE", b"\1\0\0\0\4\0rule" + len(text.encode()).to_bytes(2, "little") + text.encode())
            peer.answer()
            peer.close()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(tell, texts))
        # ASCII's own are not text for the protocol.
        for code in (*range(0x20), 0x7F):
            tell(f"x{chr(code)}y")
        self.assertTrue(until(5, lambda: not self.workers()))
        journal = self.journal()[before:]
        self.assertEqual(raw(journal), [])
        told = {line.split(": ", 4)[-1].removesuffix(" (rule rule)") for line in journal.split("\n")}
        shown = ["".join(char if is_shown(char) else "?" for char in text) for text in known]
        print(f"characters in the journal: {len(wanted) + 33} in {len(texts) + 33} reasons (at least 3000)", flush=True)
        self.assertEqual([text for text in shown if text not in told], [])
        self.assertGreaterEqual(len(wanted), 3000)

    def workers(self) -> list[int]:
        pid = self.site.daemon.pid
        return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def test_lines_of_one_address(self) -> None:
        """No more than ten lines a minute of one address that has no key; another address is still told of."""
        address = new_address()
        for _ in range(60):
            try:
                self.session(identity=None, alpn="http/1.1", address=address).close()
            except (ssl.SSLError, ConnectionError):
                pass
        until(5, lambda: not self.workers())
        lines = self.journal().count(f"{address}: ")
        print(f"lines of one address without a key: {lines} for 60 connections (10 are wanted)", flush=True)
        self.assertLessEqual(lines, 10)
        self.assertGreater(lines, 0)
        other = new_address()
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            self.session(identity=None, alpn="http/1.1", address=other).close()
        self.assertTrue(until(5, lambda: f"{other}: " in self.journal()), self.journal()[-500:])

    def test_replies(self) -> None:
        """Three ways in which a volume is not the peer's: the same bytes but for the name that was asked for."""
        orphan = self.add("orphan", self.site.path / "third")
        known = [peer["id"] for peer in self.site.run("blockferryd", "peers", "--json").json["peers"]
                 if "orphan" in peer["volumes"]]
        self.assertEqual(self.site.run("blockferryd", "unpair", known[0]).code, 0)
        names = ("nobody", "theirs", "orphan")
        took: dict[str, list[float]] = {name: [] for name in names}
        told, lock = set(), threading.Lock()

        def ask(number: int) -> None:
            name = order[number]
            peer = self.session()
            peer.hello()
            began = time.perf_counter()
            peer.send("OPEN", encode.open_(name))
            kind, payload = peer.answer()
            seconds = time.perf_counter() - began
            peer.close()
            with lock:
                if kind == REFUSE and refusal(payload)[0] == CODES["busy"]:
                    return
                took[name].append(seconds)
                told.add((kind, payload.replace(name.encode(), b"NAME")))

        wanted = count(300, 30_000)
        # In no order that the machine could fall in step with.
        order = [names[number % 3] for number in range(wanted)]
        random.Random(rogue.SEED).shuffle(order)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(ask, range(wanted)))
        print("replies: " + ", ".join(f"{name} {len(times)} times, median {statistics.median(times) * 1000:.3f} ms"
                                      for name, times in took.items()) + f"; {len(told)} different", flush=True)
        self.assertEqual(len(told), 1, told)
        self.assertEqual({kind for kind, _ in told}, {REFUSE})
        for times in took.values():
            self.assertGreaterEqual(len(times), wanted // 3 * 9 // 10)


if __name__ == "__main__":
    unittest.main()
