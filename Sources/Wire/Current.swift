// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests

/// Says that the sender's volume, as it is now, is what this committed generation holds; answered by COMMITTED. Of a session
/// with the feature alone.
package struct Current: Message {
    package static let type = FrameType.current
    package var number: UInt64
    package var id: SHA256Digest

    package init(number: UInt64, id: SHA256Digest) {
        self.number = number
        self.id = id
    }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("CURRENT")
        number = try reader.integer(UInt64.self, bytes)
        id = try reader.digest(bytes)
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] { Committed(number: number, id: id).encoded() }
}
