// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import MapStore
import Platform
import TagMap
import TestSupport
import Testing
import Wire

@Suite("File of a tag map") struct TagMapFileTests {
    @Test("updates, growth and shrinking give the map that one made from scratch is")
    func changes() throws {
        var counts = (volumes: 0, steps: 0, updates: 0, grown: 0, shrunk: 0, deep: 0)
        for _ in 0..<150 {
            let maps = try Maps()
            let algorithm = TagAlgorithm.allCases.randomElement() ?? .poly1305
            var model = Model.random(size: Sizes.some(), filled: .random(in: 0...300))
            var map = try maps.make(model, algorithm)
            try expect(map, is: model, "made")
            counts.volumes += 1
            for step in 0..<4 {
                let old = model.size
                if step > 0 { model.resize(Self.nextSize(after: old)) }
                let updates = model.someUpdates(Int.random(in: 0...400))
                model.apply(updates)
                let path = try maps.make(updates, against: step % 2 == 0 ? map : nil)
                let root = model.root(algorithm)

                let before = try Self.smallBytes(map, maps)
                let kept = map.root
                let predicted = try map.root(
                    with: try MapUpdateReader(path: path), size: model.size)
                #expect(predicted == root, "\(old) to \(model.size)")
                #expect(map.root == kept && map.shape.volumeByteCount == old)
                #expect(
                    try Self.smallBytes(map, maps) == before, "root(with:) writes nothing")

                try map.apply(try MapUpdateReader(path: path), size: model.size)
                let generation = SHA256Digest.of([UInt8(step)])
                try map.seal(lineage: maps.lineage, generation: generation)
                try expect(map, is: model, "\(old) to \(model.size)")
                // What is in memory is what is in the file.
                map = try TagMapFile(opening: map.path)
                #expect(map.header.generation == generation && map.header.root == root)
                #expect(map.header.lineage == maps.lineage && map.header.algorithm == algorithm)
                try expect(map, is: model, "opened again")
                try map.prove()

                let fresh = try maps.make(model, algorithm)
                #expect(fresh.root == root)
                try Self.compare(fresh, map, maps)
                counts.steps += 1
                counts.updates += updates.count
                counts.grown += model.size > old ? 1 : 0
                counts.shrunk += model.size < old ? 1 : 0
                counts.deep += map.shape.top >= 3 ? 1 : 0
            }
        }
        print("maps: \(counts)")
        #expect(counts.volumes == 150 && counts.steps == 600 && counts.updates > 20_000)
        #expect(counts.grown > 100 && counts.shrunk > 100 && counts.deep > 20)
    }

    /// The bytes of a file, unless it is large and mostly holes.
    private static func smallBytes(_ map: TagMapFile, _ maps: Maps) throws -> [UInt8]? {
        try File(path: map.path).status().byteCount < 4 << 20 ? maps.bytes(map.path) : nil
    }

    /// Beside the headers, which name generations, the files differ in zeros at most.
    private static func compare(_ one: TagMapFile, _ other: TagMapFile, _ maps: Maps) throws {
        guard let first = try smallBytes(one, maps), let second = try smallBytes(other, maps)
        else { return }
        let shared = min(first.count, second.count)
        #expect(first[4096..<shared] == second[4096..<shared])
        #expect((first[shared...] + second[shared...]).allSatisfy { $0 == 0 })
    }

    static func nextSize(after size: UInt64) -> UInt64 {
        switch Int.random(in: 0..<8) {
        case 0: size
        case 1: size + 1
        case 2: size + UInt64.random(in: 1...Sizes.page)
        case 3: size + UInt64.random(in: 1...2 * Sizes.strip)
        case 4: max(1, size - 1)
        case 5: max(1, size - min(size, UInt64.random(in: 1...Sizes.page)))
        case 6: UInt64.random(in: 1...size)
        default: Sizes.some()
        }
    }

    @Test("what a shrunk volume has lost does not come back when it grows again")
    func regrowth() throws {
        let maps = try Maps()
        var count = 0
        for _ in 0..<60 {
            var model = Model.random(
                size: UInt64.random(in: 1...3 * Sizes.strip), filled: .random(in: 50...500))
            let map = try maps.make(model)
            let nothing = try maps.make([])
            for _ in 0..<3 {
                let great = model.size
                for size in [UInt64.random(in: 1...great), great] {
                    model.resize(size)
                    try map.apply(try MapUpdateReader(path: nothing), size: size)
                    try map.seal(lineage: .none, generation: .zero)
                    try expect(map, is: model)
                    try TagMapFile(opening: map.path).prove()
                    count += 1
                }
            }
        }
        #expect(count == 360)
    }

    @Test("what stands where further pages would is not read, also when the volume grows over it")
    func behindThePages() throws {
        let maps = try Maps()
        var count = 0
        for _ in 0..<60 {
            let pages = UInt64.random(in: 1...126)
            var model = Model.random(size: pages * Sizes.page, filled: 40)
            let map = try maps.make(model)
            let noise = [UInt8](repeating: 0xEE, count: 8192)
            try File(path: map.path, [.write]).write(
                noise, at: TagMapFormat.position(ofPage: pages))
            let opened = try TagMapFile(opening: map.path)
            try opened.prove()
            model.resize((pages + 2) * Sizes.page)
            let updates = [pages, pages + 1].map {
                TagMapFormat.Update(block: $0 * 256 + .random(in: 0...255), entry: .random())
            }
            model.apply(updates)
            let path = try maps.make(updates)
            #expect(
                try opened.root(with: try MapUpdateReader(path: path), size: model.size)
                    == model.root(.poly1305))
            try opened.apply(try MapUpdateReader(path: path), size: model.size)
            try opened.seal(lineage: .none, generation: .zero)
            try expect(opened, is: model)
            try TagMapFile(opening: map.path).prove()
            count += 1
        }
        #expect(count == 60)
    }

    @Test("a map made in place of another one has nothing of it, and no header before it is sealed")
    func making() throws {
        let maps = try Maps()
        let old = try maps.make(.random(size: 5 * Sizes.page, filled: 700))
        let map = try TagMapFile(making: old.path, .sha256, volumeByteCount: 5 * Sizes.page)
        #expect(throws: MapError.self) { try TagMapFile(opening: old.path) }
        try map.finishPass()
        let model = Model(size: 5 * Sizes.page)
        try expect(map, is: model)
        #expect(throws: MapError.self) { try TagMapFile(opening: old.path) }
        try map.seal(lineage: .none, generation: .zero)
        try expect(try TagMapFile(opening: old.path), is: model)
        // A volume of zeros costs a header.
        #expect(try maps.bytes(old.path).count == 4096)
        #expect(throws: MapError.self) { try TagMapFile(opening: "\(maps.folder.path)/none") }
    }

    @Test("a map costs what the volume holds, whatever size a peer names")
    func greatest() throws {
        let maps = try Maps()
        var count = 0
        let sizes: [UInt64] = [Limits.volumeSize, Limits.volumeSize - 1, 1 << 50, (1 << 55) + 1]
        for size in sizes {
            var model = Model(size: size)
            let map = try maps.make(model)
            try expect(map, is: model)
            // Pages that a file of the host's can hold.
            for block in [0, 77, 1 << 20, 1 << 24] as [UInt64] { model[block] = .random() }
            let updates = model.entries.sorted { $0.key < $1.key }
                .map { TagMapFormat.Update(block: $0.key, entry: $0.value) }
            let path = try maps.make(updates)
            #expect(
                try map.root(with: try MapUpdateReader(path: path), size: size)
                    == model.root(.poly1305))
            try map.apply(try MapUpdateReader(path: path), size: size)
            try map.seal(lineage: .none, generation: .zero)
            let opened = try TagMapFile(opening: map.path)
            try expect(opened, is: model)
            try opened.prove()
            let nothing = try maps.make([])
            for size in [size - 1, UInt64(1) << 40, Limits.volumeSize] {
                model.resize(size)
                try map.apply(try MapUpdateReader(path: nothing), size: size)
                #expect(map.root == model.root(.poly1305))
                count += 1
            }
            // An update far out does not need what lies before it.
            let far = try maps.make([
                TagMapFormat.Update(block: model.blockCount - 1, entry: .random())
            ])
            let changed = try map.root(with: try MapUpdateReader(path: far), size: model.size)
            #expect(changed != map.root)
        }
        #expect(count == 12)
    }

    @Test("an update of a block that the volume does not have is refused")
    func pastTheEnd() throws {
        let maps = try Maps()
        var refused = 0
        for _ in 0..<100 {
            let model = Model.random(size: UInt64.random(in: 1...Sizes.strip), filled: 20)
            let map = try maps.make(model, isSealed: false)
            let size = Bool.random() ? model.size : UInt64.random(in: 1...model.size)
            let end = Model(size: size).blockCount
            let wrong = [end, end + 1, end + 255, end + 40_000, 1 << 46, .max].randomElement() ?? 0
            var updates = Model(size: size).someUpdates(3)
            updates.append(TagMapFormat.Update(block: wrong, entry: .random()))
            let path = try maps.make(updates)
            #expect(throws: MapError.self) {
                try map.root(with: try MapUpdateReader(path: path), size: size)
            }
            #expect(throws: MapError.self) {
                try map.apply(try MapUpdateReader(path: path), size: size)
            }
            refused += 1
        }
        #expect(refused == 100)
    }
}
