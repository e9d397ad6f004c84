// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0
//
// Preloaded into a program and what it starts: numbers the calls that change something, over all its processes and
// threads, and kills it at one, or lets one fail, or lets all of them transfer less than was asked for.
//
//   FAULTS_FILE    a file of `struct control`, shared by the processes and by the test; without it nothing happens
//   FAULTS_LOG     each call that is counted is appended to it, with its number
//   FAULTS_ROOTS   path prefixes, separated by colons: only calls on what begins with one count, and sockets; one that
//                  ends in = is a whole path
//
// Calls reach this library through the dynamic linker, so also those of SQLite and OpenSSL. Writes of the C library
// itself (stdio) do not.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, FLUSH = 2, NAME = 4, SIZE = 8, SOCKET = 16, READ = 32 };
enum { COUNT, KILL_BEFORE, KILL_AFTER, ERROR_ONCE, ERROR_FROM, SHORT, INTERRUPT };

struct control {
    _Atomic uint32_t armed;   // nothing is counted before the test sets it
    _Atomic uint32_t count;   // calls so far
    _Atomic uint32_t at;      // the one that counts
    _Atomic uint32_t action;
    _Atomic uint32_t error;   // errno of a call that fails
    _Atomic uint32_t mask;    // kinds of calls that count
    _Atomic uint32_t hits;    // calls that failed, were shortened or interrupted; 1 for a kill
};

static struct control *control;
static const char *roots, *log_path;

#define REAL(function) ((__typeof__(&function)) dlsym(RTLD_NEXT, #function))

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_FILE");
    roots = getenv("FAULTS_ROOTS");
    log_path = getenv("FAULTS_LOG");
    if (path == NULL || roots == NULL) return;
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) control = mapped;
}

static int is_below(const char *path) {
    for (const char *root = roots; *root != 0;) {
        size_t length = strcspn(root, ":");
        int is_whole = length > 1 && root[length - 1] == '=';
        if (is_whole && strlen(path) == length - 1 && strncmp(path, root, length - 1) == 0) return 1;
        if (!is_whole && length > 0 && strncmp(path, root, length) == 0) return 1;
        root += length;
        if (*root == ':') root++;
    }
    return 0;
}

static void path_of(int file, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t got = readlink(link, path, size - 1);
    path[got < 0 ? 0 : got] = 0;
}

static void whole_path(int directory, const char *path, char *whole, size_t size) {
    char start[1024] = "";
    if (path[0] != '/') {
        if (directory != AT_FDCWD) path_of(directory, start, sizeof start);
        else if (getcwd(start, sizeof start) == NULL) start[0] = 0;
        snprintf(whole, size, "%s/%s", start, path);
    } else {
        snprintf(whole, size, "%s", path);
    }
}

static void note(uint32_t number, const char *call, const char *path) {
    if (log_path == NULL) return;
    int file = (int)syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) return;
    // The last two parts of a path say what it is.
    const char *short_path = path + strlen(path);
    for (int slashes = 0; short_path > path; short_path--)
        if (short_path[-1] == '/' && ++slashes == 2) break;
    char line[512];
    int length = snprintf(line, sizeof line, "%u %s %.400s\n", number, call, short_path);
    if (length > 0) (void)!syscall(SYS_write, file, line, (size_t)length);
    close(file);
}

static void die(void) {
    atomic_fetch_add(&control->hits, 1);
    // The program leads a process group of its own, and its workers are in it.
    kill(0, SIGKILL);
    for (;;) pause();
}

enum { GO = 0, DIE_AFTER = 1, FAIL = -1, LESS = 2 };

// By descriptor and kind, so that the same call on the same file gets through the second time, whatever comes between.
static __thread uint8_t interrupted[1024];

