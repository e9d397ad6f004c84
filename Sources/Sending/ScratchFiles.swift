// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
internal import Platform

/// Files that are of no use once the program has ended, and that nobody else looks at: each process has its own, so that what
/// only looks never disturbs what sends.
///
/// 1. A lock is made under a random name that no volume's files can have, and held.
/// 2. The files beside it have its name and an ending. *A crash leaves them and the lock, which nobody holds then: the next
///    process that makes one removes them.*
final class ScratchFiles {
    private static let start = "@"
    private static let separator: Character = "@"

    private let directory: String
    private var held: (path: String, lock: FileLock)?

    /// Nothing is made before it is asked for.
    init(in directory: String) {
        self.directory = directory
    }

    deinit {
        if let held { Self.remove(held.path, in: directory) }
    }

    /// Where the file with this ending is, or can be made.
    func path(_ ending: String) throws(SystemCallError) -> String {
        try name() + String(Self.separator) + ending
    }

    /// Removes the file with this ending, if there is one.
    func remove(_ ending: String) {
        if let held { try? Directory.remove(held.path + String(Self.separator) + ending) }
    }

    private func name() throws(SystemCallError) -> String {
        if let held { return held.path }
        removeLeftovers()
        while true {
            let path = "\(directory)/\(Self.start)\(Hex.encode(SecureRandom.bytes(16)))"
            let lock: FileLock?
            do { lock = try FileLock(path: path) } catch {
                // Between making and taking, somebody has removed it as left over.
                if error.isNotFound, Directory.exists(directory) { continue }
                throw error
            }
            guard let lock, Directory.exists(path) else { continue }
            held = (path, lock)
            return path
        }
    }

    private func removeLeftovers() {
        for name in (try? Directory.names(in: directory)) ?? [] where name.hasPrefix(Self.start) {
            guard !name.dropFirst().contains(Self.separator) else { continue }
            let path = "\(directory)/\(name)"
            guard let lock = try? FileLock(path: path) else { continue }
            Self.remove(path, in: directory)
            withExtendedLifetime(lock) {}
        }
    }

    /// The files first: whoever finds the lock knows of them.
    private static func remove(_ path: String, in directory: String) {
        let begin = Directory.name(of: path) + String(separator)
        for name in (try? Directory.names(in: directory)) ?? [] where name.hasPrefix(begin) {
            try? Directory.remove("\(directory)/\(name)")
        }
        try? Directory.remove(path)
    }
}
