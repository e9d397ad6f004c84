// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import TestSupport
import Testing
import ThinMetadata

@Suite("Rules for pools")
struct PoolRuleTests {
    /// A small pool whose blocks can be changed and sealed again.
    final class Patched {
        var bytes: [UInt8]

        init(_ fixture: String = "metadata/thin-small.img.gz") throws {
            bytes = try FixtureFiles.bytes(fixture)
        }

        /// Puts a little-endian value into a block and corrects the checksum.
        func set(_ block: Int, _ offset: Int, _ value: some FixedWidthInteger, salt: UInt32) {
            var field: [UInt8] = []
            field.append(littleEndian: value)
            let start = block * 4096
            bytes.replaceSubrange(start + offset..<start + offset + field.count, with: field)
            let state = Array(bytes[start + 4..<start + 4096]).withRawSpan {
                CRC32C.update(.max, $0)
            }
            var sum: [UInt8] = []
            sum.append(littleEndian: state ^ salt)
            bytes.replaceSubrange(start..<start + 4, with: sum)
        }

        func word(_ block: Int, _ offset: Int) throws -> UInt64 {
            try bytes.withRawSpan { try $0.littleEndian(at: block * 4096 + offset) }
        }

        func list() throws -> [Change] {
            try ThinMetadataReader(MemoryBytes(bytes)).changes(from: 1, to: 2).collected()
        }
    }

    static let superblock: UInt32 = 160_774
    static let node: UInt32 = 121_107

    private func expect(
        _ block: UInt64?, _ reason: ThinMetadataError.Reason, _ change: (Patched) throws -> Void
    ) throws {
        let pool = try Patched()
        try change(pool)
        #expect(throws: ThinMetadataError(block: block, reason)) { try pool.list() }
    }

    @Test("the superblock is refused for each rule, even with a right checksum")
    func superblockRules() throws {
        let salt = Self.superblock
        try expect(0, .wrongMagic(found: 5)) { $0.set(0, 32, UInt64(5), salt: salt) }
        try expect(0, .wrongVersion(found: 3)) { $0.set(0, 40, UInt32(3), salt: salt) }
        try expect(0, .needsCheck) { $0.set(0, 4, UInt32(1), salt: salt) }
        try expect(0, .unknownFlags(2)) { $0.set(0, 4, UInt32(2), salt: salt) }
        try expect(0, .wrongBlockNumber(found: 1)) { $0.set(0, 8, UInt64(1), salt: salt) }
        try expect(0, .wrongDataBlockSize(sectors: 100)) {
            $0.set(0, 336, UInt32(100), salt: salt)
        }
        try expect(0, .wrongMetadataBlockSize(sectors: 16)) {
            $0.set(0, 340, UInt32(16), salt: salt)
        }
        try expect(0, .incompatibleFeatures(4)) { $0.set(0, 360, UInt32(4), salt: salt) }
        try expect(0, .uninitialised) { pool in
            for index in 0..<4096 { pool.bytes[index] = 0 }
        }
        try expect(nil, .wrongPointer(found: 5000, blockCount: 2048)) {
            $0.set(0, 320, UInt64(5000), salt: salt)
        }
        try expect(nil, .tooSmall(byteCount: 100)) { $0.bytes = Array($0.bytes.prefix(100)) }
        let pool = try Patched()
        pool.set(0, 4, UInt32(1), salt: salt)
        let reader = try ThinMetadataReader(MemoryBytes(pool.bytes), allowsNeedsCheck: true)
        #expect(reader.superblock.needsCheck)
    }

    @Test("a node is refused for each rule, even with a right checksum")
    func nodeRules() throws {
        let original = try Patched()
        let top = Int(try original.word(0, 320))
        let details = Int(try original.word(0, 328))
        let tree = Int(try original.word(top, 32 + 252 * 8))
        let id = UInt64(tree)
        let salt = Self.node
        try expect(id, .wrongNodeKind(flags: 3, wantLeaf: true)) {
            $0.set(tree, 4, UInt32(3), salt: salt)
        }
        try expect(id, .wrongEntryCount(found: 253, minimum: 1, maximum: 252)) {
            $0.set(tree, 16, UInt32(253), salt: salt)
        }
        try expect(id, .wrongCapacity(found: 255, valueByteCount: 8)) {
            $0.set(tree, 20, UInt32(255), salt: salt)
        }
        try expect(id, .wrongValueSize(found: 16, expected: 8)) {
            $0.set(tree, 24, UInt32(16), salt: salt)
        }
        try expect(UInt64(details), .devicesDiffer(deviceID: 7)) {
            $0.set(details, 32, UInt64(7), salt: salt)
            $0.set(details, 40, UInt64(8), salt: salt)
            $0.set(details, 48, UInt64(9), salt: salt)
            $0.set(details, 56, UInt64(10), salt: salt)
        }
    }

    @Test("a device that is not there is refused")
    func noDevice() throws {
        let reader = try ThinMetadataReader(MemoryBytes(try Patched().bytes))
        #expect(throws: ThinMetadataError(block: nil, .noSuchDevice(deviceID: 9))) {
            try reader.changes(from: 1, to: 9)
        }
    }

    @Test("an error says where and why in one sentence")
    func sentences() {
        let reason = ThinMetadataError.Reason.checksumMismatch(stored: 0x12, computed: 0xAB)
        #expect(
            "\(ThinMetadataError(block: 37, reason))"
                == "block 37: checksum mismatch (stored 0x00000012, computed 0x000000ab)")
    }

    @Test("the same device twice differs in nothing and costs no reading")
    func sameDevice() throws {
        let source = CheckedBytes(try Patched().bytes)
        let reader = try ThinMetadataReader(source)
        let reads = source.blockReadCount
        #expect(try reader.changes(from: 1, to: 1).collected().isEmpty)
        #expect(source.blockReadCount == reads)
    }
}
