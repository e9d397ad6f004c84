# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Generations that travel by disk: what is imported is what was exported, and nothing else is."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import time
import unittest

from harness import BIN, ROOT, Result, Site, manifest, sha256, until

import decode
import encode

FLIPS = int(os.environ.get("BLOCKFERRY_FLIPS", "2000"))
CUTS = 64
KILLS = 20


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()
        self.target = self.site.path / "copy"
        self.number = 0

    def new_file(self) -> pathlib.Path:
        self.number += 1
        return self.site.path / f"export-{self.number}.bfx"

    def export(self, *source, volume: str = "vol", more: tuple = (), to: pathlib.Path | None = None,
               state: pathlib.Path | None = None, peer: str = "standby") -> tuple[Result, pathlib.Path]:
        file = to or self.new_file()
        return self.site.run("blockferry", "export", *source, "--to", peer, "--volume", volume, "--output", file,
                             "--json", *more, state=state), file

    def exported(self, *source, expect: str, **how) -> tuple[dict, pathlib.Path]:
        result, file = self.export(*source, **how)
        self.assertEqual(result.code, 0, result)
        self.assertEqual(result.json["result"], expect, result)
        self.assertEqual(result.json["file_bytes"], file.stat().st_size)
        self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
        self.assertFalse(file.with_name(file.name + ".part").exists())
        return result.json, file

    def run_import(self, file: os.PathLike, *more: str, volume: str = "vol",
                   state: pathlib.Path | None = None) -> Result:
        return self.site.run("blockferryd", "import", volume, file, "--json", *more, state=state)

    def imported(self, file: os.PathLike, *, expect: str, volume: str = "vol") -> dict:
        dry = self.run_import(file, "--dry-run", volume=volume)
        self.assertEqual((dry.code, dry.json["result"], dry.json["dry_run"]), (0, expect, True), dry)
        result = self.run_import(file, volume=volume)
        self.assertEqual((result.code, result.json["result"]), (0, expect), result)
        return result.json

    def refused(self, file: os.PathLike, code: int, rule: str, *, volume: str = "vol", dry: bool = True) -> None:
        for more in (["--dry-run"] if dry else []), []:
            result = self.run_import(file, *more, volume=volume)
            self.assertEqual(result.code, code, result)
            self.assertIn(rule, result.error)
            self.assertTrue(result.is_one_sentence, result)

    def sent(self, *source, expect: str, volume: str = "vol") -> dict:
        result = self.site.send(volume, *source)
        self.assertEqual(result.code, 0, result)
        self.assertEqual(result.json["result"], expect, result)
        return result.json

    def plain(self, size: int = 300_000, seed: int = 1) -> pathlib.Path:
        path = self.site.path / "plain"
        path.write_bytes(random.Random(seed).randbytes(size))
        return path

    def change(self, path: pathlib.Path, seed: int, pieces: int = 3, size: int = 2000) -> None:
        rng = random.Random(seed)
        content = bytearray(path.read_bytes())
        for _ in range(pieces):
            at = rng.randrange(max(1, len(content) - size))
            content[at:at + size] = rng.randbytes(min(size, len(content) - at))
        path.write_bytes(content)


