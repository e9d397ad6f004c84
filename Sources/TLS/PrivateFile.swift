// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Glibc

/// Small files with a private key; only their owner can read them.
enum PrivateFile {
    private static let maximumByteCount = 16_384

    /// Reads the file; makes one from `make` at first use.
    ///
    /// If two processes make one at once, the second reads the first one's.
    static func readOrCreate(
        _ path: String, _ make: () -> [UInt8]
    ) throws(IdentityFileError) -> [UInt8] {
        // SAFETY: the path is passed as a C string.
        if unsafe access(path, F_OK) != 0 {
            do { try create(path, make()) } catch {
                guard unsafe access(path, F_OK) == 0 else { throw error }
            }
        }
        return try read(path)
    }

    /// Reads a regular file that belongs to the effective user and that no other user may read or
    /// write.
    static func read(_ path: String) throws(IdentityFileError) -> [UInt8] {
        // SAFETY: the path is passed as a C string. O_NONBLOCK: a FIFO must not make it wait.
        let descriptor = unsafe open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
        guard descriptor >= 0 else { throw .system(call: "open", errno: errno) }
        defer { close(descriptor) }
        var status = stat()
        // SAFETY: the structure outlives the call.
        guard unsafe fstat(descriptor, &status) == 0 else {
            throw .system(call: "fstat", errno: errno)
        }
        guard status.st_mode & S_IFMT == S_IFREG else { throw .notRegular }
        guard status.st_uid == geteuid() else { throw .owner(status.st_uid) }
        guard status.st_mode & 0o077 == 0 else { throw .mode(status.st_mode & 0o7777) }
        return try readAll(descriptor)
    }

    private static func readAll(_ descriptor: CInt) throws(IdentityFileError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: maximumByteCount + 1)
        var count = 0
        while count < bytes.count {
            // SAFETY: the kernel writes within the rest of the buffer.
            let got = unsafe bytes.withUnsafeMutableBytes {
                unsafe Glibc::read(
                    descriptor, $0.baseAddress?.advanced(by: count), $0.count - count)
            }
            if got == 0 { return [UInt8](bytes.prefix(count)) }
            if got > 0 {
                count += got
            } else if errno != EINTR {
                throw .system(call: "read", errno: errno)
            }
        }
        throw .tooLong
    }

    /// Writes bytes to a new file with mode 0600.
    ///
    /// What a crash after each step leaves:
    /// 1. a temporary file is written and flushed: that file, with an unused key;
    /// 2. it is linked to its name, which fails if the name exists: the whole file under both names
    ///    or only under the temporary one;
    /// 3. the temporary name is removed and the directory flushed: the file.
    static func create(_ path: String, _ bytes: [UInt8]) throws(IdentityFileError) {
        let slash = path.lastIndex(of: "/")
        let directoryPath = slash.map { String(path[...$0]) } ?? "."
        let name = slash.map { String(path[path.index(after: $0)...]) } ?? path
        // SAFETY: names are passed as C strings, here and below.
        let directory = unsafe open(directoryPath, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard directory >= 0 else { throw .system(call: "open", errno: errno) }
        defer { close(directory) }
        let temporary = ".\(name).\(getpid()).new"
        let flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC
        let descriptor = unsafe openat(directory, temporary, flags, 0o600)
        guard descriptor >= 0 else { throw .system(call: "openat", errno: errno) }
        defer { close(descriptor) }
        do throws(IdentityFileError) {
            try writeAll(bytes, descriptor)
            guard fsync(descriptor) == 0 else { throw .system(call: "fsync", errno: errno) }
            guard unsafe linkat(directory, temporary, directory, name, 0) == 0 else {
                throw errno == EEXIST ? .exists : .system(call: "linkat", errno: errno)
            }
        } catch {
            _ = unsafe unlinkat(directory, temporary, 0)
            throw error
        }
        guard unsafe unlinkat(directory, temporary, 0) == 0 else {
            throw .system(call: "unlinkat", errno: errno)
        }
        guard fsync(directory) == 0 else { throw .system(call: "fsync", errno: errno) }
    }

    private static func writeAll(_ bytes: [UInt8], _ descriptor: CInt) throws(IdentityFileError) {
        var count = 0
        while count < bytes.count {
            // SAFETY: the kernel reads within the rest of the bytes.
            let put = unsafe bytes.withUnsafeBytes {
                unsafe Glibc::write(
                    descriptor, $0.baseAddress?.advanced(by: count), $0.count - count)
            }
            if put >= 0 {
                count += put
            } else if errno != EINTR {
                throw .system(call: "write", errno: errno)
            }
        }
    }
}
