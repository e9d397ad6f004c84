# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A hostile receiver with a pinned key (G8): whatever it answers, the sender ends with a documented exit code and one clear
sentence, reads nothing outside of its plan, and the next send to the honest standby arrives."""

import contextlib
import itertools
import json
import os
import random
import re
import sqlite3
import struct
import subprocess
import time
import unittest

import rogue
from harness import BIN, Result, Site, sha256
from receiver import Receiver, before, bytes_instead, cut, flood, instead, patched
from rogue import CODES, TYPE, Peer, encode

# Exit codes of the manual: broken protocol, the standby gone, the transfer interrupted, histories that do not fit.
FAILED, UNREACHABLE, INTERRUPTED, LINEAGE = 1, 4, 5, 7
CUT = (UNREACHABLE, INTERRUPTED)
EXIT_OF_CODE = {1: 1, 2: 1, 3: 6, 4: 3, 5: 7, 6: 9, 7: 12, 8: 11, 9: 5, 10: 1, 11: 4, 12: 6}
SIZE = 300_000 + 288

RECEIVERS = ("WELCOME", "STATE", "READY", "ACK", "PROGRESS", "COMMITTED", "PREPARED", "PAIRED", "COMPARED", "NODES",
             "EXPORTKEY")
SENDERS = ("HELLO", "OPEN", "BEGIN", "RECORD", "SEAL", "COMMIT", "PAIR", "ABANDON", "COMPARE", "ASK", "CURRENT")
PAYLOADS = {
    "WELCOME": encode.welcome(), "STATE": encode.state(), "READY": encode.ready(), "ACK": encode.ack(0),
    "PROGRESS": encode.progress(1, 0, 1), "COMMITTED": encode.committed(2, b"\1" * 32),
    "PREPARED": encode.committed(2, b"\1" * 32), "PAIRED": encode.open_("vol"), "COMPARED": encode.compared(b"\1" * 32),
    "NODES": encode.nodes(0, 0, 1, bytes(4096)), "HELLO": encode.hello(), "OPEN": encode.open_("vol"),
    "BEGIN": encode.begin(b"\1" * 16, 2, 1, b"\1" * 16, 2, b"\1" * 32, 1 << 20), "RECORD": encode.zero_record(0, 512),
    "SEAL": encode.seal(0, 1, 0, 512, bytes(32)), "PAIR": encode.pair(bytes(16), "x"), "ABANDON": b"\1" * 16,
    "COMMIT": encode.generation(2, 1, b"\1" * 16, 2, b"\1" * 32, 1 << 20, 0, 0, bytes(32), bytes(32), bytes(32), "x"),
    "COMPARE": encode.compare(1, 1, 1 << 20), "ASK": encode.ask(0, 0), "EXPORTKEY": b"\1" * 32,
    "CURRENT": encode.committed(2, b"\1" * 32),
}
# What a sender takes besides the honest answer while both sides read.
ALSO = {"COMPARED": ("PROGRESS",)}


class HostileReceiver(unittest.TestCase):
    """A source with a generation on an honest standby, and a change that was not sent."""

    changes = True

    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()
        self.plain, self.target = self.site.path / "plain", self.site.path / "copy"
        self.plain.write_bytes(random.Random(rogue.SEED).randbytes(SIZE))
        self.site.pair("vol", self.target)
        self.honest_send()
        self.receiver = Receiver(self.site.standby / "identity.pem", self.state())
        self.addCleanup(self.receiver.close)
        self.change()
        self.cases, self.exits = 0, {}
        self.began = time.monotonic()

    def change(self) -> None:
        with open(self.plain, "r+b") as file:
            file.seek(4096)
            file.write(os.urandom(4096))

    def state(self) -> bytes:
        """What the honest standby says."""
        due = time.monotonic() + 20
        while True:
            peer = Peer(self.site.port, self.site.source / "identity.pem")
            peer.hello()
            peer.send("OPEN", encode.open_("vol"))
            kind, payload = peer.answer()
            peer.close()
            if kind == TYPE["STATE"]:
                return payload
            self.assertLess(time.monotonic(), due)
            time.sleep(0.02)

    def redirect(self, port: int) -> None:
        with contextlib.closing(sqlite3.connect(self.site.source / "catalog.sqlite")) as catalog, catalog:
            catalog.execute("UPDATE receiver SET address = ?", (f"127.0.0.1:{port}",))

    def honest_send(self) -> None:
        result = self.site.send("vol", self.plain)
        self.assertEqual(result.code, 0, result)
        self.assertEqual(sha256(self.target), sha256(self.plain))

    def still_usable(self) -> None:
        """The next send to the honest standby."""
        self.redirect(self.site.port)
        self.honest_send()
        self.receiver.state = self.state()
        self.redirect(self.receiver.port)
        if self.changes:
            self.change()

    def command(self, command: str, timeout: float = 30) -> Result:
        began = time.monotonic()
        result = Result(subprocess.run(
            [BIN / "blockferry", command, self.plain, "--to", "standby", "--volume", "vol"], capture_output=True,
            timeout=timeout, env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)}))
        self.took = time.monotonic() - began
        return result

    def run_case(self, command: str, what, step: str, occurrence: int, action, codes, lasting: float = 0) -> None:
        """Plays a lie that takes `lasting` seconds."""
        self.receiver.play(step, occurrence, action)
        result = self.command(command, timeout=30 + lasting)
        case = (command, what, step, occurrence, result.code, result.error)
        self.assertGreaterEqual(self.receiver.seen[step], occurrence, ("the step never came", *case))
        self.assertIsNone(self.receiver.error, case)
        codes = codes if isinstance(codes, tuple) else (codes,)
        self.assertIn(result.code, codes, case)
        # One sentence and what to do next, of printable characters, that fit on a screen. Of `verify`, what it has found (8)
        # is its output.
        if result.code == 8:
            self.assertEqual(result.error, b"", case)
            text = result.out.decode().replace("\n", " ").strip() + "\n"
        else:
            text = re.sub(r"\nnext: (.+)\n$", r" \1\n", result.error.decode())
            self.assertEqual(json.loads(result.out or b"{}").get("exit", result.code), result.code, case)
        self.assertTrue(text.endswith("\n") and text.count("\n") == 1 and 10 < len(text) < 1500, case)
        self.assertTrue(all(ord(character) >= 32 and ord(character) != 127 for character in text[:-1]), case)
        # An answer that is wrong is noticed at once, and is nobody's time-out.
        self.assertLess(self.took, 15 + lasting, case)
        self.cases += 1
        self.exits[result.code] = self.exits.get(result.code, 0) + 1
        if self.cases % 20 == 0:
            self.still_usable()

    def done(self, what: str, bar: int) -> None:
        self.still_usable()
        self.assertNotIn("was ended by signal", (self.site.path / "daemon.log").read_text())
        print(f"{what}: {self.cases} (at least {bar}), exit codes {dict(sorted(self.exits.items()))}, "
              f"{time.monotonic() - self.began:.1f} s", flush=True)
        self.assertGreaterEqual(self.cases, bar)

    # A plain file's increment takes two sessions: in the first one only STATE is asked for.
    STEPS = (("WELCOME", 1), ("STATE", 1), ("WELCOME", 2), ("STATE", 2), ("READY", 1), ("ACK", 1), ("COMMITTED", 1))

    def test_frames_in_wrong_states(self) -> None:
        self.redirect(self.receiver.port)
        for step, occurrence in self.STEPS:
            if (step, occurrence) == ("WELCOME", 2):
                continue
            for kind in (*RECEIVERS, *SENDERS, 0, 23, 99, 65_535):
                # RECORD has a test of its own.
                if kind in (step, "RECORD"):
                    continue
                payload = PAYLOADS.get(kind, b"")
                if kind == "ACK" and step == "COMMITTED":
                    payload = encode.ack(1)
                # What the sender's table takes there leads to the COMMITTED of another id in the end.
                action = before(kind, payload)
                self.run_case("send", ("wrong frame", kind), step, occurrence, action, FAILED)
        self.done("frames in wrong states of a sender", 120)

    def test_lies(self) -> None:
        self.redirect(self.receiver.port)
        honest = self.receiver.state
        big = (1 << 31, (1 << 32) - 1, 1 << 62, 1 << 63, (1 << 64) - 1)
        u64 = lambda value: struct.pack("<Q", value)  # noqa: E731
        states = {
            "another lineage": (16, b"\1" * 16), "another id": (40, b"\1" * 32), "a number that went back": (32, u64(0)),
            "promoted": (0, b"\5"), "diverged": (0, b"\6"), "suspect": (0, b"\7"), "no such state": (0, b"\x09"),
            "no such state 255": (0, b"\xff"), "no such target": (1, b"\0"), "no such target 3": (1, b"\3"),
            "reserved": (2, b"\1"), "durable segments of nothing": (88, u64(1)), "no id": (40, bytes(32)),
            "nothing there": (0, bytes(1) + honest[1:16] + bytes(80)),
        }
        codes = {"another lineage": LINEAGE, "another id": LINEAGE, "promoted": LINEAGE, "diverged": LINEAGE,
                 "suspect": LINEAGE, "nothing there": LINEAGE}
        for name, (offset, data) in states.items():
            for occurrence in (1, 2):
                self.run_case("send", name, "STATE", occurrence, patched(offset, data), codes.get(name, FAILED))
        for value in big:
            self.run_case("send", f"number {value}", "STATE", 1, patched(32, u64(value) + b"\1" * 32), LINEAGE)
            # A transfer that nobody knows, with segments that do not exist: it is not resumed.
            self.run_case("send", f"durable {value}", "STATE", 2, patched(72, b"\1" * 16 + u64(value)), FAILED)
            for step in ("READY", "ACK"):
                self.run_case("send", f"{step} {value}", step, 1, patched(0, u64(value)), FAILED)
        for value in (1, 2, 3, 1_048_576, 1_048_577):
            self.run_case("send", f"READY {value}", "READY", 1, patched(0, u64(value)), FAILED)
        for value in (2, 3, 1_048_577):
            self.run_case("send", f"ACK {value}", "ACK", 1, patched(0, u64(value)), FAILED)

        def back(session, name, honest_payload):
            session.send(name, honest_payload)
            session.send(name, encode.ack(0))
        self.run_case("send", "ACK goes back", "ACK", 1, back, FAILED)

        def committed(number: int, flip: int):
            def act(session, name, payload):
                right_number, right_id = self.receiver.record
                session.send(name, encode.committed(number if number >= 0 else right_number,
                                                    bytes([right_id[0] ^ flip]) + right_id[1:]))
            return act
        for number in (0, 1, 3, *big):
            self.run_case("send", f"COMMITTED {number}", "COMMITTED", 1, committed(number, 0), FAILED)
        for flip in (1, 128):
            self.run_case("send", "COMMITTED another id", "COMMITTED", 1, committed(-1, flip), FAILED)
        # Of no group, PREPARED is no answer, also with the right id.
        def prepared(session, name, payload):
            session.send("PREPARED", encode.committed(*self.receiver.record))
        self.run_case("send", "PREPARED", "COMMITTED", 1, prepared, FAILED)
        for step in ("READY", "ACK"):
            self.run_case("send", "COMMITTED early", step, 1, instead("COMMITTED", encode.committed(2, b"\1" * 32)), FAILED)
        for payload in (encode.progress(1, 2, 1), encode.progress(0, 0, 0), encode.progress(4, 0, 0),
                        encode.progress(1, 0, 1, reserved=b"\1" * 7)):
            self.run_case("send", "PROGRESS", "COMMITTED", 1, before("PROGRESS", payload), FAILED)
        for wrong in ({"version": 0}, {"version": 2}, {"version": 65_535}, {"features": 16}, {"features": 1 << 31},
                      {"magic": b"BLKFERRZ"}, {"reserved": 1}, {"software": "x" * 65}, {"software": "\x1b[31m"}):
            self.run_case("send", f"WELCOME {wrong}", "WELCOME", 1, instead("WELCOME", encode.welcome(**wrong)), FAILED)
        # The feature is there, and what follows is no key.
        def no_key(payload):
            def act(session, name, answer):
                session.send("WELCOME", encode.welcome(features=1))
                session.send("EXPORTKEY", payload)
            return act
        for payload in (b"", bytes(31), bytes(32), b"\1" * 33):
            self.run_case("send", f"EXPORTKEY of {len(payload)} bytes", "WELCOME", 1, no_key(payload), FAILED)
        self.done("lies to a sender", 84)

    def test_refusals(self) -> None:
        """Texts from the standby: shown as one line without control characters, whatever is in them."""
        self.redirect(self.receiver.port)
        for step, occurrence in (self.STEPS[0], self.STEPS[3], self.STEPS[4], self.STEPS[5], self.STEPS[6]):
            for code, status in EXIT_OF_CODE.items():
                # A busy volume is waited for, for three seconds; once is enough.
                if code == CODES["busy"] and (step, occurrence) != ("STATE", 2):
                    continue
                action = instead("REFUSE", encode.refuse(code, "some-rule", f"code {code}"))
                if step == "STATE" and code == CODES["busy"]:
                    # It has to stay busy.
                    continue
                self.run_case("send", f"refused {code}", step, occurrence, action, (status, INTERRUPTED))
        texts = ["\x1b[2J\x1b[31mred", "a\nb", "a\r\nb", "\x07", "\0", "\x7f", "\t", "x" * 257, "x" * 900]
        for text in texts:
            self.run_case("send", "text", "WELCOME", 1, instead("REFUSE", encode.refuse(2, "malformed", text)), FAILED)
        for text in ("", "x" * 256, "\u202egnirts", "\U0001F600" * 64, "%s%n", "\u009b31mred", "\u2028line", "\u0085next"):
            self.run_case("send", text, "WELCOME", 1, instead("REFUSE", encode.refuse(2, "malformed", text)), FAILED)
        for data in (encode.refuse(0, "x"), encode.refuse(13, "x"), encode.refuse(65_535, "x"), encode.refuse(2, ""),
                     encode.refuse(2, "A"), encode.refuse(2, "x" * 65), encode.refuse(2, "a b"),
                     encode.refuse(2, "x", retry_after=1), encode.refuse(4, "x", retry_after=3601),
                     encode.refuse(2, "x") + b"\0", b"", b"\2\0", encode.refuse(2, b"\xff"), encode.refuse(2, "x", b"\xff\xfe"),
                     struct.pack("<HHH", 2, 0, 65_535), encode.refuse(2, "unknown-rule", "x")):
            self.run_case("send", data, "WELCOME", 1, instead("REFUSE", data), FAILED)
        self.run_case("send", "a megabyte", "WELCOME", 1, instead("REFUSE", encode.refuse(2, "x", "y" * 60_000),
                                                                  payload_checksum=1), FAILED)
        self.done("refusals by a hostile receiver", 60)

    def test_a_standby_that_says_that_it_stops(self) -> None:
        """Ours is gone before it could say so; the protocol lets another one do it, before a transfer and in it."""
        self.redirect(self.receiver.port)
        before = sha256(self.target)
        for step, occurrence in (self.STEPS[0], self.STEPS[1], self.STEPS[3], self.STEPS[4]):
            self.receiver.play(step, occurrence, instead("REFUSE", encode.refuse(CODES["stopping"], "stopping", "for tonight")))
            result = self.site.send("vol", self.plain)
            self.assertEqual((result.code, "for tonight (rule stopping)" in result.error), (UNREACHABLE, True), (step, result))
            self.assertEqual((sha256(self.target), self.site.status("vol")["generation"]), (before, 1))
        self.still_usable()

    def test_cuts_and_garbage(self) -> None:
        self.redirect(self.receiver.port)
        rng = random.Random(rogue.SEED)
        for step, occurrence in self.STEPS:
            for how in ("close_notify", "fin", "reset", "half"):
                self.run_case("send", how, step, occurrence, cut(how), CUT)
            for part in (0.1, 0.5, 0.99):
                self.run_case("send", ("part", part), step, occurrence, cut("fin", part), CUT)
            for length in (32, 33, 200, 20_000):
                self.run_case("send", "garbage", step, occurrence, bytes_instead(rng.randbytes(length)), FAILED)
            for wrong in ({"header_checksum": 1}, {"payload_checksum": 1}, {"flags": 1}, {"reserved": 1}, {"sequence": 77},
                          {"length": 1025}, {"length": (1 << 32) - 1}):
                self.run_case("send", wrong, step, occurrence, instead(step, PAYLOADS[step], **wrong), FAILED)
        self.done("cuts and garbage from a receiver", 120)

    def test_comparisons(self) -> None:
        """`resync` and `verify` ask for nodes: what comes back is no more than what was asked for."""
        self.redirect(self.receiver.port)
        zeros = bytes(4096)
        for command in ("resync", "verify"):
            # Only what was sent can be verified.
            self.changes = command == "resync"
            self.still_usable()
            nodes = {
                "another index": encode.nodes(0, 1, 1, zeros), "index 2^63": encode.nodes(0, 1 << 63, 1, zeros),
                "another level": encode.nodes(1, 0, 1, zeros), "level 255": encode.nodes(255, 0, 1, zeros),
                "two": encode.nodes(0, 0, 2, zeros * 2), "none": encode.nodes(0, 0, 0, b""),
                "17": encode.nodes(0, 0, 17, b""), "count 2^32-1": encode.nodes(0, 0, (1 << 32) - 1, zeros),
                "short": encode.nodes(0, 0, 1, zeros[:-1]), "long": encode.nodes(0, 0, 1, zeros + b"\0"),
                "empty": b"", "reserved": encode.nodes(0, 0, 1, zeros, reserved=b"\1" * 7),
                "reserved at the end": encode.nodes(0, 0, 1, zeros, reserved_end=1),
                "a block past the end": encode.nodes(0, 0, 1, zeros[:4080] + b"\1" * 16)}
            for name, payload in nodes.items():
                # Entries past the volume's end that do not match are either refused, or blocks that are not there.
                codes = (FAILED, 8) if name == "a block past the end" else FAILED
                self.run_case(command, name, "NODES", 1, instead("NODES", payload), codes)
            for name, payload in {"zeros": bytes(40), "short": bytes(39), "long": b"\1" * 41}.items():
                self.run_case(command, name, "COMPARED", 1, instead("COMPARED", payload), FAILED)
            for kind in (*RECEIVERS, *SENDERS, 0, 23, 99):
                for step in ("COMPARED", "NODES"):
                    if kind not in (step, "RECORD") and kind not in ALSO.get(step, ()):
                        self.run_case(command, kind, step, 1, before(kind, PAYLOADS.get(kind, b"")), FAILED)
            for step in ("COMPARED", "NODES"):
                for how in ("close_notify", "fin", "reset"):
                    self.run_case(command, how, step, 1, cut(how), CUT)
                for payload in (encode.refuse(9, "corrupt", "\x1b[31m"), encode.refuse(5, "no-map", "no")):
                    self.run_case(command, "refuse", step, 1, instead("REFUSE", payload), (FAILED, LINEAGE))
                self.run_case(command, "flood", step, 1, flood("PING", b"", 0.5), CUT)
            self.run_case(command, "progress", "COMPARED", 1, flood("PROGRESS", encode.progress(3, 0, 1), 0.5), CUT)
        self.done("lies in comparisons", 90)

    def test_records_from_a_receiver(self) -> None:
        """RECORD is a sender's: refused at once, like every other frame that does not belong there."""
        self.redirect(self.receiver.port)
        slow, cases = [], 0
        steps = (*(("send", *step) for step in self.STEPS), ("resync", "COMPARED", 1), ("resync", "NODES", 1))
        for (command, step, occurrence), payload in itertools.product(
                steps, (encode.zero_record(0, 512), encode.data_record(0, bytes(512), bytes(32), 2))):
            # A few that wait are enough to know.
            if len(slow) == rogue.count(2, 99):
                break
            self.receiver.play(step, occurrence, before("RECORD", payload))
            cases += 1
            try:
                result = self.command(command, timeout=4)
            except subprocess.TimeoutExpired:
                slow.append((command, step, occurrence))
            else:
                self.assertEqual((result.code, result.error.count(b"\n")), (FAILED, 2), (command, step, result))
        self.still_usable()
        print(f"records from a receiver: {cases}; not noticed within 4 s: {slow}")
        self.assertEqual(slow, [])

    def test_floods(self) -> None:
        """PING and PROGRESS without end: the sender's memory stays bounded, and a cut is a cut."""
        self.redirect(self.receiver.port)
        seconds = rogue.count(1, 20)
        for step, occurrence in self.STEPS[3:]:
            self.run_case("send", "PING", step, occurrence, flood("PING", b"", seconds), CUT, seconds)
        self.run_case("send", "PROGRESS", "COMMITTED", 1, flood("PROGRESS", encode.progress(2, 1, 2), seconds), CUT, seconds)
        self.run_case("send", "ACK", "ACK", 1, flood("ACK", encode.ack(1), seconds), CUT, seconds)
        self.done("floods by a receiver", 6)

    @unittest.skipUnless(rogue.CAMPAIGN, "waits for the idle limit of 60 s; with BLOCKFERRY_CAMPAIGN=1")
    def test_silence(self) -> None:
        self.redirect(self.receiver.port)
        self.receiver.play("READY", 1, lambda session, name, payload: session.socket.settimeout(100))
        result = self.command("send", timeout=120)
        print(f"a silent receiver: exit {result.code} after {self.took:.1f} s")
        self.assertIn(result.code, CUT)
        self.assertTrue(55 <= self.took <= 75, self.took)
        self.still_usable()


if __name__ == "__main__":
    unittest.main()
