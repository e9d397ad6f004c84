// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

public import Blocks

/// Finds the content of a snapshot in its store.
public struct ExceptionMap: Sendable {
    /// Size of a chunk in bytes.
    public let chunkByteCount: UInt64
    private let records: [ExceptionRecord]

    /// Makes the map from records in any order.
    init(_ records: [ExceptionRecord], chunkByteCount: UInt64) {
        self.records = records.sorted { $0.chunk < $1.chunk }
        self.chunkByteCount = chunkByteCount
    }

    /// Number of chunks whose content the store holds.
    public var count: Int { records.count }

    /// Offset in bytes of a chunk's content in the store, or `nil` if the origin holds it.
    public func storeOffset(ofChunk chunk: UInt64) -> UInt64? {
        let index = firstIndex(notBefore: chunk)
        guard index < records.count, records[index].chunk == chunk else { return nil }
        return records[index].storeChunk * chunkByteCount
    }

    /// Splits an extent by the location of its content, in ascending order and without gaps.
    ///
    /// Chunks that are adjacent in the volume and at their location form one piece.
    public func pieces(of extent: Extent) -> [ContentPiece] {
        var pieces: [ContentPiece] = []
        var start = extent.offset
        var index = firstIndex(notBefore: extent.offset / chunkByteCount)
        while start < extent.end {
            let chunk = start / chunkByteCount
            if index < records.count, records[index].chunk == chunk {
                var last = index
                while last + 1 < records.count,
                    records[last].chunk * chunkByteCount < extent.end,
                    records[last + 1].chunk == records[last].chunk + 1,
                    records[last + 1].storeChunk == records[last].storeChunk + 1
                {
                    last += 1
                }
                let within = start - chunk * chunkByteCount
                let end = min((records[last].chunk + 1) * chunkByteCount, extent.end)
                append(
                    from: start, upTo: end,
                    at: records[index].storeChunk * chunkByteCount + within, to: &pieces)
                index = last + 1
                start = end
            } else {
                let next =
                    index < records.count ? records[index].chunk * chunkByteCount : UInt64.max
                let end = min(next, extent.end)
                append(from: start, upTo: end, at: nil, to: &pieces)
                start = end
            }
        }
        return pieces
    }

    private func append(
        from start: UInt64, upTo end: UInt64, at offset: UInt64?, to pieces: inout [ContentPiece]
    ) {
        guard let extent = Extent(from: start, upTo: end) else { return }
        pieces.append(ContentPiece(extent, at: offset))
    }

    private func firstIndex(notBefore chunk: UInt64) -> Int {
        var low = 0
        var high = records.count
        while low < high {
            let middle = low + (high - low) / 2
            if records[middle].chunk < chunk { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
