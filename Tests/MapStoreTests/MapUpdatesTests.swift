// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import MapStore
import Platform
import TestSupport
import Testing
import Wire

@Suite("Updates of a tag map") struct MapUpdatesTests {
    /// Ascending updates, none of them to zeros.
    private func some(_ count: Int) -> [TagMapFormat.Update] {
        var block = UInt64.random(in: 0...3)
        return (0..<count).map { _ in
            defer { block += UInt64.random(in: 1...300) }
            return TagMapFormat.Update(block: block, entry: .random())
        }
    }

    private func updates(of path: String) throws -> [TagMapFormat.Update] {
        var reader = try MapUpdateReader(path: path)
        var found: [TagMapFormat.Update] = []
        while let update = try reader.next() { found.append(update) }
        return found
    }

    @Test("what is written is read, but for what is no change")
    func roundTrip() throws {
        let maps = try Maps()
        var count = 0
        let borders = [0, 1, 169, 170, 171, 339, 340, 341, 510]
        for number in borders + (0..<100).map({ _ in Int.random(in: 0...1500) }) {
            let updates = some(number)
            for base in [TagMapFormat.Base.parent, .zeros] {
                let path = try maps.make(updates, base: base)
                #expect(try self.updates(of: path) == updates)
                #expect(try MapUpdateReader(path: path).header.base == base)
                #expect(try maps.bytes(path).count == 4096 * (1 + (number + 169) / 170))
                count += 1
            }
            // Zeros onto zeros are no change; onto a parent whose map is not known they are.
            let zeroed = updates.enumerated().map { index, update in
                TagMapFormat.Update(
                    block: update.block, entry: index % 3 == 0 ? .zero : update.entry)
            }
            #expect(try self.updates(of: maps.make(zeroed)) == zeroed)
            #expect(
                try self.updates(of: maps.make(zeroed, base: .zeros))
                    == zeroed.filter { !$0.entry.isZero })
            // What the old map says already is none either.
            var model = Model(size: 65_536 * (1 + (updates.last?.block ?? 0)))
            for update in zeroed where Bool.random() { model[update.block] = update.entry }
            let old = try maps.make(model, isSealed: false)
            let found = try self.updates(of: maps.make(zeroed, against: old))
            #expect(found == zeroed.filter { model[$0.block] != $0.entry })
            count += 3
        }
        #expect(count == 109 * 5)
    }

    @Test("a block that comes again, or too late, is passed over")
    func order() throws {
        let maps = try Maps()
        for _ in 0..<100 {
            let updates = some(Int.random(in: 1...500))
            var given: [TagMapFormat.Update] = []
            for (index, update) in updates.enumerated() {
                given.append(update)
                let earlier = updates[Int.random(in: 0...index)].block
                given.append(TagMapFormat.Update(block: earlier, entry: .random()))
            }
            #expect(try self.updates(of: maps.make(given)) == updates)
        }
    }

    @Test("a file cut anywhere, its end also zeros, has whole pages of its updates, and goes on")
    func cuts() throws {
        let maps = try Maps()
        var counts = (cuts: 0, resumed: 0)
        for number in [0, 1, 170, 171, 400, 700] {
            let updates = some(number)
            let transfer = TransferID.random()
            let path = maps.path()
            let writer = try MapUpdateWriter(making: path, base: .parent, transfer: transfer)
            for update in updates { try writer.add(update) }
            try writer.finish()
            let whole = try maps.bytes(path)
            let cuts =
                Array(stride(from: 0, through: whole.count, by: 97))
                + (0...whole.count / 4096).flatMap { [4096 * $0, max(0, 4096 * $0 - 1)] }
            for cut in cuts {
                for isZeroed in [false, true] {
                    let lost = whole.count - cut
                    let torn =
                        whole[..<cut] + [UInt8](repeating: 0, count: isZeroed ? lost : 0)
                    let file = try maps.folder.write(Array(torn), as: "torn")
                    counts.cuts += 1
                    // A page that is cut where only zeros follow is whole if zeros stand there.
                    var there = 0
                    while 4096 * (there + 1) <= torn.count,
                        torn[4096 * there..<4096 * (there + 1)]
                            == whole[4096 * there..<4096 * (there + 1)]
                    { there += 1 }
                    guard there > 0 else {
                        #expect(throws: MapError.self) { try MapUpdateReader(path: file) }
                        #expect(
                            try MapUpdateWriter(resuming: file, base: .parent, transfer: transfer)
                                == nil)
                        continue
                    }
                    let expected = Array(updates.prefix(170 * (there - 1)))
                    #expect(try self.updates(of: file) == expected, "\(cut)")
                    try resume(file, transfer, expected.last?.block, updates, whole, maps)
                    counts.resumed += 1
                }
            }
        }
        print("cuts of updates: \(counts)")
        #expect(counts.cuts > 400 && counts.resumed > 200)
    }

    private func resume(
        _ file: String, _ transfer: TransferID, _ last: UInt64?, _ updates: [TagMapFormat.Update],
        _ whole: [UInt8], _ maps: Maps
    ) throws {
        #expect(
            try MapUpdateWriter(resuming: file, base: .zeros, transfer: transfer) == nil)
        #expect(
            try MapUpdateWriter(resuming: file, base: .parent, transfer: .random()) == nil)
        let writer = try #require(
            try MapUpdateWriter(resuming: file, base: .parent, transfer: transfer))
        #expect(writer.lastBlock == last)
        // It does not matter from where on they come again, as long as none is left out.
        let first = updates.firstIndex { $0.block > last ?? 0 || last == nil } ?? updates.count
        for update in updates[Int.random(in: 0...first)...] { try writer.add(update) }
        try writer.finish()
        #expect(try maps.bytes(file) == whole)
    }

    @Test("who goes on leaves nothing of what stood behind")
    func leftovers() throws {
        let maps = try Maps()
        var count = 0
        for _ in 0..<50 {
            let updates = some(170 * Int.random(in: 3...6))
            let transfer = TransferID.random()
            let path = maps.path()
            let writer = try MapUpdateWriter(making: path, base: .parent, transfer: transfer)
            for update in updates { try writer.add(update) }
            try writer.finish()
            // The second page was not written; those behind it were.
            try File(path: path, [.write]).write([UInt8](repeating: 0, count: 4096), at: 8192)
            let again = try #require(
                try MapUpdateWriter(resuming: path, base: .parent, transfer: transfer))
            let kept = 170 + [0, 1, 169, 170][Int.random(in: 0..<4)]
            for update in updates[..<kept] { try again.add(update) }
            try again.finish()
            #expect(try self.updates(of: path) == Array(updates[..<kept]))
            count += 1
        }
        #expect(count == 50)
    }

    @Test("a flipped bit ends the updates before its page, or is refused")
    func bits() throws {
        let maps = try Maps()
        let updates = some(600)
        let path = try maps.make(updates)
        let whole = try maps.bytes(path)
        let file = try File(path: path, [.write])
        var counts = (flips: 0, refused: 0, shorter: 0)
        for _ in 0..<20_000 {
            let bit = Int.random(in: 0..<whole.count * 8)
            let place = bit / 8
            try file.write([whole[place] ^ (1 << UInt8(bit % 8))], at: UInt64(place))
            counts.flips += 1
            do {
                let found = try self.updates(of: path)
                #expect(found == Array(updates.prefix(170 * (place / 4096 - 1))), "bit \(bit)")
                counts.shorter += 1
            } catch is MapError {
                #expect(place < 4096)
                counts.refused += 1
            }
            try file.write([whole[place]], at: UInt64(place))
        }
        print("flipped bits of updates: \(counts)")
        #expect(counts.flips == 20_000 && counts.refused > 2000 && counts.shorter > 10_000)
    }

    @Test("nothing counts behind a page that is not full, nor behind one that is not valid")
    func behind() throws {
        let maps = try Maps()
        let updates = some(510)
        let header = TagMapFormat.UpdateHeader(base: .parent, transfer: .random()).encoded()
        let pages = [0, 170, 340].map { TagMapFormat.encoded(Array(updates[$0..<$0 + 170])) }
        let short = TagMapFormat.encoded(Array(updates[170..<339]))
        let cases: [([[UInt8]], Int)] = [
            (pages, 510), ([pages[0], short, pages[2]], 339), ([short, pages[2]], 169),
            ([pages[1], pages[0]], 170), ([pages[0], pages[0]], 170),
            ([[UInt8](repeating: 0, count: 4096)] + pages, 0),
        ]
        for (pages, count) in cases {
            let path = try maps.folder.write(header + pages.joined(), as: "updates")
            #expect(try self.updates(of: path).count == count)
        }
    }
}
