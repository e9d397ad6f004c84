#!/usr/bin/env python3
# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Rules of CONTRIBUTING.md that neither the compiler nor the formatter checks."""
import functools
import os
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
PURE = ("Sources/SnapshotStore/", "Sources/ThinMetadata/", "Sources/Wire/", "Sources/Session/", "Sources/TagMap/")
# Where every document is listed in docs/README.md.
INDEXED = ("docs/", "Protocol/", "deploy/")
LINK = re.compile(r"\]\(([^()\s]+)\)")
PATH = re.compile(r"`((?:Sources|Tests|Fuzz|Protocol|Benchmarks|deploy|docs|\.ci|\.github)/[\w./*@-]+)`")
STATUS = re.compile(r"Status: (?:accepted|(?:amended|superseded) by \d{4}(?:, \d{4})*)")
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


def prose(text: str) -> str:
    """A Markdown text without its blocks and words of code, which hold no links."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ {4}.*$", "", text, flags=re.M))


@functools.cache
def anchors(path: pathlib.Path) -> frozenset[str]:
    """The anchors that a forge gives to a text's headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    headings = [re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
                for heading in re.findall(r"^#+ (.*)$", text, re.M)]
    return frozenset(heading + (f"-{headings[:at].count(heading)}" if heading in headings[:at] else "")
                     for at, heading in enumerate(headings))


def check_links(name: str, text: str) -> None:
    """Relative links lead to files that are there, and to headings; paths in words of code are there, too."""
    for link in LINK.findall(prose(text)):
        where, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        path = ROOT / name if not where else (ROOT / name).parent / where
        if not path.exists():
            problems.append(f"{name}: {link} leads nowhere")
        elif anchor and (path.suffix != ".md" or anchor not in anchors(path)):
            problems.append(f"{name}: there is no heading #{anchor} in {path.resolve().relative_to(ROOT)}")
    for where in PATH.findall(text):
        if not any(ROOT.glob(where.rstrip("/"))):
            problems.append(f"{name}: there is no {where}")


def check_index(documents: list[str]) -> None:
    """docs/README.md names every document, and says of each decision what its status line says."""
    index = ROOT / "docs/README.md"
    lines = {os.path.normpath(index.parent / link): line
             for line in index.read_text().splitlines() for link in LINK.findall(line)}
    for name in documents:
        if not name.startswith(INDEXED) or name == "docs/README.md":
            continue
        line = lines.get(str(ROOT / name))
        if line is None:
            problems.append(f"docs/README.md: {name} is not in it")
        elif name.startswith("docs/decisions/"):
            check_decision(name, line)


def check_decision(name: str, line: str) -> None:
    """A decision has a title, and below it a status that names decisions that are there."""
    title, _, status, *_ = (ROOT / name).read_text().splitlines() + [""] * 3
    if not title.startswith("# ") or not STATUS.fullmatch(status):
        problems.append(f"{name}: below the title no line says Status: accepted, amended by NNNN, or superseded by NNNN")
    elif not line.endswith(f"| {status.removeprefix('Status: ')} |"):
        problems.append(f"docs/README.md: the status of {name} is another one there")
    for number in re.findall(r"\d{4}", status):
        if not any((ROOT / "docs/decisions").glob(f"{number}-*.md")):
            problems.append(f"{name}: there is no decision {number}")


def check_places() -> None:
    """HACKING.md says of each of these where it is added; `check_links` sees that the places are there."""
    _, _, text = (ROOT / "HACKING.md").read_text().partition("## Where do I add")
    rows = {cells[1].strip(): line for line in text.splitlines() if len(cells := line.split("|")) == 5}
    for kind in ("source", "target", "refusal rule", "frame", "metric"):
        if len(PATH.findall(rows.get(kind, ""))) < 3:
            problems.append(f"HACKING.md: it does not say where a {kind} is added")
    for where in re.findall(r"`([^`]*/[^`]*)`", text):
        if not PATH.fullmatch(f"`{where}`"):
            problems.append(f"HACKING.md: {where} is no path from the top of the repository")


def check_version(names: list[str]) -> None:
    """Every document and the changelog name the version that the programs print."""
    found = re.search(r'static let version = "([^"]+)"', (ROOT / "Sources/CommandLine/Program.swift").read_text())
    if found is None:
        problems.append("Sources/CommandLine/Program.swift: it names no version")
        return
    version = found[1]
    for name in names:
        for other in re.findall(r"blockferry_([\d.]+)_|make-deb tree ([\d.]+)", (ROOT / name).read_text()):
            if version not in other:
                problems.append(f"{name}: names version {''.join(other)}, and the programs are {version}")
    if f"\n## {version} – " not in (ROOT / "CHANGELOG.md").read_text():
        problems.append(f"CHANGELOG.md: there is no section '## {version} – …'")


documents: list[str] = []
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
    if path.suffix == ".md":
        documents.append(name)
        check_links(name, text)
check_index(documents)
check_places()
check_version(documents)

for problem in problems:
    print(problem, file=sys.stderr)
if checked < 100:
    sys.exit(f"only {checked} files were checked")
print(f"{checked} files checked, {len(problems)} problems")
sys.exit(bool(problems))
