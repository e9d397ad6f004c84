// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Connection
internal import Platform
internal import Session
internal import Wire

/// State of a sender and a standby once no generation is in doubt.
struct Settled {
    var decision: Lineage.Decision
    var standby: StandbyState
    var replica: Replica

    /// Whether the standby has part of the unfinished transfer.
    var isResuming: Bool {
        switch decision {
        case .full(let resume), .delta(_, let resume): resume
        case .prepared(let isPending): isPending
        case .pendingIsCommitted, .refuse: false
        }
    }
}

extension Sender {
    /// Decides, after finding out whether a generation in doubt was committed.
    ///
    /// - Parameters:
    ///   - keepingPrepared: whether a prepared generation of this side may stay and be the
    ///     decision. Any other prepared one is abandoned.
    ///   - forResync: abandon a prepared generation even if the lineage refuses everything else.
    func settle(
        _ dialogue: Dialogue, _ first: StandbyState, keepingPrepared: Bool,
        forResync: Bool = false
    ) throws -> Settled {
        var standby = first
        // One generation can be in doubt and one in the way, so three rounds suffice.
        for _ in 0..<3 {
            let replica = try replica()
            let decision = Lineage.decide(Self.memory(of: replica), standby)
            switch decision {
            case .pendingIsCommitted:
                try commitPending()
            case .prepared(isPending: true) where keepingPrepared:
                return Settled(decision: decision, standby: standby, replica: replica)
            case .prepared,
                .refuse where forResync && standby.state == .prepared:
                // Only the standby's answer proves that the group can no longer complete: until
                // then the catalog keeps the generation in doubt.
                standby = try abandon(standby.transfer, dialogue)
            case .full, .delta, .refuse:
                return Settled(decision: decision, standby: standby, replica: replica)
            }
        }
        throw SendError.brokenProtocol("the standby's state contradicts itself")
    }

    /// Reports to the standby that nothing has changed since the committed generation, if it
    /// supports that.
    func confirm(
        _ committed: GenerationRecord, _ source: any Source, _ dialogue: Dialogue
    ) throws {
        let current = Current(number: committed.head.number, id: committed.id)
        guard source.isOfNow, let message = dialogue.session.confirm(current) else { return }
        // The standby may have taken hours to send its state.
        try source.confirm()
        try dialogue.connection.send(message)
        guard case .committed = try dialogue.next() else {
            throw SendError.brokenProtocol("no answer to CURRENT")
        }
        try home.catalog.noteConfirmed(
            options.volume, at: options.receiver, time: Clock.wall())
    }

    private func abandon(
        _ transfer: TransferID, _ dialogue: Dialogue
    ) throws -> StandbyState {
        guard !transfer.isNone else {
            throw SendError.brokenProtocol("a generation without a transfer is prepared")
        }
        try dialogue.connection.send(dialogue.session.abandon(transfer))
        guard case .decide(let standby) = try dialogue.next() else {
            throw SendError.brokenProtocol("no state")
        }
        return standby
    }
}
