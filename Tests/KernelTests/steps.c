// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0
//
// Preloaded into a sender and what it starts: numbers the steps that change something, and kills the sender at one.
//
//   STEPS_FILE       a file of `struct steps`, zeroed but for `kill_at`; without it nothing is counted
//   STEPS_LOG        each step's number and name is appended to it
//   STEPS_SIGNAL     the signal, if it is not to be SIGKILL
//   STEPS_BUFFERED   set: O_DIRECT is taken away from every open, as if the program did not ask for it
//
// The first `blockferry` that starts is the sender. Its steps: fsync, fdatasync, rename and unlink (before the call),
// and the first write to the catalog after a sync. A program that it starts is a step, too: one that only asks, before
// it runs; one that changes something (lvcreate, lvremove, lvchange, lvconvert, lvextend, dmsetup message) three:
//   before   the sender is killed and the program does not run
//   during   the sender is killed and the program runs on, on its own
//   after    the program has run, and the sender is killed before it knows
// For a program that another child of the sender starts (it outlives the sender) `before` is `during`.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct steps {
    _Atomic unsigned count, owner, kill_at;
};

static struct steps *steps;
static int is_sender, changes, buffered;
static char name[256];
static _Atomic int synced = 1;

#define REAL(function) ((__typeof__(&function)) dlsym(RTLD_NEXT, #function))

// Counts one step; returns 1 if it was the one to die at. The sender does not return from it.
static int step(const char *when, const char *what) {
    if (steps == NULL || atomic_load(&steps->owner) == 0) return 0;
    unsigned number = atomic_fetch_add(&steps->count, 1) + 1;
    const char *path = getenv("STEPS_LOG");
    int log = path == NULL ? -1 : REAL(open)(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (log >= 0) {
        char line[512];
        int length = snprintf(line, sizeof line, "%u %s %s\n", number, when, what);
        if (length > 0) (void)!write(log, line, length < (int)sizeof line ? (size_t)length : sizeof line - 1);
        close(log);
    }
    if (number != atomic_load(&steps->kill_at)) return 0;
    const char *wanted = getenv("STEPS_SIGNAL");
    kill((pid_t)atomic_load(&steps->owner), wanted == NULL ? SIGKILL : atoi(wanted));
    if (is_sender) for (;;) pause();
    return 1;
}

static void describe(void) {
    char line[4096] = "";
    int file = REAL(open)("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t got = file < 0 ? 0 : read(file, line, sizeof line - 1);
    if (file >= 0) close(file);
    const char *base = strrchr(line, '/');
    size_t start = base == NULL ? 0 : (size_t)(base + 1 - line);
    for (ssize_t at = 0; at + 1 < got; at++)
        if (line[at] == 0) line[at] = ' ';
    snprintf(name, sizeof name, "%.250s", line + start);
}

__attribute__((constructor)) static void begin(void) {
    buffered = getenv("STEPS_BUFFERED") != NULL;
    const char *path = getenv("STEPS_FILE");
    if (path == NULL) return;
    int file = REAL(open)(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof *steps, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) return;
    const char *program = program_invocation_short_name;
    if (strcmp(program, "blockferry") == 0) {
        unsigned nobody = 0, self = (unsigned)getpid();
        if (atomic_compare_exchange_strong(&((struct steps *)mapped)->owner, &nobody, self)) {
            steps = mapped;
            is_sender = 1;
        }
        return;
    }
    int is_lvm = strncmp(program, "lv", 2) == 0 || strncmp(program, "vg", 2) == 0 || strncmp(program, "pv", 2) == 0;
    int is_dmsetup = strcmp(program, "dmsetup") == 0;
    if (!is_lvm && !is_dmsetup) return;
    steps = mapped;
    describe();
    changes = is_dmsetup ? strstr(name, "dmsetup message") != NULL || strstr(name, "suspend") != NULL
                               || strstr(name, "resume") != NULL
                         : strcmp(program, "lvs") != 0 && strcmp(program, "vgs") != 0 && strcmp(program, "pvs") != 0;
    int is_child = (unsigned)getppid() == atomic_load(&steps->owner);
    if (step("before", name) && is_child) _exit(1);
    if (changes && is_child) step("during", name);
}

__attribute__((destructor)) static void end(void) {
    if (changes) step("after", name);
}

static int in_catalog(int file) {
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t got = readlink(link, path, sizeof path - 1);
    if (got <= 0) return 0;
    path[got] = 0;
    return strstr(path, ".sqlite") != NULL || strstr(path, ".db") != NULL || strstr(path, "-wal") != NULL;
}

static void about(const char *call, int file) {
    if (!is_sender) return;
    char link[64], path[256], text[400];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t got = readlink(link, path, sizeof path - 1);
    path[got < 0 ? 0 : got] = 0;
    const char *base = strrchr(path, '/');
    snprintf(text, sizeof text, "%s %s", call, base == NULL ? path : base + 1);
    step("before", text);
}

int fsync(int file) {
    about("fsync", file);
    atomic_store(&synced, 1);
    return REAL(fsync)(file);
}

int fdatasync(int file) {
    about("fdatasync", file);
    atomic_store(&synced, 1);
    return REAL(fdatasync)(file);
}

static void catalog_write(int file) {
    if (is_sender && atomic_load(&synced) && in_catalog(file)) {
        atomic_store(&synced, 0);
        about("first write", file);
    }
}

ssize_t pwrite(int file, const void *data, size_t count, off_t offset) {
    catalog_write(file);
    return REAL(pwrite)(file, data, count, offset);
}

ssize_t pwrite64(int file, const void *data, size_t count, off64_t offset) {
    catalog_write(file);
    return REAL(pwrite64)(file, data, count, offset);
}

int rename(const char *from, const char *to) {
    if (is_sender) step("before", "rename");
    return REAL(rename)(from, to);
}

int renameat(int from, const char *old, int to, const char *new) {
    if (is_sender) step("before", "renameat");
    return REAL(renameat)(from, old, to, new);
}

int unlink(const char *path) {
    if (is_sender) step("before", "unlink");
    return REAL(unlink)(path);
}

int unlinkat(int directory, const char *path, int flags) {
    if (is_sender) step("before", "unlinkat");
    return REAL(unlinkat)(directory, path, flags);
}

#define OPENING(function, ...)                                                                  \
    mode_t mode = 0;                                                                            \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                                      \
        va_list more;                                                                           \
        va_start(more, flags);                                                                  \
        mode = va_arg(more, mode_t);                                                            \
        va_end(more);                                                                           \
    }                                                                                           \
    if (buffered) flags &= ~O_DIRECT;                                                           \
    return REAL(function)(__VA_ARGS__, flags, mode);

int open(const char *path, int flags, ...) { OPENING(open, path) }
int open64(const char *path, int flags, ...) { OPENING(open64, path) }
int openat(int directory, const char *path, int flags, ...) { OPENING(openat, directory, path) }
int openat64(int directory, const char *path, int flags, ...) { OPENING(openat64, directory, path) }
