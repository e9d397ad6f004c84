# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Whole generations from kernel-written images, compared with what the kernel showed."""

import os
import random
import shutil
import sqlite3
import unittest

from harness import Proxy, Site, manifest, sha256


class Replication(unittest.TestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()
        self.target = self.site.path / "copy"

    def sent(self, *source, expect: str) -> dict:
        result = self.site.send("vol", *source)
        self.assertEqual(result.code, 0, result)
        self.assertEqual(result.json["result"], expect, result)
        return result.json

    def test_thin_full_and_increments(self) -> None:
        self.site.pair("vol", self.target)
        pool = self.site.pool()
        for name, kind in (("s0", "full"), ("s1", "delta"), ("s2", "delta")):
            result = self.sent(*pool.source(name), expect=kind)
            self.assertEqual(sha256(self.target), pool.digests[name])
        self.assertLess(result["bytes_on_wire"], pool.size // 10)
        self.sent(*pool.source("s2"), expect="up-to-date")

    def test_classic_chain(self) -> None:
        self.site.pair("vol", self.target)
        origin, *stores = self.site.unpack("cow-chain-16k", "origin", "cow-s0", "cow-s1", "cow-s2")
        digests = manifest("cow-chain-16k")["generations"]
        self.sent("--cow-origin", origin, "--cow-store", stores[0], expect="full")
        self.assertEqual(sha256(self.target), digests["s0"])
        for number in (1, 2):
            self.sent("--cow-origin", origin, "--cow-store", stores[number], "--base-store", stores[number - 1],
                      expect="delta")
            self.assertEqual(sha256(self.target), digests[f"s{number}"])
        self.sent("--cow-origin", origin, "--base-store", stores[2], expect="delta")
        self.assertEqual(sha256(self.target), digests["origin"])

    def test_every_classic_fixture(self) -> None:
        compared = 0
        for fixture in ("cow-4k", "cow-4k-255", "cow-4k-256", "cow-4k-257", "cow-16k", "cow-64k", "cow-empty-16k",
                        "cow-stale-4k", "cow-snapwrite-16k"):
            target = self.site.path / f"copy-{fixture}"
            self.site.pair(fixture, target)
            origin, store = self.site.unpack(fixture, "origin", "cow")
            result = self.site.send(fixture, "--cow-origin", origin, "--cow-store", store)
            self.assertEqual(result.code, 0, result)
            self.assertEqual(sha256(target), manifest(fixture)["generations"]["snapshot"], fixture)
            compared += 1
        print(f"classic fixtures replicated and compared: {compared}")

    def test_plain_files_of_odd_sizes_and_compression(self) -> None:
        rng = random.Random(7)
        for number, size in enumerate((1, 511, 512, 65_537, 1_048_577, 5_000_003)):
            source, target = self.site.path / "plain", self.site.path / f"plain-copy-{number}"
            content = bytearray(size)
            for _ in range(20):
                start = rng.randrange(size)
                piece = rng.choice((rng.randbytes(9000), b"text " * 2000, bytes(9000)))[:size - start]
                content[start:start + len(piece)] = piece
            source.write_bytes(content)
            volume = f"plain{number}"
            self.site.pair(volume, target)
            for how in ("never", "always", "auto"):
                content[rng.randrange(size)] ^= 0xFF
                source.write_bytes(content)
                result = self.site.run("blockferry", "send", source, "--to", "standby", "--volume", volume,
                                       "--compress", how)
                self.assertEqual(result.code, 0, result)
                self.assertEqual(target.read_bytes(), bytes(content), f"{size} {how}")

    def test_growing_volume_and_old_content_of_the_target(self) -> None:
        """A target that held something else, and bytes past the old end, are defined by the source."""
        self.target.write_bytes(os.urandom(3_000_000))
        source = self.site.path / "plain"
        source.write_bytes(bytes(1_000_000) + os.urandom(2_000_000))
        self.site.pair("vol", self.target, "--overwrite")
        self.sent(source, expect="full")
        self.assertEqual(sha256(self.target), sha256(source))
        with open(source, "r+b") as file:
            file.truncate(9_000_000)
            file.seek(8_999_999)
            file.write(b"x")
        self.sent(source, expect="delta")
        self.assertEqual(sha256(self.target), sha256(source))

    def test_a_generation_in_doubt_is_no_base(self) -> None:
        """COMMIT was kept by the sender, but the standby never saw it and has lost its staging log."""
        self.site.pair("vol", self.target)
        pool = self.site.pool()
        self.sent(*pool.source("s0"), expect="full")
        with sqlite3.connect(self.site.source / "catalog.sqlite") as catalog:
            self.base = catalog.execute("SELECT base FROM replica").fetchone()[0]
        standby = self.site.path / "standby-before"
        content = self.target.read_bytes()
        self.site.kill_daemon()
        shutil.copytree(self.site.standby, standby)
        self.site.start_daemon()
        self.sent(*pool.source("s1"), expect="delta")
        # Take the standby back to before the delta, and the source to between COMMIT and COMMITTED.
        self.site.kill_daemon()
        shutil.rmtree(self.site.standby)
        shutil.copytree(standby, self.site.standby)
        self.target.write_bytes(content)
        with sqlite3.connect(self.site.source / "catalog.sqlite") as catalog:
            committed = catalog.execute("SELECT committed FROM replica").fetchone()[0]
            with sqlite3.connect(self.site.standby / "catalog.sqlite") as other:
                first = other.execute("SELECT committed FROM volume").fetchone()[0]
            catalog.execute("UPDATE replica SET committed = ?, base = ?, pending = ?", (first, self.base, committed))
        self.site.start_daemon()
        self.sent(*pool.source("s1"), expect="delta")
        self.assertEqual(sha256(self.target), pool.digests["s1"])

    def test_standbys_that_change_their_names_keep_their_unfinished_transfers(self) -> None:
        """Two first copies of one volume are cut; then the standbys change names, and each transfer goes on."""
        other = Site()
        self.addCleanup(other.close)
        other.start_daemon()
        limits = {"a": 55 << 20, "b": 25 << 20}
        proxies = {}
        for name, site in (("a", self.site), ("b", other)):
            proxies[name] = Proxy(site.port, lambda data, at, name=name: None if at > limits[name] else data)
            self.addCleanup(proxies[name].close)
            invitation = site.invite("vol", site.path / "copy", port=proxies[name].port)
            paired = self.site.run("blockferry", "pair", invitation, "--name", name, "--own-name", "source")
            self.assertEqual(paired.code, 0, paired)
        source = self.site.path / "plain"
        source.write_bytes(random.Random(9).randbytes(64 << 20))
        for name in limits:
            cut = self.site.run("blockferry", "send", source, "--to", name, "--volume", "vol", "--compress", "never")
            self.assertEqual(cut.code, 5, cut)
        limits.update(dict.fromkeys(limits, 1 << 40))
        for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
            self.assertEqual(self.site.run("blockferry", "peers", "--rename", old, new).code, 0)
        for name, site in (("b", self.site), ("a", other)):
            result = self.site.send("vol", source, to=name)
            self.assertEqual(result.code, 0, result)
            self.assertGreater(result.json["resumed_segments"], 0, name)
            self.assertEqual(sha256(site.path / "copy"), sha256(source))
        self.assertEqual(list((self.site.source / "plans").iterdir()), [])

    def test_standbys_whose_names_are_the_endings_of_files(self) -> None:
        source = self.site.path / "plain"
        source.write_bytes(random.Random(9).randbytes(1 << 20))
        names = ("sb", "sb.whole", "sb.scan", "sb.updates", "sb.seals")
        for name in names:
            other = Site()
            self.addCleanup(other.close)
            other.start_daemon()
            paired = self.site.run("blockferry", "pair", other.invite("vol", other.path / "copy"), "--name", name,
                                   "--own-name", "source")
            self.assertEqual(paired.code, 0, paired)
        for number in range(3):
            with open(source, "r+b") as file:
                file.seek(number << 16)
                file.write(bytes(100))
            for name in names[::1 if number % 2 else -1]:
                result = self.site.send("vol", source, to=name)
                self.assertEqual(result.code, 0, (name, result))
                # The map of the last generation was not taken for another standby's file.
                self.assertNotIn("gone", result.json.get("compared_because") or "", name)
        maps = {path.name for path in (self.site.source / "maps").iterdir()}
        self.assertEqual(maps, {f"vol@{name}" for name in names})

    def test_an_image_whose_size_was_corrected_is_not_up_to_date(self) -> None:
        """The metadata of a pool does not know how large its volume is: the same snapshot with another size is another one."""
        self.site.pair("vol", self.target)
        pool = self.site.pool()
        half = [*pool.source("s0")[:-1], pool.size // 2]
        self.sent(*half, expect="full")
        self.sent(*pool.source("s0"), expect="delta")
        self.assertEqual((self.target.stat().st_size, sha256(self.target)), (pool.size, pool.digests["s0"]))
        for more in (["--dry-run"], []):
            smaller = self.site.send("vol", *half, *more)
            self.assertEqual((smaller.code, smaller.json["rule"]), (7, "size-shrunk"), smaller)
        self.assertEqual(self.target.stat().st_size, pool.size)

    def test_dry_run_and_explain_change_nothing(self) -> None:
        self.site.pair("vol", self.target)
        pool = self.site.pool()
        self.sent(*pool.source("s0"), expect="full")
        before = sha256(self.target)
        result = self.site.run("blockferry", "send", *pool.source("s1"), "--to", "standby", "--volume", "vol",
                               "--dry-run", "--json")
        self.assertEqual((result.code, result.json["decision"], result.json["rule"]), (0, "delta", "base-matches"))
        self.assertEqual(result.json["bytes_changed"] % 65536, 0)
        result = self.site.run("blockferry", "explain", "--to", "standby", "--volume", "vol", "--json")
        self.assertEqual(result.json["standby_generation"], 1)
        self.assertEqual(sha256(self.target), before)
        self.assertEqual(self.site.status("vol")["generation"], 1)


if __name__ == "__main__":
    unittest.main()
