// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests

/// A generation that is kept as a snapshot of the target.
package struct KeptGeneration: Hashable, Sendable {
    package var number: UInt64
    package var id: SHA256Digest
    /// The point in time of the source's snapshot, nanoseconds since 1970-01-01 UTC by the source's clock.
    package var sourceTime: UInt64
    /// Nanoseconds since 1970-01-01 UTC by the standby's clock.
    package var committedAt: UInt64
    /// "vg/lv" of the snapshot when it was seen last.
    package var snapshot: String
    /// LVM's id of it.
    package var snapshotUUID: String
    /// Its number in its thin pool. LVM gives a new one a number above all there are, so that it tells what is newer.
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

    /// What is marked so, in this snapshot.
    package init(
        _ mark: GenerationMark, snapshot: String, snapshotUUID: String, thinDevice: UInt32
    ) {
        self.init(
            number: mark.number, id: mark.id, sourceTime: mark.sourceTime,
            committedAt: mark.committedAt, snapshot: snapshot, snapshotUUID: snapshotUUID,
            thinDevice: thinDevice)
    }

    /// What its tags say.
    package var mark: GenerationMark {
        GenerationMark(number: number, id: id, sourceTime: sourceTime, committedAt: committedAt)
    }
}

/// What the tags of a kept generation's snapshot say of it.
package struct GenerationMark: Hashable, Sendable {
    package var number: UInt64
    package var id: SHA256Digest
    /// As in `KeptGeneration`.
    package var sourceTime, committedAt: UInt64

    package init(number: UInt64, id: SHA256Digest, sourceTime: UInt64, committedAt: UInt64) {
        self.number = number
        self.id = id
        self.sourceTime = sourceTime
        self.committedAt = committedAt
    }
}

/// Whose kept generations: those of one volume of one standby, since it was last told to keep some.
package struct KeptOwner: Hashable, Sendable {
    /// Eight bytes that no other owner has: drawn at random when the standby was told to keep generations of the volume;
    /// by earlier versions the first of the SHA-256 of the standby's key.
    package let standby: [UInt8]
    /// The name that the volume had then.
    package let volume: VolumeName

    /// The owner of what `standby` keeps of `volume`.
    package init(_ standby: KeyID, _ volume: VolumeName) {
        self.standby = Array(standby.digest.bytes.prefix(8))
        self.volume = volume
    }

    package init(standby: [UInt8], volume: VolumeName) {
        self.standby = standby
        self.volume = volume
    }
}
