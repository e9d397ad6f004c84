# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A paired sender that is hostile: content that is not what it says (G2), names (G3, G4), histories (G5), and segments
that are missing, doubled, changed in order or played again (G7, C6)."""

import contextlib
import hashlib
import os
import random
import sqlite3
import subprocess
import unittest

import rogue
from rogue import CLOSED, CODES, NAME, REFUSE, SIZE, TYPE, Peer, Standby, Transfer, count, encode, refusal

MIB = 1 << 20


def compress(data: bytes, *options: str) -> bytes:
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, stdout=subprocess.PIPE, check=True,
                          timeout=20).stdout


class Content(Standby):
    """Records whose stored bytes are no honest compression of their content."""

    def stored(self) -> dict[str, tuple[bytes, int, bytes | None]]:
        """Stored bytes, the record's length, and the content that the tags are of."""
        ones, length = b"\1" * 4096, 4096
        plain = compress(ones)
        frames = {
            "cut": plain[:-1], "cut in the header": plain[:5], "trailing byte": plain + b"\0",
            "second frame": plain + plain, "skippable frame behind": plain + b"\x50\x2a\x4d\x18\4\0\0\0abcd",
            "skippable frame before": b"\x50\x2a\x4d\x18\4\0\0\0abcd" + plain, "not zstd": b"\0" * 64,
            "no magic": b"\0" + plain[1:], "of nothing": compress(b""), "shorter": compress(ones[:-1]),
            "longer": compress(ones + b"\1"), "twice as long": compress(ones * 2), "other content": compress(b"\2" * 4096),
            "without a size": encode.zstd_frame([(1, 4096, b"\1")], None, window=0x20),
            "dictionary": encode.zstd_frame([(1, 4096, b"\1")], 4096, dictionary=True),
            "reserved bit": encode.zstd_frame([(1, 4096, b"\1")], 4096, reserved_bit=True),
            "reserved block": encode.zstd_frame([(3, 4096, b"\1")], 4096),
            "empty blocks": encode.zstd_frame([(0, 0, b"")] * 500, 4096),
            "a block past the end of the frame": encode.zstd_frame([(0, 4096, b"short")], 4096),
            "block of 2 MiB": encode.zstd_frame([(1, 2 * MIB - 1, b"\1")], 4096),
        }
        for size in (0, 1, 4095, 4097, 65_536, MIB, MIB + 1, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1):
            frames[f"says {size}"] = encode.zstd_frame([(1, 4096, b"\1")], size)
        # A bomb: 131,072 bytes for every 4 that are stored.
        for blocks in (2, 32, 255):
            for said in (4096, 131_072 * blocks):
                frames[f"{blocks} blocks, says {said}"] = encode.zstd_frame([(1, 131_072, b"\1")] * blocks, said)
        # Windows from 1 KiB to 3.75 TiB; up to 1 MiB is right.
        for exponent in (0, 2, 9, 10, 11, 12, 21, 31):
            for mantissa in (0, 1, 7):
                frames[f"window {exponent}.{mantissa}"] = encode.zstd_frame(
                    [(1, 4096, b"\1")], 4096, window=exponent << 3 | mantissa)
        cases = {name: (data, length, ones) for name, data in frames.items()}
        # Two blocks, and a byte more or less.
        for name, data in {"right": encode.zstd_frame([(1, 131_072, b"\0")], 131_072),
                           "one byte more": encode.zstd_frame([(1, 131_072, b"\0"), (0, 1, b"\0")], 131_072),
                           "one byte less": encode.zstd_frame([(1, 131_071, b"\0")], 131_072)}.items():
            cases[name] = (data, SIZE, bytes(SIZE))
        # What is stored must be less than the content.
        cases["stored as long as the content"] = (b"\0" * 512, 512, bytes(512))
        cases["stored longer"] = (b"\0" * 1024, 512, bytes(512))
        return cases

    def test_bombs_and_lies(self) -> None:
        found, greatest = {}, 0
        good = {"right", "window 10.0"}
        for name, (stored, length, content) in self.stored().items():
            # Announced is enough for all of them.
            transfer = self.vol.delta(3, planned_content=1 << 24)
            peer = self.vol.begun(transfer)
            record = encode.raw_record(1, 1, 0, length, encode.tags_of(0, content, self.vol.key, 1), stored)
            seal = encode.seal(0, 1, length, length, encode.segment_digest(0, [record]))
            peer.write(peer.frame("RECORD", record) + peer.frame("SEAL", seal))
            kind, payload = peer.answer()
            greatest = max(greatest, self.worker_memory())
            if kind == TYPE["ACK"]:
                # Then it was a right frame of right content: zstd's own program says so too.
                plain = subprocess.run(["zstd", "-dqc", "--memory=1MB"], input=stored, capture_output=True, timeout=20)
                self.assertEqual((plain.returncode, plain.stdout), (0, content), name)
                found[name] = "ACK"
            else:
                self.assertEqual(kind, REFUSE, name)
                self.assertIn(refusal(payload)[0], (CODES["corrupt"], CODES["malformed"]), (name, payload))
                found[name] = refusal(payload)[2]
            peer.close()
            self.check(name)
        taken = [name for name, what in found.items() if what == "ACK"]
        print(f"taken as right: {taken}; greatest worker {greatest >> 20} MiB")
        for word in ("cut", "trailing", "second", "longer", "shorter", "says", "window 10.1", "window 11", "window 31"):
            self.assertFalse([name for name in taken if word in name], taken)
        self.assertTrue(good <= set(taken))
        # A worker has 8 buffers of a mebibyte, and what a program of its kind needs.
        self.assertLess(greatest, 96 * MIB)
        self.still_replicates()
        self.report("contents that are not what they say", len(found), 60)

    def worker_memory(self) -> int:
        """The greatest resident size that a worker has had, of those that are there."""
        greatest = 0
        children = f"/proc/{self.site.daemon.pid}/task/{self.site.daemon.pid}/children"
        with open(children) as listing:
            for child in listing.read().split():
                try:
                    with open(f"/proc/{child}/status") as status:
                        greatest = max([greatest, *(int(line.split()[1]) << 10 for line in status
                                                    if line.startswith("VmHWM"))])
                except OSError:
                    pass
        return greatest


