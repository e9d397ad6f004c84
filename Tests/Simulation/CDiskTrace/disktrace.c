// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

#define _GNU_SOURCE
#include "disktrace.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))
#define CACHED(function)                            \
    static __typeof__(&function) real;              \
    if (real == NULL) real = REAL(function)

enum { DESCRIPTORS = 4096 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[512];
static size_t root_length;
static int is_on;
static uint64_t handles[DESCRIPTORS], next_handle = 1;
static struct disktrace_operation *operations;
static uint64_t count, capacity;
static uint64_t changes, fail_first, fail_count, failures;
static int fail_error;

static int is_below(const char *path) {
    return is_on && path != NULL && strncmp(path, root, root_length) == 0
        && (path[root_length] == '/' || path[root_length] == 0);
}

static uint64_t handle_of(int fd) { return is_on && fd >= 0 && fd < DESCRIPTORS ? handles[fd] : 0; }

// Whether the change that comes now is one that fails. Call it with the lock held.
static int fails(void) {
    changes++;
    if (fail_count == 0 || changes < fail_first || changes - fail_first >= fail_count) return 0;
    failures++;
    errno = fail_error;
    return 1;
}

static struct disktrace_operation *add(uint32_t kind) {
    if (count == capacity) {
        capacity = capacity == 0 ? 1024 : capacity * 2;
        operations = realloc(operations, capacity * sizeof *operations);
        if (operations == NULL) abort();
    }
    struct disktrace_operation *new = &operations[count++];
    memset(new, 0, sizeof *new);
    new->kind = kind;
    return new;
}

static void add_range(uint32_t kind, uint64_t handle, uint64_t offset, uint64_t length, const void *data) {
    struct disktrace_operation *new = add(kind);
    new->handle = handle;
    new->offset = offset;
    new->length = length;
    if (data != NULL) {
        uint8_t *copy = malloc(length == 0 ? 1 : length);
        if (copy == NULL) abort();
        memcpy(copy, data, length);
        new->data = copy;
    }
}

static void add_path(uint32_t kind, const char *path, const char *second) {
    struct disktrace_operation *new = add(kind);
    new->path = strdup(path);
    new->second = second == NULL ? NULL : strdup(second);
}

void disktrace_prepare(void) {
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    setvbuf(stdout, NULL, _IOLBF, 0);
}

void disktrace_start(const char *path) {
    pthread_mutex_lock(&lock);
    for (uint64_t index = 0; index < count; index++) {
        free((void *)operations[index].data);
        free((void *)operations[index].path);
        free((void *)operations[index].second);
    }
    count = 0;
    snprintf(root, sizeof root, "%s", path);
    root_length = strlen(root);
    is_on = 1;
    changes = failures = fail_count = 0;
    pthread_mutex_unlock(&lock);
}

void disktrace_stop(void) {
    pthread_mutex_lock(&lock);
    is_on = 0;
    fail_count = 0;
    memset(handles, 0, sizeof handles);
    pthread_mutex_unlock(&lock);
}

void disktrace_mark(uint64_t number) {
    pthread_mutex_lock(&lock);
    if (is_on) add(DISKTRACE_MARK)->length = number;
    pthread_mutex_unlock(&lock);
}

uint64_t disktrace_count(void) { return count; }
const struct disktrace_operation *disktrace_operation(uint64_t index) { return &operations[index]; }

void disktrace_fail(uint64_t first, uint64_t number, int error) {
    pthread_mutex_lock(&lock);
    fail_first = first;
    fail_count = number;
    fail_error = error;
    changes = failures = 0;
    pthread_mutex_unlock(&lock);
}
uint64_t disktrace_changes(void) { return changes; }
uint64_t disktrace_failures(void) { return failures; }

// The calls. Each holds the lock across what it does, so that the record has the order in which things happened.

#define LOCKED(type, expression)          \
    pthread_mutex_lock(&lock);            \
    type result = expression;             \
    int saved = errno

#define UNLOCKED                          \
    pthread_mutex_unlock(&lock);          \
    errno = saved;                        \
    return result

static int opened(int directory, const char *path, int flags, unsigned mode) {
    CACHED(openat);
    if (!is_below(path)) return real(directory, path, flags, mode);
    pthread_mutex_lock(&lock);
    int made = (flags & O_CREAT) != 0 && access(path, F_OK) != 0;
    int result = made && fails() ? -1 : real(directory, path, flags, mode);
    int saved = errno;
    if (result >= 0 && result < DESCRIPTORS) {
        handles[result] = next_handle++;
        struct disktrace_operation *new = add(DISKTRACE_OPEN);
        new->handle = handles[result];
        new->made = (uint32_t)made;
        new->path = strdup(path);
        if ((flags & O_TRUNC) != 0 && !made) add_range(DISKTRACE_TRUNCATE, handles[result], 0, 0, NULL);
    }
    UNLOCKED;
}

#define OPEN_MODE                                              \
    unsigned mode = 0;                                         \
    if ((flags & (O_CREAT | O_TMPFILE)) != 0) {                \
        va_list list;                                          \
        va_start(list, flags);                                 \
        mode = va_arg(list, unsigned);                         \
        va_end(list);                                          \
    }

int open(const char *path, int flags, ...) { OPEN_MODE return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { OPEN_MODE return opened(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { OPEN_MODE return opened(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { OPEN_MODE return opened(at, path, flags, mode); }

int close(int fd) {
    CACHED(close);
    // Other descriptors may be closed while one of ours gets the number.
    LOCKED(int, real(fd));
    if (fd >= 0 && fd < DESCRIPTORS) handles[fd] = 0;
    UNLOCKED;
}

static ssize_t wrote(int fd, const void *data, size_t length, off_t offset) {
    CACHED(pwrite);
    uint64_t handle = handle_of(fd);
    if (handle == 0) return real(fd, data, length, offset);
    LOCKED(ssize_t, fails() ? -1 : real(fd, data, length, offset));
    if (result > 0) add_range(DISKTRACE_WRITE, handle, (uint64_t)offset, (uint64_t)result, data);
    UNLOCKED;
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return wrote(fd, data, length, offset); }
ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) { return wrote(fd, data, length, offset); }

ssize_t write(int fd, const void *data, size_t length) {
    CACHED(write);
    uint64_t handle = handle_of(fd);
    if (handle == 0) return real(fd, data, length);
    off_t offset = lseek(fd, 0, SEEK_CUR);
    LOCKED(ssize_t, fails() ? -1 : real(fd, data, length));
    if (result > 0) add_range(DISKTRACE_WRITE, handle, (uint64_t)offset, (uint64_t)result, data);
    UNLOCKED;
}

static ssize_t got(int fd, void *data, size_t length, off_t offset) {
    CACHED(pread);
    uint64_t handle = handle_of(fd);
    if (handle == 0) return real(fd, data, length, offset);
    LOCKED(ssize_t, real(fd, data, length, offset));
    add_range(DISKTRACE_READ, handle, (uint64_t)offset, length, NULL);
    UNLOCKED;
}
ssize_t pread(int fd, void *data, size_t length, off_t offset) { return got(fd, data, length, offset); }
ssize_t pread64(int fd, void *data, size_t length, off_t offset) { return got(fd, data, length, offset); }

static off_t sought(int fd, off_t offset, int whence) {
    CACHED(lseek);
    uint64_t handle = whence == SEEK_DATA || whence == SEEK_HOLE ? handle_of(fd) : 0;
    if (handle == 0) return real(fd, offset, whence);
    LOCKED(off_t, real(fd, offset, whence));
    add_range(DISKTRACE_READ, handle, 0, UINT64_MAX, NULL);
    UNLOCKED;
}
off_t lseek(int fd, off_t offset, int whence) { return sought(fd, offset, whence); }
off_t lseek64(int fd, off_t offset, int whence) { return sought(fd, offset, whence); }

static int truncated(int fd, off_t length) {
    CACHED(ftruncate);
    uint64_t handle = handle_of(fd);
    if (handle == 0) return real(fd, length);
    LOCKED(int, fails() ? -1 : real(fd, length));
    if (result == 0) add_range(DISKTRACE_TRUNCATE, handle, 0, (uint64_t)length, NULL);
    UNLOCKED;
}
int ftruncate(int fd, off_t length) { return truncated(fd, length); }
int ftruncate64(int fd, off_t length) { return truncated(fd, length); }

static int allocated(int fd, int mode, off_t offset, off_t length) {
    CACHED(fallocate);
    uint64_t handle = handle_of(fd);
    if (handle == 0) return real(fd, mode, offset, length);
    LOCKED(int, fails() ? -1 : real(fd, mode, offset, length));
    if (result == 0 && (mode & FALLOC_FL_PUNCH_HOLE) != 0)
        add_range(DISKTRACE_PUNCH, handle, (uint64_t)offset, (uint64_t)length, NULL);
    UNLOCKED;
}
int fallocate(int fd, int mode, off_t offset, off_t length) { return allocated(fd, mode, offset, length); }
int fallocate64(int fd, int mode, off_t offset, off_t length) { return allocated(fd, mode, offset, length); }

int fsync(int fd) {
    uint64_t handle = handle_of(fd);
    if (handle == 0) return REAL(fsync)(fd);
    // Nothing is to be flushed: the files are in memory.
    LOCKED(int, fails() ? -1 : 0);
    if (result == 0) add_range(DISKTRACE_SYNC, handle, 0, 0, NULL);
    UNLOCKED;
}
int fdatasync(int fd) { return handle_of(fd) == 0 ? REAL(fdatasync)(fd) : fsync(fd); }

static int renamed(const char *path, const char *second, unsigned flags) {
    CACHED(renameat2);
    if (!is_below(path)) return real(AT_FDCWD, path, AT_FDCWD, second, flags);
    LOCKED(int, fails() ? -1 : real(AT_FDCWD, path, AT_FDCWD, second, flags));
    if (result == 0) add_path(DISKTRACE_RENAME, path, second);
    UNLOCKED;
}
int rename(const char *path, const char *second) { return renamed(path, second, 0); }
int renameat2(int at, const char *path, int second_at, const char *second, unsigned flags) {
    (void)at, (void)second_at;
    return renamed(path, second, flags);
}

int unlink(const char *path) {
    CACHED(unlink);
    if (!is_below(path)) return real(path);
    LOCKED(int, fails() ? -1 : real(path));
    if (result == 0) add_path(DISKTRACE_UNLINK, path, NULL);
    UNLOCKED;
}

int mkdir(const char *path, mode_t mode) {
    CACHED(mkdir);
    if (!is_below(path)) return real(path, mode);
    LOCKED(int, real(path, mode));
    if (result == 0) add_path(DISKTRACE_MKDIR, path, NULL);
    UNLOCKED;
}
