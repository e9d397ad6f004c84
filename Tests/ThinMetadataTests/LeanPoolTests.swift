// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import TestSupport
import Testing
import ThinMetadata

@Suite("Pools with as few entries in their nodes as writers leave")
struct LeanPoolTests {
    static let folder = "kernel/thin-lean-64k"

    /// Reads everything there is in a pool.
    private func mappedBlocks(_ bytes: [UInt8]) throws -> [UInt32: UInt64] {
        let reader = try ThinMetadataReader(MemoryBytes(bytes))
        var counts: [UInt32: UInt64] = [:]
        for device in reader.devices {
            counts[device.deviceID] = try reader.mappingRuns(of: device.deviceID)
                .reduce(0) { $0 + $1.length }
        }
        return counts
    }

    @Test("a pool that the kernel thinned out to the limit is read whole")
    func kernel() throws {
        let manifest = try FixtureFiles.json("\(Self.folder)/manifest.json")
        let bytes = try FixtureFiles.bytes("\(Self.folder)/tmeta-offline.img.zst")
        let counts = try mappedBlocks(bytes)
        #expect(UInt64(counts.count) == manifest["device_count"].number)
        for (device, count) in counts {
            #expect(count == manifest["mapped_blocks"]["\(device)"].number ?? 0)
        }
        #expect(counts.values.contains { $0 > 50_000 })
    }

    /// What is read of the pool if a node says that it has fewer entries, with a right checksum.
    private func reason(
        _ pool: PoolRuleTests.Patched, _ block: Int, _ count: UInt32
    ) throws -> ThinMetadataError? {
        pool.set(block, 16, count, salt: PoolRuleTests.node)
        do {
            _ = try mappedBlocks(pool.bytes)
            return nil
        } catch let error as ThinMetadataError {
            return error
        }
    }

    @Test(
        "one entry fewer than kernels before 5.5 leave is damage, even with a right checksum",
        arguments: ["top leaf", "details leaf", "mappings leaf", "mappings inner"])
    func lowered(place: String) throws {
        let manifest = try FixtureFiles.json("\(Self.folder)/manifest.json")
        let node = manifest["leanest"][place]
        let block = Int(try #require(node["block"].number))
        let room = UInt32(try #require(node["room"].number))
        let third = room / 3
        let entries = UInt32(try #require(node["entries"].number))
        // Removals from a device look at the path once more, so its leaves keep one above the third.
        #expect(entries == third + (place == "mappings leaf" ? 1 : 0))
        let pool = try PoolRuleTests.Patched("\(Self.folder)/tmeta-offline.img.zst")
        // As those kernels left it: the node passes, and what it lacks is missed elsewhere.
        switch try reason(pool, block, third - 1)?.reason {
        case .devicesDiffer, .wrongMappingCount: break
        case let other: Issue.record("\(place): \(String(describing: other))")
        }
        for count in [third - 2, third / 2, 1, 0] {
            #expect(
                try reason(pool, block, count)
                    == ThinMetadataError(
                        block: UInt64(block),
                        .wrongEntryCount(found: count, minimum: third - 1, maximum: room)))
        }
        #expect(try reason(pool, block, entries) == nil)
    }
}
