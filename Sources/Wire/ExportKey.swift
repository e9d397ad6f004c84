// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests

/// Carries the key to which export files for the receiver are encrypted; first frame after a
/// WELCOME with the feature.
package struct ExportKey: Message {
    package static let type = FrameType.exportKey
    package var key: X25519Key

    package init(key: X25519Key) { self.key = key }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("EXPORTKEY")
        key = try reader.exportKey(bytes)
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] { key.bytes }
}

extension FieldReader {
    /// Reads a public key other than zeros.
    mutating func exportKey(_ bytes: RawSpan) throws(WireError) -> X25519Key {
        guard let key = X25519Key(bytes: try fixed(X25519Key.byteCount, bytes)) else {
            throw error(.zeroKey)
        }
        return key
    }
}
