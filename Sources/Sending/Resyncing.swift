// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import Connection
internal import Digests
internal import MapStore
internal import Objects
internal import Platform
internal import Session
internal import TagMap
package import Wire

/// How to make a standby's copy equal to a source.
package struct ResyncOptions: Sendable {
    /// Use the standby's stored tag map instead of reading its target.
    package var trustMap: Bool
    /// Write to the target at once: its content needs no protection.
    package var inPlace: Bool
    /// Overwrite what was written to a promoted copy.
    package var overwritePromoted: Bool

    package init(
        trustMap: Bool = false, inPlace: Bool = false, overwritePromoted: Bool = false
    ) {
        self.trustMap = trustMap
        self.inPlace = inPlace
        self.overwritePromoted = overwritePromoted
    }
}

extension Sender {
    /// Compares the source with the standby's copy and changes neither.
    package func planResync(
        _ source: any Source, _ options: ResyncOptions
    ) throws -> Difference {
        let lock = try home.lock(self.options.receiver, self.options.volume)
        defer { withExtendedLifetime(lock) {} }
        let (dialogue, standby) = try open()
        defer { dialogue.connection.close() }
        let replica = try replica()
        try checkObject(source, replica)
        let plan = try comparisonPlan(replica, standby, options)
        defer { map.removeScan() }
        return try compare(source, plan, dialogue, standby) { _ in }.difference
    }

    /// Sends the blocks in which the standby's copy differs, as a generation.
    ///
    /// 1. What was in doubt is settled; an interrupted resync of the same point in time is
    ///    continued. If the standby cannot continue it, because it no longer has what was compared,
    ///    the resync is dropped and 2 follows.
    /// 2. Both sides are compared; the blocks that differ are the plan. *A crash leaves nothing.*
    /// 3. From here on it is a transfer like any other (`Sender.transfer`).
    package func resync(
        _ source: any Source, _ lock: SendLock, _ options: ResyncOptions
    ) throws -> (outcome: Outcome, difference: Difference?) {
        defer { withExtendedLifetime(lock) {} }
        do { return try resyncOnce(source, options) } catch SendError.outdated {
            // The resync was dropped, so the second attempt has nothing to continue.
            return try resyncOnce(source, options)
        }
    }

    private func resyncOnce(
        _ source: any Source, _ options: ResyncOptions
    ) throws -> (outcome: Outcome, difference: Difference?) {
        let began = Clock.monotonic()
        let (first, standby) = try open()
        let settled = try settle(first, standby, keepingPrepared: false, forResync: true)
        guard settled.standby.state != .promoted || options.overwritePromoted else {
            first.stop(SendError.promotedStandby)
            throw SendError.promotedStandby
        }
        do { try checkObject(source, settled.replica) } catch {
            first.connection.close()
            throw error
        }
        if let (begin, plan) = planned(source, settled.replica, group: nil),
            begin.head.kind == .resync, settled.standby.transfer == begin.transfer,
            begin.inPlace == options.inPlace, map.hasDraft(begin, parent: nil)
        {
            return (try transfer(source, begin, plan, first, began).outcome, nil)
        }
        return try resync(source, settled, options, first, began)
    }

    private func resync(
        _ source: any Source, _ settled: Settled, _ options: ResyncOptions, _ dialogue: Dialogue,
        _ began: UInt64
    ) throws -> (outcome: Outcome, difference: Difference?) {
        let replica = settled.replica
        let comparison: ComparisonPlan
        do {
            comparison = try comparisonPlan(replica, settled.standby, options)
            // Both sides know the same generation, so this refusal needs no read.
            if let committed = replica.committed, committed.id == settled.standby.committedID,
                let refusal = shrinkRefusal(source, committed.head.volumeSize)
            {
                throw refusal
            }
        } catch {
            dialogue.stop(error)
            throw error
        }
        let id = TransferID.random()
        // Write the plan while the comparison of the maps reports the blocks.
        var compared: ComparedMaps?
        let plan: SendPlan
        do {
            plan = try makePlan(id, source) { body in
                var runs = BlockRuns(MapShape(volumeByteCount: source.volumeByteCount))
                compared = try compare(source, comparison, dialogue, settled.standby) {
                    try runs.add($0, body)
                }
                if let refusal = compared?.difference.refusal { throw refusal }
                try runs.finish(body)
            }
            // An exported generation can still be imported until another one replaces it.
            if replica.transfer != nil || replica.pending != nil { try abandonUnfinished() }
        } catch {
            dialogue.connection.close()
            throw error
        }
        guard let compared else { throw SendError.fault("nothing was compared") }
        let goesOn = comparison.isLineages && !options.inPlace
        let head = GenerationHead(
            kind: .resync, tagAlgorithm: comparison.algorithm,
            lineage: goesOn ? settled.standby.lineage : .random(),
            number: goesOn
                ? Self.next(
                    after: max(
                        replica.committed?.head.number ?? 0, settled.standby.committedNumber)) : 1,
            parent: goesOn ? settled.standby.committedID : .zero,
            volumeSize: source.volumeByteCount, sourceTime: source.time,
            sourceIdentity: Self.cut(source.summary, to: 512))
        let begin = Begin(
            transfer: id, head: head, plannedContent: plan.content,
            plannedSegments: plan.segmentCount, heldSegments: 0,
            tagKey: goesOn ? nil : comparison.key,
            allowsShrink: compared.difference.cutByteCount > 0, comparedRoot: compared.root,
            inPlace: options.inPlace, segmentGrowth: plan.growth)
        try start(begin, source, compared.map)
        do {
            let outcome = try transfer(source, begin, plan, dialogue, began).outcome
            return (outcome, compared.difference)
        } catch let error as SendError where error.isRefusal {
            try recall(replica)
            throw error
        }
    }