class Exchange(Case):
    def test_thin_full_and_increments_by_file(self) -> None:
        self.site.pair("vol", self.target)
        pool = self.site.pool()
        self.site.kill_daemon()
        before, more = None, ()
        for name, kind in (("s0", "full"), ("s1", "delta"), ("s2", "delta")):
            # Without a network, the operator says that the one before was imported.
            result, file = self.exported(*pool.source(name), expect=kind, more=more)
            self.assertEqual(result.get("from_generation"), before)
            self.assertEqual(self.imported(file, expect=kind)["generation_id"], result["generation_id"])
            self.assertEqual(sha256(self.target), pool.digests[name])
            before, more = result["generation"], ("--imported", result["generation_id"][:12])
        self.site.start_daemon()
        self.sent(*pool.source("s2"), expect="up-to-date")
        self.assertEqual(self.site.run("blockferryd", "scrub", "vol", "--json").json["map_was_missing"], False)

    def test_classic_chain_by_file_and_by_wire(self) -> None:
        self.site.pair("vol", self.target)
        origin, *stores = self.site.unpack("cow-chain-16k", "origin", "cow-s0", "cow-s1", "cow-s2")
        digests = manifest("cow-chain-16k")["generations"]
        _, file = self.exported("--cow-origin", origin, "--cow-store", stores[0], expect="full")
        self.imported(file, expect="full")
        self.assertEqual(sha256(self.target), digests["s0"])
        self.sent("--cow-origin", origin, "--cow-store", stores[1], "--base-store", stores[0], expect="delta")
        self.assertEqual(sha256(self.target), digests["s1"])
        _, file = self.exported("--cow-origin", origin, "--cow-store", stores[2], "--base-store", stores[1],
                                expect="delta")
        self.imported(file, expect="delta")
        self.assertEqual(sha256(self.target), digests["s2"])
        self.sent("--cow-origin", origin, "--base-store", stores[2], expect="delta")
        self.assertEqual(sha256(self.target), digests["origin"])

    def test_plain_files_of_odd_sizes_that_grow_and_shrink(self) -> None:
        compared = 0
        for index, size in enumerate((1, 511, 512, 65_537, 1_048_577, 5_000_003)):
            volume, target = f"plain{index}", self.site.path / f"plain-copy-{index}"
            self.site.pair(volume, target)
            source = self.plain(size, seed=index)
            for step, how in enumerate(("never", "always", "auto", "auto", "auto")):
                if step == 3:
                    with open(source, "ab") as file:
                        file.write(bytes(70_000) + os.urandom(3333))
                elif step == 4:
                    os.truncate(source, max(1, size - 300))
                elif step:
                    self.change(source, step, size=9000)
                more = ["--compress", how] + ["--allow-shrink"] * (step == 4)
                if step:
                    more += ["--imported", result["generation_id"]]
                result, file = self.exported(source, volume=volume, expect="delta" if step else "full", more=tuple(more))
                self.imported(file, volume=volume, expect="delta" if step else "full")
                self.assertEqual(target.read_bytes(), source.read_bytes(), f"{size} {how} {step}")
                compared += 1
        print(f"plain files by disk, compared: {compared}")

    def test_a_generation_without_changes_and_one_that_is_there(self) -> None:
        self.site.pair("vol", self.target)
        source = self.plain()
        first, file = self.exported(source, expect="full")
        self.imported(file, expect="full")
        result, file = self.export(source, more=("--imported", first["generation_id"]))
        self.assertEqual((result.code, result.json["result"], result.json.get("file")), (0, "up-to-date", None), result)
        self.assertFalse(file.exists())
        os.utime(source, ns=(0, 1))
        result, file = self.exported(source, expect="delta")
        self.assertEqual(result["bytes_changed"], 0)
        self.imported(file, expect="delta")
        self.assertEqual(self.site.status("vol")["generation"], 2)
        self.assertEqual(sha256(self.target), sha256(source))

    def test_send_finds_out_that_a_file_was_imported_or_replaces_it(self) -> None:
        self.site.pair("vol", self.target)
        source = self.plain()
        _, first = self.exported(source, expect="full")
        # Not imported: the send brings everything itself, and the file is of no use any more.
        self.sent(source, expect="full")
        self.refused(first, 7, "not-empty")
        self.change(source, 2)
        result, second = self.exported(source, expect="delta")
        status = self.site.run("blockferry", "status", "--json").json["volumes"][0]
        self.assertEqual((status["state"], status["exported_id"], status["exported_file"]),
                         ("exported", result["generation_id"], str(second)))
        # The same point in time gives the same generation, whichever way it goes.
        self.assertEqual(self.sent(source, expect="delta")["generation_id"], result["generation_id"])
        self.imported(second, expect="up-to-date")
        # Imported: the send goes on from it.
        self.change(source, 3)
        _, third = self.exported(source, expect="delta")
        self.imported(third, expect="delta")
        explained = self.site.run("blockferry", "explain", "--to", "standby", "--volume", "vol", "--json").json
        self.assertEqual(explained["rule"], "committed")
        self.change(source, 4)
        self.assertEqual(self.sent(source, expect="delta")["from_generation"], 3)
        # Not imported, and another point in time was sent.
        self.change(source, 5)
        _, fourth = self.exported(source, expect="delta")
        self.change(source, 6)
        self.sent(source, expect="delta")
        self.refused(fourth, 7, "parent-mismatch")
        self.assertEqual(sha256(self.target), sha256(source))
        self.assertEqual(self.site.run("blockferry", "verify", source, "--to", "standby", "--volume", "vol").code, 0)

    def test_a_file_that_is_imported_while_the_next_send_reads_its_source(self) -> None:
        source = self.plain(64 << 20)
        self.site.pair("vol", self.target)
        self.sent(source, expect="full")
        self.change(source, 2)
        _, file = self.exported(source, expect="delta")
        self.change(source, 3)
        sender = self.site.start_send("vol", source)
        self.assertTrue(until(20, lambda: (self.site.source / "plans/vol@standby@scan").exists()
                              or sender.poll() is not None))
        os.kill(sender.pid, signal.SIGSTOP)
        try:
            self.imported(file, expect="delta")
        finally:
            os.kill(sender.pid, signal.SIGCONT)
            out, error = sender.communicate(timeout=60)
        self.assertEqual(sender.returncode, 0, error)
        self.assertEqual((json.loads(out)["result"], json.loads(out)["generation"]), ("delta", 3))
        self.assertEqual(sha256(self.target), sha256(source))
        self.sent(source, expect="up-to-date")

    def test_twice_and_out_of_order(self) -> None:
        self.site.pair("vol", self.target)
        source, files, ids, digests = self.plain(), [], [], []
        for step in range(3):
            if step:
                self.change(source, step)
            more = ("--imported", ids[-1]) if step else ()
            result, file = self.exported(source, expect="delta" if step else "full", more=more)
            files.append(file)
            ids.append(result["generation_id"])
            digests.append(sha256(source))
        self.refused(files[1], 7, "base-missing")
        self.imported(files[0], expect="full")
        self.refused(files[2], 7, "parent-mismatch")
        self.imported(files[0], expect="up-to-date")
        self.assertEqual(sha256(self.target), digests[0])
        self.imported(files[1], expect="delta")
        self.imported(files[1], expect="up-to-date")
        self.refused(files[0], 7, "not-empty")
        self.assertEqual(sha256(self.target), digests[1])
        self.imported(files[2], expect="delta")
        self.refused(files[1], 7, "parent-mismatch")
        self.assertEqual(sha256(self.target), digests[2])

    def test_the_decoder_and_openssl_agree(self) -> None:
        self.site.pair("vol", self.target)
        pool = self.site.pool()
        _, full = self.exported(*pool.source("s0"), expect="full")
        self.imported(full, expect="full")
        self.sent(*pool.source("s0"), expect="up-to-date")
        _, delta = self.exported(*pool.source("s1"), expect="delta")
        key = decode.decode_export_file(full.read_bytes(), decode.Context())["header"]["begin"]["tag_key"]
        for file in full, delta:
            context = decode.Context(tag_key=key)
            found = decode.decode_export_file(file.read_bytes(), context)
            self.assertEqual(dict(context.unchecked), {"signature": 1})
            self.assertEqual(found["header"]["volume"], "vol")
            self.assertTrue(verified(self.site.path, found))
            for frame in found["frames"]:
                if frame["type"] == "SEAL":
                    self.assertLessEqual(frame["message"]["content"], 16 << 20)
            found["trailer"]["signed"] += b"x"
            self.assertFalse(verified(self.site.path, found))
        shown = subprocess.run([ROOT / "Protocol/decode.py", "export", full, "--json"], capture_output=True, text=True)
        self.assertEqual(shown.returncode, 0, shown)
        self.assertNotIn(key.hex(), shown.stdout)


