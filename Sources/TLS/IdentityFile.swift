// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Why an identity file cannot be used or made.
package enum IdentityFileError: Error, Equatable, Sendable {
    /// A system call failed. `ELOOP` from `open` means that the path is a symbolic link.
    case system(call: String, errno: CInt)
    /// The file exists and is never overwritten.
    case exists
    /// It is not a regular file.
    case notRegular
    /// It belongs to this user instead of the effective one.
    case owner(UInt32)
    /// Group or others have permissions; with its mode bits.
    case mode(UInt32)
    /// It is longer than an identity.
    case tooLong
    /// It does not hold an identity.
    case content(IdentityError)
}

extension IdentityFileError: CustomStringConvertible {
    package var description: String { "the identity file identity.pem: \(problem)" }

    /// The problem, without the file's name.
    var problem: String {
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
        case .tooLong: "it is too long for a key"
        case .content(let error): "it holds no identity: \(error)"
        }
    }
}

/// The file with an identity; only its owner can read it.
package enum IdentityFile {
    /// Reads the identity; makes one at first use.
    ///
    /// If two processes make one at once, the second reads the first one's.
    package static func readOrCreate(_ path: String) throws(IdentityFileError) -> Identity {
        try identity(try PrivateFile.readOrCreate(path) { Identity.generate().pem })
    }

    /// Reads the identity from a regular file that belongs to the effective user and that no other
    /// user may read or write.
    package static func read(_ path: String) throws(IdentityFileError) -> Identity {
        try identity(try PrivateFile.read(path))
    }

    /// Writes the identity to a new file with mode 0600.
    package static func create(_ path: String, _ identity: Identity) throws(IdentityFileError) {
        try PrivateFile.create(path, identity.pem)
    }

    private static func identity(_ pem: [UInt8]) throws(IdentityFileError) -> Identity {
        do throws(IdentityError) { return try Identity(pem: pem) } catch { throw .content(error) }
    }
}
