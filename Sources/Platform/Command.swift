// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// A program of the host that failed.
package struct CommandError: Error, Equatable, Sendable, CustomStringConvertible {
    /// Cause of the failure.
    package enum Cause: Equatable, Sendable {
        /// It could not be started.
        case notStarted(SystemCallError)
        /// It ended with this status.
        case exited(Int32)
        /// A signal ended it.
        case signalled(Int32)
        /// It did not end in time, and was killed.
        case timedOut(seconds: Int)
        /// It printed more than the limit.
        case tooMuchOutput
    }

    /// The command as typed in a shell.
    package let command: String
    /// Cause of the failure.
    package let cause: Cause
    /// Its standard error, joined to one line.
    package let message: String

    package var description: String {
        let how =
            switch cause {
            case .notStarted(let error): "cannot be started: \(error.reason)"
            case .exited(let status): "failed with exit status \(status)"
            case .signalled(let signal): "was ended by signal \(signal)"
            case .timedOut(let seconds): "did not end within \(seconds) s"
            case .tooMuchOutput: "printed too much"
            }
        return "'\(command)' \(how)" + (message.isEmpty ? "" : ": \(message)")
    }
}

/// Runs programs of the host. They are found in `PATH` and the system's directories for
/// administrators, run in the C locale with empty standard input, and inherit none of
/// our descriptors except a lock that they must hold.
///
/// Each is a separate process group, so a Ctrl-C for us does not interrupt it. A program that only
/// reports is killed after a time limit; one that changes something never is, neither by us nor by
/// our end.
package enum Command {
    /// Output of a program that succeeded.
    package struct Output: Sendable {
        /// Standard output.
        package let text: String
        /// Standard error, joined to one line: warnings.
        package let warnings: String
    }

    private static let outputLimit = 64 << 20

    /// Runs a program that only reports, and waits for its end.
    ///
    /// - Parameters:
    ///   - settings: leading arguments that errors omit, because nobody would type them.
    ///   - seconds: time limit, after which it is killed together with what it has started.
    @discardableResult
    package static func run(
        _ program: String, _ arguments: [String], settings: [String] = [], seconds: Int = 120
    ) throws(CommandError) -> Output {
        let line = ([program] + arguments).map(quoted).joined(separator: " ")
        func failure(_ cause: CommandError.Cause, _ message: [UInt8] = []) -> CommandError {
            CommandError(command: line, cause: cause, message: oneLine(message))
        }
        let piped: PipedChild
        do { piped = try PipedChild(program, settings + arguments) } catch {
            throw failure(.notStarted(error))
        }
        let child = piped.child
        var streams: [[UInt8]] = [[], []]
        let due = Clock.monotonic() + UInt64(seconds) * nanosecondsPerSecond
        var open = [0, 1]
        while !open.isEmpty {
            let now = Clock.monotonic()
            guard now < due else {
                child.kill()
                throw failure(.timedOut(seconds: seconds), streams[1])
            }
            let ready = Socket.waitReadable(
                open.map { piped.descriptor($0) }, milliseconds: Int((due - now) / 1_000_000) + 1)
            for position in ready.reversed() {
                let stream = open[position]
                let part = piped.read(stream)
                if part.isEmpty { open.remove(at: position) }
                streams[stream] += part
            }
            guard streams[0].count + streams[1].count <= outputLimit else {
                child.kill()
                throw failure(.tooMuchOutput)
            }
        }
        // Both pipes are closed; wait for its end.
        while true {
            switch child.poll() {
            case .exited(0)?:
                return Output(
                    text: String(decoding: streams[0], as: UTF8.self),
                    warnings: oneLine(streams[1]))
            case .exited(let status)?: throw failure(.exited(status), streams[1])
            case .signalled(let signal)?: throw failure(.signalled(signal), streams[1])
            case nil:
                guard Clock.monotonic() < due else {
                    child.kill()
                    throw failure(.timedOut(seconds: seconds), streams[1])
                }
                usleep(1000)
            }
        }
    }

    /// Runs a program that changes something, and waits for its end without a time limit.
    ///
    /// If it were killed midway, it could leave a device suspended, on which all writers then wait
    /// forever. So there is no limit of time or output, and its output goes to a memory file, so
    /// that it survives our end. A long run is reported on standard error.
    ///
    /// - Parameters:
    ///   - settings: as in `run`.
    ///   - lock: becomes its standard input, so that it holds the lock too, even after our end: a
    ///     second run then finds the resource busy. LVM closes every other descriptor that it did
    ///     not open.
    @discardableResult
    package static func change(
        _ program: String, _ arguments: [String], settings: [String] = [],
        holding lock: FileLock? = nil
    ) throws(CommandError) -> Output {
        let line = ([program] + arguments).map(quoted).joined(separator: " ")
        func failure(_ cause: CommandError.Cause, _ message: [UInt8] = []) -> CommandError {
            CommandError(command: line, cause: cause, message: oneLine(message))
        }
        let child: Child
        let output: MemoryFile
        let errors: MemoryFile
        do throws(SystemCallError) {
            output = try MemoryFile()
            errors = try MemoryFile()
            child = try Child(
                program, settings + arguments, input: lock?.descriptor, output: output.descriptor,
                errors: errors.descriptor)
        } catch {
            throw failure(.notStarted(error))
        }
        var patience = Patience(with: line)
        while true {
            switch child.poll() {
            case .exited(0)?:
                return Output(
                    text: String(decoding: output.bytes(), as: UTF8.self),
                    warnings: oneLine(errors.bytes()))
            case .exited(let status)?: throw failure(.exited(status), errors.bytes())
            case .signalled(let signal)?: throw failure(.signalled(signal), errors.bytes())
            case nil:
                usleep(2000)
                patience.tell()
            }
        }
    }

    /// Joins the words of several lines to one line.
    static func oneLine(_ bytes: [UInt8]) -> String {
        String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isWhitespace)
            .joined(separator: " ")
    }

    /// Quotes a word for a shell.
    static func quoted(_ word: String) -> String {
        let plain = word.utf8.allSatisfy { byte in
            byte > 0x20 && byte < 0x7F && !"'\"\\$`*?[]{}();&|<>~#!".utf8.contains(byte)
        }
        return plain && !word.isEmpty
            ? word
            : "'"
                + word.split(separator: "'", omittingEmptySubsequences: false)
                .joined(separator: "'\\''") + "'"
    }
}

/// Reports on standard error that something takes long: after 30 seconds, then every minute.
struct Patience {
    private let line: String
    private let began = Clock.monotonic()
    private var due: UInt64 = 30

    init(with line: String) {
        self.line = line
    }

    /// Reports if that is due.
    mutating func tell() {
        let seconds = (Clock.monotonic() - began) / nanosecondsPerSecond
        guard seconds >= due else { return }
        due = seconds + 60
        Process.say(
            "still waiting for: \(line) (\(seconds) s); it is not interrupted, since that could leave a volume "
                + "suspended")
    }
}
