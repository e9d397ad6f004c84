// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

public import Blocks

/// A run of blocks that are adjacent in the volume and on the data device and were mapped at the
/// same time.
public struct MappingRun: Hashable, Sendable {
    /// First block of the volume.
    public let thinBlock: UInt64
    /// First block of the data device.
    public let dataBlock: UInt64
    /// Value of the pool's clock when the blocks were mapped.
    public let time: UInt32
    /// Number of blocks.
    public let length: UInt64
}

/// The mappings of a device, in ascending runs.
public struct Mappings {
    private var stream: LeafStream
    private let device: ThinDevice
    private var pending: MappingRun?
    private var count: UInt64 = 0

    init(
        _ store: NodeStore, _ device: ThinDevice, limits: MappingLimits
    ) throws(ThinMetadataError) {
        self.device = device
        stream = LeafStream(store, leaves: try store.leaves(of: device.mappingRoot), limits: limits)
    }

    /// The next run, or `nil` at the end.
    ///
    /// It reaches the end only if the number of mappings equals the count in the device's details.
    public mutating func next() throws(ThinMetadataError) -> MappingRun? {
        while try stream.fill() {
            while stream.position < stream.end {
                let key = stream.keys[stream.position]
                let value = stream.values[stream.position]
                stream.position += 1
                count += 1
                if let finished = append(key, value) { return finished }
            }
        }
        guard count == device.mappedBlocks else {
            throw ThinMetadataError(
                block: nil, .wrongMappingCount(found: count, expected: device.mappedBlocks))
        }
        defer { pending = nil }
        return pending
    }

    private mutating func append(_ key: UInt64, _ value: UInt64) -> MappingRun? {
        let (dataBlock, time) = (value >> 24, UInt32(value & 0xFF_FFFF))
        if let last = pending, last.time == time, last.thinBlock + last.length == key,
            last.dataBlock + last.length == dataBlock
        {
            pending = MappingRun(
                thinBlock: last.thinBlock, dataBlock: last.dataBlock, time: time,
                length: last.length + 1)
            return nil
        }
        defer {
            pending = MappingRun(thinBlock: key, dataBlock: dataBlock, time: time, length: 1)
        }
        return pending
    }
}

/// Locates the content of a thin volume on the pool's data device.
///
/// Use it for extents in ascending order: it holds the keys of all leaves (24 bytes per leaf of
/// about 200 mappings) and caches the last decoded leaf.
public final class ThinContentMap {
    /// Size of a block in bytes.
    public let blockByteCount: UInt64
    private let store: NodeStore
    private let limits: MappingLimits
    private let leaves: [NodeReference]
    private var current: (leaf: Int, stream: LeafStream)?

    init(
        _ store: NodeStore, _ device: ThinDevice, limits: MappingLimits, blockByteCount: UInt64
    ) throws(ThinMetadataError) {
        self.store = store
        self.limits = limits
        self.blockByteCount = blockByteCount
        leaves = try store.leaves(of: device.mappingRoot)
    }

    /// Splits an extent by the location of its content, in ascending order and without gaps.
    ///
    /// Blocks that are adjacent in the volume and on the data device form one piece. A piece
    /// without an offset is not mapped: it reads as zeros, or as the external origin if the volume
    /// has one.
    public func pieces(of extent: Extent) throws(ThinMetadataError) -> [ContentPiece] {
        var pieces: [ContentPiece] = []
        var start = extent.offset
        let lastBlock = (extent.end - 1) / blockByteCount
        var leaf = firstLeaf(for: start / blockByteCount)
        while leaf < leaves.count, leaves[leaf].low <= lastBlock {
            let stream = try decoded(leaf)
            for index in 0..<stream.end {
                let block = stream.keys[index]
                let byte = block * blockByteCount
                guard byte + blockByteCount > start else { continue }
                guard byte < extent.end else { break }
                if byte > start { append(from: start, upTo: byte, at: nil, to: &pieces) }
                start = max(start, byte)
                let offset = (stream.values[index] >> 24) * blockByteCount + (start - byte)
                let end = min(byte + blockByteCount, extent.end)
                append(from: start, upTo: end, at: offset, to: &pieces)
                start = end
            }
            leaf += 1
        }
        if start < extent.end { append(from: start, upTo: extent.end, at: nil, to: &pieces) }
        return pieces
    }

    private func append(
        from start: UInt64, upTo end: UInt64, at offset: UInt64?, to pieces: inout [ContentPiece]
    ) {
        if let last = pieces.last, last.extent.end == start,
            last.offset.map({ $0 + last.extent.length }) == offset,
            let merged = Extent(from: last.extent.offset, upTo: end)
        {
            pieces[pieces.count - 1] = ContentPiece(merged, at: last.offset)
        } else if let extent = Extent(from: start, upTo: end) {
            pieces.append(ContentPiece(extent, at: offset))
        }
    }

    /// The last leaf whose range begins at or before a block.
    private func firstLeaf(for block: UInt64) -> Int {
        var low = 0
        var high = leaves.count
        while low < high {
            let middle = low + (high - low) / 2
            if leaves[middle].low <= block { low = middle + 1 } else { high = middle }
        }
        return max(low - 1, 0)
    }

    private func decoded(_ leaf: Int) throws(ThinMetadataError) -> LeafStream {
        if let current, current.leaf == leaf { return current.stream }
        var stream = LeafStream(store, leaves: [leaves[leaf]], limits: limits)
        _ = try stream.fill()
        current = (leaf, stream)
        return stream
    }
}
