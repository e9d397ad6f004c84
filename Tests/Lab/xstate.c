// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0
//
// For user-mode Linux on processors with AMX, loaded before it (LD_PRELOAD).
//
// Linux takes a guest process's extended registers only as a whole: x86's xstateregs_set() answers EFAULT to fewer bytes
// than the processor's XSAVE area has. User-mode Linux before 6.12 sets 2,696 bytes, which was the most before AMX (11,008),
// and its first process ends with "ptrace set fp regs failed, errno = 14". Here it gets the rest as it is.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

enum { NT_X86_XSTATE = 0x202 };

// The kernel of the guest has one thread that traces. The timer may interrupt it anywhere and change errno, so that errno
// decides nothing here.
static char whole[65536] __attribute__((aligned(64)));

long ptrace(enum __ptrace_request request, ...) {
    static long (*next)(enum __ptrace_request, ...);
    if (!next) next = dlsym(RTLD_NEXT, "ptrace");
    va_list list;
    va_start(list, request);
    int process = va_arg(list, int);
    void *address = va_arg(list, void *);
    void *data = va_arg(list, void *);
    va_end(list);

    if (request != PTRACE_SETREGSET || (long)address != NT_X86_XSTATE) return next(request, process, address, data);
    const struct iovec *part = data;
    struct iovec all = {whole, sizeof whole};
    if (next(PTRACE_GETREGSET, process, address, &all) != 0) return -1;
    if (part->iov_len < all.iov_len) {
        memcpy(whole, part->iov_base, part->iov_len);
        return next(PTRACE_SETREGSET, process, address, &all);
    }
    return next(request, process, address, data);
}
