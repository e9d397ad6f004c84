# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Files, devices and images that are not what they seem: another thing under the same path, the same thing with other
content, one that is written while it is sent, one that somebody uses. What is committed is a point in time of the right source,
to the byte, or nothing is."""

import fcntl
import mmap
import json
import os
import pathlib
import shutil
import sqlite3
import struct
import subprocess
import time
import unittest
from contextlib import closing

from harness import BIN, Proxy, Result, Site, sha256

from decoder import messages, tag_map  # found by way of harness
from decoder.core import Context, Reader

SIZE = 3 << 20


class IdentityTest(unittest.TestCase):
    """A standby that holds generation 1 of a plain file."""

    def setUp(self) -> None:
        self.site = Site()
        self.addCleanup(self.site.close)
        self.site.start_daemon()
        self.proxy: Proxy | None = None
        self.plain, self.target = self.site.path / "plain", self.site.path / "copy"
        self.plain.write_bytes(os.urandom(SIZE))
        self.site.pair("vol", self.target)
        self.sent("full")

    def sent(self, result: str, *source: object, volume: str = "vol", target: pathlib.Path | None = None) -> dict:
        """A send that succeeds, after which the copy is the source."""
        found = self.site.send(volume, *(source or (self.plain,)))
        self.assertEqual(found.code, 0, found)
        self.assertEqual(found.json["result"], result, found)
        if not source:
            self.assertEqual(sha256(target or self.target), sha256(self.plain))
        return found.json

    def refused(self, found: Result, code: int, *words: str) -> None:
        """One sentence; the copy and its generation are as they were."""
        self.assertEqual(found.code, code, found)
        self.assertTrue(found.is_one_sentence, found)
        for word in words:
            self.assertIn(word, found.error)

    def write(self, offset: int = 5 << 16, count: int = 4096, path: pathlib.Path | None = None) -> None:
        with open(path or self.plain, "r+b") as file:
            file.seek(offset)
            file.write(os.urandom(count))

    def loop(self, path: pathlib.Path, *options: str) -> str:
        device = subprocess.run(["losetup", "--show", "-f", *options, path], check=True, capture_output=True,
                                text=True).stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "-d", device], check=True)
        return device

    def mounted(self, device: str) -> None:
        where = self.site.path / f"mount-{time.monotonic_ns()}"
        where.mkdir()
        subprocess.run(["mount", device, where], check=True)
        self.addCleanup(subprocess.run, ["umount", where], check=True)

    def during(self, at: int, change) -> None:
        """Has `change` called when so many bytes of the next connection that sends as many have gone to the standby."""
        done = []

        def tamper(data: bytes, position: int) -> bytes:
            if position >= at and not done:
                done.append(True)
                change()
            return data

        self.proxy = Proxy(self.site.port, tamper)
        self.addCleanup(self.proxy.close)
        self.readdress(self.proxy.port)
        self.hit = done

    def readdress(self, port: int) -> None:
        with closing(sqlite3.connect(self.site.source / "catalog.sqlite")) as catalog, catalog:
            catalog.execute("UPDATE receiver SET address = ?", (f"127.0.0.1:{port}",))

    def record(self, volume: str = "vol") -> tuple[dict, bytes]:
        """The committed generation in the source's catalog, by the decoder in Python, and the key of its tags."""
        with closing(sqlite3.connect(self.site.source / "catalog.sqlite")) as catalog:
            committed, key = catalog.execute("SELECT committed, tag_key FROM replica WHERE volume = ?", (volume,)).fetchone()
        return messages.generation(Reader(committed), Context()), key


