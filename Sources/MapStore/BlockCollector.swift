// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
package import Digests
package import Platform
package import TagMap
package import Wire

extension Tagger {
    /// The entry of a block with this content (Protocol/TagMap.md, 1).
    package func entry(of block: RawSpan) -> Tag { block.isAllZero ? .zero : tag(block) }
}

/// Turns the ascending records of a generation into the new entries of the blocks that they touch.
///
/// A block that one record covers has the entry of the record's tags. Any other block is loaded
/// first, and the records are laid over it.
package final class BlockCollector {
    /// What the owner of a collector provides.
    package struct Owner {
        /// Loads the content of a block before the records into memory; its length is the extent's.
        package var load: (UInt64, Extent, AlignedBuffer) throws -> Void
        /// Announces the new entry of a fully covered block.
        package var willReplace: (UInt64, Extent, Tag) throws -> Void
        /// Announces a range of blocks fully covered by zeros.
        package var zero: (Range<UInt64>) throws -> Void
        /// Receives a block's new entry.
        package var emit: (TagMapFormat.Update) throws -> Void

        package init(
            load: @escaping (UInt64, Extent, AlignedBuffer) throws -> Void,
            willReplace: @escaping (UInt64, Extent, Tag) throws -> Void = { _, _, _ in },
            zero: @escaping (Range<UInt64>) throws -> Void,
            emit: @escaping (TagMapFormat.Update) throws -> Void
        ) {
            self.load = load
            self.willReplace = willReplace
            self.zero = zero
            self.emit = emit
        }
    }

    private let shape: MapShape
    private let tagger: Tagger
    private let owner: Owner
    private let memory = AlignedBuffer(byteCount: Tagger.blockByteCount)
    /// The block in `memory`.
    private var open: (block: UInt64, extent: Extent)?

    package init(_ shape: MapShape, _ tagger: Tagger, _ owner: Owner) {
        self.shape = shape
        self.tagger = tagger
        self.owner = owner
    }

    /// Adds the next record: its content, which starts at `offset` in the memory, and its tags. A
    /// record without content is zeros.
    package func add(
        _ extent: Extent, _ content: (memory: AlignedBuffer, offset: Int)?, tags: [Tag]
    ) throws {
        let blocks = MapShape.blocks(of: extent)
        var next = blocks.lowerBound
        while next < blocks.upperBound {
            let block = next
            guard let whole = shape.extent(ofBlock: block) else { return }
            if content == nil, whole.offset >= extent.offset, whole.end <= extent.end {
                try close()
                next = shape.wholeBlocksEnd(extent)
                try owner.zero(block..<next)
                continue
            }
            next += 1
            let start = max(extent.offset, whole.offset)
            let count = Int(min(extent.end, whole.end) - start)
            let place = content.map { ($0.memory, $0.offset + Int(start - extent.offset)) }
            if UInt64(count) == whole.length {
                try close()
                let isZero =
                    place.map { memory, at in
                        memory.withBytes(at: at, count: count) { $0.isAllZero }
                    } ?? true
                let entry = isZero ? .zero : tags[Int(block - blocks.lowerBound)]
                try owner.willReplace(block, whole, entry)
                try owner.emit(TagMapFormat.Update(block: block, entry: entry))
                continue
            }
            if open?.block != block {
                try close()
                try owner.load(block, whole, memory)
                open = (block, whole)
            }
            let to = Int(start - whole.offset)
            if let (from, at) = place {
                memory.copy(from: from, at: at, to: to, count: count)
            } else {
                memory.zero(at: to, count: count)
            }
        }
    }

    package func finish() throws { try close() }

    private func close() throws {
        guard let (block, extent) = open else { return }
        open = nil
        let entry = memory.withBytes(count: Int(extent.length)) { tagger.entry(of: $0) }
        try owner.emit(TagMapFormat.Update(block: block, entry: entry))
    }
}
