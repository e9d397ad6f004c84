// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// A file descriptor with one owner; closed together with it.
package struct OwnedDescriptor: ~Copyable, Sendable {
    /// The descriptor, valid while this value lives.
    package let rawValue: CInt

    /// Takes over an open descriptor.
    package init(takingOwnershipOf rawValue: CInt) {
        self.rawValue = rawValue
    }

    deinit {
        // An error of close(2) cannot be handled here. What must be durable was synced before.
        _ = Glibc.close(rawValue)
    }

    /// Returns the descriptor without closing it.
    package consuming func release() -> CInt {
        let raw = rawValue
        discard self
        return raw
    }
}
