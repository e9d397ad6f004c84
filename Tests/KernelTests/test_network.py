# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A bad network between the hosts, made by the kernel (C3): packets lost, late, out of order, twice, damaged; hardly any
bandwidth; small packets; nothing at all for a while. A send arrives, or says that the connection was lost and goes on
where it was when it is repeated."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
import unittest

from devices import MIB
from harness import SEED, KernelTest, Result, command

INTERRUPTED, UNREACHABLE = 5, 4
CAMPAIGN = os.environ.get("BLOCKFERRY_CAMPAIGN") == "1"
# What `tc` is told of each network, and how many bytes are sent through it, ascending: a volume does not shrink.
NETWORKS = {
    "64 kbit/s": ("rate 64kbit", 96 << 10),
    "packets lost": (f"loss {30 if CAMPAIGN else 15}%", MIB // 4),
    "lost, late and out of order": ("loss 5% delay 20ms 10ms reorder 25% 50%", MIB),
    "twice and damaged": ("duplicate 20% corrupt 5%", MIB),
    "lost in bursts": ("loss 10% 60% delay 5ms", MIB),
    "half a second away": ("delay 250ms", MIB),
}
ROUNDS = 4 if CAMPAIGN else 1
# A send that cannot connect within five seconds has failed.
ATTEMPTS = 20


class NetworkTests(KernelTest):
    def setUp(self) -> None:
        super().setUp()
        self.random = random.Random(SEED)
        self.hosts = self.site()
        self.plain, self.target = self.hosts.path / "plain", self.hosts.path / "copy"
        self.hosts.pair("db", self.target)
        self.addCleanup(command, "tc", "qdisc", "del", "dev", "lo", "root", check=False)

    def shape(self, words: str) -> None:
        # What netem is not told when it is changed, it keeps.
        command("tc", "qdisc", "del", "dev", "lo", "root", check=False)
        command("tc", "qdisc", "add", "dev", "lo", "root", "netem", "limit", 10_000, *words.split())

    def content(self, size: int) -> None:
        self.plain.write_bytes(self.random.randbytes(size))

    def arrive(self, what: str) -> int:
        """Sends until it has arrived; returns how many attempts that took."""
        for attempt in range(1, ATTEMPTS + 1):
            result = self.hosts.run("blockferry", "send", self.plain, "--to", "standby", "--volume", "db", "--json",
                                    timeout=300)
            if result.code == 0:
                self.assertEqual(self.target.read_bytes(), self.plain.read_bytes(), what)
                return attempt
            self.assertIn(result.code, (INTERRUPTED, UNREACHABLE), f"{what}: {result}")
            self.assertNotEqual(result.error.strip(), "", what)
        self.fail(f"{what}: not arrived after {ATTEMPTS} attempts; the last: {result}")

    def test_bad_networks(self) -> None:
        sends = 0
        for name, (words, size) in NETWORKS.items():
            with self.subTest(name):
                self.shape(words)
                began, attempts = time.monotonic(), []
                for _ in range(2 * ROUNDS):
                    self.content(size)
                    attempts.append(self.arrive(name))
                    sends += 1
                print(f"    {name}: attempts {attempts}, {time.monotonic() - began:.1f} s", flush=True)
        self.assertGreaterEqual(sends, 2 * len(NETWORKS) * ROUNDS)

    def test_small_packets(self) -> None:
        command("ip", "link", "set", "lo", "mtu", 576)
        self.addCleanup(command, "ip", "link", "set", "lo", "mtu", 65536)
        self.content(4 * MIB)
        self.assertEqual(self.arrive("packets of 576 bytes"), 1)

    def test_nothing_for_a_while(self) -> None:
        """Shorter than the idle limit: the transfer waits and goes on. Nothing is sent twice."""
        self.content(2 * MIB)
        self.shape("rate 2mbit")
        sender = self.hosts.start_send("db", self.plain)
        try:
            silent = threading.Thread(target=self.fall_silent, args=(20,))
            silent.start()
            out, error = sender.communicate(timeout=120)
            silent.join()
        finally:
            sender.kill()
        result = Result(subprocess.CompletedProcess([], sender.returncode, out, error))
        self.assert_code(result, 0)
        self.assertEqual(self.target.read_bytes(), self.plain.read_bytes())
        self.assertLess(result.json["bytes_on_wire"], 2 * MIB + 65536)

    def fall_silent(self, seconds: float) -> None:
        """While the transfer is under way, which takes over 8 s."""
        until(60, (self.hosts.standby / "staging/db.log").exists)
        time.sleep(1)
        self.shape("loss 100%")
        time.sleep(seconds)
        self.shape("rate 20mbit")

    test_bad_networks.cost = 90
    test_nothing_for_a_while.cost = 35


if __name__ == "__main__":
    unittest.main()
