// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0
//
// Preloaded into a program and what it starts: the wall clock is the system's plus the seconds in the file CLOCK_FILE,
// which the test changes while the program runs. Clocks that measure are left alone, as they are when an operator sets
// the time.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

// What the test sets, and how often the wall clock was asked for.
struct control { _Atomic int64_t seconds; _Atomic uint64_t asked; };
static struct control *control;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_FILE");
    if (path == NULL) return;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) control = mapped;
}

static int64_t offset(void) {
    if (control == NULL) return 0;
    atomic_fetch_add(&control->asked, 1);
    return atomic_load(&control->seconds);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int result = (int)syscall(SYS_clock_gettime, clock, at);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += offset();
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    at->tv_sec = precise.tv_sec;
    at->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (at != NULL) *at = precise.tv_sec;
    return precise.tv_sec;
}

int timespec_get(struct timespec *at, int base) {
    if (base != TIME_UTC) return 0;
    return clock_gettime(CLOCK_REALTIME, at) == 0 ? base : 0;
}