def verified(folder: pathlib.Path, found: dict) -> bool:
    """Asks the command-line tool whether the signature is that of the key."""
    pem = base64.encodebytes(found["header"]["key"]).decode()
    (folder / "key.pem").write_text(f"-----BEGIN PUBLIC KEY-----\n{pem}-----END PUBLIC KEY-----\n")
    (folder / "signed").write_bytes(found["trailer"]["signed"])
    (folder / "signature").write_bytes(found["trailer"]["signature"])
    return subprocess.run(["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", folder / "key.pem", "-in",
                           folder / "signed", "-sigfile", folder / "signature"], capture_output=True).returncode == 0


def forged(site: Site, file: pathlib.Path, change, *, identity: pathlib.Path | None = None,
           header: dict | None = None, trailer: dict | None = None) -> pathlib.Path:
    """A file that was changed by somebody who has a key: `change` gets the frames as (type, payload), and may change
    BEGIN and the generation record."""
    found = decode.decode_export_file(file.read_bytes(), decode.Context())
    data, frames = file.read_bytes(), []
    for frame in found["frames"]:
        length = int.from_bytes(data[frame["position"]:frame["position"] + 4], "little")
        frames.append((frame["type"], data[frame["position"] + 32:frame["position"] + 32 + length]))
    # A transfer of its own, so that nothing of an earlier file counts for it.
    begin = found["header"]["begin"] | {"transfer": os.urandom(16)}
    record = {name: value for name, value in found["generation"].items() if name != "generation_id"}
    frames = change(frames, begin, record) or frames
    if frames[-1][0] == "COMMIT":
        frames[-1] = ("COMMIT", encode.generation(**record))
    top = encode.export_header(**({"standby": found["header"]["standby"], "key": found["header"]["key"],
                                   "begin_payload": encode.begin(**begin), "volume": found["header"]["volume"]}
                                  | (header or {})))
    body = top + b"".join(encode.frame(kind, payload, number) for number, (kind, payload) in enumerate(frames))
    changed = dict(trailer or {})
    statement = encode.export_statement(len(body), hashlib.sha256(body).digest(), changed.pop(
        "generation_id", hashlib.sha256(frames[-1][1]).digest()))
    statement = changed.pop("statement", statement)
    signature = changed.pop("signature", None) or signed(site.path, identity or site.source / "identity.pem", statement)
    made = site.path / "forged.bfx"
    made.write_bytes(body + encode.export_trailer(statement, signature, **changed))
    return made


