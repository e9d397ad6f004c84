// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import Connection
internal import Digests
internal import HPKE
package import Platform
internal import Session
internal import Synchronization
internal import TLS
internal import Wire

/// One session of a sender, from the handshake to the end, in a separate process. It may first
/// serve peers that prove no key, one after the other.
///
/// It has two threads: one reads and writes frames, the other does their work. Bounded queues and a
/// fixed number of record buffers between them make a fast sender wait for a slow disk.
package struct Worker: ~Copyable {
    private static let bufferCount = 8

    private let home: StandbyHome
    private let software: String
    private let channel: Channel
    private let log: (JournalEntry) -> Void

    /// Makes a worker for a standby.
    ///
    /// - Parameter channel: to the supervisor.
    package init(
        home: StandbyHome, software: String, channel: consuming Channel,
        log: @escaping (JournalEntry) -> Void
    ) {
        self.home = home
        self.software = software
        self.channel = channel
        self.log = log
    }

    /// The result of a step is no longer needed.
    private struct SessionGone: Error {}

    private enum Job: Sendable {
        case step(ReceiverSession.Action)
        case record(RecordHeader, RecordMemory, start: Int)
    }

    /// The other side proved no known key, or left before it could.
    private struct Stranger: Error, CustomStringConvertible {
        var description: String
    }

    /// Serves connections until one had a session or there are no more.
    ///
    /// - Returns: whether only strangers caused errors.
    package func run() -> Bool {
        while true {
            guard let visit = Doorkeeper.visit(on: channel) else { return true }
            let address = visit.address
            let isQuiet = visit.isQuiet
            do {
                try serve(visit.takeSocket(), from: address)
                return true
            } catch let stranger as Stranger {
                if !isQuiet { log("\(address): \(stranger)") }
                Doorkeeper.foundStranger(on: channel)
            } catch {
                log("\(address): \(error)")
                return false
            }
        }
    }

    /// Serves a connection until it ends and reports the result in the journal; throws `Stranger`
    /// if the peer proved no known key.
    private func serve(_ socket: consuming OwnedDescriptor, from address: String) throws {
        let context = try TLSContext(.receiver, try home.presentIdentity())
        let pairing = try home.catalog.hasOpenInvitation(now: Clock.wall())
        let began = ContinuousClock.now
        let deadline = began + .seconds(Limits.greetingSeconds)
        let pinned = try home.catalog.peers().map(\.key)
        let connection: FrameConnection
        do throws(TLSError) {
            let session = try TLSSession(
                context, descriptor: socket.rawValue,
                offering: pairing ? [.replication, .pairing] : [.replication], accepting: pinned,
                deadline: deadline)
            connection = FrameConnection(session, socket: socket)
        } catch {
            throw Stranger(description: "\(error)")
        }
        guard connection.applicationProtocol == .replication else {
            let due = began + .seconds(Limits.enrolmentSeconds)
            var story = SessionStory(address, peer: "new")
            var isPaired = false
            do {
                try converse(
                    connection, &story, greetingDue: deadline, enrolmentDue: due,
                    isPaired: &isPaired)
            } catch {
                story.failed(error)
            }
            guard isPaired else {
                throw Stranger(description: story.session.reason ?? story.session.outcome)
            }
            return log(story.entry(connection.byteCount))
        }
        var isPaired = true
        let refusal = Doorkeeper.found(connection.peer, on: channel)
        let name = try home.catalog.peers().first { $0.key == connection.peer }?.name
        var story = SessionStory(address, peer: name ?? "\(connection.peer)")
        defer { log(story.entry(connection.byteCount)) }
        do {
            try converse(
                connection, &story, greetingDue: deadline, refusing: refusal, isPaired: &isPaired)
        } catch {
            story.failed(error)
        }
    }

    /// Records in the catalog, for `status`, why a session with this peer's volume failed;
    /// temporary reasons are left out.
    private func keep(_ refusal: Refusal, _ story: SessionStory, of peer: KeyID) {
        guard refusal.code != .busy, refusal.code != .stopping, let name = story.session.volume,
            (try? home.catalog.volume(name, of: peer)) ?? nil != nil
        else { return }
        try? home.catalog.noteRefusal(name, rule: refusal.rule, refusal.text)
    }

    /// - Parameters:
    ///   - enrolmentDue: when to end a session without a pinned key, whatever it does.
    ///   - refusal: the answer to HELLO if the peer has no session.
    ///   - isPaired: set to true once the peer's key is pinned.
    private func converse(
        _ connection: FrameConnection, _ story: inout SessionStory,
        greetingDue: ContinuousClock.Instant, enrolmentDue: ContinuousClock.Instant? = nil,
        refusing refusal: Refusal? = nil, isPaired: inout Bool
    ) throws {
        let jobs = BoundedQueue<Job>(capacity: Self.bufferCount + 8)
        let outcomes = BoundedQueue<IncomingTransfer.Outcome>(capacity: 1024)
        let buffers = BoundedQueue<RecordMemory>(capacity: Self.bufferCount)
        for _ in 0..<Self.bufferCount { buffers.push(RecordMemory()) }
        let notifier = try Notifier()
        let report: @Sendable (IncomingTransfer.Outcome) -> Void = { outcome in
            // If the queue is full, the network is slow; skip this progress, the next will do.
            if case .progress = outcome, outcomes.isFull { return }
            outcomes.push(outcome)
            notifier.notify()
        }
        let peer = connection.peer
        let isGone = Atomic(false)
        let volumes = Thread("volume") { [home] in
            let transfer = IncomingTransfer(
                home, peer: peer,
                poll: { if isGone.load(ordering: .relaxed) { throw SessionGone() } }, report: report
            )
            while let job = jobs.pop() {
                do {
                    try Self.perform(job, transfer)
                } catch {
                    report(.refuse(Self.refusal(for: error)))
                    jobs.close(discarding: true)
                }
                if case .record(_, let memory, _) = job {
                    buffers.push(memory)
                    report(.memory)
                }
            }
        }
        // The volume's thread ends its step, unless it is applying. Do this before the peer learns
        // of the end, so that it finds the volume free when it returns.
        func leave() {
            isGone.store(true, ordering: .relaxed)
            jobs.close(discarding: true)
        }
        defer {
            leave()
            outcomes.close(discarding: true)
            volumes.join()
        }
        var session = ReceiverSession(
            isPairing: enrolmentDue != nil, software: software, refusing: refusal)
        var isGreeted = false
        var lookDue = ContinuousClock.now + .seconds(1)
        while true {
            while let outcome = outcomes.tryPop() {
                if case .refuse = outcome { leave() }
                if case .paired = outcome {
                    isPaired = true
                    // The peer stays enrolled even if it already has all its sessions.
                    _ = Doorkeeper.found(peer, on: channel)
                }
                story.note(outcome)
                switch outcome {
                case .note(let text): log("\(story.session.address): \(text)")
                case .refuse(let refusal): return try end(.broken(refusal), &story, connection)
                default:
                    if let message = session.answer(to: outcome) { try connection.send(message) }
                }
            }
            if let enrolmentDue, .now >= enrolmentDue {
                let refusal = Refusal(.invitation, "the enrolment took too long")
                return try end(.broken(refusal), &story, connection)
            }
            // Without an open invitation, an enrolment that has not sent its secret is pointless.
            if session.isBeforePairing, .now >= lookDue {
                guard try home.catalog.hasOpenInvitation(now: Clock.wall()) else {
                    let refusal = Refusal(.invitation, "no invitation is open any more")
                    return try end(.broken(refusal), &story, connection)
                }
                lookDue = .now + .seconds(1)
            }
            let incoming: FrameConnection.Incoming?
            do {
                incoming = try connection.receive { buffers.tryPop() }
            } catch let error as WireError {
                leave()
                return try end(.broken(Refusal(.malformed, "\(error)")), &story, connection)
            }
            guard let incoming else {
                guard isGreeted || .now < greetingDue else { throw TLSError.timedOut }
                let due = enrolmentDue.map { session.isBeforePairing ? min($0, lookDue) : $0 }
                try connection.wait(
                    notifier, reading: !buffers.isEmpty, until: isGreeted ? due : greetingDue)
                continue
            }
            do throws(SessionError) {
                guard try take(incoming, &session, &story, jobs, connection) else {
                    leave()
                    connection.close()
                    return story.closed(isIdle: session.isIdle)
                }
                isGreeted = true
            } catch {
                leave()
                return try end(error, &story, connection)
            }
        }
    }

    private static func perform(_ job: Job, _ transfer: IncomingTransfer) throws {
        switch job {
        case .step(let action): try transfer.perform(action)
        case .record(let record, let memory, let start):
            try transfer.record(record, memory, start: start)
        }
    }

    private static func refusal(for error: any Error) -> Refusal {
        switch error {
        case let refusal as Refusal: return refusal
        case let error as CatalogError:
            switch error.kind {
            case .fenced:
                return Refusal(.busy, rule: .fenced, "a newer session has taken the volume")
            case .groupMismatch:
                return Refusal(.malformed, rule: .groupMismatch, "\(error)")
            case .busy: return Refusal(.busy, "\(error)")
            case .noRoom: return Refusal(.space, "\(error)")
            case .readOnly: return Refusal(.space, rule: .stateReadOnly, "\(error)")
            default: return Refusal(.storage, "\(error)")
            }
        case let error as SystemCallError where error.isNoSpace:
            return Refusal(.space, error.sentence)
        case let error as any RuledError where error.refusalRule == .space:
            return Refusal(.space, "\(error)")
        default: return Refusal(.storage, "\(error)")
        }
    }

    /// Takes one frame; false at the end of the stream, or if the answer does not reach the source any more.
    private func take(
        _ incoming: FrameConnection.Incoming, _ session: inout ReceiverSession,
        _ story: inout SessionStory, _ jobs: BoundedQueue<Job>, _ connection: FrameConnection
    ) throws(SessionError) -> Bool {
        let action: ReceiverSession.Action
        switch incoming {
        case .closed:
            return false
        case .record(let record, let memory, let start):
            _ = try session.receive(.record(record), type: .record)
            jobs.push(.record(record, memory, start: start))
            return true
        case .frame(let type, let payload):
            let message: SenderMessage?
            do {
                message = try payload.withRawSpan { (span) throws(WireError) in
                    try SenderMessage(type, span)
                }
            } catch {
                throw .broken(Refusal(.malformed, "\(error)"))
            }
            guard let message else {
                throw .broken(Refusal(.malformed, "frame \(type) is not a sender's"))
            }
            action = try session.receive(message, type: type)
            story.note(action)
        }
        switch action {
        case .none, .record: break
        case .welcome(let welcome):
            do {
                try connection.send(welcome)
                if Features(rawValue: welcome.features).contains(.exportKey) {
                    try connection.send(ExportKey(key: try home.exportKey().publicKey))
                }
            } catch let error as ExportKeyFileError {
                throw .broken(Refusal(.storage, "\(error)"))
            } catch {
                // The source has gone meanwhile.
                return false
            }
        case .open, .pair, .begin, .abandon, .compare, .ask, .current, .seal, .commit:
            jobs.push(.step(action))
        case .stopped(let refusal): throw .refused(refusal)
        }
        return true
    }

    private func end(
        _ error: SessionError, _ story: inout SessionStory, _ connection: FrameConnection
    ) throws {
        defer {
            // A peer that retries must not hold the places of others meanwhile.
            if case .broken(let refusal) = error, refusal.rule == "sessions" {
                connection.close(within: .milliseconds(200))
            } else {
                connection.close()
            }
        }
        switch error {
        case .broken(let refusal):
            story.ended("refused", refusal)
            keep(refusal, story, of: connection.peer)
            try connection.send(refusal)
        case .refused(let refusal):
            story.ended("stopped", refusal)
            keep(refusal, story, of: connection.peer)
        }
    }
}
