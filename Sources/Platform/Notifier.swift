// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// Wakes a thread that waits in poll(2).
package final class Notifier: Sendable {
    private let event: OwnedDescriptor

    package init() throws(SystemCallError) {
        let descriptor = clinux_eventfd()
        guard descriptor >= 0 else { throw SystemCallError("eventfd", "for a wake-up") }
        event = OwnedDescriptor(takingOwnershipOf: descriptor)
    }

    /// Readable from a notification until `clear`.
    package var descriptor: CInt { event.rawValue }

    /// Wakes the waiter, now or at its next wait.
    package func notify() {
        var one: UInt64 = 1
        // SAFETY: eight bytes are read from `one`. A full counter (EAGAIN) is a notification too.
        _ = unsafe write(event.rawValue, &one, 8)
    }

    /// Consumes the notifications so far.
    package func clear() {
        var count: UInt64 = 0
        // SAFETY: eight bytes are written to `count`.
        _ = unsafe read(event.rawValue, &count, 8)
    }
}