def signed(folder: pathlib.Path, identity: pathlib.Path, statement: bytes) -> bytes:
    (folder / "signed").write_bytes(b"blockferry export 1" + statement)
    subprocess.run(["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", identity, "-in", folder / "signed", "-out",
                    folder / "signature"], check=True, capture_output=True)
    return (folder / "signature").read_bytes()


class Refusals(Case):
    """What is not imported changes nothing."""

    def pair_and_export(self) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
        """A source, the file of generation 1, which was imported, and that of generation 2, which was not."""
        self.site.pair("vol", self.target)
        source = self.plain()
        result, full = self.exported(source, expect="full")
        self.imported(full, expect="full")
        self.change(source, 5)
        _, delta = self.exported(source, expect="delta", more=("--imported", result["generation_id"]))
        self.before = sha256(self.target)
        self.addCleanup(lambda: self.assertEqual(sha256(self.target), self.before) if self.target.exists() else None)
        return source, full, delta

    def unchanged(self) -> None:
        self.assertEqual(sha256(self.target), self.before)
        self.assertEqual(self.site.status("vol")["state"], "consistent")

    def test_other_volume_standby_peer_and_key(self) -> None:
        source, full, delta = self.pair_and_export()
        self.site.pair("vol2", self.site.path / "copy2")
        self.refused(full, 6, "holds volume vol, not vol2", volume="vol2")
        self.refused(full, 6, "there is no volume vol3", volume="vol3")
        # Another standby, at which the same host has a volume of the same name.
        other = Site()
        self.addCleanup(other.close)
        other.start_daemon()
        other.pair("vol", other.path / "copy", state=self.site.source, name="other")
        result = other.run("blockferryd", "import", "vol", full)
        self.assertEqual(result.code, 6, result)
        self.assertIn("another standby", result.error)
        self.assertEqual((other.path / "copy").stat().st_size, 0)
        # Another source host of the same standby.
        stranger = self.site.path / "stranger"
        self.site.pair("theirs", self.site.path / "copy3", state=stranger)
        result, theirs = self.export(source, volume="theirs", state=stranger)
        self.assertEqual(result.code, 0, result)
        self.refused(theirs, 6, "blockferryd peers")
        # The file of the right host, signed by that other one: with its own key, and under the right one.
        def same(frames, begin, record):
            return None
        stolen = forged(self.site, delta, same, identity=stranger / "identity.pem")
        self.refused(stolen, 6, "bad-signature")
        key = decode.decode_export_file(theirs.read_bytes(), decode.Context())["header"]["key"]
        self.refused(forged(self.site, delta, same, identity=stranger / "identity.pem", header={"key": key}), 6, "peers")
        # A signature is over these bytes, and over no others.
        original = decode.decode_export_file(full.read_bytes(), decode.Context())["trailer"]["signature"]
        self.refused(forged(self.site, delta, same, trailer={"signature": original}), 6, "bad-signature")
        for signature in b"x", bytes(64), original[:-1], original + b"\0", bytes(128):
            self.refused(forged(self.site, delta, same, trailer={"signature": signature}), 6, "bad-signature")
        self.unchanged()
        self.site.run("blockferryd", "invite", "nobodys", "--target", self.site.path / "copy4", "--create")
        self.refused(full, 6, "belongs to no source host", volume="nobodys")
        # What was tried has not spoiled the file.
        self.imported(delta, expect="delta")
        self.before = sha256(self.target)
        self.assertEqual(self.before, sha256(source))

    def test_what_an_authentic_sender_may_not_write(self) -> None:
        """Files with a right signature over something that a session would refuse."""
        _, full, delta = self.pair_and_export()

        def begin(**fields):
            def change(frames, begun, record):
                begun.update(fields)
                record.update({name: value for name, value in fields.items() if name in record})
            return change

        def frames(body):
            return lambda frames, begun, record: body(list(frames))

        def record(**fields):
            return lambda frames, begun, record: record.update(fields)

        cases = (
            (begin(number=3), 7, "number-mismatch"), (begin(parent=os.urandom(32)), 7, "parent-mismatch"),
            (begin(lineage=os.urandom(16)), 7, "diverged"),
            (begin(volume_size=1024), 7, "size-shrunk"),
            (begin(held_segments=1), 1, "held-segments"), (begin(members=2, group=os.urandom(16)), 1, "bad-members"),
            (begin(kind=3, compared_root=os.urandom(32)), 1, "bad-kind"),
            (frames(lambda f: [("PING", b""), *f]), 1, "wrong-state"),
            (frames(lambda f: [("SEAL", f[-2][1]), *f]), 1, "wrong-state"),
            (frames(lambda f: [f[0], f[-1]]), 1, "wrong-state"),
            (frames(lambda f: f + [("PING", b"")]), 1, "trailing-bytes"),
            (frames(lambda f: f[:-1]), 1, "truncated"),
            (frames(lambda f: [f[0], *f]), 1, "order"),
            (frames(lambda f: [*f[:-2], ("SEAL", f[-2][1][:-1] + b"\0"), f[-1]]), 1, "segment-digest"),
            (frames(lambda f: [("RECORD", f[0][1][:-1] + bytes([f[0][1][-1] ^ 1])), *f[1:]]), 1, "tag-mismatch"),
            (record(delta_digest=os.urandom(32)), 1, "delta-digest"),
            (record(sender_key_id=os.urandom(32)), 1, "sender-key"),
            (record(volume_root=os.urandom(32)), 1, "root-mismatch"),
        )
        for number, (change, code, rule) in enumerate(cases):
            with self.subTest(rule=rule, number=number):
                self.refused(forged(self.site, delta, change), code, rule, dry=False)
                self.assertEqual(sha256(self.target), self.before)
                self.assertIn(self.site.status("vol")["state"], ("consistent", "staging"))
        for changes, rule in (({"signature_length": 0}, "signature-length"), ({"signature_length": 129},
                              "signature-length"), ({"reserved": 1}, "reserved-bits"), ({"rest": b"\1"},
                              "reserved-bits"), ({"checksum": 1}, "header-checksum")):
            self.refused(forged(self.site, delta, lambda *_: None, trailer=changes), 1, rule)
        for changes, rule in (({"format": 2}, "bad-format"), ({"magic": b"BFEXPORX"}, "bad-magic"),
                              ({"key_length": 0}, "key-length"), ({"key_length": 257}, "key-length"),
                              ({"begin_length": 9}, "begin-length"), ({"reserved": 1}, "reserved-bits"),
                              ({"rest": b"\1"}, "reserved-bits"), ({"checksum": 1}, "header-checksum"),
                              ({"volume": "Vol"}, "bad-string-characters")):
            self.refused(forged(self.site, delta, lambda *_: None, header=changes), 1, rule)
        wrong = encode.export_statement(1, bytes(32), bytes(32))
        self.refused(forged(self.site, delta, lambda *_: None, trailer={"statement": wrong}), 1, "file-length")
        self.refused(forged(self.site, delta, lambda *_: None, trailer={"generation_id": bytes(32)}), 1,
                     "generation-id", dry=False)
        wrong = encode.export_statement(delta.stat().st_size - 256, bytes(32), bytes(32))
        self.refused(forged(self.site, delta, lambda *_: None, trailer={"statement": wrong}), 1, "file-digest")
        self.imported(delta, expect="delta")
        self.before = sha256(self.target)

    def test_promoted_diverged_busy_and_missing(self) -> None:
        source, full, delta = self.pair_and_export()
        with open(self.target, "r+b") as file:
            file.seek(70_000)
            file.write(b"mine")
        self.before = sha256(self.target)
        self.assertEqual(self.site.run("blockferryd", "scrub", "vol").code, 8)
        self.refused(delta, 7, "diverged")
        self.assertEqual(self.site.status("vol")["state"], "diverged")
        self.refused(full, 7, "diverged")
        # A second one, promoted.
        target = self.site.path / "copy2"
        self.site.pair("vol2", target)
        first, file = self.exported(source, volume="vol2", expect="full")
        self.imported(file, volume="vol2", expect="full")
        self.change(source, 6)
        _, later = self.exported(source, volume="vol2", expect="delta", more=("--imported", first["generation_id"]))
        with open(self.site.standby / "locks/vol2", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            result = self.run_import(later, volume="vol2")
            self.assertEqual(result.code, 3, result)
        aside = target.rename(target.with_name("aside"))
        self.refused(later, 9, "does not exist", volume="vol2")
        aside.rename(target)
        self.imported(later, volume="vol2", expect="delta")
        self.assertEqual(sha256(target), sha256(source))

    def test_onto_a_promoted_volume(self) -> None:
        _, full, delta = self.pair_and_export()
        self.assertEqual(self.site.run("blockferryd", "promote", "vol").code, 0)
        self.refused(delta, 7, "promoted")
        self.refused(full, 7, "promoted")
        self.assertEqual(self.site.status("vol")["state"], "promoted")

    def test_cut_and_damaged_files(self) -> None:
        _, full, delta = self.pair_and_export()
        self.site.pair("vol2", self.site.path / "copy2")
        rng = random.Random(8)
        fresh = self.site.path / "copy2"
        result, unused = self.exported(self.site.path / "plain", volume="vol2", expect="full")
        bad = self.site.path / "bad.bfx"
        refusals = {0: 0}

        def expect(data: bytes, volume: str, what: str) -> None:
            bad.write_bytes(data)
            found = self.run_import(bad, volume=volume)
            self.assertIn(found.code, (1, 6), f"{what}: {found}")
            self.assertTrue(found.error.startswith(str(bad)), found)
            refusals[0] += 1

        for volume, file in (("vol", delta), ("vol2", unused)):
            data = file.read_bytes()
            places = sorted({0, 1, 255, 256, 4095, 4096, 4351, 4352, 4353, len(data) - 257, len(data) - 256,
                             len(data) - 255, len(data) - 1} | {rng.randrange(len(data)) for _ in range(CUTS)})[:CUTS]
            for place in places:
                expect(data[:place], volume, f"cut at {place}")
            expect(data + b"\0", volume, "one byte more")
            expect(data + data[-256:], volume, "the trailer again")
            expect(data[:4096] + data[-256:], volume, "no frames")
            for _ in range(FLIPS // 2):
                bit = rng.randrange(len(data) * 8)
                # Half of them where the structures are.
                if rng.random() < 0.5:
                    bit = rng.choice((rng.randrange(4096 * 8), len(data) * 8 - 1 - rng.randrange(256 * 8)))
                flipped = bytearray(data)
                flipped[bit // 8] ^= 1 << bit % 8
                expect(bytes(flipped), volume, f"bit {bit}")
        self.unchanged()
        self.assertEqual(fresh.stat().st_size, 0)
        self.assertEqual(self.site.status("vol2")["state"], "empty")
        print(f"cut or damaged export files refused: {refusals[0]}")
        self.assertGreaterEqual(refusals[0], FLIPS + CUTS)
        self.imported(delta, expect="delta")
        self.before = sha256(self.target)
        self.imported(unused, volume="vol2", expect="full")
        self.assertEqual(sha256(fresh), sha256(self.site.path / "plain"))

    def test_what_is_no_file(self) -> None:
        self.pair_and_export()
        self.refused(self.site.path / "none", 1, "No such file")
        self.refused(self.site.path, 1, "no file")
        empty = self.site.path / "empty"
        empty.touch()
        self.refused(empty, 1, "0 bytes")
        self.unchanged()


class Exporting(Case):
    def test_a_source_host_with_a_key_on_p256(self) -> None:
        self.site.source.mkdir(mode=0o700)
        pem = self.site.source / "identity.pem"
        key, certificate = self.site.path / "k", self.site.path / "c"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-keyout", key, "-out", certificate, "-subj", "/CN=x"], check=True, capture_output=True)
        pem.touch(mode=0o600)
        pem.write_bytes(key.read_bytes() + certificate.read_bytes())
        self.site.pair("vol", self.target)
        source = self.plain()
        _, file = self.exported(source, expect="full")
        found = decode.decode_export_file(file.read_bytes(), decode.Context())
        self.assertTrue(70 <= len(found["trailer"]["signature"]) <= 72, found["trailer"])
        self.imported(file, expect="full")
        self.assertEqual(sha256(self.target), sha256(source))

    def test_nothing_is_overwritten_and_one_is_in_doubt_at_a_time(self) -> None:
        self.site.pair("vol", self.target)
        source = self.plain()
        file = self.site.path / "mine"
        file.write_bytes(b"mine")
        result, _ = self.export(source, to=file)
        self.assertEqual((result.code, file.read_bytes()), (1, b"mine"), result)
        self.assertIn("overwrites nothing", result.error)
        self.assertEqual(self.site.run("blockferry", "status", "--json").json["volumes"], [])
        first, file = self.exported(source, expect="full")
        self.change(source, 1)
        for more in (), ("--imported", "0" * 64), ("--imported", "deadbeef"):
            result, other = self.export(source, more=more)
            self.assertEqual(result.code, 7, result)
            self.assertFalse(other.exists())
        self.assertIn("--imported ID", self.export(source)[0].error)
        self.assertIn(str(file), self.export(source)[0].error)
        # Given up: the next one is full again, of another lineage, and the first one is refused after it.
        second, other = self.exported(source, expect="full", more=("--discard",))
        self.imported(other, expect="full")
        self.refused(file, 7, "not-empty")
        self.sent(source, expect="up-to-date")

    def test_given_up_but_imported_all_the_same(self) -> None:
        self.site.pair("vol", self.target)
        source = self.plain()
        _, file = self.exported(source, expect="full")
        self.imported(file, expect="full")
        before = sha256(self.target)
        self.change(source, 1)
        _, other = self.exported(source, expect="full", more=("--discard",))
        self.refused(other, 7, "not-empty")
        self.assertEqual(self.site.send("vol", source).code, 7)
        self.assertEqual(sha256(self.target), before)
        resync = self.site.run("blockferry", "resync", source, "--to", "standby", "--volume", "vol")
        self.assertEqual(resync.code, 0, resync)
        self.assertEqual(sha256(self.target), sha256(source))

    def test_wrong_use(self) -> None:
        self.site.pair("vol", self.target)
        source = self.plain()
        other = self.site.path / "other"
        shutil.copy(source, other)
        for arguments in ((source, other, "--volume", "vol"), (source, "--volume", "vol", "--imported", "xyz"),
                          (source, "--volume", "vol", "--discard", "--imported", "0" * 8), (source,),
                          (source, "--volume", "vol", "--group", "g"), ("--volume", "vol")):
            result = self.site.run("blockferry", "export", *arguments, "--to", "standby", "--output",
                                   self.site.path / "x")
            self.assertEqual(result.code, 2, result)
        result = self.site.run("blockferry", "export", source, "--to", "nobody", "--volume", "vol", "--output",
                               self.site.path / "x")
        self.assertEqual(result.code, 6, result)
        self.assertFalse((self.site.path / "x").exists())
        for words in ("NOT encrypted", "guard"):
            self.assertIn(words, self.site.run("blockferry", "export", "--help").out)

    def test_a_generation_that_was_sent_is_no_exported_one(self) -> None:
        """COMMIT went out and COMMITTED was not heard: only the standby can say what became of it."""
        self.site.pair("vol", self.target)
        source = self.plain()
        result, file = self.exported(source, expect="full")
        with sqlite3.connect(self.site.source / "catalog.sqlite") as catalog:
            catalog.execute("UPDATE replica SET exported = NULL")
        for more in (), ("--discard",), ("--imported", result["generation_id"]):
            refused, _ = self.export(source, more=more)
            self.assertEqual(refused.code, 7, refused)
        self.sent(source, expect="full")

    def test_no_room_and_no_folder(self) -> None:
        self.site.pair("vol", self.target)
        source = self.plain()
        result, _ = self.export(source, to=self.site.path / "none" / "file")
        self.assertEqual(result.code, 1, result)
        self.assertIn("No such file", result.error)
        result, _ = self.export(source, to=pathlib.Path("/dev/full"))
        self.assertEqual(result.code, 1, result)
        _, file = self.exported(source, expect="full")
        self.imported(file, expect="full")

    def test_kills_of_an_export(self) -> None:
        self.site.pair("vol", self.target)
        source = self.plain(30 << 20)
        began = time.monotonic()
        first, file = self.exported(source, expect="full")
        usual = time.monotonic() - began
        rng, ends = random.Random(9), {"nothing": 0, "part": 0, "file": 0}
        file.unlink()
        for _ in range(KILLS):
            process = subprocess.Popen(
                [BIN / "blockferry", "export", source, "--to", "standby", "--volume", "vol", "--output", file,
                 "--discard", "--quiet"], env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)})
            time.sleep(rng.random() * usual * 1.1)
            process.kill()
            process.wait(timeout=60)
            part = file.with_name(file.name + ".part")
            ends["file" if file.exists() else "part" if part.exists() else "nothing"] += 1
            if file.exists():
                # Whole, and known to the catalog.
                self.assertEqual(self.run_import(file, "--dry-run").code, 0)
                volume = self.site.run("blockferry", "status", "--json").json["volumes"][0]
                self.assertEqual((volume["state"], volume["exported_file"]), ("exported", str(file)))
                file.unlink()
        print(f"exports killed: {KILLS}, left behind: {ends}")
        _, file = self.exported(source, expect="full", more=("--discard",), to=file)
        self.imported(file, expect="full")
        self.assertEqual(sha256(self.target), sha256(source))


class Kills(Case):
    def start_import(self, file: pathlib.Path) -> subprocess.Popen:
        return subprocess.Popen([BIN / "blockferryd", "import", "vol", file, "--quiet"],
                                env={**os.environ, "BLOCKFERRYD_STATE": str(self.site.standby)})

    def kill_once(self, file: pathlib.Path, rng: random.Random, usual: float) -> str:
        process = self.start_import(file)
        time.sleep(rng.random() * usual)
        process.kill()
        process.wait(timeout=60)
        return self.site.status("vol")["state"]

    def test_kills_of_an_import(self) -> None:
        seed = int(os.environ.get("BLOCKFERRY_SEED", time.time_ns() % 1_000_000))
        rng = random.Random(seed)
        source = self.plain(40 << 20)
        # How long an import takes here and now, of everything and of an increment.
        self.site.pair("probe", self.site.path / "probe")
        usual = []
        for expect in "full", "delta":
            more = ("--imported", result["generation_id"]) if usual else ()
            result, file = self.exported(source, volume="probe", expect=expect, more=more)
            began = time.monotonic()
            self.assertEqual(self.run_import(file, volume="probe").code, 0)
            usual.append(time.monotonic() - began)
            self.change(source, 6, pieces=200, size=100_000)
        self.site.pair("vol", self.target)
        states: dict[str, int] = {}
        kills = resumed = 0
        old, more = "", ()
        while kills < KILLS:
            result, file = self.exported(source, expect="delta" if old else "full", more=more)
            new = sha256(source)
            for _ in range(rng.randint(3, 6)):
                state = self.kill_once(file, rng, usual[1 if old else 0])
                states[state] = states.get(state, 0) + 1
                kills += 1
                if old:
                    self.assertIn(state, ("consistent", "staging", "applying"), f"seed {seed}")
                    if state != "applying":
                        self.assertIn(sha256(self.target), (old, new), f"seed {seed}")
                else:
                    self.assertIn(state, ("empty", "initialising", "applying", "consistent"), f"seed {seed}")
            again = self.run_import(file)
            self.assertEqual(again.code, 0, f"seed {seed}: {again}")
            resumed += again.json["resumed_segments"] > 0
            self.assertEqual(sha256(self.target), new, f"seed {seed}")
            old, more = new, ("--imported", result["generation_id"])
            self.change(source, kills, pieces=200, size=100_000)
        print(f"imports killed: {kills} (seed {seed}), afterwards {states}, {resumed} went on from durable segments")
        self.assertGreaterEqual(kills, KILLS)
        self.assertEqual(self.site.run("blockferryd", "scrub", "vol").code, 0)

    def test_a_send_goes_on_from_a_half_imported_file(self) -> None:
        self.site.pair("vol", self.target)
        source = self.plain(70 << 20)
        _, file = self.exported(source, expect="full")
        process = self.start_import(file)
        log = self.site.standby / "staging/vol.log"
        # Two segments are in the log once it has three headers.
        self.assertTrue(until(30, lambda: log.exists() and log.stat().st_size >= 3 * 4096))
        process.kill()
        process.wait(timeout=60)
        self.assertEqual(self.site.status("vol")["state"], "initialising")
        sent = self.sent(source, expect="full")
        self.assertGreaterEqual(sent["resumed_segments"], 2)
        self.assertEqual(sha256(self.target), sha256(source))
        self.imported(file, expect="up-to-date")


if __name__ == "__main__":
    unittest.main()
