// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
package import Wire

/// A sender whose key the standby has pinned.
package struct StandbyPeer: Hashable, Sendable {
    /// Its key, which alone identifies it.
    package var key: KeyID
    /// Its name, for display.
    package var name: String
    /// Time of the pairing, nanoseconds since 1970-01-01 UTC.
    package var addedAt: UInt64

    package init(key: KeyID, name: String, addedAt: UInt64) {
        self.key = key
        self.name = name
        self.addedAt = addedAt
    }
}

/// The unfinished transfer of a volume, on the standby.
package struct StandbyTransfer: Equatable, Sendable {
    /// The announcement, with `heldSegments` 0, as in the header of the staging log: that field
    /// depends on the connection.
    package let begin: Begin
    /// Id of its staging log.
    package let logID: StagingLogID
    /// Whether its content is written directly to the target.
    package let inPlace: Bool

    package init(begin: Begin, logID: StagingLogID, inPlace: Bool) {
        var begin = begin
        begin.heldSegments = 0
        self.begin = begin
        self.logID = logID
        self.inPlace = inPlace
    }
}

/// The standby's record of a volume.
package struct StandbyVolume: Equatable, Sendable {
    package var name: VolumeName
    /// The only sender with access to it.
    package var peer: KeyID?
    /// Path of the device or file that holds the copy.
    package var targetPath: String
    package var targetKind: TargetKind
    /// Identity of the target: the text of an `ObjectIdentity`. Other texts are of earlier versions
    /// and prove nothing.
    package var targetIdentity: String
    /// Whether a first copy may replace the target's content.
    package var mayOverwrite = false
    /// For a thin volume: the host's boot and the presence of its mapping when it was last known to
    /// hold the copy.
    package var targetPresence: String?
    package var state: VolumeState
    /// Lineage of the committed generation.
    package var lineage: LineageID?
    /// Algorithm of the lineage's tags, set by its full generation.
    package var tagAlgorithm: TagAlgorithm?
    /// Secret key of the lineage's tags.
    package var tagKey: TagKey?
    /// The generation that the target is known to hold; the record's `id` is the generation's.
    package var committed: GenerationRecord?
    /// Time of the commit, nanoseconds since 1970-01-01 UTC by the standby's clock.
    package var committedAt: UInt64?
    /// When the source last said that it still holds the committed generation, by the standby's
    /// clock.
    package var confirmedAt: UInt64?
    /// Why the source's last session was refused; `nil` if it was not.
    package var refusal: Refused?
    /// The unfinished transfer.
    package var transfer: StandbyTransfer?
    /// The generation that is being applied or, in state *prepared*, waits for its group.
    package var applying: GenerationRecord?
    /// The fencing number that a writer must present.
    package var fence: UInt64
    /// Why the volume is suspect or diverged, or why the last attempt to apply failed.
    package var suspectReason: String?
    /// Whether the operator allows one resync to overwrite a promoted copy.
    package var isDemoted = false
    /// Whether the catalog was restored from a backup or moved, and the target has not been read in
    /// full since: it may hold a later generation, or the operator's writes.
    package var isRestored = false
    /// Time of the registration, nanoseconds since 1970-01-01 UTC.
    package var addedAt: UInt64

    /// Group of the unfinished transfer.
    package var group: Group? { transfer?.begin.group }

    /// A new, empty volume.
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

/// Why a session was refused, or why its sender ended it.
package struct Refused: Equatable, Sendable {
    /// Nanoseconds since 1970-01-01 UTC.
    package var time: UInt64
    package var rule: String
    /// One sentence for the operator; it may come from the other side.
    package var text: String

    package init(time: UInt64, rule: String, text: String) {
        self.time = time
        self.rule = rule
        self.text = text
    }
}

/// One event in the standby's record.
package struct StandbyEvent: Equatable, Sendable {
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
        /// The source's sessions are refused, for a new reason.
        case refused
    }

    /// Ascending number, never reused.
    package var number: UInt64
    /// Nanoseconds since 1970-01-01 UTC.
    package var time: UInt64
    package var volume: VolumeName?
    package var kind: Kind
    /// Text for the operator.
    package var text: String

    package init(number: UInt64, time: UInt64, volume: VolumeName?, kind: Kind, text: String) {
        self.number = number
        self.time = time
        self.volume = volume
        self.kind = kind
        self.text = text
    }
}
