// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Every rule by which either side refuses or ends something. The raw value travels in REFUSE and
/// appears in messages, in JSON and in the manual (docs/OPERATIONS.md 8). Only the programs name
/// the next step for each (`CommandLine.NextStep`).
package enum RefusalRule: String, Sendable, CaseIterable {
    // Generations that do not follow each other (`RefusalCode.lineage`).
    case promoted
    case notDemoted = "not-demoted"
    case notEmpty = "not-empty"
    case targetWentBack = "target-went-back"
    case diverged
    case sizeShrunk = "size-shrunk"
    case suspect
    case noMap = "no-map"
    case notCompared = "not-compared"
    case prepared
    case baseMissing = "base-missing"
    case parentMismatch = "parent-mismatch"
    case numberMismatch = "number-mismatch"

    // The target (`RefusalCode.target`).
    case missing
    case inUse = "in-use"
    case suspended
    case readOnly = "read-only"
    case foreign
    case tooSmall = "too-small"
    case targetReplaced = "target-replaced"
    case targetTaken = "target-taken"
    case occupied

    // The source; these never appear on the wire.
    case otherSource = "other-source"
    case baseLost = "base-lost"
    case storeOverflowed = "store-overflowed"
    case snapshotOverflowed = "snapshot-overflowed"
    case poolUnsound = "pool-unsound"
    case poolExhausted = "pool-exhausted"
    case noList = "no-list"
    case listIncomplete = "list-incomplete"
    case notThatGeneration = "not-that-generation"
    case sourceInUse = "source-in-use"
    case sourceChanged = "source-changed-while-sent"
    case sourceIsTarget = "source-is-target"
    case unknownPeer = "unknown-peer"
    case interrupted
    case groupIncomplete = "group-incomplete"

    // Export files; these never appear on the wire either.
    case outputExists = "output-exists"
    case exported
    case inDoubt = "in-doubt"
    case unknownExport = "unknown-export"
    case unfinishedResync = "unfinished-resync"
    case exportCut = "export-cut"
    case noExportKey = "no-export-key"
    case badExportKey = "bad-export-key"
    case badExport = "bad-export"
    case badFormat = "bad-format"
    case laterFormat = "later-format"
    case otherKey = "other-key"
    case badSignature = "bad-signature"
    case otherPeer = "other-peer"
    case otherVolume = "other-volume"
    case otherStandby = "other-standby"
    case noPeer = "no-peer"

    // Requests of the standby's operator; these never appear on the wire either.
    case unknownVolume = "unknown-volume"
    case alreadyPromoted = "already-promoted"
    case noGeneration = "no-generation"
    case notApplied = "not-applied"
    case notWritten = "not-written"
    case notTheCopy = "not-the-copy"
    case targetLost = "target-lost"
    case onlyInLog = "only-in-log"
    case notRetargeted = "not-retargeted"
    case notPromoted = "not-promoted"
    case cannotKeep = "cannot-keep"
    case noTransfer = "no-transfer"

    // Any operation on any volume. They include the names of REFUSE's codes.
    case unreachable
    case keyNotAccepted = "key-not-accepted"
    case busy
    case sessions
    case fenced
    case metadataSnapshot = "metadata-snapshot"
    case notAuthorised = "not-authorised"
    case invitation
    case used
    case space
    case stateReadOnly = "state-read-only"
    case storage
    case corrupt
    case rootMismatch = "root-mismatch"
    case groupMismatch = "group-mismatch"
    case limit
    case stopping
    case unsupportedVersion = "unsupported-version"
    case malformed
    case fault

    /// Explanation for the operator.
    package var meaning: String {
        switch self {
        case .promoted: "the standby was promoted and may have been written"
        case .notDemoted:
            "the copy was promoted, and its operator has not said that it may be replaced"
        case .notEmpty: "the standby already holds a generation that a full copy would replace"
        case .targetWentBack:
            "the standby holds an older generation than it confirmed earlier: it was restored or replaced"
        case .diverged: "the standby's content does not come from what this source has sent"
        case .sizeShrunk: "the volume is smaller than the committed generation"
        case .suspect: "the standby had an I/O error and does not trust its copy"
        case .noMap: "the standby has no tag map that could be trusted"
        case .notCompared: "the standby's copy is not what the resync was compared with"
        case .prepared:
            "the standby holds a prepared generation, whose group is not complete yet"
        case .baseMissing: "the standby holds no generation that a change could follow"
        case .parentMismatch:
            "the standby holds another generation than the change was made from"
        case .numberMismatch: "the generation's number does not follow the committed one"
        case .missing: "the target is not there"
        case .inUse: "the target is in use"
        case .suspended: "device-mapper has suspended the target: whatever reads or writes it waits"
        case .readOnly: "the target is read-only"
        case .foreign: "the target is not the one that was registered"
        case .tooSmall: "the target is too small"
        case .targetReplaced: "the target holds something else than the copy"
        case .targetTaken: "the target, or a part of it, belongs to something else"
        case .occupied: "the target already holds something"
        case .otherSource: "the volume was sent from another source so far"
        case .baseLost:
            "the snapshot that the last generation was made from is gone, merged or written, so that nothing tells what "
                + "changed"
        case .storeOverflowed:
            "the snapshot's store overflowed or its disk failed, so that nothing tells what changed"
        case .snapshotOverflowed: "the new snapshot's store overflowed while it was read"
        case .poolUnsound:
            "the thin pool's metadata is not to be trusted: it needs a check, lost a transaction, or LVM and the kernel disagree"
        case .poolExhausted: "the thin pool can take no more snapshots"
        case .noList: "nothing tells what differs between the two"
        case .listIncomplete: "blocks have changed that the change list does not name"
        case .notThatGeneration: "the source is not what the committed generation was made from"
        case .sourceInUse: "the source is in use"
        case .sourceChanged: "the source was written while it was sent"
        case .sourceIsTarget: "the source is the target of a standby on this host"
        case .unknownPeer: "no standby is known by this name"
        case .interrupted: "the connection ended in a transfer"
        case .groupIncomplete:
            "the standby has committed one volume of the group and not this one"
        case .outputExists: "there is a file of this name, and an export overwrites nothing"
        case .exported:
            "a generation was exported, and nobody has said that it was imported"
        case .inDoubt:
            "a generation was sent, and the standby has not said that it was committed"
        case .unknownExport: "no exported generation of this id is waiting to be imported"
        case .unfinishedResync: "a resync of the volume was begun and not finished"
        case .badExport: "the file is damaged, incomplete or no export"
        case .exportCut: "standard output did not take the end of the file"
        case .noExportKey: "the key to which files for the standby are encrypted is not known yet"
        case .badExportKey: "the standby has told an export key that nothing can be encrypted to"
        case .badFormat:
            "the file is of an old format, which did not encrypt the content and is not read any more"
        case .laterFormat: "the file is of a format that a later version writes"
        case .otherKey: "the file is encrypted to a key that the standby does not have any more"
        case .badSignature: "the file is not what its source host has signed"
        case .otherPeer: "the file is from another source host than the volume's"
        case .otherVolume: "the file holds another volume"
        case .otherStandby: "the file was exported for another standby"
        case .noPeer: "the volume belongs to no source host yet"
        case .unknownVolume: "there is no volume of this name"
        case .alreadyPromoted: "the volume is promoted already"
        case .noGeneration: "the volume holds no complete generation"
        case .notApplied: "a committed generation cannot be written to its target now"
        case .notWritten:
            "a committed generation is not written, since the target holds neither it nor the one before"
        case .notTheCopy: "the target does not hold the generation that would be handed over"
        case .targetLost:
            "the target does not hold the generation that would be handed over, but a kept snapshot does"
        case .onlyInLog: "only the staging log holds the committed generation as a whole"
        case .notRetargeted: "the new target is not proven to hold the generation"
        case .notPromoted: "the volume is not promoted: a resync needs no leave"
        case .cannotKeep:
            "generations are kept as snapshots in a thin pool, and the target is no thin volume"
        case .noTransfer: "no transfer of the volume is unfinished"
        case .unreachable: "the standby cannot be reached"
        case .keyNotAccepted: "one side does not accept the other's key"
        case .busy: "another process or session has the volume"
        case .sessions: "the source host has as many sessions on the standby as it may have"
        case .fenced: "a newer session has taken the volume over"
        case .metadataSnapshot:
            "the thin pool holds a metadata snapshot that Blockferry did not make"
        case .notAuthorised:
            "the volume does not exist on the standby, or belongs to another source host"
        case .invitation:
            "the invitation is unknown, used or expired, or the volume belongs to another key"
        case .used: "the invitation was used by another key"
        case .space: "there is no room"
        case .stateReadOnly: "the file system of the state directory is read-only"
        case .storage: "an I/O error on the standby"
        case .corrupt: "content was damaged on the way"
        case .rootMismatch: "the copy would not become what the source has"
        case .groupMismatch: "the members of the group do not agree how many they are"
        case .limit: "a limit of the protocol is reached"
        case .stopping: "the standby is stopping"
        case .unsupportedVersion: "the two sides have no version of the protocol in common"
        case .malformed: "the other side broke the protocol"
        case .fault: "a fault of this program"
        }
    }
}

/// An error that one of the rules explains.
package protocol RuledError: Error {
    /// `nil` if no rule matches.
    var refusalRule: RefusalRule? { get }
    /// Values for the placeholders in capitals in the rule's next step, such as "PATH".
    var words: [String: String] { get }
}

extension RuledError {
    package var words: [String: String] { [:] }
}
