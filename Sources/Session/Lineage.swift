// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
package import Wire

/// The rules that decide which generation may follow which; both sides and `explain` use them.
///
/// Only ids decide. Numbers are compared to tell people in which direction two sides have parted.
package enum Lineage {
    /// What the sender remembers of a volume at one peer.
    package struct SourceMemory: Equatable, Sendable {
        /// The lineage, once a generation was committed or a full one begun.
        package var lineage: LineageID?
        /// The last generation known to be committed.
        package var committed: GenerationPoint?
        /// A generation whose COMMIT was sent and whose COMMITTED was not heard.
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

    /// What the sender will do.
    package enum Decision: Equatable, Sendable {
        /// The generation that was in doubt is committed; decide again with that in mind.
        case pendingIsCommitted
        /// Send everything: the target holds nothing. `resume` if the standby has part of it.
        case full(resume: Bool)
        /// Send the changes since the committed generation. `resume` if the standby has part of them.
        case delta(onto: GenerationPoint, resume: Bool)
        /// The standby holds a prepared generation of a group that is not complete. If it is the
        /// pending one, nothing of it is missing, else it is in the way until it is abandoned.
        case prepared(isPending: Bool)
        /// None of these is right.
        case refuse(Rule)
    }

    /// The rules by which a generation is refused.
    package typealias Rule = RefusalRule

    /// Decides what to send.
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

    /// What the receiver holds when BEGIN comes in.
    package struct StandbyMemory: Equatable, Sendable {
        package var state: StandbyState
        /// Volume size of the committed generation.
        package var committedSize: UInt64?
        /// The announcement of the unfinished transfer.
        package var unfinished: Begin?
        /// The root of the map that was made for COMPARE.
        package var comparedRoot: SHA256Digest?
        /// Whether the operator lets one resync overwrite a promoted copy.
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

    /// What the receiver does with BEGIN.
    package enum Admission: Equatable, Sendable {
        /// Go on with the unfinished transfer.
        case resume
        /// Start; whatever was unfinished is dropped.
        case start(inPlace: Bool)
        /// Nothing is written.
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
