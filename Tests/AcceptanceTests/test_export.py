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
import hpke

FLIPS = int(os.environ.get("BLOCKFERRY_FLIPS", "2000"))
CUTS = 64
KILLS = 20
CHUNK = 65_536 + 16


def export_key(site: Site) -> bytes:
    """The private half of the standby's export key."""
    return hpke.private_key((site.standby / "export-key.pem").read_bytes())


def decoded(site: Site, file: pathlib.Path, context: decode.Context | None = None) -> dict:
    return decode.decode_export_file(file.read_bytes(), context or decode.Context(), export_key(site))


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
        self.assertEqual(explained["rule"], "base-matches")
        dry = self.site.send("vol", source, "--dry-run")
        self.assertEqual((dry.code, dry.json["decision"]), (0, "up-to-date"), dry)
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
        self.assertTrue(until(20, lambda: any((self.site.source / "maps").glob("@*@*"))
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
        key = decoded(self.site, full)["begin"]["tag_key"]
        for file in full, delta:
            context = decode.Context(tag_key=key)
            found = decoded(self.site, file, context)
            self.assertEqual(dict(context.unchecked), {"signature": 2})
            self.assertEqual(found["header"]["volume"], "vol")
            self.assertTrue(verified(self.site.path, found, "header"))
            self.assertTrue(verified(self.site.path, found, "trailer"))
            # Nothing of it stands in the file.
            for secret in key, found["content"][:64], found["content"][-300:], *found["tags"][:20]:
                self.assertNotIn(secret, file.read_bytes())
            for frame in found["frames"]:
                if frame["type"] == "SEAL":
                    self.assertLessEqual(frame["message"]["content"], 16 << 20)
            for part in "header", "trailer":
                found[part]["signed"] += b"x"
                self.assertFalse(verified(self.site.path, found, part))
        shown = subprocess.run([ROOT / "Protocol/decode.py", "export", full, "--json", "--export-key",
                                self.site.standby / "export-key.pem"], capture_output=True, text=True)
        self.assertEqual(shown.returncode, 0, shown)
        self.assertNotIn(key.hex(), shown.stdout)


def verified(folder: pathlib.Path, found: dict, part: str) -> bool:
    """Asks the command-line tool whether the signature is that of the key."""
    pem = base64.encodebytes(found["header"]["key"]).decode()
    (folder / "key.pem").write_text(f"-----BEGIN PUBLIC KEY-----\n{pem}-----END PUBLIC KEY-----\n")
    (folder / "signed").write_bytes(found[part]["signed"])
    (folder / "signature").write_bytes(found[part]["signature"])
    return subprocess.run(["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", folder / "key.pem", "-in",
                           folder / "signed", "-sigfile", folder / "signature"], capture_output=True).returncode == 0


def forged(site: Site, file: pathlib.Path, change, *, identity: pathlib.Path | None = None, key: bytes | None = None,
           envelope: dict | None = None, header: dict | None = None, trailer: dict | None = None, more: bytes = b"",
           recipient: bytes | None = None) -> pathlib.Path:
    """A file that was changed by somebody who has a key: `change` gets the frames behind BEGIN as (type, payload), and may
    change BEGIN and the generation record."""
    found = decoded(site, file)
    frames = []
    for frame in found["frames"]:
        length = int.from_bytes(found["content"][frame["position"]:frame["position"] + 4], "little")
        frames.append((frame["type"], found["content"][frame["position"] + 32:frame["position"] + 32 + length]))
    # A transfer of its own, so that nothing of an earlier file counts for it.
    begin = found["begin"] | {"transfer": os.urandom(16)}
    record = {name: value for name, value in found["generation"].items() if name != "generation_id"}
    frames = change(frames[1:], begin, record) or frames[1:]
    if frames[-1][0] == "COMMIT":
        frames[-1] = ("COMMIT", encode.generation(**record))
    if frames[0][0] != "no BEGIN":
        frames = [("BEGIN", encode.begin(**begin)), *frames]
    else:
        frames = frames[1:]
    signer, ephemeral, head = identity or site.source / "identity.pem", os.urandom(32), found["header"]
    to = recipient or head["recipient"]
    key = key or head["key"]
    parts = {"standby": head["standby"], "recipient": to, "encapsulated": hpke.public_key(ephemeral), "key": key,
             "volume": head["volume"]} | (envelope or {})
    letter, fields = encode.export_envelope(**parts), dict(header or {})
    signature = fields.pop("signature", None) or signed(site.path, signer, b"blockferry export header 2" + letter)
    top = encode.export_header(letter, fields.pop("key_length", len(key)), signature, **fields)
    body = b"".join(encode.frame(kind, payload, number) for number, (kind, payload) in enumerate(frames))
    changed = dict(trailer or {})
    statement = encode.export_statement(len(body), hashlib.sha256(top + body).digest(), changed.pop(
        "generation_id", hashlib.sha256(frames[-1][1]).digest()))
    statement = changed.pop("statement", statement)
    signature = changed.pop("signature", None) or signed(site.path, signer, b"blockferry export 2" + statement)
    made = site.path / "forged.bfx"
    content = body + encode.export_trailer(statement, signature, **changed) + more
    made.write_bytes(top + encode.export_chunks(content, letter, to, ephemeral))
    return made


def signed(folder: pathlib.Path, identity: pathlib.Path, message: bytes) -> bytes:
    (folder / "signed").write_bytes(message)
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
        key = decoded(self.site, theirs)["header"]["key"]
        self.refused(forged(self.site, delta, same, identity=stranger / "identity.pem", key=key), 6, "peers")
        # A signature is over these bytes, and over no others.
        for part in "header", "trailer":
            original = decoded(self.site, full)[part]["signature"]
            for signature in original, b"x", bytes(64), original[:-1], original + b"\0", bytes(128):
                self.refused(forged(self.site, delta, same, **{part: {"signature": signature}}), 6, "bad-signature")
        # To another standby, and by somebody who has the file of this one: opened and encrypted anew.
        theirs = hpke.public_key(export_key(other))
        self.refused(forged(self.site, delta, same, recipient=theirs), 6, "does not have any more")
        standby = decode.decode_peer_id(other.run("blockferryd", "id").out.strip())["key_id"]
        header = decoded(self.site, delta)["header"]["signature"]
        made = forged(self.site, delta, same, recipient=theirs, envelope={"standby": standby}, header={"signature": header})
        result = other.run("blockferryd", "import", "vol", made)
        self.assertEqual((result.code, "bad-signature" in result.error), (6, True), result)
        # Another content under the header of a file that is right: nobody but the two hosts can make it.
        data, letter = delta.read_bytes(), decoded(self.site, delta)["header"]["envelope"]
        made = self.site.path / "grafted.bfx"
        made.write_bytes(data[:1024] + encode.export_chunks(decoded(self.site, delta)["content"], letter,
                                                            hpke.public_key(export_key(self.site)), os.urandom(32)))
        self.refused(made, 1, "bad-chunk")
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
            (frames(lambda f: f + [("PING", b"")]), 1, "header-checksum"),
            (frames(lambda f: f[:-1]), 1, "header-checksum"),
            (frames(lambda f: [("BEGIN", bytes(300)), *f]), 1, "wrong-state"),
            (frames(lambda f: [("no BEGIN", b""), *f]), 1, "wrong-state"),
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
        for changes, rule in (({"format": 3}, "later-format"), ({"format": 1}, "--discard"), ({"magic": b"BFEXPORX"}, "bad-magic"),
                              ({"key_length": 0}, "key-length"), ({"key_length": 257}, "key-length"),
                              ({"signature_length": 0}, "signature-length"), ({"reserved": 1}, "reserved-bits"),
                              ({"rest": b"\1"}, "reserved-bits"), ({"checksum": 1}, "header-checksum")):
            self.refused(forged(self.site, delta, lambda *_: None, header=changes), 1, rule)
        for changes, rule in (({"volume": "V@l"}, "bad-string-characters"), ({"recipient": bytes(32)}, "zero-key"),
                              ({"encapsulated": bytes(32)}, "zero-key"),
                              ({"encapsulated": b"\1" + bytes(31)}, "bad-chunk"),
                              ({"encapsulated": os.urandom(32)}, "bad-chunk")):
            self.refused(forged(self.site, delta, lambda *_: None, envelope=changes), 1, rule)
        self.refused(forged(self.site, delta, lambda *_: None, more=b"\0"), 1, "trailing-bytes")
        self.refused(forged(self.site, delta, lambda *_: None, more=bytes(70_000)), 1, "trailing-bytes")
        wrong = encode.export_statement(1, bytes(32), bytes(32))
        self.refused(forged(self.site, delta, lambda *_: None, trailer={"statement": wrong}), 1, "file-length")
        self.refused(forged(self.site, delta, lambda *_: None, trailer={"generation_id": bytes(32)}), 1,
                     "generation-id", dry=False)
        found = decoded(self.site, delta)
        wrong = encode.export_statement(len(found["content"]) - 256, bytes(32), found["generation"]["generation_id"])
        self.refused(forged(self.site, delta, lambda f, begin, r: begin.update(transfer=found["begin"]["transfer"]),
                            trailer={"statement": wrong}), 1, "file-digest")
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

    def test_a_target_that_an_import_could_not_use(self) -> None:
        """A dry run says so too, and writes nothing down."""
        self.site.pair("vol", self.target)
        source = self.plain()
        self.sent(source, expect="full")
        self.change(source, 2)
        _, file = self.exported(source, expect="delta")
        away = self.target.with_suffix(".away")
        self.target.rename(away)
        self.refused(file, 9, "missing")
        away.rename(self.target)
        holder = self.target.open("r+b")
        self.addCleanup(holder.close)
        self.refused(file, 9, "in-use")
        content = self.target.read_bytes()
        holder.write(bytes(65536))
        holder.close()
        dry = self.run_import(file, "--dry-run")
        self.assertEqual((dry.code, "diverged" in dry.error), (7, True), dry)
        self.assertEqual(self.site.status("vol")["state"], "consistent")
        self.target.write_bytes(content)
        self.imported(file, expect="delta")

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
            ends = set(range(1024, len(data), CHUNK))
            places = sorted({0, 1, 1023, 1025, 1040, 1041, len(data) - 17, len(data) - 1} | ends | {end + 1 for end in ends}
                            | {end + 17 for end in ends if end + 17 < len(data)}
                            | set(rng.sample(range(len(data)), CUTS)))
            for place in places:
                expect(data[:place], volume, f"cut at {place}")
            expect(data + b"\0", volume, "one byte more")
            expect(data + bytes(CHUNK), volume, "a chunk of zeros more")
            chunks = [data[end:end + CHUNK] for end in sorted(ends)]
            self.assertGreaterEqual(len(chunks), 2)
            for number in range(len(chunks)):
                for what, other in (("missing", chunks[:number] + chunks[number + 1:]),
                                    ("twice", chunks[:number + 1] + chunks[number:]),
                                    ("last", chunks[:number] + chunks[number + 1:] + [chunks[number]]),
                                    ("first", [chunks[number]] + chunks[:number] + chunks[number + 1:])):
                    if other != chunks:
                        expect(data[:1024] + b"".join(other), volume, f"chunk {number} {what}")
            expect(data[:1024] + chunks[0], volume, "the first chunk alone")
            for _ in range(FLIPS // 2):
                bit = rng.randrange(len(data) * 8)
                # Half of them where the structures are.
                if rng.random() < 0.5:
                    bit = rng.choice((rng.randrange(500 * 8), len(data) * 8 - 1 - rng.randrange(300 * 8)))
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
        found = decoded(self.site, file)
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

    def test_a_refused_resync_does_not_give_it_up(self) -> None:
        self.site.pair("vol", self.target)
        source = self.plain()
        self.sent(source, expect="full")
        self.change(source, 2)
        made, file = self.exported(source, expect="delta")
        # An empty source has nothing in common with what was sent: the comparison ends in a refusal.
        smaller = self.site.path / "smaller"
        smaller.write_bytes(source.read_bytes()[:65536])
        refused = self.site.run("blockferry", "resync", smaller, "--to", "standby", "--volume", "vol", "--adopt-source")
        self.assertEqual((refused.code, "size-shrunk" in refused.error), (7, True), refused)
        self.assertEqual(self.imported(file, expect="delta")["generation"], made["generation"])
        self.change(source, 3)
        self.assertEqual(self.sent(source, expect="delta")["generation"], made["generation"] + 1)

    def test_a_refused_resync_leaves_nothing_unfinished(self) -> None:
        self.site.pair("vol", self.target)
        source = self.plain()
        self.sent(source, expect="full")
        self.change(source, 2)
        with self.target.open("r+b"):
            refused = self.site.run("blockferry", "resync", source, "--to", "standby", "--volume", "vol", "--trust-map")
            self.assertEqual((refused.code, "in-use" in refused.error), (9, True), refused)
        _, file = self.exported(source, expect="delta")
        self.imported(file, expect="delta")

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
        for command in (("blockferry", "export"), ("blockferryd", "import")):
            said = self.site.run(*command, "--help").out
            self.assertIn("encrypted to", said)
            self.assertNotIn("NOT encrypted", said)

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


class Pipes(Case):
    """An export on standard output, an import from standard input."""

    def stream(self, source: pathlib.Path, *more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [BIN / "blockferry", "export", source, "--to", "standby", "--volume", "vol", "--output", "-", *more],
            env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)}, capture_output=True, timeout=120)

    def read(self, data: bytes, *more: str) -> subprocess.CompletedProcess:
        return subprocess.run([BIN / "blockferryd", "import", "vol", "-", *more], input=data,
                              env={**os.environ, "BLOCKFERRYD_STATE": str(self.site.standby)}, capture_output=True, timeout=120)

    def test_through_a_pipe(self) -> None:
        self.site.pair("vol", self.target)
        source, more = self.plain(5_000_003), []
        for step in range(3):
            if step:
                self.change(source, step)
            out = subprocess.Popen(
                [BIN / "blockferry", "export", source, "--to", "standby", "--volume", "vol", "--output", "-", "--json", *more],
                env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            into = subprocess.Popen([BIN / "blockferryd", "import", "vol", "-", "--json"], stdin=out.stdout,
                                    env={**os.environ, "BLOCKFERRYD_STATE": str(self.site.standby)}, stdout=subprocess.PIPE)
            out.stdout.close()
            imported = json.loads(into.communicate(timeout=60)[0])
            exported = json.loads(out.stderr.read())
            out.stderr.close()
            self.assertEqual((out.wait(60), into.returncode), (0, 0))
            self.assertEqual((exported["generation_id"], exported["file_bytes"], exported["file"]),
                             (imported["generation_id"], imported["file_bytes"], "-"))
            self.assertEqual(sha256(self.target), sha256(source))
            status = self.site.run("blockferry", "status", "--json").json["volumes"][0]
            self.assertEqual((status["state"], status["exported_file"]), ("exported", "standard output"))
            more = ["--imported", exported["generation_id"]]
        self.sent(source, expect="up-to-date")

    def test_nothing_but_the_file_on_standard_output(self) -> None:
        self.site.pair("vol", self.target)
        source = self.plain()
        for more in (), ("--json",), ("--quiet",):
            made = self.stream(source, "--discard", *more)
            self.assertEqual(made.returncode, 0, made.stderr)
            self.assertEqual(decode.decode_export_file(made.stdout, decode.Context(), export_key(self.site))["header"]["volume"],
                             "vol")
            self.assertEqual(made.stderr == b"", more == ("--quiet",), made.stderr)
        dry = self.read(made.stdout, "--dry-run", "--json")
        self.assertEqual((dry.returncode, json.loads(dry.stdout)["result"]), (0, "full"), dry)
        self.assertEqual(self.site.status("vol")["state"], "empty")
        self.assertEqual(self.read(made.stdout).returncode, 0)
        # Read once, it shows at its end only that the volume has it.
        again = self.read(made.stdout, "--json")
        self.assertEqual((again.returncode, json.loads(again.stdout)["result"]), (0, "up-to-date"), again)
        # With nothing to export nothing comes out.
        identity = json.loads(again.stdout)["generation_id"]
        nothing = self.stream(source, "--imported", identity)
        self.assertEqual((nothing.returncode, nothing.stdout), (0, b""), nothing)
        self.assertEqual(self.read(b"").returncode, 1)

    def test_a_cut_pipe(self) -> None:
        """What a cut leaves is what a cut session leaves; nothing is committed, and the whole file can be read after it."""
        self.site.pair("vol", self.target)
        source = self.plain()
        first = self.stream(source).stdout
        cuts = 0
        for place in (0, 500, 1024, 1024 + 40, 1024 + CHUNK, 1024 + 3 * CHUNK, len(first) - 1):
            found = self.read(first[:place])
            self.assertEqual(found.returncode, 1, found)
            self.assertIn(self.site.status("vol")["state"], ("empty", "initialising"))
            cuts += 1
        flipped = bytearray(first)
        flipped[-300] ^= 1
        self.assertEqual(self.read(bytes(flipped)).returncode, 1)
        self.assertEqual(self.read(first + b"\0").returncode, 1)
        self.assertIn(self.site.status("vol")["state"], ("empty", "initialising"))
        found = self.read(first)
        self.assertEqual((found.returncode, sha256(self.target)), (0, sha256(source)), found)
        before = sha256(self.target)
        self.sent(source, expect="up-to-date")
        self.change(source, 3)
        second = self.stream(source).stdout
        for place in (1024 + CHUNK, len(second) - 200, len(second) - 1):
            self.assertEqual(self.read(second[:place]).returncode, 1)
            self.assertIn(self.site.status("vol")["state"], ("consistent", "staging"))
            self.assertEqual(sha256(self.target), before)
            cuts += 1
        self.assertEqual(self.read(second).returncode, 0)
        self.assertEqual(sha256(self.target), sha256(source))
        self.assertEqual(self.read(first).returncode, 7)
        print(f"imports through a pipe that was cut: {cuts}")
        self.assertGreaterEqual(cuts, 10)

    def test_a_reader_that_goes_away(self) -> None:
        """Without its end the export is none: the sender is not left in doubt."""
        self.site.pair("vol", self.target)
        source = self.plain(8 << 20)
        for taken in (0, 2000, 1 << 20):
            process = subprocess.Popen(
                [BIN / "blockferry", "export", source, "--to", "standby", "--volume", "vol", "--output", "-"],
                env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            process.stdout.read(taken)
            process.stdout.close()
            error = process.stderr.read()
            process.stderr.close()
            self.assertEqual(process.wait(60), 1, error)
            volumes = self.site.run("blockferry", "status", "--json").json["volumes"]
            self.assertNotIn("exported", [volume["state"] for volume in volumes])
        full = subprocess.run(
            [BIN / "blockferry", "export", source, "--to", "standby", "--volume", "vol", "--output", "-"],
            env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)}, stdout=open("/dev/full", "wb"), stderr=subprocess.PIPE)
        self.assertEqual(full.returncode, 12, full)
        result, file = self.exported(source, expect="full")
        self.imported(file, expect="full")

    def test_nothing_but_the_file_goes_where_it_goes(self) -> None:
        """Neither what went wrong, also as JSON, nor a wrong use."""
        self.site.pair("vol", self.target)
        for more, code in ((["--to", "nobody"], 6), (["--to", "standby", "--imported", "x"], 2)):
            found = subprocess.run(
                [BIN / "blockferry", "export", self.plain(), "--volume", "vol", "--output", "-", "--json", *more],
                env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)}, capture_output=True)
            self.assertEqual((found.returncode, found.stdout), (code, b""), found)
            self.assertIn(f'"exit":{code}'.encode(), found.stderr)

    def test_no_terminal_gets_a_file(self) -> None:
        self.site.pair("vol", self.target)
        ours, theirs = os.openpty()
        found = subprocess.run(
            [BIN / "blockferry", "export", self.plain(), "--to", "standby", "--volume", "vol", "--output", "-"],
            env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)}, stdout=theirs, stderr=subprocess.PIPE)
        os.close(theirs)
        os.close(ours)
        self.assertEqual((found.returncode, b"terminal" in found.stderr), (2, True), found)


