// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import MapStore
import Platform
import TagMap
import TestSupport
import Testing
import Wire

@Suite("Map of a volume that comes in") struct MapBuilderTests {
    private static let unit = 65_536

    @Test("the map is that of the content, zeros where nothing came in or no page counts")
    func model() throws {
        var counts = (rounds: 0, blocks: 0, parts: 0, empty: 0)
        var maps = try Maps()
        for round in 0..<400 {
            if round % 50 == 0 { maps = try Maps() }
            let tagger = Tagger(Bool.random() ? .poly1305 : .sha256, key: .random())
            let pages = UInt64.random(in: 1...140)
            let size = pages * Sizes.page - UInt64.random(in: 0..<Sizes.page)
            let map = try TagMapFile(
                making: maps.path(), tagger.algorithm, volumeByteCount: size)
            let first = [0, 0, UInt64.random(in: 0..<pages), pages + UInt64.random(in: 0...2)][
                Int.random(in: 0..<4)]
            let count =
                [0, 0, 1, UInt64.random(in: 1...pages), .max][Int.random(in: 0..<5)]
            var builder = MapBuilder(map, tagger, first: first, count: count)

            let counted = (0..<pages).filter {
                $0 >= first && (count == 0 || $0 - first < count)
            }
            #expect(Array(builder.pages) == counted)
            let start = min(first, pages) * Sizes.page
            let end = counted.last.map { min(size, ($0 + 1) * Sizes.page) } ?? start
            #expect(builder.bytes.isEmpty == counted.isEmpty)
            if !counted.isEmpty { #expect(builder.bytes == start..<end) }

            var model = Model(size: size)
            var byteCount: UInt64 = 0
            for run in runs(builder.bytes) {
                let length = Int(run.upperBound - run.lowerBound)
                var content = [UInt8](repeating: 0, count: length)
                for at in stride(from: 0, to: length, by: Self.unit) {
                    let part = at..<min(at + Self.unit, length)
                    switch Int.random(in: 0..<4) {
                    case 0: break
                    case 1: content[Int.random(in: part)] = 1
                    default: content.replaceSubrange(part, with: Noise.bytes(part.count))
                    }
                    let block = run.lowerBound / UInt64(Self.unit) + UInt64(at / Self.unit)
                    model[block] = entry(of: content[part], tagger)
                    counts.blocks += 1
                }
                let memory = AlignedBuffer(byteCount: length)
                content.withRawSpan { memory.store($0, at: 0) }
                try builder.add(at: run.lowerBound, memory, count: length)
                byteCount += UInt64(length)
            }
            #expect(builder.byteCount == byteCount)
            try builder.finish()
            try map.seal(lineage: .none, generation: .zero)
            try expect(map, is: model)
            let opened = try TagMapFile(opening: map.path)
            try expect(opened, is: model)
            try opened.prove()
            counts.rounds += 1
            counts.parts += counted.count < Int(pages) ? 1 : 0
            counts.empty += counted.isEmpty ? 1 : 0
        }
        print("built: \(counts)")
        #expect(counts.rounds == 400 && counts.blocks > 2000)
        #expect(counts.parts > 100 && counts.empty > 30)
    }

    /// Ascending runs of whole blocks, of which the last may end with the range.
    private func runs(_ range: Range<UInt64>) -> [Range<UInt64>] {
        let unit = UInt64(Self.unit)
        var runs: [Range<UInt64>] = []
        guard !range.isEmpty else { return [] }
        let blocks = (range.upperBound - range.lowerBound + unit - 1) / unit
        var places = Set((0..<Int.random(in: 0...8)).map { _ in UInt64.random(in: 0..<blocks) })
        if Bool.random() { places.formUnion([0, blocks - 1]) }
        var end = range.lowerBound
        for place in places.sorted() {
            let start = max(end, range.lowerBound + place * unit)
            guard start < range.upperBound else { break }
            end = min(range.upperBound, start + unit * UInt64.random(in: 1...4))
            runs.append(start..<end)
        }
        return runs
    }
}
