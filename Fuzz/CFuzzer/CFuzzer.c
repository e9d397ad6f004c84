// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

#include "CFuzzer.h"

// libFuzzer's own `main` wants this symbol; it is never called.
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    (void)bytes;
    (void)count;
    return 0;
}

int cfuzzer_run(
    int argc, char **argv, int skip, int (*one_input)(const uint8_t *bytes, size_t count)) {
    argv[skip] = argv[0];
    int left = argc - skip;
    char **rest = argv + skip;
    return LLVMFuzzerRunDriver(&left, &rest, one_input);
}
