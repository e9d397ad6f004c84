# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Where secrets must not be (H2), and what the environment must not change (H5).

What is looked for: the private key of each side and the secret of an invitation, as bytes, in hex, in base64, in
base32, and the lines of the PEM files. Where: command lines and environments of all processes during a pairing and a
send, everything they say, every file of the state directories but the identity itself. The invitation is given to `pair` as an
argument here, which is allowed: it is good once and for ten minutes. LD_PRELOAD, LD_AUDIT and LD_LIBRARY_PATH take effect before
the first line of a program: nothing here can test that they do nothing; deploy/systemd unsets them."""

from __future__ import annotations

import base64
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
import unittest

from host import BIN, HostSite, Proxy, ended_well, until

from decode import decode_invitation  # found by way of harness

NOBODY = 65_534


def forms(secret: bytes) -> set[bytes]:
    """The ways in which bytes are written down. Of base64 all three positions in a longer text."""
    out = {secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b32encode(secret).rstrip(b"="),
           base64.b32encode(secret).rstrip(b"=").lower()}
    for before in range(3):
        text = base64.b64encode(bytes(before) + secret)
        out.add(text[(0, 2, 4)[before]:len(text) - 4])
    return out


def private_forms(identity: pathlib.Path) -> set[bytes]:
    """Of the key in an identity file: its number in all forms, and the lines of its PEM body."""
    text = identity.read_text()
    begin = text.index("-----BEGIN PRIVATE KEY-----")
    body = text[begin:text.index("-----END PRIVATE KEY-----")].splitlines()[1:]
    der = base64.b64decode("".join(body))
    # PKCS #8 of Ed25519: the last 32 bytes; of P-256: 32 bytes behind 04 20.
    number = der[-32:] if len(der) == 48 else der[der.index(b"\x02\x01\x01\x04\x20") + 5:][:32]
    return forms(number) | {line.encode() for line in body if len(line) >= 16}


def processes(group: int) -> list[int]:
    """All processes of a session."""
    out = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.getsid(int(name)) == group:
                    out.append(int(name))
            except OSError:
                pass
    return out


class Secrets(unittest.TestCase):
    def setUp(self) -> None:
        self.site = HostSite()
        self.addCleanup(self.site.close)

    def test_nowhere(self) -> None:
        site, seen = self.site, {}
        site.plain.write_bytes(os.urandom(2 << 20))
        site.start_daemon()
        stopping = threading.Event()
        groups = [site.daemon.pid]

        def watch() -> None:
            while not stopping.is_set():
                for group in list(groups):
                    for pid in processes(group):
                        for name in ("cmdline", "environ"):
                            try:
                                data = pathlib.Path(f"/proc/{pid}/{name}").read_bytes()
                            except OSError:
                                continue
                            seen.setdefault((group == groups[0], name, data), pid)
                time.sleep(0.005)

        watcher = threading.Thread(target=watch)
        watcher.start()
        said = b""
        try:
            # Slowed down, so that every process is looked at.
            proxy = Proxy(site.port, lambda data, at: time.sleep(0.06) or data)
            invitation = site.invite("vol", site.target, port=proxy.port)
            secret = decode_invitation(invitation)["secret"]
            for arguments in (["pair", invitation, "--name", "standby", "--own-name", "source"], site.sending(),
                              ["status", "--json"], ["verify", site.plain, "--to", "standby", "--volume", "vol"],
                              ["send", site.path / "nothing", "--to", "standby", "--volume", "vol"],
                              ["pair", invitation, "--name", "again"], ["id"]):
                process = site.begin("blockferry", *arguments)
                groups.append(process.pid)
                result = site.end(process)
                said += (result.out + result.error).encode()
            for arguments in (["status", "--json"], ["peers", "--json"], ["volumes"], ["id"],
                              ["scrub", "vol", "--json"]):
                result = site.bounded("blockferryd", *arguments)
                said += (result.out + result.error).encode()
            proxy.close()
        finally:
            stopping.set()
            watcher.join()
        self.assertEqual(site.status("vol")["generation"], 1)
        keys = (private_forms(site.standby / "identity.pem") | private_forms(site.source / "identity.pem")
                | private_forms(site.standby / "export-key.pem"))
        wanted = keys | forms(secret)
        # The invitation as a whole is an argument of `pair`, and its text is base32 of more than the secret.
        where = {"what the programs said": said, "the daemon's journal": site.journal().encode()}
        for (of_standby, name, data), pid in seen.items():
            where[f"{'standby' if of_standby else 'source'} {pid} {name}"] = data
        files = 0
        for state in (site.standby, site.source):
            for path in state.rglob("*"):
                if path.is_file() and path.name not in ("identity.pem", "export-key.pem"):
                    where[str(path.relative_to(site.path))] = path.read_bytes()
                    files += 1
        found = sorted({place for place, data in where.items() for form in wanted if form in data})
        print(f"secrets: {len(wanted)} forms looked for in {len(where)} places, {len(seen)} command lines and "
              f"environments of {len(set(seen.values()))} processes, {files} files", flush=True)
        self.assertEqual(found, [])
        self.assertGreaterEqual(len(seen), 8)
        self.assertGreaterEqual(files, 10)
        # The same search finds the key where it is: it is not blind.
        self.assertTrue(any(form in (site.source / "identity.pem").read_bytes() for form in keys))
        with_secret = [place for place, data in where.items() if invitation.encode() in data]
        self.assertTrue(all("cmdline" in place and place.startswith("source") for place in with_secret), with_secret)

    def test_identity_of_others(self) -> None:
        site = self.site
        site.committed(2)
        for mode, owner in ((0o640, 0), (0o604, 0), (0o600, NOBODY)):
            for state, program in ((site.source, "blockferry"), (site.standby, "blockferryd")):
                path = state / "identity.pem"
                path.chmod(mode)
                os.chown(path, owner, owner)
                arguments = site.sending() if program == "blockferry" else ["serve", "--listen", "127.0.0.1:0"]
                result = site.bounded(program, *arguments)
                ended_well(self, result, f"{program} {mode:o} {owner}", codes=(6,))
                path.chmod(0o600)
                os.chown(path, 0, 0)

    def test_not_dumpable(self) -> None:
        """As a user of its own: files in /proc/PID of a process that cannot be dumped belong to root."""
        self.assertEqual(os.geteuid(), 0, "needs root, to become somebody else")
        site = self.site
        site.path.chmod(0o755)
        site.plain.write_bytes(os.urandom(4 << 20))
        for folder in (site.standby, site.source, site.path / "there"):
            folder.mkdir(mode=0o700)
            os.chown(folder, NOBODY, NOBODY)

        def become() -> None:
            os.setgid(NOBODY)
            os.setgroups([])
            os.setuid(NOBODY)

        site.target = site.path / "there/copy"
        ports = site.path / "there/port"
        daemon = subprocess.Popen([BIN / "blockferryd", "serve", "--listen", "127.0.0.1:0", "--port-file", ports],
                                  stderr=site.log, env=site.environment("blockferryd"), start_new_session=True,
                                  preexec_fn=become)
        site.daemon = daemon
        self.assertTrue(until(20, lambda: ports.exists() and ports.stat().st_size > 0), site.journal())
        site.port = int(ports.read_text())
        proxy = Proxy(site.port, lambda data, at: time.sleep(0.05) or data)
        invited = site.bounded("blockferryd", "invite", "vol", "--target", site.target, "--create", "--address",
                               f"127.0.0.1:{proxy.port}", prepare=become)
        ended_well(self, invited, "invite", codes=(0,))
        os.chown(site.plain, NOBODY, NOBODY)
        owners: dict[str, set] = {}
        for arguments in (["pair", invited.out.strip(), "--name", "standby"], site.sending()):
            process = site.begin("blockferry", *arguments, prepare=become)
            while process.poll() is None:
                for role, group in (("standby", daemon.pid), ("source", process.pid)):
                    for pid in processes(group):
                        try:
                            name = pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
                            user = pathlib.Path(f"/proc/{pid}/status").read_text().split("Uid:")[1].split()[0]
                            owner = os.stat(f"/proc/{pid}/environ").st_uid
                        except (OSError, IndexError):
                            continue
                        if name.startswith("blockferry") and user == str(NOBODY):
                            owners.setdefault(role, set()).add((pid, owner))
                time.sleep(0.005)
            ended_well(self, site.end(process), str(arguments[0]), codes=(0,))
        proxy.close()
        counted = {role: len({pid for pid, _ in found}) for role, found in owners.items()}
        print(f"not dumpable: {counted} processes seen", flush=True)
        for role in ("standby", "source"):
            # A process that has just begun has not said so yet: its last owner counts.
            pids = {pid for pid, _ in owners[role]}
            self.assertGreaterEqual(len(pids), 2, role)
            self.assertEqual({pid for pid in pids if (pid, 0) not in owners[role]}, set(), role)

    def test_no_core(self) -> None:
        """SIGABRT and SIGSEGV to daemon, worker and sender, where core files are wanted by everybody else."""
        site = self.site
        site.committed(2)
        site.kill_daemon()
        folder = site.path / "cores"
        folder.mkdir(mode=0o777)
        ended = {}

        def unlimited() -> None:
            resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            os.chdir(folder)

        def end(name: str, arguments: list, number: int, environment: dict) -> None:
            process = subprocess.Popen(arguments, env=environment, preexec_fn=unlimited, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, start_new_session=True)
            time.sleep(2)
            os.kill(process.pid, number)
            waited = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            ended[name, number] = {os.CLD_DUMPED: "dumped", os.CLD_KILLED: "killed"}.get(waited.si_code, "exited")
            said = process.stderr.read()
            process.wait()
            process.stderr.close()
            self.assertNotIn(b"Backtrace", said, name)
            self.assertNotIn(b"registers", said.lower(), name)

        stall = socket.create_server(("127.0.0.1", 0))
        site.readdress(stall.getsockname()[1])
        for number in (signal.SIGABRT, signal.SIGSEGV):
            end("control", ["sleep", "60"], number, dict(os.environ))
            for path in folder.iterdir():
                path.unlink()
            for setting in ("enable=yes", "enable=yes,interactive=no,output-to=" + str(folder / "trace")):
                environment = {"SWIFT_BACKTRACE": setting}
                end("blockferryd", [BIN / "blockferryd", "serve", "--listen", "127.0.0.1:0"], number,
                    site.environment("blockferryd", environment))
                end("blockferry", [BIN / "blockferry", *map(str, site.sending())], number,
                    site.environment("blockferry", environment))
                self.assertEqual(list(folder.iterdir()), [], "a core file or a back-trace")
        stall.close()
        print("ended by signals, of which `control` shows what the system does otherwise: "
              f"{ {f'{name} {number}': how for (name, number), how in ended.items()} }", flush=True)
        self.assertEqual({how for (name, _), how in ended.items() if name != "control"}, {"killed"})


# What a configuration of OpenSSL could do: admit TLS 1.2, name weak groups, load a module.
CONFIGURATION = """openssl_conf = all
[all]
providers = providers
ssl_conf = ssl
[ssl]
system_default = weak
[weak]
MinProtocol = TLSv1
MaxProtocol = TLSv1.2
CipherString = ALL:@SECLEVEL=0
Groups = P-521
[providers]
evil = evil
default = default
[default]
activate = 1
[evil]
module = {module}
activate = 1
"""
# A library that leaves a file behind when it is loaded.
MODULE = """#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void loaded(void) { close(open("%s", O_CREAT | O_WRONLY, 0600)); }
int OSSL_provider_init(void) { return 0; }
"""


def versions_offered(hello: bytes) -> set[int]:
    """The extension supported_versions of a ClientHello; the legacy version if there is none."""
    at = 5 + 4 + 2 + 32
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at:at + 2], "big")
    at += 1 + hello[at]
    end = at + 2 + int.from_bytes(hello[at:at + 2], "big")
    at += 2
    while at + 4 <= end:
        kind, length = int.from_bytes(hello[at:at + 2], "big"), int.from_bytes(hello[at + 2:at + 4], "big")
        if kind == 43:
            body = hello[at + 5:at + 4 + length]
            return {int.from_bytes(body[place:place + 2], "big") for place in range(0, len(body), 2)}
        at += 4 + length
    return {int.from_bytes(hello[9:11], "big")}


class Environment(unittest.TestCase):
    def hello_of(self, site: HostSite, more: dict) -> bytes:
        """The ClientHello that a sender says in this environment."""
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(10)
        site.readdress(listener.getsockname()[1])
        process = site.begin("blockferry", *site.sending(), more=more)
        try:
            connection, _ = listener.accept()
            connection.settimeout(10)
            hello = connection.recv(16_384)
            connection.close()
        finally:
            listener.close()
        result = site.end(process)
        # The runtime's own words, before the program begins.
        result.error = "".join(line for line in result.error.splitlines(True) if not line.startswith("swift runtime:"))
        ended_well(self, result, "a standby that hangs up", codes=range(1, 13))
        site.readdress(site.port)
        return hello

    def test_environment(self) -> None:
        site = HostSite()
        self.addCleanup(site.close)
        site.committed(2)
        folder = site.path / "watched"
        folder.mkdir()
        keys, loaded, trace = folder / "keys", folder / "loaded", folder / "trace"
        source, module = site.path / "module.c", site.path / "module.so"
        source.write_text(MODULE % loaded)
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", module, source], check=True)
        configuration = site.path / "openssl.cnf"
        configuration.write_text(CONFIGURATION.format(module=module))
        garbage = site.path / "garbage"
        garbage.write_bytes(bytes(range(256)))
        modules = site.path / "modules"
        modules.mkdir()
        for name in ("legacy.so", "default.so", "evil.so", "dynamic.so"):
            shutil.copy(module, modules / name)
        # The module and its configuration do work: a program that reads them loads it.
        subprocess.run(["openssl", "list", "-providers"], env={**os.environ, "OPENSSL_CONF": str(configuration)},
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.assertTrue(loaded.exists(), "the control: openssl itself did not load the module")
        loaded.unlink()
        cases = {
            "key log": {"SSLKEYLOGFILE": keys},
            "configuration that weakens": {"OPENSSL_CONF": configuration},
            "configuration that is not there": {"OPENSSL_CONF": folder / "none.cnf"},
            "configuration of garbage": {"OPENSSL_CONF": garbage},
            "configuration that is a device": {"OPENSSL_CONF": "/dev/null"},
            "modules of somebody else": {"OPENSSL_MODULES": modules, "OPENSSL_CONF": configuration},
            "engines of somebody else": {"OPENSSL_ENGINES": modules},
            "certificates of somebody else": {"SSL_CERT_FILE": garbage, "SSL_CERT_DIR": modules},
            "processor without features": {"OPENSSL_ia32cap": "~0x200000200000000"},
            "back-trace to a file": {"SWIFT_BACKTRACE": f"enable=yes,output-to={trace}"},
            "runtime of Swift": {"SWIFT_DEBUG_ENABLE_MALLOC_SCRIBBLE": "1", "SWIFT_DETERMINISTIC_HASHING": "1",
                                 "LIBDISPATCH_COOPERATIVE_POOL_STRICT": "1"},
            "tracing of memory": {"MALLOC_TRACE": trace, "MALLOC_PERTURB_": "85"},
            "temporary files": {"TMPDIR": folder / "none", "SQLITE_TMPDIR": folder / "none"},
            "language": {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "LANGUAGE": "tr", "TZ": ":/etc/shadow"},
            "names": {"RES_OPTIONS": "debug", "LOCALDOMAIN": "x", "HOSTALIASES": garbage},
            "a service manager that is none": {"NOTIFY_SOCKET": folder / "none"},
        }
        sends = 0
        for number, (name, values) in enumerate(cases.items()):
            more = {key: str(value) for key, value in values.items()}
            site.kill_daemon()
            failed = site.begin_daemon(more=more)
            self.assertIsNone(failed, f"{name}: {failed}")
            with open(site.plain, "r+b") as file:
                file.write(os.urandom(BLOCKS_CHANGED))
            result = site.bounded("blockferry", *site.sending(), more=more)
            ended_well(self, result, name, codes=(0,))
            sends += 1
            self.assertEqual(site.plain.read_bytes(), site.target.read_bytes(), name)
            self.assertEqual(site.status("vol")["generation"], number + 2, name)
            self.assertEqual(versions_offered(self.hello_of(site, more)), {0x0304}, f"{name}: what the sender offers")
            for version, wanted in (("-tls1_2", False), ("-tls1_3", True)):
                # Answers to TLS 1.3 come before the certificate is asked for.
                shown = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{site.port}", version, "-alpn",
                                        "blockferry/1"], stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
                self.assertEqual(b"New, TLSv1.3" in shown.stdout, wanted, f"{name}: {version}: {shown}")
                self.assertNotIn(b"New, TLSv1.2", shown.stdout, name)
            self.assertEqual([path.name for path in folder.iterdir()], [], f"{name}: a file was made")
        print(f"environment: {len(cases)} cases (at least 10), {sends} sends with them on both sides", flush=True)
        self.assertGreaterEqual(len(cases), 10)


BLOCKS_CHANGED = 5000