// What is to become of a call.
static int step(uint32_t kind, const char *call, const char *path, int file) {
    uint32_t action = atomic_load(&control->action);
    if (!(atomic_load(&control->mask) & kind)) return GO;
    uint32_t number = atomic_fetch_add(&control->count, 1) + 1, at = atomic_load(&control->at);
    if (kind != READ || action == ERROR_ONCE || action == ERROR_FROM) note(number, call, path);
    switch (action) {
    case KILL_BEFORE:
        if (number == at) die();
        return GO;
    case KILL_AFTER:
        return number == at ? DIE_AFTER : GO;
    case ERROR_ONCE:
    case ERROR_FROM:
        if (number < at || (action == ERROR_ONCE && number > at)) return GO;
        atomic_fetch_add(&control->hits, 1);
        errno = (int)atomic_load(&control->error);
        return FAIL;
    case SHORT:
        return LESS;
    case INTERRUPT:
        // SQLite takes an interrupted flush for a failed one, as it may; the kernel does not interrupt it there.
        if (kind == NAME || (kind == FLUSH && strstr(path, ".sqlite") != NULL)) return GO;
        interrupted[file & 1023] ^= (uint8_t)kind;
        if (!(interrupted[file & 1023] & kind)) return GO;
        atomic_fetch_add(&control->hits, 1);
        errno = EINTR;
        return FAIL;
    default:
        return GO;
    }
}

static int is_armed(void) { return control != NULL && atomic_load(&control->armed); }

static int about(uint32_t kind, const char *call, int file) {
    if (!is_armed()) return GO;
    int before = errno;
    char path[1024];
    path_of(file, path, sizeof path);
    int is_socket = strncmp(path, "socket:", 7) == 0;
    // Reads of sockets are not faults of storage, and count only where sockets are asked for.
    int is_left_out = is_socket && kind == READ && !(atomic_load(&control->mask) & SOCKET);
    if (is_left_out || (!is_socket && !is_below(path))) {
        errno = before;
        return GO;
    }
    int verdict = step(is_socket && kind != READ ? SOCKET : kind, call, is_socket ? "socket" : path, file);
    if (verdict != FAIL) errno = before;
    return verdict;
}

static int about_path(const char *call, int directory, const char *path) {
    if (!is_armed()) return GO;
    int before = errno;
    char whole[2048];
    whole_path(directory, path, whole, sizeof whole);
    int verdict = is_below(whole) ? step(NAME, call, whole, 0) : GO;
    if (verdict != FAIL) errno = before;
    return verdict;
}

// Half of what was asked for, in whole pages where direct I/O needs them.
static size_t less(int file, size_t count, int verdict) {
    if (verdict != LESS || count < 2) return count;
    size_t half = count / 2;
    int flags = fcntl(file, F_GETFL);
    if (flags >= 0 && (flags & O_DIRECT)) half = half / 4096 * 4096;
    if (half == 0) return count;
    atomic_fetch_add(&control->hits, 1);
    return half;
}

#define AFTER(verdict, type, call)   \
    if (verdict == FAIL) return -1;  \
    type result = call;              \
    if (verdict == DIE_AFTER) die(); \
    return result;

#define TRANSFER(kind, function, file, ...)    \
    int verdict = about(kind, #function, file); \
    count = less(file, count, verdict);        \
    AFTER(verdict, ssize_t, REAL(function)(file, __VA_ARGS__))

ssize_t write(int file, const void *data, size_t count) { TRANSFER(WRITE, write, file, data, count) }
ssize_t pwrite(int file, const void *data, size_t count, off_t at) { TRANSFER(WRITE, pwrite, file, data, count, at) }
ssize_t pwrite64(int file, const void *data, size_t count, off64_t at) {
    TRANSFER(WRITE, pwrite64, file, data, count, at)
}
ssize_t send(int file, const void *data, size_t count, int flags) { TRANSFER(WRITE, send, file, data, count, flags) }
ssize_t sendto(int file, const void *data, size_t count, int flags, const struct sockaddr *to, socklen_t length) {
    TRANSFER(WRITE, sendto, file, data, count, flags, to, length)
}
ssize_t read(int file, void *data, size_t count) { TRANSFER(READ, read, file, data, count) }
ssize_t pread(int file, void *data, size_t count, off_t at) { TRANSFER(READ, pread, file, data, count, at) }
ssize_t pread64(int file, void *data, size_t count, off64_t at) { TRANSFER(READ, pread64, file, data, count, at) }

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t at) {
    int verdict = about(WRITE, "pwritev", file);
    AFTER(verdict, ssize_t, REAL(pwritev)(file, parts, count, at))
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    int verdict = about(WRITE, "writev", file);
    AFTER(verdict, ssize_t, REAL(writev)(file, parts, count))
}

