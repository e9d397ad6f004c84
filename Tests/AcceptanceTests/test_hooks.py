# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What is run when a send has ended; what the service manager hears; what a running daemon may write."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
import unittest

from harness import BIN, Site, sha256, until

SIZE = 2_000_000


class OutcomeTests(unittest.TestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()
        self.source, self.told = self.site.path / "source.img", self.site.path / "told"
        self.source.write_bytes(random.Random(1).randbytes(SIZE))
        self.site.pair("db", self.site.path / "copy.img")

    def tell(self, *names: str) -> str:
        """A hook that writes its arguments and what it finds in the environment."""
        values = "".join(f'printf "%s\\n" "$BLOCKFERRY_{name}" >>{self.told}; ' for name in names)
        return f'echo "$@" >{self.told}; {values}'

    def heard(self) -> list[str]:
        lines = self.told.read_text().splitlines()
        self.told.unlink()
        return lines

    def send(self, *more: str):
        return self.site.run("blockferry", "send", self.source, "--to", "standby", "--volume", "db", "--json", *more)

    def test_a_success_is_told_with_what_is_on_the_standby(self) -> None:
        hook = ("--post-success", self.tell("RESULT", "PEER", "GENERATION", "ID"), "--post-failure", "echo >&2 no; exit 9")
        for number, result in ((1, "full"), (1, "up-to-date"), (2, "delta")):
            if result == "delta":
                self.source.write_bytes(b"changed" + self.source.read_bytes()[7:])
            sent = self.send(*hook)
            self.assertEqual((sent.code, sent.error), (0, ""), sent)
            self.assertEqual(self.heard(), ["db", result, "standby", str(number), sent.json["generation_id"]])

    def test_of_a_group_each_volume_has_its_word(self) -> None:
        self.site.pair("log", self.site.path / "log.img")
        sent = self.site.run("blockferry", "send", self.source, self.source, "--to", "standby", "--group", "both", "--volume", "db",
                             "--volume", "log", "--post-success", self.tell("RESULT", "GENERATION"))
        self.assertEqual(sent.code, 0, sent)
        self.assertEqual(self.heard(), ["db log", "full full", "1 1"])

    def test_a_hook_that_fails_after_a_success_takes_nothing_back(self) -> None:
        sent = self.send("--post-success", "echo full disk >&2; exit 7")
        self.assertEqual(sent.code, 1, sent)
        self.assertEqual((sent.json["result"], sent.json["generation"]), ("full", 1))
        self.assertIn("everything was sent, but --post-success: ", sent.error)
        self.assertIn("full disk", sent.error)
        self.assertEqual(self.site.status("db")["generation"], 1)
        late = self.send("--post-success", "sleep 60", "--hook-timeout", "1")
        self.assertEqual(late.code, 1, late)
        self.assertIn("did not end within 1 s", late.error)

    def test_a_failure_is_told_with_its_code_and_rule(self) -> None:
        self.assertEqual(self.send().code, 0)
        self.assertEqual(self.site.run("blockferryd", "promote", "db").code, 0)
        hooks = ("--post-success", f"touch {self.site.path}/wrong", "--post-failure", self.tell("RESULT", "EXIT", "RULE", "MESSAGE"))
        failed = self.send(*hooks)
        self.assertEqual(failed.code, 7, failed)
        self.assertEqual(self.heard(), ["db", "failed", "7", "promoted", failed.json["message"]])
        self.assertFalse((self.site.path / "wrong").exists())
        # If it fails, too, that is told, and the first error stays the error.
        twice = self.send("--post-failure", "exit 3")
        self.assertEqual(twice.code, 7, twice)
        self.assertIn("--post-failure: ", twice.error)
        self.site.kill_daemon()
        gone = self.send(*hooks)
        self.assertEqual(gone.code, 4, gone)
        self.assertEqual(self.heard()[1:4], ["failed", "4", "unreachable"])

    def test_wrong_use_and_dry_runs_run_nothing(self) -> None:
        hook = ("--post-failure", f"touch {self.told}")
        self.assertEqual(self.send("--dry-run", *hook).code, 2)
        self.assertEqual(self.send("--cow-size", "1M", *hook).code, 2)
        self.assertFalse(self.told.exists())


class CommitTests(unittest.TestCase):
    """What the standby runs after a commit."""

    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.source, self.target, self.told = (self.site.path / name for name in ("source.img", "copy.img", "told"))
        self.source.write_bytes(random.Random(2).randbytes(SIZE))

    def serve(self, command: str, *more: str) -> None:
        self.site.kill_daemon()
        self.site.daemon = subprocess.Popen(
            [BIN / "blockferryd", "serve", "--listen", f"127.0.0.1:{self.site.port}", "--post-commit", command, *more],
            stderr=self.site.log, env={**os.environ, "BLOCKFERRYD_STATE": str(self.site.standby)}, start_new_session=True)
        wanted = self.site.journal().count("listening on ") + 1
        self.assertTrue(until(60, lambda: self.site.journal().count("listening on ") >= wanted), self.site.journal())

    def send(self, *more: str):
        return self.site.run("blockferry", "send", self.source, "--to", "standby", "--volume", "db", "--json", *more)

    def test_it_sees_the_copy_of_its_generation_and_nothing_is_applied_meanwhile(self) -> None:
        self.serve(f'sha256sum <"$BLOCKFERRY_TARGET" >{self.told}.sum; sleep 3; sha256sum <"$BLOCKFERRY_TARGET" >>{self.told}.sum; '
                   f'echo "$1 $BLOCKFERRY_GENERATION $BLOCKFERRY_ID $BLOCKFERRY_TARGET" >{self.told}')
        self.site.pair("db", self.target)
        for number in (1, 2):
            sent = self.send()
            self.assertEqual(sent.code, 0, sent)
            # The sender hears of the commit when the hook is done.
            self.assertEqual(self.told.read_text().split(), ["db", str(number), sent.json["generation_id"], str(self.target)])
            sums = (self.site.path / "told.sum").read_text().split()
            self.assertEqual((sums[0], sums[2]), (sha256(self.source), sha256(self.source)))
            self.told.unlink()
            self.source.write_bytes(random.Random(number).randbytes(SIZE))
        first = self.site.start_send("db", self.source)
        self.assertTrue(until(60, lambda: (self.site.path / "told.sum").read_text().split()[:1] == [sha256(self.source)]))
        self.assertFalse(self.told.exists())
        second = self.send("--wait", "0")
        self.assertEqual(second.code, 3, second)
        self.assertEqual(first.wait(60), 0)
        first.communicate()
        self.assertTrue(self.told.exists())

    def test_one_that_fails_or_takes_too_long_takes_nothing_from_the_commit(self) -> None:
        for number, command, words in ((1, "echo no disk >&2; exit 5", "no disk"), (2, "sleep 60", "did not end within 1 s")):
            self.serve(command, "--hook-timeout", "1")
            if number == 1:
                self.site.pair("db", self.target)
            sent = self.send()
            self.assertEqual((sent.code, sent.json["generation"]), (0, number), sent)
            self.assertEqual(sha256(self.target), sha256(self.source))
            self.assertRegex(self.site.journal(), f"volume db: --post-commit: .*{words}")
            self.source.write_bytes(random.Random(number).randbytes(SIZE))


class ServiceManagerTests(unittest.TestCase):
    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.bind(str(self.site.path / "notify"))

    def heard(self, seconds: float) -> str | None:
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(100).decode()
        except TimeoutError:
            return None

    def serve(self, *prefix: str) -> subprocess.Popen:
        environment = {**os.environ, "BLOCKFERRYD_STATE": str(self.site.standby), "NOTIFY_SOCKET": str(self.site.path / "notify"),
                       "WATCHDOG_USEC": "3000000"}
        self.site.daemon = subprocess.Popen(
            [*prefix, BIN / "blockferryd", "serve", "--listen", f"127.0.0.1:{self.site.port}"], stderr=self.site.log,
            env=environment, start_new_session=True)
        self.assertEqual(self.heard(60), "READY=1", self.site.journal())
        return self.site.daemon

    def test_it_hears_of_readiness_of_life_and_of_the_end_before_it(self) -> None:
        daemon = self.serve()
        for _ in range(3):
            self.assertEqual(self.heard(30), "WATCHDOG=1")
        # One that stands still says nothing; the first that comes may have been under way.
        daemon.send_signal(signal.SIGSTOP)
        self.heard(0.1)
        self.assertIsNone(self.heard(4))
        daemon.send_signal(signal.SIGCONT)
        self.assertEqual(self.heard(30), "WATCHDOG=1")
        # A worker that does not end keeps the daemon for four seconds: it stops, and says so at once.
        self.site.pair("db", self.site.path / "copy.img")
        client = socket.create_connection(("127.0.0.1", self.site.port))
        self.addCleanup(client.close)
        daemon.send_signal(signal.SIGTERM)
        while (told := self.heard(30)) == "WATCHDOG=1":
            pass
        self.assertEqual(told, "STOPPING=1")
        self.assertEqual(daemon.wait(20), 0)
        self.site.daemon = None

    def test_an_invitation_knows_what_the_daemon_may_write(self) -> None:
        """Needs root: the daemon has mounts of its own, as in its unit."""
        closed, hidden, free = (self.site.path / name for name in ("closed", "hidden", "free"))
        for directory in (closed, hidden, free):
            directory.mkdir()
        script = (f"mount --bind {closed} {closed} && mount -o remount,ro,bind {closed} && mount -t tmpfs none {hidden} && "
                  'exec "$@"')
        self.serve("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")

        def invite(volume: str, directory) -> object:
            return self.site.run("blockferryd", "invite", volume, "--target", directory / "copy.img", "--create", "--address",
                                 f"127.0.0.1:{self.site.port}")

        refused = invite("one", closed)
        self.assertEqual((refused.code, "(rule read-only)" in refused.error), (9, True), refused)
        self.assertIn("ReadWritePaths=", refused.error)
        other = invite("two", hidden)
        self.assertEqual((other.code, "(rule missing)" in other.error), (9, True), other)
        # By another name of it as well.
        (self.site.path / "link").symlink_to(closed)
        self.assertEqual(invite("three", self.site.path / "link").code, 9)
        for directory in (closed, hidden):
            self.assertEqual(list(directory.iterdir()), [])
        self.assertEqual(invite("four", free).code, 0)
        # Nobody knows what a daemon may write that does not run.
        self.site.kill_daemon()
        self.assertEqual(invite("five", closed).code, 0)


if __name__ == "__main__":
    unittest.main()
