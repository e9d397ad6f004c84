# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Little of everything (A8) and signals at any moment (A10).

Limits: descriptors, address space and processes, in steps from nothing to enough, on the daemon and on the sender. Each
run works, or ends with a documented code and one sentence; nothing traps or stays behind, and without the limit a send
completes.

Signals: SIGTERM, SIGINT and SIGHUP at a random moment of a transfer to the daemon, a worker or the sender, SIGSTOP
and SIGCONT. A program that is to end does so within 5 s; the target is the old or the new generation; the next send
completes."""

from __future__ import annotations

import itertools
import os
import pathlib
import random
import resource
import signal
import time
import unittest
from collections import Counter

from host import HUNG, SEED, HostSite, Proxy, count, ended_well, in_parallel, sha256, until

# Users of nobody else, one for each site: a limit of processes counts all that a user has.
USERS = itertools.count(61_001)
MEGA = 1 << 20
# Each from what cannot even start to what is enough.
STEPS = {
    "NOFILE": list(range(3, 23)) + [26, 32, 64],
    "AS": [megabytes * MEGA for megabytes in (8, 16, 32, 48, 64, 80, 96, 104, 112, 120, 128, 136, 144, 152, 160, 176,
                                              192, 208, 224, 240, 256, 288, 320, 384, 512, 1024)],
    "NPROC": list(range(0, 20)),
}


# Where the runtime itself gets no memory it ends the program without a word; ours do not.
RUNTIME = (-signal.SIGILL, -signal.SIGTRAP, -signal.SIGSEGV, -signal.SIGABRT)


def limited(kind: str, value: int, user: int):
    """What a program does before it begins. Root has no limit of processes: the sender becomes somebody else for
    that one."""
    number = getattr(resource, f"RLIMIT_{kind}")

    def prepare() -> None:
        if kind == "NPROC":
            os.setgid(user)
            os.setgroups([])
            resource.setrlimit(number, (value, value))
            os.setuid(user)
        else:
            resource.setrlimit(number, (value, value))

    return prepare


def loaded(result) -> bool:
    """Whether the program was run at all: what the dynamic linker or the kernel says is not its word."""
    words = result.error
    return not ("error while loading shared libraries" in words
                or "cannot allocate memory" in words.lower() and ".so" in words
                or result.code in (127, -9, -11) and not words)


class Limits(unittest.TestCase):
    @staticmethod
    def site() -> HostSite:
        site = HostSite()
        site.user = next(USERS)
        site.committed(20)
        site.settled()
        site.kill_daemon()
        site.save()
        return site

    def change(self, site: HostSite) -> None:
        with open(site.plain, "r+b") as file:
            file.write(os.urandom(200_000))

    def owned(self, user: int, *paths: pathlib.Path) -> None:
        for root in paths:
            for path in [root, *root.rglob("*")]:
                os.chown(path, user, user)

    def one(self, site: HostSite, case: tuple[str, str, int]) -> str:
        side, kind, value = case
        told = f"{kind} {value} on the {side}"
        site.restore()
        self.owned(0, site.target, site.plain)
        old = sha256(site.target)
        self.change(site)
        prepare = limited(kind, value, site.user)
        if kind == "NPROC":
            site.path.chmod(0o777)
            self.owned(site.user, *((site.standby, site.target) if side == "standby" else (site.source, site.plain)))
        logged = len(site.journal())
        failed, result = None, None
        try:
            failed = site.begin_daemon(prepare=prepare if side == "standby" else None)
            if not failed:
                result = site.bounded("blockferry", *site.sending(), prepare=prepare if side == "source" else None,
                                      seconds=40)
        except BlockingIOError:
            # The kernel does not even let it begin.
            outcome = "did not start"
        if failed:
            if loaded(failed):
                ended_well(self, failed, f"{told}: serve", lines=3)
            outcome = "did not start"
        elif result:
            # A sender that is refused with "try again" does so for a while: not for ever.
            if kind == "AS" and side == "source" and result.code in RUNTIME and not result.error:
                outcome = "died"
            elif side == "standby" or loaded(result):
                ended_well(self, result, told)
                outcome = "works" if result.code == 0 else f"exit {result.code}"
            else:
                outcome = "did not start"
        self.assertIn(sha256(site.target), (old, sha256(site.plain)), f"{told}: torn")
        journal = site.journal()[logged:]
        self.assertNotIn("Fatal error", journal, told)
        for line in journal.splitlines():
            if "was ended by signal" in line:
                self.assertEqual(kind, "AS", f"{told}: {line}")
        # Without the limit, and as the user of before.
        site.kill_daemon()
        if kind == "NPROC":
            self.owned(0, site.standby, site.source, site.target, site.plain)
        site.start_daemon()
        again = site.bounded("blockferry", *site.sending())
        ended_well(self, again, f"{told}: afterwards", codes=(0,))
        self.assertEqual(sha256(site.target), sha256(site.plain), told)
        site.settled()
        site.kill_daemon()
        return outcome

    def enumerate(self, kind: str) -> None:
        steps = STEPS[kind] if count(0, 1) else STEPS[kind][::2]
        wanted = [(side, kind, value) for side in ("standby", "source") for value in steps]
        results = in_parallel(self.site, self.one, wanted, 3)
        for side in ("standby", "source"):
            print(f"RLIMIT_{kind} on the {side}: " + ", ".join(
                f"{case[2] // MEGA if kind == 'AS' else case[2]} {result if isinstance(result, str) else 'BAD'}"
                for case, result in zip(wanted, results) if case[0] == side), flush=True)
        bad = [f"{case}: {str(result)[:600]}" for case, result in zip(wanted, results) if isinstance(result, Exception)]
        for words in bad:
            print(f"BAD {words}", flush=True)
        self.assertEqual(bad, [])
        self.assertGreaterEqual(len(wanted), count(20, 40))
        # The steps reach from nothing to enough.
        for side in ("standby", "source"):
            outcomes = [result for case, result in zip(wanted, results) if case[0] == side]
            self.assertEqual(outcomes[-1], "works", side)
            self.assertNotEqual(outcomes[0], "works", side)

    def test_descriptors(self) -> None:
        self.enumerate("NOFILE")

    def test_a_catalog_that_gets_no_descriptors_is_told(self) -> None:
        """libdispatch, below the SQLite library, ends a process that has too few, some of the times."""
        site = self.site()
        for limit in range(3, 10):
            for _ in range(40):
                result = site.bounded("blockferry", "status", "--state", str(site.source),
                                      prepare=limited("NOFILE", limit, site.user), seconds=40)
                if loaded(result):
                    ended_well(self, result, f"NOFILE {limit}: status", lines=3)

    def test_address_space(self) -> None:
        self.enumerate("AS")

    def test_processes(self) -> None:
        self.assertEqual(os.geteuid(), 0, "needs root, to become somebody else")
        self.enumerate("NPROC")


class Signals(unittest.TestCase):
    """Under load: a sender that sends 2 MiB, through a proxy that takes its time."""

    @staticmethod
    def site() -> HostSite:
        site = HostSite()
        site.committed(32)
        site.proxy = Proxy(site.port, lambda data, at: time.sleep(0.004) or data)
        site.readdress(site.proxy.port)
        site.went = 0.4
        return site

    def one(self, site: HostSite, case: tuple[int, str, int]) -> str:
        number, whom, sent = case
        told = f"{signal.Signals(sent).name} to the {whom}, case {number}"
        rng = random.Random(SEED * 100_003 + number)
        old = sha256(site.target)
        with open(site.plain, "r+b") as file:
            file.write(rng.randbytes(2 << 20))
        new = sha256(site.plain)
        process = site.begin("blockferry", *site.sending()[:-2], "never")
        time.sleep(rng.random() * site.went)
        pids = {"sender": [process.pid], "daemon": [site.daemon.pid]}.get(whom)
        if pids is None:
            listing = pathlib.Path(f"/proc/{site.daemon.pid}/task/{site.daemon.pid}/children").read_text()
            pids = [int(word) for word in listing.split()][:1]
        began = time.monotonic()
        for pid in pids:
            if pid != process.pid or process.poll() is None:
                try:
                    os.kill(pid, sent)
                except ProcessLookupError:
                    pass
        if sent == signal.SIGSTOP:
            time.sleep(rng.choice((0.05, 0.3, 1.0)))
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    pass
        result = site.end(process, 30)
        self.assertNotEqual(result.code, HUNG, told)
        self.assertIn(result.code, (*range(13), *({-sent} if whom == "sender" else set())), f"{told}: {result}")
        self.assertNotIn("Fatal error", result.error, told)
        if sent == signal.SIGSTOP:
            self.assertEqual(result.code, 0, f"{told}: {result}")
        if whom == "sender" and sent != signal.SIGSTOP:
            self.assertLess(time.monotonic() - began, 5, told)
        if whom == "daemon" and sent != signal.SIGSTOP:
            self.assertTrue(until(5 - min(4.5, time.monotonic() - began), lambda: site.daemon.poll() is not None),
                            f"{told}: not gone after 5 s")
            wanted = (0,) if sent != signal.SIGHUP else (0, -sent)
            self.assertIn(site.daemon.returncode, wanted, told)
            site.daemon = None
            failed = site.begin_daemon()
            self.assertIsNone(failed, f"{told}: {failed}")
        site.settled()
        # What a worker that was killed alone has begun to apply is ended by whoever opens the volume next.
        alone = whom == "worker"
        until(20, lambda: alone or site.status("vol")["state"] != "applying")
        found = sha256(site.target)
        self.assertTrue(found in (old, new) or alone and site.status("vol")["state"] == "applying", f"{told}: torn")
        if result.code == 0:
            self.assertEqual(found, new, told)
        again = site.bounded("blockferry", *site.sending(), seconds=40)
        ended_well(self, again, f"{told}: afterwards", codes=(0,))
        self.assertEqual(sha256(site.target), new, told)
        self.assertNotIn("Fatal error", site.journal(), told)
        return f"{signal.Signals(sent).name} {whom} {'done' if result.code == 0 else 'ended'}"

    def test_signals(self) -> None:
        kinds = [(whom, sent) for whom in ("daemon", "sender", "worker")
                 for sent in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGSTOP)]
        wanted = [(number, *kinds[number % len(kinds)]) for number in range(count(60, 1000))]
        results = in_parallel(self.site, self.one, wanted, 4)
        bad = [f"{case}: {str(result)[:600]}" for case, result in zip(wanted, results) if isinstance(result, Exception)]
        outcomes = Counter(result for result in results if isinstance(result, str))
        print(f"signals: {len(wanted)} (at least {count(60, 1000)}), {dict(sorted(outcomes.items()))}", flush=True)
        for words in bad:
            print(f"BAD {words}", flush=True)
        self.assertEqual(bad, [])
        self.assertGreaterEqual(len(wanted), count(60, 1000))
        ended = sum(number for name, number in outcomes.items() if name.endswith("ended"))
        self.assertGreaterEqual(ended, len(wanted) // 10)


if __name__ == "__main__":
    unittest.main()
