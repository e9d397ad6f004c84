// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// A shell script that does something, and undoes it as soon as this process lets go or is gone, however it
/// ended.
///
/// The script runs in a process of its own. It does its work, prints "ready" and reads from descriptor 3, which
/// ends when this process closes it or is killed; then it undoes its work. Only the loss of both processes at
/// once, as in a power cut, leaves the work done.
package final class Guardian {
    private let piped: PipedChild
    private let line: String
    private var control: OwnedDescriptor?
    private var errors: [UInt8] = []

    /// Runs the first half of a script.
    ///
    /// - Parameters:
    ///   - script: for `sh -c`; `$1` and so on are `arguments`. It must print "ready" when the first half is
    ///     done, then read from descriptor 3 to its end.
    ///   - name: what it is called in errors.
    ///   - lock: a lock that the script keeps for as long as it runs.
    ///   - seconds: how long to wait for the first half. Then this throws, and the script undoes its work when it comes to
    ///     that; nobody kills it. nil waits until it is done, as for everything that changes devices.
    /// - Throws: what the script has said, if it ended before it was ready.
    package init(
        _ name: String, script: String, _ arguments: [String], holding lock: FileLock? = nil,
        seconds: Int?
    ) throws(CommandError) {
        line = ([name] + arguments).map(Command.quoted).joined(separator: " ")
        do throws(SystemCallError) {
            let pipe = try Pipe()
            let theirs = fcntl(pipe.read.rawValue, F_DUPFD_CLOEXEC, 10)
            guard theirs >= 0 else { throw SystemCallError("fcntl", "F_DUPFD_CLOEXEC") }
            defer { _ = Glibc.close(theirs) }
            piped = try PipedChild(
                "sh", ["-c", "trap '' INT TERM HUP PIPE\n" + script, name] + arguments,
                control: theirs, held: lock?.descriptor)
            control = pipe.takeWritingEnd()
        } catch {
            throw CommandError(command: line, cause: .notStarted(error), message: "")
        }
        let said = try drain(seconds: seconds) { $0.contains(0x0A) }
        guard said.starts(with: Array("ready\n".utf8)) else { throw try ending(seconds: seconds) }
    }

    deinit {
        // The script undoes its work now. Who let go of it does not wait for that longer than for it to be
        // collected; a script that needs more is left to itself.
        control = nil
        for _ in 0..<500 where piped.child.poll() == nil { usleep(10_000) }
    }

    /// Lets go, and waits until the work is undone.
    ///
    /// - Parameter seconds: how long to wait, nil as long as it takes. The script is never killed.
    package func finish(seconds: Int?) throws(CommandError) {
        guard control != nil else { return }
        control = nil
        _ = try drain(seconds: seconds) { _ in false }
        let error = try ending(seconds: seconds)
        guard error.cause == .exited(0) else { throw error }
    }

    /// Reads its output until there is enough of it, or it has ended.
    private func drain(
        seconds: Int?, until isEnough: ([UInt8]) -> Bool
    ) throws(CommandError) -> [UInt8] {
        let limit = Limit(seconds, line)
        var output: [UInt8] = []
        var open = [0, 1]
        while !open.isEmpty, !isEnough(output) {
            try wait(limit)
            let ready = Socket.waitReadable(
                open.map { piped.descriptor($0) }, milliseconds: 1000)
            for position in ready.reversed() {
                let part = piped.read(open[position])
                if open[position] == 0 { output += part } else { errors += part }
                if part.isEmpty { open.remove(at: position) }
            }
        }
        return output
    }

    private func ending(seconds: Int?) throws(CommandError) -> CommandError {
        _ = try drain(seconds: seconds) { _ in false }
        let limit = Limit(seconds, line)
        while true {
            switch piped.child.poll() {
            case .exited(let status)?: return failure(.exited(status))
            case .signalled(let signal)?: return failure(.signalled(signal))
            case nil: usleep(2000)
            }
            try wait(limit)
        }
    }

    /// How long something is waited for: until a moment, or for ever, and then it is told.
    private final class Limit {
        let seconds: Int?
        let due: UInt64
        var patience: Patience

        init(_ seconds: Int?, _ line: String) {
            self.seconds = seconds
            due = Clock.monotonic() + UInt64(seconds ?? 0) * nanosecondsPerSecond
            patience = Patience(with: line)
        }
    }

    private func wait(_ limit: Limit) throws(CommandError) {
        guard let seconds = limit.seconds else { return limit.patience.tell() }
        if Clock.monotonic() >= limit.due { throw failure(.timedOut(seconds: seconds)) }
    }

    private func failure(_ cause: CommandError.Cause) -> CommandError {
        CommandError(command: line, cause: cause, message: Command.oneLine(errors))
    }
}
