// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

#include "CFuzzer.h"

// libFuzzer refers to it even where the driver is given another function.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    (void)data;
    (void)size;
    return 0;
}
