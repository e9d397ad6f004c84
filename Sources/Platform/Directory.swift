// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// Durable operations on our directories and on small files.
package enum Directory {
    /// Renames a file, replaces any file of the new name, and syncs the directory.
    package static func move(_ path: String, to new: String) throws(SystemCallError) {
        // SAFETY: both paths are passed as C strings for the length of the call.
        guard unsafe rename(path, new) == 0 else { throw SystemCallError("rename", path) }
        try sync(parent(of: new))
    }

    /// Renames a file, fails if the new name exists, and syncs the directory.
    ///
    /// On a file system without an atomic check, it checks first.
    package static func moveNew(_ path: String, to new: String) throws(SystemCallError) {
        // RENAME_NOREPLACE is 1. SAFETY: both paths are passed as C strings for the length of the call.
        if unsafe renameat2(AT_FDCWD, path, AT_FDCWD, new, 1) != 0 {
            guard errno == EINVAL || errno == ENOSYS else { throw SystemCallError("rename", new) }
            guard !exists(new) else { throw SystemCallError("rename", new, code: EEXIST) }
            return try move(path, to: new)
        }
        try sync(parent(of: new))
    }

    /// Whether this process may write a file or directory, by its mode and the file system.
    package static func isWritable(_ path: String) -> Bool {
        // SAFETY: the path is passed as a C string for the length of the call.
        unsafe access(path, W_OK) == 0
    }

    /// Makes `path` with mode 0700 if it is missing; its parent must exist.
    package static func create(_ path: String) throws(SystemCallError) {
        // SAFETY: the path is passed as a C string for the length of the call.
        if unsafe mkdir(path, 0o700) != 0, errno != EEXIST { throw SystemCallError("mkdir", path) }
    }

    /// Makes one of our directories with mode 0700 if it is missing. An existing one must not be a
    /// symbolic link, must belong to this user, and must be closed to others.
    package static func createOwn(_ path: String) throws(SystemCallError) {
        try create(path)
        var status = stat()
        // SAFETY: writes the struct passed; the path is a C string for the length of the call.
        guard unsafe lstat(path, &status) == 0 else { throw SystemCallError("lstat", path) }
        guard clinux_mode_is_directory(status.st_mode) != 0 else {
            throw SystemCallError("mkdir", path, code: ENOTDIR)
        }
        guard status.st_uid == geteuid(), status.st_mode & 0o077 == 0 else {
            throw SystemCallError("mkdir", path, code: EPERM)
        }
    }

    /// Syncs the directory `path`.
    package static func sync(_ path: String) throws(SystemCallError) {
        let directory = try File(path: path)
        guard retryingInterrupted({ Int(fsync(directory.descriptor)) }) == 0 else {
            throw SystemCallError("fsync", path)
        }
    }

    /// The names in `path`, sorted, without "." and "..".
    package static func names(in path: String) throws(SystemCallError) -> [String] {
        // SAFETY: the stream is used here only and closed; entries are copied out at once.
        guard let stream = unsafe opendir(path) else { throw SystemCallError("opendir", path) }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { tuple in
                unsafe tuple.withMemoryRebound(to: CChar.self, capacity: 256) {
                    unsafe String(cString: $0)
                }
            }
            if name != "." && name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// The path without symbolic links; unchanged if it cannot be resolved.
    package static func resolved(_ path: String) -> String {
        // SAFETY: realpath returns memory that is copied and freed.
        guard let resolved = unsafe realpath(path, nil) else { return path }
        defer { unsafe free(resolved) }
        return unsafe String(cString: resolved)
    }

    /// Whether the path exists.
    package static func exists(_ path: String) -> Bool {
        // SAFETY: the path is passed as a C string for the length of the call.
        unsafe access(path, F_OK) == 0
    }

    /// Refuses what this process may not read, write and, if it is a directory, enter. Opens no
    /// file: closing it would drop this process's locks on it.
    package static func checkAccess(_ path: String) throws(SystemCallError) {
        var mode = R_OK | W_OK
        var status = stat()
        // SAFETY: the call writes the struct passed; the path is a C string for the length of the calls.
        guard unsafe stat(path, &status) == 0 else { throw SystemCallError("stat", path) }
        if clinux_mode_is_directory(status.st_mode) != 0 { mode |= X_OK }
        guard unsafe access(path, mode) == 0 else { throw SystemCallError("access", path) }
    }

    /// Removes a file if it exists; the caller syncs the directory if that matters.
    package static func remove(_ path: String) throws(SystemCallError) {
        // SAFETY: the path is passed as a C string for the length of the call.
        if unsafe unlink(path) != 0, errno != ENOENT { throw SystemCallError("unlink", path) }
    }

    /// Replaces a small file atomically: after a crash it has the old content or the new.
    ///
    /// 1. The temporary file is written and synced. A crash leaves it beside the old one; the next
    ///    call replaces it.
    /// 2. It is renamed. A crash leaves either name binding, both complete.
    /// 3. The directory is synced. From here on the name leads to the new one.
    package static func replace(_ path: String, with bytes: [UInt8]) throws(SystemCallError) {
        let temporary = path + ".new"
        try remove(temporary)
        let file = try File(path: temporary, [.write, .createNew])
        try file.write(bytes, at: 0)
        try file.sync()
        // SAFETY: both paths are passed as C strings for the length of the call.
        guard unsafe rename(temporary, path) == 0 else { throw SystemCallError("rename", path) }
        try sync(parent(of: path))
    }

    /// The directory part of a path.
    package static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    /// The last part of a path.
    package static func name(of path: String) -> String {
        path.lastIndex(of: "/").map { String(path[path.index(after: $0)...]) } ?? path
    }

    /// Bytes that an unprivileged user can still write to the file system of `path`.
    package static func availableByteCount(at path: String) throws(SystemCallError) -> UInt64 {
        var information = statvfs()
        // SAFETY: writes the struct passed.
        guard unsafe statvfs(path, &information) == 0 else {
            throw SystemCallError("statvfs", path)
        }
        return KernelValues.bytes(
            UInt64(information.f_bavail), of: UInt64(information.f_frsize))
    }
}

/// A lock on one of our files, held while the object lives; the kernel releases it if the process
/// dies.
package final class FileLock: Sendable {
    private let file: File

    /// The descriptor; a process that inherits it holds the lock too.
    package var descriptor: CInt { file.descriptor }

    /// Takes the lock; `nil` if another process holds it.
    package init?(path: String) throws(SystemCallError) {
        // SAFETY: the path is passed as a C string for the length of the call.
        let descriptor = unsafe clinux_open(
            AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC | clinux_o_nofollow, 0o600)
        guard descriptor >= 0 else { throw SystemCallError("open", path) }
        _ = Glibc.close(descriptor)
        file = try File(path: path, [.write, .noFollow])
        guard try Self.take(file) else { return nil }
    }

    /// Takes the lock and waits for another holder up to a time limit; `nil` if that one still
    /// holds it.
    package static func waiting(
        _ nanoseconds: UInt64, path: String
    ) throws(SystemCallError) -> FileLock? {
        let due = Clock.monotonic() + nanoseconds
        while true {
            if let lock = try FileLock(path: path) { return lock }
            guard Clock.monotonic() < due else { return nil }
            Clock.sleep(milliseconds: 10)
        }
    }

    /// Takes a lock file that another user's program has made. It never makes the file, because
    /// that program could not open it.
    package init?(existing path: String) throws(SystemCallError) {
        file = try File(path: path)
        guard try Self.take(file) else { return nil }
    }

    /// Shares a lock with the process that passed its descriptor; `nil` if that is not a regular
    /// file.
    package init?(sharing descriptor: consuming OwnedDescriptor) {
        file = File(descriptor, path: "the lock that was passed on")
        guard let kind = try? file.status().kind, kind == .regular else { return nil }
    }

    private static func take(_ file: File) throws(SystemCallError) -> Bool {
        if flock(file.descriptor, LOCK_EX | LOCK_NB) == 0 { return true }
        if errno == EWOULDBLOCK { return false }
        throw SystemCallError("flock", file.path)
    }
}
