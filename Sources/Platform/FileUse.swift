// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

extension File {
    /// Takes a shared `flock(2)`, held until the file is closed; meanwhile no other process can
    /// take an exclusive one.
    ///
    /// - Returns: `false` if another process holds an exclusive one. A file system without such
    ///   locks is no obstacle.
    package func lockShared() -> Bool {
        retryingInterrupted { Int(flock(descriptor, LOCK_SH | LOCK_NB)) } == 0
            || errno != EWOULDBLOCK
    }

    /// Whether a record lock shows that a program may write the file: a write lock on any part of
    /// it, or QEMU's convention, which read-locks the byte of its write permission (100 + the
    /// permission).
    ///
    /// It cannot detect a program that takes no locks.
    package var isLockedForWriting: Bool {
        lockInTheWay(isExclusive: false, 0, 0) != nil
            || (lockInTheWay(isExclusive: true, 101, 3)).map { lock in
                // A reader that locks the whole file starts at 0.
                lock.start >= 100 && lock.count > 0
            } ?? false
    }

    private func lockInTheWay(
        isExclusive: Bool, _ start: Int64, _ count: Int64
    ) -> (start: Int64, count: Int64)? {
        var (start, count) = (start, count)
        // SAFETY: writes the values passed.
        let found = unsafe clinux_lock_in_the_way(descriptor, isExclusive ? 1 : 0, &start, &count)
        return found == 1 ? (start, count) : nil
    }
}
