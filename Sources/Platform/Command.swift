// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// A program of the host that did not do what it was asked to.
package struct CommandError: Error, Equatable, Sendable, CustomStringConvertible {
    /// How it went wrong.
    package enum Cause: Equatable, Sendable {
        /// It could not be started.
        case notStarted(SystemCallError)
        /// It ended with this status.
        case exited(Int32)
        /// A signal ended it.
        case signalled(Int32)
        /// It did not end in time, and was killed.
        case timedOut(seconds: Int)
        /// It printed more than anybody wants to read.
        case tooMuchOutput
    }

    /// The command as one would type it.
    package let command: String
    /// How it went wrong.
    package let cause: Cause
    /// What it said on standard error, on one line.
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

/// Runs programs of the host: found by `PATH` and the system's directories for administrators, with the C
/// locale, nothing to read on standard input, and no descriptor of ours but a lock that they are to hold.
///
/// Each is a process group of its own, so that a Ctrl-C meant for us does not end it half-way. A program that only
/// asks is ended when it takes too long; one that changes something never is, neither by us nor by our end.
package enum Command {
    /// What a program that ended well has printed.
    package struct Output: Sendable {
        /// Standard output.
        package let text: String
        /// Standard error, on one line: warnings.
        package let warnings: String
    }

    private static let outputLimit = 64 << 20

    /// Runs a program that only asks to its end.
    ///
    /// - Parameters:
    ///   - settings: arguments that come first, and that errors do not tell: nobody would type them.
    ///   - seconds: after this long it is killed, with what it has started.
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
        // Both ends are closed; what remains is to end.
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

    /// Runs a program that changes something, and waits for its end however long that takes.
    ///
    /// Killed in the middle it could leave a device suspended, on which everybody who writes then waits for ever. So
    /// nobody kills it: there is no limit of time or output, and what it prints goes to memory of its own, so that
    /// our end is not its. That it takes long is told on standard error.
    ///
    /// - Parameters:
    ///   - settings: as with `run`.
    ///   - lock: becomes its standard input. So it holds the lock with us, and, if we end, without us: a
    ///     second run finds what it works on busy. LVM closes every other descriptor that it did not open.
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

    /// The words of several lines on one.
    static func oneLine(_ bytes: [UInt8]) -> String {
        String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isWhitespace)
            .joined(separator: " ")
    }

    /// A word as a shell would take it.
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

/// Tells on standard error that something takes long, after half a minute and then every minute.
struct Patience {
    private let line: String
    private let began = Clock.monotonic()
    private var due: UInt64 = 30

    init(with line: String) {
        self.line = line
    }

    /// Says so if it is time to.
    mutating func tell() {
        let seconds = (Clock.monotonic() - began) / nanosecondsPerSecond
        guard seconds >= due else { return }
        due = seconds + 60
        Process.say(
            "still waiting for: \(line) (\(seconds) s); it is not interrupted, since that could leave a volume "
                + "suspended")
    }
}
