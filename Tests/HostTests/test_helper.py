# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""What a captured daemon may send to blockferryd-lvm: every malformed packet of the vectors and random ones, requests about
volumes that are not configured and snapshots that are somebody's, without the lock, in floods. LVM is played by scripts
that write down what they are asked to change; the packets are those of Protocol/helper.py, which was written from the text."""

from __future__ import annotations

import json
import os
import pathlib
import pwd
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import unittest

from host import BIN, SEED, count

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "Protocol"))
import helper  # noqa: E402
from helper import ACTIVATE, GROW, KEEP, KEPT, LOOK, RELEASE, ROOM  # noqa: E402

GROUP = "MZcaPs-acja-5UWk-onpH-KkRN-v2FM-pVJKwS"
HOME, OTHER = "vyfkH7-8VZc-OMgF-oYTv-fsvE-gFT1-TEE9nJ", "Xyfkh7-8VZc-OMgF-oYTv-fsvE-gFT1-TEE9nJ"
SNAPSHOT, STRANGE, WRITABLE, FIRST = (f"BlwnJ{c}-uuSm-VK3x-W4Cu-lnT8-t7C0-8m3hVS" for c in "abcd")
MINE = bytes(range(8))
MIB = 1 << 20


def ids(volume: str) -> str:
    return (GROUP + volume).replace("-", "")


def row(name: str, uuid: str, **changes: str) -> dict[str, str]:
    return {"vg_name": "vg", "vg_uuid": GROUP, "lv_name": name, "lv_uuid": uuid, "lv_size": str(8 * MIB), "lv_tags": "",
            "segtype": "thin", "pool_lv": "pool", "pool_lv_uuid": "p8tOcE-0ehr-vaI3-p35a-PhFQ-OcKk-L2OhH0", "origin": "",
            "origin_uuid": "", "thin_id": "2", "transaction_id": "1", "chunk_size": "0", "lv_kernel_major": "-1",
            "lv_kernel_minor": "-1", "data_percent": "", "lv_time": "1795492362", "lv_permissions": "writeable",
            "lv_merging": "", "lv_role": "public", "metadata_percent": "", "vg_mda_size": "1044480", "vg_mda_free": "519680",
            **changes}


def tags(standby: bytes = MINE, volume: str = "home", number: int = 7) -> str:
    return f"blockferry,{helper.tag(standby, volume, number, bytes([number]) * 32, 1, 2)}"


def first_tags(standby: bytes = MINE, volume: str = "home", number: int = 7) -> str:
    """Those of earlier versions."""
    return ",".join(["blockferry", f"blockferry.standby={standby.hex()}", f"blockferry.volume={volume}",
                     f"blockferry.generation={number}", f"blockferry.id={bytes(32).hex()}", "blockferry.time=1",
                     "blockferry.committed=2"])


ROWS = [
    row("home", HOME), row("other", OTHER), row("thick", HOME[:-1] + "K", segtype="linear", pool_lv="", pool_lv_uuid=""),
    row("home_blockferry_g7", SNAPSHOT, origin="home", origin_uuid=HOME, lv_permissions="read-only", lv_tags=tags()),
    row("home_blockferry_g8", STRANGE, origin="home", origin_uuid=HOME, lv_permissions="read-only",
        lv_tags=tags(bytes(8), number=8)),
    row("home_blockferry_g9", WRITABLE, origin="home", origin_uuid=HOME, lv_tags=tags(number=9)),
    row("home_blockferry_g6", FIRST, origin="home", origin_uuid=HOME, lv_permissions="read-only", lv_tags=first_tags(number=6)),
]
# LVM and device-mapper as far as these tests need them.
PROGRAM = """#!/bin/sh
case ${0##*/} in
    lvs) cat "$REPORT" ;;
    *) echo "${0##*/} $*" >>"$CHANGES"; [ -e /proc/self/fd/0 ] && readlink /proc/self/fd/0 >>"$CHANGES.input" ;;
esac
"""


# Another user's process: prints what it was answered.
STRANGER = """
import os, socket, sys
os.setuid(64123)
near = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
near.connect(sys.argv[1])
near.send(bytes.fromhex(sys.argv[2]))
try:
    print(len(near.recv(10)))
except ConnectionResetError:
    print(0)
