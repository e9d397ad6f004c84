// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests

/// A generation that is kept as a snapshot of the target.
package struct KeptGeneration: Hashable, Sendable {
    package var number: UInt64
    package var id: SHA256Digest
    /// Point in time of the source's snapshot, nanoseconds since 1970-01-01 UTC by the source's
    /// clock.
    package var sourceTime: UInt64
    /// Time of the commit, nanoseconds since 1970-01-01 UTC by the standby's clock.
    package var committedAt: UInt64
    /// Full name of the snapshot, "vg/lv", when it was last seen.
    package var snapshot: String
    /// LVM's id of the snapshot.
    package var snapshotUUID: String
    /// Device id of the snapshot in its thin pool. LVM numbers a new snapshot above all existing
    /// ones, so a greater id is newer.
    package var thinDevice: UInt32

    package init(
        number: UInt64, id: SHA256Digest, sourceTime: UInt64, committedAt: UInt64, snapshot: String,
        snapshotUUID: String, thinDevice: UInt32
    ) {
        self.number = number
        self.id = id
        self.sourceTime = sourceTime
        self.committedAt = committedAt
        self.snapshot = snapshot
        self.snapshotUUID = snapshotUUID
        self.thinDevice = thinDevice
    }

    /// Combines a mark with the snapshot that carries it.
    package init(
        _ mark: GenerationMark, snapshot: String, snapshotUUID: String, thinDevice: UInt32
    ) {
        self.init(
            number: mark.number, id: mark.id, sourceTime: mark.sourceTime,
            committedAt: mark.committedAt, snapshot: snapshot, snapshotUUID: snapshotUUID,
            thinDevice: thinDevice)
    }

    /// The part that its tags record.
    package var mark: GenerationMark {
        GenerationMark(number: number, id: id, sourceTime: sourceTime, committedAt: committedAt)
    }
}

/// What the tags of a kept generation's snapshot record.
package struct GenerationMark: Hashable, Sendable {
    package var number: UInt64
    package var id: SHA256Digest
    /// Same as in `KeptGeneration`.
    package var sourceTime, committedAt: UInt64

    package init(number: UInt64, id: SHA256Digest, sourceTime: UInt64, committedAt: UInt64) {
        self.number = number
        self.id = id
        self.sourceTime = sourceTime
        self.committedAt = committedAt
    }
}

/// Owner of kept generations: one volume of one standby, since the operator last told it to keep
/// generations.
package struct KeptOwner: Hashable, Sendable {
    /// Eight bytes that no other owner has: drawn at random when the operator told the standby to
    /// keep generations of the volume. Earlier versions took the first bytes of the SHA-256 of the
    /// standby's key.
    package let standby: [UInt8]
    /// Name of the volume at that time.
    package let volume: VolumeName

    /// The owner of the generations of `volume` that `standby` keeps.
    package init(_ standby: KeyID, _ volume: VolumeName) {
        self.standby = Array(standby.digest.bytes.prefix(8))
        self.volume = volume
    }

    package init(standby: [UInt8], volume: VolumeName) {
        self.standby = standby
        self.volume = volume
    }
}
