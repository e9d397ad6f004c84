# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What a standby does to its target: storage given back only where zeros are proven, volumes that grow."""

from __future__ import annotations

import errno
import os
import pathlib
import random
import tempfile

import devices
from devices import MIB
from harness import KernelTest, command, mapped, until

SIZE = 12 * MIB

# A device whose discards do what the test wants: nothing at all, or an error.
LIAR = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <unistd.h>
int ioctl(int fd, unsigned long request, ...) {
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (request == 0x1277) {
        write(2, "DISCARD\n", 8);
        errno = ANSWER;
        return ANSWER == 0 ? 0 : -1;
    }
    static int (*real)(int, unsigned long, ...);
    if (real == 0) real = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    return real(fd, request, argument);
}
"""


class Source:
    """A file to send, which is compared byte for byte with what a target holds."""

    def __init__(self, test: KernelTest, site, size: int = SIZE) -> None:
        self.test, self.path, self.size = test, pathlib.Path(site.path) / "source.img", size
        self.path.write_bytes(b"")
        self.fill(0, size)

    def fill(self, offset: int, length: int, generator: random.Random | None = None) -> None:
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write((generator or random.Random(offset + length)).randbytes(length))

    def zero(self, offset: int, length: int) -> None:
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(bytes(length))

    def resize(self, size: int) -> None:
        os.truncate(self.path, size)
        self.size = size

    def arrives(self, site, target: str, generation: int) -> None:
        result = self.test.assert_code(site.send("db", self.path), 0)
        self.test.assertEqual(result.json["generation"], generation, result)
        self.compare(target)

    def compare(self, target: str) -> None:
        with open(self.path, "rb") as file:
            for offset in range(0, self.size, MIB):
                count = min(MIB, self.size - offset)
                expected = file.read(count)
                found = devices.read(target, offset, (count + 4095) // 4096 * 4096)[:count]
                self.test.assertTrue(found == expected, f"{target} differs in the MiB at {offset}")


class ZeroingTests(KernelTest):
    """Zero runs of every alignment, onto targets that may and that may not discard."""

    RANGES = ((0, MIB), (2 * MIB + 4096, MIB), (4 * MIB + 512, 65536), (5 * MIB - 512, 1024),
              (6 * MIB + 65536 - 512, 192 * 1024 + 1024), (SIZE - MIB - 12288, MIB + 12288))

    def mapped_bytes(self, name: str) -> int:
        return int(command("dmsetup", "status", f"sby-{mapped(name)}").stdout.split()[3]) * 512

    def target(self, name: str, chunk: int = 64 << 10, *change: str, size: int = 256 * MIB) -> str:
        self.standby.pool(chunk=chunk, size=size)
        for option in change:
            command("lvchange", "-qq", "-y", *option.split(), "sby/pool")
        return self.standby.thin(name, SIZE)

    def replicate(self, target: str) -> None:
        site = self.site()
        source = Source(self, site)
        site.pair("db", target, "--overwrite")
        source.arrives(site, target, 1)
        self.full = self.mapped_bytes("copy") if self.thin else 0
        for generation, ranges in enumerate((self.RANGES[::2], self.RANGES[1::2]), start=2):
            for offset, length in ranges:
                source.zero(offset, length)
            source.arrives(site, target, generation)
        self.least = self.mapped_bytes("copy") if self.thin else 0
        # What was given back is used again in part: the rest of a block must stay zero.
        for offset, length in self.RANGES:
            source.fill(offset + length // 2 // 512 * 512, 512)
        source.arrives(site, target, 4)

    thin = True

    def test_zeros_give_storage_back_on_a_thin_volume(self) -> None:
        self.replicate(self.target("copy"))
        self.assertEqual(self.full, SIZE)
        whole = sum(max((offset + length) // 65536 - (offset + 65535) // 65536, 0) for offset, length in self.RANGES)
        # All whole blocks; ragged ends stay.
        self.assertEqual(self.least, SIZE - whole * 65536)

    def test_zeros_with_pool_blocks_of_another_size(self) -> None:
        for chunk in (192 << 10, 1 << 20):
            with self.subTest(chunk=chunk):
                self.replicate(self.target("copy", chunk))
                whole = sum((offset + length) // chunk - (offset + chunk - 1) // chunk
                            for offset, length in self.RANGES if length >= chunk)
                self.assertGreater(whole, 0)
                if chunk & (chunk - 1):
                    # Linux 6.1 cuts a discard at powers of two, and a pool ignores parts of a block.
                    # At least every second one is given back all the same.
                    self.assertLessEqual(self.least, SIZE - (whole // 2) * chunk)
                else:
                    self.assertEqual(self.least, SIZE - whole * chunk)
            self.doCleanups()
            self.setUp()

    def test_zeros_of_a_first_copy_take_no_storage(self) -> None:
        target = self.target("copy")
        site = self.site()
        source = Source(self, site)
        source.zero(MIB, SIZE - 2 * MIB)
        site.pair("db", target)
        source.arrives(site, target, 1)
        self.assertEqual(self.mapped_bytes("copy"), 2 * MIB)

    def test_zeros_are_written_where_the_pool_ignores_discards(self) -> None:
        command("lvcreate", "-qq", "-y", "--type", "thin-pool", "-c", "64k", "-L", "128m", "-Zy", "--discards", "ignore",
                "-n", "pool", "sby")
        self.replicate(self.standby.thin("copy", SIZE))
        self.assertEqual(self.mapped_bytes("copy"), SIZE)

    def test_zeros_are_written_where_the_pool_does_not_zero_its_blocks(self) -> None:
        target = self.target("copy", 64 << 10, "-Zn", "--discards nopassdown")
        self.assertIn("skip_block_zeroing", command("dmsetup", "table", "sby-pool-tpool").stdout)
        self.replicate(target)
        self.assertEqual(self.mapped_bytes("copy"), SIZE)

    def test_why_a_pool_that_does_not_zero_its_blocks_proves_nothing(self) -> None:
        """The kernel's own doing: a block that was given back and is written in part shows old content."""
        target = self.target("copy", 64 << 10, "-Zn", "--discards nopassdown", size=SIZE)
        devices.write(target, (0, SIZE))
        devices.discard(target, 0, SIZE)
        # The pool's blocks are free for use again once it has committed that.
        command("dmsetup", "status", "sby-pool-tpool")
        self.assertTrue(devices.zeros(target, 0, MIB))
        devices.write(target, *((block, 4096) for block in range(0, SIZE, 65536)))
        self.assertFalse(devices.zeros(target, 4096, 61440), "the rest of the block ought to be old content")

    def test_zeros_are_written_where_an_external_origin_would_show(self) -> None:
        self.standby.pool()
        origin = self.standby.thick("origin", SIZE)
        devices.write(origin, (0, SIZE))
        command("lvchange", "-qq", "-an", "sby/origin")
        command("lvchange", "-qq", "-pr", "sby/origin")
        command("lvcreate", "-qq", "-y", "-s", "--thinpool", "pool", "-kn", "-n", "copy", "sby/origin")
        command("lvchange", "-qq", "-ay", "-K", "sby/copy")
        table = command("dmsetup", "table", "sby-copy").stdout.split()
        self.assertEqual(len(table), 6, table)
        self.replicate(self.standby.path("copy"))

    def lie(self, answer: int):
        """A site whose daemon gets this answer to every discard, which does nothing."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="liar.", dir="/run"))
        (folder / "liar.c").write_text(LIAR)
        command("gcc", "-O1", "-shared", "-fPIC", f"-DANSWER={answer}", "-o", folder / "liar.so", folder / "liar.c")
        os.environ["LD_PRELOAD"] = str(folder / "liar.so")
        try:
            return self.site()
        finally:
            del os.environ["LD_PRELOAD"]

    def test_a_discard_that_keeps_the_content_is_found_and_zeros_are_written(self) -> None:
        for answer in (0, errno.EOPNOTSUPP):
            with self.subTest(answer=answer):
                if answer:
                    self.doCleanups()
                    self.setUp()
                target = self.target("copy")
                site = self.lie(answer)
                source = Source(self, site)
                site.pair("db", target)
                source.arrives(site, target, 1)
                for offset, length in self.RANGES:
                    source.zero(offset, length)
                source.arrives(site, target, 2)
                self.assertEqual(self.mapped_bytes("copy"), SIZE)
                self.assertIn("DISCARD", (site.path / "daemon.log").read_text(), "no discard was tried")

    def test_a_discard_that_fails_each_time_leaves_the_generation_to_be_written(self) -> None:
        target = self.target("copy")
        site = self.lie(errno.EIO)
        source = Source(self, site)
        site.pair("db", target)
        source.arrives(site, target, 1)
        source.zero(0, MIB)
        self.assert_code(site.send("db", source.path), 11, "BLKDISCARD")
        # The standby tries again by itself, and with whoever comes.
        for _ in range(3):
            self.assert_code(site.send("db", source.path), 11, "BLKDISCARD")
        self.assertEqual(site.status("db")["state"], "applying")
        site.kill_daemon()
        site.start_daemon()
        self.assertTrue(until(60, lambda: site.status("db")["state"] == "consistent"), site.status("db"))
        source.compare(target)

    def test_zeros_are_written_on_a_thick_volume(self) -> None:
        self.thin = False
        target = self.standby.thick("copy", SIZE)
        devices.write(target, (0, SIZE))
        self.replicate(target)

    def test_blocks_that_a_snapshot_shares_are_given_back_too(self) -> None:
        target = self.target("copy")
        site = self.site()
        source = Source(self, site)
        site.pair("db", target)
        source.arrives(site, target, 1)
        kept = self.standby.snapshot("kept", "copy")
        before = devices.sha256(kept)
        source.zero(0, SIZE // 2)
        source.arrives(site, target, 2)
        self.assertEqual(self.mapped_bytes("copy"), SIZE // 2)
        self.assertEqual(devices.sha256(kept), before, "the snapshot has changed")

    test_zeros_with_pool_blocks_of_another_size.cost = 20
    test_a_discard_that_keeps_the_content_is_found_and_zeros_are_written.cost = 15


class GrowthTests(KernelTest):
    """A source that grows or shrinks, and what its target does."""

    def outgrow(self, target: str, path: str) -> None:
        site = self.site()
        source = Source(self, site)
        site.pair("db", target)
        source.arrives(site, target, 1)
        before, status = devices.sha256(target), site.status("db")
        size = SIZE + 3 * MIB + 512
        source.resize(size)
        source.fill(SIZE - 4096, MIB)
        for _ in range(2):
            refused = self.assert_code(
                site.send("db", source.path), 9, "too-small", str(SIZE), str(size), f"lvextend -L {size}b {path}")
            self.assertEqual(devices.sha256(target), before)
            now = site.status("db")
            for field in ("state", "generation", "generation_id", "committed"):
                self.assertEqual(now[field], status[field], field)
        # The command that the refusal names, as it stands there.
        words = refused.error[refused.error.index("lvextend"):].split(")")[0].split()
        command(*words)
        source.arrives(site, target, 2)

    def test_a_thick_volume_that_was_outgrown_is_mended_by_the_command_in_the_refusal(self) -> None:
        target = self.standby.thick("co-py", SIZE)
        self.outgrow(target, target)

    def test_a_thin_volume_that_was_outgrown_is_mended_by_the_command_in_the_refusal(self) -> None:
        self.standby.pool()
        target = self.standby.thin("copy", SIZE)
        self.outgrow(target, target)

    def test_a_volume_keeps_its_size_when_what_it_holds_shrinks(self) -> None:
        self.standby.pool()
        target = self.standby.thin("copy", SIZE)
        site = self.site()
        source = Source(self, site)
        site.pair("db", target)
        source.arrives(site, target, 1)
        before, size = devices.size(target), SIZE // 2 + 512
        source.resize(size)
        source.fill(size - 9000, 9000)
        self.assert_code(site.send("db", source.path), 7, "size-shrunk")
        self.assertEqual(devices.size(target), before)
        self.assert_code(site.send("db", source.path, "--allow-shrink"), 0)
        source.compare(target)
        self.assertEqual(devices.size(target), SIZE)
        # What is beyond the volume is not part of it, even where the target still holds it.
        source.resize(SIZE)
        source.arrives(site, target, 3)
