// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
package import Platform
internal import Session
package import Wire

/// Accepts connections, and gives each that `Admission` has a place for to a worker process.
///
/// A worker that traps, leaks or is held up ends one session and nothing else. Nobody gets a worker before a whole
/// ClientHello is there: a silent or trickling connection costs a descriptor, for a few seconds. A worker whose connection
/// turned out to be a stranger's is given the next one, so that strangers do not cost the start of a process each.
package final class Supervisor {
    /// The greatest ClientHello: one TLS record.
    private static let helloLimit = 5 + 16_384
    /// How long nothing is looked at while nothing happens, and while somebody waits for another's place.
    private static let pauseMilliseconds = (calm: 500, contended: 20)
    /// How long a worker may wait for a connection, and one whose connection was ended may take to say so.
    private static let idleLimit = nanosecondsPerSecond
    /// How many strangers a worker meets: what one of them may have spoilt does not last.
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
    /// By process.
    private var workers: [Int32: Started] = [:]
    private var recovery: Int32?
    private var strangers = Strangers()
    private var manager = ServiceManager()

    /// Where a connection comes from.
    private struct Origin {
        let address: String
        let network: String
    }

    /// A connection that has no worker yet.
    private final class Waiting {
        let socket: OwnedDescriptor
        let from: Origin
        /// Bytes that must be there before it is looked at again; nil once its ClientHello is whole.
        var wanted: Int? = 5

        init(_ socket: consuming OwnedDescriptor, from: Origin) {
            self.socket = socket
            self.from = from
        }
    }

    /// A worker.
    private final class Started {
        enum Work {
            /// It waits for a connection since then; later than `idleLimit` it has none.
            case idle(since: UInt64)
            /// It serves a connection whose peer has proved nothing yet, of which this is another descriptor.
            case stranger(Waiting, connection: Int)
            /// The same, of a connection that was ended then to make room.
            case ended(Waiting, at: UInt64)
            /// Its peer has proved a key; what comes of it is told by its end.
            case peer(Origin, connection: Int)
        }

        /// Nothing once the worker is to end.
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

        /// Waits for the next connection, unless it has met enough strangers.
        func rest(after limit: Int) {
            strangers += 1
            work = .idle(since: Clock.monotonic())
            if strangers >= limit { channel = nil }
        }

        /// Of the connection that it serves.
        var origin: Origin? {
            switch work {
            case .idle: nil
            case .stranger(let socket, _), .ended(let socket, _): socket.from
            case .peer(let origin, _): origin
            }
        }

        /// Whether something is to be heard from it.
        var isHeard: Bool {
            switch work {
            case .idle, .peer: false
            case .stranger, .ended: true
            }
        }
    }

    /// - Parameters:
    ///   - listener: a listening socket.
    ///   - arguments: what this program is told, beside its command, when it is started as `worker`, which serves
    ///     descriptor 3, or as `recover`.
    ///   - checkState: throws if the state can be used no more.
    ///   - interrupted: the volumes with a committed generation that is not on its target, and that no process has.
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

    /// Serves until SIGTERM or SIGINT comes in on `signals`. The service manager hears that it can be used, that it still goes
    /// round, and that it stops.
    ///
    /// - Parameter held: volumes that another process had when they were to be recovered, such as a worker of an
    ///   earlier run that has not ended yet. A process of their own waits for that.
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
            // poll(2) passes over what is no descriptor.
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

    /// Ends the service where no worker could open the state any more: whoever has started it is to see that, instead of
    /// connections that are reset.
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

    /// Lets a connection wait for a place if its ClientHello is whole.
    private func look(at connection: Int) {
        guard let new = waiting[connection], let wanted = new.wanted else { return }
        // Readable without what is waited for: the stream has ended, and would be readable for ever.
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
                // The worker sees its connection end, and says so.
                Socket.shutDown(socket.socket.rawValue)
                worker.work = .ended(socket, at: now)
                noteStranger(socket.from)
            }
        }
    }

    /// Gives a connection to a worker, one that waits for it or a new one.
    private func start(_ program: String, _ connection: Int, _ new: Waiting) {
        let isQuiet = strangers.isQuiet(
            new.from.network, open: admission.unauthenticated(from: new.from.network) - 1,
            now: Clock.monotonic())
        do {
            let worker = try workers.values.first(where: \.isIdle) ?? spawn(program)
            worker.work = .stranger(new, connection: connection)
            let isTaken = worker.send(new.socket.rawValue, from: new.from.address, isQuiet: isQuiet)
            // One that is gone is collected soon.
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

    /// Ends the workers that have had no work for a while, and those that hold on to a connection that was ended.
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

    /// Hears what a worker has found.
    private func hear(_ process: Int32) {
        guard let worker = workers[process] else { return }
        let finding = worker.finding()
        switch (finding, worker.work) {
        case (.peer(let key), .stranger(let socket, let connection)):
            let answer = admission.authenticate(connection, as: key, now: Clock.monotonic())
            worker.answer(answer)
            // One that is told to come back keeps its place until it is gone, and may lose it.
            if answer == .session { worker.work = .peer(socket.from, connection: connection) }
        case (.peer, _): worker.answer(.gone)
        case (.stranger, .stranger(let socket, let connection)):
            admission.leave(connection)
            noteStranger(socket.from)
            worker.rest(after: Self.strangerLimit)
        case (.stranger, _): worker.rest(after: Self.strangerLimit)
        // It is gone, and collected soon.
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

    /// - Returns: whether one has ended.
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

    /// Ends the workers: what they have acknowledged is durable, and what they have not is sent again.
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
