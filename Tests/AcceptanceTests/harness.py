# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""A standby and a source in a directory of their own, driven through the programs that users run."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("BLOCKFERRY_BIN", ROOT / ".build/release"))
FIXTURES = ROOT / "Tests/Fixtures/kernel"
sys.path.insert(0, str(ROOT / "Protocol"))

import encode  # noqa: E402


def sha256(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest(fixture: str) -> dict:
    return json.loads((FIXTURES / fixture / "manifest.json").read_text())


def until(seconds: float, condition) -> bool:
    due = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > due:
            return False
        time.sleep(0.005)
    return True


def adopt_orphans() -> None:
    """Makes this process the parent of what its children leave behind, so that it can wait for that too: prctl(2)."""
    PR_SET_CHILD_SUBREAPER = 36
    assert ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())


def is_reaped(group: int) -> bool:
    """Whether all of a process group that are this process's children have ended."""
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def end_listener(listener: socket.socket, thread: threading.Thread) -> None:
    """Ends a thread that accepts connections, and closes what it listens to. If it were still in accept(2), a signal to this
    process could make the kernel begin that call again, with what has the descriptor's number by then."""
    listener.shutdown(socket.SHUT_RDWR)
    thread.join(20)
    assert not thread.is_alive(), "it does not end"
    listener.close()


@functools.cache
def rules() -> dict[str, dict]:
    """What the programs say of each rule."""
    said = subprocess.run([BIN / "blockferry", "rules", "--json"], check=True, capture_output=True, text=True).stdout
    return {row["rule"]: row for row in json.loads(said)["rules"]}


def note_rule(rule: str) -> None:
    """Leaves a mark that this refusal was provoked, for `.ci/provoked`."""
    if marks := os.environ.get("BLOCKFERRY_RULES_SEEN"):
        (pathlib.Path(marks) / rule).touch()


