// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import Digests
internal import MapStore
internal import Objects
internal import Platform
internal import Session
internal import Wire

extension Sender {
    /// The unfinished transfer with its plan, if both belong to this point in time and this group.
    func planned(
        _ source: any Source, _ replica: Replica, group: Group?
    ) -> (Begin, SendPlan)? {
        guard let transfer = replica.transfer,
            replica.unfinishedIdentity.map(source.identity.hasSameContent) ?? false,
            transfer.begin.head.volumeSize == source.volumeByteCount,
            transfer.begin.group == group,
            let plan = SendPlan(reading: home.planPath(transfer.planName)),
            plan.transfer == transfer.begin.transfer
        else { return nil }
        return (transfer.begin, plan)
    }

    /// Finds the plan of the unfinished transfer if it belongs to this point in time, or makes a
    /// new plan.
    ///
    /// - Parameter scanned: the source's map, if the whole source was already read for a delta.
    func prepare(
        _ source: any Source, _ settled: Settled, group: Group?, scanned: TagMapFile? = nil
    ) throws -> (Begin, SendPlan) {
        let (decision, replica) = (settled.decision, settled.replica)
        if settled.isResuming, let planned = planned(source, replica, group: group) {
            try completeDraft(source, planned.0, replica)
            return planned
        }
        if replica.transfer != nil || replica.pending != nil {
            // The standby does not have the generation in doubt: it reported the previous one.
            try abandonUnfinished()
        }
        let id = TransferID.random()
        let base = Base(replica)
        var proof = ChangeProof.list
        var scan: TagMapFile?
        var known: TagMapFile?
        if !isFull(decision) {
            proof = try self.proof(source, base)
            known = map.committed(replica.committed)
            if let reason = readingReason(proof, known) {
                scan = try scanned ?? self.scan(source, replica, reason)
            }
        }
        let plan = try makePlan(id, source) { body in
            if let known, let scan, proof != .list {
                try difference(source, known, scan, body)
            } else {
                try list(source, since: isFull(decision) ? nil : base, proof, body)
            }
        }
        if let known, proof == .list { try checkUnchanged(source, plan, known, base, replica) }
        let begin = Begin(
            transfer: id, head: head(source, decision, replica), plannedContent: plan.content,
            plannedSegments: plan.segmentCount, heldSegments: 0,
            tagKey: isFull(decision) ? .random() : nil,
            allowsShrink: !isFull(decision)
                && source.volumeByteCount < replica.committed?.head.volumeSize ?? 0,
            group: group, segmentGrowth: plan.growth)
        try start(begin, source, scan)
        return (begin, plan)
    }

    /// Drops the unfinished transfer and a generation in doubt that the standby does not have.
    func abandonUnfinished() throws {
        let dropped = try home.catalog.abandonTransfer(
            options.volume, at: options.receiver, clearingPending: true)
        if let dropped { home.removePlan(dropped.planName) }
    }

    /// Opens the file with the seals of the unfinished transfer.
    func sealsFile(_ replica: Replica, _ begin: Begin) throws -> SealsFile {
        guard let transfer = replica.transfer, transfer.begin.transfer == begin.transfer else {
            throw SendError.fault("the catalog has another transfer")
        }
        return try SealsFile(path: home.sealsPath(transfer.planName))
    }

    /// Writes the plan of a new transfer. A volume has one plan per standby; older ones that a
    /// crash left are removed.
    func makePlan(
        _ transfer: TransferID, _ source: any Source,
        _ list: ((Change) throws -> Void) throws -> Void
    ) throws -> SendPlan {
        try home.removeLostPlans(options.receiver, options.volume)
        let plan = try SendPlan(
            writing: home.planPath(planName(transfer)), transfer: transfer,
            volumeByteCount: source.volumeByteCount, list)
        guard plan.segmentCount <= Limits.segments else {
            throw SourceError.invalid(
                path: source.name,
                reason:
                    "the change is in more pieces than one transfer can have (\(plan.segmentCount) segments, at most "
                    + "\(Limits.segments)). Nothing was sent, and the copy is as it was")
        }
        return plan
    }

    /// Enters a new transfer into the catalog.
    func start(_ begin: Begin, _ source: any Source, _ scan: TagMapFile?) throws {
        try map.begin(begin, scan: scan)
        try home.catalog.beginTransfer(
            options.volume, at: options.receiver,
            SourceTransfer(
                begin: begin, base: "\(source.identity)", planName: planName(begin.transfer)))
    }

    private func planName(_ transfer: TransferID) -> String {
        home.planName(options.receiver, options.volume, transfer)
    }

    private func isFull(_ decision: Lineage.Decision) -> Bool {
        if case .full = decision { return true }
        return false
    }

    /// The number of the generation after `number`. The greatest number has no successor. No real
    /// chain reaches it, but a peer or a catalog can name it: the standby then refuses the
    /// generation because it does not follow.
    static func next(after number: UInt64) -> UInt64 { number == .max ? number : number + 1 }

    private func head(
        _ source: any Source, _ decision: Lineage.Decision, _ replica: Replica
    ) -> GenerationHead {
        let summary = Self.cut(source.summary, to: 512)
        guard case .delta(let parent, _) = decision, let lineage = replica.lineage else {
            return GenerationHead(
                kind: .full, tagAlgorithm: .poly1305, lineage: .random(), number: 1, parent: .zero,
                volumeSize: source.volumeByteCount, sourceTime: source.time,
                sourceIdentity: summary)
        }
        return GenerationHead(
            kind: .delta, tagAlgorithm: replica.tagAlgorithm ?? .poly1305, lineage: lineage,
            number: Self.next(after: parent.number), parent: parent.id,
            volumeSize: source.volumeByteCount,
            sourceTime: source.time, sourceIdentity: summary)
    }

    /// Cuts text to the length limit of a string on the wire.
    static func cut(_ text: String, to limit: Int) -> String {
        var kept = String(
            String.UnicodeScalarView(
                text.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7F ? "?" : $0 }))
        while kept.utf8.count > limit { kept.removeLast() }
        return kept
    }
}