class OtherSources(IdentityTest):
    def other(self) -> pathlib.Path:
        path = self.site.path / "other"
        path.write_bytes(os.urandom(SIZE))
        return path

    def test_another_file_is_refused_until_it_is_adopted(self) -> None:
        other, before = self.other(), sha256(self.target)
        self.refused(self.site.send("vol", other), 7, "other-source", str(self.plain), str(other), "--adopt-source")
        plan = self.site.send("vol", other, "--dry-run")
        self.assertEqual((plan.code, plan.json["decision"], plan.json["rule"]), (7, "refuse", "other-source"), plan)
        self.assertIn("--adopt-source", plan.json["next"])
        out = self.site.path / "file"
        for command in (("resync",), ("resync", "--plan"), ("export", "--output", out)):
            result = self.site.run("blockferry", command[0], other, "--to", "standby", "--volume", "vol", *command[1:])
            self.refused(result, 7, "other-source")
        self.assertFalse(out.exists())
        self.assertEqual((sha256(self.target), self.site.status("vol")["generation"]), (before, 1))
        # Of what is equal in both nothing travels.
        self.write(path=other)
        shutil.copyfile(self.plain, other)
        self.write(path=other)
        result = self.site.send("vol", other, "--adopt-source")
        self.assertEqual((result.code, result.json["bytes_changed"]), (0, 1 << 16), result)
        self.assertEqual(sha256(self.target), sha256(other))
        # From now on the other one is the source.
        self.refused(self.site.send("vol", self.plain), 7, "other-source")
        self.assertEqual(self.site.send("vol", other).json["result"], "up-to-date")

    def test_another_file_in_a_group_is_refused(self) -> None:
        other, second = self.other(), self.site.path / "second"
        second.write_bytes(os.urandom(1 << 20))
        self.site.pair("log", self.site.path / "log.copy")
        before = sha256(self.target)
        result = self.site.run("blockferry", "send", other, second, "--to", "standby", "--group", "g", "--volume", "vol",
                               "--volume", "log")
        self.refused(result, 7, "other-source", "vol: ")
        self.assertEqual((sha256(self.target), self.site.status("log")["state"]), (before, "empty"))

    def test_a_file_in_the_place_of_the_old_one_is_another_one(self) -> None:
        """Renamed over, also with the same content, times and size; a hard link of the old one is the old one."""
        link, before = self.site.path / "link", sha256(self.target)
        os.link(self.plain, link)
        copy = self.site.path / "new"
        shutil.copy2(self.plain, copy)
        os.rename(copy, self.plain)
        self.refused(self.site.send("vol", self.plain), 7, "other-source", "inode")
        self.assertEqual(sha256(self.target), before)
        self.write(path=link)
        result = self.site.send("vol", link)
        self.assertEqual((result.code, result.json["result"]), (0, "delta"), result)
        self.assertEqual(sha256(self.target), sha256(link))

    def test_another_source_may_not_go_on_with_a_cut_first_copy(self) -> None:
        target = self.site.path / "second.copy"
        self.site.pair("second", target)
        self.plain.write_bytes(os.urandom(40 << 20))
        process = self.site.start_send("second", self.plain, "--compress", "never")
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        while not target.exists() or os.stat(target).st_blocks < 4096:
            self.assertIsNone(process.poll(), "it was too fast")
        process.kill()
        process.wait()
        other = self.site.path / "other"
        other.write_bytes(os.urandom(40 << 20))
        self.refused(self.site.send("second", other), 7, "other-source")
        result = self.site.send("second", other, "--adopt-source")
        self.assertEqual((result.code, result.json["resumed_segments"]), (0, 0), result)
        self.assertEqual(sha256(target), sha256(other))

    def test_a_first_copy_that_was_refused_names_no_source(self) -> None:
        disk = self.site.path / "disk"
        disk.write_bytes(bytes(SIZE))
        self.site.pair("second", self.loop(disk))
        large = self.site.path / "large"
        large.write_bytes(os.urandom(2 * SIZE))
        self.assertEqual(self.site.send("second", large).code, 9)
        other = self.other()
        self.assertEqual(self.site.send("second", other).code, 0)
        self.assertEqual(sha256(disk), sha256(other))


