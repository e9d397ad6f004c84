// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
package import Wire

/// The facts of a decision: what this side recorded, what the standby answered, and the source.
package struct SendFacts: Equatable, Sendable {
    /// Facts of a source, relative to what was sent of the volume so far.
    package struct Source: Equatable, Sendable {
        /// Size of the volume in bytes.
        package var byteCount: UInt64
        /// Why the source is not the one sent so far; `nil` if it is, or if the operator allows a
        /// change.
        package var otherSource: String?
        /// Whether its identity proves that its content is the committed generation.
        package var isCommitted: Bool
        /// Whether the unfinished transfer is of this point in time and its plan exists.
        package var isPlanned: Bool
        /// Whether the tag map of the unfinished generation can still be completed.
        package var hasDraft: Bool
        /// Proof of the changes. Finding it takes longer than all other facts, and it matters only
        /// if the decision without it is a delta; `nil` until then.
        package var proof: Proof?

        package init(
            byteCount: UInt64, otherSource: String? = nil, isCommitted: Bool = false,
            isPlanned: Bool = false, hasDraft: Bool = true, proof: Proof? = nil
        ) {
            self.byteCount = byteCount
            self.otherSource = otherSource
            self.isCommitted = isCommitted
            self.isPlanned = isPlanned
            self.hasDraft = hasDraft
            self.proof = proof
        }
    }

    /// How the changes since the committed generation are determined.
    package enum Proof: Equatable, Sendable {
        case list
        /// The source has no change list, for this reason; comparing all of it with the tag map
        /// shows the changes.
        case compare(String)
        /// An operator must decide.
        case none(RefusalRule, String)
    }

    package var memory: Lineage.SourceMemory
    package var standby: StandbyState
    /// `nil` to decide by the two histories alone.
    package var source: Source?
    /// Volume size of the committed generation in bytes.
    package var committedByteCount: UInt64?
    /// Whether the volume may be smaller than `committedByteCount`.
    package var allowsShrink: Bool
    /// Whether the decision may be to wait, with a generation that waits on the standby for its
    /// group.
    package var keepsPrepared: Bool

    package init(
        memory: Lineage.SourceMemory, standby: StandbyState, source: Source? = nil,
        committedByteCount: UInt64? = nil, allowsShrink: Bool = false, keepsPrepared: Bool = false
    ) {
        self.memory = memory
        self.standby = standby
        self.source = source
        self.committedByteCount = committedByteCount
        self.allowsShrink = allowsShrink
        self.keepsPrepared = keepsPrepared
    }
}

