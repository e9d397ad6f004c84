// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0
//
// Preloaded into a program and what it starts: gives the holes of one file content, so that a sparse file is as large as a
// real one. What is read is a function of the offset; nothing of it is zeros. Writes are left alone, and what they wrote is
// not read any more.
//
//   CONTENT_FILE    the file, by device and inode: it may be opened by any path
//   CONTENT_PAUSE   microseconds that each read of a mebibyte takes
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(function) ((__typeof__(&function)) dlsym(RTLD_NEXT, #function))

static struct stat file;
static useconds_t pause_for;
static int is_on;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CONTENT_FILE"), *pause = getenv("CONTENT_PAUSE");
    is_on = path != NULL && stat(path, &file) == 0;
    pause_for = pause == NULL ? 0 : (useconds_t)atoi(pause);
}

static int is_file(int descriptor) {
    struct stat found;
    return is_on && fstat(descriptor, &found) == 0 && found.st_dev == file.st_dev && found.st_ino == file.st_ino;
}

off_t lseek(int descriptor, off_t offset, int whence) {
    if ((whence == SEEK_DATA || whence == SEEK_HOLE) && is_file(descriptor) && offset < file.st_size)
        return whence == SEEK_DATA ? offset : file.st_size;
    return REAL(lseek)(descriptor, offset, whence);
}

ssize_t pread(int descriptor, void *memory, size_t count, off_t offset) {
    if (!is_file(descriptor)) return REAL(pread)(descriptor, memory, count, offset);
    if (offset >= file.st_size) return 0;
    if ((off_t)count > file.st_size - offset) count = (size_t)(file.st_size - offset);
    unsigned char *bytes = memory;
    for (size_t at = 0; at < count; at++) {
        uint64_t word = ((uint64_t)offset + at) / 8 * 0x9E3779B97F4A7C15u + 0x0123456789ABCDEFu;
        bytes[at] = (unsigned char)(word >> 8 * (((uint64_t)offset + at) % 8));
    }
    if (count >= 1 << 20) usleep(pause_for);
    return (ssize_t)count;
}

off_t lseek64(int descriptor, off_t offset, int whence) { return lseek(descriptor, offset, whence); }

ssize_t pread64(int descriptor, void *memory, size_t count, off_t offset) {
    return pread(descriptor, memory, count, offset);
}
