// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

extension File {
    /// Takes a shared `flock(2)` that is held until the file is closed; while it is, nobody can take an exclusive one.
    ///
    /// - Returns: false if somebody holds an exclusive one. A file system without such locks is no obstacle.
    package func lockShared() -> Bool {
        retryingInterrupted { Int(flock(descriptor, LOCK_SH | LOCK_NB)) } == 0
            || errno != EWOULDBLOCK
    }

    /// Whether a program says by a record lock that it may write the file: by a write lock on any part of it, or as QEMU
    /// and its tools do, which lock for reading the byte that stands for a right to write (100 + the right).
    ///
    /// A program that locks nothing is not seen.
    package var isLockedForWriting: Bool {
        let qemuFirst: Int64 = 101
        let qemuCount: Int64 = 3
        return clinux_is_locked(descriptor, 0, 0, 0) == 1
            || clinux_is_locked(descriptor, 1, qemuFirst, qemuCount) == 1
    }
}
