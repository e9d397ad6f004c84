// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Digests

/// Structures of the staging log (Protocol/StagingLog.md).
package enum StagingLogFormat {
    /// Size of a header and unit of all positions, in bytes.
    package static let unit = 4096

    /// Destination of a transfer's records before the commit.
    package enum Mode: UInt32, Sendable {
        /// The log; the target is unchanged until the commit.
        case staged = 1
        /// The target, whose content needs no protection.
        case inPlace = 2
    }

    /// Largest length of a segment's records in bytes.
    private static func recordBytesLimit(_ growth: SegmentGrowth) -> UInt64 {
        UInt64(growth.records) * UInt64(Limits.recordPrefix) + growth.content
    }

    /// Rounds a length up to the unit.
    package static func padded(_ length: UInt64) -> UInt64 {
        (length + UInt64(unit) - 1) / UInt64(unit) * UInt64(unit)
    }

    /// Checks the bytes between a segment's records and the next unit.
    package static func check(padding: RawSpan) throws(WireError) {
        var reader = FieldReader("staging-log-segment")
        for _ in 0..<padding.byteCount where try reader.integer(UInt8.self, padding) != 0 {
            throw reader.error(.padding)
        }
    }

    /// The first 4096 bytes of a log.
    package struct Header: Equatable, Sendable {
        package var mode: Mode
        package var id: StagingLogID
        /// The announcement, with `heldSegments` 0.
        package var begin: Begin

        package init(mode: Mode, id: StagingLogID, begin: Begin) {
            self.mode = mode
            self.id = id
            self.begin = begin
            self.begin.heldSegments = 0
        }

        package init(decoding bytes: RawSpan) throws(WireError) {
            var reader = FieldReader("staging-log-header")
            try reader.checkBlock(bytes)
            guard try reader.fixed(8, bytes) == Array("BFSTAGE1".utf8) else {
                throw reader.error(.badMagic)
            }
            guard try reader.integer(UInt32.self, bytes) == 1 else {
                throw reader.error(.badFormat)
            }
            guard let mode = Mode(rawValue: try reader.integer(UInt32.self, bytes)) else {
                throw reader.error(.badMode)
            }
            self.mode = mode
            id = try reader.identifier(bytes)
            guard !id.isNone else { throw reader.error(.zeroLogID) }
            let length = try reader.integer(UInt32.self, bytes)
            guard (202...1024).contains(length) else { throw reader.error(.beginLength) }
            try reader.reserved(4, bytes)
            let announcement = try reader.fixed(Int(length), bytes)
            try reader.reserved(unit - 4 - reader.offset, bytes)
            begin = try announcement.withRawSpan { (span) throws(WireError) in
                try Begin(decoding: span)
            }
            guard begin.heldSegments == 0 else { throw reader.error(.heldSegments) }
        }

        package func encoded() -> [UInt8] {
            var bytes = Array("BFSTAGE1".utf8)
            bytes.append(littleEndian: UInt32(1))
            bytes.append(littleEndian: mode.rawValue)
            bytes.append(contentsOf: id.bytes)
            let announcement = begin.encoded()
            bytes.append(littleEndian: UInt32(announcement.count))
            bytes.append(zeros: 4)
            bytes.append(contentsOf: announcement)
            bytes.sealBlock()
            return bytes
        }
    }

    /// The 4096 bytes before the records of a segment.
    package struct SegmentHeader: Equatable, Sendable {
        package var logID: StagingLogID
        /// The SEAL of the segment.
        package var seal: Seal
        /// Length in bytes of the records that follow; 0 in mode in place.
        package var recordBytes: UInt64

        package init(logID: StagingLogID, seal: Seal, recordBytes: UInt64) {
            self.logID = logID
            self.seal = seal
            self.recordBytes = recordBytes
        }

        /// Bytes from the start of this header to the next one.
        package var span: UInt64 { UInt64(unit) + padded(recordBytes) }

        /// Decodes the header of segment `index` in the log `id`, whose BEGIN has this `growth`;
        /// `available` is the number of bytes in the file after the header.
        package init(
            decoding bytes: RawSpan, logID: StagingLogID, mode: Mode, growth: SegmentGrowth,
            index: UInt64, available: UInt64
        ) throws(WireError) {
            var reader = FieldReader("staging-log-segment")
            try reader.checkBlock(bytes)
            guard try reader.fixed(8, bytes) == Array("BFSEGMT1".utf8) else {
                throw reader.error(.badMagic)
            }
            self.logID = try reader.identifier(bytes)
            guard self.logID == logID else { throw reader.error(.logID) }
            guard try reader.integer(UInt64.self, bytes) == index else {
                throw reader.error(.segmentIndex)
            }
            recordBytes = try reader.integer(UInt64.self, bytes)
            let count = try reader.integer(UInt32.self, bytes)
            guard (1...growth.records).contains(count) else {
                throw reader.error(.badRecordCount)
            }
            try reader.reserved(4, bytes)
            let content = try reader.integer(UInt64.self, bytes)
            let end = try reader.integer(UInt64.self, bytes)
            let digest = try reader.digest(bytes)
            try reader.reserved(unit - 4 - reader.offset, bytes)
            guard content <= growth.content else { throw reader.error(.contentLimit) }
            switch mode {
            case .inPlace:
                guard recordBytes == 0 else { throw reader.error(.recordBytes) }
            case .staged:
                guard recordBytes >= UInt64(Limits.recordHeader) * UInt64(count),
                    recordBytes <= recordBytesLimit(growth), padded(recordBytes) <= available
                else { throw reader.error(.recordBytes) }
            }
            seal = Seal(
                index: index, recordCount: count, content: content, endOffset: end, digest: digest)
        }

        package func encoded() -> [UInt8] {
            var bytes = Array("BFSEGMT1".utf8)
            bytes.append(contentsOf: logID.bytes)
            bytes.append(littleEndian: seal.index)
            bytes.append(littleEndian: recordBytes)
            bytes.append(littleEndian: seal.recordCount)
            bytes.append(zeros: 4)
            bytes.append(littleEndian: seal.content)
            bytes.append(littleEndian: seal.endOffset)
            bytes.append(contentsOf: seal.digest.bytes)
            bytes.sealBlock()
            return bytes
        }
    }
}

extension FieldReader {
    /// Checks that the block is complete and that its last four bytes are its checksum.
    func checkBlock(_ bytes: RawSpan) throws(WireError) {
        guard bytes.byteCount >= StagingLogFormat.unit else { throw error(.truncated) }
        let covered = StagingLogFormat.unit - 4
        let stored: UInt32
        do { stored = try bytes.littleEndian(at: covered) } catch { throw self.error(.truncated) }
        guard stored == CRC32C.checksum(bytes.extracting(0..<covered)) else {
            throw error(.headerChecksum)
        }
    }
}

extension [UInt8] {
    /// Pads a header to 4092 bytes and appends the checksum.
    mutating func sealBlock() {
        append(zeros: StagingLogFormat.unit - 4 - count)
        append(littleEndian: withRawSpan { CRC32C.checksum($0) })
    }
}
