# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments: the target is the old or the new generation, and the next send completes."""

import fcntl
import os
import random
import time
import unittest

from harness import Result, Site, sha256, until

KILLS = int(os.environ.get("BLOCKFERRY_KILLS", "200"))
SEGMENT = 16 << 20


class Kills(unittest.TestCase):
    def test_random_kills(self) -> None:
        seed = int(os.environ.get("BLOCKFERRY_SEED", time.time_ns() % 1_000_000))
        rng = random.Random(seed)
        site = Site()
        self.addCleanup(site.close)
        site.start_daemon()
        target, plain = site.path / "copy", site.path / "plain"
        block = rng.randbytes(1 << 20)
        with open(plain, "wb") as file:
            for number in range(40):
                file.write(number.to_bytes(4, "little") * 1024 + block[4096:])
        site.pair("vol", target)
        # How long a send takes: the full copy at first, then the last increment that was not resumed.
        usual = 0.0

        def completes() -> Result:
            nonlocal usual
            began = time.monotonic()
            result = site.send("vol", plain)
            if result.code == 0 and result.json["result"] in ("full", "delta") and not result.json["resumed_segments"]:
                usual = time.monotonic() - began
            return result

        self.assertEqual(completes().code, 0)
        kills = old_after = new_after = mid = resumed = 0
        while kills < KILLS:
            old = sha256(target)
            with open(plain, "r+b") as file:
                # Something in every block, so that all of them are sent.
                for block in range(0, 40 << 20, 65536):
                    file.seek(block + rng.randrange(61440))
                    file.write(rng.randbytes(8))
            new = sha256(plain)
            # Several kills in a row at one generation, of either side.
            for _ in range(rng.randint(1, 4)):
                process = site.start_send("vol", plain)
                time.sleep(rng.random() * usual * 1.1)
                if rng.random() < 0.5:
                    process.kill()
                else:
                    site.kill_daemon()
                process.communicate(timeout=60)
                kills += 1
                if site.daemon is None:
                    site.start_daemon()
                # Recovery is local: without the sender the target is whole once no process has the volume.
                self.assertTrue(until(30, lambda: site.is_free("vol")), f"seed {seed}")
                found = sha256(target)
                self.assertIn(found, (old, new), f"torn after kill {kills}, seed {seed}")
                if found == new:
                    new_after += 1
                else:
                    old_after += 1
                state = site.status("vol")["state"]
                mid += state == "staging"
                self.assertIn(state, ("consistent", "staging"), f"seed {seed}")
            results = []

            def is_complete() -> bool:
                results.append(completes())
                return results[-1].code == 0

            self.assertTrue(until(30, is_complete), f"seed {seed}: {results[-1:]}")
            self.assertEqual(sha256(target), new, f"seed {seed}")
            facts = results[-1].json
            if facts["resumed_segments"]:
                resumed += 1
                left = (facts["planned_segments"] - facts["resumed_segments"]) * (SEGMENT + (1 << 20))
                self.assertLessEqual(facts["bytes_on_wire"], left + SEGMENT, f"seed {seed}")
        print(f"kills: {kills} (seed {seed}), afterwards old {old_after}, new {new_after}; "
              f"in the middle of a transfer {mid}; sends that were resumed {resumed}")
        self.assertGreaterEqual(kills, KILLS)
        self.assertGreaterEqual(mid, KILLS // 10)
        self.assertGreaterEqual(resumed, 1)

    def test_what_another_process_had_at_the_start_is_recovered_later(self) -> None:
        """A worker of an earlier run may end after the next daemon has begun. A log that no transfer owns is what there is
        to recover here."""
        site = Site()
        self.addCleanup(site.close)
        site.start_daemon()
        plain = site.path / "plain"
        plain.write_bytes(bytes(100_000))
        site.pair("vol", site.path / "copy")
        self.assertEqual(site.send("vol", plain).code, 0)
        self.assertTrue(until(10, lambda: site.is_free("vol")))
        site.kill_daemon()
        left = site.standby / "staging/vol.log"
        left.write_bytes(b"left")
        with open(site.standby / "locks/vol") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            site.start_daemon()
            self.assertIn("volume vol: another process has it", site.journal())
            time.sleep(1)
            self.assertTrue(left.exists(), "recovered what another process has")
        self.assertTrue(until(10, lambda: not left.exists()), "never recovered")


if __name__ == "__main__":
    unittest.main()
