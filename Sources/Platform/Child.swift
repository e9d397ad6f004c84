// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

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

    /// Keeps the reading end and closes the other.
    consuming func takeReadingEnd() -> OwnedDescriptor { read }

    /// Keeps the writing end and closes the other.
    consuming func takeWritingEnd() -> OwnedDescriptor { write }
}

/// A program that was started.
final class Child {
    let process: Int32
    private var ending: Process.Ending?

    /// Starts `program`.
    ///
    /// - Parameters:
    ///   - input: becomes its standard input; `nil` connects it to /dev/null.
    ///   - output: becomes its standard output.
    ///   - errors: becomes its standard error.
    ///   - control: becomes its descriptor 3.
    ///   - held: becomes its descriptor 4.
    init(
        _ program: String, _ arguments: [String], input: CInt? = nil, output: CInt, errors: CInt,
        control: CInt? = nil, held: CInt? = nil
    ) throws(SystemCallError) {
        var actions = unsafe posix_spawn_file_actions_t()
        var attributes = posix_spawnattr_t()
        // SAFETY: both are initialised, used for one call and destroyed; strings live through the call.
        unsafe posix_spawn_file_actions_init(&actions)
        unsafe posix_spawnattr_init(&attributes)
        defer {
            unsafe posix_spawn_file_actions_destroy(&actions)
            unsafe posix_spawnattr_destroy(&attributes)
        }
        if let input {
            unsafe posix_spawn_file_actions_adddup2(&actions, input, 0)
        } else {
            unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        }
        unsafe posix_spawn_file_actions_adddup2(&actions, output, 1)
        unsafe posix_spawn_file_actions_adddup2(&actions, errors, 2)
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
        unsafe sigaddset(&defaults, SIGXFSZ)
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
    }

    /// The first match for a program in a search path.
    private static func find(_ program: String, _ path: String) -> String? {
        if program.contains("/") { return program }
        // SAFETY: the path is passed as a C string for the length of the call.
        return path.split(separator: ":").map { "\($0)/\(program)" }
            .first { unsafe access($0, X_OK) == 0 }
    }

    /// This process's environment with the C locale and the search path that was used.
    private static func environment(path: String) -> [String] {
        var result = ["PATH=\(path)", "LC_ALL=C"]
        // LVM complains about descriptors that it did not open; ours come from our caller.
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

    /// How it ended; `nil` if it is still running.
    func poll() -> Process.Ending? {
        if let ending { return ending }
        var status: CInt = 0
        // SAFETY: writes the value passed.
        guard unsafe waitpid(process, &status, WNOHANG) == process else { return nil }
        let code = clinux_wait_exit_code(status)
        ending = code >= 0 ? .exited(code) : .signalled(clinux_wait_signal(status))
        return ending
    }

    /// Kills the program and what it has started, and reaps it.
    ///
    /// A program that waits for a suspended device cannot be killed until that is resumed; it is
    /// abandoned after a second.
    func kill() {
        _ = Glibc.kill(-process, SIGKILL)
        for _ in 0..<100 where poll() == nil { usleep(10_000) }
    }
}

/// A program that was started with pipes from its standard output (0) and standard error (1).
final class PipedChild {
    let child: Child
    private let output: OwnedDescriptor
    private let errors: OwnedDescriptor

    /// Starts `program` as `Child` does.
    init(
        _ program: String, _ arguments: [String], control: CInt? = nil, held: CInt? = nil
    ) throws(SystemCallError) {
        let output = try Pipe()
        let errors = try Pipe()
        child = try Child(
            program, arguments, output: output.write.rawValue, errors: errors.write.rawValue,
            control: control, held: held)
        self.output = output.takeReadingEnd()
        self.errors = errors.takeReadingEnd()
    }

    /// The descriptor of a stream: 0 output, 1 errors.
    func descriptor(_ stream: Int) -> CInt { stream == 0 ? output.rawValue : errors.rawValue }

    /// Reads from a readable stream; returns an empty array at its end.
    func read(_ stream: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 65536)
        let descriptor = descriptor(stream)
        // SAFETY: the buffer is passed with its length.
        let got = retryingInterrupted { unsafe Glibc.read(descriptor, &bytes, bytes.count) }
        return got > 0 ? Array(bytes.prefix(got)) : []
    }
}
