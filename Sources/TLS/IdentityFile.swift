// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Glibc

/// An identity file cannot be used or made.
package enum IdentityFileError: Error, Equatable, Sendable {
    /// A system call failed. `ELOOP` from `open` means that the path is a symbolic link.
    case system(call: String, errno: CInt)
    /// There is a file already, which is never overwritten.
    case exists
    /// It is no regular file.
    case notRegular
    /// It belongs to this user, not to the one that runs.
    case owner(UInt32)
    /// Group or others have rights; these are its mode bits.
    case mode(UInt32)
    /// It is longer than an identity.
    case tooLong
    /// It does not hold an identity.
    case content(IdentityError)
}

extension IdentityFileError: CustomStringConvertible {
    package var description: String {
        let problem =
            switch self {
            case .system(let call, let code):
                // SAFETY: strerror returns a C string that is copied at once.
                unsafe "it cannot be used: \(call): \(String(cString: strerror(code)))"
            case .exists: "it is there already"
            case .notRegular: "it is no regular file"
            case .owner(let user):
                "it belongs to user \(user), and this program runs as user \(geteuid())"
            case .mode(let mode):
                "it has mode 0\(String(mode, radix: 8)), and others must not reach it; set 0600"
            case .tooLong: "it is too long for an identity"
            case .content(let error): "it holds no identity: \(error)"
            }
        return "the identity file identity.pem: \(problem)"
    }
}

/// The file that holds an identity, readable by its owner alone.
package enum IdentityFile {
    private static let maximumByteCount = 16_384

    /// Reads the identity, making one at first use.
    ///
    /// Of two processes that make one at once, the second reads what the first has made.
    package static func readOrCreate(_ path: String) throws(IdentityFileError) -> Identity {
        // SAFETY: the path is passed as a C string.
        if unsafe access(path, F_OK) != 0 {
            do { try create(path, Identity.generate()) } catch {
                guard unsafe access(path, F_OK) == 0 else { throw error }
            }
        }
        return try read(path)
    }

    /// Reads the identity from a regular file that belongs to the effective user and that nobody
    /// else may read or write.
    package static func read(_ path: String) throws(IdentityFileError) -> Identity {
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
        let bytes = try readAll(descriptor)
        do throws(IdentityError) {
            return try Identity(pem: bytes)
        } catch {
            throw .content(error)
        }
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

    /// Writes the identity to a new file with mode 0600.
    ///
    /// What a crash leaves behind after each step:
    /// 1. a temporary file is written and flushed: that file, with a key that nobody knows;
    /// 2. it is linked to its name, which fails if there is a file: the whole identity under both
    ///    names, or under the temporary one alone;
    /// 3. the temporary name is removed and the directory flushed: the identity.
    package static func create(_ path: String, _ identity: Identity) throws(IdentityFileError) {
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
            try writeAll(identity.pem, descriptor)
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
