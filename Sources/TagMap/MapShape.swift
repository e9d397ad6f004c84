// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
internal import Digests

/// The number of blocks, pages and digests in the tag map of a volume (Protocol/TagMap.md, 1 and
/// 2).
package struct MapShape: Equatable, Sendable {
    /// Bytes of the volume that one entry covers.
    package static let blockByteCount = UInt64(Tagger.blockByteCount)
    /// Number of entries in a page.
    package static let pageEntries = 256
    /// Number of digests below a node.
    package static let nodeDigests = 128
    /// Size in bytes of a page, and of the digests below a node.
    package static let unit = 4096

    /// Size of the volume in bytes.
    package let volumeByteCount: UInt64
    package let blockCount: UInt64
    /// Number of digests on each level: that of the pages first, the top's single one last.
    package let levels: [UInt64]

    /// The shape for a volume of at least one byte.
    package init(volumeByteCount: UInt64) {
        precondition(volumeByteCount > 0, "a volume has a byte")
        self.volumeByteCount = volumeByteCount
        blockCount = (volumeByteCount - 1) / Self.blockByteCount + 1
        var levels = [(blockCount - 1) / UInt64(Self.pageEntries) + 1]
        while let last = levels.last, last > 1 {
            levels.append((last - 1) / UInt64(Self.nodeDigests) + 1)
        }
        self.levels = levels
    }

    package var pageCount: UInt64 { levels[0] }

    /// The level with one digest.
    package var top: Int { levels.count - 1 }

    /// The extent of a block; the last one may be short. `nil` outside the volume.
    package func extent(ofBlock block: UInt64) -> Extent? {
        guard block < blockCount else { return nil }
        let start = block * Self.blockByteCount
        return Extent(from: start, upTo: min(start + Self.blockByteCount, volumeByteCount))
    }

    /// The blocks that an extent of the volume covers fully or in part.
    package static func blocks(of extent: Extent) -> Range<UInt64> {
        extent.offset / blockByteCount..<(extent.end - 1) / blockByteCount + 1
    }

    /// End of the blocks that an extent of the volume fully covers, if it covers any.
    package func wholeBlocksEnd(_ extent: Extent) -> UInt64 {
        extent.end >= volumeByteCount ? blockCount : extent.end / Self.blockByteCount
    }

    /// The page of a block, and the entry's index in it.
    package static func place(ofBlock block: UInt64) -> (page: UInt64, entry: Int) {
        (block / UInt64(pageEntries), Int(block % UInt64(pageEntries)))
    }

    /// Whether `count` pages (level 0) or nodes, starting with `index`, exist.
    package func has(level: Int, index: UInt64, count: UInt64) -> Bool {
        guard levels.indices.contains(level) else { return false }
        let (end, overflow) = index.addingReportingOverflow(count)
        return !overflow && end <= levels[level]
    }
}