class Keys(Case):
    """The key that files are encrypted to."""

    def forget(self) -> None:
        with sqlite3.connect(self.site.source / "catalog.sqlite") as catalog:
            catalog.execute("UPDATE receiver SET export_key = NULL")
        catalog.close()

    def peer(self) -> dict:
        return self.site.run("blockferry", "peers", "--json").json["peers"][0]

    def test_it_comes_with_every_contact(self) -> None:
        self.site.pair("vol", self.target)
        source = self.plain()
        self.assertTrue(self.peer()["export_key"])
        self.assertEqual(stat.S_IMODE((self.site.standby / "export-key.pem").stat().st_mode), 0o600)
        for contact in (("send", source, "--to", "standby", "--volume", "vol"), ("peers", "--contact", "standby"),
                        ("verify", source, "--to", "standby", "--volume", "vol")):
            # As it is for a standby that was paired by a version that knew no such key.
            self.forget()
            self.assertFalse(self.peer()["export_key"])
            result, file = self.export(source)
            self.assertEqual(result.code, 6, result)
            self.assertIn("blockferry peers --contact standby", result.error)
            self.assertFalse(file.exists() or file.with_name(file.name + ".part").exists())
            self.assertEqual(self.site.run("blockferry", *contact).code, 0)
            self.assertTrue(self.peer()["export_key"])
        self.change(source, 1)
        _, file = self.exported(source, expect="delta")
        self.imported(file, expect="delta")
        self.assertEqual(self.site.run("blockferry", "peers", "--contact", "nobody").code, 6)
        self.site.kill_daemon()
        self.assertEqual(self.site.run("blockferry", "peers", "--contact", "standby").code, 4)

    def test_a_lost_key(self) -> None:
        self.site.pair("vol", self.target)
        source, key = self.plain(), self.site.standby / "export-key.pem"
        _, file = self.exported(source, expect="full")
        kept = key.read_bytes()
        key.unlink()
        self.refused(file, 6, "does not have any more")
        # Restored, the file is good again.
        key.write_bytes(kept)
        dry = self.run_import(file, "--dry-run")
        self.assertEqual(dry.code, 0, dry)
        # Made anew, it reaches the source with the next contact.
        key.unlink()
        self.assertEqual(self.site.run("blockferry", "peers", "--contact", "standby").code, 0)
        self.refused(file, 6, "--output FILE --discard")
        _, other = self.exported(source, expect="full", more=("--discard",))
        self.imported(other, expect="full")
        for wrong, words in ((b"", "holds no X25519 key"), ((self.site.standby / "identity.pem").read_bytes(), "X25519")):
            key.write_bytes(wrong)
            self.refused(other, 6, words)
        key.write_bytes(kept)
        key.chmod(0o640)
        self.refused(other, 6, "export-key.pem")

    def test_an_old_file(self) -> None:
        """Format 1 was not encrypted. Its header had 4096 bytes."""
        self.site.pair("vol", self.target)
        old = self.site.path / "old.bfx"
        old.write_bytes((b"BFEXPORT" + (1).to_bytes(4, "little")).ljust(4096 + 500, b"\0"))
        self.refused(old, 1, "destroy the file, and make another one on the source")
        old.write_bytes((b"BFEXPORT" + (3).to_bytes(4, "little")).ljust(4096, b"\0"))
        self.refused(old, 1, "upgrade")


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
