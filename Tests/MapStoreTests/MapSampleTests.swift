// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import MapStore
import TagMap
import TestSupport
import Testing
import Wire

@Suite("Blocks sampled of a map") struct MapSampleTests {
    /// Makes a map in which the given blocks are not zeros.
    private func map(_ folder: TemporaryFolder, blocks: UInt64, content: Set<UInt64>) throws
        -> TagMapFile
    {
        let map = try TagMapFile(
            making: "\(folder.path)/map-\(blocks)-\(content.count)", .poly1305,
            volumeByteCount: blocks * MapShape.blockByteCount)
        for (page, blocks) in Dictionary(grouping: content, by: { $0 / 256 }).sorted(by: {
            $0.key < $1.key
        }) {
            var entries = [UInt8](repeating: 0, count: 4096)
            for block in blocks { entries[16 * Int(block % 256)] = UInt8(block % 255) + 1 }
            try map.set(page: page, entries)
        }
        try map.finishPass()
        return map
    }

    @Test("the first, the last, what is not zeros, others each time, and never more than asked for")
    func sampled() throws {
        let folder = try TemporaryFolder()
        var random = SeededNumbers(seed: 14)
        var maps = 0
        // One page, one node, two levels of nodes; from nothing but zeros to nothing but content.
        for blocks: UInt64 in [1, 2, 63, 64, 65, 256, 257, 5000, 33_000, 4_300_000] {
            let all = Set(0..<min(blocks, 3000))
            let some = Set((0..<5).map { _ in UInt64.random(in: 0..<blocks, using: &random) })
            for content in [[], [blocks - 1], some, all] {
                let map = try map(folder, blocks: blocks, content: content)
                var seen: Set<UInt64> = []
                for _ in 0..<20 {
                    let sample = try map.sample(64, using: &random)
                    let chosen = sample.map(\.block)
                    #expect(chosen == Set(chosen).sorted())
                    #expect(chosen.count == min(64, Int(blocks)))
                    #expect(chosen.first == 0 && chosen.last == blocks - 1)
                    for entry in sample {
                        #expect(entry.entry.isZero == !content.contains(entry.block))
                    }
                    let withContent = sample.filter { !$0.entry.isZero }.count
                    #expect(withContent >= min(content.count, 1))
                    if content.count > 100 { #expect(withContent >= 16) }
                    seen.formUnion(chosen)
                }
                // By chance each time.
                if blocks >= 5000 { #expect(seen.count > 200) }
                if content.count == 5 { #expect(content.isSubset(of: seen)) }
                maps += 1
            }
        }
        print("maps sampled 20 times each: \(maps)")
        #expect(maps == 40)
    }
}
