// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import TagMap
import Testing

/// The digests as Protocol/TagMap.md says them, word by word.
private enum Text {
    static let zeros = [UInt8](repeating: 0, count: 32)

    static func number(_ value: UInt64) -> [UInt8] {
        (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
    }

    static func page(_ index: UInt64, _ entries: [UInt8]) -> [UInt8] {
        if entries.allSatisfy({ $0 == 0 }) { return zeros }
        return SHA256Digest.of(Array("blockferry map page 1".utf8) + number(index) + entries).bytes
    }

    static func node(_ level: UInt64, _ index: UInt64, _ below: [UInt8]) -> [UInt8] {
        if below.allSatisfy({ $0 == 0 }) { return zeros }
        return SHA256Digest.of(
            Array("blockferry map node 1".utf8) + number(level) + number(index) + below
        ).bytes
    }

    static func root(_ algorithm: UInt8, _ size: UInt64, _ top: [UInt8]) -> [UInt8] {
        SHA256Digest.of(
            Array("blockferry map root 1".utf8) + [algorithm] + number(size) + top
        ).bytes
    }

    /// All digests of the level above: 128 digests below each, and zeros where there are none.
    static func above(_ level: UInt64, _ below: [[UInt8]]) -> [[UInt8]] {
        stride(from: 0, to: below.count, by: 128).map { first in
            var joined = Array(below[first..<min(first + 128, below.count)].joined())
            joined += [UInt8](repeating: 0, count: 4096 - joined.count)
            return node(level, UInt64(first / 128), joined)
        }
    }
}

private func random(_ count: Int) -> [UInt8] {
    var generator = SystemRandomNumberGenerator()
    return (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
}

@Suite("Shape of a tag map") struct MapShapeTests {
    /// Sizes at which something begins or ends, and others.
    private let sizes: [UInt64] = {
        var sizes: Set<UInt64> = [1, 1 << 62, (1 << 62) - 1]
        for border in [16, 24, 31, 32, 38, 45, 52].map({ UInt64(1) << $0 }) {
            for factor in [UInt64(1), 3, 127, 128, 129] {
                for place in [border * factor - 1, border * factor, border * factor + 1] {
                    if place <= 1 << 62 { sizes.insert(place) }
                }
            }
        }
        for bits in 0..<62 {
            for _ in 0..<20 { sizes.insert(.random(in: 1...(2 << UInt64(bits)))) }
        }
        return sizes.sorted()
    }()

    /// ⌈value / by⌉, without overflow at these sizes.
    private func ceiling(_ value: UInt64, _ by: UInt64) -> UInt64 { (value + by - 1) / by }

    @Test("blocks, pages and levels are counted as the text says")
    func counts() {
        var deepest = 0
        for size in sizes {
            let shape = MapShape(volumeByteCount: size)
            #expect(shape.volumeByteCount == size)
            #expect(shape.blockCount == ceiling(size, 65_536))
            var levels = [ceiling(shape.blockCount, 256)]
            while levels[levels.count - 1] > 1 {
                levels.append(ceiling(levels[levels.count - 1], 128))
            }
            #expect(shape.levels == levels && shape.pageCount == levels[0])
            #expect(shape.top == levels.count - 1 && shape.levels[shape.top] == 1)
            deepest = max(deepest, shape.top)
            for level in -1...levels.count {
                let count = levels.indices.contains(level) ? levels[level] : 0
                for index in [0, 1, count / 2, count &- 1, count, count &+ 1, .max] {
                    for asked in [1, 2, 16, count, .max] as [UInt64] where asked > 0 {
                        let isThere = asked <= count && index <= count - asked
                        #expect(shape.has(level: level, index: index, count: asked) == isThere)
                    }
                }
            }
        }
        print("shapes: \(sizes.count), up to level \(deepest)")
        #expect(sizes.count > 1000 && deepest == 6)
    }

    @Test("the extents of the blocks tile the volume, and its records' blocks are those they touch")
    func extents() throws {
        var touched = 0
        for size in sizes where size < 1 << 26 {
            let shape = MapShape(volumeByteCount: size)
            var end: UInt64 = 0
            for block in 0..<shape.blockCount {
                let extent = try #require(shape.extent(ofBlock: block))
                #expect(extent.offset == end && extent.length <= 65_536)
                #expect(extent.length == 65_536 || block == shape.blockCount - 1)
                end = extent.end
                let place = MapShape.place(ofBlock: block)
                #expect(place.page * 256 + UInt64(place.entry) == block && place.entry < 256)
                #expect(place.page < shape.pageCount)
            }
            #expect(end == size && shape.extent(ofBlock: shape.blockCount) == nil)
            for _ in 0..<20 {
                let offset = UInt64.random(in: 0..<size)
                let length = UInt64.random(in: 1...min(size - offset, 300_000))
                let extent = try #require(Extent(offset: offset, length: length))
                let near = offset / 65_536 - min(offset / 65_536, 2)..<(extent.end / 65_536 + 2)
                let naive = near.filter { $0 * 65_536 < extent.end && offset < ($0 + 1) * 65_536 }
                #expect(Array(MapShape.blocks(of: extent)) == naive)
                touched += naive.count
            }
        }
        #expect(touched > 5000)
    }
}

@Suite("Digests of a tag map") struct MapDigestTests {
    @Test("pages, nodes and roots are digested as the text says, and zeros to zeros")
    func digests() {
        let zeros = [UInt8](repeating: 0, count: 4096)
        var one = zeros
        one[4095] = 1
        var count = 0
        for content in [zeros, one, random(4096), random(4096)] {
            for index in [0, 1, 77, UInt64.max] {
                let page = content.withRawSpan { MapDigest.ofPage(index, $0) }
                #expect(page.bytes == Text.page(index, content))
                #expect((page == .zero) == (content == zeros))
                for level in [1, 2, 6, UInt64.max] {
                    let node = content.withRawSpan { MapDigest.ofNode(index, level: level, $0) }
                    #expect(node.bytes == Text.node(level, index, content))
                    #expect((node == .zero) == (content == zeros))
                    count += 1
                }
            }
        }
        for algorithm in TagAlgorithm.allCases {
            for size in [1, 65_537, UInt64(1) << 62] {
                let shape = MapShape(volumeByteCount: size)
                for top in [SHA256Digest.zero, SHA256Digest.of([1])] {
                    let root = MapDigest.ofMap(shape, algorithm, top: top)
                    #expect(root.bytes == Text.root(algorithm.rawValue, size, top.bytes))
                    #expect(root != .zero)
                    count += 1
                }
            }
        }
        #expect(count == 4 * 4 * 4 + 2 * 3 * 2)
    }

    @Test("a tree over any pages has the digests of the text at every level, whatever the order")
    func trees() {
        let borders = [1, 2, 127, 128, 129, 255, 257, 16_383, 16_384, 16_385, 33_000]
        let counts = borders + (0..<30).map { _ in Int.random(in: 1...20_000) }
        var compared = 0
        for count in counts {
            let shape = MapShape(volumeByteCount: UInt64(count) << 24)
            // Most pages of some volumes are zeros.
            let filled = [0, 1, 5, 100][Int.random(in: 0..<4)]
            let pages: [[UInt8]] = (0..<count).map { _ in
                Int.random(in: 1...100) <= filled ? random(32) : Text.zeros
            }
            var levels = [pages]
            while levels[levels.count - 1].count > 1 {
                levels.append(Text.above(UInt64(levels.count), levels[levels.count - 1]))
            }
            var tree = MapTree(shape)
            let empty = tree
            for strip in (0..<(count + 127) / 128).shuffled() {
                var digests = Array(pages[strip * 128..<min(strip * 128 + 128, count)].joined())
                digests += [UInt8](repeating: 0, count: 4096 - digests.count)
                digests.withRawSpan { tree.set(strip: UInt64(strip), $0) }
            }
            tree.seal()
            #expect(tree.top.bytes == levels[levels.count - 1][0])
            #expect(
                tree.root(.sha256).bytes
                    == Text.root(2, UInt64(count) << 24, levels[levels.count - 1][0]))
            #expect(empty.top == .zero)
            for level in levels.indices.dropFirst(2) {
                for index in levels[level].indices {
                    var below = Array(
                        levels[level - 1][
                            index * 128..<min(index * 128 + 128, levels[level - 1].count)
                        ].joined())
                    below += [UInt8](repeating: 0, count: 4096 - below.count)
                    #expect(tree.children(level: level, index: UInt64(index)) == below)
                    compared += 1
                }
            }
        }
        print("trees: \(counts.count), nodes compared: \(compared)")
        #expect(counts.count == 41 && compared > 30)
    }

    @Test("the tree of the greatest volume costs nothing while the volume is zeros")
    func greatest() {
        let size = UInt64(1) << 62
        var tree = MapTree(MapShape(volumeByteCount: size))
        tree.seal()
        #expect(tree.root(.poly1305).bytes == Text.root(1, size, Text.zeros))
        // Something in the last strip is under one node of each level.
        let digests = random(4096)
        digests.withRawSpan { tree.set(strip: (1 << 31) - 1, $0) }
        tree.seal()
        var digest = Text.node(1, (1 << 31) - 1, digests)
        var index = (UInt64(1) << 31) - 1
        for level in 2...6 as ClosedRange<UInt64> {
            var below = [UInt8](repeating: 0, count: 4096)
            let at = 32 * Int(index % 128)
            below.replaceSubrange(at..<at + 32, with: digest)
            index /= 128
            #expect(tree.children(level: Int(level), index: index) == below)
            digest = Text.node(level, index, below)
        }
        #expect(index == 0 && tree.top.bytes == digest)
        // And zeros in its place are nothing again.
        [UInt8](repeating: 0, count: 4096).withRawSpan { tree.set(strip: (1 << 31) - 1, $0) }
        tree.seal()
        #expect(tree.top == .zero)
    }

    @Test("a volume that grows by pages of zeros keeps its digests")
    func growth() {
        let strip = random(4096)
        var tops: [SHA256Digest] = []
        for pages in [128, 129, 200, 16_384] as [UInt64] {
            var tree = MapTree(MapShape(volumeByteCount: pages << 24))
            strip.withRawSpan { tree.set(strip: 0, $0) }
            tree.seal()
            if pages == 128 { tops.append(tree.top) }
            if pages > 128 {
                #expect(tree.children(level: 2, index: 0).starts(with: tops[0].bytes))
                tops.append(tree.top)
            }
        }
        #expect(tops.count == 4 && tops[1] == tops[2] && tops[2] == tops[3])
    }
}
