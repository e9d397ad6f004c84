# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Runs programs and says what they cost: CPU by wait4, resident memory by VmHWM."""
import os
import statistics
import subprocess
import threading
import time


class Cost:
    """What one side of a measurement cost."""

    def __init__(self):
        self.cpu = 0.0
        self.rss = 0.0
        """MiB: the greatest sum of the high-water marks of processes that ran at the same time."""


class Watcher:
    """Polls the high-water mark of processes and of their children."""

    def __init__(self):
        self.processes = []
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.poll, daemon=True)
        self.thread.start()

    def watch(self, pid, cost):
        self.processes.append((pid, cost))

    def poll(self):
        while not self.stopped.wait(0.01):
            sums = {}
            for pid, cost in list(self.processes):
                for member in [pid, *children(pid)]:
                    sums[cost] = sums.get(cost, 0) + high_water(member)
            for cost, kib in sums.items():
                cost.rss = max(cost.rss, kib / 1024)

    def stop(self):
        self.stopped.set()
        self.thread.join()


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def high_water(pid):
    """VmHWM in KiB; nothing before exec, whose memory is this program's own."""
    try:
        if os.readlink(f"/proc/{pid}/exe") == os.readlink("/proc/self/exe"):
            return 0
        with open(f"/proc/{pid}/status") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        return int(fields["VmHWM"].split()[0])
    except (OSError, KeyError):
        return 0


def start(command, watcher, cost, **options):
    process = subprocess.Popen([str(word) for word in command], **options)
    watcher.watch(process.pid, cost)
    return process


def finish(process, cost, wanted=(0,)):
    """Waits for a process and adds its CPU time, with that of the children it waited for."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    cost.cpu += usage.ru_utime + usage.ru_stime
    if process.returncode not in wanted:
        raise SystemExit(f"{process.args}: exit {process.returncode}")


def end_daemon(daemon, watcher, cost):
    """Ends a daemon once its workers have ended: its own times then include theirs."""
    while children(daemon.pid):
        time.sleep(0.01)
    daemon.terminate()
    finish(daemon, cost)
    watcher.stop()


def timed(command, **options):
    """Wall seconds and cost of one program."""
    watcher, cost = Watcher(), Cost()
    began = time.monotonic()
    finish(start(command, watcher, cost, **options), cost)
    wall = time.monotonic() - began
    watcher.stop()
    return wall, cost


def loopback_bytes():
    """Bytes that went through the loopback device, of all programs together."""
    with open("/proc/net/dev") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name.strip() == "lo":
                return int(rest.split()[0])
    return 0


def median(values):
    return statistics.median(values)


def spread(values, digits=2):
    """Median and range."""
    return (
        f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
    )


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    print("\n".join(lines), flush=True)
