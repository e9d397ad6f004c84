// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

#include "CChecksum.h"

#include <pthread.h>
#include <string.h>

static uint32_t table[8][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void make_table(void) {
    for (uint32_t value = 0; value < 256; value++) {
        uint32_t crc = value;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0x82F63B78u & (0u - (crc & 1)));
        table[0][value] = crc;
    }
    for (uint32_t value = 0; value < 256; value++)
        for (int slice = 1; slice < 8; slice++)
            table[slice][value] =
                (table[slice - 1][value] >> 8) ^ table[0][table[slice - 1][value] & 0xFF];
}

uint32_t cchecksum_crc32c_update_table(uint32_t state, const void *bytes, size_t count) {
    pthread_once(&table_once, make_table);
    const uint8_t *p = bytes;
    while (count >= 8) {
        uint32_t low = state ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                                (uint32_t)p[3] << 24);
        state = table[7][low & 0xFF] ^ table[6][(low >> 8) & 0xFF] ^ table[5][(low >> 16) & 0xFF] ^
                table[4][low >> 24] ^ table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^
                table[0][p[7]];
        p += 8;
        count -= 8;
    }
    while (count-- > 0) state = (state >> 8) ^ table[0][(state ^ *p++) & 0xFF];
    return state;
}

#if defined(__x86_64__)

__attribute__((target("sse4.2")))
static uint32_t update_sse42(uint32_t state, const void *bytes, size_t count) {
    const uint8_t *p = bytes;
    uint64_t wide = state;
    while (count >= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        wide = __builtin_ia32_crc32di(wide, word);
        p += 8;
        count -= 8;
    }
    uint32_t narrow = (uint32_t)wide;
    while (count-- > 0) narrow = __builtin_ia32_crc32qi(narrow, *p++);
    return narrow;
}

uint32_t cchecksum_crc32c_update(uint32_t state, const void *bytes, size_t count) {
    if (__builtin_cpu_supports("sse4.2")) return update_sse42(state, bytes, count);
    return cchecksum_crc32c_update_table(state, bytes, count);
}

#else

uint32_t cchecksum_crc32c_update(uint32_t state, const void *bytes, size_t count) {
    return cchecksum_crc32c_update_table(state, bytes, count);
}

#endif
