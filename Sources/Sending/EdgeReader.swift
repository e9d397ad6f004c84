// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Digests
internal import MapStore
internal import Platform
internal import TagMap
internal import Wire

/// Reads the blocks that a piece of a plan covers only in part: their tag map entries need more
/// than the content that is sent.
final class EdgeReader {
    private let shape: MapShape
    private let tagger: Tagger
    /// Entries of blocks below this one are known.
    private let first: UInt64
    private let memory = AlignedBuffer(byteCount: Tagger.blockByteCount)
    private var last: TagMapFormat.Update?

    init(_ shape: MapShape, _ tagger: Tagger, first: UInt64) {
        self.shape = shape
        self.tagger = tagger
        self.first = first
    }

    /// Whether the entries of all blocks in an extent are known.
    func isKnown(_ extent: Extent) -> Bool { MapShape.blocks(of: extent).upperBound <= first }

    /// The entries of an extent's first and last block, if the extent covers them only in part.
    func updates(of extent: Extent, _ source: any Source) throws -> [TagMapFormat.Update] {
        let blocks = MapShape.blocks(of: extent)
        var updates: [TagMapFormat.Update] = []
        for block in [blocks.lowerBound, blocks.upperBound - 1] {
            guard block >= first, updates.last?.block != block,
                let whole = shape.extent(ofBlock: block),
                whole.offset < extent.offset || whole.end > extent.end
            else { continue }
            updates.append(try read(block, whole, source))
        }
        return updates
    }

    /// The entry of the volume's last block if it is shorter than 64 KiB, otherwise `nil`.
    func lastBlock(_ source: any Source) throws -> TagMapFormat.Update? {
        let block = shape.blockCount - 1
        guard let extent = shape.extent(ofBlock: block), extent.length < MapShape.blockByteCount
        else { return nil }
        return try read(block, extent, source)
    }

    private func read(
        _ block: UInt64, _ extent: Extent, _ source: any Source
    ) throws -> TagMapFormat.Update {
        if let last, last.block == block { return last }
        try source.read(extent, into: memory)
        let entry = memory.withBytes(count: Int(extent.length)) { tagger.entry(of: $0) }
        let update = TagMapFormat.Update(block: block, entry: entry)
        last = update
        return update
    }
}
