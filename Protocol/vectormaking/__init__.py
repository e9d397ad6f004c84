# Copyright (c) The Blockferry authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of `make-vectors.py`. Read `common` first."""
