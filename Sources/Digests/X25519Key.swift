// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// A public X25519 key in the encoding of RFC 7748: content can be encrypted to its owner.
package struct X25519Key: Hashable, Sendable {
    package static let byteCount = 32

    package let bytes: [UInt8]

    /// Takes 32 bytes; returns `nil` for any other count, or if all are zero, which is not a key.
    package init?(bytes: [UInt8]) {
        guard bytes.count == Self.byteCount, bytes.contains(where: { $0 != 0 }) else { return nil }
        self.bytes = bytes
    }
}
