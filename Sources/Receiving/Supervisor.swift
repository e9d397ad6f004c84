// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Platform
package import Wire

/// Accepts connections, limits them, and gives each to a worker process of its own.
///
/// A worker that traps, leaks or is held up ends one session and nothing else. Nobody gets a worker before a whole
/// ClientHello is there: a silent or trickling connection costs a descriptor, for a few seconds.
package final class Supervisor {
    /// Connections that have not sent a ClientHello yet.
    private static let waitingLimit = 512
    /// Workers at once, and from one address.
    private static let workerLimit = 64
    private static let workersPerAddress = 16
    /// The greatest ClientHello: one TLS record.
    private static let helloLimit = 5 + 16_384
    /// In the place of an address.
    private static let recovery = "recovery"
    private static let greetingNanoseconds =
        UInt64(Limits.greetingSeconds) * nanosecondsPerSecond

    private let listener: OwnedDescriptor
    private let arguments: [String]
    private let log: (String) -> Void
    private var retries: Retries
    private var waiting: [Waiting] = []
    /// What was started, and for whom: an address, or "recovery".
    private var workers: [Int32: String] = [:]
    private var strangers = Strangers()

    /// A connection without a whole ClientHello.
    private final class Waiting {
        let socket: OwnedDescriptor
        let from: String
        let due: UInt64
        /// Bytes that must be there before it is looked at again.
        var wanted = 5

        init(_ socket: consuming OwnedDescriptor, from: String, due: UInt64) {
            self.socket = socket
            self.from = from
            self.due = due
        }
    }

    /// - Parameters:
    ///   - listener: a listening socket.
    ///   - arguments: what this program is told, beside its command, when it is started as `worker`, which serves
    ///     descriptor 3, or as `recover`.
    ///   - interrupted: the volumes with a committed generation that is not on its target, and that no process has.
    package init(
        listener: consuming OwnedDescriptor, arguments: [String],
        interrupted: @escaping () -> [VolumeName], log: @escaping (String) -> Void
    ) {
        self.listener = listener
        self.arguments = arguments
        retries = Retries(interrupted)
        self.log = log
    }

    /// Serves until SIGTERM or SIGINT comes in on `signals`.
    ///
    /// - Parameter held: volumes that another process had when they were to be recovered, such as a worker of an
    ///   earlier run that has not ended yet. A process of their own waits for that.
    package func run(signals: CInt, held: [VolumeName]) throws {
        let program = try Process.executablePath
        if !held.isEmpty {
            start(program, "recover", held.map(\.text), for: Self.recovery)
        }
        while true {
            let descriptors = [signals, listener.rawValue] + waiting.map { $0.socket.rawValue }
            let ready = Socket.waitReadable(descriptors, milliseconds: 500)
            if reap() { retries.lookSoon(now: Clock.monotonic()) }
            if ready.contains(0), Process.takeSignal(from: signals) != nil { return stop() }
            for index in ready.reversed() where index >= 2 { look(at: index - 2, program) }
            if ready.contains(1) { acceptAll() }
            let now = Clock.monotonic()
            waiting.removeAll { $0.due < now }
            if !workers.values.contains(Self.recovery) {
                let due = retries.due(now: now)
                if !due.isEmpty { start(program, "recover", due.map(\.text), for: Self.recovery) }
            }
        }
    }

    private func acceptAll() {
        while let connection = Socket.accept(listener.rawValue) {
            let from = connection.from
            let socket = connection.takeDescriptor()
            // The oldest one has had its chance.
            if waiting.count >= Self.waitingLimit { waiting.removeFirst() }
            let new = Waiting(
                socket, from: from, due: Clock.monotonic() + Self.greetingNanoseconds)
            Socket.setLowWater(new.socket.rawValue, new.wanted)
            waiting.append(new)
        }
    }

    /// Gives a connection to a worker if its ClientHello is whole.
    private func look(at index: Int, _ program: String) {
        let connection = waiting[index]
        guard let bytes = Socket.peek(connection.socket.rawValue, count: Self.helloLimit) else {
            waiting.remove(at: index)
            return
        }
        // Readable without what is waited for: the stream has ended, and would be readable for ever.
        guard bytes.count >= connection.wanted else {
            waiting.remove(at: index)
            return
        }
        let length = Int(bytes[3]) << 8 | Int(bytes[4])
        // Record type "handshake", any 3.x; everything else is not TLS.
        guard bytes[0] == 22, bytes[1] == 3, length > 0, length <= Self.helloLimit - 5 else {
            waiting.remove(at: index)
            return
        }
        guard bytes.count >= 5 + length else {
            connection.wanted = 5 + length
            Socket.setLowWater(connection.socket.rawValue, connection.wanted)
            return
        }
        Socket.setLowWater(connection.socket.rawValue, 1)
        waiting.remove(at: index)
        let fromThere = workers.values.filter { $0 == connection.from }.count
        let isQuiet = strangers.isQuiet(
            connection.from, open: fromThere, now: Clock.monotonic())
        guard workers.count < Self.workerLimit, fromThere < Self.workersPerAddress else {
            if !isQuiet { log("\(connection.from): too many sessions; closed") }
            return noteStranger(from: connection.from)
        }
        start(
            program, "worker", ["--from", connection.from] + (isQuiet ? ["--quiet"] : []),
            for: connection.from, passing: connection.socket.rawValue)
    }

    private func start(
        _ program: String, _ command: String, _ more: [String], for whom: String,
        passing descriptor: CInt? = nil
    ) {
        do {
            let process = try Process.spawn(
                program, [command] + arguments + more, passing: descriptor)
            workers[process] = whom
        } catch {
            log("\(whom): \(error)")
        }
    }

    /// - Returns: whether one has ended.
    private func reap() -> Bool {
        var hasEnded = false
        while let (process, ending) = Process.reap() {
            guard let from = workers.removeValue(forKey: process) else { continue }
            hasEnded = true
            switch ending {
            case .signalled(let signal):
                log("\(from): the worker \(process) was ended by signal \(signal)")
            case .exited(Worker.strangerExit): noteStranger(from: from)
            case .exited: break
            }
        }
        return hasEnded
    }

    private func noteStranger(from address: String) {
        if strangers.note(address, now: Clock.monotonic()) {
            log("\(address): further strangers are not told of in this minute")
        }
    }

    /// Ends the workers: what they have acknowledged is durable, and what they have not is sent again.
    private func stop() {
        log("stopping")
        for process in workers.keys { Process.send(15, to: process) }
        let due = Clock.monotonic() + 4 * nanosecondsPerSecond
        while !workers.isEmpty, Clock.monotonic() < due {
            _ = Socket.waitReadable([], milliseconds: 20)
            _ = reap()
        }
        for process in workers.keys { Process.send(9, to: process) }
    }
}
