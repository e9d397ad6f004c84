// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

#include "CLinux.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const int clinux_o_direct = O_DIRECT;
const int clinux_o_nofollow = O_NOFOLLOW;
const int clinux_o_excl_block = O_EXCL;

int clinux_open(int directory, const char *path, int flags, unsigned mode) {
    return openat(directory, path, flags, mode);
}

int clinux_block_device_size(int fd, uint64_t *bytes) { return ioctl(fd, BLKGETSIZE64, bytes); }

int clinux_logical_block_size(int fd, int *bytes) { return ioctl(fd, BLKSSZGET, bytes); }

int clinux_block_zero_out(int fd, uint64_t offset, uint64_t length) {
    uint64_t range[2] = {offset, length};
    return ioctl(fd, BLKZEROOUT, range);
}

int clinux_block_discard(int fd, uint64_t offset, uint64_t length) {
    uint64_t range[2] = {offset, length};
    return ioctl(fd, BLKDISCARD, range);
}

int clinux_block_flush_buffers(int fd) { return ioctl(fd, BLKFLSBUF, 0); }

int clinux_block_is_read_only(int fd, int *read_only) { return ioctl(fd, BLKROGET, read_only); }

// The kernel's own packing of a device number into 64 bits (new_encode_dev).
static uint64_t mapped_device(uint32_t major, uint32_t minor) {
    return (minor & 0xff) | ((uint64_t)major << 8) | ((uint64_t)(minor & ~0xffu) << 12);
}

int clinux_device_open_count(int control, uint32_t major, uint32_t minor) {
    struct dm_ioctl request = {.version = {DM_VERSION_MAJOR}};
    request.data_size = request.data_start = sizeof request;
    request.dev = mapped_device(major, minor);
    return ioctl(control, DM_DEV_STATUS, &request) == 0 ? request.open_count : -1;
}

int clinux_device_table(int control, uint32_t major, uint32_t minor, void *reply, size_t count) {
    struct dm_ioctl *request = calloc(1, sizeof *request + count);
    if (request == NULL) return -1;
    request->version[0] = DM_VERSION_MAJOR;
    request->data_size = (uint32_t)(sizeof *request + count);
    request->data_start = sizeof *request;
    request->flags = DM_STATUS_TABLE_FLAG | DM_NOFLUSH_FLAG;
    request->dev = mapped_device(major, minor);
    int result = ioctl(control, DM_TABLE_STATUS, request);
    if (result == 0 && request->flags & DM_BUFFER_FULL_FLAG) {
        errno = ENOBUFS;
        result = -1;
    }
    if (result == 0) {
        memcpy(reply, request + 1, count);
        result = (int)request->target_count;
    }
    int error = errno;
    free(request);
    errno = error;
    return result;
}

int clinux_memory_file(void) { return memfd_create("blockferry", MFD_CLOEXEC); }

int clinux_eventfd(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

int clinux_getrandom(void *buffer, size_t count) {
    uint8_t *p = buffer;
    while (count > 0) {
        ssize_t got = getrandom(p, count, 0);
        if (got < 0) {
            if (errno == EINTR) continue;
            return -1;
        }
        p += got;
        count -= (size_t)got;
    }
    return 0;
}

int clinux_set_not_dumpable(void) { return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); }

int clinux_set_parent_death_signal(int signal) {
    return prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0);
}

int clinux_set_close_on_exec(int fd) { return fcntl(fd, F_SETFD, FD_CLOEXEC); }

int clinux_signalfd(const int *signals, int count) {
    sigset_t set;
    sigemptyset(&set);
    for (int i = 0; i < count; i++) sigaddset(&set, signals[i]);
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0) return -1;
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int clinux_connect(int socket, const void *address, uint32_t length) {
    return connect(socket, address, length);
}
int clinux_bind(int socket, const void *address, uint32_t length) {
    return bind(socket, address, length);
}
int clinux_accept(int socket, void *address, uint32_t *length) {
    return accept4(socket, address, length, SOCK_NONBLOCK | SOCK_CLOEXEC);
}
int clinux_local_address(int socket, void *address, uint32_t *length) {
    return getsockname(socket, address, length);
}

int clinux_notify(const char *path, const char *message) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof(address.sun_path)) {
        errno = EINVAL;
        return -1;
    }
    memcpy(address.sun_path, path, length);
    if (path[0] == '@') address.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    ssize_t sent = sendto(fd, message, strlen(message), MSG_NOSIGNAL, (struct sockaddr *)&address,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
    int error = errno;
    close(fd);
    errno = error;
    return sent < 0 ? -1 : 0;
}

// Room for one descriptor, aligned as the macros want it.
union control {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
};

int clinux_send_descriptor(int socket, const void *message, size_t count, int descriptor) {
    union control control = {.bytes = {0}};
    struct iovec part = {.iov_base = (void *)message, .iov_len = count};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (descriptor >= 0) {
        header.msg_control = control.bytes;
        header.msg_controllen = sizeof control.bytes;
        struct cmsghdr *first = CMSG_FIRSTHDR(&header);
        first->cmsg_level = SOL_SOCKET;
        first->cmsg_type = SCM_RIGHTS;
        first->cmsg_len = CMSG_LEN(sizeof descriptor);
        memcpy(CMSG_DATA(first), &descriptor, sizeof descriptor);
    }
    return sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -1 : 0;
}

