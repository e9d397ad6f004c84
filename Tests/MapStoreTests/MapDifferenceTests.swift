// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import MapStore
import TagMap
import TestSupport
import Testing
import Wire

@Suite("Difference of two tag maps") struct MapDifferenceTests {
    /// What is asked of the other side, and how often.
    private final class Other {
        let map: TagMapFile
        private(set) var ranges: [NodeRange] = []

        init(_ map: TagMapFile) { self.map = map }

        func answer(_ range: NodeRange) throws -> [UInt8] {
            ranges.append(range)
            #expect((1...16).contains(range.count))
            #expect(
                map.shape.has(
                    level: Int(range.level), index: range.index, count: UInt64(range.count)))
            return try (range.index..<range.index + UInt64(range.count)).flatMap {
                try map.children(level: Int(range.level), index: $0)
            }
        }
    }

    private struct Node: Hashable {
        var level: Int
        var index: UInt64
    }

    /// The pages and nodes whose digests differ, and how many questions they take: consecutive ones below one node at
    /// once, up to 16.
    private func needed(_ one: Model, _ other: Model) -> (nodes: Set<Node>, asks: Int) {
        let (left, right) = (one.levels, other.levels)
        var nodes: Set<Node> = []
        var asks = 0
        for level in left.indices {
            let differing = Set(left[level].keys).union(right[level].keys)
                .filter { left[level][$0] != right[level][$0] }.sorted()
            var run = 0
            var before: UInt64?
            for index in differing {
                nodes.insert(Node(level: level, index: index))
                let goesOn = before.map { $0 + 1 == index && index % 128 != 0 } ?? false
                run = goesOn && run < 16 ? run + 1 : 1
                if run == 1 { asks += 1 }
                before = index
            }
        }
        return (nodes, asks)
    }

    @Test("exactly the blocks that differ are found, and nothing is asked that does not differ")
    func pairs() throws {
        var counts = (pairs: 0, equal: 0, blocks: 0, asks: 0, nodes: 0, deep: 0)
        var maps = try Maps()
        while counts.pairs < 2400 {
            if counts.pairs % 100 == 0 { maps = try Maps() }
            let ours = Model.random(size: Sizes.some(), filled: .random(in: 0...200))
            let map = try maps.make(ours, isSealed: false)
            for _ in 0..<4 {
                var theirs = ours
                let changes = [0, 1, 3, 40, 400][Int.random(in: 0..<5)]
                theirs.apply(ours.someUpdates(changes))
                if Int.random(in: 0..<10) == 0 { theirs = Model(size: ours.size) }
                let other = Other(try maps.make(theirs, isSealed: false))
                var found: [(UInt64, Entry)] = []
                try MapDifference(map, other.answer).forEach { found.append(($0, $1)) }

                let blocks = Set(ours.entries.keys).union(theirs.entries.keys)
                    .filter { ours[$0] != theirs[$0] }.sorted()
                #expect(found.map(\.0) == blocks)
                #expect(found.allSatisfy { theirs[$0.0] == $0.1 })

                let nodes = other.ranges.flatMap { range in
                    (range.index..<range.index + UInt64(range.count)).map {
                        Node(level: Int(range.level), index: $0)
                    }
                }
                if map.root == other.map.root {
                    // Nobody does that; it costs one question.
                    #expect(nodes == [Node(level: map.shape.top, index: 0)])
                    #expect(blocks.isEmpty)
                    counts.equal += 1
                } else {
                    let needed = needed(ours, theirs)
                    #expect(nodes.count == needed.nodes.count && Set(nodes) == needed.nodes)
                    #expect(other.ranges.count == needed.asks)
                    #expect(!blocks.isEmpty)
                }
                counts.pairs += 1
                counts.blocks += blocks.count
                counts.asks += other.ranges.count
                counts.nodes += nodes.count
                counts.deep += map.shape.top >= 3 ? 1 : 0
            }
        }
        print("differences: \(counts)")
        #expect(counts.pairs == 2400 && counts.equal > 100 && counts.deep > 200)
        #expect(counts.blocks > 50_000)
    }

    @Test("the maps of the sides may lie in files that were updated before")
    func updated() throws {
        let maps = try Maps()
        var count = 0
        for _ in 0..<50 {
            var ours = Model.random(size: UInt64.random(in: 1...2 * Sizes.strip), filled: 200)
            let map = try maps.make(ours)
            let updates = ours.someUpdates(100)
            ours.apply(updates)
            try map.apply(
                try MapUpdateReader(path: try maps.make(updates)), size: ours.size)
            let theirs = Model.random(size: ours.size, filled: 200)
            let other = Other(try maps.make(theirs, isSealed: false))
            var found: [UInt64] = []
            try MapDifference(map, other.answer).forEach { block, _ in found.append(block) }
            let blocks = Set(ours.entries.keys).union(theirs.entries.keys)
                .filter { ours[$0] != theirs[$0] }.sorted()
            #expect(found == blocks)
            count += 1
        }
        #expect(count == 50)
    }
}
