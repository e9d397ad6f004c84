# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the kernel tests in the guest: `suite.py RESULTS SHARE/SHARES [PATTERN...]`. Several guests share the tests: each
takes those of its share. Writes what ran to RESULTS as JSON."""

from __future__ import annotations

import faulthandler
import json
import os
import pathlib
import sys
import threading
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import harness


# A test that takes longer hangs.
PATIENCE = int(os.environ.get("KERNEL_TEST_PATIENCE", "900"))


def describe_processes() -> None:
    """Prints what every process waits for, and which devices are suspended."""
    for path in sorted(pathlib.Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if words:
                waits = [(task / "stat").read_text().rpartition(")")[2].split()[0] + ":" + (task / "wchan").read_text()
                         for task in (path / "task").iterdir()]
                print("   ", path.name, " ".join(waits), words[:120])
        except OSError:
            pass
    print("    suspended:", harness.suspended(), flush=True)


class Outcome(unittest.TextTestResult):
    """Prints a line for each test, with the seconds it took, and counts those that ran. Of a test that hangs it prints
    what it waits for, resumes what is suspended, and lets it fail."""

    hung: unittest.TestCase | None = None

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.began = time.monotonic()
        faulthandler.dump_traceback_later(PATIENCE + 5, file=sys.stdout)
        self.watch = threading.Timer(PATIENCE, self.hangs, (test,))
        self.watch.daemon = True
        self.watch.start()

    def hangs(self, test: unittest.TestCase) -> None:
        self.hung = test
        print(f"\n    after {PATIENCE} s, of {test.id()}:")
        describe_processes()
        harness.resume_all()

    def stopTest(self, test: unittest.TestCase) -> None:
        self.watch.cancel()
        faulthandler.cancel_dump_traceback_later()
        if self.hung is test:
            self.failures.append((test, f"it took longer than {PATIENCE} s"))
            self.hung = None
        super().stopTest(test)
        self.stream.writeln(f"    {time.monotonic() - self.began:.1f} s")
        self.stream.flush()


def tests_of(suite: unittest.TestSuite) -> list[unittest.TestCase]:
    return [test for part in suite for test in (tests_of(part) if isinstance(part, unittest.TestSuite) else [part])]


def share_of(tests: list[unittest.TestCase], share: int, shares: int) -> list[unittest.TestCase]:
    """Longest first, each to the share that has least so far; in the order of their names again. A test method may say
    how many seconds it takes (`cost`)."""
    def cost(test: unittest.TestCase) -> int:
        return getattr(getattr(test, test._testMethodName, None), "cost", 10)

    loads, mine = [0] * shares, []
    for test in sorted(tests, key=lambda test: (-cost(test), test.id())):
        least = loads.index(min(loads))
        loads[least] += cost(test)
        if least == share:
            mine.append(test)
    return sorted(mine, key=lambda test: test.id())


def main(results: str, share: str, patterns: list[str]) -> int:
    loader = unittest.TestLoader()
    if patterns:
        loader.testNamePatterns = [f"*{pattern}*" for pattern in patterns]
    number, shares = map(int, share.split("/"))
    found = tests_of(loader.discover(str(HERE)))
    # A module that cannot be imported is a test that fails, and must be in one share at least.
    mine = share_of(found, number - 1, shares)
    began = time.monotonic()
    print(f"kernel {os.uname().release}, seed {harness.SEED}, {len(mine)} of {len(found)} tests", flush=True)
    outcome = unittest.TextTestRunner(stream=sys.stdout, verbosity=2, resultclass=Outcome).run(unittest.TestSuite(mine))
    pathlib.Path(results).write_text(json.dumps({
        "found": len(found), "ran": outcome.testsRun,
        "failed": len(outcome.failures) + len(outcome.errors) + len(outcome.unexpectedSuccesses),
        "skipped": len(outcome.skipped) + len(outcome.expectedFailures),
        "seconds": round(time.monotonic() - began), "kernel": os.uname().release}))
    return 0 if outcome.wasSuccessful() and not outcome.skipped else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
