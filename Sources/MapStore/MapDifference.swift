// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests
internal import TagMap
package import Wire

/// Finds the blocks in which two maps differ, from the top of their trees down, and skips equal
/// parts at the highest level. The other map counts as having the same shape; what it lacks is
/// zeros.
package struct MapDifference {
    /// Returns the content below pages or nodes of the other map: 4096 bytes for each.
    package typealias Other = (NodeRange) throws -> [UInt8]

    private let map: TagMapFile
    private let other: Other

    package init(_ map: TagMapFile, _ other: @escaping Other) {
        self.map = map
        self.other = other
    }

    /// Passes each block that differs to `body`, in ascending order, with the other map's entry.
    package func forEach(_ body: (_ block: UInt64, _ other: Tag) throws -> Void) throws {
        try descend(level: map.shape.top, index: 0, count: 1, body)
    }

    /// - Parameter count: 1 to 16 nodes or pages, starting with `index`, that differ.
    private func descend(
        level: Int, index: UInt64, count: Int, _ body: (UInt64, Tag) throws -> Void
    ) throws {
        let range = NodeRange(level: UInt8(level), index: index, count: UInt32(count))
        let theirs = try other(range)
        for place in 0..<count {
            let node = index + UInt64(place)
            let ours = try map.children(level: level, index: node)
            if level == 0 {
                try compare(node, ours, theirs, place * MapShape.unit, body)
            } else {
                try compareNodes(level, node, ours, theirs, place * MapShape.unit, body)
            }
        }
    }

    private func compare(
        _ page: UInt64, _ ours: [UInt8], _ theirs: [UInt8], _ start: Int,
        _ body: (UInt64, Tag) throws -> Void
    ) throws {
        for entry in 0..<MapShape.pageEntries {
            let block = page * UInt64(MapShape.pageEntries) + UInt64(entry)
            guard block < map.shape.blockCount else { return }
            let mine = ours.withRawSpan { Tag(entry: entry, of: $0) }
            let other = theirs.withRawSpan { Tag(entry: start / 16 + entry, of: $0) }
            if mine != other { try body(block, other) }
        }
    }

    private func compareNodes(
        _ level: Int, _ node: UInt64, _ ours: [UInt8], _ theirs: [UInt8], _ start: Int,
        _ body: (UInt64, Tag) throws -> Void
    ) throws {
        var first: UInt64?
        for child in 0...MapShape.nodeDigests {
            let index = node * UInt64(MapShape.nodeDigests) + UInt64(child)
            let isInside = child < MapShape.nodeDigests && index < map.shape.levels[level - 1]
            let at = child * 32
            let differs = isInside && ours[at..<at + 32] != theirs[start + at..<start + at + 32]
            if let begun = first, !differs || index - begun == UInt64(Limits.nodes) {
                try descend(level: level - 1, index: begun, count: Int(index - begun), body)
                first = nil
            }
            if differs, first == nil { first = index }
        }
    }
}