"""


class HelperTests(unittest.TestCase):
    def setUp(self) -> None:
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="helper."))
        self.addCleanup(shutil.rmtree, self.path)
        self.changes, self.volumes, self.lock = (self.path / name for name in ("changes", "volumes", "lock"))
        self.volumes.write_text("# configured\nvg/home\nvg/thick\n")
        self.volumes.chmod(0o644)
        self.lock.touch()
        report = self.path / "report"
        report.write_text(json.dumps({"report": [{"lv": ROWS}]}))
        programs = self.path / "programs"
        programs.mkdir()
        for name in ("lvs", "lvcreate", "lvremove", "lvextend", "lvchange", "lvconvert", "lvmconfig", "dmsetup"):
            (programs / name).write_text(PROGRAM)
            (programs / name).chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "REPORT": str(report),
                            "CHANGES": str(self.changes)}
        self.user = pwd.getpwuid(os.geteuid()).pw_name

    def start(self, connection: socket.socket) -> subprocess.Popen:
        number = connection.fileno()
        return subprocess.Popen(
            ["bash", "-c", f'exec 3<&{number}; exec {number}<&-; exec "$@"', "helper", BIN / "blockferryd-lvm", "--volumes",
             self.volumes, "--user", self.user, "--state", self.path / "state"],
            pass_fds=[number], env=self.environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def ask(self, packet: bytes, *descriptors: int, lock: bool = True) -> dict | None:
        """What the helper answers to a packet; it must end well, whatever that was."""
        if lock and not descriptors:
            with open(self.lock) as file:
                return self.ask(packet, file.fileno())
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with near, far:
            process = self.start(far)
            far.close()
            socket.send_fds(near, [packet], list(descriptors)) if descriptors else near.send(packet)
            near.settimeout(30)
            answer = near.recv(1 << 20)
            _, words = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 0, words)
        self.words = words
        return helper.read_answer(answer) if answer else None

    def assert_refused(self, packet: bytes, *words: str, **more) -> None:
        answer = self.ask(packet, **more)
        self.assertEqual(answer and answer["status"], helper.REFUSED, answer)
        for word in words:
            self.assertIn(word, answer["reason"])
        self.assertEqual(self.changed(), [], "something was changed")

    def changed(self) -> list[str]:
        """The commands that would have changed something, without the settings of ours."""
        lines = self.changes.read_text().splitlines() if self.changes.exists() else []
        self.assertEqual([line for line in lines if "backup{archive=0} " not in line], [])
        return [re.sub(r" --config .*backup\{archive=0\}", "", line) for line in lines]

    def test_every_malformed_packet_is_refused_and_nothing_is_run(self) -> None:
        vectors = [vector for vector in helper.vectors() if vector["kind"] == "request" and "error" in vector]
        for vector in vectors:
            with self.subTest(vector["name"]):
                data = bytes.fromhex(vector["bytes"])
                if data:
                    self.assert_refused(data, vector["error"])
        self.assertGreaterEqual(len(vectors), 20)
        self.assert_refused(helper.request(LOOK, ids(HOME), bytes(5000)), "too long")

    def test_random_packets_end_no_helper(self) -> None:
        rng = random.Random(SEED)
        good = [bytes.fromhex(v["bytes"]) for v in helper.vectors() if v["kind"] == "request" and "error" not in v]
        for _ in range(count(60, 2000)):
            packet = bytearray(rng.choice(good))
            for _ in range(rng.randrange(1, 4)):
                packet[rng.randrange(len(packet))] = rng.randrange(256)
            answer = self.ask(bytes(packet[:rng.randrange(1, len(packet) + 1)]))
            # No volume of the vectors is configured.
            self.assertTrue(answer and answer["status"] in (helper.REFUSED, helper.FAILED), answer)
        self.assertEqual(self.changed(), [])

    def test_a_volume_that_is_not_configured_is_not_touched(self) -> None:
        owner = helper.owner(MINE, "home")
        bodies = {KEPT: owner + helper.text(""), KEEP: owner + helper.mark(1, bytes(32), 1, 2),
                  RELEASE: owner + helper.text(SNAPSHOT), GROW: struct.pack("<Q", 1 << 40), ACTIVATE: b""}
        for kind, body in bodies.items():
            with self.subTest(kind):
                self.assert_refused(helper.request(kind, ids(OTHER), body), "vg/other", "none of the volumes")
                self.assert_refused(helper.request(kind, "A" * 64, body), "no logical volume")
        for kind in (LOOK, ROOM):
            self.assert_refused(helper.request(kind, ids(HOME)), "not active")

    def test_a_changed_or_missing_configuration_refuses_everything(self) -> None:
        packet = helper.request(ACTIVATE, ids(HOME))
        for text, mode in (("vg/home x\n", 0o644), ("vg/home\n", 0o666), ("vg/home\n" * 9000, 0o644), ("", 0o644)):
            self.volumes.write_text(text)
            self.volumes.chmod(mode)
            self.assert_refused(packet)
        self.volumes.unlink()
        self.assert_refused(packet, "No such file")
        self.volumes.symlink_to(self.lock)
        self.assert_refused(packet)

    def test_snapshots_that_are_not_the_owners_are_neither_listed_nor_removed(self) -> None:
        owner = helper.owner(MINE, "home")
        listed = self.ask(helper.request(KEPT, ids(HOME), owner + helper.text("")))
        self.assertEqual([(one["uuid"], one["number"], one["time"], one["committed"]) for one in listed["kept"]],
                         [(SNAPSHOT, 7, 1, 2), (FIRST, 6, 1, 2)])
        after = self.ask(helper.request(KEPT, ids(HOME), owner + helper.text(FIRST)))
        self.assertEqual((after["kept"], after["more"]), ([], False))
        for uuid in (STRANGE, WRITABLE, HOME, OTHER):
            self.assert_refused(helper.request(RELEASE, ids(HOME), owner + helper.text(uuid)), "that is kept")
        self.assert_refused(helper.request(RELEASE, ids(HOME), helper.owner(MINE, "mail") + helper.text(SNAPSHOT)))
        # Nothing says whether somebody has written to it, while the volume is not active.
        self.assert_refused(helper.request(RELEASE, ids(HOME), owner + helper.text(SNAPSHOT)), "not active")
        self.assert_refused(helper.request(KEEP, ids(HOME), owner + helper.mark(9, b"x" * 32, 1, 2)), "no active thin")

    def test_a_group_whose_text_is_nearly_full_gets_no_snapshot(self) -> None:
        """A twentieth of the text is for others."""
        keep = helper.request(KEEP, ids(HOME), helper.owner(MINE, "home") + helper.mark(9, b"x" * 32, 1, 2))
        for free, is_full in ((26_073, True), (0, True), (26_074, False), (521_472, False)):
            active = {"lv_kernel_major": "254", "lv_kernel_minor": "4095"}
            rows = [{**one, "vg_mda_free": str(free), **(active if one["lv_uuid"] == HOME else {})} for one in ROWS]
            (self.path / "report").write_text(json.dumps({"report": [{"lv": rows}]}))
            answer = self.ask(keep)
            # Else device-mapper is asked next, which knows no such device.
            self.assertEqual(f"is full but for {free} bytes" in answer["reason"], is_full, answer)
            self.assertIn(answer["status"], (helper.REFUSED, helper.FAILED))
        self.assertEqual(self.changed(), [])

    def test_a_volume_only_grows_and_only_a_thin_one(self) -> None:
        def grow(volume: str, size: int) -> bytes:
            return helper.request(GROW, ids(volume), struct.pack("<Q", size))
        for size in (512, 8 * MIB):
            self.assertEqual(self.ask(grow(HOME, size))["status"], helper.DONE)
        self.assert_refused(grow(HOME[:-1] + "K", 16 * MIB), "no thin volume")
        self.assertEqual(self.changed(), [])
        self.assertEqual(self.ask(grow(HOME, 16 * MIB))["status"], helper.DONE)
        self.assertEqual(self.changed(), [f"lvextend --yes --size {16 * MIB}b vg/home"])

    def test_what_changes_a_volume_holds_its_lock(self) -> None:
        packet = helper.request(ACTIVATE, ids(HOME))
        self.assert_refused(packet, "lock", lock=False)
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        for descriptors in ((reading,), (reading, writing), tuple([reading] * 100)):
            answer = self.ask(packet, *descriptors)
            self.assertEqual(answer["status"], helper.REFUSED, answer)
            self.assertIn("lock", answer["reason"])
        self.assertEqual(self.changed(), [])
        self.assertEqual(self.ask(packet)["status"], helper.DONE)
        self.assertEqual(self.changed(), ["lvchange --activate y --ignoreactivationskip --yes vg/home"])
        self.assertEqual((self.path / "changes.input").read_text().split(), [str(self.lock)])

    def test_who_connects_and_says_nothing_is_let_go(self) -> None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with near, far:
            silent = self.start(far)
            near.settimeout(30)
            far.close()
            self.assertEqual(near.recv(10), b"")
            silent.communicate(timeout=10)
        self.assertEqual(silent.returncode, 0)
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.close()
        with far:
            gone = self.start(far)
            gone.communicate(timeout=10)
        self.assertEqual(gone.returncode, 0)

    def test_another_user_is_not_heard(self) -> None:
        if os.geteuid() != 0:
            self.skipTest("needs root to become somebody else")
        where = str(self.path / "socket")
        self.path.chmod(0o755)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(listener.close)
        listener.bind(where)
        os.chmod(where, 0o666)
        listener.listen()
        asker = subprocess.Popen(
            [sys.executable, "-c", STRANGER, where, helper.request(LOOK, ids(HOME)).hex()], stdout=subprocess.PIPE, text=True)
        connection, _ = listener.accept()
        with connection:
            process = self.start(connection)
        _, words = process.communicate(timeout=30)
        self.assertIn("another user", words)
        self.assertEqual((process.returncode, asker.communicate(timeout=10)[0].strip()), (0, "0"))


if __name__ == "__main__":
    unittest.main()
