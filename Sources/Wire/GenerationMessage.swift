// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests

/// The type of a message that names a generation and states a fact about it.
package protocol GenerationMessageKind {
    static var type: FrameType { get }
    /// The frame's name in the specification.
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

/// The target holds the generation on stable storage.
package typealias Committed = GenerationMessage<CommittedKind>

/// The generation waits on stable storage for the other members of its group.
package typealias Prepared = GenerationMessage<PreparedKind>

/// The sender's volume still is this committed generation; answered by COMMITTED. Sent only in
/// sessions with the feature.
package typealias Current = GenerationMessage<CurrentKind>
