# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A volume to a standby over loopback: blockferry send against dd, socat and TLS 1.3.

The volume is sparse, with scattered extents of data, half of it random and half like text. `full` is the
first copy, in place; `staged` is a second version of the file, all of whose data comes as a delta: into the
staging log, proven, applied. The peer sends the same bytes as one dense file.
"""
import argparse
import json
import os
import pathlib
import random
import socket
import subprocess
import time

from measure import Cost, Watcher, end_daemon, finish, loopback_bytes, median, spread, start, table

BIN = pathlib.Path(os.environ["BLOCKFERRY_BIN"])
MIB = 1 << 20
QUIET = {"stderr": subprocess.DEVNULL}


def text(rng):
    words = ["".join(rng.choices("etaoinshrdlucmfw", k=rng.randint(2, 9))) for _ in range(4000)]
    return " ".join(rng.choices(words, k=12 * MIB // 6)).encode()


def make_versions(scratch, volume, content):
    """Two sparse files with data at the same places, and the data of each as a dense file."""
    rng = random.Random(11)
    pool = text(rng)
    lengths, left = [], content
    while left:
        lengths.append(min(rng.randrange(1, 17) * 65536, left))
        left -= lengths[-1]
    gaps = sorted(rng.sample(range((volume - content) // 65536), len(lengths)))
    files = []
    for version in (1, 2):
        sparse, dense = scratch / f"volume{version}", scratch / f"dense{version}"
        with open(sparse, "wb") as file, open(dense, "wb") as packed:
            file.truncate(volume)
            passed = 0
            for index, (length, gap) in enumerate(zip(lengths, gaps)):
                if index % 2:
                    data = os.urandom(length)
                else:
                    at = rng.randrange(len(pool) - length)
                    data = pool[at:at + length]
                file.seek(gap * 65536 + passed)
                file.write(data)
                packed.write(data)
                passed += length
        files.append((sparse, dense))
    return files


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_listener(port):
    """Waits until somebody listens, without connecting."""
    wanted = f":{port:04X} "
    for _ in range(1000):
        for table_file in ("/proc/net/tcp", "/proc/net/tcp6"):
            with open(table_file) as file:
                if any(wanted in line and " 0A " in line for line in file):
                    return
        time.sleep(0.01)
    raise SystemExit(f"nobody listens on port {port}")


class Run:
    """What one transfer cost."""

    def __init__(self):
        self.sender, self.receiver = Cost(), Cost()
        self.wall = self.wire = 0.0
        self.frames = None


class Standby:
    """A daemon with one volume, and a source that is paired with it."""

    def __init__(self, scratch, compress):
        self.states = (scratch / "source-state", scratch / "standby-state")
        self.port = free_port()
        self.compress = compress
        for state in self.states:
            state.mkdir(mode=0o700)
        self.target = scratch / "target"
        invitation = json.loads(subprocess.run(
            [BIN / "blockferryd", "invite", "vol", "--target", self.target, "--create",
             "--address", f"127.0.0.1:{self.port}", "--json", "--state", self.states[1]],
            check=True, capture_output=True).stdout)["invitation"]
        run = Run()
        daemon, watcher = self.serve(run)
        subprocess.run([BIN / "blockferry", "pair", invitation, "--state", self.states[0]],
                       check=True, stdout=subprocess.DEVNULL)
        daemon.terminate()
        finish(daemon, run.receiver)
        watcher.stop()

    def serve(self, run):
        watcher = Watcher()
        daemon = start(
            [BIN / "blockferryd", "serve", "--listen", f"127.0.0.1:{self.port}", "--state",
             self.states[1]], watcher, run.receiver, **QUIET)
        await_listener(self.port)
        return daemon, watcher

    def send(self, source):
        run = Run()
        daemon, watcher = self.serve(run)
        before, began = loopback_bytes(), time.monotonic()
        sender = start(
            [BIN / "blockferry", "send", source, "--to", "standby", "--volume", "vol", "--json",
             "--compress", self.compress, "--state", self.states[0]], watcher, run.sender,
            stdout=subprocess.PIPE)
        result = json.loads(sender.stdout.read())
        finish(sender, run.sender)
        run.wall = time.monotonic() - began
        run.wire = loopback_bytes() - before
        run.frames = result["bytes_on_wire"]
        end_daemon(daemon, watcher, run.receiver)
        return run


def make_certificate(scratch):
    key, certificate = scratch / "key.pem", scratch / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate],
        check=True, **QUIET)
    return key, certificate


def socat(source, target, key, certificate):
    """The peer: dd | socat over TLS 1.3 | dd, 1 MiB buffers, direct I/O, and a flush."""
    run, watcher, port = Run(), Watcher(), free_port()
    listen = start(
        ["socat", "-u", "-b", MIB,
         f"OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,cert={certificate},key={key},verify=0,"
         "openssl-min-proto-version=TLS1.3", "STDOUT"],
        watcher, run.receiver, stdout=subprocess.PIPE, **QUIET)
    write = start(
        ["dd", f"of={target}", "bs=1M", "iflag=fullblock", "oflag=direct", "conv=notrunc,fsync"],
        watcher, run.receiver, stdin=listen.stdout, **QUIET)
    listen.stdout.close()
    await_listener(port)
    before, began = loopback_bytes(), time.monotonic()
    read = start(["dd", f"if={source}", "bs=1M", "iflag=direct"], watcher, run.sender,
                 stdout=subprocess.PIPE, **QUIET)
    connect = start(
        ["socat", "-u", "-b", MIB, "STDIN",
         f"OPENSSL:127.0.0.1:{port},cafile={certificate},verify=0,"
         "openssl-min-proto-version=TLS1.3"],
        watcher, run.sender, stdin=read.stdout, **QUIET)
    read.stdout.close()
    for process, cost in ((read, run.sender), (connect, run.sender), (listen, run.receiver),
                          (write, run.receiver)):
        finish(process, cost)
    run.wall, run.wire = time.monotonic() - began, loopback_bytes() - before
    watcher.stop()
    return run


def compare(source, target):
    """Every byte that is data in either file; what is a hole in both is equal."""
    with open(source, "rb") as left, open(target, "rb") as right:
        size = os.fstat(left.fileno()).st_size
        if os.fstat(right.fileno()).st_size != size:
            raise SystemExit(f"{target} has another size")
        compared = 0
        for begin, end in [*data(left), *data(right)]:
            for at in range(begin, end, MIB):
                count = min(MIB, end - at)
                if os.pread(left.fileno(), count, at) != os.pread(right.fileno(), count, at):
                    raise SystemExit(f"{target} differs near byte {at}")
                compared += count
        if not compared:
            raise SystemExit("nothing was compared")


def data(file):
    """The ranges of a file that are not holes."""
    end, size = 0, os.fstat(file.fileno()).st_size
    while end < size:
        try:
            begin = os.lseek(file.fileno(), end, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
        yield begin, end


def drop(*paths):
    """Lets the page cache forget files, so that both sides read from the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("scratch", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--volume-gib", type=int, default=64)
    parser.add_argument("--data-mib", type=int, default=2048)
    parser.add_argument("--compress", default="auto")
    parser.add_argument("--only", default="full,staged,peer")
    arguments = parser.parse_args()
    scratch, only = arguments.scratch, arguments.only.split(",")
    versions = make_versions(scratch, arguments.volume_gib << 30, arguments.data_mib * MIB)
    key, certificate = make_certificate(scratch)
    copy = scratch / "copy"
    with open(copy, "wb") as file:
        for _ in range(arguments.data_mib):
            file.write(b"\1" * MIB)
    results = {}
    for number in range(arguments.rounds):
        drop(copy, *(path for pair in versions for path in pair))
        if "peer" in only:
            results.setdefault("dd, socat, TLS 1.3", []).append(
                socat(versions[number % 2][1], copy, key, certificate))
        place = scratch / f"round{number}"
        place.mkdir()
        standby = Standby(place, arguments.compress)
        results.setdefault("blockferry full", []).append(standby.send(versions[0][0]))
        if number == 0:
            compare(versions[0][0], standby.target)
        if "staged" in only:
            drop(standby.target, versions[1][0])
            results.setdefault("blockferry staged", []).append(standby.send(versions[1][0]))
            if number == 0:
                compare(versions[1][0], standby.target)
        subprocess.run(["rm", "-rf", place], check=True)
    report(results, arguments.data_mib / 1024)


def report(results, gib):
    peer = results.get("dd, socat, TLS 1.3")
    rows = []
    for name, runs in results.items():
        both = [(run.sender.cpu + run.receiver.cpu) / gib for run in runs]
        row = [
            name, spread([run.wall for run in runs], 1),
            spread([run.sender.cpu / gib for run in runs]),
            spread([run.receiver.cpu / gib for run in runs]), spread(both),
            f"{median([run.sender.rss for run in runs]):.0f}",
            f"{median([run.receiver.rss for run in runs]):.0f}",
            f"{median([run.wire for run in runs]) / 1e6:.0f}",
        ]
        if peer:
            others = [(run.sender.cpu + run.receiver.cpu) / gib for run in peer]
            row += [
                f"{median([a.wall / b.wall for a, b in zip(runs, peer)]):.2f}",
                f"{median([a / b for a, b in zip(both, others)]):.2f}",
            ]
        rows.append(row)
    header = ["transfer", "wall s", "CPU s/GiB sender", "receiver", "both",
              "RSS MiB sender", "receiver", "wire MB"]
    table(header + (["x wall", "x CPU"] if peer else []), rows)


if __name__ == "__main__":
    main()
