# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Bits that flip in a sender's memory (C4): inside TLS, so that nothing but the protocol's own checks can find them."""

import collections
import hashlib
import random
import unittest

import rogue
from rogue import CODES, NAME, REFUSE, TYPE, Peer, Standby, count, encode, refusal

STEPS = ("HELLO", "OPEN", "BEGIN", "RECORD", "SEAL", "COMMIT")


class Flips(Standby):
    names = ("vol", "vol2")

    def session(self, volume: rogue.Volume, messages: list, step: int, bit: int, behind: bool) -> tuple[str, bytes]:
        """A whole transfer with one bit changed, behind the frame's checksums or before they are made.

        Returns what came in the end, and the generation record that was sent."""
        frames = []
        for number, (kind, payload) in enumerate(messages):
            if number == step and not behind:
                payload = self.flip(payload, bit % (8 * len(payload)))
            frame = encode.frame(kind, payload, number)
            if number == step and behind:
                # Nothing may come of it, so nothing is sent after it; of the record's frame, its header often.
                frame = self.flip(frame, bit % (8 * len(frame)))
            frames.append(frame)
        record = frames[-1][32:]
        if behind:
            del frames[step + 1:]
        volume.wait()
        peer = Peer(self.site.port, volume.identity)
        try:
            # HELLO and OPEN go together; then each answer is waited for, as long as the session goes on.
            answers = {0: ["WELCOME"], 1: ["STATE"], 2: ["READY"]}
            peer.write(b"".join(frames[:2]))
            expected = answers[0] + answers[1] if len(frames) > 1 else answers[0]
            for number in range(1, 4):
                for wanted in expected:
                    kind, payload = peer.answer()
                    if NAME.get(kind) != wanted:
                        return self.end(kind, payload), record
                if number == 1 and len(frames) > 2:
                    peer.write(frames[2])
                    expected = answers[2]
                elif number == 2 and len(frames) > 3:
                    peer.write(b"".join(frames[3:]))
                    expected = ["ACK", "COMMITTED"]
                else:
                    break
            return NAME[kind], record
        finally:
            peer.close()

    @staticmethod
    def flip(data: bytes, bit: int) -> bytes:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    def end(self, kind: int, payload: bytes) -> str:
        if kind != REFUSE:
            return NAME.get(kind, "end of the stream")
        code = refusal(payload)[0]
        return next(name for name, number in CODES.items() if number == code)

    def test_flipped_bits(self) -> None:
        wanted = count(2000, 20_000)
        rng = random.Random(rogue.SEED)
        found: collections.Counter = collections.Counter()
        for number in range(wanted):
            volume = self.volumes[self.names[number % 2]]
            transfer = getattr(volume, "planned", None)
            if transfer is None:
                transfer = volume.planned = volume.delta(number)
                volume.messages = [("HELLO", encode.hello()), ("OPEN", encode.open_(volume.name)),
                                   ("BEGIN", encode.begin(**transfer.begin)), *transfer.frames()]
            step, behind, bit = rng.randrange(len(STEPS)), rng.random() < 0.6, rng.randrange(1 << 20)
            case = (number, STEPS[step], "behind" if behind else "before", bit)
            ended, record = self.session(volume, volume.messages, step, bit, behind)
            found[f"{'raw' if behind else 'mended'}: {ended}"] += 1
            if behind:
                self.assertEqual(ended, "malformed", case)
            # What was sent whole may be committed, with the content that it says, and with nothing else.
            if ended == "COMMITTED":
                self.assertLess(step, STEPS.index("RECORD"), case)
                transfer.was_committed()
                volume.id = hashlib.sha256(record).digest()
                volume.planned = None
            self.check(*case)
        print(f"flipped bits: {dict(found)}")
        self.still_replicates()
        self.report("flipped bits", sum(found.values()), wanted)


if __name__ == "__main__":
    unittest.main()
