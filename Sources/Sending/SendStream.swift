// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Connection
internal import Platform
internal import Session
internal import Synchronization
internal import Wire

/// The network's part of a transfer: sends the pipeline's items, with at most one sealed and one
/// open segment in flight.
struct SendStream {
    private let dialogue: Dialogue
    private let pipeline: Pipeline
    private let seals: SealsFile
    private let plan: SendPlan
    private let report: (Sender.Report) -> Void
    private var window: (start: UInt64, bytes: UInt64)
    /// Number of segments that are durable on the standby.
    private(set) var acknowledged: UInt64
    /// Content of those segments in bytes.
    private var acknowledgedContent: UInt64
    /// Whether the generation waits on the standby for its group.
    private(set) var isPrepared = false

    /// Below this rate in bytes per second the network counts as slow, and compression pays.
    private static let slowBytesPerSecond: UInt64 = 150_000_000

    init(
        _ dialogue: Dialogue, _ pipeline: Pipeline, _ seals: SealsFile, _ plan: SendPlan,
        _ report: @escaping (Sender.Report) -> Void
    ) {
        self.dialogue = dialogue
        self.pipeline = pipeline
        self.seals = seals
        self.plan = plan
        self.report = report
        acknowledged = UInt64(seals.seals.count)
        acknowledgedContent = seals.seals.reduce(0) { $0 + $1.content }
        window = (Clock.monotonic(), dialogue.connection.byteCount)
    }

    /// Sends everything, commits, and waits for COMMITTED or PREPARED. Calls `keep` before it sends
    /// COMMIT; `keep` returns the record to send.
    mutating func run(
        _ keep: (GenerationRecord) throws -> GenerationRecord
    ) throws -> GenerationRecord {
        // Report the segments of earlier sessions as the starting point.
        report(Sender.Report(phase: .sending, done: acknowledgedContent, total: plan.content))
        while true {
            while let action = try dialogue.poll() { try note(action) }
            if dialogue.session.unacknowledgedSegments > 1 {
                try dialogue.connection.wait(nil)
                continue
            }
            guard let item = pipeline.outgoing.tryPop() else {
                if let error = pipeline.failure.error { throw error }
                guard !pipeline.outgoing.isFinished else {
                    throw SendError.fault("the pipeline ended early")
                }
                pipeline.networkIsSlow.store(false, ordering: .relaxed)
                try dialogue.connection.wait(pipeline.notifier)
                continue
            }
            switch item {
            case .record(let record, let lease, let offset):
                try dialogue.connection.send(record, lease?.memory, at: offset)
                measure()
            case .seal(let seal):
                try seals.append(seal)
                dialogue.session.sealed(seal)
                try dialogue.connection.send(seal)
            case .end(let record):
                let record = try keep(record)
                dialogue.session.commit(record)
                try dialogue.connection.send(record)
                while !dialogue.session.isDone { try note(try dialogue.next()) }
                return record
            }
        }
    }

    private mutating func note(_ action: SenderSession.Action) throws {
        switch action {
        case .acknowledged(let count):
            let known = Int(clamping: acknowledged)
            let more = seals.seals.prefix(Int(clamping: count)).dropFirst(known)
            acknowledgedContent += more.reduce(0) { $0 + $1.content }
            acknowledged = count
            report(
                Sender.Report(phase: .sending, done: acknowledgedContent, total: plan.content))
        case .progress(let progress):
            report(
                Sender.Report(
                    phase: progress.phase == .applying ? .applying : .proving, done: progress.done,
                    total: progress.total))
        case .prepared: isPrepared = true
        default: break
        }
    }

    /// The network is slow if the pipeline waits for it and its throughput is low.
    private mutating func measure() {
        let now = Clock.monotonic()
        let elapsed = now - window.start
        guard elapsed > nanosecondsPerSecond / 5 else { return }
        let bytes = dialogue.connection.byteCount - window.bytes
        let isSlow =
            pipeline.outgoing.isFull
            && bytes < Self.slowBytesPerSecond / 5 * (elapsed / (nanosecondsPerSecond / 5))
        pipeline.networkIsSlow.store(isSlow, ordering: .relaxed)
        window = (now, dialogue.connection.byteCount)
    }
}