ssize_t sendmsg(int file, const struct msghdr *message, int flags) {
    int verdict = about(WRITE, "sendmsg", file);
    AFTER(verdict, ssize_t, REAL(sendmsg)(file, message, flags))
}

int fsync(int file) {
    int verdict = about(FLUSH, "fsync", file);
    AFTER(verdict, int, REAL(fsync)(file))
}

int fdatasync(int file) {
    int verdict = about(FLUSH, "fdatasync", file);
    AFTER(verdict, int, REAL(fdatasync)(file))
}

int ftruncate(int file, off_t size) {
    int verdict = about(SIZE, "ftruncate", file);
    AFTER(verdict, int, REAL(ftruncate)(file, size))
}

int ftruncate64(int file, off64_t size) {
    int verdict = about(SIZE, "ftruncate64", file);
    AFTER(verdict, int, REAL(ftruncate64)(file, size))
}

int fallocate(int file, int mode, off_t at, off_t count) {
    int verdict = about(SIZE, mode & FALLOC_FL_PUNCH_HOLE ? "punch" : "fallocate", file);
    AFTER(verdict, int, REAL(fallocate)(file, mode, at, count))
}

int fallocate64(int file, int mode, off64_t at, off64_t count) {
    int verdict = about(SIZE, mode & FALLOC_FL_PUNCH_HOLE ? "punch" : "fallocate64", file);
    AFTER(verdict, int, REAL(fallocate64)(file, mode, at, count))
}

int ioctl(int file, unsigned long request, ...) {
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    int verdict = request == BLKZEROOUT || request == BLKDISCARD ? about(SIZE, "ioctl", file) : GO;
    AFTER(verdict, int, REAL(ioctl)(file, request, argument))
}

int rename(const char *from, const char *to) {
    int verdict = about_path("rename", AT_FDCWD, to);
    AFTER(verdict, int, REAL(rename)(from, to))
}

int renameat(int from, const char *old, int to, const char *new) {
    int verdict = about_path("renameat", to, new);
    AFTER(verdict, int, REAL(renameat)(from, old, to, new))
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    int verdict = about_path("renameat2", to, new);
    AFTER(verdict, int, REAL(renameat2)(from, old, to, new, flags))
}

int linkat(int from, const char *old, int to, const char *new, int flags) {
    int verdict = about_path("linkat", to, new);
    AFTER(verdict, int, REAL(linkat)(from, old, to, new, flags))
}

int unlink(const char *path) {
    int verdict = about_path("unlink", AT_FDCWD, path);
    AFTER(verdict, int, REAL(unlink)(path))
}

int unlinkat(int directory, const char *path, int flags) {
    int verdict = about_path("unlinkat", directory, path);
    AFTER(verdict, int, REAL(unlinkat)(directory, path, flags))
}

int mkdir(const char *path, mode_t mode) {
    int verdict = about_path("mkdir", AT_FDCWD, path);
    AFTER(verdict, int, REAL(mkdir)(path, mode))
}

// An open is a step if it makes a file.
static int making(int directory, const char *path, int flags) {
    if (!is_armed() || !(flags & O_CREAT)) return GO;
    int before = errno;
    int exists = syscall(SYS_faccessat, directory, path, F_OK) == 0;
    errno = before;
    return exists ? GO : about_path("create", directory, path);
}

#define OPENING(function, directory, ...)                     \
    mode_t mode = 0;                                          \
    if (flags & (O_CREAT | __O_TMPFILE)) {                    \
        va_list more;                                         \
        va_start(more, flags);                                \
        mode = va_arg(more, mode_t);                          \
        va_end(more);                                         \
    }                                                         \
    int verdict = making(directory, path, flags);             \
    AFTER(verdict, int, REAL(function)(__VA_ARGS__, flags, mode))

int open(const char *path, int flags, ...) { OPENING(open, AT_FDCWD, path) }
int open64(const char *path, int flags, ...) { OPENING(open64, AT_FDCWD, path) }
int openat(int directory, const char *path, int flags, ...) { OPENING(openat, directory, directory, path) }
int openat64(int directory, const char *path, int flags, ...) { OPENING(openat64, directory, directory, path) }