long clinux_receive_descriptor(int socket, void *message, size_t count, int *descriptor) {
    union control control;
    struct iovec part = {.iov_base = message, .iov_len = count};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes,
                            .msg_controllen = sizeof control.bytes};
    *descriptor = -1;
    ssize_t got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
    if (got < 0) return -1;
    struct cmsghdr *first = CMSG_FIRSTHDR(&header);
    if (first && first->cmsg_level == SOL_SOCKET && first->cmsg_type == SCM_RIGHTS &&
        first->cmsg_len == CMSG_LEN(sizeof *descriptor))
        memcpy(descriptor, CMSG_DATA(first), sizeof *descriptor);
    return got;
}

int clinux_connect_to_path(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
    int code = errno;
    close(fd);
    errno = code;
    return -1;
}

int clinux_peer_user(int socket, uint32_t *user) {
    struct ucred peer;
    socklen_t length = sizeof peer;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || length != sizeof peer) return -1;
    *user = peer.uid;
    return 0;
}

long clinux_peek(int socket, void *buffer, size_t count) {
    return recv(socket, buffer, count, MSG_PEEK | MSG_DONTWAIT);
}

int clinux_set_low_water(int socket, int bytes) {
    return setsockopt(socket, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof bytes);
}

static int argument_count;
static char **argument_list;

__attribute__((constructor)) static void keep_arguments(int count, char **list) {
    argument_count = count;
    argument_list = list;
}

int clinux_argument_count(void) { return argument_count; }

const char *clinux_argument(int index) {
    return index >= 0 && index < argument_count ? argument_list[index] : NULL;
}

int clinux_wait_exit_code(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -1; }
int clinux_wait_signal(int status) { return WIFSIGNALED(status) ? WTERMSIG(status) : 0; }

int clinux_mode_is_block_device(uint32_t mode) { return S_ISBLK(mode); }
int clinux_mode_is_regular(uint32_t mode) { return S_ISREG(mode); }
int clinux_mode_is_directory(uint32_t mode) { return S_ISDIR(mode); }

uint32_t clinux_major(unsigned long device) { return major(device); }
uint32_t clinux_minor(unsigned long device) { return minor(device); }

int clinux_file_generation(int fd, uint32_t *generation) {
    // The number has the size of a long, the file systems write an int.
    long value = 0;
    if (ioctl(fd, FS_IOC_GETVERSION, &value) != 0) return -1;
    memcpy(generation, &value, sizeof *generation);
    return 0;
}

int clinux_file_system_uuid(int fd, uint8_t uuid[16]) {
    // struct fsuuid2 of linux/fs.h since 6.9, which older headers lack: a length and 16 bytes.
    uint8_t reply[17] = {0};
    if (ioctl(fd, _IOR(0x15, 0, uint8_t[17]), reply) != 0) return -1;
    if (reply[0] != 16) {
        errno = EOPNOTSUPP;
        return -1;
    }
    memcpy(uuid, reply + 1, 16);
    return 0;
}

int clinux_file_system(int fd, uint64_t *type, uint64_t *identifier) {
    struct statfs facts;
    if (fstatfs(fd, &facts) != 0) return -1;
    *type = (uint64_t)facts.f_type;
    memcpy(identifier, &facts.f_fsid, sizeof *identifier);
    return 0;
}

int clinux_file_birth(const char *path, uint64_t *inode, int64_t *seconds, uint32_t *nanoseconds) {
    struct statx facts;
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &facts) != 0) return -1;
    *inode = facts.stx_ino;
    *seconds = facts.stx_mask & STATX_BTIME ? facts.stx_btime.tv_sec : 0;
    *nanoseconds = facts.stx_mask & STATX_BTIME ? facts.stx_btime.tv_nsec : 0;
    return 0;
}

long clinux_get_attribute(int fd, const char *name, void *value, size_t count) {
    return fgetxattr(fd, name, value, count);
}

int clinux_set_attribute(int fd, const char *name, const void *value, size_t count) {
    return fsetxattr(fd, name, value, count, 0);
}

int clinux_remove_attribute(int fd, const char *name) { return fremovexattr(fd, name); }

int clinux_lock_for_writing(int fd) {
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &whole);
}

int clinux_has_no_writer(int fd) {
    // Who opens it for writing meanwhile breaks the lease; the signal of that must not end the process.
    if (fcntl(fd, F_SETSIG, SIGURG) != 0 || fcntl(fd, F_SETLEASE, F_RDLCK) != 0) return -1;
    return fcntl(fd, F_SETLEASE, F_UNLCK);
}

int clinux_lock_in_the_way(int fd, int exclusive, int64_t *start, int64_t *count) {
    struct flock lock = {
        .l_type = (short)(exclusive ? F_WRLCK : F_RDLCK),
        .l_whence = SEEK_SET,
        .l_start = *start,
        .l_len = *count,
    };
    if (fcntl(fd, F_OFD_GETLK, &lock) != 0) return -1;
    *start = lock.l_start;
    *count = lock.l_len;
    return lock.l_type != F_UNLCK;
}