class Names(Standby):
    def dictionary(self) -> list[bytes]:
        names = ["", ".", "..", "../", "/", "../vol", "../../etc/passwd", "/etc/passwd", "vol/", "vol/.", "./vol", "vol\0",
                 "\0vol", "vol\n", "vol\r", "vol ", " vol", "\tvol", "vol\x7f", "-rf", "--help", "%n%n%n%s", "%00", "$(id)",
                 "`id`", ";id", "|id", "vol;", "VOL", "Vol", "v\u043el", "vo\u217c", "vol\u200b", "\u202elov", "vo\u0301l",
                 "\ufeffvol", "\U0001F600", "vol\u0000x", "vol.log", "vol.map", "theirs", "theirs ", "theirs\0", "THEIRS",
                 "theirs/", "../theirs", "locks", "staging", "maps", "catalog.sqlite", "identity.pem", "con", "nul", "*",
                 "?", "[a-z]", "v*", "'", "\"", "' OR 1=1 --", "vol' --", "vol\\", "\\\\host\\share", "~root", "~", "a" * 62,
                 "vm+data", "+", "...", "a" * 63, "a" * 64, "a" * 255, "a" * 1022, ".vol", "_vol", "-vol", "vol..", "v.o.l", "vol-1", "0", "00", "1e9"]
        rng = random.Random(rogue.SEED)
        tame = "abcdefghijklmnopqrstuvwxyz0123456789._-"
        while len(names) < count(150, 400):
            names.append(rng.choice(tame[:36]) + "".join(rng.choice(tame) for _ in range(rng.randrange(40))))
        wild = [rng.randbytes(rng.randrange(1, 100)) for _ in range(count(60, 600))]
        return [name.encode() for name in names] + [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"vol\xff", *wild]

    @staticmethod
    def is_name(name: bytes) -> bool:
        letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+_."
        return (1 <= len(name) <= 63 and name[0] in letters and all(byte in letters + b"-" for byte in name)
                and name not in (b".", b".."))

    def ask(self, name: bytes) -> tuple[int, bytes]:
        peer = Peer(self.site.port, self.vol.identity)
        peer.write(peer.frame("HELLO", encode.hello()) + peer.frame("OPEN", encode.open_(name)))
        self.assertEqual(peer.answer()[0], TYPE["WELCOME"])
        answer = peer.answer()
        self.assertEqual(peer.answer(), CLOSED)
        peer.close()
        return answer

    def test_names_in_open(self) -> None:
        shapes: dict = {True: set(), False: set()}
        cases = 0
        for name in self.dictionary():
            kind, payload = self.ask(name)
            self.assertEqual(kind, REFUSE, name)
            code, rule, text = refusal(payload)
            if self.is_name(name):
                text = text.replace(f"volume {name.decode()} for", "volume NAME for")
                self.assertNotIn("theirs", text)
            shapes[self.is_name(name)].add((code, rule, text))
            cases += 1
        self.check()
        # Somebody else's volume, and none at all: the same words. What is no name is refused as such, alike.
        self.assertEqual({shape[:2] for shape in shapes[True]}, {(CODES["not-authorised"], "not-authorised")})
        self.assertEqual(len({text for *_, text in shapes[True]}), 1, shapes[True])
        self.assertEqual({shape[0] for shape in shapes[False]}, {CODES["malformed"]}, shapes[False])
        print(f"words for what is no name: {sorted(text for *_, text in shapes[False])}")
        self.report("names in OPEN", cases, 200)

    def test_names_in_pair(self) -> None:
        """What a peer calls itself: no name is taken with a wrong secret, and no name harms with a right one."""
        self.site.invite("kept", self.site.path / "kept.copy")
        cases = 0
        for name in self.dictionary()[::count(4, 1)]:
            peer = Peer(self.site.port, self.vol.identity, "blockferry-pair/1")
            peer.write(peer.frame("HELLO", encode.hello()) + peer.frame("PAIR", encode.pair(os.urandom(16), name)))
            self.assertEqual(peer.answer()[0], TYPE["WELCOME"])
            kind, payload = peer.answer()
            self.assertEqual(kind, REFUSE, name)
            try:
                fits = 1 <= len(name) <= 64 and all(ord(c) >= 32 and ord(c) != 127 for c in name.decode())
            except UnicodeDecodeError:
                fits = False
            self.assertEqual(refusal(payload)[0], CODES["invitation" if fits else "malformed"], name)
            self.assertEqual(peer.answer(), CLOSED)
            peer.close()
            cases += 1
        for number, name in enumerate(("../../etc/passwd", "%n%s", "v\u043el", "' OR 1=1 --", "\u202eevil", "-rf", "e" * 64)):
            secret = self.invite(f"named{number}")
            peer = Peer(self.site.port, self.vol.identity, "blockferry-pair/1")
            peer.write(peer.frame("HELLO", encode.hello()) + peer.frame("PAIR", encode.pair(secret, name)))
            self.assertEqual([peer.answer()[0], peer.answer()[0]], [TYPE["WELCOME"], TYPE["PAIRED"]], name)
            peer.close()
            cases += 1
        shown = self.site.run("blockferryd", "status")
        self.assertEqual(shown.code, 0, shown)
        self.check()
        self.report("names in PAIR", cases, 50)


