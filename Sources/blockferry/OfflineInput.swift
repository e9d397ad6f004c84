// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Blocks
internal import Foundation
internal import Platform
internal import SnapshotStore
internal import ThinMetadata

/// An unreadable or damaged file, with the message for the user.
struct DamagedInput: Error, CustomStringConvertible {
    let file: String
    let reason: String

    var description: String { "\(file): \(reason)" }
}

extension DamagedInput {
    /// Runs `body` and adds the file's name to every error of the readers.
    static func naming<Value>(_ file: String, _ body: () throws -> Value) throws -> Value {
        do {
            return try body()
        } catch let error as ByteSourceError {
            throw DamagedInput(file: file, reason: error.sentence)
        } catch let error as SnapshotStoreError {
            if case .read(let cause) = error {
                throw DamagedInput(file: file, reason: cause.sentence)
            }
            throw DamagedInput(file: file, reason: "\(error)")
        } catch let error as ThinMetadataError {
            if case .read(let cause) = error.reason {
                throw DamagedInput(file: file, reason: cause.sentence)
            }
            throw DamagedInput(file: file, reason: "\(error)")
        }
    }
}

/// Output that is printed only completely, after everything has succeeded.
///
/// A list that turns out to be damaged half-way must not be printed in part. Up to 1 MiB stays in
/// memory; a longer one goes to a nameless temporary file.
final class Spool {
    private var pending = Data()
    private var file: FileHandle?
    private static let memoryByteCount = 1 << 20

    func append(_ text: String) throws {
        pending.append(contentsOf: text.utf8)
        if pending.count >= Self.memoryByteCount { try flush() }
    }

    /// Writes `prefix`, the collected text and `suffix` to standard output.
    func print(prefix: String = "", suffix: String = "") throws {
        let output = FileHandle.standardOutput
        try output.write(contentsOf: Data(prefix.utf8))
        if let file {
            try flush()
            try file.seek(toOffset: 0)
            while let part = try file.read(upToCount: Self.memoryByteCount), !part.isEmpty {
                try output.write(contentsOf: part)
            }
        } else {
            try output.write(contentsOf: pending)
        }
        try output.write(contentsOf: Data(suffix.utf8))
    }

    private func flush() throws {
        if file == nil {
            let path = FileManager.default.temporaryDirectory
                .appendingPathComponent("blockferry-\(UUID().uuidString)")
            guard
                FileManager.default.createFile(
                    atPath: path.path, contents: nil, attributes: [.posixPermissions: 0o600])
            else {
                throw DamagedInput(file: path.path, reason: "cannot make a temporary file")
            }
            file = try FileHandle(forUpdating: path)
            try FileManager.default.removeItem(at: path)
        }
        try file?.write(contentsOf: pending)
        pending.removeAll(keepingCapacity: true)
    }
}

/// The two kinds of input; a command takes exactly one.
struct OfflineInput: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Metadata of a thin pool (tmeta): a file, or the device of a pool that is not active.",
            valueName: "file"))
    var thinMetadata: String?

    @Option(
        help: ArgumentHelp(
            "Store of a classic snapshot (the -cow device): a file or a device.",
            valueName: "file"))
    var cowStore: String?

    @Flag(help: "Read the metadata snapshot that the pool holds, as an active pool must be read.")
    var metadataSnapshot = false

    @Flag(help: "Accept a store that a kernel older than 3.14 wrote: any order of data chunks.")
    var anyAllocationOrder = false

    func validate() throws {
        guard thinMetadata == nil || cowStore == nil else {
            throw ValidationError("Give either --thin-metadata or --cow-store.")
        }
        guard thinMetadata != nil || !metadataSnapshot else {
            throw ValidationError("--metadata-snapshot belongs to --thin-metadata.")
        }
        guard cowStore != nil || !anyAllocationOrder else {
            throw ValidationError("--any-allocation-order belongs to --cow-store.")
        }
    }

    /// Opens a pool's metadata.
    func openPool(_ file: String, allowsNeedsCheck: Bool = false) throws -> ThinMetadataReader {
        try ThinMetadataReader(
            try FileBytes(path: file), root: metadataSnapshot ? .metadataSnapshot : .current,
            allowsNeedsCheck: allowsNeedsCheck)
    }

    /// Opens a snapshot's store.
    func openStore(_ file: String, volumeByteCount: UInt64?) throws -> SnapshotStoreReader {
        try SnapshotStoreReader(
            try FileBytes(path: file), volumeByteCount: volumeByteCount,
            order: anyAllocationOrder ? .any : .sequential)
    }
}
