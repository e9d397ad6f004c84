// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
internal import TagMap

/// One block and its entry.
package struct SampledBlock: Equatable, Sendable {
    package var block: UInt64
    package var entry: Tag
}

extension TagMapFile {
    /// A random sample of blocks in ascending order: the first and the last, some that are not
    /// zeros if there are any, and others. It returns all blocks if there are at most `count`.
    package func sample(
        _ count: Int, using random: inout some RandomNumberGenerator
    ) throws(MapError) -> [SampledBlock] {
        var chosen: Set<UInt64> = [0, shape.blockCount - 1]
        if shape.blockCount <= UInt64(count) {
            chosen = Set(0..<shape.blockCount)
        } else {
            // Take a few blocks from each page, because pages are apart on the disk.
            for _ in 0..<count / 4 {
                guard let page = try pageWithContent(using: &random) else { break }
                let entries = try entries(ofPage: page)
                let places = (0..<MapShape.pageEntries).filter { place in
                    entries[16 * place..<16 * place + 16].contains { $0 != 0 }
                }
                for place in places.shuffled(using: &random).prefix(3) {
                    guard chosen.count < count - count / 8 else { break }
                    chosen.insert(page * UInt64(MapShape.pageEntries) + UInt64(place))
                }
            }
            while chosen.count < count {
                chosen.insert(UInt64.random(in: 0..<shape.blockCount, using: &random))
            }
        }
        var samples: [SampledBlock] = []
        for block in chosen.sorted() {
            samples.append(SampledBlock(block: block, entry: try entry(ofBlock: block)))
        }
        return samples
    }

    /// A page that is not all zeros, found from the top of the tree down; `nil` if there is none.
    private func pageWithContent(
        using random: inout some RandomNumberGenerator
    ) throws(MapError) -> UInt64? {
        var index: UInt64 = 0
        var level = shape.top
        if level == 0 { return try digest(ofPage: 0) == .zero ? nil : 0 }
        while level > 0 {
            let digests = try children(level: level, index: index)
            let places = (0..<MapShape.nodeDigests).filter { place in
                digests[32 * place..<32 * place + 32].contains { $0 != 0 }
            }
            guard let place = places.randomElement(using: &random) else { return nil }
            index = index * UInt64(MapShape.nodeDigests) + UInt64(place)
            level -= 1
        }
        return index
    }
}
