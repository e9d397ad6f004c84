// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests
internal import TagMap

/// Finds the parts of a map that are not zeros, from the top of its tree down: skipping a run of
/// zeros costs only its largest subtrees.
extension TagMapFile {
    /// Passes each of these blocks that is not zeros to the closure, in ascending order, with its
    /// entry.
    package func forEachContent(
        in blocks: Range<UInt64>, _ body: (_ block: UInt64, Tag) throws -> Void
    ) throws {
        var next = blocks.lowerBound
        while let (block, entry) = try content(from: next), block < blocks.upperBound {
            try body(block, entry)
            next = block + 1
        }
    }

    /// The first block at or after `block` that is not zeros; `nil` if there is none.
    package func content(from block: UInt64) throws(MapError) -> (block: UInt64, entry: Tag)? {
        guard block < shape.blockCount else { return nil }
        var (page, first) = MapShape.place(ofBlock: block)
        while let found = try pageWithContent(from: page) {
            if found != page { first = 0 }
            let entries = try entries(ofPage: found)
            for place in first..<MapShape.pageEntries {
                let entry = entries.withRawSpan { Tag(entry: place, of: $0) }
                if !entry.isZero {
                    return (found * UInt64(MapShape.pageEntries) + UInt64(place), entry)
                }
            }
            (page, first) = (found + 1, 0)
        }
        return nil
    }

    /// The first page at or after `page` that is not zeros; `nil` if there is none.
    private func pageWithContent(from page: UInt64) throws(MapError) -> UInt64? {
        guard page < shape.pageCount else { return nil }
        guard shape.top > 0 else { return try digest(ofPage: 0) == .zero ? nil : 0 }
        let unit = UInt64(MapShape.nodeDigests)
        var (strip, first) = (page / unit, page % unit)
        while let found = tree.content(level: 1, from: strip) {
            if found != strip { first = 0 }
            for place in first..<unit where try digest(ofPage: found * unit + place) != .zero {
                return found * unit + place
            }
            (strip, first) = (found + 1, 0)
        }
        return nil
    }
}
