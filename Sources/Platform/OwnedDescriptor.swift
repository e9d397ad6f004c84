// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// A file descriptor with one owner, closed when the owner goes away.
package struct OwnedDescriptor: ~Copyable, Sendable {
    /// The descriptor; valid as long as this value lives.
    package let rawValue: CInt

    /// Takes over an open descriptor.
    package init(takingOwnershipOf rawValue: CInt) {
        self.rawValue = rawValue
    }

    deinit {
        // The last resort: an error of close(2) has nobody left to hear it. What must be durable was
        // synced before.
        _ = Glibc.close(rawValue)
    }

    /// Gives the descriptor up without closing it.
    package consuming func release() -> CInt {
        let raw = rawValue
        discard self
        return raw
    }
}
