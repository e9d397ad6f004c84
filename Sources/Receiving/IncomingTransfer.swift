// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
package import Connection
package import Digests
internal import MapStore
internal import Platform
internal import Session
internal import Staging
package import Wire

/// The work of one session on its volume, in the order of the incoming frames.
///
/// It runs on a separate thread, because every step may wait for a disk while the network's thread
/// keeps the connection alive.
package final class IncomingTransfer {
    let home: StandbyHome
    private let peer: KeyID
    let poll: () throws -> Void
    let report: (Outcome) -> Void
    var writer: VolumeWriter?
    var staged: StagedTransfer?
    private var active: Active?
    private var comparison: Comparison?
    /// Why the target cannot be used, for a volume whose state is reported without it.
    var targetProblem: TargetError?

    /// Results that the network's thread reports to the sender.
    package enum Outcome: Sendable {
        case opened(StandbyState)
        case paired(VolumeName)
        case compared(Compared)
        case nodes(Nodes)
        case ready(Ready)
        case ack(Ack)
        case progress(Progress)
        case committed(Committed)
        case prepared(Prepared)
        case refuse(Refusal)
        /// A line for the journal, not for the sender.
        case note(String)
        /// A buffer was returned; reading may continue.
        case memory
    }

    /// An admitted transfer.
    private final class Active {
        let target: Target
        let log: StagingLogWriter
        let mode: StagingLogFormat.Mode
        let proof: ContentProof
        var checker: TransferChecker
        /// In mode in place, while this session has brought the whole transfer.
        var collection: UpdateCollection?

        init(
            _ target: Target, _ log: StagingLogWriter, _ mode: StagingLogFormat.Mode,
            _ proof: ContentProof, _ checker: consuming TransferChecker
        ) {
            self.target = target
            self.log = log
            self.mode = mode
            self.proof = proof
            self.checker = checker
        }
    }

    /// - Parameter poll: called during long steps; throwing ends the step, unless it is applying a
    ///   generation.
    package init(
        _ home: StandbyHome, peer: KeyID, poll: @escaping () throws -> Void = {},
        report: @escaping (Outcome) -> Void
    ) {
        self.home = home
        self.peer = peer
        self.poll = poll
        self.report = report
    }

    deinit {
        // Release the target before the volume's lock, so that both are free together.
        comparison = nil
        active = nil
    }

    // MARK: Before a transfer

    func pair(_ pair: Pair) throws {
        let hash = SHA256Digest.of(pair.secret)
        let volume = try home.catalog.redeem(
            secretHash: hash, peerKey: peer, peerName: pair.name, now: Clock.wall())
        guard let volume else {
            // Reveal who redeemed the secret only to a peer that knows it.
            if let redeemer = try home.catalog.redeemer(of: hash), redeemer != peer {
                report(
                    .note(
                        "an invitation that \(redeemer) has used was shown by \(peer): one of them took it from the other"
                    ))
                throw Refusal(
                    .invitation, rule: .used,
                    "the invitation was used already, by the key \(redeemer)")
            }
            throw Refusal(.invitation, "the invitation is unknown, used or expired")
        }
        report(.paired(volume))
    }

    func open(_ name: VolumeName) throws {
        try poll()
        guard try home.catalog.volume(name, of: peer) != nil else {
            throw Refusal(.notAuthorised, "there is no volume \(name) for this peer")
        }
        guard let writer = try VolumeWriter(home, name) else {
            throw Refusal(.busy, "another session has the volume \(name)")
        }
        writer.poll = poll
        self.writer = writer
        try stand(writer)
    }

    func tell(_ progress: Progress) throws {
        try poll()
        report(.progress(progress))
    }

    // MARK: Comparing

    /// Makes the map of the target, or uses the stored one.
    func compare(_ compare: Compare) throws {
        guard let writer else { return }
        try checkTargetProblem()
        let made = try targeting { try Comparison(compare, writer, tell) }
        comparison = made
        report(
            .compared(
                Compared(
                    root: made.root, read: made.read,
                    committedSize: writer.volume.committed?.head.volumeSize ?? 0)))
    }

    func ask(_ range: NodeRange) throws {
        guard let comparison else { return }
        report(.nodes(Nodes(range: range, content: try comparison.nodes(range))))
    }

    private func checkTargetProblem() throws {
        if let targetProblem { throw refusal(targetProblem) }
    }

    private func targeting<Value>(_ body: () throws -> Value) throws -> Value {
        do { return try body() } catch let error as TargetError { throw refusal(error) }
    }

    // MARK: Beginning

    func begin(_ begin: Begin) throws {
        guard let writer else { return }
        guard begin.head.volumeSize <= Limits.mappedVolumeSize else {
            throw Refusal(.limit, "the volume is larger than a tag map can be")
        }
        var memory = Lineage.StandbyMemory(
            state: try standbyState(writer),
            committedSize: writer.volume.committed?.head.volumeSize,
            unfinished: staged == nil ? nil : writer.volume.transfer?.begin,
            comparedRoot: comparison?.root ?? knownRoot(begin, writer),
            isDemoted: writer.volume.isDemoted)
        if case .refuse(let refusal) = Lineage.admit(begin, memory), refusal.code == .target {
            // The target itself reports this with a remedy, unless it can grow.
            _ = try openTarget(writer, begin)
            memory.state = try standbyState(writer)
        }
        switch Lineage.admit(begin, memory) {
        case .refuse(let refusal): throw refusal
        case .resume: try resume(begin, writer)
        case .start(let inPlace): try start(begin, writer, inPlace ? .inPlace : .staged)
        }
    }

    private func start(
        _ begin: Begin, _ writer: VolumeWriter, _ mode: StagingLogFormat.Mode
    ) throws {
        guard let key = begin.tagKey ?? writer.volume.tagKey,
            begin.tagKey != nil || writer.volume.tagAlgorithm == begin.head.tagAlgorithm
        else { throw Refusal(.malformed, "the lineage has another tag algorithm") }
        let target = try openTarget(writer, begin)
        if writer.volume.state == .empty {
            try targeting {
                try writer.checkUnoccupied(try TargetObject(path: writer.volume.targetPath))
            }
        }
        if writer.volume.transfer != nil { try writer.abandon(keepingComparison: true) }
        if begin.head.kind == .resync { try writer.map.keepFound() }
        staged = nil
        switch mode {
        case .staged: try Room.checkStaging(home, begin)
        case .inPlace:
            try targeting { try Room(target, writer.keeper).checkInPlace(begin, writer.volume) }
        }
        let header = StagingLogFormat.Header(mode: mode, id: .random(), begin: begin)
        let log: StagingLogWriter
        do {
            try home.removeLog(writer.volume.name)
            log = try StagingLogWriter(path: writer.logPath, header: header)
        } catch let error as StagingLogError {
            throw refusal(error)
        }
        var collection: UpdateCollection?
        if mode == .inPlace {
            collection = try UpdateCollection(
                writer.map, begin, key,
                base: begin.comparedRoot.flatMap { writer.map.compared($0) },
                target: writer.volume.targetPath, isChecked: false, poll: poll)
        }
        // From here on the catalog marks a target in mode in place as unusable.
        try home.catalog.beginTransfer(
            writer.volume.name, fence: writer.fence,
            StandbyTransfer(
                begin: header.begin, logID: header.id, inPlace: mode == .inPlace))
        try writer.refresh()
        if mode == .inPlace {
            do { try target.prepare(for: begin.head.volumeSize) } catch { try fail(error) }
        }
        active = Active(
            target, log, mode, ContentProof(algorithm: begin.head.tagAlgorithm, key: key),
            TransferChecker(begin))
        active?.collection = collection
        report(.ready(Ready(nextSegment: 0)))
    }

    private func resume(_ begin: Begin, _ writer: VolumeWriter) throws {
        guard let staged, let key = begin.tagKey ?? writer.volume.tagKey else {
            throw Refusal(.storage, "the unfinished transfer is gone")
        }
        let target = try openTarget(writer, begin)
        let count = min(staged.seals.count, Int(clamping: begin.heldSegments))
        let log: StagingLogWriter
        do {
            log = try StagingLogWriter(
                resuming: writer.logPath, header: staged.header, end: staged.end(after: count))
        } catch {
            throw refusal(error)
        }
        if staged.header.mode == .inPlace {
            // The crash may have come before the file got its size.
            do { try target.prepare(for: begin.head.volumeSize) } catch { try fail(error) }
        }
        active = Active(
            target, log, staged.header.mode,
            ContentProof(algorithm: begin.head.tagAlgorithm, key: key),
            try staged.checker(after: count))
        report(.ready(Ready(nextSegment: UInt64(count))))
    }

    /// The root that an interrupted transfer was compared with; `nil` if this is another transfer.
    private func knownRoot(_ begin: Begin, _ writer: VolumeWriter) -> SHA256Digest? {
        guard writer.volume.transfer?.begin.transfer == begin.transfer else { return nil }
        return writer.map.compared(begin.comparedRoot)?.root
    }

    /// Opens the target before the first byte arrives, so that it cannot be mounted meanwhile.
    private func openTarget(_ writer: VolumeWriter, _ begin: Begin) throws -> Target {
        try checkTargetProblem()
        return try targeting {
            let target = try comparison?.target ?? writer.openTarget()
            if target.kind == .blockDevice { try writer.fit(target, to: begin.head.volumeSize) }
            return target
        }
    }

    // MARK: Receiving

    package func record(_ record: RecordHeader, _ bytes: RecordMemory, start: Int) throws {
        guard let active else { return }
        do { try active.checker.add(record) } catch { throw Refusal(.malformed, "\(error)") }
        // The standby checked its space only for the announced content.
        guard active.checker.content <= active.checker.begin.plannedContent else {
            throw Refusal(.limit, "more content than was announced")
        }
        var content: ContentProof.Content?
        if record.kind == .data {
            do {
                content = try active.proof.prove(
                    record, in: bytes.memory, at: start + record.prefixLength)
            } catch {
                throw Refusal(.corrupt, "\(error) at byte \(record.offset) of the volume")
            }
        }
        switch active.mode {
        case .staged:
            do {
                try active.log.append(
                    bytes.memory, at: start, count: record.prefixLength + record.storedLength)
            } catch {
                try fail(error)
            }
        case .inPlace:
            // Without the updates the target is read at the end.
            do { try active.collection?.add(record, content) } catch { active.collection = nil }
            do {
                if let content {
                    try active.target.write(
                        content.memory, from: content.offset, count: content.count,
                        at: record.offset)
                } else {
                    try active.target.zero(record.offset, count: record.length) {
                        (try? poll()) != nil
                    }
                }
            } catch {
                try fail(error)
            }
            // An unfinished run of zeros belongs to a session that is gone.
            try poll()
        }
    }

    func seal(_ seal: Seal) throws {
        guard let active else { return }
        do { try active.checker.seal(expecting: seal) } catch {
            throw Refusal(.corrupt, "\(error)")
        }
        if active.mode == .inPlace {
            do { try active.target.sync() } catch { try fail(error) }
        }
        do { try active.log.seal(seal) } catch { try fail(error) }
        report(.ack(Ack(durableSegments: active.checker.segmentIndex)))
    }

    func commit(_ record: GenerationRecord) throws {
        guard let active, let writer else { return }
        do { try active.checker.check(record, sender: peer) } catch {
            throw Refusal(.corrupt, "the generation is not what was announced and sent: \(error)")
        }
        guard try home.catalog.volume(writer.volume.name, of: peer) != nil else {
            throw Refusal(.notAuthorised, "there is no volume \(writer.volume.name) for this peer")
        }
        self.active = nil
        staged = nil
        var isCommitted = false
        let root = try? active.collection?.finish(writer.map, active.checker.begin)
        do {
            try storing {
                isCommitted = try writer.commit(
                    record, on: active.target, isHeld: comparison?.target === active.target,
                    root: root, tell)
            }
        } catch let divergence as TargetDivergence {
            throw try refusal(divergence, writer)
        } catch let refusal as Refusal where refusal.rule == "root-mismatch" {
            // The received segments are useless: they would give the same root again.
            try writer.abandon()
            throw refusal
        }
        note(writer)
        report(
            isCommitted
                ? .committed(Committed(number: record.head.number, id: record.id))
                : .prepared(Prepared(number: record.head.number, id: record.id)))
    }

    // MARK: Failing

    /// Drops a log that cannot be written: the target is unchanged. If only space is lacking, what
    /// is durable stays.
    private func fail(_ error: StagingLogError) throws {
        active = nil
        if case .failed = error { try writer?.abandon() }
        throw refusal(error)
    }

    /// Marks the volume suspect if the target cannot be written in place. If only space is lacking,
    /// what is durable stays, and the next send continues from there.
    private func fail(_ error: TargetError) throws {
        active = nil
        if !error.isLackOfRoom { try writer?.suspect("\(error)") }
        throw refusal(error)
    }

    func storing(_ body: () throws -> Void) throws {
        do { try body() } catch let error as TargetError {
            throw refusal(error)
        } catch let error as Redo.Failure {
            let isSuspect = writer?.volume.state == .suspect
            throw Refusal(.storage, rule: isSuspect ? .suspect : nil, "\(error)")
        }
    }

    /// Drops the staged transfer, because the target is not what it should be.
    private func refusal(
        _ divergence: TargetDivergence, _ writer: VolumeWriter
    ) throws -> Refusal {
        let isResync = writer.volume.transfer?.begin.head.kind == .resync
        try writer.abandon()
        guard !isResync else {
            return Refusal(.lineage, rule: .notCompared, "\(divergence)")
        }
        try home.catalog.markDiverged(writer.volume.name, reason: "\(divergence)")
        try writer.refresh()
        return Refusal(.lineage, rule: .diverged, "\(divergence)")
    }

    func refusal(_ error: TargetError) -> Refusal {
        if case .failed(let failure) = error {
            guard failure.isNoSpace else { return Refusal(.storage, "\(error)") }
            return Refusal(.space, "the target has no room \(consequence) (\(failure))")
        }
        return Refusal(.target, rule: error.refusalRule, "\(error)")
    }

    /// Effect of a full target, for the message.
    private var consequence: String {
        switch writer?.volume.state {
        case .applying:
            "for the generation, which is committed. Make room: the standby goes on by itself"
        case .initialising:
            "and holds a part of a generation, and no whole one. What has come in stays, and the next attempt goes on"
        default: "for the generation, and is what it was"
        }
    }

    func refusal(_ error: StagingLogError) -> Refusal {
        if case .noSpace = error { return Refusal(.space, "\(error)") }
        return Refusal(.storage, "\(error)")
    }
}
