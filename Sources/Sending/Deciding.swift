// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import MapStore
internal import Objects
internal import Session
internal import Wire

/// Collects the facts for `SendDecision` and turns its refusals into errors.
extension Sender {
    /// Decides about a source once the state of both sides is settled.
    func decide(
        _ source: any Source, _ settled: Settled, inGroup: Bool = false
    ) throws -> SendDecision {
        try decide(source, settled.replica, settled.standby, inGroup: inGroup)
    }

    /// Decides. It asks the slower questions about the source only if their answers matter.
    ///
    /// - Parameters:
    ///   - source: `nil` to consider only the two histories.
    ///   - replica: what the catalog has, or will have once nothing is in doubt.
    ///   - inGroup: whether the source is sent as a member of a group.
    func decide(
        _ source: (any Source)?, _ replica: Replica, _ standby: StandbyState, inGroup: Bool
    ) throws -> SendDecision {
        let base = Base(replica)
        var facts = SendFacts(
            memory: Self.memory(of: replica), standby: standby,
            committedByteCount: base.volumeByteCount, allowsShrink: options.allowShrink,
            keepsPrepared: inGroup || source == nil)
        guard let source else { return SendDecision(facts) }
        facts.source = try self.facts(of: source, base, replica, inGroup)
        let decision = SendDecision(facts)
        guard case .delta(_, resume: false) = decision else { return decision }
        do {
            facts.source?.proof = try proofFact(source, base)
        } catch SourceError.noProof(let rule, let reason) {
            facts.source?.proof = SendFacts.Proof.none(rule, reason)
        }
        return SendDecision(facts)
    }

    private func facts(
        of source: any Source, _ base: Base, _ replica: Replica, _ inGroup: Bool
    ) throws -> SendFacts.Source {
        var facts = SendFacts.Source(
            byteCount: source.volumeByteCount,
            isCommitted: base.identity.map(source.identity.hasSameContent) ?? false)
        // A source too large for a tag map is not examined further.
        guard SendDecision.tooLarge(source.volumeByteCount) == nil else { return facts }
        facts.otherSource = try otherSource(source, replica)
        if let (begin, _) = planned(source, replica, group: unfinishedGroup(replica, inGroup)) {
            facts.isPlanned = true
            facts.hasDraft = map.hasDraft(begin, parent: replica.committed)
        }
        return facts
    }

    /// The group that an unfinished transfer must have to be resumed: of a member its own, whose
    /// other members are not known here.
    func unfinishedGroup(_ replica: Replica, _ inGroup: Bool) -> Group? {
        inGroup ? replica.transfer?.begin.group : nil
    }

    /// The tag map of a generation, unless it is damaged or missing.
    func knownMap(_ record: GenerationRecord?) -> TagMapFile? {
        ignoresMap ? nil : map.committed(record)
    }

    private func proofFact(_ source: any Source, _ base: Base) throws -> SendFacts.Proof {
        let proof = try proof(source, base)
        return switch readingReason(proof, knownMap(base.record)) {
        case .some(let reason): .compare(reason)
        case nil: .list
        }
    }

    func error(
        _ refused: SendDecision.Refused, _ settled: Settled, _ source: any Source
    ) -> any RuledError {
        Self.error(refused, Self.memory(of: settled.replica), settled.standby, source: source.name)
    }

    /// The error for a refusal.
    static func error(
        _ refused: SendDecision.Refused, _ memory: Lineage.SourceMemory, _ standby: StandbyState,
        source: String?
    ) -> any RuledError {
        switch refused.cause {
        case .histories:
            SendError.lineage(refused.rule, here: text(memory), there: text(standby))
        case .shrunk(let old, let new):
            SendError.lineage(refused.rule, here: "\(new) bytes", there: "\(old) bytes")
        case .source(let reason):
            SourceError.refused(refused.rule, path: source ?? "", reason: reason)
        case .noProof(let reason): SourceError.noProof(refused.rule, reason: reason)
        }
    }
}
