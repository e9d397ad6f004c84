# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A paired sender that is hostile: every frame in every state (G10)."""

import itertools
import unittest

import rogue
from rogue import CLOSED, CODES, CUT, NAME, REFUSE, TYPE, Peer, Standby, encode, refusal

OWN = ("HELLO", "OPEN", "PAIR", "BEGIN", "ABANDON", "COMPARE", "ASK", "CURRENT", "RECORD", "SEAL", "COMMIT", "PING", "REFUSE")
UNKNOWN = (0, 25, 26, 255, 256, 65_535)
TYPES = (*TYPE, *UNKNOWN)

# Columns of the receiver's table that are not "–", by state; the value is the answer. PING and REFUSE are told apart below.
TAKEN = {
    "greeting": {"HELLO": "WELCOME"}, "opening": {"OPEN": "STATE"}, "pairing": {"PAIR": "PAIRED"},
    "offered": {"BEGIN": "READY", "ABANDON": "STATE", "COMPARE": "COMPARED"},
    "compared": {"BEGIN": "READY", "ASK": "NODES"},
    "receiving": {"RECORD": None, "SEAL": "ACK"},
    "boundary": {"RECORD": None, "COMMIT": "COMMITTED"},
    # While an answer is made; and where nothing is taken any more.
    "looking": {}, "abandoning": {}, "admitting": {}, "comparing": {}, "answering": {}, "redeeming": {},
    "committing": {}, "committed": {}, "prepared": {}, "paired": {},
}
# What is being answered in the states that pass by themselves, and the answer.
PASSING = {"looking": ("OPEN", "STATE"), "abandoning": ("ABANDON", "STATE"), "admitting": ("BEGIN", "READY"),
           "comparing": ("COMPARE", "COMPARED"), "answering": ("ASK", "NODES"), "redeeming": ("PAIR", "PAIRED"),
           "committing": ("COMMIT", "COMMITTED")}
# The state that a passing one begins in.
BEFORE = {"looking": "opening", "abandoning": "offered", "admitting": "offered", "comparing": "offered",
          "answering": "compared", "redeeming": "pairing", "committing": "boundary"}


