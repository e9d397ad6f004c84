// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import MapStore
import Platform
import TagMap
import TestSupport
import Testing
import Wire

/// Subtrees of zeros against a computation that looks at every block.
@Suite("Runs of zeros in a tag map") struct MapContentTests {
    private typealias Found = [UInt64: Entry]

    /// A range that more often than not begins and ends where something begins or ends.
    private func range(_ model: Model) -> Range<UInt64> {
        let (one, other) = (model.someBlock(), model.someBlock())
        return min(one, other)..<max(one, other) + UInt64.random(in: 0...1)
    }

    @Test("exactly the blocks that are not zeros are found, from anywhere on")
    func content() throws {
        var counts = (ranges: 0, blocks: 0, deep: 0, empty: 0)
        for _ in 0..<300 {
            let maps = try Maps()
            let model = Model.random(size: Sizes.some(), filled: .random(in: 0...200))
            let made = try maps.make(model)
            for map in [made, try TagMapFile(opening: made.path)] {
                for _ in 0..<4 {
                    let range = range(model)
                    var found: [UInt64] = []
                    try map.forEachContent(in: range) { block, entry in
                        #expect(model[block] == entry)
                        found.append(block)
                    }
                    #expect(found == model.entries.keys.filter(range.contains).sorted())
                    counts.ranges += 1
                    counts.blocks += found.count
                    counts.empty += found.isEmpty ? 1 : 0
                }
                #expect(try map.content(from: model.blockCount) == nil)
                #expect(try map.content(from: .max) == nil)
            }
            counts.deep += made.shape.top >= 3 ? 1 : 0
        }
        print("content: \(counts)")
        #expect(counts.ranges == 2400 && counts.blocks > 20_000 && counts.deep > 30)
        #expect(counts.empty > 100)
    }

    @Test("zeros over a range are the same updates as zeros block by block")
    func zeros() throws {
        var counts = (files: 0, updates: 0)
        for _ in 0..<300 {
            let maps = try Maps()
            let model = Model.random(
                size: Sizes.page * .random(in: 1...3), filled: .random(in: 0...300))
            let old = try maps.make(model)
            for (base, old) in [
                (TagMapFormat.Base.parent, old), (.zeros, nil), (.parent, nil), (.zeros, old),
            ] {
                let paths = [maps.path(), maps.path()]
                let writers = try paths.map {
                    try MapUpdateWriter(
                        making: $0, base: base, transfer: TransferID.random(), against: old)
                }
                for _ in 0..<4 {
                    let range = range(model)
                    try writers[0].addZeros(range)
                    for block in range {
                        try writers[1].add(TagMapFormat.Update(block: block, entry: .zero))
                    }
                    let update = TagMapFormat.Update(block: range.upperBound, entry: .random())
                    for writer in writers { try writer.add(update) }
                }
                for writer in writers { try writer.finish() }
                let found = try paths.map { try maps.read($0) }
                #expect(found[0] == found[1])
                counts.files += 1
                counts.updates += found[0].count
            }
        }
        print("zeros: \(counts)")
        #expect(counts.files == 1200 && counts.updates > 20_000)
    }

    @Test("maps of different sizes differ where their blocks do, whichever is the larger")
    func sizes() throws {
        var counts = (pairs: 0, blocks: 0, taller: 0, lower: 0)
        for _ in 0..<600 {
            let maps = try Maps()
            let ours = Model.random(size: Sizes.some(), filled: .random(in: 0...100))
            var theirs = ours
            theirs.resize(Sizes.some())
            theirs.apply(theirs.someUpdates([0, 1, 40][Int.random(in: 0..<3)]))
            let (map, other) = (try maps.make(ours), try maps.make(theirs))
            var found: Found = [:]
            var last: UInt64?
            try MapDifference(map) { try other.children($0) }.forEach { block, entry in
                #expect(last.map { $0 < block } ?? true)
                last = block
                found[block] = entry
            }
            let blocks = Set(ours.entries.keys).union(theirs.entries.keys)
                .filter { $0 < ours.blockCount && ours[$0] != theirs[$0] }
            #expect(found == Found(uniqueKeysWithValues: blocks.map { ($0, theirs[$0]) }))
            counts.pairs += 1
            counts.blocks += found.count
            counts.taller += map.shape.top > other.shape.top ? 1 : 0
            counts.lower += map.shape.top < other.shape.top ? 1 : 0
        }
        print("sizes: \(counts)")
        #expect(counts.pairs == 600 && counts.blocks > 2000)
        #expect(counts.taller > 50 && counts.lower > 50)
    }

    @Test(
        "the map of 2^50 bytes is as large as its content, and so is the work with it"
    )
    func greatest() throws {
        let maps = try Maps()
        var model = Model(size: Limits.mappedVolumeSize)
        var map = try maps.make(model)
        #expect(try File(path: map.path).status().byteCount == 4096)
        for blocks in [[0, model.blockCount - 1], [1 << 33, model.blockCount - 1], [5]] {
            let updates = blocks.map { TagMapFormat.Update(block: $0, entry: .random()) }
            model.apply(updates)
            let path = try maps.make(updates, against: map)
            #expect(
                try map.root(with: try MapUpdateReader(path: path), size: model.size)
                    == model.root(.poly1305))
            try map.apply(try MapUpdateReader(path: path), size: model.size)
            try map.seal(lineage: maps.lineage, generation: SHA256Digest.of([2]))
            map = try TagMapFile(opening: map.path)
            try map.prove()
            try expect(map, is: model)
            var found: Found = [:]
            try map.forEachContent(in: 0..<model.blockCount) { found[$0] = $1 }
            #expect(found == model.entries)
            // Four pages and four strips of digests; what is between them is a hole.
            #expect(try File(path: map.path).status().allocatedByteCount < 1 << 20)
        }
        // Zeros of a peer's whole volume over what is there.
        let path = maps.path()
        let writer = try MapUpdateWriter(
            making: path, base: .parent, transfer: .random(), against: map)
        try writer.addZeros(0..<model.blockCount)
        try writer.finish()
        #expect(try maps.read(path).map(\.block) == model.entries.keys.sorted())
        // A smaller volume, and a larger one again.
        for size in [Sizes.page + 5, Limits.mappedVolumeSize - 1] {
            model.resize(size)
            try map.apply(try MapUpdateReader(path: try maps.make([])), size: size)
            try map.seal(lineage: maps.lineage, generation: SHA256Digest.of([3]))
            map = try TagMapFile(opening: map.path)
            try map.prove()
            try expect(map, is: model)
        }
    }
}
