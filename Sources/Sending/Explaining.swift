// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import Connection
internal import MapStore
internal import Session
internal import Wire

extension Sender {
    /// Says what `send` would do; with a source also how much it would send. Nothing is written but files of its own.
    package func explain(_ source: (any Source)?) throws -> Explanation {
        while true {
            let before = try replica().committed
            do { return try explainOnce(source) } catch let error as MapError {
                // A send that has just ended changed the map that was read.
                guard try replica().committed != before else { throw error }
            }
        }
    }

    private func explainOnce(_ source: (any Source)?) throws -> Explanation {
        let (dialogue, standby) = try open()
        defer { dialogue.connection.close() }
        let replica = try replica()
        var memory = Self.memory(of: replica)
        var base = Base(identity: replica.baseIdentity, record: replica.committed)
        var decision = Lineage.decide(memory, standby)
        if decision == .pendingIsCommitted {
            memory.committed = memory.pending
            memory.transfer = nil
            base = Base(identity: replica.unfinishedIdentity, record: replica.pending)
            decision = Lineage.decide(memory, standby)
        }
        var explanation = Explanation(memory: memory, standby: standby, decision: decision)
        guard let source else { return explanation }
        try checkSize(source)
        if !options.adoptsSource {
            explanation.otherSource =
                try otherSource(source.identity, source.name, replica)
                ?? namelessProblem(source, replica)
            if explanation.otherSource != nil { return explanation }
        }
        if case .prepared = decision { return explanation }
        var changed: UInt64 = 0
        var entries: UInt64 = 0
        do {
            let count = { (change: Change) in
                entries += 1
                if change.kind == .data { changed += change.extent.length }
            }
            var proof = ChangeProof.list
            if case .delta = decision { proof = try self.proof(source, base) }
            if case .compare(let reason) = proof, let known = map.committed(replica.committed) {
                // Only reading all of it tells; that takes longer than a connection waits.
                dialogue.connection.close()
                defer { map.removeScan() }
                try difference(source, known, try scan(source, replica, reason), count)
            } else {
                try list(source, decision, base, proof, count)
            }
            explanation.changedByteCount = changed
            explanation.entryCount = entries
        } catch SourceError.noProof(let rule, let reason) {
            explanation.noProof = (rule, reason)
        }
        return explanation
    }
}
