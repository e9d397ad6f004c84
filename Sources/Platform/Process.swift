// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// Facts and settings of this process.
package enum Process {
    /// Process id.
    package static var identifier: Int32 { getpid() }

    /// Effective user id.
    package static var effectiveUser: UInt32 { geteuid() }

    /// The user id of a user of this host; `nil` if the name is unknown.
    package static func user(named name: String) -> UInt32? {
        // SAFETY: the name is passed as a C string; the entry is read at once.
        unsafe getpwnam(name).map { unsafe $0.pointee.pw_uid }
    }

    /// The arguments after the program's name; `nil` if there is no argument list. Does not read
    /// `/proc`.
    package static var arguments: [String]? {
        let count = clinux_argument_count()
        // SAFETY: the C library keeps the strings as long as the process lives; they are copied.
        let words = (0..<max(count, 0)).map { index in
            unsafe clinux_argument(index).map { unsafe String(cString: $0) }
        }
        // Newer kernels replace an empty argument list by one empty name.
        guard let name = words.first, name != nil, count > 1 || name != "" else { return nil }
        return words.dropFirst().compactMap { $0 }
    }

    /// Prepares a program: writing to a closed socket or past the largest file size becomes an
    /// error instead of a signal, files are made for the owner only, and no core dump exposes keys.
    package static func harden() {
        signal(SIGPIPE, SIG_IGN)
        signal(SIGXFSZ, SIG_IGN)
        umask(0o077)
        // Silences libdispatch: the catalog's library makes it start threads, for which it requests
        // a priority that a unit's sandbox denies. It works without, but reports that on standard
        // error each time.
        // SAFETY: both are constant C strings, and no other thread runs yet.
        _ = unsafe setenv("LIBDISPATCH_LOG", "NO", 0)
        _ = clinux_set_not_dumpable()
    }

    /// Requests `signal` for this process when its parent ends.
    ///
    /// - Returns: `false` if `parent` had already ended.
    package static func endWithParent(_ parent: Int32, _ signal: Int32) -> Bool {
        _ = clinux_set_parent_death_signal(signal)
        return getppid() == parent
    }

    /// Keeps an inherited descriptor from being inherited by programs started here.
    package static func closeOnExec(_ descriptor: CInt) {
        _ = clinux_set_close_on_exec(descriptor)
    }

    /// Ends the program with a message and exit code 1 if it cannot continue: no memory, no thread.
    /// The disk is left as after a crash.
    static func giveUp(_ sentence: String) -> Never {
        say(sentence)
        _exit(1)
    }

    /// Writes a line to standard error.
    package static func say(_ sentence: String) {
        let line = Array((sentence + "\n").utf8)
        // SAFETY: the array is passed with its length.
        _ = unsafe Glibc.write(2, line, line.count)
    }

    /// The value of an environment variable.
    package static func environment(_ name: String) -> String? {
        // SAFETY: the C string is copied at once.
        unsafe getenv(name).map { unsafe String(cString: $0) }
    }

    /// Blocks `signals` on this thread and those it starts, and makes them readable.
    package static func descriptor(
        forSignals signals: [Int32]
    ) throws(SystemCallError) -> OwnedDescriptor {
        // SAFETY: the array is passed with its count.
        let descriptor = unsafe clinux_signalfd(signals, CInt(signals.count))
        guard descriptor >= 0 else { throw SystemCallError("signalfd", "for termination") }
        return OwnedDescriptor(takingOwnershipOf: descriptor)
    }

    /// Takes one signal from a descriptor made by `descriptor(forSignals:)`; `nil` if there is
    /// none.
    package static func takeSignal(from descriptor: CInt) -> Int32? {
        var information = [UInt8](repeating: 0, count: 128)
        // SAFETY: 128 bytes are sizeof(struct signalfd_siginfo); the array has that many.
        let got = unsafe read(descriptor, &information, 128)
        return got == 128 ? Int32(information[0]) : nil
    }

    /// Ends this process by a signal that it has read from a descriptor.
    package static func end(bySignal number: Int32) -> Never {
        signal(number, SIG_DFL)
        var set = sigset_t()
        // SAFETY: the set is initialised here and passed to one call.
        unsafe sigemptyset(&set)
        unsafe sigaddset(&set, number)
        unsafe pthread_sigmask(SIG_UNBLOCK, &set, nil)
        raise(number)
        _exit(128 + number)
    }

    /// Path of the program that runs in this process.
    package static var executablePath: String {
        get throws(SystemCallError) {
            var path = [CChar](repeating: 0, count: 4096)
            // SAFETY: the buffer is passed with its length.
            let count = unsafe readlink("/proc/self/exe", &path, path.count)
            guard count > 0, count < path.count else {
                throw SystemCallError("readlink", "/proc/self/exe")
            }
            return String(
                decoding: path.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        }
    }

    /// Starts a program that inherits only the three standard descriptors and `descriptor`, if
    /// given, as number 3.
    package static func spawn(
        _ path: String, _ arguments: [String], passing descriptor: CInt? = nil
    ) throws(SystemCallError) -> Int32 {
        var actions = unsafe posix_spawn_file_actions_t()
        var attributes = posix_spawnattr_t()
        // SAFETY: both are initialised, used for one call and destroyed; strings live through the call.
        unsafe posix_spawn_file_actions_init(&actions)
        unsafe posix_spawnattr_init(&attributes)
        defer {
            unsafe posix_spawn_file_actions_destroy(&actions)
            unsafe posix_spawnattr_destroy(&attributes)
        }
        if let descriptor { unsafe posix_spawn_file_actions_adddup2(&actions, descriptor, 3) }
        // Unblock all signals for the child: the parent blocks those it reads from a descriptor.
        var none = sigset_t()
        unsafe sigemptyset(&none)
        unsafe posix_spawnattr_setsigmask(&attributes, &none)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        var process: pid_t = 0
        var pointers = unsafe ([path] + arguments).map { unsafe strdup($0) }
        unsafe pointers.append(nil)
        let code = unsafe posix_spawn(&process, path, &actions, &attributes, &pointers, environ)
        unsafe pointers.forEach { unsafe free($0) }
        guard code == 0 else { throw SystemCallError("posix_spawn", path, code: code) }
        return process
    }

    /// How a child ended.
    package enum Ending: Equatable, Sendable {
        case exited(Int32)
        case signalled(Int32)
    }

    /// Reaps one ended child without waiting.
    package static func reap() -> (process: Int32, ending: Ending)? {
        var status: CInt = 0
        // SAFETY: writes the value passed.
        let process = unsafe waitpid(-1, &status, WNOHANG)
        guard process > 0 else { return nil }
        let code = clinux_wait_exit_code(status)
        return (process, code >= 0 ? .exited(code) : .signalled(clinux_wait_signal(status)))
    }

    /// Sends a signal to a child that was started here and not yet reaped.
    package static func send(_ signal: Int32, to process: Int32) {
        _ = kill(process, signal)
    }
}
