// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0
//
// Records what a program does to the files below one directory. It stands in the program in place of the C library's
// functions of the same names, so that SQLite's calls are seen like our own.

#ifndef DISKTRACE_H
#define DISKTRACE_H

#include <stdint.h>

enum disktrace_kind {
    DISKTRACE_OPEN = 1,  // handle, path, whether the file was made
    DISKTRACE_WRITE,     // handle, offset, length, data
    DISKTRACE_TRUNCATE,  // handle, length
    DISKTRACE_PUNCH,     // handle, offset, length: reads as zeros from now on
    DISKTRACE_SYNC,      // handle: fsync or fdatasync, of a file or a directory
    DISKTRACE_RENAME,    // path, second path
    DISKTRACE_UNLINK,    // path
    DISKTRACE_MKDIR,     // path
    DISKTRACE_READ,      // handle, offset, length; a search for data or holes counts as a read of everything
    DISKTRACE_MARK,      // length: a number that the program gave
};

struct disktrace_operation {
    uint32_t kind;
    uint32_t made;
    uint64_t handle, offset, length;
    const uint8_t *data;
    const char *path, *second;
};

// Keeps memory that was given back, since the same buffers are wanted thousands of times, and prints line by line.
void disktrace_prepare(void);

// From here on what lies below `root` is recorded; what was recorded before is dropped.
void disktrace_start(const char *root);
void disktrace_stop(void);
void disktrace_mark(uint64_t number);
uint64_t disktrace_count(void);
// Valid until the next start.
const struct disktrace_operation *disktrace_operation(uint64_t index);

// Of the operations that change or flush something, counted from now on: the one numbered `first` and the `count - 1`
// that follow fail with `error` and change nothing. Zero counts: none.
void disktrace_fail(uint64_t first, uint64_t count, int error);
// How many such operations there were since disktrace_fail, and how many failed.
uint64_t disktrace_changes(void);
uint64_t disktrace_failures(void);

#endif
