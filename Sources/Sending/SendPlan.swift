// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
internal import Platform
package import Wire

/// The change list of an unfinished generation, on disk (Protocol/SendPlan.md).
///
/// It is written once and then streamed, so memory does not grow with the change. The cut into
/// segments is a function of the entries, so a retry sends the same segments.
package struct SendPlan: Sendable {
    /// Path of the file.
    package let path: String
    /// The transfer it belongs to.
    package let transfer: TransferID
    /// Size of the volume in bytes.
    package let volumeByteCount: UInt64
    /// Number of entries.
    package let entryCount: UInt64
    /// Total bytes of the data entries.
    package let content: UInt64
    /// Number of segments.
    package let segmentCount: UInt64
    /// Size of the segments: the smallest growth with which the plan fits into one transfer.
    package let growth: SegmentGrowth

    private static let magic = Array("BFPLAN01".utf8)
    private static let headerByteCount = 64
    private static let entryByteCount = 16
    private static let bufferEntries = 4096

    /// Writes a plan; `list` calls back with each entry. The plan may exceed the segments of a
    /// transfer.
    ///
    /// 1. Entries, then the header are written and synced. A crash leaves a file that no catalog
    ///    names; making the next plan removes it.
    /// 2. The caller enters the plan into the catalog.
    package init(
        writing path: String, transfer: TransferID, volumeByteCount: UInt64,
        _ list: ((Change) throws -> Void) throws -> Void
    ) throws {
        let file = try File(path: path, [.write, .createNew])
        var cutter = SegmentCutter(.none)
        var buffer: [UInt8] = []
        var position = UInt64(Self.headerByteCount)
        var checksum = UInt32.max
        var entries: UInt64 = 0
        var content: UInt64 = 0
        func flush() throws {
            checksum = buffer.withRawSpan { CRC32C.update(checksum, $0) }
            try file.write(buffer, at: position)
            position += UInt64(buffer.count)
            buffer.removeAll(keepingCapacity: true)
        }
        try list { change in
            buffer.append(
                littleEndian: change.extent.offset | (change.kind == .unmapped ? 1 : 0))
            buffer.append(littleEndian: change.extent.length)
            entries += 1
            if change.kind == .data { content += change.extent.length }
            cutter.cut(change) { _ in }
            if buffer.count >= Self.bufferEntries * Self.entryByteCount { try flush() }
        }
        try flush()
        var growth = cutter.growth.next
        while cutter.segmentCount > Limits.segments, let next = growth {
            growth = next.next
            // This much content does not fit, however it is distributed.
            if growth != nil, content / Limits.segments > next.content / 2 { continue }
            cutter = SegmentCutter(next)
            try Self.forEachBuffer(path, entries) { bytes in
                for case let change? in Self.changes(in: bytes) { cutter.cut(change) { _ in } }
            }
        }
        var header = Self.magic
        header.append(contentsOf: transfer.bytes)
        header.append(littleEndian: volumeByteCount)
        header.append(littleEndian: entries)
        header.append(littleEndian: content)
        header.append(littleEndian: UInt32(clamping: cutter.segmentCount))
        header.append(contentsOf: [cutter.growth.rawValue, 0, 0, 0])
        header.append(littleEndian: ~checksum)
        header.append(littleEndian: header.withRawSpan { CRC32C.checksum($0) })
        try file.write(header, at: 0)
        try file.sync()
        try Directory.sync(Directory.parent(of: path))
        self.path = path
        self.transfer = transfer
        self.volumeByteCount = volumeByteCount
        entryCount = entries
        self.content = content
        segmentCount = cutter.segmentCount
        self.growth = cutter.growth
    }

    /// Opens a plan, or returns `nil` if it is missing or incomplete.
    package init?(reading path: String) {
        guard let file = try? File(path: path, .noFollow),
            let header = try? file.readBytes(at: 0, count: Self.headerByteCount)
        else { return nil }
        let fields = header.withRawSpan { Self.fields($0) }
        guard let fields else { return nil }
        self.path = path
        transfer = fields.transfer
        volumeByteCount = fields.numbers[0]
        entryCount = fields.numbers[1]
        content = fields.numbers[2]
        segmentCount = fields.segments
        growth = fields.growth
        guard (try? checkEntries(fields.checksum)) == true else { return nil }
    }

    private static func fields(
        _ bytes: RawSpan
    ) -> (
        transfer: TransferID, numbers: [UInt64], segments: UInt64, growth: SegmentGrowth,
        checksum: UInt32
    )? {
        guard bytes.byteCount == headerByteCount,
            CRC32C.checksum(bytes.extracting(0..<60)) == (try? bytes.littleEndian(at: 60)),
            (try? bytes.copyBytes(at: 0, count: 8)) == magic,
            let id = try? bytes.copyBytes(at: 8, count: 16), let transfer = TransferID(bytes: id),
            let checksum: UInt32 = try? bytes.littleEndian(at: 56)
        else { return nil }
        guard let segments: UInt32 = try? bytes.littleEndian(at: 48), segments <= Limits.segments,
            let rest = try? bytes.copyBytes(at: 52, count: 4),
            let growth = SegmentGrowth(rawValue: rest[0]), rest[1...].allSatisfy({ $0 == 0 })
        else { return nil }
        let numbers = [24, 32, 40].compactMap { offset -> UInt64? in
            try? bytes.littleEndian(at: offset)
        }
        guard numbers.count == 3, (1...Limits.volumeSize).contains(numbers[0]),
            numbers[1] <= 1 << 40
        else { return nil }
        return (transfer, numbers, UInt64(segments), growth, checksum)
    }

    private func checkEntries(_ expected: UInt32) throws -> Bool {
        var checksum = UInt32.max
        var end: UInt64 = 0
        var isOrdered = true
        try forEachBuffer { bytes in
            checksum = bytes.withRawSpan { CRC32C.update(checksum, $0) }
            for change in Self.changes(in: bytes) {
                guard let change, change.extent.offset >= end,
                    change.extent.end <= volumeByteCount
                else { return isOrdered = false }
                end = change.extent.end
            }
        }
        return isOrdered && ~checksum == expected
    }

    /// Calls back with each entry in order.
    package func forEach(_ body: (Change) throws -> Void) throws {
        try forEachBuffer { bytes in
            for case let change? in Self.changes(in: bytes) { try body(change) }
        }
    }

    private func forEachBuffer(_ body: ([UInt8]) throws -> Void) throws {
        try Self.forEachBuffer(path, entryCount, body)
    }

    private static func forEachBuffer(
        _ path: String, _ entryCount: UInt64, _ body: ([UInt8]) throws -> Void
    ) throws {
        let file = try File(path: path, .noFollow)
        var left = Int(entryCount)
        var position = UInt64(headerByteCount)
        while left > 0 {
            let count = min(left, bufferEntries) * entryByteCount
            let bytes = try file.readBytes(at: position, count: count)
            guard bytes.count == count else {
                throw SourceError.invalid(path: path, reason: "the plan ends early")
            }
            try body(bytes)
            position += UInt64(count)
            left -= count / entryByteCount
        }
    }

    private static func changes(in bytes: [UInt8]) -> [Change?] {
        bytes.withRawSpan { span in
            stride(from: 0, to: span.byteCount, by: entryByteCount).map { start -> Change? in
                guard let offset: UInt64 = try? span.littleEndian(at: start),
                    let length: UInt64 = try? span.littleEndian(at: start + 8),
                    (offset & ~1).isMultiple(of: Limits.sectorByteCount),
                    let extent = Extent(offset: offset & ~1, length: length)
                else { return nil }
                return Change(extent, offset & 1 == 0 ? .data : .unmapped)
            }
        }
    }
}

