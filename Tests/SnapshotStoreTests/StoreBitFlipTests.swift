// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import SnapshotStore
import TestSupport
import Testing

@Suite("Damaged stores")
struct StoreBitFlipTests {
    // The format has no checksum. Two kinds of damage, and nothing else, may give another list: a
    // record's chunk that becomes the number of another unused chunk of the volume; and the empty
    // record at the end, if a flip makes it the record of chunk 0 that would come next. See
    // docs/formats/snapshot-store.md.
    @Test("a flipped bit is refused or harmless, unless it falls where the format cannot tell")
    func flips() throws {
        var numbers = SeededNumbers(seed: 42)
        var (refused, same, otherChunk, otherEnd) = (0, 0, 0, 0)
        let fixtures =
            try KernelStore.all().map { ($0.store, $0.volumeByteCount) }
            + [
                "cow-empty", "cow-exactly-256", "cow-266", "cow-mid-merge", "cow-mid-merge2",
            ].map { ("metadata/\($0).img.gz", 20001 * 512) }
        let trialsEach = 100_000 / fixtures.count + 1
        for (path, volume) in fixtures {
            let source = MemoryBytes(try FixtureFiles.bytes(path))
            let reader = try SnapshotStoreReader(source, volumeByteCount: volume)
            let right = try reader.changes().collected()
            let chunk = Int(reader.header.chunkByteCount)
            let perArea = chunk / 16
            let areas = Int(reader.exceptionCount) / perArea + 1
            for _ in 0..<trialsEach {
                // Three in four fall into what the reader looks at.
                let offset: Int
                let place = Int.random(in: 0..<8, using: &numbers)
                switch place {
                case 0, 1: offset = Int.random(in: 0..<source.bytes.count, using: &numbers)
                case 2: offset = Int.random(in: 0..<16, using: &numbers)
                default:
                    let area = Int.random(in: 0..<areas, using: &numbers)
                    offset =
                        (1 + area * (perArea + 1)) * chunk
                        + Int.random(in: 0..<chunk, using: &numbers)
                }
                let bit = UInt8(1) << UInt8.random(in: 0..<8, using: &numbers)
                source.bytes[offset] ^= bit
                defer { source.bytes[offset] ^= bit }
                guard let other = try? SnapshotStoreReader(source, volumeByteCount: volume)
                else {
                    refused += 1
                    continue
                }
                guard try other.changes().collected() != right else {
                    same += 1
                    continue
                }
                let slot = offset / chunk
                try #require(slot % (perArea + 1) == 1, "\(path): byte \(offset)")
                let index = slot / (perArea + 1) * perArea + offset % chunk / 16
                if offset % 16 < 8 {
                    try #require(index < Int(reader.exceptionCount), "\(path): byte \(offset)")
                    try #require(other.exceptionCount == reader.exceptionCount)
                    otherChunk += 1
                } else {
                    try #require(index == Int(reader.exceptionCount), "\(path): byte \(offset)")
                    try #require(other.exceptionCount == reader.exceptionCount + 1)
                    otherEnd += 1
                }
            }
        }
        let trials = refused + same + otherChunk + otherEnd
        #expect(trials >= 100_000)
        #expect(refused > trials / 4)
        print(
            "stores: \(trials) flipped bits in \(fixtures.count) images: \(refused) refused, "
                + "\(same) the same list; undetectable by the format: \(otherChunk) another chunk, "
                + "\(otherEnd) one more record of chunk 0")
    }
}