class States(Standby):
    names = ("vol", "member")
    numbers = itertools.count()

    def payload(self, kind: str | int) -> bytes:
        """A payload that is right in some state, and of this transfer where that matters."""
        index = min(len(self.sealed), len(self.transfer.segments) - 1)
        match kind:
            case "OPEN" | "PAIRED": return encode.open_(self.volume.name)
            case "HELLO": return encode.hello()
            case "PAIR": return encode.pair(self.secret, "rogue")
            case "BEGIN": return encode.begin(**self.transfer.begin)
            case "ABANDON": return encode.abandon(b"\1" * 16)
            case "COMPARE": return encode.compare(1, 1, rogue.SIZE)
            case "ASK": return encode.ask(0, 0, 1)
            case "RECORD": return self.transfer.segments[index][0]
            case "SEAL": return self.transfer.seal(index)
            case "COMMIT": return self.transfer.record()
            case "REFUSE": return encode.refuse(11, "stopping", "enough")
            case "PING": return b""
            case "WELCOME": return encode.welcome()
            case "STATE": return encode.state()
            case "READY": return encode.ready()
            case "ACK": return encode.ack()
            case "COMMITTED" | "PREPARED" | "CURRENT": return encode.committed(2, bytes(31) + b"\1")
            case "PROGRESS": return encode.progress(1, 0, 1)
            case "COMPARED": return encode.compared(b"\1" * 32)
            case "NODES": return encode.nodes(0, 0, 1, bytes(4096))
        return b""

    def step(self, peer: Peer, kind: str, wanted: str | None) -> None:
        peer.send(kind, self.payload(kind))
        if wanted:
            answer = peer.answer()
            self.assertEqual(NAME.get(answer[0]), wanted, (kind, answer))

    def reach(self, state: str) -> Peer:
        """A session in the state."""
        self.sealed: list = []
        self.secret = bytes(16)
        self.volume = self.volumes["member" if state == "prepared" else "vol"]
        segments = {"boundary": 1, "committing": 1, "committed": 1, "prepared": 1}.get(state, 3)
        group = {"members": 2, "group": b"\7" * 16} if state == "prepared" else {}
        self.transfer = self.volume.delta(next(self.numbers), segments, **group)
        if state in ("pairing", "redeeming", "paired"):
            self.secret = self.invite(f"p{next(self.numbers)}")
            peer = Peer(self.site.port, self.volume.identity, "blockferry-pair/1")
            self.step(peer, "HELLO", "WELCOME")
            if state == "paired":
                self.step(peer, "PAIR", "PAIRED")
            return peer
        if BEFORE.get(state, state) in ("greeting", "opening"):
            self.volume.wait()
            peer = Peer(self.site.port, self.volume.identity)
            if state != "greeting":
                self.step(peer, "HELLO", "WELCOME")
            return peer
        peer, _ = self.volume.open()
        state = BEFORE.get(state, state)
        if state == "compared":
            self.step(peer, "COMPARE", "COMPARED")
        if state in ("receiving", "boundary", "committed", "prepared"):
            self.step(peer, "BEGIN", "READY")
            self.step(peer, "RECORD", None)
        if state in ("boundary", "committed", "prepared"):
            self.step(peer, "SEAL", "ACK")
            self.sealed.append(0)
        if state == "committed":
            self.step(peer, "COMMIT", "COMMITTED")
            self.transfer.was_committed()
        if state == "prepared":
            self.step(peer, "COMMIT", "PREPARED")
        return peer

    def is_refused(self, peer: Peer, *case) -> None:
        """REFUSE `malformed`, then `close_notify` and nothing else."""
        kind, payload = peer.answer()
        self.assertEqual(NAME.get(kind), "REFUSE", (*case, kind, payload))
        self.assertEqual(refusal(payload)[0], CODES["malformed"], (*case, payload))
        self.assertEqual(peer.answer(), CLOSED, case)

    def is_closed(self, peer: Peer, *case) -> None:
        self.assertIn(peer.answer(), (CLOSED, CUT), case)

    def stays(self, peer: Peer, state: str) -> None:
        """After PING, and after RECORD: the state is what it was, as its next frame shows."""
        probe = {"opening": ("OPEN", "STATE"), "pairing": ("PAIR", "PAIRED"), "offered": ("BEGIN", "READY"),
                 "compared": ("ASK", "NODES"), "receiving": ("SEAL", "ACK"), "boundary": ("COMMIT", "COMMITTED")}
        if state in probe:
            self.step(peer, *probe[state])
            if state == "boundary":
                self.transfer.was_committed()
        else:
            # Nothing is taken any more: the refusal names the frame after the PING.
            peer.send("OPEN", self.payload("OPEN"))
            kind, payload = peer.answer()
            self.assertEqual((kind, "OPEN" in refusal(payload)[2].upper()), (REFUSE, True), (state, payload))

    def passing(self, state: str, kind: str | int) -> bool:
        """The frame comes in one piece with what is being answered; false if the answer was faster."""
        peer = self.reach(state)
        asked, answered = PASSING[state]
        second = self.payload("RECORD" if kind == "RECORD" else kind)
        peer.write(peer.frame(asked, self.payload(asked)) + peer.frame(kind, second))
        answer, payload = peer.answer()
        if kind == "PING":
            self.assertEqual(NAME.get(answer), answered, (state, payload))
        elif kind == "REFUSE":
            # The answer may have been on its way; nothing else comes.
            if NAME.get(answer) == answered:
                self.committed_unless(state, False)
                self.is_closed(peer, state, kind)
            else:
                self.assertIn((answer, payload), (CLOSED, CUT), (state, kind))
        elif NAME.get(answer) == answered:
            self.committed_unless(state, False)
            peer.close()
            self.volume.wait()
            return False
        else:
            self.assertEqual(NAME.get(answer), "REFUSE", (state, kind, payload))
            self.assertEqual(refusal(payload)[0], CODES["malformed"], (state, kind, payload))
            self.assertEqual(peer.answer(), CLOSED, (state, kind))
        peer.close()
        self.volume.wait()
        self.committed_unless(state, True)
        return True

    def committed_unless(self, state: str, look: bool) -> None:
        """A COMMIT that was whole may be carried out, whatever came after it: then the target holds the new content."""
        if state == "committing" and (not look or self.volume.target.read_bytes() == self.transfer.result()):
            if self.volume.id != self.transfer.begin["parent"]:
                return
            self.transfer.was_committed()

    def plain(self, state: str, kind: str | int) -> None:
        peer = self.reach(state)
        if state == "boundary" and kind == "RECORD":
            # Of the next segment, behind what was sealed.
            peer.send("RECORD", encode.zero_record(65_536, 512))
            peer.send("PING")
            peer.send("COMMIT", self.payload("COMMIT"))
            answer, payload = peer.answer()
            self.assertEqual((answer, refusal(payload)[0]), (REFUSE, CODES["corrupt"]), "COMMIT in an open segment")
            return peer.close()
        if state == "receiving" and kind == "RECORD":
            self.transfer.changes[0].append((8192, b"z" * 512))
            self.transfer.segments[0].append(encode.data_record(8192, b"z" * 512, self.volume.key, 1))
            peer.send("RECORD", self.transfer.segments[0][1])
            self.stays(peer, state)
            return peer.close()
        if state == "receiving" and kind == "COMMIT":
            # It is taken, and is not what was sealed.
            peer.send("COMMIT", self.payload("COMMIT"))
            answer, payload = peer.answer()
            self.assertEqual((answer, refusal(payload)[0]), (REFUSE, CODES["corrupt"]), payload)
            return peer.close()
        if state == "boundary" and kind == "SEAL":
            # A segment of nothing: taken in this state, and wrong.
            peer.send("SEAL", encode.seal(1, 1, 0, 0, encode.ZEROS32))
            answer, payload = peer.answer()
            self.assertEqual((answer, refusal(payload)[0]), (REFUSE, CODES["corrupt"]), payload)
            return peer.close()
        peer.send(kind, self.payload(kind))
        if kind == "PING" and state != "greeting":
            self.stays(peer, state)
        elif kind == "REFUSE":
            self.is_closed(peer, state, kind)
        elif kind in TAKEN[state]:
            answer, payload = peer.answer()
            self.assertEqual(NAME.get(answer), TAKEN[state][kind], (state, kind, payload))
            if kind == "COMMIT":
                self.transfer.was_committed()
        else:
            self.is_refused(peer, state, kind)
        peer.close()

    def forget_prepared(self) -> None:
        peer, state = self.volumes["member"].open()
        peer.send("ABANDON", encode.abandon(state[72:88]))
        self.assertEqual(peer.answer()[0], TYPE["STATE"])
        peer.close()

    def test_every_frame_in_every_state(self) -> None:
        run, faster = set(), 0
        for state in TAKEN:
            for kind in TYPES:
                if state in PASSING:
                    # On a busy machine the standby is often faster.
                    for _ in range(100):
                        if self.passing(state, kind):
                            break
                        faster += 1
                    else:
                        self.fail(f"{kind} never came while {state}")
                else:
                    self.plain(state, kind)
                if state == "prepared":
                    self.forget_prepared()
                self.volume.wait()
                self.check(state, kind)
                run.add((state, kind))
        # After the receiver has refused, and after the sender has: nothing is read, nothing is answered.
        for state, first in (("refused", TYPE["ACK"]), ("stopped", "REFUSE")):
            for kind in TYPES:
                peer = self.reach("offered")
                peer.write(peer.frame(first, self.payload(first if first == "REFUSE" else "ACK")))
                if state == "refused":
                    self.assertEqual(peer.answer()[0], REFUSE)
                peer.send(kind, self.payload(kind))
                self.is_closed(peer, state, kind)
                peer.close()
                self.check(state, kind)
                run.add((state, kind))
        wanted = (len(TAKEN) + 2) * len(TYPES)
        print(f"states {len(TAKEN) + 2} x frame types {len(TYPES)}: {len(run)} of {wanted}; answered too fast and "
              f"repeated: {faster}")
        self.still_replicates()
        self.report("frames in states", len(run), wanted)


if __name__ == "__main__":
    unittest.main()