/// Cuts entries into pieces and pieces into segments (Protocol/SendPlan.md, Cutting).
package struct SegmentCutter {
    /// Size of the segments.
    package let growth: SegmentGrowth
    /// Largest content of a segment in bytes: half of the protocol's limit, so that one segment can
    /// be sent while the previous one waits for its ACK.
    package let segmentContent: UInt64
    /// Largest number of pieces in a segment.
    package let segmentPieces: Int

    private var index: UInt64 = 0
    private var content: UInt64 = 0
    private var pieces = 0

    package init(_ growth: SegmentGrowth) {
        self.growth = growth
        segmentContent = growth.content / 2
        segmentPieces = 8192 << Int(growth.rawValue)
    }

    /// A part of an entry that is read and sent as one unit.
    package struct Piece: Equatable, Sendable {
        package var change: Change
        /// Index of its segment.
        package var segment: UInt64
    }

    /// Number of segments so far.
    package var segmentCount: UInt64 { pieces == 0 ? index : index + 1 }

    /// Cuts the next entry.
    package mutating func cut(_ change: Change, _ body: (Piece) throws -> Void) rethrows {
        let unit = UInt64(Limits.recordContent)
        var start = change.extent.offset
        while start < change.extent.end {
            let border = change.kind == .data ? (start / unit + 1) * unit : change.extent.end
            guard let extent = Extent(from: start, upTo: min(border, change.extent.end)) else {
                return
            }
            let more = change.kind == .data ? extent.length : 0
            if pieces == segmentPieces || content + more > segmentContent {
                index += 1
                content = 0
                pieces = 0
            }
            content += more
            pieces += 1
            try body(Piece(change: Change(extent, change.kind), segment: index))
            start = extent.end
        }
    }
}
