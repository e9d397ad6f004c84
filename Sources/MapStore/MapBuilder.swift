// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
package import Platform
internal import TagMap

/// Makes the map of a volume from its content, block by block in ascending order. Blocks that are
/// not added are zeros.
package struct MapBuilder: ~Copyable {
    /// The pages to map; all others count as zeros (Specification 7.2).
    package let pages: Range<UInt64>
    private let map: TagMapFile
    private let tagger: Tagger
    private var page: UInt64?
    private var entries = [UInt8](repeating: 0, count: MapShape.unit)
    /// Number of bytes added.
    package private(set) var byteCount: UInt64 = 0

    /// Starts with a map of zeros.
    package init(_ map: TagMapFile, _ tagger: Tagger, first: UInt64 = 0, count: UInt64 = 0) {
        self.map = map
        self.tagger = tagger
        let end = map.shape.pageCount
        let start = min(first, end)
        pages = start..<(count == 0 ? end : start + min(count, end - start))
    }

    /// The range of bytes to map.
    package var bytes: Range<UInt64> {
        let unit = UInt64(MapShape.pageEntries) * MapShape.blockByteCount
        let end = min(pages.upperBound * unit, map.shape.volumeByteCount)
        // Pages that the volume does not have lie past its end.
        return min(pages.lowerBound * unit, end)..<end
    }

    /// Adds `count` bytes of content, which start at a block's start and end at a block's end or
    /// the volume's.
    package mutating func add(
        at offset: UInt64, _ memory: AlignedBuffer, count: Int
    ) throws(MapError) {
        byteCount += UInt64(count)
        var done = 0
        var block = offset / MapShape.blockByteCount
        while done < count {
            let part = min(Int(MapShape.blockByteCount), count - done)
            let entry = memory.withBytes(at: done, count: part) { tagger.entry(of: $0) }
            if !entry.isZero { try set(block, entry) }
            done += part
            block += 1
        }
    }

    /// Marks the volume's last block as missing, whatever was added of it. Add no more content
    /// afterwards.
    package mutating func missLastBlock() throws(MapError) {
        let last = map.shape.blockCount - 1
        guard pages.contains(MapShape.place(ofBlock: last).page) else { return }
        try set(last, .missing)
    }

    private mutating func set(_ block: UInt64, _ entry: Tag) throws(MapError) {
        let place = MapShape.place(ofBlock: block)
        if page != place.page {
            try flush()
            page = place.page
        }
        entries.replaceSubrange(16 * place.entry..<16 * place.entry + 16, with: entry.bytes)
    }

    private mutating func flush() throws(MapError) {
        guard let page else { return }
        try map.set(page: page, entries)
        entries = [UInt8](repeating: 0, count: MapShape.unit)
        self.page = nil
    }

    /// Ends the map; `root` is valid from then on.
    package mutating func finish() throws(MapError) {
        try flush()
        try map.finishPass()
    }
}
