# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Strangers, who have no key (F1, F2, F4, F5, F3, F7): silent and trickling connections, floods, garbage, and what the port
tells. Needs the packages `sslscan` and `testssl.sh`; without them tests fail."""

import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import time
import unittest
from xml.etree import ElementTree

import rogue
from rogue import CODES, REFUSE, Peer, Standby, count, encode, new_address, refusal


class Strangers(Standby):
    def processes(self) -> list[int]:
        pid = self.site.daemon.pid
        with open(f"/proc/{pid}/task/{pid}/children") as listing:
            return [pid, *map(int, listing.read().split())]

    def memory(self) -> int:
        """Resident bytes that the supervisor and all workers have for themselves: not those of the program's file, which
        they share, and of which a stranger whose record becomes whole makes one worker more."""
        total = 0
        for pid in self.processes():
            try:
                with open(f"/proc/{pid}/statm") as numbers:
                    _, resident, shared, *_ = map(int, numbers.read().split())
                total += (resident - shared) * os.sysconf("SC_PAGE_SIZE")
            except OSError:
                pass
        return total

    def processor(self) -> float:
        """Seconds of processor time of the supervisor alone."""
        with open(f"/proc/{self.site.daemon.pid}/stat") as numbers:
            fields = numbers.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def quiet(self) -> None:
        self.assertTrue(rogue.until(20, lambda: len(self.processes()) == 1), "workers stay")

    def legitimate(self) -> float:
        """Seconds until the peer has been told the STATE of its volume."""
        began = time.monotonic()
        peer, _ = self.vol.open()
        took = time.monotonic() - began
        peer.close()
        return took

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.site.port), 10, (new_address(), 0))

    def test_silent_and_trickling(self) -> None:
        # None becomes whole by a byte a round within the 5 s that it has: that would be a stranger with a worker.
        self.quiet()
        hello, before = rogue.first_flight()[:-60], self.memory()
        strangers, times, grown = [], [], 0

        def look() -> None:
            self.assertEqual(len(self.processes()), 1, "a silent or trickling connection has a worker")
            nonlocal grown
            grown = max(grown, self.memory() - before)

        try:
            for number in range(1000):
                stranger = self.connect()
                strangers.append(stranger)
                if number % 2:
                    stranger.sendall(hello[:1 + number % (len(hello) - 1)])
                if number % 250 == 249:
                    look()
                    times.append(self.legitimate())
                    # The worker of the peer has memory of its own.
                    self.quiet()
            due = time.monotonic() + count(0, 600)
            while time.monotonic() < due:
                for number, stranger in enumerate(strangers):
                    try:
                        stranger.send(b"\x16")
                    except OSError:
                        stranger.close()
                        strangers[number] = self.connect()
                look()
                times.append(self.legitimate())
                self.quiet()
        finally:
            for stranger in strangers:
                stranger.close()
        print(f"a peer among 1000 silent and trickling strangers: {max(times):.3f} s at most of {len(times)} (1 s); memory "
              f"of all processes grew by {grown / 2**20:.1f} MiB (8)", flush=True)
        self.assertLess(max(times), count(5, 1))
        self.assertLessEqual(grown, 8 << 20)

    def test_half_closed_hello(self) -> None:
        """A stranger that ends its stream in the middle of a ClientHello costs no processor time until it is dropped."""
        self.quiet()
        stranger = self.connect()
        stranger.sendall(rogue.first_flight()[:100])
        stranger.shutdown(socket.SHUT_WR)
        time.sleep(0.2)
        before = self.processor()
        time.sleep(2)
        used = self.processor() - before
        stranger.close()
        print(f"processor time of the supervisor in 2 s with one half-closed stranger: {used:.2f} s", flush=True)
        self.assertLess(used, 0.5)

    def test_connection_flood(self) -> None:
        began, connections, times = time.monotonic(), 0, []
        while time.monotonic() < began + count(3, 600):
            for _ in range(200):
                try:
                    self.connect().close()
                    connections += 1
                except OSError:
                    pass
            times.append(self.legitimate())
        print(f"connections opened and closed: {connections}, {connections / (time.monotonic() - began):.0f} a second; a peer "
              f"took {max(times):.3f} s at most", flush=True)
        self.assertLess(max(times), count(5, 1))
        self.assertGreaterEqual(connections, 500)

    def test_garbage(self) -> None:
        """Mutations of a real ClientHello: nobody traps, nobody is told anything but a TLS alert."""
        rng, hello, cases = random.Random(rogue.SEED), rogue.first_flight(), 0
        waiting: list[socket.socket] = []
        for number in range(count(2000, 100_000)):
            data = bytearray(hello)
            # Mutations of whole records are given to a worker each, which takes a while: a part of all in an ordinary run.
            match number % 8:
                case 0:
                    for _ in range(rng.randrange(1, 6)):
                        data[rng.randrange(5, len(data))] = rng.randrange(256)
                case 1: data = bytearray(rng.randbytes(rng.randrange(1, 600)))
                case 2: data[rng.randrange(3)] ^= 1 << rng.randrange(8)
                case 3: data[3:5] = rng.choice((b"\0\0", b"\x40\1", b"\xff\xff", b"\x40\0"))
                case 4: data = data[:rng.randrange(1, len(data))]
                case 5: data = bytearray(rng.choice((b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", bytes(64), b"\x80\x2e\1\0\2")))
                case 6: data = bytearray(b"\x16\3\1\x40\0" + rng.randbytes(rng.randrange(200)))
                case 7: data[0] = rng.randrange(256)
            stranger = self.connect()
            try:
                stranger.sendall(data)
            except OSError:
                pass
            waiting.append(stranger)
            cases += 1
            # Some at a time, so that every one that deserves a worker gets one.
            if len(waiting) == 24:
                time.sleep(0.1)
                for old in waiting:
                    old.close()
                waiting.clear()
        for old in waiting:
            old.close()
        self.quiet()
        self.assertLess(self.legitimate(), 5)
        self.report("garbage for the port", cases, count(2000, 100_000))

    def test_sslscan(self) -> None:
        self.assertIsNotNone(shutil.which("sslscan"), "install the package sslscan")
        xml = self.site.path / "sslscan.xml"
        subprocess.run(["sslscan", f"--xml={xml}", "--no-colour", f"127.0.0.1:{self.site.port}"], check=True, timeout=120,
                       stdout=subprocess.DEVNULL)
        test = ElementTree.parse(xml).getroot().find("ssltest")
        enabled = {(item.get("type"), item.get("version")) for item in test.findall("protocol") if item.get("enabled") == "1"}
        print(f"sslscan: enabled {sorted(enabled)}, renegotiation "
              f"{[item.attrib for item in test.findall('renegotiation')]}, compression "
              f"{[item.attrib for item in test.findall('compression')]}", flush=True)
        self.assertEqual(enabled, {("tls", "1.3")})
        for what in ("renegotiation", "compression"):
            self.assertTrue(all(item.get("supported") == "0" for item in test.findall(what)), what)
        self.assertEqual([item.attrib for item in test.findall("heartbleed") if item.get("vulnerable") == "1"], [])
        self.assertTrue({item.get("cipher") for item in test.findall("cipher")} <= {
            "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})

    def test_testssl(self) -> None:
        """Everything that testssl.sh looks for but its list of clients."""
        self.assertIsNotNone(shutil.which("testssl"), "install the package testssl.sh")
        report = self.site.path / "testssl.json"
        subprocess.run(["testssl", "--ip", "one", "--warnings", "off", "--color", "0", "-p", "-s", "-f", "-P", "-S", "-U", "-E",
                        "--jsonfile", report, f"127.0.0.1:{self.site.port}"], timeout=600, stdout=subprocess.DEVNULL,
                       stdin=subprocess.DEVNULL)
        found = {item["id"]: item for item in json.loads(report.read_text())}
        # It warns of itself, where it would have to show a certificate.
        print(f"testssl.sh: {len(found)} findings, {sorted({item['severity'] for item in found.values()})}", flush=True)
        self.assertGreaterEqual(len(found), 40)
        self.assertEqual([item for item in found.values() if item["severity"] not in ("OK", "INFO", "DEBUG", "WARN")], [])
        for name in ("SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2"):
            self.assertEqual(found[name]["finding"], "not offered", name)
        self.assertEqual(found["sessionresumption_ticket"]["finding"], "not supported")

    def test_no_tickets(self) -> None:
        """sslscan does not look for tickets: after a session that was greeted there is none."""
        peer = Peer(self.site.port, self.vol.identity)
        peer.hello()
        self.assertTrue(peer.socket.session is None or not peer.socket.session.has_ticket)
        peer.close()

    def test_what_the_port_tells(self) -> None:
        """An unknown volume and another peer's: the same frame but for the name that was asked for. Unknown keys: no frame."""
        told = set()
        for number in range(count(30, 10_000)):
            name = ("theirs", "nobody")[number % 2]
            self.vol.wait()
            peer = Peer(self.site.port, self.vol.identity)
            peer.hello()
            peer.send("OPEN", encode.open_(name))
            kind, payload = peer.answer()
            self.assertEqual((kind, refusal(payload)[0]), (REFUSE, CODES["not-authorised"]))
            told.add(payload.replace(name.encode(), b"NAME"))
            peer.close()
        self.assertEqual(len(told), 1, told)
        stranger = self.site.path / "stranger"
        self.assertEqual(self.site.run("blockferry", "id", state=stranger).code, 0)
        told = set()
        for identity in (stranger / "identity.pem", None):
            for _ in range(count(5, 1000)):
                try:
                    peer = Peer(self.site.port, identity)
                    peer.send("HELLO", encode.hello())
                    kind, _ = peer.answer()
                    peer.close()
                    self.assertLessEqual(kind, 0, "a stranger was answered by a frame")
                    told.add((identity is None, "end"))
                except ssl.SSLError as error:
                    told.add((identity is None, error.reason))
                except ConnectionResetError:
                    told.add((identity is None, "reset"))
        print(f"told to strangers (no certificate?, what): {sorted(told, key=str)}")


if __name__ == "__main__":
    unittest.main()