/// What to do with a point in time: the one decision of a send, a member of a group, an export, a
/// dry run and `explain`.
package enum SendDecision: Equatable, Sendable {
    /// The standby already has this point in time.
    case upToDate
    /// Send everything; `resume` if the standby has part of it.
    case full(resume: Bool)
    /// Send the changes since a generation; `resume` if the standby has part of them.
    case delta(onto: Lineage.GenerationPoint, resume: Bool)
    /// Read the whole source first, for this reason; then send a delta or resume the transfer.
    case compare(onto: Lineage.GenerationPoint?, resume: Bool, reason: String)
    /// The standby already has the generation, which waits for the others of its group.
    case wait
    /// Send nothing.
    case refuse(Refused)

    /// Why nothing may be sent.
    package struct Refused: Equatable, Sendable {
        /// Cause of the refusal.
        package enum Cause: Equatable, Sendable {
            /// The two sides' histories do not fit.
            case histories
            /// The volume has shrunk, from and to this many bytes.
            case shrunk(from: UInt64, to: UInt64)
            /// The source itself, with the reason.
            case source(String)
            /// The changes cannot be determined, for this reason.
            case noProof(String)
        }
        package var rule: RefusalRule
        package var cause: Cause

        package init(_ rule: RefusalRule, _ cause: Cause) {
            self.rule = rule
            self.cause = cause
        }

        /// The refusal as text, without the rule.
        package var meaning: String {
            switch cause {
            case .histories: rule.meaning
            case .shrunk(let old, let new): "\(rule.meaning): \(new) bytes, after \(old)"
            case .source(let text), .noProof(let text): text
            }
        }
    }

    /// The generation that the sent one follows; `nil` if it follows none, or if nothing is sent.
    package var base: Lineage.GenerationPoint? {
        switch self {
        case .delta(let onto, _): onto
        case .compare(let onto, _, _): onto
        case .upToDate, .full, .wait, .refuse: nil
        }
    }

    /// Why the whole source is read first; `nil` if it is not.
    package var comparison: String? {
        if case .compare(_, _, let reason) = self { reason } else { nil }
    }

    /// Decides by these facts.
    package init(_ facts: SendFacts) {
        func no(_ rule: RefusalRule, _ cause: Refused.Cause) -> SendDecision {
            .refuse(Refused(rule, cause))
        }
        self = {
            if let source = facts.source {
                if let refused = Self.tooLarge(source.byteCount) { return .refuse(refused) }
                if let other = source.otherSource { return no(.otherSource, .source(other)) }
            }
            let (memory, standby) = Self.settled(facts)
            let decision = Lineage.decide(memory, standby)
            if case .refuse(let rule) = decision { return no(rule, .histories) }
            if let source = facts.source, memory.committed != nil {
                // The metadata of an image does not know how large its volume is.
                if source.isCommitted, source.byteCount == facts.committedByteCount {
                    return .upToDate
                }
                if let size = facts.committedByteCount, source.byteCount < size,
                    !facts.allowsShrink
                {
                    return no(.sizeShrunk, .shrunk(from: size, to: source.byteCount))
                }
            }
            if facts.keepsPrepared, facts.source?.isPlanned ?? true,
                case .prepared(isPending: true) = Lineage.decide(facts.memory, facts.standby)
            {
                return .wait
            }
            return Self.decide(decision, facts.source)
        }()
    }

    /// Why a volume of so many bytes cannot be sent: no tag map describes it. `nil` if it can.
    package static func tooLarge(_ byteCount: UInt64) -> Refused? {
        guard byteCount > Limits.mappedVolumeSize else { return nil }
        return Refused(
            .limit,
            .source("it has \(byteCount) bytes; a volume may have \(Limits.mappedVolumeSize)"))
    }

    /// Both histories after the generation in doubt is settled and a prepared one is dropped.
    private static func settled(
        _ facts: SendFacts
    ) -> (memory: Lineage.SourceMemory, standby: StandbyState) {
        var (memory, standby) = (facts.memory, facts.standby)
        if Lineage.decide(memory, standby) == .pendingIsCommitted {
            memory.committed = memory.pending
            (memory.pending, memory.transfer) = (nil, nil)
        }
        if case .prepared = Lineage.decide(memory, standby) {
            standby.state = standby.committedID == .zero ? .empty : .consistent
            standby.transfer = .none
            standby.durableSegments = 0
        }
        return (memory, standby)
    }

    /// Refines the histories' decision with the facts of the source.
    private static func decide(
        _ decision: Lineage.Decision, _ source: SendFacts.Source?
    ) -> SendDecision {
        let (base, mayResume): (Lineage.GenerationPoint?, Bool)
        switch decision {
        case .full(let resume): (base, mayResume) = (nil, resume)
        case .delta(let onto, let resume): (base, mayResume) = (onto, resume)
        // Handled before.
        case .pendingIsCommitted, .prepared, .refuse: (base, mayResume) = (nil, false)
        }
        let resume = mayResume && source?.isPlanned ?? true
        if let source, resume, !source.hasDraft {
            return .compare(
                onto: base, resume: true,
                reason: "the tag map of the unfinished generation is gone")
        }
        guard let base else { return .full(resume: resume) }
        guard !resume, let proof = source?.proof else { return .delta(onto: base, resume: resume) }
        switch proof {
        case .list: return .delta(onto: base, resume: false)
        case .compare(let reason): return .compare(onto: base, resume: false, reason: reason)
        case .none(let rule, let reason): return .refuse(Refused(rule, .noProof(reason)))
        }
    }
}
