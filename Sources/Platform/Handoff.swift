// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// Passes one value to one other thread.
///
/// For values that must not be shared but may move: the sender stops using it, the receiver takes
/// it once.
package final class Handoff<Value>: @unchecked Sendable {
    // SAFETY of @unchecked Sendable: the value is written before the object is shared, and taken once, under
    // the lock.

    private var value: Value?
    private let taken = Mutex(false)

    /// Wraps a value that the caller no longer uses.
    package init(_ value: Value) {
        self.value = value
    }

    /// Takes the value; traps the second time.
    package func take() -> Value {
        let isFirst = taken.withLock { taken in
            defer { taken = true }
            return !taken
        }
        guard isFirst, let value else { preconditionFailure("a handoff is taken once") }
        self.value = nil
        return value
    }
}
