// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import MapStore
import Platform
import TestSupport
import Testing
import Wire

@Suite("Interrupted updates of a tag map") struct CrashTests {
    private static let unit = 4096

    /// What a crash leaves: of each 4096 bytes the old ones or the new ones.
    ///
    /// The header is not among them: it is written when all the rest is durable.
    private func torn(
        _ old: [UInt8], _ new: [UInt8], byteCount: Int, _ isNew: (Int) -> Bool
    ) -> [UInt8] {
        var torn = [UInt8](repeating: 0, count: byteCount)
        for start in stride(from: 0, to: byteCount, by: Self.unit) {
            let source = start > 0 && isNew(start / Self.unit) ? new : old
            let end = min(start + Self.unit, byteCount, source.count)
            if start < end { torn.replaceSubrange(start..<end, with: source[start..<end]) }
        }
        return torn
    }

    @Test("updates that were interrupted anywhere and are applied again give what they should")
    func again() throws {
        var counts = (cases: 0, crashes: 0, alreadyNew: 0, notYet: 0)
        for _ in 0..<80 {
            let maps = try Maps()
            var model = Model.random(
                size: UInt64.random(in: 1...3 * Sizes.strip), filled: .random(in: 0...300))
            let map = try maps.make(model)
            let old = try maps.bytes(map.path)
            switch Int.random(in: 0..<4) {
            case 0: model.resize(UInt64.random(in: 1...model.size))
            case 1: model.resize(model.size + UInt64.random(in: 0...Sizes.strip))
            case 2:
                let next = TagMapFileTests.nextSize(after: model.size)
                model.resize(next % (4 * Sizes.strip) + 1)
            default: break
            }
            let updates = model.someUpdates(Int.random(in: 0...300))
            model.apply(updates)
            let path = try maps.make(updates)
            let generation = SHA256Digest.of([2])
            try map.apply(try MapUpdateReader(path: path), size: model.size)
            try map.seal(lineage: maps.lineage, generation: generation)
            let new = try maps.bytes(map.path)
            try expect(map, is: model)
            counts.cases += 1

            let blocks = max(old.count, new.count) / Self.unit + 1
            for crash in 0..<16 {
                let border = Int.random(in: 0...blocks)
                let share = Int.random(in: 0...4)
                let byteCount = [old.count, new.count].randomElement() ?? 0
                let left = torn(old, new, byteCount: byteCount) { block in
                    switch crash {
                    case 0: false
                    case 1: true
                    case 2..<6: block < border
                    case 6..<8: block >= border
                    default: Int.random(in: 0..<4) < share
                    }
                }
                let file = try maps.folder.write(left, as: "torn")
                // Whether it would pass for a whole map: the old one only before the first write.
                if let whole = try? TagMapFile(opening: file) {
                    #expect(whole.header.generation == SHA256Digest.of([1]))
                    counts.notYet += 1
                }
                for _ in 0..<2 {
                    let found = try TagMapFile(opening: file, isWhole: false)
                    if found.root == map.root { counts.alreadyNew += 1 }
                    try found.apply(try MapUpdateReader(path: path), size: model.size)
                    #expect(found.root == map.root)
                    try found.seal(lineage: maps.lineage, generation: generation)
                }
                let whole = try TagMapFile(opening: file)
                try whole.prove()
                #expect(whole.header == map.header)
                let bytes = try maps.bytes(file)
                let shared = min(bytes.count, new.count)
                #expect(bytes[..<shared] == new[..<shared])
                #expect((bytes[shared...] + new[shared...]).allSatisfy { $0 == 0 })
                counts.crashes += 1
            }
        }
        print("interrupted: \(counts)")
        #expect(counts.cases == 80 && counts.crashes == 1280)
    }

    @Test("a map of zeros that takes a whole generation may be interrupted and made anew")
    func fromZeros() throws {
        let maps = try Maps()
        var count = 0
        for _ in 0..<40 {
            let model = Model.random(
                size: UInt64.random(in: 1...2 * Sizes.strip), filled: .random(in: 1...500))
            let updates = model.entries.sorted { $0.key < $1.key }
                .map { TagMapFormat.Update(block: $0.key, entry: $0.value) }
            let path = try maps.make(updates, base: .zeros)
            let file = maps.path()
            for _ in 0..<2 {
                let map = try TagMapFile(making: file, .poly1305, volumeByteCount: model.size)
                #expect(
                    try map.root(with: try MapUpdateReader(path: path), size: model.size)
                        == model.root(.poly1305))
                try map.apply(try MapUpdateReader(path: path), size: model.size)
                try expect(map, is: model)
                try map.seal(lineage: .none, generation: .zero)
                count += 1
            }
            try TagMapFile(opening: file).prove()
        }
        #expect(count == 80)
    }
}
