# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of `decode.py`: a strict decoder, written from the text alone. Read `core` first."""
