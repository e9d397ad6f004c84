// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Catalog
internal import Connection
package import Digests
internal import MapStore
internal import Objects
internal import Platform
package import Session
internal import Synchronization
internal import TLS
package import Wire

/// Sends one volume to one standby: decides, plans, sends, commits, and records the result.
package final class Sender {
    package struct Options: Sendable {
        /// Name of the standby on this host.
        package var receiver: ReceiverName
        package var volume: VolumeName
        package var compression: CompressionPolicy
        /// Whether the volume may be smaller than its last generation.
        package var allowShrink: Bool
        /// Whether the source may differ from the one sent so far.
        package var adoptsSource: Bool
        /// Number of blocks outside the change list to compare with the tag map before a generation
        /// is sent.
        package var unchangedSample: UInt64
        /// How long to wait for a session if the standby says when to come back.
        package var waitSeconds: Int
        /// Name and version of the program.
        package var software: String
        /// Receives one-line notices for the user before the send continues.
        package var notice: @Sendable (String) -> Void

        package init(
            receiver: ReceiverName, volume: VolumeName, compression: CompressionPolicy,
            allowShrink: Bool = false, adoptsSource: Bool = false, unchangedSample: UInt64 = 256,
            waitSeconds: Int = 30, software: String,
            notice: @escaping @Sendable (String) -> Void = { _ in }
        ) {
            self.receiver = receiver
            self.volume = volume
            self.compression = compression
            self.allowShrink = allowShrink
            self.adoptsSource = adoptsSource
            self.unchangedSample = unchangedSample
            self.waitSeconds = waitSeconds
            self.software = software
            self.notice = notice
        }
    }

    /// Progress of a send.
    package struct Report: Equatable, Sendable {
        /// The current activity.
        package enum Phase: Sendable { case reading, sending, writing, proving, applying }
        package var phase: Phase
        /// Bytes that were sent and acknowledged, proven, or applied.
        package var done: UInt64
        /// Bytes of the whole change list.
        package var total: UInt64
    }

    /// Result of a send.
    package struct Outcome: Sendable {
        /// What the send did.
        package enum Kind: Equatable, Sendable {
            case full
            case delta(from: UInt64)
            /// From the standby's generation, if its lineage continues.
            case resync(from: UInt64?)
            /// The standby already has this point in time.
            case upToDate
        }
        package var kind: Kind
        package var number: UInt64
        package var id: SHA256Digest
        package var volumeByteCount: UInt64
        /// Bytes of data in the change list.
        package var changedByteCount: UInt64
        /// Bytes of frames in this session, in both directions.
        package var wireByteCount: UInt64
        package var nanoseconds: UInt64
        /// Segments that the standby already had when this session began.
        package var resumedSegments: UInt64
        package var plannedSegments: UInt64
        /// Why and how much of the source was read to find the changes; `nil` if it was not read in
        /// full.
        package var comparison: Comparison?
    }

    /// Records that a source was read in full to find its changes.
    package struct Comparison: Equatable, Sendable {
        package var reason: String
        /// Bytes that were read.
        package var read: UInt64
    }

    /// The outcome that a send would have.
    package struct Explanation: Sendable {
        package var memory: Lineage.SourceMemory
        package var standby: StandbyState
        package var decision: SendDecision
        /// Data bytes and entries of the change list, if a source was given and something would be
        /// sent.
        package var changedByteCount: UInt64?
        package var entryCount: UInt64?

        /// The error that a send would end with; `nil` if it would not be refused.
        package var refusal: (any RuledError)? {
            guard case .refuse(let refused) = decision else { return nil }
            return Sender.error(refused, memory, standby, source: nil)
        }
    }

    let home: SourceHome
    let options: Options
    let report: (Report) -> Void
    /// What the standby holds, block by block, as far as this side knows.
    let map: SourceMap
    /// Why and how much of the source this run has read to find the changes.
    var comparison: Comparison?

    /// Whether the tag map was found damaged by a run that must not remove it.
    var ignoresMap = false

    package init(
        _ home: SourceHome, _ options: Options, report: @escaping (Report) -> Void = { _ in }
    ) {
        self.home = home
        self.options = options
        self.report = report
        map = home.map(options.receiver, options.volume)
    }

    // MARK: Deciding

    func replica() throws -> Replica {
        try home.catalog.replica(options.volume, at: options.receiver)
            ?? Replica(receiver: options.receiver, volume: options.volume)
    }

    static func memory(of replica: Replica) -> Lineage.SourceMemory {
        func point(_ record: GenerationRecord?) -> Lineage.GenerationPoint? {
            record.map { Lineage.GenerationPoint(number: $0.head.number, id: $0.id) }
        }
        return Lineage.SourceMemory(
            lineage: replica.lineage, committed: point(replica.committed),
            pending: point(replica.pending), transfer: replica.transfer?.begin.transfer)
    }

    /// Opens the volume on the standby. A session that has just ended may still hold the volume,
    /// and a standby without a free session says when to come back.
    func open() throws -> (Dialogue, StandbyState) {
        let began = Clock.monotonic()
        while true {
            do { return try openOnce() } catch SendError.refused(let refusal)
                where refusal.code == .busy
            {
                guard let pause = pause(refusal, waited: Clock.monotonic() - began) else {
                    throw SendError.refused(refusal)
                }
                Clock.sleep(milliseconds: pause)
            }
        }
    }

    /// How long to wait for a busy volume, in nanoseconds.
    private static let patience = 3 * nanosecondsPerSecond

    /// Milliseconds until the next attempt; `nil` if there is none.
    private func pause(_ refusal: Refusal, waited: UInt64) -> UInt32? {
        guard refusal.retryAfter > 0 else { return waited < Self.patience ? 20 : nil }
        // Peers that were refused together must not come back together.
        let told = UInt32(refusal.retryAfter) * 1000
        let pause = told + UInt32.random(in: 0...told)
        let limit = UInt64(min(max(options.waitSeconds, 0), 86_400)) * nanosecondsPerSecond
        return waited + UInt64(pause) * 1_000_000 <= limit ? pause : nil
    }

    private func openOnce() throws -> (Dialogue, StandbyState) {
        guard let receiver = try home.catalog.receiver(options.receiver) else {
            throw SendError.unknownReceiver(options.receiver)
        }
        let dialogue = try Dialogue(
            to: receiver.address, expecting: receiver.key, try home.identity(),
            .replicate(options.volume), software: options.software)
        guard case .open(let message) = try dialogue.next() else {
            throw SendError.brokenProtocol("no greeting")
        }
        try home.note(dialogue.session.exportKey, of: receiver)
        try dialogue.connection.send(message)
        guard case .decide(let standby) = try dialogue.next() else {
            throw SendError.brokenProtocol("no state")
        }
        return (dialogue, standby)
    }

    // MARK: Sending

    /// Sends the source's point in time and waits until it is committed.
    package func send(_ source: any Source) throws -> Outcome {
        try send(source, try home.lock(options.receiver, options.volume))
    }

    /// Sends for a caller that already holds the lock.
    package func send(_ source: any Source, _ lock: SendLock) throws -> Outcome {
        precondition(lock.receiver == options.receiver && lock.volume == options.volume)
        defer { withExtendedLifetime(lock) {} }
        // Each of the two obstacles can occur once.
        for attempt in 0..<3 {
            do { if let outcome = try sendOnce(source) { return outcome } } catch MapError.damaged
                where attempt < 2
            {
                // Without the map, the source is read once more; the segments sent so far stay on
                // the standby.
                map.remove()
            }
        }
        throw SendError.brokenProtocol("the standby's state changes with each session")
    }

    /// - Returns: `nil` if the standby moved on while the source was read, so that everything must
    ///   be decided again.
    private func sendOnce(_ source: any Source) throws -> Outcome? {
        let began = Clock.monotonic()
        let (dialogue, standby) = try open()
        let settled = try settle(dialogue, standby, keepingPrepared: false)
        let reason: String
        do {
            switch try decide(source, settled) {
            case .refuse(let refused): throw error(refused, settled, source)
            case .upToDate:
                guard let committed = settled.replica.committed else {
                    throw SendError.fault("nothing is committed")
                }
                try confirm(committed, source, dialogue)
                dialogue.connection.close()
                return outcome(.upToDate, committed, source, nil, dialogue, began, resumed: 0)
            case .full, .delta:
                let (begin, plan) = try prepare(source, settled, group: nil)
                return try transfer(source, begin, plan, dialogue, began).outcome
            case .compare(_, _, let found): reason = found
            case .wait: throw SendError.fault("what waited for its group was not dropped")
            }
        } catch {
            dialogue.stop(error)
            throw error
        }
        // Reading the whole source takes longer than the connection's idle limit.
        dialogue.connection.close()
        if settled.isResuming, let (begin, plan) = planned(source, settled.replica, group: nil) {
            try completeDraft(source, begin, settled.replica)
            return try sendMember(source, begin, plan).outcome
        }
        let scan = try scan(source, settled.replica, reason)
        let (second, state) = try open()
        do {
            // An exported generation may have been imported meanwhile; this answer decides whether
            // a generation in doubt is dropped.
            let now = try settle(second, state, keepingPrepared: false)
            try checkLineage(now)
            guard now.decision == settled.decision,
                now.replica.committed == settled.replica.committed
            else {
                second.connection.close()
                return nil
            }
            let (begin, plan) = try prepare(source, now, group: nil, scanned: scan)
            return try transfer(source, begin, plan, second, began).outcome
        } catch {
            second.stop(error)
            throw error
        }
    }

    /// Refuses to continue if the two sides' histories do not fit.
    func checkLineage(_ settled: Settled) throws {
        guard case .refuse(let rule) = settled.decision else { return }
        throw Self.error(
            SendDecision.Refused(rule, .histories), Self.memory(of: settled.replica),
            settled.standby, source: nil)
    }

    /// The error for a volume smaller than its committed generation, unless `allowShrink` permits
    /// it.
    func shrinkRefusal(_ source: any Source, _ committedSize: UInt64) -> SendError? {
        guard source.volumeByteCount < committedSize, !options.allowShrink else { return nil }
        return .lineage(
            .sizeShrunk, here: "\(source.volumeByteCount) bytes", there: "\(committedSize) bytes")
    }

    /// Sends a generation.
    ///
    /// - Returns: also whether the generation waits on the standby for its group and is not
    ///   committed yet.
    func transfer(
        _ source: any Source, _ announced: Begin, _ plan: SendPlan, _ dialogue: Dialogue,
        _ began: UInt64
    ) throws -> (outcome: Outcome, isPrepared: Bool) {
        let current = try replica()
        guard let key = current.tagKey else {
            throw SendError.fault("the catalog has no tag key")
        }
        let draft = try map.draft(announced, parent: current.committed)
        let seals = try sealsFile(current, announced)
        var begin = announced
        begin.heldSegments = UInt64(seals.seals.count)
        try dialogue.connection.send(dialogue.session.begin(begin))
        let first: UInt64
        do {
            guard case .sendSegments(let number) = try dialogue.next() else {
                throw SendError.brokenProtocol("no place to begin")
            }
            first = number
        } catch SendError.refused(let refusal)
            where seals.seals.isEmpty
            && (current.committed == nil || announced.head.kind == .resync)
            || refusal.isOutdating(announced)
        {
            // The standby has no part of a first copy, so any source may start it; or no part of
            // the resync, so the next one compares again; or the standby no longer has what was
            // compared, so the resync can never continue.
            try abandonUnfinished()
            throw refusal.isOutdating(announced)
                ? SendError.outdated(refusal) : SendError.refused(refusal)
        }
        seals.truncate(to: Int(first))
        let pipeline = try Pipeline()
        pipeline.start(
            source, plan, begin: announced, key: key, sealed: seals.seals,
            sender: try home.identity().keyID, policy: options.compression, updates: draft.writer)
        var stream = SendStream(dialogue, pipeline, seals, plan, report)
        do {
            defer { pipeline.stop() }
            let record = try stream.run { record in
                // The reading thread has finished.
                try source.confirm()
                let record = try complete(record, draft, announced)
                try home.catalog.setPending(options.volume, at: options.receiver, record)
                return record
            }
            if !stream.isPrepared { try commitPending() }
            dialogue.connection.close()
            let outcome = outcome(
                Self.kind(record), record, source, plan, dialogue, began, resumed: first)
            if !stream.isPrepared { try remember(outcome) }
            return (outcome, stream.isPrepared)
        } catch SendError.refused(let refusal) where refusal.isOutdating(announced) {
            // No part of it was applied, and none will be.
            try abandonUnfinished()
            throw SendError.refused(refusal)
        } catch let error as TLSError {
            throw SendError.interrupted(
                "\(error)", acknowledgedSegments: stream.acknowledged,
                plannedSegments: plan.segmentCount)
        }
    }

    /// The record with the root of the volume. A generation without a root could never be verified
    /// later.
    func complete(
        _ record: GenerationRecord, _ draft: SourceMap.Draft, _ begin: Begin
    ) throws -> GenerationRecord {
        var record = record
        record.volumeRoot = try map.root(draft, begin)
        guard record.volumeRoot != .zero else {
            throw SendError.fault("the generation has no root")
        }
        return record
    }

    func commitPending() throws {
        let replica = try replica()
        if let record = replica.pending, let transfer = replica.transfer {
            map.commit(record, transfer.begin.transfer)
        }
        let superseded = try home.catalog.commit(
            options.volume, at: options.receiver, committedAt: Clock.wall())
        home.removePlan(superseded.planName)
    }

    /// Adds a committed generation to the history.
    func remember(_ outcome: Outcome) throws {
        try home.catalog.addHistory(
            HistoryEntry(
                receiver: options.receiver, volume: options.volume, number: outcome.number,
                id: outcome.id, committedAt: Clock.wall(), changedBytes: outcome.changedByteCount,
                wireBytes: outcome.wireByteCount, duration: outcome.nanoseconds))
    }

    static func kind(_ record: GenerationRecord) -> Outcome.Kind {
        switch record.head.kind {
        case .full: .full
        case .delta: .delta(from: record.head.number - 1)
        case .resync: .resync(from: record.head.parent == .zero ? nil : record.head.number - 1)
        }
    }

    func outcome(
        _ kind: Outcome.Kind, _ record: GenerationRecord, _ source: any Source, _ plan: SendPlan?,
        _ dialogue: Dialogue, _ began: UInt64, resumed: UInt64
    ) -> Outcome {
        Outcome(
            kind: kind, number: record.head.number, id: record.id,
            volumeByteCount: source.volumeByteCount, changedByteCount: plan?.content ?? 0,
            wireByteCount: dialogue.connection.byteCount,
            nanoseconds: Clock.monotonic() - began, resumedSegments: resumed,
            plannedSegments: plan?.segmentCount ?? 0, comparison: comparison)
    }

    // MARK: Words

    static func text(_ memory: Lineage.SourceMemory) -> String {
        guard let committed = memory.committed else { return "no generation" }
        return "generation \(committed.number) (\(String("\(committed.id)".prefix(12))))"
    }

    static func text(_ standby: StandbyState) -> String {
        guard standby.committedID != .zero else { return "\(standby.state)" }
        return "\(standby.state), generation \(standby.committedNumber) "
            + "(\(String("\(standby.committedID)".prefix(12))))"
    }
}

extension Refusal {
    /// Whether a resync can never continue, so that only a new comparison helps.
    fileprivate func isOutdating(_ begin: Begin) -> Bool {
        begin.head.kind == .resync
            && [RefusalRule.notCompared, .sizeShrunk].contains { $0.rawValue == rule }
    }
}
