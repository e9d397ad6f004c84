// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Wire

/// Exit codes of both programs, listed in `--help` and docs/OPERATIONS.md 8. Their meaning never
/// changes.
package enum ExitStatus: Int32, Sendable, CaseIterable {
    /// Done, or nothing to do.
    case done = 0
    /// Failed for a reason without a separate code.
    case failed = 1
    /// The command was used wrongly.
    case usage = 2
    /// Another process or session holds the volume.
    case busy = 3
    /// The standby cannot be reached; try again.
    case unreachable = 4
    /// Interrupted; the next send resumes.
    case interrupted = 5
    /// Identity: a key that is not pinned, an unknown peer or volume, a bad invitation.
    case identity = 6
    /// The generations do not follow each other; an operator must decide.
    case lineage = 7
    /// Verification found a difference.
    case mismatch = 8
    /// The target is in use, mounted, too small, missing, foreign or read-only.
    case target = 9
    /// Some volumes failed.
    case partial = 10
    /// An I/O error on the standby.
    case storage = 11
    /// The standby lacks space.
    case space = 12

    /// The exit code of a rule.
    package init(_ rule: RefusalRule) {
        self =
            switch rule {
            case .promoted, .notDemoted, .notEmpty, .targetWentBack, .diverged, .sizeShrunk,
                .suspect, .noMap,
                .notCompared, .prepared, .baseMissing, .parentMismatch, .numberMismatch,
                .otherSource, .baseLost,
                .storeOverflowed, .poolUnsound, .noList, .listIncomplete, .notThatGeneration,
                .exported, .inDoubt,
                .unknownExport, .unfinishedResync, .alreadyPromoted, .noGeneration, .notPromoted,
                .noTransfer:
                .lineage
            case .missing, .inUse, .suspended, .readOnly, .foreign, .tooSmall, .targetReplaced,
                .targetTaken,
                .occupied, .notWritten, .notTheCopy, .targetLost, .notRetargeted, .cannotKeep:
                .target
            case .unknownPeer, .otherPeer, .otherVolume, .otherStandby, .noPeer, .badSignature,
                .noExportKey, .badExportKey, .otherKey, .used,
                .unknownVolume,
                .notAuthorised, .invitation, .keyNotAccepted:
                .identity
            case .sourceChanged, .interrupted, .corrupt: .interrupted
            case .busy, .sessions, .fenced, .metadataSnapshot: .busy
            case .stopping, .unreachable: .unreachable
            case .space, .stateReadOnly: .space
            case .storage: .storage
            case .rootMismatch: .mismatch
            case .poolExhausted, .snapshotOverflowed, .sourceInUse, .sourceIsTarget,
                .groupIncomplete, .outputExists, .badExport, .badFormat, .laterFormat, .exportCut,
                .notApplied, .onlyInLog, .groupMismatch, .limit, .unsupportedVersion, .malformed,
                .fault:
                .failed
            }
    }

    /// The exit code of a refusal by the standby.
    package init(_ refusal: Refusal) {
        switch refusal.code {
        case .busy: self = .busy
        case .notAuthorised, .invitation: self = .identity
        case .lineage: self = .lineage
        case .target: self = .target
        case .space: self = .space
        case .storage: self = .storage
        case .corrupt: self = refusal.rule == "root-mismatch" ? .mismatch : .interrupted
        case .stopping: self = .unreachable
        case .unsupportedVersion, .malformed, .limit: self = .failed
        }
    }

    /// The table for `--help` and for the manual pages made by `make docs`.
    package static let table = """
        Exit codes: 0 done or nothing to do, 1 failed, 2 wrong use, 3 busy, 4 standby unreachable, \
        5 interrupted (the next send resumes), 6 identity not accepted, 7 generations do not follow each \
        other, 8 difference found, 9 target in use or unfit, 10 some volumes failed, 11 I/O error on the \
        standby, 12 no room on the standby or in a state directory, 128+N ended by signal N.
        """
}
