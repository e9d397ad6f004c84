// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import MapStore
import Platform
import TagMap
import TestSupport
import Testing
import Wire

@Suite("Damaged tag maps") struct DamageTests {
    /// A map with its file, and what it says.
    private struct Sample {
        let model: Model
        let path: String
        let bytes: [UInt8]
        let file: File
        let root: SHA256Digest
        let updates: String
        let updated: Model

        init(_ maps: Maps, size: UInt64, filled: Int, zeroPage: UInt64? = nil) throws {
            var model = Model.random(size: size, filled: filled)
            if let zeroPage {
                for block in zeroPage * 256..<zeroPage * 256 + 256 { model[block] = .zero }
            }
            self.model = model
            path = try maps.make(model).path
            root = model.root(.poly1305)
            var updated = model
            let changes = model.someUpdates(20)
            updated.apply(changes)
            self.updated = updated
            updates = try maps.make(changes)
            bytes = try maps.bytes(path)
            file = try File(path: path, [.write])
        }

        /// Whether the file is refused. It must say the same otherwise.
        func isRefused() throws -> Bool {
            do {
                let map = try TagMapFile(opening: path)
                #expect(map.root == root && map.header.root == root)
                #expect(map.shape.volumeByteCount == model.size)
                let pages = model.pages
                for page in 0..<model.pageCount {
                    let wanted = pages[page] ?? [UInt8](repeating: 0, count: 4096)
                    #expect(try map.entries(ofPage: page) == wanted)
                }
                return false
            } catch {
                return true
            }
        }

        /// Whether updates of it are refused. Otherwise their root must be the right one.
        func isRefusedWithUpdates() throws -> Bool {
            do {
                let map = try TagMapFile(opening: path)
                let found = try map.root(
                    with: try MapUpdateReader(path: updates), size: model.size)
                #expect(found == updated.root(.poly1305))
                return false
            } catch {
                return true
            }
        }

        /// Whether the proof of the whole file refuses it.
        func isNotProven() -> Bool {
            do {
                try TagMapFile(opening: path, isWhole: false).prove()
                return false
            } catch { return true }
        }
    }

    @Test("a flipped bit is refused, or changes nothing that is read")
    func bits() throws {
        let maps = try Maps()
        let samples = [
            try Sample(maps, size: 200 * Sizes.block + 5, filled: 150),
            try Sample(maps, size: 3 * Sizes.page - 7, filled: 600, zeroPage: 1),
            try Sample(maps, size: 129 * Sizes.page + 1, filled: 30),
        ]
        var counts = (flips: 0, refused: 0, same: 0, withUpdates: 0, notProven: 0)
        for (sample, flips) in zip(samples, [9000, 9000, 4000]) {
            let whole = try sample.isRefused() || sample.isRefusedWithUpdates()
            #expect(!whole && !sample.isNotProven())
            for flip in 0..<flips {
                let bit = Int.random(in: 0..<sample.bytes.count * 8)
                let place = bit / 8
                try sample.file.write(
                    [sample.bytes[place] ^ (1 << UInt8(bit % 8))], at: UInt64(place))
                let isRefused = try sample.isRefused()
                counts.flips += 1
                counts.refused += isRefused ? 1 : 0
                counts.same += isRefused ? 0 : 1
                if flip % 4 == 0 {
                    counts.withUpdates += try sample.isRefusedWithUpdates() ? 1 : 0
                    let isNotProven = sample.isNotProven()
                    // The file ends with its last page: nothing of it is outside of the proof.
                    #expect(isNotProven, "bit \(bit)")
                    counts.notProven += 1
                }
                try sample.file.write([sample.bytes[place]], at: UInt64(place))
            }
            #expect(try !sample.isRefused())
        }
        print("flipped bits of tag maps: \(counts)")
        #expect(counts.flips == 22_000 && counts.notProven == 5500)
        // Pages of zeros are not read.
        #expect(counts.refused > 15_000 && counts.withUpdates > 3000)
    }

