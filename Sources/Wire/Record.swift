// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests

/// Effect of a record on its extent.
package enum RecordKind: UInt8, Sendable {
    /// The record carries content.
    case data = 1
    /// The extent reads as zeros.
    case zero = 2
    /// The extent reads as zeros, and the source has no storage there.
    case unmap = 3
}

/// Storage form of a data record's content.
package enum RecordEncoding: UInt8, Sendable {
    case raw = 0
    case zstd = 1
}

/// One record without its stored bytes (Specification 6).
///
/// | offset | size | field           |
/// |-------:|-----:|-----------------|
/// |      0 |    1 | kind            |
/// |      1 |    1 | encoding        |
/// |      2 |    2 | tag count       |
/// |      4 |    4 | stored length   |
/// |      8 |    8 | offset          |
/// |     16 |    8 | length          |
/// |     24 |    4 | reserved, zero  |
/// |     28 |    4 | header checksum |
/// |     32 | 16 n | tags            |
package struct RecordHeader: Equatable, Sendable {
    package var kind: RecordKind
    package var encoding: RecordEncoding
    /// Length of the stored content after the tags, in bytes.
    package var storedLength: Int
    /// Offset of the extent in the volume, in bytes.
    package var offset: UInt64
    /// Length of the extent in bytes.
    package var length: UInt64
    /// One tag for each 64 KiB block of the volume that a data record touches.
    package var tags: [Tag]

    /// The byte after the extent.
    package var end: UInt64 { offset + length }

    /// Length of header and tags in bytes.
    package var prefixLength: Int { Limits.recordHeader + tags.count * 16 }

    package init(
        data offset: UInt64, length: Int, encoding: RecordEncoding, storedLength: Int, tags: [Tag]
    ) {
        kind = .data
        self.encoding = encoding
        self.storedLength = storedLength
        self.offset = offset
        self.length = UInt64(length)
        self.tags = tags
    }

    /// A record without content.
    package init(_ kind: RecordKind, offset: UInt64, length: UInt64) {
        precondition(kind != .data)
        self.kind = kind
        encoding = .raw
        storedLength = 0
        self.offset = offset
        self.length = length
        tags = []
    }

    /// The number of blocks that `length` bytes at `offset` touch; `length` is at least one.
    package static func tagCount(offset: UInt64, length: UInt64) -> Int {
        let block = UInt64(Limits.blockByteCount)
        return Int(clamping: (offset + length - 1) / block - offset / block + 1)
    }

    /// Reads the length of header and tags from the first 32 bytes and checks everything that does
    /// not need the tags.
    ///
    /// - Parameter recordLength: length of the whole record in bytes, if its end is known.
    package static func prefixLength(
        decoding bytes: RawSpan, recordLength: Int?
    ) throws(WireError) -> Int {
        let fixed = try FixedPart(decoding: bytes)
        if let recordLength { try fixed.check(recordLength: recordLength) }
        return fixed.prefixLength
    }

    /// Reads the length of the whole record from the first 32 bytes, with the same checks.
    package static func byteCount(decoding bytes: RawSpan) throws(WireError) -> Int {
        let fixed = try FixedPart(decoding: bytes)
        return fixed.prefixLength + fixed.storedLength
    }

    /// Decodes header and tags; `recordLength` is the length of the whole record in bytes, if its
    /// end is known.
    package init(decoding bytes: RawSpan, recordLength: Int?) throws(WireError) {
        let reader = FieldReader("record")
        let fixed = try FixedPart(decoding: bytes)
        if let recordLength { try fixed.check(recordLength: recordLength) }
        guard bytes.byteCount >= fixed.prefixLength else { throw reader.error(.truncated) }
        var state = CRC32C.update(.max, bytes.extracting(0..<28))
        state = CRC32C.update(
            state, bytes.extracting(Limits.recordHeader..<fixed.prefixLength))
        guard ~state == fixed.checksum else { throw reader.error(.headerChecksum) }
        kind = fixed.kind
        encoding = fixed.encoding
        storedLength = fixed.storedLength
        offset = fixed.offset
        length = fixed.length
        tags = []
        tags.reserveCapacity(fixed.tagCount)
        for index in 0..<fixed.tagCount {
            do {
                tags.append(try Tag(bytes, at: Limits.recordHeader + index * 16))
            } catch {
                throw reader.error(.truncated)
            }
        }
    }

    /// Checks the record against the transfer: the volume's end, alignment and order.
    package func check(volumeSize: UInt64, previousEnd: UInt64, isFull: Bool) throws(WireError) {
        guard end <= volumeSize else { throw WireError("record", .pastVolumeEnd) }
        guard length % Limits.sectorByteCount == 0 || end == volumeSize else {
            throw WireError("record", .lengthAlignment)
        }
        guard isFull ? offset == previousEnd : offset >= previousEnd else {
            throw WireError("record", .order)
        }
    }

    package func encoded() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(prefixLength)
        bytes.append(kind.rawValue)
        bytes.append(encoding.rawValue)
        bytes.append(littleEndian: UInt16(tags.count))
        bytes.append(littleEndian: UInt32(storedLength))
        bytes.append(littleEndian: offset)
        bytes.append(littleEndian: length)
        bytes.append(zeros: 4)
        var tagBytes: [UInt8] = []
        for tag in tags { tagBytes.append(contentsOf: tag.bytes) }
        var state = bytes.withRawSpan { CRC32C.update(.max, $0.extracting(0..<28)) }
        state = tagBytes.withRawSpan { CRC32C.update(state, $0) }
        bytes.append(littleEndian: ~state)
        bytes.append(contentsOf: tagBytes)
        return bytes
    }
}

