# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What the monitor makes of a standby's status: a target that cannot be the copy is never OK."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import unittest

CHECK = pathlib.Path(__file__).parents[2] / "deploy" / "monitoring" / "check_blockferryd"


class Monitor(unittest.TestCase):
    def verdict(self, **volume: object) -> tuple[int, str]:
        status = {"volumes": [{"volume": "db", "state": "consistent", "age_seconds": 5, **volume}]}
        result = subprocess.run([sys.executable, CHECK, "--warning", "10", "--critical", "20"], check=False,
                                input=json.dumps(status), capture_output=True, text=True)
        return result.returncode, result.stdout

    def test_a_target_that_cannot_be_the_copy_is_critical(self) -> None:
        self.assertEqual(self.verdict(target_present=True)[0], 0)
        for state in ("consistent", "staging", "applying", "empty"):
            code, text = self.verdict(state=state, target_present=False, target_problem="/dev/x does\nnot exist")
            self.assertEqual((code, "db: /dev/x does not exist" in text), (2, True), text)


if __name__ == "__main__":
    unittest.main()
