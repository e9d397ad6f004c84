// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests

/// The structures of a map's file and of its updates (Protocol/TagMap.md, 3 and 4).
package enum TagMapFormat {
    /// Size in bytes of a header, of a page, and of the digests of a strip's pages.
    package static let unit = 4096
    /// Number of pages in a strip.
    package static let stripPages: UInt64 = 128

    /// Size of a strip in bytes: its digests and its pages.
    package static let stripByteCount = UInt64(unit) * (stripPages + 1)

    /// Position of the digests of a strip's pages.
    package static func position(ofStrip strip: UInt64) -> UInt64 {
        UInt64(unit) + strip * stripByteCount
    }

    /// The strip that contains a byte of the file; for the header, the first one.
    package static func strip(at position: UInt64) -> UInt64 {
        (max(position, UInt64(unit)) - UInt64(unit)) / stripByteCount
    }

    /// Position of a page in the file.
    package static func position(ofPage page: UInt64) -> UInt64 {
        position(ofStrip: page / stripPages) + UInt64(unit) * (1 + page % stripPages)
    }

    /// The first 4096 bytes of a map.
    package struct Header: Equatable, Sendable {
        package var algorithm: TagAlgorithm
        /// Zeros if the map belongs to no generation.
        package var lineage: LineageID
        /// Zeros if the map belongs to no generation.
        package var generation: SHA256Digest
        /// Size of the volume in bytes.
        package var volumeSize: UInt64
        package var root: SHA256Digest

        package init(
            algorithm: TagAlgorithm, lineage: LineageID, generation: SHA256Digest,
            volumeSize: UInt64, root: SHA256Digest
        ) {
            self.algorithm = algorithm
            self.lineage = lineage
            self.generation = generation
            self.volumeSize = volumeSize
            self.root = root
        }

        package init(decoding bytes: RawSpan) throws(WireError) {
            var reader = FieldReader("tag-map-header")
            try reader.checkBlock(bytes)
            guard try reader.fixed(8, bytes) == Array("BFTAGMAP".utf8) else {
                throw reader.error(.badMagic)
            }
            guard try reader.integer(UInt16.self, bytes) == 1 else {
                throw reader.error(.badFormat)
            }
            guard let algorithm = TagAlgorithm(rawValue: try reader.integer(UInt8.self, bytes))
            else { throw reader.error(.badTagAlgorithm) }
            self.algorithm = algorithm
            try reader.reserved(5, bytes)
            lineage = try reader.identifier(bytes)
            generation = try reader.digest(bytes)
            volumeSize = try reader.volumeSize(bytes)
            root = try reader.digest(bytes)
            try reader.reserved(unit - 4 - reader.offset, bytes)
        }

        package func encoded() -> [UInt8] {
            var bytes = Array("BFTAGMAP".utf8)
            bytes.append(littleEndian: UInt16(1))
            bytes.append(algorithm.rawValue)
            bytes.append(contentsOf: [0, 0, 0, 0, 0])
            bytes.append(contentsOf: lineage.bytes)
            bytes.append(contentsOf: generation.bytes)
            bytes.append(littleEndian: volumeSize)
            bytes.append(contentsOf: root.bytes)
            bytes.sealBlock()
            return bytes
        }
    }

    /// The map that the updates change.
    package enum Base: UInt8, Sendable {
        /// The map of the parent generation.
        case parent = 1
        /// A map of zeros: the updates form the whole new map.
        case zeros = 2
    }

    /// The first 4096 bytes of an updates file.
    package struct UpdateHeader: Equatable, Sendable {
        package var base: Base
        package var transfer: TransferID

        package init(base: Base, transfer: TransferID) {
            self.base = base
            self.transfer = transfer
        }

        package init(decoding bytes: RawSpan) throws(WireError) {
            var reader = FieldReader("tag-map-update-header")
            try reader.checkBlock(bytes)
            guard try reader.fixed(8, bytes) == Array("BFTAGUPD".utf8) else {
                throw reader.error(.badMagic)
            }
            guard try reader.integer(UInt16.self, bytes) == 1 else {
                throw reader.error(.badFormat)
            }
            guard let base = Base(rawValue: try reader.integer(UInt8.self, bytes)) else {
                throw reader.error(.badBase)
            }
            self.base = base
            try reader.reserved(5, bytes)
            transfer = try reader.identifier(bytes)
            guard !transfer.isNone else { throw reader.error(.zeroTransfer) }
            try reader.reserved(unit - 4 - reader.offset, bytes)
        }

        package func encoded() -> [UInt8] {
            var bytes = Array("BFTAGUPD".utf8)
            bytes.append(littleEndian: UInt16(1))
            bytes.append(base.rawValue)
            bytes.append(contentsOf: [0, 0, 0, 0, 0])
            bytes.append(contentsOf: transfer.bytes)
            bytes.sealBlock()
            return bytes
        }
    }

    /// A block and its new entry.
    package struct Update: Equatable, Sendable {
        package var block: UInt64
        package var entry: Tag

        package init(block: UInt64, entry: Tag) {
            self.block = block
            self.entry = entry
        }
    }

    /// Largest number of updates in one page.
    package static let pageUpdates = 170

    /// Decodes a page of updates that follow the block `previous`; returns `nil` if the page is
    /// invalid.
    package static func updates(
        decoding bytes: RawSpan, after previous: UInt64?
    ) -> [Update]? {
        guard bytes.byteCount == unit,
            let count = try? bytes.littleEndian(at: 0, as: UInt32.self),
            (1...pageUpdates).contains(Int(count)),
            let checksum = try? bytes.littleEndian(at: 4, as: UInt32.self),
            checksum == self.checksum(of: bytes)
        else { return nil }
        var updates: [Update] = []
        updates.reserveCapacity(Int(count))
        var last = previous
        for index in 0..<Int(count) {
            guard
                let block = try? bytes.littleEndian(at: 8 + 24 * index, as: UInt64.self),
                let entry = try? Tag(bytes, at: 16 + 24 * index),
                last.map({ $0 < block }) ?? true
            else { return nil }
            updates.append(Update(block: block, entry: entry))
            last = block
        }
        guard bytes.extracting(8 + 24 * Int(count)..<unit).isAllZero else { return nil }
        return updates
    }

    /// Encodes a page of 1 to 170 updates.
    package static func encoded(_ updates: [Update]) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(unit)
        bytes.append(littleEndian: UInt32(updates.count))
        bytes.append(littleEndian: UInt32(0))
        for update in updates {
            bytes.append(littleEndian: update.block)
            update.entry.append(to: &bytes)
        }
        bytes.append(contentsOf: repeatElement(0, count: unit - bytes.count))
        var checksum: [UInt8] = []
        checksum.append(littleEndian: bytes.withRawSpan { self.checksum(of: $0) })
        bytes.replaceSubrange(4..<8, with: checksum)
        return bytes
    }

    private static func checksum(of page: RawSpan) -> UInt32 {
        ~CRC32C.update(CRC32C.update(.max, page.extracting(0..<4)), page.extracting(8..<unit))
    }
}
