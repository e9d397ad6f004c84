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

/// Bytes that are quickly there.
enum Noise {
    private static let pool = SecureRandom.bytes(1 << 20)

    static func bytes(_ count: Int) -> [UInt8] {
        let start = Int.random(in: 0...pool.count - count)
        return Array(pool[start..<start + count])
    }
}

/// The entry of a block as the text has it.
func entry(of content: ArraySlice<UInt8>, _ tagger: Tagger) -> Entry {
    if content.allSatisfy({ $0 == 0 }) { return .zero }
    return Array(content).withRawSpan { tagger.tag($0) }
}

@Suite("Entries of the blocks that records touch") struct BlockCollectorTests {
    private static let unit = 65_536

    /// A record: where, and its content; without content zeros.
    private struct Record {
        var extent: Extent
        var content: [UInt8]?
    }

    /// Ascending, disjoint records; many of them adjacent, many with the borders of blocks.
    private func records(_ size: Int) throws -> [Record] {
        var records: [Record] = []
        var position = 0
        while position < size, records.count < 40 {
            switch Int.random(in: 0..<4) {
            case 0: break
            case 1: position = min(size, (position / Self.unit + 1) * Self.unit)
            default: position = min(size, position + 512 * Int.random(in: 0...300))
            }
            guard position < size else { break }
            let length: Int =
                switch Int.random(in: 0..<5) {
                case 0: Self.unit - position % Self.unit
                case 1: Self.unit * Int.random(in: 1...3)
                case 2: 512 * Int.random(in: 1...20)
                default: Int.random(in: 1...2 * Self.unit)
                }
            let end = min(size, position + length)
            let extent = try #require(
                Extent(offset: UInt64(position), length: UInt64(end - position)))
            let content: [UInt8]? =
                switch Int.random(in: 0..<5) {
                case 0: nil
                case 1: [UInt8](repeating: 0, count: end - position)
                default: Noise.bytes(end - position)
                }
            records.append(Record(extent: extent, content: content))
            position = end
        }
        return records
    }

    @Test("the new entries are those of what the volume then holds, each block once, in order")
    func model() throws {
        var counts = (rounds: 0, records: 0, blocks: 0, loaded: 0, zeros: 0)
        for _ in 0..<2500 {
            let missing = [0, 0, 1, 512, 65_535][Int.random(in: 0..<5)]
            let size = Int.random(in: 1...8) * Self.unit - missing
            let tagger = Tagger(Bool.random() ? .poly1305 : .sha256, key: .random())
            var volume = [UInt8](repeating: 0, count: size)
            for block in 0..<(size + Self.unit - 1) / Self.unit where Bool.random() {
                let start = block * Self.unit
                let count = min(Self.unit, size - start)
                volume.replaceSubrange(start..<start + count, with: Noise.bytes(count))
            }
            let before = volume
            let records = try records(size)
            var whole: Set<UInt64> = []
            var touched: Set<UInt64> = []
            for record in records {
                let range = Int(record.extent.offset)..<Int(record.extent.end)
                volume.replaceSubrange(
                    range,
                    with: record.content ?? [UInt8](repeating: 0, count: range.count))
                for block in 0..<(size + Self.unit - 1) / Self.unit {
                    let extent = block * Self.unit..<min(size, (block + 1) * Self.unit)
                    if extent.overlaps(range) { touched.insert(UInt64(block)) }
                    if extent.clamped(to: range) == extent { whole.insert(UInt64(block)) }
                }
            }
            func wanted(_ block: UInt64) -> Entry {
                let start = Int(block) * Self.unit
                return entry(of: volume[start..<min(size, start + Self.unit)], tagger)
            }

            var loaded: [UInt64] = []
            var replaced: [UInt64] = []
            var found: [TagMapFormat.Update] = []
            let shape = MapShape(volumeByteCount: UInt64(size))
            let collector = BlockCollector(
                shape, tagger,
                BlockCollector.Owner(
                    load: { block, extent, memory in
                        #expect(shape.extent(ofBlock: block) == extent)
                        let content = Array(before[Int(extent.offset)..<Int(extent.end)])
                        content.withRawSpan { memory.store($0, at: 0) }
                        loaded.append(block)
                    },
                    willReplace: { block, extent, entry in
                        #expect(shape.extent(ofBlock: block) == extent)
                        #expect(entry == wanted(block))
                        replaced.append(block)
                    },
                    zero: { blocks in
                        #expect(!blocks.isEmpty)
                        for block in blocks {
                            #expect(wanted(block) == .zero)
                            replaced.append(block)
                            found.append(TagMapFormat.Update(block: block, entry: .zero))
                        }
                    },
                    emit: { update in
                        found.append(update)
                    }))
            for record in records {
                guard let content = record.content else {
                    try collector.add(record.extent, nil, tags: [])
                    continue
                }
                let place = Int.random(in: 0...100)
                let memory = AlignedBuffer(byteCount: place + content.count)
                content.withRawSpan { memory.store($0, at: place) }
                let tags = content.withRawSpan {
                    tagger.tags(ofContent: $0, at: record.extent.offset)
                }
                try collector.add(record.extent, (memory, place), tags: tags)
                // The memory is used again for something else.
                memory.zero(at: 0, count: memory.byteCount)
            }
            try collector.finish()
            try collector.finish()

            #expect(found.map(\.block) == touched.sorted())
            #expect(found.allSatisfy { $0.entry == wanted($0.block) })
            #expect(replaced == whole.sorted())
            #expect(loaded == touched.subtracting(whole).sorted())
            counts.rounds += 1
            counts.records += records.count
            counts.blocks += found.count
            counts.loaded += loaded.count
            counts.zeros += found.count { $0.entry.isZero }
        }
        print("collected: \(counts)")
        #expect(counts.rounds == 2500 && counts.records > 5000 && counts.blocks > 5000)
        #expect(counts.loaded > 2000 && counts.zeros > 500)
    }

    @Test("pieces that together make a block load it once")
    func adjacent() throws {
        let tagger = Tagger(.poly1305, key: .random())
        let content = Noise.bytes(2 * Self.unit)
        var rounds = 0
        for _ in 0..<100 {
            var loads = 0
            var found: [TagMapFormat.Update] = []
            let collector = BlockCollector(
                MapShape(volumeByteCount: UInt64(content.count)), tagger,
                BlockCollector.Owner(
                    load: { _, extent, memory in
                        loads += 1
                        memory.zero(at: 0, count: Int(extent.length))
                    }, zero: { _ in }, emit: { found.append($0) }))
            var borders = Set((0..<Int.random(in: 1...20)).map { _ in Int.random(in: 1..<131_072) })
            borders.formUnion([0, 131_072])
            let sorted = borders.sorted()
            for (start, end) in zip(sorted, sorted.dropFirst()) {
                let piece = Array(content[start..<end])
                let memory = AlignedBuffer(byteCount: piece.count)
                piece.withRawSpan { memory.store($0, at: 0) }
                let tags = piece.withRawSpan { tagger.tags(ofContent: $0, at: UInt64(start)) }
                let extent = try #require(
                    Extent(offset: UInt64(start), length: UInt64(end - start)))
                try collector.add(extent, (memory, 0), tags: tags)
            }
            try collector.finish()
            #expect(loads <= 2)
            #expect(
                found == [
                    TagMapFormat.Update(block: 0, entry: entry(of: content[..<65_536], tagger)),
                    TagMapFormat.Update(block: 1, entry: entry(of: content[65_536...], tagger)),
                ])
            rounds += 1
        }
        #expect(rounds == 100)
    }

    @Test("what an owner refuses ends the collection")
    func refusal() throws {
        struct Refused: Error {}
        let tagger = Tagger(.poly1305, key: .random())
        let shape = MapShape(volumeByteCount: 3 * 65_536)
        let owners: [BlockCollector.Owner] = [
            .init(load: { _, _, _ in throw Refused() }, zero: { _ in }, emit: { _ in }),
            .init(load: { _, _, _ in }, zero: { _ in }, emit: { _ in throw Refused() }),
            .init(load: { _, _, _ in }, zero: { _ in throw Refused() }, emit: { _ in }),
        ]
        for owner in owners {
            let collector = BlockCollector(shape, tagger, owner)
            #expect(throws: Refused.self) {
                for (offset, length) in [(0, 65_536), (65_536, 512)] {
                    let extent = try #require(
                        Extent(offset: UInt64(offset), length: UInt64(length)))
                    try collector.add(extent, nil, tags: [])
                }
                try collector.finish()
            }
        }
    }
}
