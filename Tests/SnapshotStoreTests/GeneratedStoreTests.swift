// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import SnapshotStore
import TestSupport
import Testing

@Suite("Generated stores")
struct GeneratedStoreTests {
    @Test("every generated store gives the list that the independent generator names")
    func generated() throws {
        var (listed, refused, relaxed) = (0, 0, 0)
        for round in 0..<LongRun.rounds {
            let run = try ToolRun(
                "/usr/bin/python3", "\(FixtureFiles.root)/generate/cow_stores.py", "\(20 + round)",
                "2500")
            for line in run.lines {
                let answer = try JSON(Array(line.utf8))
                let volume = try #require(answer["volume_bytes"].number)
                let source = CheckedBytes(try bytes(of: answer))
                let expected = answer["extents"].rows.compactMap {
                    Extent(offset: $0[0], length: $0[1]).map { Change($0, .data) }
                }
                if answer["refused"].bool == true {
                    #expect(throws: SnapshotStoreError.self, "\(answer["damage"])") {
                        try SnapshotStoreReader(source, volumeByteCount: volume, order: .any)
                    }
                    refused += 1
                    continue
                }
                if answer["sequential"].bool == false {
                    #expect(throws: SnapshotStoreError.self) {
                        try SnapshotStoreReader(source, volumeByteCount: volume)
                    }
                    relaxed += 1
                }
                let order: AllocationOrder = answer["sequential"].bool == true ? .sequential : .any
                let reader = try SnapshotStoreReader(source, volumeByteCount: volume, order: order)
                #expect(try reader.changes().collected() == expected)
                #expect(source.isAligned)
                try checkMap(reader, volume)
                listed += 1
            }
        }
        #expect(listed + refused == 2500 * LongRun.rounds)
        #expect(refused > 250 && relaxed > 100)
        print("generated stores: \(listed) listed, \(refused) refused, \(relaxed) out of order")
    }

    /// The map against the records themselves, chunk by chunk.
    private func checkMap(_ reader: SnapshotStoreReader, _ volume: UInt64) throws {
        var places: [UInt64: UInt64] = [:]
        try reader.forEachRecord { places[$0.chunk] = $0.storeChunk }
        let chunk = reader.header.chunkByteCount
        let map = try reader.exceptionMap()
        #expect(map.count == places.count)
        let start = min(chunk / 2 + 3 * chunk, volume - 1)
        guard let extent = Extent(from: start, upTo: min(start + 20 * chunk, volume)) else {
            return
        }
        var covered = start
        for piece in map.pieces(of: extent) {
            #expect(piece.extent.offset == covered)
            var at = covered
            while at < piece.extent.end {
                let expected = places[at / chunk].map { $0 * chunk + at % chunk }
                #expect(piece.offset.map { $0 + at - covered } == expected)
                #expect(
                    map.storeOffset(ofChunk: at / chunk) == places[at / chunk].map { $0 * chunk })
                at = (at / chunk + 1) * chunk
            }
            covered = piece.extent.end
        }
        #expect(covered == extent.end)
    }

    private func bytes(of answer: JSON) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Int(try #require(answer["store_bytes"].number)))
        for piece in answer["pieces"].elements {
            var offset = Int(try #require(piece.elements.first?.number))
            var high: UInt8?
            for digit in try #require(piece.elements.last?.string).utf8 {
                let value = digit < 58 ? digit - 48 : digit - 87
                if let first = high {
                    bytes[offset] = first << 4 | value
                    offset += 1
                    high = nil
                } else {
                    high = value
                }
            }
        }
        return bytes
    }
}
