// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
package import Wire

/// What is known before a generation is sent: what this side remembers, what the standby has answered, and the source.
package struct SendFacts: Equatable, Sendable {
    /// A source, beside what was sent of the volume so far.
    package struct Source: Equatable, Sendable {
        /// Bytes.
        package var byteCount: UInt64
        /// Why it is another thing than what was sent so far, in words; nil if it is not, or if that is meant.
        package var otherSource: String?
        /// Whether its identity proves that it has the content of the committed generation.
        package var isCommitted: Bool
        /// Whether the unfinished transfer is of this point in time, and its plan is there.
        package var isPlanned: Bool
        /// Whether the tag map of the unfinished generation can still be completed.
        package var hasDraft: Bool
        /// What proves what changed. Nil while that was not asked, which takes longer than all else; it matters only if
        /// the decision without it is a delta.
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

    /// What tells what changed since the committed generation.
    package enum Proof: Equatable, Sendable {
        case list
        /// Nothing does, for this reason; comparing all of the source with the tag map will.
        case compare(String)
        /// A person has to decide.
        case none(RefusalRule, String)
    }

    package var memory: Lineage.SourceMemory
    package var standby: StandbyState
    /// Nil if only the two histories are asked about.
    package var source: Source?
    /// Bytes of the committed generation's volume.
    package var committedByteCount: UInt64?
    /// Whether the volume may be smaller than that.
    package var allowsShrink: Bool
    /// Whether a generation that waits on the standby for its group may be what is sent.
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

/// What is done with a point in time: the one decision of a send, of a member of a group, of an export, of a dry run, and of
/// `explain`.
package enum SendDecision: Equatable, Sendable {
    /// The standby has this point in time.
    case upToDate
    /// Everything is sent; `resume` if the standby has part of it.
    case full(resume: Bool)
    /// What changed since a generation is sent; `resume` if the standby has part of it.
    case delta(onto: Lineage.GenerationPoint, resume: Bool)
    /// All of the source is read first, for this reason; then a delta, or what was begun goes on.
    case compare(onto: Lineage.GenerationPoint?, resume: Bool, reason: String)
    /// It is on the standby already, and waits there for the others of its group.
    case wait
    /// Nothing is sent.
    case refuse(Refused)

    /// Why nothing is sent.
    package struct Refused: Equatable, Sendable {
        /// What speaks against it.
        package enum Cause: Equatable, Sendable {
            /// The two sides' histories do not fit.
            case histories
            /// The volume has shrunk, from and to so many bytes.
            case shrunk(from: UInt64, to: UInt64)
            /// The source itself, in words.
            case source(String)
            /// Nothing tells what changed, in words.
            case noProof(String)
        }
        package var rule: RefusalRule
        package var cause: Cause

        package init(_ rule: RefusalRule, _ cause: Cause) {
            self.rule = rule
            self.cause = cause
        }

        /// In words, without the rule.
        package var meaning: String {
            switch cause {
            case .histories: rule.meaning
            case .shrunk(let old, let new): "\(rule.meaning): \(new) bytes, after \(old)"
            case .source(let text), .noProof(let text): text
            }
        }
    }

    /// The generation that what is sent follows; nil if it follows none, or if nothing is sent.
    package var base: Lineage.GenerationPoint? {
        switch self {
        case .delta(let onto, _): onto
        case .compare(let onto, _, _): onto
        case .upToDate, .full, .wait, .refuse: nil
        }
    }

    /// Why all of the source is read first; nil if it is not.
    package var comparison: String? {
        if case .compare(_, _, let reason) = self { reason } else { nil }
    }

    /// Decides.
    package init(_ facts: SendFacts) {
        func no(_ rule: RefusalRule, _ cause: Refused.Cause) -> SendDecision {
            .refuse(Refused(rule, cause))
        }
        self = {
            if let source = facts.source {
                guard source.byteCount <= Limits.mappedVolumeSize else {
                    return no(
                        .limit,
                        .source(
                            "it has \(source.byteCount) bytes; a volume may have \(Limits.mappedVolumeSize)"
                        ))
                }
                if let other = source.otherSource { return no(.otherSource, .source(other)) }
            }
            let (memory, standby) = Self.settled(facts)
            let decision = Lineage.decide(memory, standby)
            if case .refuse(let rule) = decision { return no(rule, .histories) }
            if let source = facts.source, memory.committed != nil {
                if source.isCommitted { return .upToDate }
                if let size = facts.committedByteCount, source.byteCount < size,
                    !facts.allowsShrink
                {
                    return no(.sizeShrunk, .shrunk(from: size, to: source.byteCount))
                }
            }
            if facts.keepsPrepared,
                case .prepared(isPending: true) = Lineage.decide(facts.memory, facts.standby)
            {
                return .wait
            }
            return Self.decide(decision, facts.source)
        }()
    }

    /// Both histories once what is in doubt is settled, and what waits for a group is dropped.
    private static func settled(
        _ facts: SendFacts
    ) -> (memory: Lineage.SourceMemory, standby: StandbyState) {
        var (memory, standby) = (facts.memory, facts.standby)
        if case .prepared = Lineage.decide(memory, standby) {
            standby.state = standby.committedID == .zero ? .empty : .consistent
            standby.transfer = .none
            standby.durableSegments = 0
        }
        if Lineage.decide(memory, standby) == .pendingIsCommitted {
            memory.committed = memory.pending
            (memory.pending, memory.transfer) = (nil, nil)
        }
        return (memory, standby)
    }

    /// What a source adds to what the histories let be sent.
    private static func decide(
        _ decision: Lineage.Decision, _ source: SendFacts.Source?
    ) -> SendDecision {
        let (base, mayResume): (Lineage.GenerationPoint?, Bool)
        switch decision {
        case .full(let resume): (base, mayResume) = (nil, resume)
        case .delta(let onto, let resume): (base, mayResume) = (onto, resume)
        // Settled before.
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
