// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The public half of a key on X25519, as RFC 7748 encodes it: what somebody can encrypt to.
package struct X25519Key: Hashable, Sendable {
    package static let byteCount = 32

    package let bytes: [UInt8]

    /// Takes 32 bytes, or nothing if there are more or fewer, or if all of them are zeros: no key.
    package init?(bytes: [UInt8]) {
        guard bytes.count == Self.byteCount, bytes.contains(where: { $0 != 0 }) else { return nil }
        self.bytes = bytes
    }
}
