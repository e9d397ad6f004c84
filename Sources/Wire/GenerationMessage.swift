// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests

/// A message that names a generation, and says by its type what is true of it.
package protocol GenerationMessageKind {
    static var type: FrameType { get }
    /// As the specification calls the frame.
    static var name: String { get }
}

/// Names a generation.
package struct GenerationMessage<Kind: GenerationMessageKind>: Message {
    package static var type: FrameType { Kind.type }
    package var number: UInt64
    package var id: SHA256Digest

    package init(number: UInt64, id: SHA256Digest) {
        self.number = number
        self.id = id
    }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader(Kind.name)
        number = try reader.integer(UInt64.self, bytes)
        id = try reader.digest(bytes)
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: number)
        bytes.append(contentsOf: id.bytes)
        return bytes
    }
}

/// Marks COMMITTED.
package enum CommittedKind: GenerationMessageKind {
    package static let type = FrameType.committed
    package static let name = "COMMITTED"
}

/// Marks PREPARED.
package enum PreparedKind: GenerationMessageKind {
    package static let type = FrameType.prepared
    package static let name = "PREPARED"
}

/// Marks CURRENT.
package enum CurrentKind: GenerationMessageKind {
    package static let type = FrameType.current
    package static let name = "CURRENT"
}

/// Says that the target holds the generation, on stable storage.
package typealias Committed = GenerationMessage<CommittedKind>

/// Says that the generation waits on stable storage for the other members of its group.
package typealias Prepared = GenerationMessage<PreparedKind>

/// Says that the sender's volume, as it is now, is what this committed generation holds; answered by COMMITTED. Of a session
/// with the feature alone.
package typealias Current = GenerationMessage<CurrentKind>
