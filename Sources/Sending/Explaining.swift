// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import Connection
internal import Session
internal import Wire

extension Sender {
    /// Says what `send` would do; with a source also how much it would send. Nothing is written anywhere.
    package func explain(_ source: (any Source)?) throws -> Explanation {
        let (dialogue, standby) = try open()
        defer { dialogue.connection.close() }
        let replica = try replica()
        var memory = Self.memory(of: replica)
        var base = Base(identity: replica.base, record: replica.committed)
        var decision = Lineage.decide(memory, standby)
        if decision == .pendingIsCommitted {
            memory.committed = memory.pending
            memory.transfer = nil
            base = Base(identity: replica.transfer?.base, record: replica.pending)
            decision = Lineage.decide(memory, standby)
        }
        var explanation = Explanation(memory: memory, standby: standby, decision: decision)
        guard let source else { return explanation }
        if case .prepared = decision { return explanation }
        var changed: UInt64 = 0
        var entries: UInt64 = 0
        do {
            let count = { (change: Change) in
                entries += 1
                if change.kind == .data { changed += change.extent.length }
            }
            if case .delta = decision, !source.provesChanges,
                let known = map.committed(replica.committed)
            {
                // Only reading all of it tells; that takes longer than a connection waits.
                dialogue.connection.close()
                defer { map.removeScan() }
                try difference(source, known, try scan(source, replica), count)
            } else {
                try list(source, decision, base, count)
            }
            explanation.changedByteCount = changed
            explanation.entryCount = entries
        } catch SourceError.noProof(let reason) {
            explanation.noProof = reason
        }
        return explanation
    }
}