    @Test("a map that was cut, or has other 4096 bytes somewhere, is refused or the same")
    func blocks() throws {
        let maps = try Maps()
        let sample = try Sample(maps, size: 4 * Sizes.page - 7, filled: 700, zeroPage: 1)
        let other = try maps.bytes(maps.make(.random(size: 4 * Sizes.page - 7, filled: 700)).path)
        // A page of zeros is not read.
        let unread = Int(TagMapFormat.position(ofPage: 1))
        func masked(_ bytes: [UInt8]) -> [UInt8] {
            var masked = bytes
            masked += [UInt8](repeating: 0, count: max(0, sample.bytes.count - bytes.count))
            masked.replaceSubrange(unread..<unread + 4096, with: repeatElement(0, count: 4096))
            return masked
        }
        let right = masked(sample.bytes)
        var counts = (cases: 0, refused: 0)
        func check(_ bytes: [UInt8]) throws {
            try sample.file.truncate(to: 0)
            try sample.file.write(bytes, at: 0)
            counts.cases += 1
            let isRefused = try sample.isRefused()
            counts.refused += isRefused ? 1 : 0
            #expect(isRefused == (bytes.count < 4096 || masked(bytes) != right))
            #expect(try !sample.isRefusedWithUpdates() || isRefused)
        }
        for cut in stride(from: 0, through: sample.bytes.count, by: 31) {
            try check(Array(sample.bytes[..<cut]))
        }
        let starts = Array(stride(from: 0, to: sample.bytes.count, by: 4096))
        for start in starts {
            for source in starts {
                var bytes = sample.bytes
                bytes.replaceSubrange(
                    start..<start + 4096, with: sample.bytes[source..<source + 4096])
                try check(bytes)
            }
            var lost = sample.bytes
            lost.replaceSubrange(start..<start + 4096, with: repeatElement(0, count: 4096))
            try check(lost)
            var mixed = sample.bytes
            mixed.replaceSubrange(start..<start + 4096, with: other[start..<start + 4096])
            try check(mixed)
        }
        print("tag maps with damaged blocks: \(counts)")
        #expect(counts.cases > 700 && counts.refused > 600)
    }

    @Test("what stands past the last entry and the last digest is refused, even with right digests")
    func pastTheEnd() throws {
        let maps = try Maps()
        var refused = 0
        for _ in 0..<50 {
            let pages = UInt64.random(in: 1...3)
            let model = Model.random(
                size: pages * Sizes.page - Sizes.block * UInt64.random(in: 1...255), filled: 100)
            // The larger volume's map under the smaller one's size.
            var larger = model
            larger.resize(pages * Sizes.page)
            larger[UInt64.random(in: model.blockCount..<larger.blockCount)] = .random()
            let path = try maps.make(larger).path
            let file = try File(path: path, [.write])
            var header = try TagMapFile(opening: path).header
            header.volumeSize = model.size
            let shape = try TagMapFile(opening: maps.make(model).path).shape
            #expect(shape.pageCount == pages)
            var levels = larger
            levels.size = model.size
            header.root = levels.root(.poly1305)
            try file.write(header.encoded(), at: 0)
            let map = try TagMapFile(opening: path)
            #expect(throws: MapError.self) { try map.entries(ofPage: pages - 1) }
            #expect(throws: MapError.self) { try map.prove() }

            // A digest past the last page.
            let second = try maps.make(model)
            let place = UInt64(4096 + 32 * pages)
            try File(path: second.path, [.write]).write(SHA256Digest.of([3]).bytes, at: place)
            #expect(throws: MapError.self) { try TagMapFile(opening: second.path) }
            #expect(throws: MapError.self) {
                try TagMapFile(opening: second.path, isWhole: false).prove()
            }
            refused += 2
        }
        #expect(refused == 100)
    }
}
