# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the manual: its commands, in the order of its sections, and what it shows of their output."""

from __future__ import annotations

import pathlib
import re
import shlex
from dataclasses import dataclass, field

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
# The parts of docs/OPERATIONS.md, whose sections are numbered through all of them.
PARTS = ("GETTING-STARTED.md", "HOW-TO.md", "REFERENCE.md", "RECOVERY.md")
# Stands for the invitation that was printed last.
INVITATION = "bf1.…"


@dataclass
class Step:
    """A command, the exit code that it must have, and what the manual shows of its output."""

    line: int
    host: str
    is_root: bool
    text: str
    code: int
    is_run: bool
    section: str = ""
    part: str = ""
    shown: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.part}:{self.line}: {self.host}{'#' if self.is_root else '$'} {self.text}"

    @property
    def is_of_readers_own_group(self) -> bool:
        """About a volume group that only the reader has; `test_pool_counters.py` runs the same."""
        return bool(re.search(r"\bG\b|pool\.xml", self.text))

    @property
    def makes_a_copy(self) -> bool:
        words = shlex.split(self.text)
        return (words[:2] in (["blockferry", "send"], ["blockferry", "resync"]) and self.code == 0
                and not {"--dry-run", "--plan"} & set(words))

    def with_invitation(self, invitation: str) -> str:
        """What is run: with the invitation where the manual has it, or typed in where the program asks for it."""
        if INVITATION in self.text or self.text.startswith("blockferry pair"):
            assert invitation, f"{self}: no invitation was printed before"
        if INVITATION in self.text:
            return self.text.replace(INVITATION, invitation)
        if self.text.startswith("blockferry pair"):
            return f"(sleep 3; echo {invitation}) | script -qec {shlex.quote(self.text)} /dev/null"
        return self.text


PROMPT = re.compile(r"(source|standby)([#$]) (\S.*)")


def steps() -> list[Step]:
    """Every command of the manual, section after section."""
    found = [step for part in PARTS for step in steps_of((DOCS / part).read_text(), part)]
    return sorted(found, key=lambda step: int(step.section.partition(".")[0]))


def steps_of(text: str, part: str) -> list[Step]:
    """Every command of a part. A prompt outside the two kinds of blocks is a mistake."""
    steps: list[Step] = []
    fence, unfinished, section = None, False, ""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("## "):
            section = line[3:]
        if line.startswith("```"):
            assert not unfinished, f"line {number}: a command without its end"
            fence = line[3:] if fence is None else None
            assert fence in (None, "console", "sh", "text"), f"line {number}: a block of kind {fence!r}"
            continue
        if unfinished:
            steps[-1].text += " " + line.strip().removesuffix("\\").rstrip()
            unfinished = line.endswith("\\")
            continue
        found = PROMPT.fullmatch(line)
        if found and fence in ("console", "sh"):
            command_line, _, code = found[3].partition("  # exit ")
            unfinished = command_line.endswith("\\")
            steps.append(Step(number, found[1], found[2] == "#", command_line.removesuffix("\\").rstrip(),
                              int(code or 0), fence == "console", section, part))
            continue
        assert not PROMPT.match(line.strip()), f"line {number}: a command outside of a block"
        if fence in ("console", "sh"):
            assert steps and fence == "console", f"line {number}: neither a command nor the output of one"
            steps[-1].shown.append(line)
    assert fence is None and not unfinished
    return steps


# What differs from run to run. Everything else of the output that the manual shows must be there.
VARYING = (
    (re.compile(r"bf1\.\S+"), "INVITATION"),
    (re.compile(r"\b[A-Z2-7]{7}(-[A-Z2-7]{7}){7}\b|\b[A-Z2-7]{7}-…"), "KEY"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "TIME"),
    (re.compile(r"_blockferry_[0-9a-f]{8}\b"), "_blockferry_ID"),
    (re.compile(r"\b[0-9a-f]{12}\b|\([0-9a-f]{8}\)"), "ID"),
    (re.compile(r"\b(\d+[dhms])+\b"), "AGE"),
    (re.compile(r"\d+(\.\d+)?( (bytes|[KMG]iB))?"), "N"),
    (re.compile(r"\s+"), " "),
)


def shape(line: str) -> str:
    for pattern, name in VARYING:
        line = pattern.sub(name, line)
    return line.strip()


def is_shown(line: str, output: str) -> bool:
    """Whether the output has the line, up to what varies; an ellipsis stands for anything."""
    parts = [re.escape(part.strip()) for part in shape(line).split("…")]
    pattern = re.compile(".*".join(parts))
    return bool(pattern.search(shape(output))) if "…" in line else pattern.pattern in re.escape(shape(output))
