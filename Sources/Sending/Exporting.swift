// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Catalog
internal import Digests
internal import MapStore
internal import Platform
internal import Session
internal import Synchronization
internal import TLS
package import Wire

/// How to export a generation to a file.
package struct ExportOptions: Sendable {
    /// The operator's statement about the previously exported generation.
    package enum Former: Equatable, Sendable {
        /// The operator has not said anything.
        case unknown
        /// It was not imported and never will be.
        case discarded
        /// It was imported; its id or a prefix of it in hexadecimal.
        case imported(String)
    }

    /// Destination of the export.
    package enum Output: Equatable, Sendable {
        case file(String)
        case standardOutput

        /// The destination as the catalog records it.
        fileprivate var place: String {
            switch self {
            case .file(let path):
                Directory.resolved(Directory.parent(of: path)) + "/" + Directory.name(of: path)
            case .standardOutput: "standard output"
            }
        }
    }

    package var output: Output
    package var former: Former

    package init(output: Output, former: Former) {
        self.output = output
        self.former = former
    }
}

/// Why no file was made.
package enum ExportError: RuledError, CustomStringConvertible {
    /// The name already exists.
    case exists(String)
    /// Another process is writing a file of this name.
    case busy(String)
    /// It is unknown whether the exported generation was imported.
    case exported(number: UInt64, path: String)
    /// It is unknown whether the standby has committed the generation that was sent.
    case inDoubt(number: UInt64)
    /// No exported generation has this id.
    case otherGeneration(String)
    /// A resync is unfinished; it must be completed first.
    case unfinishedResync
    /// Standard output accepted everything but the end, for this reason.
    case cut(String)
    /// The standby has not sent its export key yet.
    case noExportKey(ReceiverName)
    /// The standby sent an invalid export key.
    case badExportKey(ReceiverName)

    package var description: String {
        switch self {
        case .exists(let path): "\(path) is there already; an export overwrites nothing"
        case .busy(let path): "another process is writing \(path)"
        case .exported(let number, let path):
            "generation \(number) was exported to \(path), and nobody has said that it was imported"
        case .inDoubt(let number):
            "generation \(number) was sent, and the standby has not said that it was committed"
        case .otherGeneration(let id):
            "no exported generation is waiting for the word that it was imported and has the id \(id)"
        case .unfinishedResync: "a resync of this volume was begun and not finished"
        case .cut(let reason):
            "the end could not be written (\(reason)); what came out before cannot be imported"
        case .noExportKey(let receiver):
            "the key to which files for the standby \(receiver) are encrypted is not known yet"
        case .badExportKey(let receiver):
            "the standby \(receiver) has told an export key that nothing can be encrypted to"
        }
    }

    package var refusalRule: RefusalRule? {
        switch self {
        case .exists: .outputExists
        case .busy: .busy
        case .exported: .exported
        case .inDoubt: .inDoubt
        case .otherGeneration: .unknownExport
        case .unfinishedResync: .unfinishedResync
        case .cut: .exportCut
        case .noExportKey: .noExportKey
        case .badExportKey: .badExportKey
        }
    }

    package var words: [String: String] {
        if case .exists(let path) = self { return ["PATH": path] }
        return [:]
    }
}

extension Sender {
    /// Exports the source's point in time to a file that the standby can import.
    ///
    /// It does not contact the standby: the catalog says what the standby holds.
    /// Protocol/ExportFile.md, section 5, also lists what a crash leaves.
    ///
    /// - Returns: the outcome; its `wireByteCount` is the size of the file. *Up to date* means that
    ///   no file was made.
    package func export(
        _ source: any Source, _ lock: SendLock, _ how: ExportOptions
    ) throws -> Outcome {
        precondition(lock.receiver == options.receiver && lock.volume == options.volume)
        defer { withExtendedLifetime(lock) {} }
        do { return try exportOnce(source, how) } catch MapError.damaged {
            // Without it the source is read once more.
            map.remove()
            var again = how
            // What was said of the generation before is done.
            again.former = .unknown
            return try exportOnce(source, again)
        }
    }

