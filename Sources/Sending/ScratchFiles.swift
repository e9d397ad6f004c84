// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
internal import Platform

/// Files that are useless once the program has ended. Each process has its own, so an inspection
/// never disturbs a send.
///
/// 1. A lock file is made under a random name that no volume's files can have, and is held.
/// 2. The files beside it have its name and an ending. *A crash leaves them and the lock, which is
///    free then: the next process that makes one removes them.*
final class ScratchFiles {
    private static let start = "@"
    private static let separator: Character = "@"

    private let directory: String
    private var held: (path: String, lock: FileLock)?

    /// Makes no file until `path` is called.
    init(in directory: String) {
        self.directory = directory
    }

    deinit {
        if let held { Self.remove(held.path, in: directory) }
    }

    /// The path for the file with this ending.
    func path(_ ending: String) throws(SystemCallError) -> String {
        try name() + String(Self.separator) + ending
    }

    /// Removes the file with this ending, if it exists.
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
                // Another process removed the lock file as a leftover before it was locked.
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

    /// Removes the files first, because their lock file leads to them.
    private static func remove(_ path: String, in directory: String) {
        let begin = Directory.name(of: path) + String(separator)
        for name in (try? Directory.names(in: directory)) ?? [] where name.hasPrefix(begin) {
            try? Directory.remove("\(directory)/\(name)")
        }
        try? Directory.remove(path)
    }
}
