// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Every rule by which something is refused, on either side, for reasons that the state of the two sides has. The raw
/// value travels in REFUSE, stands in messages and JSON, and in the manual (docs/OPERATIONS.md 8).
package enum RefusalRule: String, Sendable, CaseIterable {
    // Generations that do not follow each other (`RefusalCode.lineage`).
    case baseMissing = "base-missing"
    case parentMismatch = "parent-mismatch"
    case diverged
    case targetWentBack = "target-went-back"
    case promoted
    case sizeShrunk = "size-shrunk"
    case numberMismatch = "number-mismatch"
    case suspect
    case notEmpty = "not-empty"
    case prepared
    case noMap = "no-map"
    case notCompared = "not-compared"
    case notDemoted = "not-demoted"

    // The target (`RefusalCode.target`).
    case missing
    case inUse = "in-use"
    case readOnly = "read-only"
    case foreign
    case tooSmall = "too-small"
    case targetReplaced = "target-replaced"
    case targetTaken = "target-taken"
    case occupied

    // The source; these never travel.
    case otherSource = "other-source"
    case sourceInUse = "source-in-use"
    case sourceChanged = "source-changed-while-sent"
    case sourceIsTarget = "source-is-target"
    case poolExhausted = "pool-exhausted"

    /// What it means, for people.
    package var meaning: String {
        switch self {
        case .baseMissing: "the standby holds no generation that a change could follow"
        case .parentMismatch:
            "the standby holds another generation than the change was made from"
        case .diverged:
            "the standby's content does not come from what this source has sent; blockferryd status there says why"
        case .targetWentBack:
            "the standby holds an older generation than it confirmed earlier: it was restored or replaced"
        case .promoted: "the standby was promoted and may have been written"
        case .sizeShrunk:
            "the volume is smaller than the committed generation; if that is meant, give --allow-shrink"
        case .numberMismatch: "the generation's number does not follow the committed one"
        case .suspect: "the standby had an I/O error and does not trust its copy"
        case .notEmpty: "the standby already holds a generation that a full copy would replace"
        case .noMap: "the standby has no tag map that could be trusted"
        case .notCompared: "the standby's copy is not what the resync was compared with"
        case .prepared:
            "the standby holds a prepared generation, whose group is not complete yet"
        case .notDemoted:
            "the standby was promoted, and its operator has not said that the copy may be overwritten; there: "
                + "blockferryd demote VOLUME"
        case .missing: "the target is not there"
        case .inUse: "the target is in use"
        case .readOnly: "the target is read-only"
        case .foreign: "the target is not the one that was registered"
        case .tooSmall: "the target is too small"
        case .targetReplaced: "the target holds something else than the copy"
        case .targetTaken: "the target, or a part of it, belongs to something else"
        case .occupied: "the target already holds something"
        case .otherSource:
            "the volume was sent from another source so far; if this one is meant, give --adopt-source"
        case .sourceInUse: "the source is in use"
        case .sourceChanged: "the source was written while it was sent"
        case .sourceIsTarget: "the source is the target of a standby on this host"
        case .poolExhausted: "the thin pool can take no more snapshots"
        }
    }
}
