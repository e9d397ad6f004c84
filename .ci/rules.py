#!/usr/bin/env python3
# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Rules of CONTRIBUTING.md that neither the compiler nor the formatter checks."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINES = 500
# Where memory is touched by hand, each use under a SAFETY line.
UNSAFE = ("Sources/Blocks/Bytes.swift", "Sources/Platform/", "Sources/Digests/", "Sources/HPKE/",
          "Sources/TLS/", "Sources/Compression/", "Sources/Connection/", "Sources/Signatures/", "Tests/", "Fuzz/", "Benchmarks/")
FOUNDATION = ("Sources/blockferry/", "Sources/blockferryd/", "Sources/CommandLine/",
              "Sources/Catalog/", "Tests/", "Fuzz/", "Benchmarks/")
PURE = ("Sources/SnapshotStore/", "Sources/ThinMetadata/", "Sources/Wire/", "Sources/Session/")
MACHINE_PATH = re.compile(r"/(?:work|root|farm)/")

problems: list[str] = []
checked = 0


def tracked() -> list[str]:
    listing = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                             cwd=ROOT, check=True, capture_output=True).stdout
    return [name for name in listing.decode().split("\0") if name]


def check_swift(name: str, text: str) -> None:
    lines = text.splitlines()
    if name != "Package.swift" and (len(lines) < 2 or "Copyright (c) The Blockferry authors" not in lines[0]
                                    or "SPDX-License-Identifier: Apache-2.0" not in lines[1]):
        problems.append(f"{name}: the two-line header is missing")
    if len(lines) > LINES:
        problems.append(f"{name}: {len(lines)} lines; a file is read in a sitting ({LINES})")
    code = "\n".join(line.split("//")[0] for line in lines)
    if re.search(r"\bunsafe\b|@unchecked", code) and not name.startswith(UNSAFE):
        problems.append(f"{name}: unsafe code belongs in the modules that are meant for it")
    if re.search(r"\bimport Foundation\b", code) and not name.startswith(FOUNDATION):
        problems.append(f"{name}: Foundation belongs in the programs and the catalog")
    if re.search(r"\bimport (Glibc|CLinux|Synchronization|Platform)\b", code) and name.startswith(PURE):
        problems.append(f"{name}: a pure module sees no system")
    if re.search(r"\b(async|await|Task)\b", code) and name.startswith("Sources/"):
        problems.append(f"{name}: nothing below main is asynchronous")


for name in tracked():
    path = ROOT / name
    if not path.is_file() or path.suffix in (".zst", ".gz"):
        continue
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        continue
    checked += 1
    if name != ".ci/rules.py" and MACHINE_PATH.search(text):
        problems.append(f"{name}: holds a path of somebody's machine")
    if path.suffix == ".swift":
        check_swift(name, text)

for problem in problems:
    print(problem, file=sys.stderr)
if checked < 100:
    sys.exit(f"only {checked} files were checked")
print(f"{checked} files checked, {len(problems)} problems")
sys.exit(bool(problems))
