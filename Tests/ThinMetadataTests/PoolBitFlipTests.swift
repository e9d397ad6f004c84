// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import TestSupport
import Testing
import ThinMetadata

@Suite("Damaged pools")
struct PoolBitFlipTests {
    /// What a reader is asked: a list of changes, and everything in one device.
    private func answer(
        _ source: any ByteSource, _ root: MetadataRoot, _ left: UInt32, _ right: UInt32
    ) throws -> [Change] {
        let reader = try ThinMetadataReader(source, root: root)
        return try reader.changes(from: left, to: right).collected()
            + reader.fullChanges(of: right, volumeByteCount: 1 << 30).collected()
    }

    @Test("a flipped bit anywhere is refused or harmless, never another list")
    func flips() throws {
        let fixtures: [(String, MetadataRoot, UInt32, UInt32)] = [
            ("kernel/thin-64k/tmeta-held-live.img.zst", .metadataSnapshot, 3, 5),
            ("kernel/thin-64k/tmeta-held-offline.img.zst", .current, 7, 1),
            ("kernel/thin-external-64k/tmeta-offline.img.zst", .current, 3, 1),
            ("kernel/thin-fragmented-64k/tmeta-held-live.img.zst", .metadataSnapshot, 2, 3),
            ("kernel/thin-fragmented-64k/tmeta-offline.img.zst", .current, 2, 3),
            ("kernel/thin-full-64k/tmeta-offline.img.zst", .current, 2, 1),
            ("metadata/thin-small.img.gz", .metadataSnapshot, 1, 2),
        ]
        var numbers = SeededNumbers(seed: 43)
        var (refused, same) = (0, 0)
        let trialsEach = 100_000 / fixtures.count + 1
        for (path, root, left, right) in fixtures {
            let probe = CheckedBytes(try FixtureFiles.bytes(path))
            let expected = try answer(probe, root, left, right)
            let used = probe.blocks.sorted()
            let source = MemoryBytes(probe.bytes)
            for trial in 0..<trialsEach {
                // Half of them in blocks that the answer depends on, half anywhere.
                let block =
                    trial % 2 == 0
                    ? Int(used[Int.random(in: 0..<used.count, using: &numbers)])
                    : Int.random(in: 0..<source.bytes.count / 4096, using: &numbers)
                let offset = block * 4096 + Int.random(in: 0..<4096, using: &numbers)
                let bit = UInt8(1) << UInt8.random(in: 0..<8, using: &numbers)
                source.bytes[offset] ^= bit
                defer { source.bytes[offset] ^= bit }
                do {
                    try #require(
                        try answer(source, root, left, right) == expected,
                        "\(path): byte \(offset)")
                    same += 1
                } catch is ThinMetadataError {
                    refused += 1
                }
            }
        }
        #expect(refused + same >= 100_000)
        #expect(refused >= 50_000)
        print(
            "pools: \(refused + same) flipped bits in \(fixtures.count) images: "
                + "\(refused) refused, \(same) the same list, 0 another list")
    }

    @Test("a read error at any point is refused, and comes out as it is")
    func readErrors() throws {
        let bytes = try FixtureFiles.bytes("kernel/thin-fragmented-64k/tmeta-offline.img.zst")
        var failures = 0
        for reads in 0..<200 {
            let source = CheckedBytes(bytes)
            source.readsLeft = reads
            do {
                _ = try answer(source, .current, 2, 3)
                break
            } catch let error as ThinMetadataError {
                guard case .read = error.reason else {
                    Issue.record("\(error)")
                    continue
                }
                failures += 1
            }
        }
        #expect(failures > 5 && failures < 200)
    }

    @Test("a truncated image is refused at every length that cuts something off")
    func truncation() throws {
        let bytes = try FixtureFiles.bytes("kernel/thin-fragmented-64k/tmeta-offline.img.zst")
        let expected = try answer(MemoryBytes(bytes), .current, 2, 3)
        for blocks in 0..<(bytes.count / 4096) {
            let cut = MemoryBytes(Array(bytes.prefix(blocks * 4096 + 100)))
            do {
                #expect(try answer(cut, .current, 2, 3) == expected)
            } catch is ThinMetadataError {}
        }
    }
}
