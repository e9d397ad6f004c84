// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0
//
// What Swift cannot import from the kernel's headers and the C library: ioctl numbers made by macros,
// variadic functions, and headers that are not in the Glibc module. One line of reason each.

#ifndef CLINUX_H
#define CLINUX_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// open(2) and ioctl(2) are variadic; the BLK* numbers are macros over casts.
int clinux_open(int directory, const char *path, int flags, unsigned mode);
int clinux_block_device_size(int fd, uint64_t *bytes);
int clinux_logical_block_size(int fd, int *bytes);
int clinux_block_zero_out(int fd, uint64_t offset, uint64_t length);
int clinux_block_discard(int fd, uint64_t offset, uint64_t length);
int clinux_block_flush_buffers(int fd);
int clinux_block_is_read_only(int fd, int *read_only);

// DM_TABLE_STATUS with the flag for tables, without a flush. Fills `reply` with what follows struct dm_ioctl and says
// how many targets that holds; -1 with ENOBUFS if it does not fit.
int clinux_device_table(int control, uint32_t major, uint32_t minor, void *reply, size_t count);

// DM_DEV_STATUS: how many times a device is open; -1 if that cannot be asked.
int clinux_device_open_count(int control, uint32_t major, uint32_t minor);

// fcntl(2) is variadic. A write lock of the open file on all of it: 0, or -1. And whether nobody has the file open for
// writing, as a read lease tells that is let go at once: 0, or -1.
int clinux_lock_for_writing(int fd);
int clinux_has_no_writer(int fd);

// FS_IOC_GETVERSION and FS_IOC_GETFSUUID are macros over casts; struct statfs has members that Swift cannot name; the
// calls of sys/xattr.h are not in the Glibc module.
int clinux_file_generation(int fd, uint32_t *generation);
int clinux_file_system_uuid(int fd, uint8_t uuid[16]);
int clinux_file_system(int fd, uint64_t *type, uint64_t *identifier);

// Inode of a file that is not opened, and when it was made; zeros where the file system does not tell.
int clinux_file_birth(const char *path, uint64_t *inode, int64_t *seconds, uint32_t *nanoseconds);

long clinux_get_attribute(int fd, const char *name, void *value, size_t count);
int clinux_set_attribute(int fd, const char *name, const void *value, size_t count);
int clinux_remove_attribute(int fd, const char *name);

// F_OFD_GETLK needs _GNU_SOURCE, and fcntl(2) is variadic. Says whether somebody else holds a lock on the range (a count of
// 0: to the end) that a shared or an exclusive one would have to wait for, and where that lies; -1 if that cannot be asked.
int clinux_lock_in_the_way(int fd, int exclusive, int64_t *start, int64_t *count);

// Flags that need _GNU_SOURCE, under which other modules are not compiled.
extern const int clinux_o_direct;
extern const int clinux_o_nofollow;
extern const int clinux_o_excl_block;

// eventfd(2), memfd_create(2), getrandom(2), prctl(2), signalfd(2): not in the Glibc module, or variadic.
int clinux_eventfd(void);
int clinux_memory_file(void);
int clinux_getrandom(void *buffer, size_t count);
int clinux_set_not_dumpable(void);
int clinux_set_parent_death_signal(int signal);
int clinux_set_close_on_exec(int fd);
int clinux_signalfd(const int *signals, int count);

// With _GNU_SOURCE the socket calls take transparent unions, which Swift cannot make.
int clinux_connect(int socket, const void *address, uint32_t length);
int clinux_bind(int socket, const void *address, uint32_t length);
int clinux_accept(int socket, void *address, uint32_t *length);
int clinux_local_address(int socket, void *address, uint32_t *length);

// struct sockaddr_un needs the same unions. Sends one datagram to a path, or to an abstract name ("@…").
int clinux_notify(const char *path, const char *message);

// The macros of control messages. A message with a descriptor (or without: -1) to a socket of this host; and the next one with
// the descriptor that came with it, closed on exec, or -1.
int clinux_send_descriptor(int socket, const void *message, size_t count, int descriptor);
long clinux_receive_descriptor(int socket, void *message, size_t count, int *descriptor);

// struct sockaddr_un and struct ucred, again. A new descriptor, or -1; the user at the other end: 0, or -1.
int clinux_connect_to_path(const char *path);
int clinux_peer_user(int socket, uint32_t *user);

// Peeks at what a socket holds (recv with MSG_PEEK), and sets how much must be there before poll(2) says so.
long clinux_peek(int socket, void *buffer, size_t count);
int clinux_set_low_water(int socket, int bytes);

// The words that this program was started with, as the C library was given them: the first is its name. Swift's own list
// needs /proc.
int clinux_argument_count(void);
const char *clinux_argument(int index);   // NULL past the end

// W* macros over wait statuses.
int clinux_wait_exit_code(int status);   // -1 unless it exited
int clinux_wait_signal(int status);      // 0 unless a signal ended it

// S_IS* macros.
int clinux_mode_is_block_device(uint32_t mode);
int clinux_mode_is_regular(uint32_t mode);
int clinux_mode_is_directory(uint32_t mode);

// major()/minor() are macros.
uint32_t clinux_major(unsigned long device);
uint32_t clinux_minor(unsigned long device);

#endif