class OtherContent(IdentityTest):
    def restored(self) -> None:
        """Writes, and puts the times back."""
        times = os.stat(self.plain)
        self.write()
        os.utime(self.plain, ns=(times.st_atime_ns, times.st_mtime_ns))
        self.assertEqual(os.stat(self.plain).st_mtime_ns, times.st_mtime_ns)

    def test_time_of_last_write_put_back(self) -> None:
        self.sent("up-to-date")
        self.restored()
        self.assertEqual(self.sent("delta")["bytes_changed"], 1 << 16)

    def test_two_writes_within_one_tick_of_the_clock(self) -> None:
        for _ in range(20):
            self.write()
            first = self.site.send("vol", self.plain)
            self.write()
            self.assertEqual(first.code, 0, first)
            self.sent("delta")

    def test_written_through_a_mapping(self) -> None:
        with open(self.plain, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            for number in range(3):
                memory[number] ^= 1
                self.assertGreater(self.sent("delta")["bytes_changed"], 0)
                # Somebody may write it: it is read, and nothing has changed.
                self.assertEqual(self.sent("delta")["bytes_changed"], 0)
                # The page is clean again, and the next write to it is seen.
                memory[number + 4096] ^= 1
                self.assertGreater(self.sent("delta")["bytes_changed"], 0)
        self.sent("delta")
        self.sent("up-to-date")

    def test_a_file_that_is_open_for_writing_is_never_up_to_date(self) -> None:
        """A long write sets the times of a file when it begins, and may be under way."""
        self.sent("up-to-date")
        with open(self.plain, "ab"):
            self.assertEqual(self.sent("delta")["bytes_changed"], 0)
        self.assertEqual(self.sent("delta")["bytes_changed"], 0)
        with open(self.plain, "rb"):
            self.sent("up-to-date")

    def begin_second(self, plain: pathlib.Path) -> pathlib.Path:
        """A second volume, sent from a new file, which is the source from now on; returns its target."""
        self.plain = plain
        self.plain.write_bytes(os.urandom(SIZE))
        target = self.site.path / "second.copy"
        self.site.pair("second", target)
        self.sent("full", self.plain, volume="second")
        return target

    def test_on_a_file_system_whose_times_prove_nothing(self) -> None:
        where = self.site.path / "memory"
        where.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", where], check=True)
        self.addCleanup(subprocess.run, ["umount", where], check=True)
        target = self.begin_second(where / "plain")
        with open(self.plain, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[7] ^= 1
            stat = os.stat(self.plain)
            self.sent("delta", self.plain, volume="second")
            self.assertEqual(sha256(target), sha256(self.plain))
            memory[7] ^= 1
            self.assertEqual(os.stat(self.plain).st_mtime_ns, stat.st_mtime_ns, "it would have been seen")
            self.sent("delta", self.plain, volume="second")
            self.assertEqual(sha256(target), sha256(self.plain))
        # It is never up to date, and nothing is said to have changed.
        self.assertEqual(self.sent("delta", self.plain, volume="second")["bytes_changed"], 0)

    def test_on_a_file_system_that_counts_whole_seconds(self) -> None:
        image, where = self.site.path / "coarse.img", self.site.path / "coarse"
        image.write_bytes(bytes(16 << 20))
        subprocess.run(["mkfs.ext4", "-q", "-F", "-I", "128", image], check=True, stderr=subprocess.DEVNULL)
        where.mkdir()
        subprocess.run(["mount", self.loop(image), where], check=True)
        self.addCleanup(subprocess.run, ["umount", where], check=True)
        target = self.begin_second(where / "plain")
        for _ in range(3):
            # All within one second.
            time.sleep(1 - time.time() % 1)
            for _ in range(2):
                self.write()
                self.sent("delta", self.plain, volume="second")
                self.assertEqual(sha256(target), sha256(self.plain))

    def test_verify_wants_the_content_that_was_sent(self) -> None:
        self.restored()
        result = self.site.run("blockferry", "verify", self.plain, "--to", "standby", "--volume", "vol")
        self.refused(result, 7, "not what generation 1 was made from")

    def test_image_files_that_are_not_those_that_were_sent(self) -> None:
        """A pool's images copied, and the data changed: the metadata say the same, the content is another."""
        pool = self.site.pool()
        target = self.site.path / "pool.copy"
        self.site.pair("pool", target)
        self.sent("full", *pool.source("s0"), volume="pool")
        self.assertNotIn("compared_because", self.sent("delta", *pool.source("s1"), volume="pool"))
        self.assertEqual(self.sent("up-to-date", *pool.source("s1"), volume="pool")["generation"], 2)
        # Written in place: no number in the metadata tells it.
        data = pathlib.Path(pool.data)
        content = data.read_bytes()
        place = next(at for at in range(0, len(content), 1 << 16) if any(content[at:at + 64]))
        self.write(place, 1 << 16, path=data)
        result = self.sent("delta", *pool.source("s1"), volume="pool")
        self.assertIn("not the files", result["compared_because"])
        self.assertGreater(result["bytes_read_to_compare"], 0)
        other = self.site.path / "pool.other"
        self.site.pair("again", other)
        self.sent("full", *pool.source("s1"), volume="again")
        self.assertEqual(sha256(target), sha256(other))

    def test_classic_images_without_exceptions(self) -> None:
        chunk = 4096
        store = self.site.path / "store"
        store.write_bytes(struct.pack("<IIII", 0x70416E53, 1, 1, chunk // 512).ljust(chunk, b"\0") + bytes(chunk * 4))
        target = self.site.path / "classic.copy"
        self.site.pair("classic", target)
        source = ("--cow-origin", self.plain, "--cow-store", store)
        self.sent("full", *source, volume="classic")
        self.sent("up-to-date", *source, volume="classic")
        self.restored()
        for more in ((), ("--base-store", store)):
            self.assertIn("compared_because", self.sent("delta", *source, *more, volume="classic"))
            self.assertEqual(sha256(target), sha256(self.plain))
            self.restored()


class WrittenWhileSent(IdentityTest):
    def setUp(self) -> None:
        super().setUp()
        self.plain.write_bytes(os.urandom(24 << 20))
        self.sent("delta")

    def both_ends(self) -> None:
        """An early block, then a late one: a point in time that has the late one has the early one too."""
        self.write(0)
        self.write((24 << 20) - 4096)

    def is_refused(self, *command: object) -> None:
        before = sha256(self.target)
        result = self.site.run("blockferry", *command, "--to", "standby")
        self.assertTrue(self.hit, "it was not written")
        self.refused(result, 5, "source-changed-while-sent")
        self.assertEqual(sha256(self.target), before)
        self.readdress(self.site.port)
        # Nothing of it goes on.
        self.assertEqual(self.sent("delta")["resumed_segments"], 0)

    def test_an_increment(self) -> None:
        self.plain.write_bytes(os.urandom(24 << 20))
        self.during(4 << 20, self.both_ends)
        self.is_refused("send", self.plain, "--volume", "vol", "--compress", "never")

    def test_an_increment_with_its_times_put_back(self) -> None:
        self.plain.write_bytes(os.urandom(24 << 20))
        stat = os.stat(self.plain)

        def change() -> None:
            self.both_ends()
            os.utime(self.plain, ns=(stat.st_atime_ns, stat.st_mtime_ns))

        self.during(4 << 20, change)
        self.is_refused("send", self.plain, "--volume", "vol", "--compress", "never")

    def test_a_resync(self) -> None:
        self.plain.write_bytes(os.urandom(24 << 20))
        self.during(4 << 20, self.both_ends)
        self.is_refused("resync", self.plain, "--volume", "vol", "--compress", "never")

    def test_a_first_copy(self) -> None:
        target = self.site.path / "second.copy"
        self.site.pair("second", target)
        self.during(4 << 20, self.both_ends)
        result = self.site.send("second", self.plain, "--compress", "never")
        self.assertTrue(self.hit)
        self.refused(result, 5, "source-changed-while-sent")
        self.assertEqual(self.site.status("second")["state"], "initialising")
        self.readdress(self.site.port)
        again = self.sent("full", self.plain, volume="second")
        self.assertEqual((again["resumed_segments"], sha256(target)), (0, sha256(self.plain)))

    def test_a_member_of_a_group(self) -> None:
        second, target = self.site.path / "log", self.site.path / "log.copy"
        second.write_bytes(os.urandom(1 << 20))
        self.site.pair("log", target)
        self.plain.write_bytes(os.urandom(24 << 20))
        before = sha256(self.target)
        command = ("send", second, self.plain, "--to", "standby", "--group", "g", "--volume", "log", "--volume", "vol",
                   "--compress", "never")
        self.during(4 << 20, self.both_ends)
        result = self.site.run("blockferry", *command)
        self.assertTrue(self.hit)
        self.refused(result, 5, "source-changed-while-sent", "vol: ")
        self.assertEqual((sha256(self.target), self.site.status("log").get("generation")), (before, None))
        self.readdress(self.site.port)
        self.assertEqual(self.site.run("blockferry", *command).code, 0)
        self.assertEqual((sha256(self.target), sha256(target)), (sha256(self.plain), sha256(second)))

    def test_an_export(self) -> None:
        self.plain.write_bytes(os.urandom(120 << 20))
        output = self.site.path / "file"
        process = subprocess.Popen(
            [BIN / "blockferry", "export", self.plain, "--to", "standby", "--volume", "vol", "--output", output, "--json",
             "--compress", "always"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)})
        while not any(name.stat().st_size > 1 << 20 for name in self.site.path.glob("*file*") if name.is_file()):
            self.assertIsNone(process.poll(), "it was too fast")
        self.write(0)
        self.assertIsNone(process.poll(), "it was too fast")
        out, error = process.communicate(timeout=90)
        self.assertEqual((process.returncode, json.loads(out)["rule"]), (5, "source-changed-while-sent"), error)
        self.assertIn("source-changed-while-sent", error)
        self.assertEqual(list(self.site.path.glob("*file*")), [])
        self.sent("delta")


class InUse(IdentityTest):
    def device(self) -> str:
        image = self.site.path / "disk"
        image.write_bytes(b"")
        os.truncate(image, 16 << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        return self.loop(image)

    def setUp(self) -> None:
        super().setUp()
        self.site.pair("disk", self.site.path / "disk.copy")

    def test_a_mounted_device(self) -> None:
        device = self.device()
        self.sent("full", device, volume="disk")
        self.mounted(device)
        self.refused(self.site.send("disk", device), 1, "source-in-use", "--allow-in-use")
        self.refused(self.site.send("disk", device, "--dry-run"), 1, "source-in-use")
        resync = self.site.run("blockferry", "resync", device, "--to", "standby", "--volume", "disk")
        self.refused(resync, 1, "source-in-use")
        result = self.site.send("disk", device, "--allow-in-use")
        self.assertEqual(result.code, 0, result)
        status = self.site.run("blockferry", "status")
        self.assertIn(f"plain {device}, in use", status.out)
        shown = next(v for v in self.site.run("blockferry", "status", "--json").json["volumes"] if v["volume"] == "disk")
        self.assertEqual(shown["source"], f"plain {device}, in use")
        self.assertEqual(self.record("disk")[0]["source_identity"], f"plain {device}, in use")

    def test_the_file_of_a_mounted_loop_device(self) -> None:
        self.mounted(self.device())
        self.refused(self.site.send("disk", self.site.path / "disk"), 1, "source-in-use", "loop")

    def test_the_file_of_a_mounted_loop_device_by_another_of_its_names(self) -> None:
        disk, link = self.site.path / "linked.img", self.site.path / "link.img"
        disk.write_bytes(bytes(16 << 20))
        subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
        os.link(disk, link)
        self.mounted(self.loop(link))
        self.site.pair("linked", self.site.path / "linked.copy")
        self.refused(self.site.send("linked", disk), 1, "source-in-use")

    def test_nobody_can_mount_what_is_sent(self) -> None:
        device = self.device()
        where = self.site.path / "where"
        where.mkdir()
        mounts = []

        def mount() -> None:
            mounts.append(subprocess.run(["mount", device, where], capture_output=True).returncode)

        with open(device, "r+b") as file:
            file.seek(8 << 20)
            file.write(os.urandom(6 << 20))
        self.during(4 << 20, mount)
        self.sent("full", device, "--compress", "never", volume="disk")
        self.assertEqual(len(mounts), 1)
        self.assertNotEqual(mounts[0], 0)

    def test_a_file_that_a_program_has_locked(self) -> None:
        disk = self.site.path / "image"
        disk.write_bytes(os.urandom(1 << 20))
        self.sent("full", disk, volume="disk")

        def held(lock) -> None:
            with open(disk, "r+b") as file:
                lock(file)
                self.refused(self.site.send("disk", disk), 1, "source-in-use")
                self.assertEqual(self.site.send("disk", disk, "--allow-in-use").code, 0)

        held(lambda file: fcntl.lockf(file, fcntl.LOCK_EX))
        held(lambda file: fcntl.lockf(file, fcntl.LOCK_EX, 1, 12345))
        held(lambda file: fcntl.flock(file, fcntl.LOCK_EX))
        # As QEMU says that it may write.
        held(lambda file: fcntl.lockf(file, fcntl.LOCK_SH, 1, 101))
        # Readers are welcome.
        with open(disk, "rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH)
            # When it was sent last, somebody could write it.
            self.assertEqual(self.sent("delta", disk, volume="disk")["bytes_changed"], 0)
            self.sent("up-to-date", disk, volume="disk")

    @unittest.skipUnless(shutil.which("qemu-storage-daemon"), "no qemu-storage-daemon here")
    def test_a_disk_of_a_virtual_machine(self) -> None:
        disk = self.site.path / "image"
        disk.write_bytes(os.urandom(1 << 20))
        process = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=f,filename={disk}",
             "--nbd-server", f"addr.type=unix,addr.path={self.site.path}/nbd", "--export",
             "type=nbd,id=e,node-name=f,writable=on", "--pidfile", self.site.path / "qemu.pid"])
        try:
            while not (self.site.path / "qemu.pid").exists():
                self.assertIsNone(process.poll())
                time.sleep(0.01)
            self.refused(self.site.send("disk", disk), 1, "source-in-use", "locked")
        finally:
            process.terminate()
            process.wait()
        self.sent("full", disk, volume="disk")


class Chains(IdentityTest):
    """The copy is sent on to a second volume, by a source on the standby's host."""

    def setUp(self) -> None:
        super().setUp()
        self.middle, self.end = self.site.path / "middle", self.site.path / "end"
        self.site.pair("chain", self.end, state=self.middle)

    def chain(self, source: object, standby: pathlib.Path | None = None) -> Result:
        return Result(subprocess.run(
            [BIN / "blockferry", "send", str(source), "--to", "standby", "--volume", "chain", "--json"],
            capture_output=True, text=True, timeout=90,
            env={**os.environ, "BLOCKFERRY_STATE": str(self.middle), "BLOCKFERRYD_STATE": str(standby or self.site.standby)}))

    def state(self, state: int) -> None:
        with closing(sqlite3.connect(self.site.standby / "catalog.sqlite")) as catalog, catalog:
            catalog.execute("UPDATE volume SET state = ? WHERE name = 'vol'", (state,))

    def test_a_committed_generation_is_sent_on(self) -> None:
        self.assertEqual(self.chain(self.target).code, 0)
        self.assertEqual(sha256(self.end), sha256(self.plain))

    def test_a_target_that_is_being_written_is_refused(self) -> None:
        """By any of its names."""
        link, symbolic = self.site.path / "hard", self.site.path / "soft"
        os.link(self.target, link)
        symbolic.symlink_to(self.target)
        loop = self.loop(self.target, "--read-only")
        with open(self.site.standby / "locks/vol") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for path in (self.target, link, symbolic, loop):
                self.refused(self.chain(path), 1, "source-is-target", "volume vol")
        self.assertFalse(self.end.exists() and self.end.stat().st_size)

    def test_a_target_to_which_nothing_was_sent_is_refused(self) -> None:
        target = self.site.path / "fresh"
        target.write_bytes(bytes(1 << 20))
        self.site.invite("fresh", target)
        self.refused(self.chain(target), 1, "source-is-target", "nothing was sent")

    def test_a_target_that_holds_no_generation_is_refused(self) -> None:
        for state, words in ((1, "initialising"), (4, "applying"), (6, "diverged"), (7, "suspect")):
            self.state(state)
            self.refused(self.chain(self.target), 1, "source-is-target", words)
        # What was promoted is its own source now.
        self.state(5)
        self.assertEqual(self.chain(self.target).code, 0)

    def test_a_loop_device_of_a_target_is_the_target(self) -> None:
        """Also of a standby that is not where this host's usually is: the mark says it."""
        self.state(7)
        for path in (self.target, self.loop(self.target, "--read-only")):
            for standby in (self.site.standby, self.site.path / "elsewhere"):
                self.refused(self.chain(path, standby), 1, "source-is-target", "suspect")

    def test_nothing_is_brought_to_it_while_it_is_read(self) -> None:
        self.plain.write_bytes(os.urandom(24 << 20))
        self.sent("delta")
        before, states = sha256(self.plain), []

        def send() -> None:
            self.write()
            states.append(self.site.send("vol", self.plain, "--compress", "never").code)

        self.during(1 << 20, send)
        with closing(sqlite3.connect(self.middle / "catalog.sqlite")) as catalog, catalog:
            catalog.execute("UPDATE receiver SET address = ?", (f"127.0.0.1:{self.proxy.port}",))
        self.readdress(self.site.port)
        result = self.chain(self.target)
        self.assertEqual((result.code, sha256(self.end)), (0, before), result)
        self.assertEqual(states, [3])
        self.sent("delta")


class Roots(IdentityTest):
    def test_a_generation_has_a_root_although_the_maps_were_lost(self) -> None:
        """Before it, in the middle of it, of an increment, a first copy and a resync."""
        self.plain.write_bytes(os.urandom(40 << 20))
        target = self.site.path / "second.copy"
        self.site.pair("second", target)
        for volume, verb, kind in (("vol", "send", "delta"), ("second", "send", "full"), ("vol", "resync", "resync")):
            if verb == "resync":
                self.plain.write_bytes(os.urandom(40 << 20))
            # By then the first of three segments is acknowledged.
            self.during(36 << 20, lambda: process.kill())
            process = subprocess.Popen(
                [BIN / "blockferry", verb, self.plain, "--to", "standby", "--volume", volume, "--compress", "never"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={**os.environ, "BLOCKFERRY_STATE": str(self.site.source)})
            process.wait()
            self.assertTrue(self.hit)
            self.readdress(self.site.port)
            for path in (self.site.source / "maps").iterdir():
                path.unlink()
            result = self.site.run("blockferry", verb, self.plain, "--to", "standby", "--volume", volume, "--json")
            self.assertEqual(result.code, 0, result)
            found = result.json["result"] if verb == "resync" else result.json
            self.assertEqual(found["result"], kind, result)
            self.assertGreater(found["resumed_segments"], 0 if verb == "send" else -1, result)
            record, key = self.record(volume)
            with open(self.plain, "rb") as file:
                root = tag_map.map_of_volume(file, record["tag_algorithm"], key, 40 << 20)[1]
            self.assertEqual(record["volume_root"], root)
            # And the map that was made anew is good for the next one.
            self.write()
            self.assertEqual(self.site.send(volume, self.plain).json["bytes_changed"], 1 << 16)


if __name__ == "__main__":
    unittest.main()