    /// Restores what this side knew about the copy before a refused resync, if the standby reports
    /// that it still has that copy: the copy outlives the lineage that did not begin.
    private func recall(_ former: Replica) throws {
        guard let committed = former.committed, try replica().transfer == nil,
            let (dialogue, standby) = try? open()
        else { return }
        dialogue.connection.close()
        guard standby.committedID == committed.id else { return }
        try home.catalog.restoreReplica(former)
    }

    /// Chooses the tag key for the comparison: that of the common lineage if both sides have the
    /// same one, else a new key.
    ///
    /// - Throws: `untrustedMap` if the map was to be used and the known state contradicts it.
    private func comparisonPlan(
        _ replica: Replica, _ standby: StandbyState, _ options: ResyncOptions
    ) throws -> ComparisonPlan {
        if let problem = Self.mistrust(options, Self.memory(of: replica), standby) { throw problem }
        if let lineage = replica.lineage, lineage == standby.lineage, let key = replica.tagKey,
            let algorithm = replica.tagAlgorithm, standby.committedID != .zero, !options.inPlace
        {
            return ComparisonPlan(
                mode: options.trustMap ? .stored : .read, algorithm: algorithm, key: key,
                isLineages: true)
        }
        return ComparisonPlan(mode: .read, algorithm: .poly1305, key: .random(), isLineages: false)
    }
}

extension Sender {
    /// Why a standby's tag map cannot be used although the operator asked for it.
    ///
    /// A map records what the standby has written. A standby that was restored, promoted, or used
    /// by another source may have a complete map that does not match its target.
    static func mistrust(
        _ options: ResyncOptions, _ memory: Lineage.SourceMemory, _ standby: StandbyState
    ) -> SendError? {
        guard options.trustMap, !options.inPlace else { return nil }
        var memory = memory
        if Lineage.decide(memory, standby) == .pendingIsCommitted {
            memory.committed = memory.pending
            memory.transfer = nil
        }
        let rule: Lineage.Rule?
        switch Lineage.decide(memory, standby) {
        // The standby itself refuses to compare a prepared generation.
        case .delta, .prepared: return nil
        case .full, .pendingIsCommitted: rule = nil
        case .refuse(let refused): rule = refused
        }
        return .untrustedMap(rule, here: text(memory), there: text(standby))
    }
}

/// The part of a volume to verify.
package enum VerifiedPart: Equatable, Sendable {
    case all
    /// Part `number` of `count`, from 1.
    case part(number: UInt64, count: UInt64)
    /// This percentage of the volume; its start advances with each run.
    case sample(percent: Double)
}

extension Sender {
    /// Result of a comparison, and the share of the volume that it covered, 0 to 1.
    package typealias Verified = (
        generation: GenerationRecord, difference: Difference, share: Double
    )

