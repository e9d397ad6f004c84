# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Volumes in use whose generations travel by disk. The base stays until it is known what became of the file."""

from __future__ import annotations

import pathlib

import devices
from devices import MIB
from harness import SOURCE, VOLUME, LiveTest, Result

LINEAGE = 7


class ExportTest(LiveTest):
    def export(self, volume: str, file: str, *more: object, expect: str) -> tuple[dict, pathlib.Path]:
        path = self.site_.path / file
        result = self.assert_code(self.site_.live("export", f"{SOURCE}/{volume}", "db", "--output", path, *more), 0)
        self.assertEqual(result.json["result"], expect, result)
        return result.json, path

    def run_import(self, path: pathlib.Path) -> Result:
        return self.site_.run("blockferryd", "import", "db", path, "--json")

    def kept(self) -> list[str]:
        return self.source.tagged("blockferry.volume=db")

    def chain(self, volume: str, *more: str) -> None:
        """Full and increment by file, a send, and an increment that nobody imports."""
        path = self.source.path(volume)
        full, file = self.export(volume, "full", *more, expect="full")
        self.assert_code(self.run_import(file), 0)
        first = self.assert_copy(self.target, volume)
        devices.write(path, *devices.scattered(1, 20, VOLUME))
        # Nobody has said that it was imported: nothing is taken.
        refused = self.site_.live("export", f"{SOURCE}/{volume}", "db", "--output", self.site_.path / "no", *more)
        self.assert_code(refused, LINEAGE, "--imported")
        self.assertEqual(self.kept(), [first])

        delta, file = self.export(volume, "delta", "--imported", full["generation_id"], *more, expect="delta")
        self.assertLess(delta["bytes_changed"], VOLUME // 4)
        second = [name for name in self.kept() if name != first]
        self.assertEqual(len(second), 1, "the base stays beside the snapshot that was exported")
        self.assertEqual(len(self.kept()), 2)
        self.assert_code(self.run_import(file), 0)
        self.assert_same(self.target, self.source.path(second[0]))
        # The send asks the standby, goes on from the file, and only then the old base goes.
        devices.write(path, *devices.scattered(2, 20, VOLUME))
        sent = self.send(self.site_, self.target, volume, "db", *more, expect="delta")
        self.assertEqual(sent["from_generation"], 2)
        self.assertNotIn(first, self.kept())

        devices.write(path, *devices.scattered(3, 20, VOLUME))
        _, lost = self.export(volume, "lost", *more, expect="delta")
        devices.write(path, *devices.scattered(4, 20, VOLUME))
        self.send(self.site_, self.target, volume, "db", *more, expect="delta")
        self.assert_code(self.run_import(lost), LINEAGE, "parent-mismatch")

        devices.write(path, *devices.scattered(5, 20, VOLUME))
        self.export(volume, "given-up", *more, expect="delta")
        devices.write(path, *devices.scattered(6, 20, VOLUME))
        _, file = self.export(volume, "instead", "--discard", *more, expect="delta")
        self.assertEqual(len(self.kept()), 2, "the snapshot of what was given up is left")
        self.assert_code(self.run_import(file), 0)
        self.send(self.site_, self.target, volume, "db", *more, expect="delta")

    def test_thin_by_file(self) -> None:
        self.source.pool()
        volume = self.source.thin("t")
        self.target = self.standby.thick("copy")
        devices.write(volume, (0, 2 * MIB))
        self.site_ = self.pair(self.target)
        self.chain("t")
        self.assert_released()

    def test_classic_by_file(self) -> None:
        volume = self.source.thick("c")
        self.target = self.standby.thick("copy")
        devices.write(volume, (0, 2 * MIB))
        self.site_ = self.pair(self.target)
        self.chain("c", "--cow-size", "40M", "--cow-chunk", "4K")