/// The first 32 bytes of a record, with all checks that need only them.
private struct FixedPart {
    let kind: RecordKind
    let encoding: RecordEncoding
    let tagCount: Int
    let storedLength: Int
    let offset: UInt64
    let length: UInt64
    let checksum: UInt32

    var prefixLength: Int { Limits.recordHeader + tagCount * 16 }

    init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("record")
        guard bytes.byteCount >= Limits.recordHeader else { throw reader.error(.truncated) }
        guard let kind = RecordKind(rawValue: try reader.integer(UInt8.self, bytes)) else {
            throw reader.error(.badKind)
        }
        guard let encoding = RecordEncoding(rawValue: try reader.integer(UInt8.self, bytes)),
            kind == .data || encoding == .raw
        else { throw reader.error(.badEncoding) }
        let tags = try reader.integer(UInt16.self, bytes)
        let stored = try reader.integer(UInt32.self, bytes)
        offset = try reader.integer(UInt64.self, bytes)
        length = try reader.integer(UInt64.self, bytes)
        try reader.reserved(4, bytes)
        checksum = try reader.integer(UInt32.self, bytes)
        guard length > 0 else { throw reader.error(.zeroLength) }
        guard length <= Limits.volumeSize, offset <= Limits.volumeSize - length else {
            throw reader.error(.extentOverflow)
        }
        guard offset % Limits.sectorByteCount == 0 else { throw reader.error(.offsetAlignment) }
        if kind == .data {
            guard length <= Limits.recordContent else { throw reader.error(.dataTooLong) }
            guard Int(tags) == RecordHeader.tagCount(offset: offset, length: length) else {
                throw reader.error(.tagCount)
            }
            let bounds = encoding == .raw ? length...length : 1...max(length - 1, 1)
            guard bounds.contains(UInt64(stored)), encoding == .raw || length > 1 else {
                throw reader.error(.storedLength)
            }
        } else {
            guard tags == 0 else { throw reader.error(.tagCount) }
            guard stored == 0 else { throw reader.error(.storedLength) }
        }
        self.kind = kind
        self.encoding = encoding
        tagCount = Int(tags)
        storedLength = Int(stored)
    }

    func check(recordLength: Int) throws(WireError) {
        let expected = prefixLength + storedLength
        if recordLength < expected { throw WireError("record", .truncated) }
        if recordLength > expected { throw WireError("record", .trailingBytes) }
    }
}
