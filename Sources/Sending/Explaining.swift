// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import Connection
internal import MapStore
internal import Session
internal import Wire

extension Sender {
    /// Explains what `send` would do and, if a source is given, how much it would send. Writes only
    /// its own scratch files.
    package func explain(
        _ source: (any Source)?, inGroup: Bool = false
    ) throws -> Explanation {
        while true {
            let before = try replica().committed
            do { return try explainOnce(source, inGroup) } catch let error as MapError {
                // A send that has just ended replaced the map during the read. A map that is
                // damaged is as good as none: the send removes it.
                if try replica().committed != before { continue }
                guard !ignoresMap else { throw error }
                ignoresMap = true
            }
        }
    }

    private func explainOnce(
        _ source: (any Source)?, _ inGroup: Bool
    ) throws -> Explanation {
        let (dialogue, standby) = try open()
        defer { dialogue.connection.close() }
        var replica = try replica()
        if Lineage.decide(Self.memory(of: replica), standby) == .pendingIsCommitted {
            // As the catalog will have it.
            (replica.committed, replica.base) = (replica.pending, replica.transfer?.base)
            replica.isBaseGivenUp = false
            (replica.pending, replica.transfer, replica.exported) = (nil, nil, nil)
        }
        let decision = try decide(source, replica, standby, inGroup: inGroup)
        var explanation = Explanation(
            memory: Self.memory(of: replica), standby: standby, decision: decision)
        guard let source else { return explanation }
        do {
            switch decision {
            case .upToDate: ChangeCounter().tell(&explanation)
            case .refuse, .wait: break
            case .full(let resume), .delta(_, let resume), .compare(_, let resume, _):
                let group = unfinishedGroup(replica, inGroup)
                if resume, let (_, plan) = planned(source, replica, group: group) {
                    var counter = ChangeCounter()
                    try plan.forEach { counter.add($0) }
                    counter.tell(&explanation)
                } else {
                    try count(source, decision.base.map { _ in Base(replica) }, replica, dialogue)
                        .tell(&explanation)
                }
            }
        } catch SourceError.noProof(let rule, let reason) {
            explanation.decision = .refuse(SendDecision.Refused(rule, .noProof(reason)))
        }
        return explanation
    }

    /// Counts the changes since a base, or the whole volume without one, and runs the same check of
    /// unchanged blocks as a send.
    private func count(
        _ source: any Source, _ base: Base?, _ replica: Replica, _ dialogue: Dialogue
    ) throws -> ChangeCounter {
        var counter = ChangeCounter()
        guard let base else {
            try source.forEachExtent { counter.add($0) }
            return counter
        }
        let proof = try proof(source, base)
        let known = knownMap(base.record)
        if case .compare(let reason) = proof, let known {
            // Counting requires reading the whole source, which takes longer than the connection's
            // idle limit.
            dialogue.connection.close()
            defer { map.removeScan() }
            try difference(source, known, try scan(source, replica, reason)) { counter.add($0) }
            return counter
        }
        defer { map.scratch.remove("changes") }
        let plan = try SendPlan(
            writing: try map.scratch.path("changes"), transfer: .random(),
            volumeByteCount: source.volumeByteCount
        ) { body in
            try list(source, since: base, proof) {
                counter.add($0)
                try body($0)
            }
        }
        if let known, proof == .list { try checkUnchanged(source, plan, known, base, replica) }
        return counter
    }
}

/// Counts the bytes and entries of a change list.
private struct ChangeCounter {
    private var byteCount: UInt64 = 0
    private var entryCount: UInt64 = 0

    mutating func add(_ change: Change) {
        entryCount += 1
        if change.kind == .data { byteCount += change.extent.length }
    }

    func tell(_ explanation: inout Sender.Explanation) {
        (explanation.changedByteCount, explanation.entryCount) = (byteCount, entryCount)
    }
}