class Histories(Standby):
    """Everything that does not follow what the target holds, and every disorder of segments."""

    def refused(self, what: str, transfer: Transfer, frames: list[tuple[str, bytes]], *codes: str,
                at_begin: bool = False) -> None:
        peer, _ = self.vol.open()
        peer.send("BEGIN", encode.begin(**transfer.begin))
        kind, payload = peer.answer()
        if not at_begin:
            self.assertEqual(kind, TYPE["READY"], (what, payload))
            peer.write(b"".join(peer.frame(name, data) for name, data in frames))
            kind, payload = peer.answer()
            while kind == TYPE["ACK"]:
                kind, payload = peer.answer()
        self.assertEqual(NAME.get(kind), "REFUSE", (what, payload))
        self.assertIn(refusal(payload)[0], [CODES[code] for code in codes], (what, payload))
        peer.close()
        self.vol.wait()
        self.check(what)
        self.cases += 1

    def test_histories(self) -> None:
        self.cases = 0
        vol = self.vol
        recorded = vol.delta(1, 2)
        old = {"number": vol.number, "parent": vol.id}
        vol.commit(recorded)
        fork = Transfer(vol, [[(0, b"fork" * 128)]], **{**old, "number": old["number"] + 1})
        vol.commit(vol.delta(2))
        for number in range(3):
            self.refused("a generation played again", recorded, [], "lineage", at_begin=True)
            self.refused("a second child of the same parent", fork, [], "lineage", at_begin=True)
        for number in (1, 2, vol.number - 1, vol.number, vol.number + 2, vol.number + 1000, 1 << 31, 1 << 32, (1 << 63) - 1,
                       1 << 63, (1 << 64) - 2, (1 << 64) - 1):
            self.refused(f"number {number}", vol.delta(3, number=number), [], "lineage", at_begin=True)
        flips = [bytes(byte ^ (1 << bit % 8 if at == bit // 8 else 0) for at, byte in enumerate(vol.id)) for bit in range(
            0, 256, count(16, 1))]
        for parent in (old["parent"], b"\xff" * 32, self.theirs.id, hashlib.sha256(vol.id).digest(), *flips):
            self.refused("parent", vol.delta(3, parent=parent), [], "lineage", at_begin=True)
        for lineage in (self.theirs.lineage, b"\xff" * 16, vol.lineage[::-1]):
            self.refused("lineage", vol.delta(3, lineage=lineage), [], "lineage", at_begin=True)
        full = Transfer(vol, [[(0, bytes(65_536))]], kind=1)
        self.refused("a full copy over a generation", full, [], "lineage", at_begin=True)
        for root in (b"\1" * 32, vol.id):
            for parent in (bytes(32), vol.id):
                for flags in (0, 1, 2, 3) if parent == bytes(32) else (0, 1):
                    resync = vol.delta(3, kind=3, parent=parent, compared_root=root, flags=flags,
                                       number=1 if parent == bytes(32) else vol.number + 1,
                                       tag_key=bytes(32) if any(parent) else vol.key)
                    self.refused("a resync with what nobody compared", resync, [], "lineage", at_begin=True)
        self.still_replicates()
        self.report("histories", self.cases, 45)

    def test_segments(self) -> None:
        self.cases = 0
        vol = self.vol
        for number in range(count(2, 20)):
            right = vol.delta(100 + number, 3)
            f = right.frames()
            record, seal, commit = f[0::2][:3], f[1::2][:3], f[6]
            self.assertEqual(len(f), 7)
            other = vol.delta(200 + number, 3)
            raw = lambda data: [("RECORD", data)]  # noqa: E731
            disorders = {
                "first missing": f[2:], "second missing": f[:2] + f[4:], "last missing": f[:4] + [commit], "all missing": [commit],
                "first twice": f[:2] + f, "second twice": f[:4] + f[2:4] + f[4:], "last twice": f[:6] + f[4:6] + [commit],
                "seals swapped": [record[0], seal[1], record[1], seal[0], record[2], seal[2], commit],
                "segments swapped": f[2:4] + f[0:2] + f[4:], "records swapped": [record[1], seal[1], *f[2:]],
                "a seal missing": [record[0], *f[2:]], "a seal twice": [record[0], seal[0], seal[0], *f[2:]],
                "seal of another transfer": [record[0], ("SEAL", other.seal(0)), *f[2:]],
                "record of another transfer": [other.frames()[0], *f[1:]],
                "commit of another transfer": f[:6] + [("COMMIT", other.record())],
                "open segment": f[:6] + raw(encode.zero_record(65_536, 512)) + [commit],
                "record repeated": [record[0], record[0], *f[1:]],
                "overlap": [record[0], *raw(encode.zero_record(1536, 512)), *f[1:]],
                "too many segments": f[:6] + raw(encode.zero_record(65_536, 512)) + [
                    ("SEAL", encode.seal(3, 1, 0, 66_048, encode.segment_digest(3, [encode.zero_record(65_536, 512)]))),
                    commit],
                "another root": f[:6] + [("COMMIT", right.record(volume_root=b"\1" * 32))],
                "another key": f[:6] + [("COMMIT", right.record(sender_key_id=self.theirs.peer))],
                "another delta": f[:6] + [("COMMIT", right.record(delta_digest=b"\1" * 32))],
                "digests in another order": f[:6] + [("COMMIT", right.record(delta_digest=encode.delta_digest(
                    [encode.segment_digest(index, right.segments[index]) for index in (1, 0, 2)])))],
                "another count": f[:6] + [("COMMIT", right.record(segment_count=2))],
                "another time": f[:6] + [("COMMIT", right.record(source_time=2))],
                "another identity": f[:6] + [("COMMIT", right.record(source_identity="rogus"))],
                "another size": f[:6] + [("COMMIT", right.record(volume_size=SIZE + 512))],
                "another number": f[:6] + [("COMMIT", right.record(number=vol.number + 2))],
                "another kind": f[:6] + [("COMMIT", right.record(kind=3))],
                "another parent": f[:6] + [("COMMIT", right.record(parent=b"\1" * 32))],
                "another lineage": f[:6] + [("COMMIT", right.record(lineage=b"\1" * 16))],
                "two commits": None,
            }
            for index in range(3):
                for name, wrong in {"index": index + 1, "record_count": 2, "content": 1023, "end_offset": 1,
                                    "segment_digest": b"\1" * 32}.items():
                    fields = {"segment_index" if name == "index" else name: wrong}
                    disorders[f"seal {index}, {name}"] = f[:2 * index + 1] + [("SEAL", right.seal(index, **fields))] + f[
                        2 * index + 2:]
            for what, frames in disorders.items():
                if frames is None:
                    continue
                self.refused(what, right, frames, "corrupt", "malformed")
        self.sequences()
        self.still_replicates()
        self.report("disorders of segments and sequences", self.cases, 80)

    def sequences(self) -> None:
        """Frames that are repeated, left out or exchanged, as they were recorded (C6)."""
        for what in range(count(20, 200)):
            transfer = self.vol.delta(300 + what, 2)
            peer = self.vol.begun(transfer)
            frames = [peer.frame(kind, payload) for kind, payload in transfer.frames()]
            rng = random.Random(what)
            at = rng.randrange(len(frames) - 1)
            match what % 4:
                case 0: frames.insert(at, frames[at])
                case 1: del frames[at]
                case 2: frames[at], frames[at + 1] = frames[at + 1], frames[at]
                case 3: frames.insert(at, frames[rng.randrange(at, len(frames))])
            peer.write(b"".join(frames))
            kind, payload = peer.answer()
            while kind == TYPE["ACK"]:
                kind, payload = peer.answer()
            self.assertEqual((NAME.get(kind), refusal(payload)[0]), ("REFUSE", CODES["malformed"]), what)
            peer.close()
            self.check("sequence", what)
            self.cases += 1

    def test_two_commits_and_a_whole_replay(self) -> None:
        """COMMIT twice commits once; the same bytes in a new session commit nothing."""
        vol = self.vol
        transfer = vol.delta(9)
        peer = vol.begun(transfer)
        commit = ("COMMIT", transfer.record())
        peer.write(b"".join(peer.frame(*frame) for frame in (*transfer.frames(), commit)))
        kinds = peer.rest()
        # The second one is refused; the first one was whole and is carried out.
        self.assertEqual(kinds[-1], REFUSE, kinds)
        vol.wait()
        peer.close()
        if vol.target.read_bytes() == transfer.result():
            transfer.was_committed()
        self.check("two commits")
        peer = Peer(self.site.port, vol.identity)
        peer.write(peer.frame("HELLO", encode.hello()) + peer.frame("OPEN", encode.open_("vol")) + peer.frame(
            "BEGIN", encode.begin(**transfer.begin)) + b"".join(peer.frame(*frame) for frame in transfer.frames()))
        self.assertNotIn(TYPE["COMMITTED"], peer.rest())
        peer.close()
        vol.wait()
        self.check("replay")
        self.still_replicates()

    def test_volume_taken_away(self) -> None:
        """A session that is under way when its peer loses the volume commits nothing: it is asked again at COMMIT (G4).

        There is no command for it, so the catalog is changed as `StandbyCatalog.removePeer` would."""
        lost = self.add("lost", self.site.path / "third")
        transfer = lost.delta(1)
        peer = lost.begun(transfer)
        with contextlib.closing(sqlite3.connect(self.site.standby / "catalog.sqlite")) as catalog, catalog:
            catalog.execute("UPDATE volume SET peer = NULL WHERE name = 'lost'")
        peer.write(b"".join(peer.frame(*frame) for frame in transfer.frames()))
        kind, payload = peer.answer()
        while kind == TYPE["ACK"]:
            kind, payload = peer.answer()
        self.assertEqual((kind, refusal(payload)[0]), (REFUSE, CODES["not-authorised"]), payload)
        peer.close()
        self.assertEqual(lost.target.read_bytes(), lost.content)


if __name__ == "__main__":
    unittest.main()
