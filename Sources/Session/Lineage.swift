// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
package import Wire

/// The rules that decide which generation may follow which, used by both sides and by `explain`.
///
/// Only ids decide. Numbers are compared only to tell the operator in which direction the two sides
/// have diverged.
package enum Lineage {
    /// What the sender has recorded about a volume at one peer.
    package struct SourceMemory: Equatable, Sendable {
        /// The lineage; set once a full generation was begun or a generation committed.
        package var lineage: LineageID?
        /// The last generation known to be committed.
        package var committed: GenerationPoint?
        /// A generation whose COMMIT was sent and whose COMMITTED has not arrived.
        package var pending: GenerationPoint?
        /// The unfinished transfer.
        package var transfer: TransferID?

        package init(
            lineage: LineageID? = nil, committed: GenerationPoint? = nil,
            pending: GenerationPoint? = nil, transfer: TransferID? = nil
        ) {
            self.lineage = lineage
            self.committed = committed
            self.pending = pending
            self.transfer = transfer
        }
    }

    /// Number and id of a generation.
    package struct GenerationPoint: Hashable, Sendable {
        package var number: UInt64
        package var id: SHA256Digest

        package init(number: UInt64, id: SHA256Digest) {
            self.number = number
            self.id = id
        }
    }

    /// What the sender does next.
    package enum Decision: Equatable, Sendable {
        /// The generation in doubt is committed; decide again on that basis.
        case pendingIsCommitted
        /// Send everything: the target holds no generation. `resume` if the standby has part of it.
        case full(resume: Bool)
        /// Send the changes since the committed generation. `resume` if the standby has part of them.
        case delta(onto: GenerationPoint, resume: Bool)
        /// The standby holds a prepared generation of an incomplete group. If it is the pending
        /// one, it is complete; otherwise it is in the way until it is abandoned.
        case prepared(isPending: Bool)
        /// Refuse, by this rule.
        case refuse(Rule)
    }

    /// The rules by which a generation is refused.
    package typealias Rule = RefusalRule

    /// Decides what the sender does.
    package static func decide(_ memory: SourceMemory, _ standby: StandbyState) -> Decision {
        switch standby.state {
        case .promoted: return .refuse(.promoted)
        case .diverged: return .refuse(.diverged)
        case .suspect: return .refuse(.suspect)
        case .empty, .initialising, .consistent, .staging, .applying, .prepared: break
        }
        let resume = memory.transfer.map { $0 == standby.transfer } ?? false
        func send(_ decision: Decision) -> Decision {
            guard standby.state == .prepared else { return decision }
            return .prepared(isPending: resume && memory.pending != nil)
        }
        guard standby.committedID != .zero else {
            guard memory.committed == nil else { return .refuse(.targetWentBack) }
            return send(.full(resume: resume))
        }
        let there = GenerationPoint(number: standby.committedNumber, id: standby.committedID)
        guard let lineage = memory.lineage else { return .refuse(.notEmpty) }
        guard lineage == standby.lineage else { return .refuse(.diverged) }
        if let pending = memory.pending, pending == there { return .pendingIsCommitted }
        guard let here = memory.committed else { return .refuse(.diverged) }
        if here == there { return send(.delta(onto: here, resume: resume)) }
        return .refuse(there.number < here.number ? .targetWentBack : .diverged)
    }

    /// What the receiver has recorded when BEGIN arrives.
    package struct StandbyMemory: Equatable, Sendable {
        package var state: StandbyState
        /// Volume size of the committed generation in bytes.
        package var committedSize: UInt64?
        /// The announcement of the unfinished transfer.
        package var unfinished: Begin?
        /// The root of the map made for COMPARE.
        package var comparedRoot: SHA256Digest?
        /// Whether the operator allows one resync to overwrite a promoted copy.
        package var isDemoted: Bool

        package init(
            state: StandbyState, committedSize: UInt64?, unfinished: Begin?,
            comparedRoot: SHA256Digest? = nil, isDemoted: Bool = false
        ) {
            self.state = state
            self.committedSize = committedSize
            self.unfinished = unfinished
            self.comparedRoot = comparedRoot
            self.isDemoted = isDemoted
        }
    }

    /// What the receiver does on BEGIN.
    package enum Admission: Equatable, Sendable {
        /// Resume the unfinished transfer.
        case resume
        /// Start; drop any unfinished transfer.
        case start(inPlace: Bool)
        /// Refuse; write nothing.
        case refuse(Refusal)
    }

    /// Decides whether a transfer may begin.
    package static func admit(_ begin: Begin, _ memory: StandbyMemory) -> Admission {
        func no(_ rule: Rule) -> Admission {
            .refuse(Refusal(.lineage, rule: rule, rule.meaning))
        }
        let standby = memory.state
        switch standby.state {
        case .prepared: return no(.prepared)
        case .promoted where begin.head.kind != .resync: return no(.promoted)
        case .promoted where !memory.isDemoted: return no(.notDemoted)
        case .diverged where begin.head.kind != .resync: return no(.diverged)
        case .suspect where begin.head.kind != .resync: return no(.suspect)
        default: break
        }
        let hasGeneration = standby.committedID != .zero
        let isShrinking =
            !begin.allowsShrink
            && memory.committedSize.map { begin.head.volumeSize < $0 } ?? false
        switch begin.head.kind {
        case .full:
            if hasGeneration { return no(.notEmpty) }
            if begin.head.number != 1 { return no(.numberMismatch) }
        case .delta:
            guard hasGeneration else { return no(.baseMissing) }
            if begin.head.lineage != standby.lineage { return no(.diverged) }
            if begin.head.parent != standby.committedID { return no(.parentMismatch) }
            let (next, overflow) = standby.committedNumber.addingReportingOverflow(1)
            if overflow || begin.head.number != next { return no(.numberMismatch) }
            if isShrinking { return no(.sizeShrunk) }
        case .resync:
            if begin.head.parent == .zero {
                if begin.head.number != 1 { return no(.numberMismatch) }
            } else {
                if begin.head.lineage != standby.lineage { return no(.diverged) }
                if begin.head.parent != standby.committedID { return no(.parentMismatch) }
                if begin.head.number <= standby.committedNumber { return no(.numberMismatch) }
            }
            if isShrinking { return no(.sizeShrunk) }
            guard let root = memory.comparedRoot, root == begin.comparedRoot else {
                return no(.notCompared)
            }
        }
        if standby.targetKind == .blockDevice, begin.head.volumeSize > standby.targetSize {
            return .refuse(
                Refusal(
                    .target, rule: .tooSmall,
                    "the target has \(standby.targetSize) bytes, the volume \(begin.head.volumeSize)"
                ))
        }
        if var unfinished = memory.unfinished {
            unfinished.heldSegments = begin.heldSegments
            if unfinished == begin { return .resume }
        }
        let hasNothing = standby.state == .empty || standby.state == .initialising
        return .start(
            inPlace: begin.head.kind == .full || begin.inPlace
                || begin.head.kind == .resync && hasNothing)
    }
}