def shape(value: object) -> object:
    """The keys and types of a JSON value."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in sorted(value.items())}
    if isinstance(value, list):
        return sorted({json.dumps(shape(each)) for each in value})
    return type(value).__name__


def note_json(name: str, text: str) -> None:
    """Keeps one output of each shape, for `.ci/schemas`."""
    if kept := os.environ.get("BLOCKFERRY_JSON_SEEN"):
        mark = hashlib.sha256(json.dumps(shape(json.loads(text))).encode()).hexdigest()[:16]
        (pathlib.Path(kept) / f"{name}.{mark}.json").write_text(text)


class Result:
    """What a program did."""

    def __init__(self, process: subprocess.CompletedProcess):
        self.code, self.out, self.error = process.returncode, process.stdout, process.stderr
        arguments = [str(word) for word in process.args] if isinstance(process.args, list) else []
        if {"--json", "json"} & set(arguments) and isinstance(self.out, str) and self.out and self.code >= 0:
            note_json(f"{pathlib.Path(arguments[0]).name}-{arguments[1]}", self.out)
        if self.code and isinstance(self.error, str) and "(rule " in self.error:
            self.check_next(process.args)
        elif self.code and {"--dry-run", "--json"} <= set(arguments) and self.out:
            for facts in self.json.get("volumes", [self.json]):
                if facts.get("decision") == "refuse":
                    self.check_step(facts["rule"], facts["next"])

    def check_next(self, arguments: list) -> None:
        """A refusal by a rule has the next step that the rule has, and so has its JSON."""
        rule = re.findall(r"\(rule ([a-z-]+)\)", self.error)[-1]
        if rule not in rules():
            return
        *_, message, following = ["", *self.error.strip().splitlines()]
        assert following.startswith("next: "), f"no next step: {self}"
        self.check_step(rule, following.removeprefix("next: "))
        if "--json" in arguments and self.out:
            facts = json.loads(self.out)
            assert facts["schema_version"] == 1, self
            if "message" in facts:
                told = (self.code, rule, following.removeprefix("next: "))
                assert (facts["exit"], facts.get("rule"), facts.get("next")) == told, self

    def check_step(self, rule: str, following: str) -> None:
        pattern = re.sub(r"[A-Z]{2,}", lambda word: f"(?:{word.group()}|.+)", re.escape(rules()[rule]["next"]))
        assert re.fullmatch(pattern, following), f"not what {rule} has next: {self}"
        note_rule(rule)

    @property
    def is_one_sentence(self) -> bool:
        """An error, with what to do next if a rule is about it, and nothing else but the same as JSON."""
        lines = self.error.splitlines()
        said = [line for line in lines if not line.startswith("next: ")]
        if self.out:
            facts = json.loads(self.out)
            if (facts["exit"], facts.get("next")) != (self.code, lines[1][6:] if len(lines) == 2 else None):
                return False
        return len(said) == 1 and len(lines) <= 2

    @property
    def json(self) -> dict:
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.out}{self.error}"


class Site:
    """Both hosts. `close` ends what was started, by pid."""

    def __init__(self) -> None:
        adopt_orphans()
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="blockferry-acceptance."))
        self.standby, self.source = self.path / "standby", self.path / "source"
        self.daemon: subprocess.Popen | None = None
        # Bound here and never listened to, so that nobody else is given the daemon's port while there is no daemon.
        self.reserved = socket.socket()
        self.reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.reserved.bind(("127.0.0.1", 0))
        self.port = self.reserved.getsockname()[1]
        self.log = open(self.path / "daemon.log", "ab")

    def close(self) -> None:
        self.kill_daemon()
        self.log.close()
        self.reserved.close()
        shutil.rmtree(self.path)

    def journal(self) -> str:
        """What the daemon and its workers said."""
        return (self.path / "daemon.log").read_text(errors="replace")

    # Programs

    def run(self, program: str, *arguments: str | os.PathLike, state: pathlib.Path | None = None,
            timeout: float = 90) -> Result:
        """Runs a program to its end, which comes after the idle limit of 60 s when a peer waits in vain."""
        state = state or (self.standby if program == "blockferryd" else self.source)
        name = "BLOCKFERRYD_STATE" if program == "blockferryd" else "BLOCKFERRY_STATE"
        return Result(subprocess.run([BIN / program, *map(str, arguments)], capture_output=True, text=True,
                                     timeout=timeout, env={**os.environ, name: str(state)}))

    def start_daemon(self) -> None:
        ports = self.path / "port"
        ports.unlink(missing_ok=True)
        self.daemon = subprocess.Popen(
            [BIN / "blockferryd", "serve", "--listen", f"127.0.0.1:{self.port}", "--port-file", ports],
            stderr=self.log, env={**os.environ, "BLOCKFERRYD_STATE": str(self.standby)}, start_new_session=True)
        # Recovery comes first, and a start takes long in a guest.
        until(120, lambda: ports.exists() or self.daemon.poll() is not None)
        if not ports.exists():
            raise AssertionError("the daemon does not listen: " + self.journal())
        self.port = int(ports.read_text())

    def kill_daemon(self) -> None:
        """SIGKILL to the daemon and its workers, which are the only processes of its session; when it returns, none of
        them has a file open or writes any more."""
        if self.daemon:
            os.killpg(self.daemon.pid, signal.SIGKILL)
            self.daemon.wait()
            group, self.daemon = self.daemon.pid, None
            assert until(20, lambda: is_reaped(group)), "a worker does not end after SIGKILL"

    def invite(self, volume: str, target: os.PathLike, *more: str, port: int | None = None) -> str:
        result = self.run("blockferryd", "invite", volume, "--target", target, "--create", "--address",
                          f"127.0.0.1:{port or self.port}", *more)
        assert result.code == 0, result
        return result.out.strip()

    def pair(self, volume: str, target: os.PathLike, *more: str, port: int | None = None, state: pathlib.Path | None = None,
             name: str = "standby") -> None:
        result = self.run("blockferry", "pair", self.invite(volume, target, *more, port=port), "--name", name,
                          "--own-name", "source", state=state)
        assert result.code == 0, result

    def send(self, volume: str, *source: str | os.PathLike, state: pathlib.Path | None = None,
             to: str = "standby") -> Result:
        return self.run("blockferry", "send", *source, "--to", to, "--volume", volume, "--json", state=state)

    def start_send(self, volume: str, *source: str | os.PathLike) -> subprocess.Popen:
        return subprocess.Popen(
            [BIN / "blockferry", "send", *map(str, source), "--to", "standby", "--volume", volume, "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "BLOCKFERRY_STATE": str(self.source)})

    def status(self, volume: str) -> dict:
        """Where a volume stands; 9 says that something is wrong with a target, which is in it too."""
        result = self.run("blockferryd", "status", volume, "--json")
        assert result.code in (0, 9), result
        return result.json["volumes"][0]

    def is_free(self, volume: str) -> bool:
        """Whether no process has the volume for writing."""
        with open(self.standby / "locks" / volume) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    # Images

    def unpack(self, fixture: str, *images: str) -> list[pathlib.Path]:
        paths = []
        for image in images:
            path = self.path / f"{fixture}-{image}"
            subprocess.run(["zstd", "-qdf", FIXTURES / fixture / f"{image}.img.zst", "-o", path], check=True)
            paths.append(path)
        return paths

    def pool(self) -> "Pool":
        return Pool(self)


class Pool:
    """The fixture thin-64k: three snapshots of one volume."""

    size = 134_217_728

    def __init__(self, site: Site) -> None:
        self.metadata, self.data = site.unpack("thin-64k", "tmeta-held-offline", "tdata")
        facts = manifest("thin-64k")
        self.digests = facts["generations"]
        self.devices = {name: device["dev_id"] for name, device in facts["devices"].items()}

    def source(self, name: str) -> list:
        return ["--thin-metadata", self.metadata, "--thin-data", self.data, "--device", self.devices[name],
                "--volume-size", self.size]


class Proxy:
    """Passes TCP on, and does to the sender's stream what `tamper` says: bytes in, bytes out, or None for a cut."""

    def __init__(self, port: int, tamper=None, answer=None) -> None:
        self.target, self.tamper, self.answer = port, tamper or (lambda data, at: data), answer or (
            lambda data, at: data)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def close(self) -> None:
        end_listener(self.listener, self.thread)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            for ends in ((near, far, self.tamper), (far, near, self.answer)):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, change) -> None:
        at = 0
        try:
            while data := source.recv(65536):
                changed = change(data, at)
                at += len(data)
                if changed is None:
                    break
                sink.sendall(changed)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Rogue:
    """A sender that is not ours: the protocol from Protocol/encode.py, over Python's TLS, with a real identity."""

    def __init__(self, site: Site, identity: pathlib.Path | None = None, alpn: str = "blockferry/1",
                 maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = maximum
        if identity is not None:
            context.load_cert_chain(identity)
        if alpn:
            context.set_alpn_protocols([alpn])
        raw = socket.create_connection(("127.0.0.1", site.port), timeout=15)
        try:
            self.socket = context.wrap_socket(raw, suppress_ragged_eofs=False)
        except BaseException:
            raw.close()
            raise
        self.sequence = 0

    def send(self, kind: str, payload: bytes = b"", **wrong) -> None:
        self.socket.sendall(encode.frame(kind, payload, self.sequence, **wrong))
        self.sequence += 1

    def receive(self) -> tuple[int, bytes]:
        """The next frame's type and payload; raises EOFError at the end of the stream."""
        header = self._exactly(32)
        length = int.from_bytes(header[:4], "little")
        kind, payload = int.from_bytes(header[4:6], "little"), self._exactly(length)
        if kind == encode.TYPE["REFUSE"]:
            note_rule(payload[6:6 + int.from_bytes(payload[4:6], "little")].decode("ascii"))
        return kind, payload

    def answer(self) -> tuple[int, bytes]:
        """The next frame that is neither PING nor PROGRESS."""
        while True:
            kind, payload = self.receive()
            if kind not in (13, 14):
                return kind, payload

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def close(self) -> None:
        self.socket.close()
