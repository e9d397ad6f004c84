// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0
//
// CRC-32C with the processor's instruction where it has one. Swift has no way to ask for a single
// instruction-set extension in one function, which is the only reason this is C.

#ifndef CCHECKSUM_H
#define CCHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/// Continues a CRC-32C (reflected Castagnoli, polynomial 0x82F63B78) over `count` bytes.
/// `state` starts as all ones; no final inversion is done here.
uint32_t cchecksum_crc32c_update(uint32_t state, const void *bytes, size_t count);

/// The same by table, for machines without the instruction; exposed so that a test can compare both.
uint32_t cchecksum_crc32c_update_table(uint32_t state, const void *bytes, size_t count);

#endif
