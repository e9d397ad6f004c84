#!/usr/bin/env python3
# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""Writes Vectors/*.json: an example of every structure, and of every way to break one.

Deterministic: keys, ids and content come from SHAKE-128 of fixed numbers. What a valid vector's fields are is said here,
by the values the structure is built from, never by decoding it. `decode.py vectors` then has to agree.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vectormaking import digests, enrolment, export_file, frames, messages, records, staging_log, tag_map
from vectormaking.common import VECTORS

HERE = Path(__file__).parent / "Vectors"


def main() -> int:
    for group in (*messages.GROUPS, frames.frames, *records.GROUPS, digests.digests, *staging_log.GROUPS,
                  *tag_map.GROUPS, *export_file.GROUPS, enrolment.enrolment):
        group()
    HERE.mkdir(exist_ok=True)
    for old in HERE.glob("*.json"):
        old.unlink()
    for name, vector in VECTORS.items():
        text = json.dumps(vector, indent=1, ensure_ascii=True) + "\n"
        assert len(text) < 1 << 18, name
        (HERE / f"{name}.json").write_text(text, "utf-8")
    print(f"{len(VECTORS)} vectors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
