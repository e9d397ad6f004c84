# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that must be refused: its own exit code, one sentence, and the target as it was."""

import fcntl
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import unittest

from harness import BIN, Proxy, Rogue, Site, rules, sha256, until

import encode  # found by way of harness

REFUSE = 12
MANUAL = pathlib.Path(__file__).parents[2] / "docs/REFERENCE.md"


class Rules(unittest.TestCase):
    def test_the_manual_says_what_the_programs_say(self) -> None:
        """Of every rule: its exit code, what it means and what comes next, word by word."""
        rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \| (.+?) \| (.+) \|$", MANUAL.read_text(), re.M)
        said = {rule: (int(code), meaning, following.replace("`", "")) for rule, code, meaning, following in rows}
        self.assertEqual(said, {row["rule"]: (row["exit"], row["meaning"], row["next"]) for row in rules().values()})
        self.assertGreater(len(said), 60)

    def test_both_programs_say_the_same(self) -> None:
        one, other = (subprocess.run([BIN / program, "rules"], check=True, capture_output=True, text=True).stdout
                      for program in ("blockferry", "blockferryd"))
        self.assertEqual(one, other)


class Refusals(unittest.TestCase):
    """A standby that holds generation 1 of a plain file; each test tries to do something wrong to it."""

    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()
        self.target, self.plain = self.site.path / "copy", self.site.path / "plain"
        self.plain.write_bytes(os.urandom(300_000) + bytes(200_288))
        self.site.pair("vol", self.target)
        result = self.site.send("vol", self.plain)
        self.assertEqual(result.code, 0, result)
        self.before = sha256(self.target)

    def change(self) -> None:
        with open(self.plain, "r+b") as file:
            file.write(os.urandom(4096))

    def refused(self, result, code: int, words: str) -> None:
        self.assertEqual(result.code, code, result)
        self.assertTrue(result.is_one_sentence, result)
        self.assertIn(words, result.error)
        self.assertEqual(sha256(self.target), self.before)
        self.assertEqual(self.site.status("vol")["generation"], 1)

    def loop(self, size: int, *options: str) -> str:
        image = self.site.path / f"disk-{time.monotonic_ns()}"
        image.write_bytes(b"")
        os.truncate(image, size)
        device = subprocess.run(["losetup", "--show", "-f", *options, image], check=True, capture_output=True,
                                text=True).stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "-d", device], check=True)
        return device

    # Lineage

    def test_wrong_parent(self) -> None:
        """The source was restored from a backup: it does not know the generation that the standby holds."""
        old = self.site.path / "old"
        shutil.copytree(self.site.source, old)
        self.change()
        self.assertEqual(self.site.send("vol", self.plain).code, 0)
        self.before = sha256(self.target)
        self.change()
        result = self.site.send("vol", self.plain, state=old)
        self.assertEqual(result.code, 7, result)
        self.assertIn("diverged", result.error)
        self.assertEqual(sha256(self.target), self.before)

    def test_target_went_back(self) -> None:
        self.site.kill_daemon()
        old = self.site.path / "old"
        shutil.copytree(self.site.standby, old)
        content = self.target.read_bytes()
        self.site.start_daemon()
        self.change()
        self.assertEqual(self.site.send("vol", self.plain).code, 0)
        self.site.kill_daemon()
        shutil.rmtree(self.site.standby)
        shutil.copytree(old, self.site.standby)
        # The same file, as an operator who restores it would write it.
        self.target.write_bytes(content)
        self.site.start_daemon()
        self.change()
        self.refused(self.site.send("vol", self.plain), 7, "target-went-back")

    def test_other_lineage(self) -> None:
        """Another source host with a good invitation, but without the history."""
        self.site.run("blockferryd", "status")
        other = self.site.path / "other"
        shutil.copytree(self.site.source, other)
        self.assertEqual(
            self.site.run("blockferry", "forget", "--to", "standby", "--volume", "vol", state=other).code, 0)
        self.refused(self.site.send("vol", self.plain, state=other), 7, "not-empty")

    def test_smaller_volume(self) -> None:
        os.truncate(self.plain, 400_000)
        self.refused(self.site.send("vol", self.plain), 7, "size-shrunk")

    def test_promoted(self) -> None:
        self.assertEqual(self.site.run("blockferryd", "promote", "vol").code, 0)
        self.change()
        self.refused(self.site.send("vol", self.plain), 7, "promoted")
        again = self.site.run("blockferryd", "promote", "vol")
        self.assertEqual((again.code, "is promoted already" in again.error), (7, True), again)

    def test_given_up_is_answered_without_the_target(self) -> None:
        """A target that was handed over, or is lost: the old source hears what became of its copy, not what the daemon cannot
        open. Only a resync needs the target."""
        self.change()
        for state in ("promoted", "diverged", "suspect"):
            with self.subTest(state):
                self.site.kill_daemon()
                code = ["empty", "initialising", "consistent", "staging", "applying", "promoted", "diverged",
                        "suspect"].index(state)
                self.catalog(f"UPDATE volume SET state = {code} RETURNING 1")
                away = self.target.rename(self.site.path / "away")
                for there in ("nothing", "a directory"):
                    if there != "nothing":
                        self.target.mkdir()
                    self.site.start_daemon()
                    result = self.site.send("vol", self.plain)
                    self.assertEqual((result.code, f"(rule {state})" in result.error), (7, True), result)
                    resync = self.site.run("blockferry", "resync", self.plain, "--to", "standby", "--volume", "vol",
                                           "--overwrite-promoted")
                    self.assertIn(resync.code, (9, 7) if state == "promoted" else (9,), resync)
                    self.site.kill_daemon()
                self.target.rmdir()
                away.rename(self.target)
                self.site.start_daemon()
        self.assertEqual(sha256(self.target), self.before)

    def test_delta_by_rogue_onto_wrong_parent_number_size(self) -> None:
        """The receiver decides by itself; it does not rely on the sender's good will."""
        lineage = bytes.fromhex(self.catalog("SELECT hex(lineage) FROM volume"))
        parent = bytes.fromhex(self.site.status("vol")["generation_id"])
        right = {"lineage": lineage, "number": 2, "parent": parent, "volume_size": 500_288}
        wrong = {"parent-mismatch": {"parent": bytes(31) + b"\x01"}, "diverged": {"lineage": bytes(15) + b"\x01"},
                 "number-mismatch": {"number": 3}, "size-shrunk": {"volume_size": 1024}}
        for rule, fields in wrong.items():
            kind, payload = self.begin({**right, **fields})
            self.assertEqual(kind, REFUSE, rule)
            self.assertIn(rule.encode(), payload)
        kind, _ = self.begin({**right, "volume_size": 1024, "flags": 1})
        self.assertEqual(encode.TYPE["READY"], kind, "a smaller volume, and the operator at the source allows it")
        kind, payload = self.begin({**right, "number": 1, "parent": bytes(32)}, full=True)
        self.assertEqual((kind, b"not-empty" in payload), (REFUSE, True))
        kind, _ = self.begin(right)
        self.assertEqual(encode.TYPE["READY"], kind)
        self.assertEqual(sha256(self.target), self.before)

    def catalog(self, query: str) -> str:
        import sqlite3
        with sqlite3.connect(self.site.standby / "catalog.sqlite") as catalog:
            return catalog.execute(query).fetchone()[0]

    def greet(self) -> Rogue:
        rogue = Rogue(self.site, self.site.source / "identity.pem")
        self.addCleanup(rogue.close)
        rogue.send("HELLO", encode.hello())
        self.assertEqual(rogue.answer()[0], encode.TYPE["WELCOME"])
        return rogue

    def opened(self) -> Rogue:
        due = time.monotonic() + 10
        while True:
            rogue = self.greet()
            rogue.send("OPEN", encode.open_("vol"))
            kind, payload = rogue.answer()
            if kind == encode.TYPE["STATE"]:
                return rogue
            # The worker of the connection before may not have ended yet.
            self.assertIn(b"busy", payload)
            self.assertLess(time.monotonic(), due)
            rogue.close()
            time.sleep(0.05)

    def begin(self, fields: dict, full: bool = False, rogue: Rogue | None = None):
        own = rogue is None
        rogue = rogue or self.opened()
        rogue.send("BEGIN", encode.begin(
            os.urandom(16), 1 if full else 2, 1, fields["lineage"], fields["number"], fields["parent"],
            fields["volume_size"], source_time=0, planned_content=1 << 20, planned_segments=4, held_segments=0,
            tag_key=os.urandom(32) if full else bytes(32), source_identity="rogue", flags=fields.get("flags", 0)))
        answer = rogue.answer()
        if own:
            rogue.close()
        return answer

    # Targets

    def test_target_in_use(self) -> None:
        device = subprocess.run(["losetup", "--show", "-f", self.target], check=True, capture_output=True,
                                text=True).stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "-d", device], check=True)
        self.change()
        self.refused(self.site.send("vol", self.plain), 9, "in use")

    def test_volume_in_use(self) -> None:
        """A session lets go of its volume only after its last answer: a command waits for that, but not for long."""
        self.assertTrue(until(20, lambda: self.site.is_free("vol")))
        lock = open(self.site.standby / "locks/vol")
        self.addCleanup(lock.close)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self.refused(self.site.run("blockferryd", "scrub", "vol"), 3, "a session has the volume")
        soon = threading.Timer(0.5, lock.close)
        soon.start()
        result = self.site.run("blockferryd", "scrub", "vol")
        soon.join()
        self.assertEqual(result.code, 0, result)

    def test_mounted_small_and_read_only_devices(self) -> None:
        device = self.loop(8 << 20)
        invited = self.site.run("blockferryd", "invite", "dev", "--target", device, "--address",
                                f"127.0.0.1:{self.site.port}")
        self.assertEqual(invited.code, 0, invited)
        paired = self.site.run("blockferry", "pair", invited.out.strip(), "--name", "standby")
        self.assertEqual(paired.code, 0, paired)
        big = self.site.path / "big"
        big.write_bytes(b"")
        os.truncate(big, 8 << 20)
        # One that its kernel does not write to by itself, some seconds after it is mounted.
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0", big], check=True)
        os.truncate(big, (8 << 20) + 512)
        small = self.site.send("dev", big)
        self.assertEqual((small.code, "too-small" in small.error), (9, True), small)
        os.truncate(big, 8 << 20)
        self.assertEqual(self.site.send("dev", big).code, 0)
        self.assertTrue(until(20, lambda: self.site.is_free("dev")))
        mount = self.site.path / "mnt"
        mount.mkdir()
        subprocess.run(["mount", "-o", "ro", device, mount], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", mount], check=False)
        os.utime(big)
        content = sha256(device)
        mounted = self.site.send("dev", big)
        self.assertEqual((mounted.code, "in use" in mounted.error), (9, True), mounted)
        refused = self.site.run("blockferryd", "invite", "dev2", "--target", device)
        self.assertNotEqual(refused.code, 0, refused)
        self.assertEqual(sha256(device), content)
        subprocess.run(["umount", mount], check=True)
        subprocess.run(["blockdev", "--setro", device], check=True)
        read_only = self.site.send("dev", big)
        subprocess.run(["blockdev", "--setrw", device], check=True)
        self.assertEqual((read_only.code, "read-only" in read_only.error), (9, True), read_only)
        # Somebody has made another file system on the copy: that is found before an increment is laid over it.
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0", device], check=True)
        content = sha256(device)
        with open(big, "r+b") as file:
            file.seek(1024)
            file.write(b"x" * 512)
        written = self.site.send("dev", big)
        self.assertEqual((written.code, "rule diverged" in written.error), (7, True), written)
        self.assertIn("at bytes 0", self.site.status("dev")["reason"])
        self.assertEqual(sha256(device), content)
        resynced = self.site.run("blockferry", "resync", big, "--to", "standby", "--volume", "dev")
        self.assertEqual(resynced.code, 0, resynced)
        self.assertEqual(sha256(device), sha256(big))

    def test_missing_and_foreign_targets(self) -> None:
        aside = self.site.path / "aside"
        self.target.rename(aside)
        self.change()
        missing = self.site.send("vol", self.plain)
        self.assertEqual((missing.code, "does not exist" in missing.error), (9, True), missing)
        self.target.write_bytes(aside.read_bytes())
        self.refused(self.site.send("vol", self.plain), 9, "not the target")

    # Identity

    def test_unknown_volume_and_another_peers_volume(self) -> None:
        other = self.site.path / "other"
        self.site.pair("theirs", self.site.path / "theirs", state=other)
        unknown = self.site.send("nothing", self.plain)
        foreign = self.site.send("theirs", self.plain)
        self.refused(unknown, 6, "not-authorised")
        self.refused(foreign, 6, "not-authorised")
        self.assertEqual(unknown.error.replace("nothing", "X"), foreign.error.replace("theirs", "X"))

    def test_unknown_peer(self) -> None:
        (self.site.source / "identity.pem").unlink()
        self.change()
        self.refused(self.site.send("vol", self.plain), 6, "does not accept")

    def test_unpaired_peer(self) -> None:
        """Its right is taken away; the volume goes to another host, which goes on from the copy."""
        known = self.site.run("blockferryd", "peers", "--json").json["peers"][0]["id"]
        self.assertEqual(self.site.run("blockferryd", "unpair", known[:-2]).code, 2)
        self.assertEqual(self.site.run("blockferryd", "unpair", known).code, 0)
        again = self.site.run("blockferryd", "unpair", known)
        self.assertEqual((again.code, again.is_one_sentence), (1, True), again)
        self.change()
        self.refused(self.site.send("vol", self.plain), 6, "does not accept")
        other = self.site.path / "other"
        self.site.pair("vol", self.target, state=other)
        result = self.site.run("blockferry", "resync", self.plain, "--to", "standby", "--volume", "vol", "--json", state=other)
        self.assertEqual(result.code, 0, result)
        self.assertEqual(result.json["difference"]["bytes_differing"], 65_536, result)
        self.assertEqual(sha256(self.target), sha256(self.plain))

    def test_receiver_key_not_pinned(self) -> None:
        """A lost identity ends the daemon; the one that is made at its next start is nobody's peer."""
        identity = self.site.standby / "identity.pem"
        identity.unlink()
        until(30, lambda: self.site.daemon.poll() is not None)
        self.assertNotEqual(self.site.daemon.returncode, 0)
        self.assertIn("identity.pem", self.site.journal())
        self.assertFalse(identity.exists())
        self.site.start_daemon()
        self.change()
        self.refused(self.site.send("vol", self.plain), 6, "not accepted here")

    def pairing(self, *arguments, data: str = "", state: pathlib.Path | None = None) -> subprocess.CompletedProcess:
        return subprocess.run([BIN / "blockferry", "pair", *arguments], input=data, text=True, capture_output=True, timeout=60,
                              env={**os.environ, "BLOCKFERRY_STATE": str(state or self.site.source)})

    def test_ways_to_give_an_invitation(self) -> None:
        """None but the argument shows it to other users."""
        for number, way in enumerate(("-", "option", "file", "pipe")):
            text = self.site.invite(f"way{number}", self.site.path / f"way{number}")
            if way == "file":
                file = self.site.path / "invitation"
                file.write_text(text + "\n")
                found = self.pairing("--invitation", file, "--name", "standby")
            elif way == "pipe":
                found = subprocess.run(["bash", "-c", 'exec "$0" pair --invitation <(echo "$1") --name standby',
                                        BIN / "blockferry", text], capture_output=True, text=True, timeout=60,
                                       env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)})
            else:
                arguments = ("-",) if way == "-" else ("--invitation", "-")
                found = self.pairing(*arguments, "--name", "standby", data=f"  {text}\n")
            self.assertEqual(found.returncode, 0, found)
            self.assertIn(f"for volume way{number}", found.stdout)
            own = self.site.run("blockferry", "id").out.strip()
            self.assertIn(own, found.stdout)
        text = self.site.invite("last", self.site.path / "last")
        for arguments, data in (((), text), ((text, "--invitation", "-"), text), (("--invitation", "-"), ""),
                                (("--invitation", self.site.path / "none"), ""), (("--invitation", "-"), "bf1.x")):
            found = self.pairing(*arguments, data=data)
            self.assertEqual(found.returncode, 2, found)
            self.assertNotIn(text[10:40], found.stderr + found.stdout)

    def test_an_invitation_that_somebody_took(self) -> None:
        text = self.site.invite("new", self.site.path / "new")
        thief, own = self.site.path / "thief", self.site.run("blockferry", "id").out.strip()
        self.assertEqual(self.pairing("--invitation", "-", data=text, state=thief).returncode, 0)
        key = self.site.run("blockferry", "id", state=thief).out.strip()
        # Nobody is invited any more: what there is to know is on the standby.
        found = self.pairing("--invitation", "-", data=text)
        self.assertEqual((found.returncode, "blockferryd volumes" in found.stderr), (6, True), found)
        self.assertIn(key, self.site.run("blockferryd", "volumes", "--json").out)
        # Another invitation is open: who shows the first hears who has used it.
        self.site.invite("other", self.site.path / "other")
        found = self.pairing("--invitation", "-", data=text)
        self.assertEqual((found.returncode, key in found.stderr, "(rule used)" in found.stderr), (6, True, True), found)
        # Who has used it himself, or shows another, hears nothing of that.
        self.assertNotIn("rule used", self.pairing("--invitation", "-", data=text, state=thief).stderr)
        log = (self.site.path / "daemon.log").read_text()
        self.assertTrue(until(5, lambda: re.search(f"volume new: paired: .*, {key}", self.site.journal())), log)
        self.assertIn(f"that {key} has used was shown by {own}", log)

    def test_invitations(self) -> None:
        used = self.site.invite("new", self.site.path / "new")
        first = self.site.run("blockferry", "pair", used, "--name", "standby")
        self.assertEqual(first.code, 0, first)
        other = self.site.path / "other"
        result = self.site.run("blockferry", "pair", used, "--name", "standby", state=other)
        self.assertEqual(result.code, 6)
        self.assertIn("used or expired", result.error)
        again = self.site.invite("new2", self.site.path / "new2")
        self.assertEqual(self.site.run("blockferry", "pair", used, "--name", "standby", state=other).code, 6)
        broken = again[:-3] + ("aaa" if again[-3:] != "aaa" else "bbb")
        self.assertEqual(self.site.run("blockferry", "pair", broken, state=other).code, 2)

    # Transport

    def test_tls_1_2_plaintext_and_no_certificate(self) -> None:
        with self.assertRaises(ssl.SSLError):
            Rogue(self.site, self.site.source / "identity.pem", maximum=ssl.TLSVersion.TLSv1_2)
        with self.assertRaises((ssl.SSLError, EOFError, ConnectionError)):
            Rogue(self.site, self.site.source / "identity.pem", alpn="").receive()
        with self.assertRaises((ssl.SSLError, EOFError, ConnectionError)):
            # In TLS 1.3 the refusal of a key arrives with the first read.
            Rogue(self.site, None).receive()
        with self.assertRaises((ssl.SSLError, EOFError, ConnectionError)):
            Rogue(self.site, self.site.source / "identity.pem", alpn="blockferry-pair/1").receive()
        for garbage in (b"GET / HTTP/1.0\r\n\r\n", bytes(100), b"\x16\x03\x01\xff\xff", b"\x16\x03\x01\x00\x05hello"):
            with socket.create_connection(("127.0.0.1", self.site.port), timeout=15) as connection:
                connection.sendall(garbage)
                connection.settimeout(15)
                try:
                    while connection.recv(4096):
                        pass
                except ConnectionError:
                    pass
        self.assertEqual(sha256(self.target), self.before)
        self.change()
        self.assertEqual(self.site.send("vol", self.plain).code, 0)

    def test_silent_connections_do_not_keep_others_out(self) -> None:
        silent = [socket.create_connection(("127.0.0.1", self.site.port)) for _ in range(300)]
        self.addCleanup(lambda: [connection.close() for connection in silent])
        self.change()
        result = self.site.send("vol", self.plain)
        self.assertEqual(result.code, 0, result)

    def test_cut_without_close_notify(self) -> None:
        """The stream is cut after some bytes, at many places; nothing of the generation is on the target."""
        cuts = 0
        for limit in (1, 200, 600, 1500, 3000, 50_000, 120_000, 250_000, 299_000):
            proxy = Proxy(self.site.port, lambda data, at, limit=limit: data if at + len(data) < limit else None)
            self.site.pair(f"cut{limit}", self.site.path / f"cut{limit}")
            self.redirect(proxy.port)
            self.plain.write_bytes(os.urandom(self.plain.stat().st_size))
            result = self.site.send("vol", self.plain)
            self.assertIn(result.code, (4, 5), result)
            self.assertEqual(sha256(self.target), self.before)
            self.assertEqual(self.site.status("vol")["generation"], 1)
            self.redirect(self.site.port)
            proxy.close()
            cuts += 1
        self.change()
        self.assertTrue(until(20, lambda: self.site.send("vol", self.plain).code == 0))
        self.assertEqual(sha256(self.target), sha256(self.plain))
        print(f"cuts: {cuts}")

    def redirect(self, port: int) -> None:
        import sqlite3
        with sqlite3.connect(self.site.source / "catalog.sqlite") as catalog:
            catalog.execute("UPDATE receiver SET address = ?", (f"127.0.0.1:{port}",))

    def test_lost_committed(self) -> None:
        """COMMITTED is swallowed by the network; the next send finds the generation and sends nothing again."""
        self.change()
        total = 0

        def drop_last(data: bytes, at: int):
            nonlocal total
            total = at + len(data)
            return data

        # Learn how many bytes the receiver answers, then cut just before the last ones.
        proxy = Proxy(self.site.port, answer=drop_last)
        self.redirect(proxy.port)
        self.assertEqual(self.site.send("vol", self.plain).code, 0)
        proxy.close()
        limit = total - 60
        self.change()
        proxy = Proxy(self.site.port, answer=lambda data, at: data[:max(0, limit - at)] if at < limit else None)
        self.redirect(proxy.port)
        lost = self.site.send("vol", self.plain)
        proxy.close()
        self.redirect(self.site.port)
        self.assertIn(lost.code, (4, 5), lost)
        self.assertTrue(until(20, lambda: self.site.status("vol")["generation"] == 3))
        found = self.site.send("vol", self.plain)
        self.assertEqual((found.code, found.json["result"], found.json["generation"]), (0, "up-to-date", 3), found)
        self.assertEqual(sha256(self.target), sha256(self.plain))

    def test_corrupted_frames_and_records(self) -> None:
        lineage = bytes.fromhex(self.catalog("SELECT hex(lineage) FROM volume"))
        key = bytes.fromhex(self.catalog("SELECT hex(tag_key) FROM volume"))
        parent = bytes.fromhex(self.site.status("vol")["generation_id"])
        fields = {"lineage": lineage, "number": 2, "parent": parent, "volume_size": 500_288}
        content = os.urandom(65536)
        good = encode.data_record(0, content, key, 1)
        flipped = bytearray(good)
        flipped[-1] ^= 1
        wrong_seal = encode.seal(0, 1, 65536, 65536, bytes(31) + b"\x01")
        cases = {
            "payload checksum": [("RECORD", good, {"payload_checksum": 1})],
            "header checksum": [("RECORD", good, {"header_checksum": 1})],
            "flags": [("RECORD", good, {"flags": 1})],
            "tag": [("RECORD", bytes(flipped), {})],
            "past the end": [("RECORD", encode.zero_record(499_712, 65_536), {})],
            "order": [("RECORD", encode.zero_record(65_536, 512), {}), ("RECORD", encode.zero_record(0, 512), {})],
            "state": [("OPEN", encode.open_("vol"), {})],
            "seal": [("RECORD", good, {}), ("SEAL", wrong_seal, {})],
            "unknown type": [(99, b"", {})],
            "receiver's frame": [("ACK", encode.ack(1), {})],
        }
        refused = 0
        for name, frames in cases.items():
            rogue = self.opened()
            self.assertEqual(self.begin(fields, rogue=rogue)[0], encode.TYPE["READY"], name)
            for kind, payload, wrong in frames:
                rogue.send(kind, payload, **wrong)
            self.assertEqual(rogue.answer()[0], REFUSE, name)
            rogue.close()
            self.assertEqual(sha256(self.target), self.before, name)
            refused += 1
        print(f"corrupted frames and records refused: {refused}")
        self.assertEqual(self.site.status("vol")["generation"], 1)
        self.change()
        self.assertTrue(until(20, lambda: self.site.send("vol", self.plain).code == 0))
        self.assertEqual(sha256(self.target), sha256(self.plain))

    def test_second_writer(self) -> None:
        rogue = self.opened()
        self.change()
        self.refused(self.site.send("vol", self.plain), 3, "another session")
        rogue.close()

    # Damaged input

    def test_damaged_metadata(self) -> None:
        pool = self.site.pool()
        damaged = bytearray(pool.metadata.read_bytes())
        damaged[100] ^= 1
        pool.metadata.write_bytes(damaged)
        result = self.site.run("blockferry", "changes", "--thin-metadata", pool.metadata, "--from", 3, "--to", 5)
        self.assertEqual((result.code, result.is_one_sentence), (1, True), result)
        self.assertIn(str(pool.metadata), result.error)
        self.assertIn("block 0", result.error)
        self.assertEqual(self.site.run("blockferry", "changes").code, 2)
        self.assertEqual(self.site.run("blockferry", "send").code, 2)


if __name__ == "__main__":
    unittest.main()
