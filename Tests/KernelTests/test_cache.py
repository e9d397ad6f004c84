# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The page cache of a device that the kernel writes underneath is stale for good. These tests make it stale, see that it
is, and demand the true answer; then they take direct I/O away from the program and demand that they would notice."""

from __future__ import annotations

import struct

import devices
from harness import SOURCE, LiveTest, acceptance, command

STRIPPED = {"LD_PRELOAD": "/out/steps.so", "STEPS_BUFFERED": "1"}


def exceptions(path: str, direct: bool) -> list[int]:
    """The chunks that a store with chunks of 4 KiB names: an own reader, by the format alone."""
    found: list[int] = []
    area = 0
    while True:
        records = devices.read(path, (1 + area * 257) * 4096, 4096, direct)
        for old, new in struct.iter_unpack("<QQ", records):
            if new == 0:
                return found
            found.append(old)
        area += 1


def held_root(path: str, direct: bool) -> int:
    return struct.unpack_from("<Q", devices.read(path, 0, 4096, direct), 56)[0]


class StaleCacheTests(LiveTest):
    def changes(self, *arguments: object, stripped: bool = False) -> tuple[int, int, str]:
        """Exit code and changed bytes, as `blockferry changes` tells them."""
        done = command(acceptance.BIN / "blockferry", "changes", *arguments, check=False, env=STRIPPED if stripped else None)
        return done.returncode, sum(int(line.split()[1]) for line in done.stdout.splitlines()), done.stderr

    def test_stale_cache_of_a_snapshot_store(self) -> None:
        origin = self.source.thick("o")
        self.source.snapshot("s", "o", store=8 << 20)
        store = f"/dev/mapper/{SOURCE}-s-cow"
        self.assertEqual(exceptions(store, direct=False), [])
        self.assertEqual(self.changes("--cow-store", store)[:2], (0, 0))
        written = sorted(set(devices.scattered(1, 300, devices.size(origin))))
        devices.write(origin, *written)
        self.assertEqual(len(exceptions(store, direct=True)), len(written))
        # Opened and read anew, and still what it was: this is the trap.
        self.assertEqual(exceptions(store, direct=False), [], "the cache is not stale: this test proves nothing here")
        fresh = (0, 4096 * len(written))
        for question in (("--cow-store", store), (f"{SOURCE}/s",)):
            with self.subTest(question=question):
                self.assertEqual(self.changes(*question)[:2], fresh)
                code, changed, _ = self.changes(*question, stripped=True)
                self.assertNotEqual((code, changed), fresh, "a program without direct I/O would pass this test")
                self.assertEqual(self.changes(*question)[:2], fresh)

    def test_stale_cache_of_a_pool(self) -> None:
        self.source.pool()
        volume = self.source.thin("t")
        devices.write(volume, (0, 1 << 20))
        self.source.snapshot("t1", "t")
        metadata = f"/dev/mapper/{SOURCE}-pool_tmeta"
        self.source.message("reserve_metadata_snap")
        # Something keeps the node open for reading, as a scanner would; its cache stays.
        held_root(metadata, direct=False)
        for block in range(0, 64):
            devices.read(metadata, block * 4096, 4096, direct=False)
        self.source.message("release_metadata_snap")
        written = [(place << 16, 65536) for place in (40, 80, 120)]
        devices.write(volume, *written)
        self.source.snapshot("t2", "t")
        self.source.message("reserve_metadata_snap")
        self.addCleanup(self.source.message, "release_metadata_snap", check=False)
        self.assertEqual(held_root(metadata, direct=True), int(self.source.held()))
        self.assertNotEqual(held_root(metadata, direct=False), int(self.source.held()),
                            "the cache is not stale: this test proves nothing here")
        one, two = (row["thin_id"] for name in ("t1", "t2") for row in self.source.rows("lv_name,thin_id")
                    if row["lv_name"] == name)
        question = ("--thin-metadata", metadata, "--metadata-snapshot", "--from", one, "--to", two, "--volume-size",
                    devices.size(volume))
        fresh = (0, 3 * 65536)
        self.assertEqual(self.changes(*question)[:2], fresh)
        code, changed, _ = self.changes(*question, stripped=True)
        self.assertNotEqual((code, changed), fresh, "a program without direct I/O would pass this test")
        self.source.message("release_metadata_snap")
        self.assertEqual(self.changes(f"{SOURCE}/t1", f"{SOURCE}/t2")[:2], fresh)
        self.assert_released()
