// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// A shell script that does something and undoes it as soon as this process releases it or ends in
/// any way.
///
/// The script runs in a separate process. It does its work, prints "ready" and reads from
/// descriptor 3, which ends when this process closes it or is killed; then the script undoes its
/// work. The work stays done only if both processes are lost at once, as in a power cut.
package final class Guardian {
    private let piped: PipedChild
    private let line: String
    private var control: OwnedDescriptor?
    private var errors: [UInt8] = []

    /// Runs the first half of a script.
    ///
    /// - Parameters:
    ///   - script: for `sh -c`; `$1` and so on are `arguments`. It must print "ready" after the
    ///     first half and then read descriptor 3 to its end.
    ///   - name: name of the script in errors.
    ///   - lock: a lock that the script holds while it runs.
    ///   - seconds: time limit for the first half. After it this throws, and the script undoes its
    ///     work when it gets there; it is never killed. `nil` waits without a limit, as for
    ///     everything that changes devices.
    /// - Throws: the script's error output, if it ended before it was ready.
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
        // The script undoes its work now. Wait only as long as reaping it usually takes; a slower
        // script is abandoned.
        control = nil
        for _ in 0..<500 where piped.child.poll() == nil { usleep(10_000) }
    }

    /// Releases the script and waits until its work is undone.
    ///
    /// - Parameter seconds: time limit; `nil` waits without one. The script is never killed.
    package func finish(seconds: Int?) throws(CommandError) {
        guard control != nil else { return }
        control = nil
        _ = try drain(seconds: seconds) { _ in false }
        let error = try ending(seconds: seconds)
        guard error.cause == .exited(0) else { throw error }
    }

    /// Reads its output until that suffices or the script has ended.
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

    /// A time limit, or an unlimited wait that is reported when it takes long.
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
