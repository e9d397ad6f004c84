// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Platform
package import Wire

/// The seals of the segments sent so far, beside the plan (Protocol/SendPlan.md).
///
/// The file is not synced: segments whose seals a power cut removes are sent again.
package final class SealsFile {
    private let file: File
    /// The valid entries in order.
    package private(set) var seals: [Seal] = []

    private static let entryByteCount = 72

    /// Opens the file, or makes an empty one.
    package init(path: String) throws {
        if Directory.exists(path) {
            file = try File(path: path, [.write, .noFollow])
            try load()
        } else {
            file = try File(path: path, [.write, .createNew])
        }
    }

    private func load() throws {
        while true {
            let bytes = try file.readBytes(
                at: UInt64(seals.count * Self.entryByteCount), count: Self.entryByteCount)
            guard let seal = bytes.withRawSpan({ Self.decode($0) }), seal.index == seals.count
            else { return }
            seals.append(seal)
        }
    }

    private static func decode(_ bytes: RawSpan) -> Seal? {
        guard bytes.byteCount == entryByteCount,
            CRC32C.checksum(bytes.extracting(0..<68)) == (try? bytes.littleEndian(at: 68))
        else { return nil }
        return try? Seal(decoding: bytes.extracting(0..<64))
    }

    /// Drops every entry from `count` on: those segments are sent again.
    package func truncate(to count: Int) {
        seals.removeLast(seals.count - count)
    }

    /// Adds the next seal.
    package func append(_ seal: Seal) throws {
        var bytes = seal.encoded()
        bytes.append(contentsOf: [0, 0, 0, 0])
        bytes.append(littleEndian: bytes.withRawSpan { CRC32C.checksum($0) })
        try file.write(bytes, at: UInt64(seals.count * Self.entryByteCount))
        seals.append(seal)
    }
}
