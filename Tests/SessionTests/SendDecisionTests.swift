// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Session
import Testing
import Wire

@Suite("What is done with a point in time") struct SendDecisionTests {
    private static let size: UInt64 = 1 << 20

    /// A standby and what this side remembers, in words, with what follows if no source speaks against it.
    private struct Histories {
        var memory = Lineage.SourceMemory()
        var standby: StandbyState
        var rule: RefusalRule?
        var isFull = false
        /// Whether the unfinished transfer is known to both.
        var isShared = false
        var isWaiting = false
        var hasCommitted: Bool { !isFull }
    }

    private static func memory(
        _ committed: Lineage.GenerationPoint?, pending: Lineage.GenerationPoint? = nil,
        transfer: TransferID? = nil, of held: LineageID? = lineage
    ) -> Lineage.SourceMemory {
        Lineage.SourceMemory(
            lineage: held, committed: committed, pending: pending, transfer: transfer)
    }

    private static let histories: [Histories] =
        [
            Histories(memory: memory(nil, of: nil), standby: standby(.empty), isFull: true),
            Histories(
                memory: memory(nil, transfer: mine),
                standby: standby(.initialising, transfer: mine), isFull: true, isShared: true),
            Histories(
                memory: memory(nil, of: nil), standby: standby(.initialising, transfer: theirs),
                isFull: true),
            Histories(memory: memory(first), standby: standby(.consistent, first)),
            Histories(
                memory: memory(first, transfer: mine),
                standby: standby(.staging, first, transfer: mine), isShared: true),
            Histories(
                memory: memory(first, transfer: mine),
                standby: standby(.staging, first, transfer: theirs)),
            // In doubt, and committed; in doubt, and not.
            Histories(
                memory: memory(first, pending: second, transfer: mine),
                standby: standby(.consistent, second)),
            Histories(
                memory: memory(first, pending: second, transfer: mine),
                standby: standby(.consistent, first)),
            Histories(
                memory: memory(first, pending: second, transfer: mine),
                standby: standby(.applying, second)),
            // Prepared: this side's own, and another one's.
            Histories(
                memory: memory(first, pending: second, transfer: mine),
                standby: standby(.prepared, first, transfer: mine), isWaiting: true),
            Histories(
                memory: memory(first), standby: standby(.prepared, first, transfer: theirs)),
            Histories(
                memory: memory(nil, of: nil), standby: standby(.consistent, first), rule: .notEmpty),
            Histories(
                memory: memory(second), standby: standby(.consistent, first), rule: .targetWentBack),
            Histories(
                memory: memory(second), standby: standby(.empty), rule: .targetWentBack),
            Histories(
                memory: memory(first), standby: standby(.consistent, second), rule: .diverged),
            Histories(
                memory: memory(first), standby: standby(.consistent, first, lineage: otherLineage),
                rule: .diverged),
        ]
        + closed.map { state, rule in
            Histories(memory: memory(first), standby: standby(state, first), rule: rule)
        }

    private enum Size: CaseIterable { case same, larger, smaller, tooLarge }

    private static func byteCount(_ size: Size) -> UInt64 {
        switch size {
        case .same: Self.size
        case .larger: Self.size + 4096
        case .smaller: Self.size - 4096
        case .tooLarge: Limits.mappedVolumeSize + 1
        }
    }

    private static let proofs: [SendFacts.Proof?] = [
        nil, .list, .compare("nothing records it"), SendFacts.Proof.none(.baseLost, "it is gone"),
    ]

    private static func isSame(_ source: SendFacts.Source?) -> Bool {
        source.map { $0.isCommitted && $0.byteCount == Self.size } ?? false
    }

    /// What an operator would expect, in the order in which things are looked at.
    private func expected(_ facts: SendFacts, _ histories: Histories) -> RefusalRule? {
        guard let source = facts.source else { return histories.rule }
        let isBegun = histories.isShared && source.isPlanned
        let reasons: [(Bool, RefusalRule)] = [
            (source.byteCount > Limits.mappedVolumeSize, .limit),
            (source.otherSource != nil, .otherSource),
            (histories.rule != nil, histories.rule ?? .fault),
            (
                histories.hasCommitted && source.byteCount < Self.size
                    && !facts.allowsShrink, .sizeShrunk
            ),
            (
                histories.hasCommitted && !Self.isSame(source) && !isBegun
                    && !(histories.isWaiting && facts.keepsPrepared && source.isPlanned)
                    && source.proof == SendFacts.Proof.none(.baseLost, "it is gone"), .baseLost
            ),
        ]
        return reasons.first { $0.0 }?.1
    }

    private func check(_ facts: SendFacts, _ histories: Histories) {
        let decision = SendDecision(facts)
        let rule = expected(facts, histories)
        if case .refuse(let refused) = decision {
            #expect(refused.rule == rule, "\(facts)")
            return
        }
        #expect(rule == nil, "\(decision): \(facts)")
        let source = facts.source
        let isBegun = histories.isShared && source?.isPlanned ?? true
        switch decision {
        case .upToDate: #expect(histories.hasCommitted && Self.isSame(source), "\(facts)")
        case .wait:
            #expect(
                histories.isWaiting && facts.keepsPrepared && source?.isPlanned ?? true,
                "\(facts)")
        case .full(let resume): #expect(histories.isFull && resume == isBegun, "\(facts)")
        case .delta(_, let resume):
            #expect(histories.hasCommitted && resume == isBegun, "\(facts)")
            #expect(resume || source?.proof == nil || source?.proof == .list, "\(facts)")
        case .compare(let base, let resume, let reason):
            #expect(!reason.isEmpty && resume == isBegun, "\(facts)")
            #expect((base == nil) == histories.isFull, "\(facts)")
            #expect(
                resume ? source?.hasDraft == false : source?.proof == .compare(reason), "\(facts)")
        case .refuse: break
        }
        if histories.hasCommitted, Self.isSame(source) {
            #expect(decision == .upToDate, "\(facts)")
        }
    }

    @Test("everything that is known leads to what an operator expects")
    func everyCombination() {
        var count = 0
        let flags = [false, true]
        for histories in Self.histories {
            for keepsPrepared in flags {
                for allowsShrink in flags {
                    var facts = SendFacts(
                        memory: histories.memory, standby: histories.standby,
                        committedByteCount: Self.size, allowsShrink: allowsShrink,
                        keepsPrepared: keepsPrepared)
                    check(facts, histories)
                    for size in Size.allCases {
                        for other in [nil, "it has another id"] {
                            for (isCommitted, isPlanned) in [
                                (false, false), (true, false), (false, true),
                            ] {
                                for hasDraft in flags {
                                    for proof in Self.proofs {
                                        facts.source = SendFacts.Source(
                                            byteCount: Self.byteCount(size), otherSource: other,
                                            isCommitted: isCommitted, isPlanned: isPlanned,
                                            hasDraft: hasDraft, proof: proof)
                                        check(facts, histories)
                                        count += 1
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        #expect(count >= 14_000)
    }

    @Test("a decision without the proof is never a refusal by the proof, and is one to ask it for")
    func proofComesLast() {
        for histories in Self.histories where histories.rule == nil {
            let source = SendFacts.Source(byteCount: Self.size)
            var facts = SendFacts(
                memory: histories.memory, standby: histories.standby, source: source,
                committedByteCount: Self.size)
            let first = SendDecision(facts)
            for proof in Self.proofs {
                facts.source?.proof = proof
                if case .delta(_, resume: false) = first { continue }
                #expect(SendDecision(facts) == first)
            }
        }
    }
}
