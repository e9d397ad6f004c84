# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""In a guest, started by its service manager: runs what comes in as files in /out/requests, as a shell on that host would.
It ends when it is told so."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import threading
import time

SHARED = pathlib.Path("/out")


def answer(name: str, **facts: object) -> None:
    made = SHARED / "answers" / f".{name}"
    made.write_text(json.dumps(facts))
    made.rename(SHARED / "answers" / name)


def run(name: str, user: str, text: str, directory: str, seconds: float) -> None:
    """The environment is a login's, not that of a service; nobody is at the terminal."""
    become = ["runuser", "-u", user, "--"] if user != "root" else []
    environment = {key: os.environ[key] for key in ("PATH", "HOME", "USER") if key in os.environ}
    with open(f"/run/output.{name}", "w+b") as output:
        child = subprocess.Popen([*become, "bash", "-c", text], cwd=directory, stdin=subprocess.DEVNULL, stdout=output,
                                 stderr=output, env=environment, start_new_session=True)
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, 9)
            code = 124
        output.seek(0)
        answer(name, code=code, output=output.read().decode(errors="replace"))
    os.unlink(f"/run/output.{name}")


def main() -> int:
    answer("ready", kernel=os.uname().release)
    done: set[str] = set()
    while True:
        for path in sorted((SHARED / "requests").iterdir()):
            if path.name in done or path.name.startswith("."):
                continue
            done.add(path.name)
            request = json.loads(path.read_text())
            if request == "end":
                return 0
            threading.Thread(target=run, args=(path.name, *request), daemon=True).start()
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
