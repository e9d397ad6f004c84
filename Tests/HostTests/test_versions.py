# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Versions (E3): what released programs left on disk is used by today's, and what only later ones know is refused.

Tests/Fixtures/released/N is what version N left behind, made by make_released.py with the programs of then: volumes
with a committed generation, an interrupted transfer on both sides, an export file. Today's programs start on a copy."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import sqlite3
import ssl
import struct
import tarfile
import threading
import unittest

from host import BLOCK, HostSite, ended_well, sha256
from make_released import RELEASED, Thin

import encode  # found by way of harness
from checksums import crc32c

NUMBERS = sorted((int(path.name) for path in RELEASED.iterdir() if path.name.isdigit()), reverse=True)


class Released(HostSite):
    """A copy of what version `number` left behind, with the targets where they are now."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.facts = json.loads((RELEASED / str(number) / "manifest.json").read_text())
        with tarfile.open(RELEASED / str(number) / "state.tar.xz") as tar:
            tar.extractall(self.path, filter="data")
        (self.path / "thin.copy").touch(mode=0o600)
        os.truncate(self.path / "thin.copy", Thin.size)
        for state in (self.standby, self.source):
            for path in [state, *state.rglob("*")]:
                path.chmod(0o700 if path.is_dir() else 0o600)
        with sqlite3.connect(self.standby / "catalog.sqlite") as catalog:
            for name in ("thin", "small", "moved"):
                target = self.path / f"{name}.copy"
                facts = target.stat()
                identity = f"file:{os.major(facts.st_dev)}:{os.minor(facts.st_dev)}:{facts.st_ino}"
                catalog.execute("UPDATE volume SET target_path = ?, target_identity = ? WHERE name = ?",
                                (str(target), identity, name))
        catalog.close()
        self.thin = Thin(self)

    def start(self, test: unittest.TestCase) -> None:
        failed = self.begin_daemon()
        test.assertIsNone(failed, failed)
        self.readdress(self.port)


class Older(unittest.TestCase):
    def test_released(self) -> None:
        self.assertGreaterEqual(len(NUMBERS), 1, "no released version is there")
        steps = 0
        for number in NUMBERS:
            with self.subTest(number):
                steps += self.released(number)
        print(f"released versions: {NUMBERS}, {steps} steps on their state", flush=True)
        self.assertGreaterEqual(steps, 12 * len(NUMBERS))

    def released(self, number: int) -> int:
        site = Released(number)
        self.addCleanup(site.close)
        steps = 0

        def must(program: str, *arguments):
            nonlocal steps
            result = site.bounded(program, *arguments)
            ended_well(self, result, f"version {number}: {arguments[:2]}", codes=(0,))
            steps += 1
            return result

        expected = {name: site.facts[name]["generations"] for name in ("thin", "small", "moved")}
        site.start(self)
        # Everything is listed, on both sides.
        listed = {volume["volume"]: volume for volume in must("blockferryd", "status", "--json").json["volumes"]}
        self.assertEqual({name: (volume["generation"], volume["state"]) for name, volume in listed.items()},
                         {"thin": (1, "staging"), "small": (1, "consistent"), "moved": (1, "consistent")})
        known = {volume["volume"]: volume for volume in must("blockferry", "status", "--json").json["volumes"]}
        self.assertEqual({name: volume["generation"] for name, volume in known.items()}, dict.fromkeys(expected, 1))
        for name in expected:
            self.assertEqual(known[name]["generation_id"], listed[name]["generation_id"])
            # The old tag map fits the old content.
            if name != "thin":
                self.assertTrue(must("blockferryd", "scrub", name, "--json").json["clean"])
            self.assertEqual(sha256(site.path / f"{name}.copy"), expected[name][0])
        # What 0.1.0 has kept of images proves no content: the interrupted transfer begins anew, and the images are compared.
        again = must("blockferry", *site.thin.send("s0"))
        self.assertEqual((again.json["resumed_segments"], again.json["generation"]), (0, 2), again)
        self.assertIn("not the files", again.json["compared_because"])
        self.assertEqual(sha256(site.path / "thin.copy"), expected["thin"][1])
        site.settled("thin")
        self.assertTrue(must("blockferryd", "scrub", "thin", "--json").json["clean"])
        site.settled("thin")
        # The export file is of format 1, which was not encrypted: it is refused with what to do, and a send finds out.
        refused = site.bounded("blockferryd", "import", "moved", site.path / "moved.bfx", "--json")
        ended_well(self, refused, f"version {number}: import", codes=(1,))
        self.assertIn("--output FILE --discard", refused.error)
        # The source was paired by a version that knew no key for files; it has heard it by now.
        self.assertTrue(must("blockferry", "peers", "--json").json["peers"][0]["export_key"])
        again = site.path / "again.bfx"
        must("blockferry", "export", site.path / "moved.img", "--to", "standby", "--volume", "moved", "--output", again,
             "--discard")
        imported = must("blockferryd", "import", "moved", again, "--json")
        self.assertEqual(imported.json["generation"], 2, imported)
        self.assertEqual(sha256(site.path / "moved.copy"), expected["moved"][1])
        # Increments of everything.
        third = must("blockferry", *site.thin.send("s1"))
        self.assertEqual((third.json["result"], third.json["generation"]), ("delta", 3), third)
        self.assertEqual(sha256(site.path / "thin.copy"), expected["thin"][2])
        for name, generation in (("small", 2), ("moved", 3)):
            path = site.path / f"{name}.img"
            with open(path, "r+b") as file:
                file.seek(BLOCK)
                file.write(b"new" * 1000)
            sent = must("blockferry", "send", path, "--to", "standby", "--volume", name, "--json")
            self.assertEqual((sent.json["result"], sent.json["generation"]), ("delta", generation), sent)
            self.assertLessEqual(sent.json["bytes_changed"], 2 * BLOCK)
            self.assertEqual(sha256(path), sha256(site.path / f"{name}.copy"))
            site.settled(name)
            self.assertTrue(must("blockferryd", "scrub", name, "--json").json["clean"])
        self.assertTrue(must("blockferry", "verify", site.path / "small.img", "--to", "standby", "--volume", "small",
                             "--json"))
        return steps


class Newer(unittest.TestCase):
    """State, files and peers of a version that is not known yet."""

    def setUp(self) -> None:
        self.site = Released(NUMBERS[0])
        self.addCleanup(self.site.close)

    def test_catalogs(self) -> None:
        site, cases = self.site, 0
        for state, program, commands in (
                (site.standby, "blockferryd", (["serve", "--listen", "127.0.0.1:0"], ["status"], ["scrub", "small"],
                                               ["promote", "small"], ["import", "moved", site.path / "moved.bfx"])),
                (site.source, "blockferry", (["status"], site.thin.send("s0"), ["id"],
                                             ["forget", "--to", "standby", "--volume", "small"]))):
            path = state / "catalog.sqlite"
            with sqlite3.connect(path) as catalog:
                catalog.execute("INSERT INTO grdb_migrations VALUES ('later-99')")
            catalog.close()
            before = path.read_bytes()
            for command in commands:
                result = site.bounded(program, *command)
                ended_well(self, result, f"{program} {command[0]}", codes=(1,))
                self.assertRegex(result.error, "newer|later", f"{program} {command[0]}")
                self.assertEqual(path.read_bytes(), before, f"{program} {command[0]}")
                cases += 1
        print(f"catalogs of a later version: {cases} commands refused (at least 9)", flush=True)
        self.assertGreaterEqual(cases, 9)

    @staticmethod
    def raise_format(path: pathlib.Path, at: int = 8, block: int = 4096) -> bytes:
        """One more in the field of the format, and the checksum that belongs to it."""
        data = bytearray(path.read_bytes())
        struct.pack_into("<I", data, at, struct.unpack_from("<I", data, at)[0] + 1)
        struct.pack_into("<I", data, block - 4, crc32c(bytes(data[:block - 4])))
        path.write_bytes(data)
        return bytes(data)

    def test_export_file(self) -> None:
        path = self.site.path / "moved.bfx"
        self.raise_format(path)
        before = self.raise_format(path)
        for options in ([], ["--dry-run"]):
            result = self.site.bounded("blockferryd", "import", "moved", path, *options)
            ended_well(self, result, "import", codes=(1,))
            self.assertIn("format", result.error)
        self.assertEqual(path.read_bytes(), before)
        self.assertEqual(sha256(self.site.path / "moved.copy"), self.site.facts["moved"]["generations"][0])

    def test_staging_log_maps_and_plan(self) -> None:
        """What can be made anew is not needed: the transfer begins again, the map is read from the target. Nothing
        is taken for what it is not."""
        site, cases = self.site, 0
        keep = site.path / "keep"
        for state in (site.standby, site.source):
            shutil.copytree(state, keep / state.name)
        for name in ("standby/staging/thin.log", "standby/maps/small.map", "standby/maps/thin.map",
                     "source/maps/small@standby", "source/plans/thin@standby"):
            with self.subTest(name):
                site.kill_daemon()
                for state in (site.standby, site.source):
                    shutil.rmtree(state)
                    shutil.copytree(keep / state.name, state)
                for volume in ("thin", "small"):
                    # The content of generation 1.
                    path = site.path / f"{volume}.copy"
                    if volume == "thin":
                        os.truncate(path, 0)
                        os.truncate(path, Thin.size)
                    else:
                        path.write_bytes((site.path / "small.img").read_bytes())
                if name.endswith("plans/thin@standby"):
                    data = bytearray((site.path / name).read_bytes())
                    data[7] += 1
                    data[60:64] = struct.pack("<I", crc32c(bytes(data[:60])))
                    (site.path / name).write_bytes(data)
                else:
                    self.raise_format(site.path / name)
                site.start(self)
                volume = "thin" if "thin" in name else "small"
                arguments = site.thin.send("s0") if volume == "thin" else [
                    "send", site.path / "small.img", "--to", "standby", "--volume", "small", "--json"]
                result = site.bounded("blockferry", *arguments)
                ended_well(self, result, name)
                wanted = site.facts[volume]["generations"][1 if volume == "thin" and result.code == 0 else 0]
                self.assertEqual(sha256(site.path / f"{volume}.copy"), wanted, name)
                print(f"later format of {name}: exit {result.code} {result.error.strip()}", flush=True)
                cases += 1
        self.assertGreaterEqual(cases, 5)

    def test_peers(self) -> None:
        site = self.site
        site.start(self)
        identity = site.source / "identity.pem"

        def connect(alpn: str) -> ssl.SSLSocket:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.load_cert_chain(identity)
            context.set_alpn_protocols([alpn])
            raw = socket.create_connection(("127.0.0.1", site.port), 15)
            self.addCleanup(raw.close)
            return context.wrap_socket(raw)

        # No name that is known: the handshake says so.
        for alpn in ("blockferry/2", "blockferry/10", "blockferry-pair/2", "blockferry/"):
            with self.assertRaises(ssl.SSLError) as refused:
                connection = connect(alpn)
                connection.recv(100)
            self.assertIn("NO_APPLICATION_PROTOCOL", str(refused.exception).upper().replace(" ", "_"))
        # The known name, and a HELLO without a common version.
        hello = bytearray(encode.hello())
        struct.pack_into("<HH", hello, 8, 2, 9)
        connection = connect("blockferry/1")
        connection.sendall(encode.frame("HELLO", bytes(hello), 0))
        answer = connection.recv(4096)
        self.assertEqual(struct.unpack_from("<H", answer, 4)[0], encode.TYPE["REFUSE"])
        self.assertIn(b"unsupported-version", answer)
        connection.close()
        # One that also knows ours is spoken to in ours.
        struct.pack_into("<HH", hello, 8, 1, 9)
        connection = connect("blockferry/1")
        connection.sendall(encode.frame("HELLO", bytes(hello), 0))
        answer = connection.recv(4096)
        self.assertEqual(struct.unpack_from("<H", answer, 4)[0], encode.TYPE["WELCOME"])
        self.assertEqual(struct.unpack_from("<H", answer, 32 + 8)[0], 1)
        connection.close()
        self.assertNotIn("was ended by signal", site.journal())

    def test_newer_standby(self) -> None:
        """Our sender, and a standby that knows nothing but version 2: by ALPN, by REFUSE, and by a WELCOME that
        nobody asked for."""
        site, cases = self.site, 0
        refuse = struct.pack("<HHH", 1, 0, 19) + b"unsupported-version" + struct.pack("<H", 9) + b"version 2"
        welcome = bytearray(encode.welcome())
        struct.pack_into("<H", welcome, 8, 2)
        for name, alpn, frame in (("ALPN", "blockferry/2", None), ("REFUSE", "blockferry/1", ("REFUSE", refuse)),
                                  ("WELCOME", "blockferry/1", ("WELCOME", bytes(welcome)))):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(site.standby / "identity.pem")
            context.set_alpn_protocols([alpn])
            listener = socket.create_server(("127.0.0.1", 0))
            listener.settimeout(20)

            def serve(context=context, listener=listener, frame=frame) -> None:
                try:
                    raw, _ = listener.accept()
                    raw.settimeout(10)
                    with context.wrap_socket(raw, server_side=True) as connection:
                        connection.recv(4096)
                        if frame:
                            connection.sendall(encode.frame(*frame, 0))
                        while connection.recv(4096):
                            pass
                except OSError:
                    pass

            server = threading.Thread(target=serve)
            server.start()
            site.readdress(listener.getsockname()[1])
            result = site.bounded("blockferry", "send", site.path / "small.img", "--to", "standby", "--volume", "small")
            server.join(20)
            listener.close()
            ended_well(self, result, name, codes=(1,))
            self.assertIn("(rule malformed)" if name == "WELCOME" else "(rule unsupported-version)", result.error)
            print(f"a standby of version 2, by {name}: exit {result.code}, {result.error.strip()}", flush=True)
            cases += 1
        self.assertEqual(cases, 3)


if __name__ == "__main__":
    unittest.main()
