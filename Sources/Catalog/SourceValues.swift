// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
package import Wire

/// A standby that this host may send to.
package struct Receiver: Equatable, Sendable {
    /// What it is called here.
    package var name: String
    /// Its key.
    package var key: KeyID
    /// Where it listens: host:port.
    package var address: String
    /// Nanoseconds since 1970-01-01 UTC.
    package var addedAt: UInt64
}

/// A generation that is on its way.
package struct SourceTransfer: Equatable, Sendable {
    /// The announcement; `heldSegments` is not kept.
    package var begin: Begin
    /// Identity of the snapshot that is sent; nothing if the source has none.
    package var base: String?
    /// Name of the plan file beside the catalog.
    package var planName: String

    package init(begin: Begin, base: String?, planName: String) {
        self.begin = begin
        self.base = base
        self.planName = planName
    }
}

/// What the source knows of one volume on one standby.
package struct Replica: Equatable, Sendable {
    package var receiver: String
    package var volume: VolumeName
    /// The chain of generations, once one was begun.
    package var lineage: LineageID?
    package var tagAlgorithm: TagAlgorithm?
    package var tagKey: TagKey?
    /// The last generation that the standby has confirmed.
    package var committed: GenerationRecord?
    package var committedAt: UInt64?
    /// Identity of the snapshot that the committed generation was made from.
    package var base: String?
    /// The generation whose COMMIT was sent and whose COMMITTED was not heard.
    package var pending: GenerationRecord?
    package var transfer: SourceTransfer?

    package init(receiver: String, volume: VolumeName) {
        self.receiver = receiver
        self.volume = volume
    }
}

/// A committed generation and what it cost.
package struct HistoryEntry: Equatable, Sendable {
    package var receiver: String
    package var volume: VolumeName
    package var number: UInt64
    package var id: SHA256Digest
    /// Bytes of the change list.
    package var changedByteCount: UInt64
    /// Bytes of frames.
    package var wireByteCount: UInt64
    package var nanoseconds: UInt64
    package var committedAt: UInt64

    package init(
        receiver: String, volume: VolumeName, number: UInt64, id: SHA256Digest,
        changedByteCount: UInt64, wireByteCount: UInt64, nanoseconds: UInt64, committedAt: UInt64
    ) {
        self.receiver = receiver
        self.volume = volume
        self.number = number
        self.id = id
        self.changedByteCount = changedByteCount
        self.wireByteCount = wireByteCount
        self.nanoseconds = nanoseconds
        self.committedAt = committedAt
    }
}
