// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer's entry point. SwiftPM renames main, so that the driver is called instead of linked as main.

#ifndef CFUZZER_H
#define CFUZZER_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*target)(const uint8_t *data, size_t size));

#endif
