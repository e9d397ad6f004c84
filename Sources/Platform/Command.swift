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
/// locale, nothing on standard input, and no descriptor of ours.
///
/// Each is a process group of its own, so that a Ctrl-C meant for us does not end it half-way.
package enum Command {
    /// What a program that ended well has printed.
    package struct Output: Sendable {
        /// Standard output.
        package let text: String
        /// Standard error, on one line: warnings.
        package let warnings: String
    }

    private static let outputLimit = 64 << 20

    /// Runs a program to its end.
    ///
    /// - Parameter seconds: after this long it is killed, with what it has started.
    @discardableResult
    package static func run(
        _ program: String, _ arguments: [String], seconds: Int = 120
    ) throws(CommandError) -> Output {
        let line = ([program] + arguments).map(quoted).joined(separator: " ")
        func failure(_ cause: CommandError.Cause, _ message: [UInt8] = []) -> CommandError {
            CommandError(command: line, cause: cause, message: oneLine(message))
        }
        let child: Child
        do { child = try Child(program, arguments) } catch { throw failure(.notStarted(error)) }
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
                open.map { child.descriptor($0) }, milliseconds: Int((due - now) / 1_000_000) + 1)
            for position in ready.reversed() {
                let stream = open[position]
                let part = child.read(stream)
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

/// A pipe, both ends closed on exec.
struct Pipe: ~Copyable {
    let read: OwnedDescriptor
    let write: OwnedDescriptor

    init() throws(SystemCallError) {
        var ends: [CInt] = [-1, -1]
        // SAFETY: the call writes two descriptors into the array.
        guard unsafe pipe2(&ends, O_CLOEXEC) == 0 else { throw SystemCallError("pipe2", "") }
        read = OwnedDescriptor(takingOwnershipOf: ends[0])
        write = OwnedDescriptor(takingOwnershipOf: ends[1])
    }

    /// Keeps the end to read and closes the other.
    consuming func takeReadingEnd() -> OwnedDescriptor { read }

    /// Keeps the end to write and closes the other.
    consuming func takeWritingEnd() -> OwnedDescriptor { write }
}

/// A started program with pipes from its standard output (0) and standard error (1), and perhaps a pipe to its
/// descriptor 3.
final class Child {
    let process: Int32
    private let output: OwnedDescriptor
    private let errors: OwnedDescriptor
    private var ending: Process.Ending?

    /// Starts `program`.
    ///
    /// - Parameters:
    ///   - control: becomes its descriptor 3.
    ///   - held: becomes its descriptor 4.
    init(
        _ program: String, _ arguments: [String], control: CInt? = nil, held: CInt? = nil
    ) throws(SystemCallError) {
        let output = try Pipe()
        let errors = try Pipe()
        var actions = unsafe posix_spawn_file_actions_t()
        var attributes = posix_spawnattr_t()
        // SAFETY: both are initialised, used for one call and destroyed; strings live through the call.
        unsafe posix_spawn_file_actions_init(&actions)
        unsafe posix_spawnattr_init(&attributes)
        defer {
            unsafe posix_spawn_file_actions_destroy(&actions)
            unsafe posix_spawnattr_destroy(&attributes)
        }
        unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        unsafe posix_spawn_file_actions_adddup2(&actions, output.write.rawValue, 1)
        unsafe posix_spawn_file_actions_adddup2(&actions, errors.write.rawValue, 2)
        // In this order, and with `control` above both numbers, neither overwrites the other's original.
        if let held { unsafe posix_spawn_file_actions_adddup2(&actions, held, 4) }
        if let control { unsafe posix_spawn_file_actions_adddup2(&actions, control, 3) }
        let kept: CInt = held != nil ? 5 : control != nil ? 4 : 3
        unsafe posix_spawn_file_actions_addclosefrom_np(&actions, kept)
        var none = sigset_t()
        unsafe sigemptyset(&none)
        var defaults = sigset_t()
        unsafe sigemptyset(&defaults)
        unsafe sigaddset(&defaults, SIGPIPE)
        unsafe posix_spawnattr_setsigmask(&attributes, &none)
        unsafe posix_spawnattr_setsigdefault(&attributes, &defaults)
        unsafe posix_spawnattr_setpgroup(&attributes, 0)
        unsafe posix_spawnattr_setflags(
            &attributes,
            Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP))
        let path =
            (Process.environment("PATH") ?? "/usr/local/bin:/usr/bin:/bin") + ":/usr/sbin:/sbin"
        guard let program = Self.find(program, path) else {
            throw SystemCallError("execve", program, code: ENOENT)
        }
        var started: pid_t = 0
        var words = unsafe ([program] + arguments).map { unsafe strdup($0) }
        unsafe words.append(nil)
        var variables = unsafe Self.environment(path: path).map { unsafe strdup($0) }
        unsafe variables.append(nil)
        let code = unsafe posix_spawn(&started, program, &actions, &attributes, &words, &variables)
        unsafe words.forEach { unsafe free($0) }
        unsafe variables.forEach { unsafe free($0) }
        guard code == 0 else { throw SystemCallError("posix_spawn", program, code: code) }
        process = started
        self.output = output.takeReadingEnd()
        self.errors = errors.takeReadingEnd()
    }

    /// The first place of a program in a search path.
    private static func find(_ program: String, _ path: String) -> String? {
        if program.contains("/") { return program }
        // SAFETY: the path is passed as a C string for the length of the call.
        return path.split(separator: ":").map { "\($0)/\(program)" }
            .first { unsafe access($0, X_OK) == 0 }
    }

    /// This process's environment with the C locale and the search path that was used.
    private static func environment(path: String) -> [String] {
        var result = ["PATH=\(path)", "LC_ALL=C"]
        // LVM complains about descriptors it has not opened; those of the caller are not our doing.
        result.append("LVM_SUPPRESS_FD_WARNINGS=1")
        let replaced = ["PATH=", "LC_ALL=", "LVM_SUPPRESS_FD_WARNINGS="]
        // SAFETY: the array ends with a null pointer; each string is copied at once.
        var next = unsafe environ
        while let entry = unsafe next.pointee {
            let text = unsafe String(cString: entry)
            if !replaced.contains(where: { text.hasPrefix($0) }) { result.append(text) }
            unsafe next = next.advanced(by: 1)
        }
        return result
    }

    /// The descriptor of a stream: 0 output, 1 errors.
    func descriptor(_ stream: Int) -> CInt { stream == 0 ? output.rawValue : errors.rawValue }

    /// Takes what a readable stream has; nothing at its end.
    func read(_ stream: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 65536)
        let descriptor = descriptor(stream)
        // SAFETY: the buffer is passed with its length.
        let got = retryingInterrupted { unsafe Glibc.read(descriptor, &bytes, bytes.count) }
        return got > 0 ? Array(bytes.prefix(got)) : []
    }

    /// How it ended; nothing if it still runs.
    func poll() -> Process.Ending? {
        if let ending { return ending }
        var status: CInt = 0
        // SAFETY: writes the value passed.
        guard unsafe waitpid(process, &status, WNOHANG) == process else { return nil }
        let code = clinux_wait_exit_code(status)
        ending = code >= 0 ? .exited(code) : .signalled(clinux_wait_signal(status))
        return ending
    }

    /// Ends the program and what it has started, and collects it.
    ///
    /// A program that waits for a suspended device cannot be ended before that; it is left to itself after a
    /// second.
    func kill() {
        _ = Glibc.kill(-process, SIGKILL)
        for _ in 0..<100 where poll() == nil { usleep(10_000) }
    }
}
