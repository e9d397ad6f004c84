// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0
//
// The door into libFuzzer. SwiftPM renames an executable's `main`, so the program calls the driver itself.

#ifndef CFUZZER_H
#define CFUZZER_H

#include <stddef.h>
#include <stdint.h>

/// Runs libFuzzer with the program's arguments; `one_input` takes each input and returns 0.
int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*one_input)(const uint8_t *, size_t));

/// The same with the arguments of `main`, the first `skip` after the program's name left out.
int cfuzzer_run(
    int argc, char **argv, int skip, int (*one_input)(const uint8_t *bytes, size_t count));

#endif
