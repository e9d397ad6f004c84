# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Targets that are files: they have the size of their volume, whatever they had before and whatever it does."""

from __future__ import annotations

import os
import random
import unittest

from harness import Site

SIZE = 3_000_000


class FileSizeTests(unittest.TestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()
        self.source, self.target = self.site.path / "source.img", self.site.path / "copy.img"
        self.random = random.Random(5)
        self.generation = 0

    def send(self, size: int, *more: str) -> None:
        """Gives the source a size and other content at its end, and sends it."""
        content = bytearray(self.source.read_bytes() if self.source.exists() else self.random.randbytes(SIZE))[:size]
        content += bytes(size - len(content))
        content[-5000:] = self.random.randbytes(5000)
        self.source.write_bytes(content)
        result = self.site.run("blockferry", "send", self.source, "--to", "standby", "--volume", "db", "--json", *more)
        self.assertEqual(result.code, 0, result)
        self.generation += 1
        self.assertEqual(result.json["generation"], self.generation)
        self.assertEqual(self.target.read_bytes(), bytes(content), f"generation {self.generation}")

    def test_a_file_grows_and_shrinks_with_its_volume(self) -> None:
        self.site.pair("db", self.target)
        self.send(SIZE)
        for size in (SIZE + 1_000_000, SIZE + 1_000_001, SIZE + 1_004_097):
            self.send(size)
        for size in (SIZE + 4096, SIZE + 511, SIZE - 1_000_000, 6000):
            refused = self.site.run("blockferry", "send", self.source, "--to", "standby", "--volume", "db", "--json")
            self.assertEqual((refused.code, refused.json["result"]), (0, "up-to-date"))
            self.send(size, "--allow-shrink")
        # What was cut off does not come back when it grows again.
        self.send(SIZE)

    def test_a_shrunken_volume_is_refused_and_the_file_stays_as_it_is(self) -> None:
        self.site.pair("db", self.target)
        self.send(SIZE)
        before = self.target.read_bytes()
        os.truncate(self.source, SIZE - 1)
        result = self.site.send("db", self.source)
        self.assertEqual((result.code, "size-shrunk" in result.error), (7, True), result)
        self.assertEqual(self.target.read_bytes(), before)
        self.send(SIZE - 1, "--allow-shrink")

    def test_what_somebody_has_added_to_the_file_is_no_copy(self) -> None:
        self.site.pair("db", self.target)
        self.send(6 * 65536 + 512)
        with self.target.open("ab") as file:
            file.write(b"added")
        self.assertIn(str(6 * 65536 + 512), str(self.site.status("db")["target_problem"]))
        promoted = self.site.run("blockferryd", "promote", "db")
        self.assertEqual((promoted.code, self.site.status("db")["state"]), (9, "diverged"), promoted)
        scrubbed = self.site.run("blockferryd", "scrub", "db", "--json")
        self.assertEqual((scrubbed.code, scrubbed.json["bytes_excess"], scrubbed.json["clean"]), (8, 5, False), scrubbed)
        resynced = self.site.run("blockferry", "resync", self.source, "--to", "standby", "--volume", "db")
        self.assertEqual(resynced.code, 0, resynced)
        self.assertEqual(self.target.read_bytes(), self.source.read_bytes())
        self.assertEqual(self.site.run("blockferryd", "scrub", "db").code, 0)

    def test_a_file_that_was_larger_than_the_volume_is_cut(self) -> None:
        self.target.write_bytes(b"x" * (SIZE + 12_345))
        self.site.pair("db", self.target, "--overwrite")
        self.send(SIZE)


if __name__ == "__main__":
    unittest.main()
