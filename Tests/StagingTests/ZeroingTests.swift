// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Foundation
import Platform
import Staging
import TestSupport
import Testing

@Suite("Zeroing")
struct ZeroingTests {
    @Test(
        "the inner part is the largest range of whole units, for every place around their borders")
    func wholeUnits() {
        var count = 0
        for unit: UInt64 in [4096, 65_536, 192 << 10] {
            let places = (0..<4).flatMap { block in
                [0, 512, 4096, unit - 512].map { UInt64(block) * unit + $0 }
            }
            for start in places {
                for end in places where end >= start {
                    let found = Zeroing.whole(units: unit, in: start..<end)
                    // By counting the blocks that lie inside.
                    let inside = (0..<5).filter {
                        UInt64($0) * unit >= start && (UInt64($0) + 1) * unit <= end
                    }
                    #expect(found.lowerBound >= start && found.upperBound <= end)
                    #expect((found.upperBound - found.lowerBound) == UInt64(inside.count) * unit)
                    if let first = inside.first {
                        #expect(found.lowerBound == UInt64(first) * unit)
                    }
                    count += 1
                }
            }
        }
        print("ranges cut to units: \(count)")
        #expect(count > 400)
        #expect(Zeroing.whole(units: 65_536, in: UInt64.max - 9..<UInt64.max).isEmpty)
    }

    private func table(_ lines: String...) -> DeviceTable {
        DeviceTable(
            lines: lines.map { line in
                let words = line.split(separator: " ").map(String.init)
                return DeviceTable.Line(
                    start: UInt64(words[0]) ?? 0, length: UInt64(words[1]) ?? 0, type: words[2],
                    parameters: Array(words.dropFirst(3)))
            })
    }

    @Test("only a whole thin volume without an external origin names its pool")
    func poolOfTable() {
        let size: UInt64 = 131_072 * 512
        func pool(_ lines: DeviceTable) -> DeviceNumber? {
            lines.thinPool(ofWhole: size)
        }
        #expect(pool(table("0 131072 thin 254:2 1")) == DeviceNumber(major: 254, minor: 2))
        for refused in [
            table("0 131072 thin 254:2 1 254:9"), table("0 131072 linear 254:2 0"),
            table("0 131064 thin 254:2 1"), table("8 131072 thin 254:2 1"),
            table("0 65536 thin 254:2 1", "65536 65536 linear 8:1 0"), table(),
            table("0 131072 thin 254 1"), table("0 131072 thin a:b 1"), table("0 131072 thin"),
        ] {
            #expect(pool(refused) == nil, "\(refused)")
        }
    }

    @Test("a pool proves nothing unless every feature it has is known to be harmless")
    func poolFeatures() {
        for line in [
            "0 409600 thin-pool 254:0 254:1 128 0 0", "0 409600 thin-pool 254:0 254:1 128 0",
            "0 409600 thin-pool 254:0 254:1 128 0 1 no_discard_passdown",
            "0 409600 thin-pool 254:0 254:1 384 9 2 error_if_no_space no_discard_passdown",
        ] {
            #expect(table(line).zeroesDiscarded, "\(line)")
        }
        for line in [
            "0 409600 thin-pool 254:0 254:1 128 0 1 skip_block_zeroing",
            "0 409600 thin-pool 254:0 254:1 128 0 1 ignore_discard",
            "0 409600 thin-pool 254:0 254:1 128 0 1 read_only",
            "0 409600 thin-pool 254:0 254:1 128 0 1 invented_feature",
            "0 409600 thin-pool 254:0 254:1 128 0 2 no_discard_passdown skip_block_zeroing",
            "0 409600 thin-pool 254:0 254:1 128 0 1 no_discard_passdown skip_block_zeroing",
            "0 409600 thin-pool 254:0 254:1 128 0 -1", "0 409600 thin-pool 254:0 254:1 128 0 x",
            "0 409600 thin-pool 254:0 254:1 128", "0 409600 linear 8:0 0",
        ] {
            #expect(!table(line).zeroesDiscarded, "\(line)")
        }
    }

    @Test(
        "discards need proof, or units that can be filled; a table that speaks against them decides"
    )
    func methods() {
        let unit: UInt64 = 65_536
        func method(
            _ unit: UInt64, _ size: UInt64, _ isProven: Bool?, isWhole: Bool = true
        ) -> Zeroing.Method {
            Zeroing.method(unit: unit, byteCount: size, isProven: isProven, isWhole: isWhole)
        }
        #expect(method(unit, 10 * unit, true) == .discard(unit: unit, isFilled: false))
        #expect(method(unit, 10 * unit, nil) == .discard(unit: unit, isFilled: true))
        #expect(method(1 << 20, 1 << 22, nil) == .discard(unit: 1 << 20, isFilled: true))
        #expect(method(1 << 21, 1 << 23, true) == .discard(unit: 1 << 21, isFilled: false))
        for refused in [
            method(unit, 10 * unit, false), method(1 << 21, 1 << 23, nil),
            method(unit, 10 * unit + 512, nil), method(unit, 10 * unit, nil, isWhole: false),
            method(0, 10, nil), method(512, 5120, true),
        ] { #expect(refused == .write) }
    }

    @Test("numbers of devices are read as they are written, and nothing else is")
    func deviceNumbers() {
        #expect(DeviceNumber("254:12")?.description == "254:12")
        for text in ["254", "254:", ":1", "1:2:3", "-1:2", "a:1", "1:99999999999"] {
            #expect(DeviceNumber(text) == nil, "\(text)")
        }
    }

    @Test("a file has holes where it was zeroed, and occupies what is left")
    func holes() throws {
        let folder = try TemporaryFolder()
        let path = try folder.write([UInt8](repeating: 7, count: 1 << 20), as: "target")
        let target = try Target(path: path, registered: nil)
        try target.zero(4096 + 100, count: (1 << 19) - 200)
        try target.sync()
        let found = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
        let zeroed = (4096 + 100)..<(4096 + (1 << 19) - 100)
        #expect(found.indices.allSatisfy { found[$0] == (zeroed.contains($0) ? 0 : 7) })
        let status = try File(path: path).status()
        #expect(status.byteCount == 1 << 20)
        #expect(status.allocatedByteCount <= 1 << 19 + 8192, "\(status)")
    }
}