    private func exportOnce(_ source: any Source, _ how: ExportOptions) throws -> Outcome {
        let began = Clock.monotonic()
        let settled = try settle(how)
        switch try decide(source, settled) {
        case .refuse(let refused): throw error(refused, settled, source)
        case .upToDate:
            guard let committed = settled.replica.committed else {
                throw SendError.fault("nothing is committed")
            }
            return outcome(.upToDate, committed, source, nil, bytes: 0, began)
        case .full, .delta, .compare, .wait: break
        }
        guard let receiver = try home.catalog.receiver(options.receiver) else {
            throw SendError.unknownReceiver(options.receiver)
        }
        guard let recipient = receiver.exportKey else {
            throw ExportError.noExportKey(options.receiver)
        }
        let (begin, plan) = try prepare(source, settled, group: nil)
        let writer = try ExportFileWriter(
            to: receiver, recipient: recipient, options.volume, try home.identity()
        ) { envelope in
            switch how.output {
            case .file(let path): try ExportFileOutput(path: path, envelope)
            case .standardOutput: ExportStreamOutput()
            }
        }
        let record: GenerationRecord
        do {
            record = try write(source, begin, plan, writer)
            try writer.prepare(record)
        } catch {
            writer.remove()
            throw error
        }
        // From here on the file may be imported.
        try home.catalog.setPending(
            options.volume, at: options.receiver, record,
            exported: how.output.place)
        do { try writer.publish() } catch let error as ExportError {
            // The file has no final name or no end, so it cannot have been imported.
            writer.remove()
            try abandonUnfinished()
            throw error
        }
        return outcome(
            Self.kind(record), record, source, plan, bytes: writer.byteCount, began)
    }

    /// Resolves the state of the previous generation, by itself or from the operator's statement,
    /// and refuses an export that is not allowed.
    func checkExport(_ how: ExportOptions) throws {
        if case .file(let path) = how.output {
            guard !Directory.exists(path) else { throw ExportError.exists(path) }
            // Check the directory before the volume is read.
            try Directory.sync(Directory.parent(of: path))
        }
        guard let receiver = try home.catalog.receiver(options.receiver) else {
            throw SendError.unknownReceiver(options.receiver)
        }
        guard receiver.exportKey != nil else { throw ExportError.noExportKey(options.receiver) }
        let replica = try replica()
        if replica.transfer?.begin.head.kind == .resync {
            throw ExportError.unfinishedResync
        }
        let waiting = replica.exported == nil ? nil : replica.pending
        if case .imported(let id) = how.former {
            guard let waiting, "\(waiting.id)".hasPrefix(id) else {
                throw ExportError.otherGeneration(id)
            }
            return try commitPending()
        }
        guard let pending = replica.pending else { return }
        guard let waiting, let path = replica.exported else {
            throw ExportError.inDoubt(number: pending.head.number)
        }
        guard how.former == .discarded else {
            throw ExportError.exported(number: waiting.head.number, path: path)
        }
        try abandonUnfinished()
    }

    /// The state of both sides, assuming that the standby holds what the catalog says.
    private func settle(_ how: ExportOptions) throws -> Settled {
        try checkExport(how)
        let replica = try replica()
        let standby = StandbyState(
            state: replica.committed == nil ? .empty : .consistent, targetKind: .file,
            targetSize: 0,
            lineage: replica.committed == nil ? .none : replica.lineage ?? .none,
            committedNumber: replica.committed?.head.number ?? 0,
            committedID: replica.committed?.id ?? .zero, transfer: .none, durableSegments: 0)
        return Settled(
            decision: Lineage.decide(Self.memory(of: replica), standby), standby: standby,
            replica: replica)
    }

    /// Writes the frames of a generation.
    private func write(
        _ source: any Source, _ begin: Begin, _ plan: SendPlan, _ writer: ExportFileWriter
    ) throws -> GenerationRecord {
        let current = try replica()
        guard let key = current.tagKey else {
            throw SendError.fault("the catalog has no tag key")
        }
        // A session that finds the file half imported resumes from there.
        let seals = try sealsFile(current, begin)
        let draft = try map.draft(begin, parent: current.committed)
        let pipeline = try Pipeline()
        // Writing a file is slower than reading and compressing.
        pipeline.networkIsSlow.store(true, ordering: .relaxed)
        pipeline.start(
            source, plan, begin: begin, key: key, sealed: [], sender: try home.identity().keyID,
            policy: options.compression, updates: draft.writer)
        defer { pipeline.stop() }
        try writer.write(begin)
        var done: UInt64 = 0
        while let item = pipeline.outgoing.pop() {
            switch item {
            case .record(let record, let lease, let offset):
                try writer.write(record, lease?.memory, at: offset)
            case .seal(let seal):
                try writer.write(seal)
                try seals.append(seal)
                done += seal.content
                report(Report(phase: .writing, done: done, total: plan.content))
            case .end(let made):
                try source.confirm()
                let record = try complete(made, draft, begin)
                try writer.write(record)
                return record
            }
        }
        if let error = pipeline.failure.error { throw error }
        throw SendError.fault("the pipeline ended early")
    }

    private func outcome(
        _ kind: Outcome.Kind, _ record: GenerationRecord, _ source: any Source, _ plan: SendPlan?,
        bytes: UInt64, _ began: UInt64
    ) -> Outcome {
        Outcome(
            kind: kind, number: record.head.number, id: record.id,
            volumeByteCount: source.volumeByteCount, changedByteCount: plan?.content ?? 0,
            wireByteCount: bytes, nanoseconds: Clock.monotonic() - began, resumedSegments: 0,
            plannedSegments: plan?.segmentCount ?? 0, comparison: comparison)
    }
}
