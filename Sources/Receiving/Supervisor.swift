// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
package import Platform
internal import Session
package import Wire

/// Accepts connections and passes each that gets a place from `Admission` to a worker process.
///
/// A worker that traps, leaks or hangs ends only its session. A connection gets a worker only once
/// its ClientHello is complete: a silent or trickling connection costs one descriptor for a few
/// seconds. A worker whose peer proved to be a stranger gets the next connection, so strangers do
/// not each cost a process start.
package final class Supervisor {
    /// Largest ClientHello in bytes: one TLS record.
    private static let helloLimit = 5 + 16_384
    /// Poll interval while idle, and while a connection waits for another's place.
    private static let pauseMilliseconds = (calm: 500, contended: 20)
    /// How long a worker may wait for a connection, or take to report one that was ended.
    private static let idleLimit = nanosecondsPerSecond
    /// Number of strangers that a worker serves; this limits any damage that one of them caused.
    private static let strangerLimit = 1000

    private let listener: OwnedDescriptor
    private let arguments: [String]
    private let checkState: () throws -> Void
    private let log: (JournalEntry) -> Void
    private var checked: UInt64 = 0
    private var retries: Retries
    private var admission = Admission()
    private var lastConnection = 0
    private var waiting: [Int: Waiting] = [:]
    /// Workers by process id.
    private var workers: [Int32: Started] = [:]
    private var recovery: Int32?
    private var strangers = Strangers()
    private var manager = ServiceManager()

    /// Origin of a connection.
    private struct Origin {
        let address: String
        let network: String
    }

    /// A connection without a worker.
    private final class Waiting {
        let socket: OwnedDescriptor
        let from: Origin
        /// Number of bytes that must arrive before the next look; `nil` once the ClientHello is
        /// complete.
        var wanted: Int? = 5

        init(_ socket: consuming OwnedDescriptor, from: Origin) {
            self.socket = socket
            self.from = from
        }
    }

    /// A worker.
    private final class Started {
        enum Work {
            /// Idle since this time; it ends after `idleLimit`.
            case idle(since: UInt64)
            /// Serves a connection without a proved key; `Waiting` holds another descriptor of that
            /// connection.
            case stranger(Waiting, connection: Int)
            /// Serves such a connection, which was ended at this time to make room.
            case ended(Waiting, at: UInt64)
            /// Serves a peer with a proved key; the end of the process reports the result.
            case peer(Origin, connection: Int)
        }

        /// `nil` once the worker must end.
        var channel: Channel?
        var work: Work
        var strangers = 0

        init(_ channel: consuming Channel, _ work: Work) {
            self.channel = consume channel
            self.work = work
        }

        var isIdle: Bool {
            if case .idle = work { return channel != nil }
            return false
        }

        var descriptor: CInt? {
            switch channel {
            case .some(let channel): channel.rawValue
            case .none: nil
            }
        }

        func send(_ socket: CInt, from address: String, isQuiet: Bool) -> Bool {
            switch channel {
            case .some(let channel):
                Doorkeeper.send(socket, from: address, isQuiet: isQuiet, on: channel)
            case .none: false
            }
        }

        func finding() -> Doorkeeper.Finding? {
            switch channel {
            case .some(let channel): Doorkeeper.finding(on: channel)
            case .none: nil
            }
        }

        func answer(_ answer: Admission.Answer) {
            switch channel {
            case .some(let channel): Doorkeeper.answer(answer, on: channel)
            case .none: break
            }
        }

        /// Makes the worker idle, unless it has served enough strangers.
        func rest(after limit: Int) {
            strangers += 1
            work = .idle(since: Clock.monotonic())
            if strangers >= limit { channel = nil }
        }

        /// Origin of the connection that it serves.
        var origin: Origin? {
            switch work {
            case .idle: nil
            case .stranger(let socket, _), .ended(let socket, _): socket.from
            case .peer(let origin, _): origin
            }
        }

        /// Whether a message from it is expected.
        var isHeard: Bool {
            switch work {
            case .idle, .peer: false
            case .stranger, .ended: true
            }
        }
    }

    /// - Parameters:
    ///   - listener: a listening socket.
    ///   - arguments: arguments for this program, beside the command, when it is started as
    ///     `worker`, which serves descriptor 3, or as `recover`.
    ///   - checkState: throws if the state can no longer be used.
    ///   - interrupted: the volumes with a committed generation that is not on its target and that
    ///     no process holds.
    package init(
        listener: consuming OwnedDescriptor, arguments: [String],
        checkState: @escaping () throws -> Void, interrupted: @escaping () -> [VolumeName],
        log: @escaping (JournalEntry) -> Void
    ) {
        self.listener = listener
        self.arguments = arguments
        self.checkState = checkState
        retries = Retries(interrupted)
        self.log = log
    }

    /// Serves until SIGTERM or SIGINT arrives on `signals`. It reports readiness, liveness and the
    /// stop to the service manager.
    ///
    /// - Parameter held: volumes that another process held at recovery, such as a worker of an
    ///   earlier run. A separate process waits for them.
    package func run(signals: CInt, held: [VolumeName]) throws {
        let program = try Process.executablePath
        if !held.isEmpty { recover(program, held) }
        manager.tell(.ready)
        while true {
            manager.round(now: Clock.monotonic())
            let hellos = waiting.filter { $0.value.wanted != nil }
            let heard = workers.filter { $0.value.isHeard }
            let connections = Array(hellos.keys)
            let processes = Array(heard.keys)
            // poll(2) ignores negative descriptors.
            let descriptors =
                [signals, listener.rawValue] + processes.map { heard[$0]?.descriptor ?? -1 }
                + connections.map { hellos[$0]?.socket.rawValue ?? -1 }
            let pause = Self.pauseMilliseconds
            let ready = Socket.waitReadable(
                descriptors, milliseconds: admission.isContended ? pause.contended : pause.calm)
            if reap() { retries.lookSoon(now: Clock.monotonic()) }
            try checkNow()
            if ready.contains(0), Process.takeSignal(from: signals) != nil { return stop() }
            for index in ready where index >= 2 {
                let position = index - 2
                if position < processes.count {
                    hear(processes[position])
                } else {
                    look(at: connections[position - processes.count])
                }
            }
            if ready.contains(1) { acceptAll() }
            let now = Clock.monotonic()
            for connection in admission.overdue(now: now) { waiting[connection] = nil }
            while let step = admission.next(now: now) { take(step, program, now) }
            tidy(now)
            if recovery == nil {
                let due = retries.due(now: now)
                if !due.isEmpty { recover(program, due) }
            }
        }
    }

    /// Ends the service if no worker could open the state: the service manager should see that,
    /// rather than clients see resets.
    private func checkNow() throws {
        guard Clock.monotonic() >= checked + nanosecondsPerSecond else { return }
        checked = Clock.monotonic()
        do { try checkState() } catch {
            stop()
            throw error
        }
    }

    private func acceptAll() {
        while let connection = Socket.accept(listener.rawValue) {
            let from = Origin(address: connection.from, network: connection.network)
            let new = Waiting(connection.takeDescriptor(), from: from)
            Socket.setLowWater(new.socket.rawValue, 5)
            lastConnection += 1
            waiting[lastConnection] = new
            let closed = admission.arrive(
                lastConnection, from: from.network, now: Clock.monotonic())
            if let closed { waiting[closed] = nil }
        }
    }

    private func drop(_ connection: Int) {
        waiting[connection] = nil
        admission.leave(connection)
    }

    /// Adds a connection to those waiting for a place once its ClientHello is complete.
    private func look(at connection: Int) {
        guard let new = waiting[connection], let wanted = new.wanted else { return }
        // Readable without the wanted bytes means that the stream has ended; it would stay readable
        // forever.
        guard let bytes = Socket.peek(new.socket.rawValue, count: Self.helloLimit),
            bytes.count >= wanted, wanted >= 5
        else { return drop(connection) }
        let length = Int(bytes[3]) << 8 | Int(bytes[4])
        // Record type "handshake", any 3.x; everything else is not TLS.
        guard bytes[0] == 22, bytes[1] == 3, length > 0, length <= Self.helloLimit - 5 else {
            return drop(connection)
        }
        guard bytes.count >= 5 + length else {
            new.wanted = 5 + length
            return Socket.setLowWater(new.socket.rawValue, 5 + length)
        }
        Socket.setLowWater(new.socket.rawValue, 1)
        new.wanted = nil
        admission.complete(connection)
    }

    private func take(_ step: Admission.Step, _ program: String, _ now: UInt64) {
        switch step {
        case .start(let connection):
            guard let new = waiting.removeValue(forKey: connection) else {
                return admission.leave(connection)
            }
            start(program, connection, new)
        case .end(let connection):
            for worker in workers.values {
                guard case .stranger(let socket, connection) = worker.work else { continue }
                // The worker sees the end of its connection and reports it.
                Socket.shutDown(socket.socket.rawValue)
                worker.work = .ended(socket, at: now)
                noteStranger(socket.from)
            }
        }
    }

    /// Passes a connection to an idle worker or a new one.
    private func start(_ program: String, _ connection: Int, _ new: Waiting) {
        let isQuiet = strangers.isQuiet(
            new.from.network, open: admission.unauthenticated(from: new.from.network) - 1,
            now: Clock.monotonic())
        do {
            let worker = try workers.values.first(where: \.isIdle) ?? spawn(program)
            worker.work = .stranger(new, connection: connection)
            let isTaken = worker.send(new.socket.rawValue, from: new.from.address, isQuiet: isQuiet)
            // A worker that is gone is reaped soon.
            if !isTaken { worker.channel = nil }
        } catch {
            admission.leave(connection)
            log("\(new.from.address): \(error)")
        }
    }

    private func spawn(_ program: String) throws -> Started {
        let pair = try Channel.pair()
        let process = try Process.spawn(
            program, ["worker"] + arguments, passing: pair.far.rawValue)
        let worker = Started(pair.takeNear(), .idle(since: Clock.monotonic()))
        workers[process] = worker
        return worker
    }

    /// Ends workers that have been idle too long, and those that cling to a connection that was
    /// ended.
    private func tidy(_ now: UInt64) {
        for (process, worker) in workers {
            switch worker.work {
            case .idle(let since) where since + Self.idleLimit < now: worker.channel = nil
            case .ended(_, let since) where since + Self.idleLimit < now:
                Process.send(9, to: process)
            default: break
            }
        }
    }

    /// Receives a worker's result.
    private func hear(_ process: Int32) {
        guard let worker = workers[process] else { return }
        let finding = worker.finding()
        switch (finding, worker.work) {
        case (.peer(let key), .stranger(let socket, let connection)):
            let answer = admission.authenticate(connection, as: key, now: Clock.monotonic())
            worker.answer(answer)
            // A peer with a busy answer keeps its place until it leaves, and may lose it.
            if answer == .session { worker.work = .peer(socket.from, connection: connection) }
        case (.peer, _): worker.answer(.gone)
        case (.stranger, .stranger(let socket, let connection)):
            admission.leave(connection)
            noteStranger(socket.from)
            worker.rest(after: Self.strangerLimit)
        case (.stranger, _): worker.rest(after: Self.strangerLimit)
        // It is gone and is reaped soon.
        case (nil, _): worker.channel = nil
        }
    }

    private func recover(_ program: String, _ volumes: [VolumeName]) {
        do {
            recovery = try Process.spawn(
                program, ["recover"] + arguments + volumes.map(\.text))
        } catch {
            log("recovery: \(error)")
        }
    }

    /// - Returns: whether a worker has ended.
    private func reap() -> Bool {
        var hasEnded = false
        while let (process, ending) = Process.reap() {
            if process == recovery {
                recovery = nil
                hasEnded = true
                if case .signalled(let signal) = ending { logSignal("recovery", process, signal) }
                continue
            }
            guard let worker = workers.removeValue(forKey: process) else { continue }
            hasEnded = true
            switch worker.work {
            case .stranger(_, let connection), .peer(_, let connection):
                admission.leave(connection)
            case .ended: continue
            case .idle: break
            }
            if case .signalled(let signal) = ending {
                logSignal(worker.origin?.address ?? "nobody", process, signal)
            }
        }
        return hasEnded
    }

    private func logSignal(_ whom: String, _ process: Int32, _ signal: Int32) {
        log("\(whom): the worker \(process) was ended by signal \(signal)")
    }

    private func noteStranger(_ from: Origin) {
        if strangers.note(from.network, now: Clock.monotonic()) {
            log("\(from.address): further strangers are not told of in this minute")
        }
    }

    /// Ends the workers: what they acknowledged is durable, the rest is sent again.
    private func stop() {
        manager.tell(.stopping)
        log("stopping")
        func children() -> [Int32] { Array(workers.keys) + (recovery.map { [$0] } ?? []) }
        for process in children() { Process.send(15, to: process) }
        let due = Clock.monotonic() + 4 * nanosecondsPerSecond
        while !children().isEmpty, Clock.monotonic() < due {
            _ = Socket.waitReadable([], milliseconds: 20)
            _ = reap()
        }
        for process in children() { Process.send(9, to: process) }
    }
}