    /// Reads the committed generation on both sides and compares it.
    ///
    /// - Parameters:
    ///   - source: the point in time that the generation was made from.
    ///   - seconds: stop between two parts after this time; `nil` compares everything requested.
    package func verify(
        _ source: any Source, _ part: VerifiedPart, seconds: UInt64?
    ) throws -> Verified {
        let lock = try home.lock(options.receiver, options.volume)
        defer { withExtendedLifetime(lock) {} }
        defer { map.removeScan() }
        let due = seconds.map { Clock.monotonic() + $0 * nanosecondsPerSecond }
        let shape = MapShape(volumeByteCount: source.volumeByteCount)
        var total: Difference?
        var found: GenerationRecord?
        for pages in try verifiedPages(part, shape, isTimed: seconds != nil) {
            let (dialogue, standby) = try open()
            defer { dialogue.connection.close() }
            let settled = try settle(dialogue, standby, keepingPrepared: true)
            guard let committed = settled.replica.committed,
                committed.id == settled.standby.committedID, let key = settled.replica.tagKey
            else {
                throw SendError.lineage(
                    .diverged, here: Self.text(Self.memory(of: settled.replica)),
                    there: Self.text(settled.standby))
            }
            guard source.volumeByteCount == committed.head.volumeSize,
                otherSource(source.identity, source.name, settled.replica) == nil,
                !source.identity.provesContent
                    || settled.replica.baseIdentity.map(source.identity.hasSameContent) ?? false
            else {
                throw SourceError.noProof(
                    .notThatGeneration,
                    reason:
                        "the source is not what generation \(committed.head.number) was made from, so that a "
                        + "difference would mean nothing")
            }
            found = committed
            // With more parts than pieces, some parts are empty and contain no differences.
            guard !pages.isEmpty else {
                total = total ?? Difference(standby: standby)
                continue
            }
            let plan = ComparisonPlan(
                mode: .read, algorithm: committed.head.tagAlgorithm, key: key, isLineages: true,
                firstPage: pages.lowerBound, pageCount: pages.upperBound - pages.lowerBound)
            let compared = try compare(source, plan, dialogue, standby) { _ in }
            let more = compared.difference
            try source.confirm()
            try checkUnwritten(source, compared, committed, isWhole: pages == 0..<shape.pageCount)
            total = total.map { $0.joined(more) } ?? more
            try home.catalog.addVerification(
                Verification(
                    receiver: options.receiver, volume: options.volume, id: committed.id,
                    firstPage: pages.lowerBound, endPage: pages.upperBound,
                    pageCount: shape.pageCount, differingBlocks: more.blockCount,
                    time: Clock.wall()))
            if let due, Clock.monotonic() >= due { break }
        }
        guard let total, let found else { throw SendError.fault("nothing was compared") }
        return (
            found, total, Double(total.comparedByteCount) / Double(source.volumeByteCount)
        )
    }

    /// A difference proves something about the copy only if the source still is what was sent. If
    /// only its content can prove that, it is compared with the tag map that this side keeps of the
    /// generation.
    private func checkUnwritten(
        _ source: any Source, _ compared: ComparedMaps, _ committed: GenerationRecord, isWhole: Bool
    ) throws {
        guard compared.difference.blockCount > 0, !source.identity.provesContent else { return }
        var isWritten = isWhole && committed.volumeRoot != compared.map.root
        if !isWhole, let known = map.committed(committed) {
            for extent in compared.difference.extents where !isWritten {
                let block = extent.offset / MapShape.blockByteCount
                isWritten = try known.entry(ofBlock: block) != compared.map.entry(ofBlock: block)
            }
        }
        guard isWritten else { return }
        throw SourceError.noProof(
            .notThatGeneration,
            reason:
                "\(source.name) was written since generation \(committed.head.number) was made from it, so that a difference "
                + "would mean nothing")
    }

    /// The ranges of pages to compare, in order.
    private func verifiedPages(
        _ part: VerifiedPart, _ shape: MapShape, isTimed: Bool
    ) throws -> [Range<UInt64>] {
        let pages = shape.pageCount
        let wanted: Range<UInt64>
        switch part {
        case .all: wanted = 0..<pages
        case .part(let number, let count):
            // All parts together cover each piece once. Neither product can overflow: there are at
            // most 2^26 pieces.
            wanted = pages * (number - 1) / count..<pages * number / count
        case .sample(let percent):
            let size = min(max(UInt64((Double(pages) * percent / 100).rounded(.up)), 1), pages)
            let last = try home.catalog.verifications(
                .replica(options.volume, options.receiver), limit: 1
            ).first
            let start = (last?.endPage ?? 0) % pages
            let head = start..<min(start + size, pages)
            let rest = size - UInt64(head.count)
            wanted = head
            if rest > 0 { return split(head, isTimed) + split(0..<rest, isTimed) }
        }
        return split(wanted, isTimed)
    }

    /// Splits the range into parts of 4 GiB if a time limit is set.
    private func split(_ pages: Range<UInt64>, _ isTimed: Bool) -> [Range<UInt64>] {
        guard isTimed, !pages.isEmpty else { return [pages] }
        return stride(from: pages.lowerBound, to: pages.upperBound, by: 256).map {
            $0..<min($0 + 256, pages.upperBound)
        }
    }
}

extension Difference {
    /// Joins the results of comparing two different parts.
    fileprivate func joined(_ other: Difference) -> Difference {
        var sum = self
        sum.blockCount += other.blockCount
        sum.byteCount += other.byteCount
        sum.lostByteCount += other.lostByteCount
        sum.extents = Array((extents + other.extents).prefix(Self.extentLimit))
        sum.comparedByteCount += other.comparedByteCount
        sum.sourceReadByteCount += other.sourceReadByteCount
        sum.standbyReadByteCount += other.standbyReadByteCount
        sum.wireByteCount += other.wireByteCount
        return sum
    }
}
