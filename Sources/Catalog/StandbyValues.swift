// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
package import Wire

/// A sender whose key the standby has pinned.
package struct StandbyPeer: Hashable, Sendable {
    /// Its key; the only thing that identifies it.
    package var key: KeyID
    /// What people call it.
    package var name: String
    /// Nanoseconds since 1970-01-01 UTC.
    package var addedAt: UInt64

    package init(key: KeyID, name: String, addedAt: UInt64) {
        self.key = key
        self.name = name
        self.addedAt = addedAt
    }
}

/// The unfinished transfer of a volume, at the standby.
package struct StandbyTransfer: Equatable, Sendable {
    /// The announcement, with `heldSegments` 0, as in the header of the staging log: that field
    /// belongs to a connection.
    package let begin: Begin
    /// The staging log it goes to.
    package let logID: StagingLogID
    /// Whether content goes straight to the target.
    package let inPlace: Bool

    package init(begin: Begin, logID: StagingLogID, inPlace: Bool) {
        var begin = begin
        begin.heldSegments = 0
        self.begin = begin
        self.logID = logID
        self.inPlace = inPlace
    }
}

/// A volume as the standby knows it.
package struct StandbyVolume: Equatable, Sendable {
    package var name: VolumeName
    /// The sender that may reach it.
    package var peer: KeyID?
    /// Device or file that holds the copy.
    package var targetPath: String
    package var targetKind: TargetKind
    /// Which object the target is: the text of an `ObjectIdentity`. Other texts are of former versions and say nothing.
    package var targetIdentity: String
    /// Whether a first copy may replace what the target holds.
    package var mayOverwrite = false
    /// Of a thin volume: the run of the host and the presence of its mapping in which it was known to hold the copy.
    package var targetPresence: String?
    package var state: VolumeState
    /// Lineage of the committed generation.
    package var lineage: LineageID?
    /// How the lineage's tags are made, from its full generation.
    package var tagAlgorithm: TagAlgorithm?
    /// The lineage's secret.
    package var tagKey: TagKey?
    /// The generation the target is known to hold; its `id` is the generation's id.
    package var committed: GenerationRecord?
    /// When it was committed, nanoseconds since 1970-01-01 UTC by the standby's clock.
    package var committedAt: UInt64?
    /// When the source said last that it still holds what was committed, by the standby's clock.
    package var confirmedAt: UInt64?
    /// Why the source's last session was refused, if it was.
    package var refusal: Refused?
    /// The unfinished transfer.
    package var transfer: StandbyTransfer?
    /// The generation that is being written to the target, or, in state prepared, waits for its group.
    package var applying: GenerationRecord?
    /// The number that a writer must present.
    package var fence: UInt64
    /// Why it is suspect or diverged, or, while it is applying, why the last attempt failed.
    package var suspectReason: String?
    /// Whether the operator lets one resync overwrite a promoted copy.
    package var isDemoted = false
    /// Whether the catalog was restored from a backup, or moved, and the target was not read as a whole since: it may hold a
    /// later generation, or what its operator has written.
    package var isRestored = false
    /// Nanoseconds since 1970-01-01 UTC.
    package var addedAt: UInt64

    /// The group of the unfinished transfer.
    package var group: Group? { transfer?.begin.group }

    /// A new volume that holds nothing.
    package init(
        name: VolumeName, peer: KeyID?, targetPath: String, targetKind: TargetKind,
        targetIdentity: String, addedAt: UInt64
    ) {
        self.name = name
        self.peer = peer
        self.targetPath = targetPath
        self.targetKind = targetKind
        self.targetIdentity = targetIdentity
        self.state = .empty
        self.fence = 0
        self.addedAt = addedAt
    }
}

/// Why a session was refused, or why its sender gave it up.
package struct Refused: Equatable, Sendable {
    /// Nanoseconds since 1970-01-01 UTC.
    package var time: UInt64
    package var rule: String
    /// One sentence for people; it may come from the other side.
    package var text: String

    package init(time: UInt64, rule: String, text: String) {
        self.time = time
        self.rule = rule
        self.text = text
    }
}

/// One line of the standby's record of what was done.
package struct StandbyEvent: Equatable, Sendable {
    /// What happened.
    package enum Kind: String, Sendable, CaseIterable {
        case peerAdded = "peer-added"
        case peerRemoved = "peer-removed"
        case volumeAdded = "volume-added"
        case volumeRemoved = "volume-removed"
        case volumeRenamed = "volume-renamed"
        case targetChanged = "target-changed"
        case overwrite
        case invited
        case paired
        case begun
        case abandoned
        case prepared
        case applying
        case notApplied = "not-applied"
        case committed
        case suspect
        case diverged
        case promoted
        case demoted
        case reset
        case retention
        case restored
        case kept
        case notKept = "not-kept"
        case released
        case warning
        case scrubbed
        /// The source's sessions are refused, for another reason than before.
        case refused
    }

    /// Ascends; never used twice.
    package var number: UInt64
    /// Nanoseconds since 1970-01-01 UTC.
    package var time: UInt64
    package var volume: VolumeName?
    package var kind: Kind
    /// For people.
    package var text: String

    package init(number: UInt64, time: UInt64, volume: VolumeName?, kind: Kind, text: String) {
        self.number = number
        self.time = time
        self.volume = volume
        self.kind = kind
        self.text = text
    }
}
