// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import SnapshotStore
import TestSupport
import Testing

@Suite("Rules for stores")
struct StoreRuleTests {
    /// A store of 4 KiB chunks with records (chunk, store chunk) in its first area.
    private func store(
        _ records: [(UInt64, UInt64)] = [], header: [UInt32] = [StoreHeader.magic, 1, 1, 8],
        chunks: Int = 16
    ) -> MemoryBytes {
        var bytes: [UInt8] = []
        for field in header { bytes.append(littleEndian: field) }
        bytes += [UInt8](repeating: 0, count: 4096 - bytes.count)
        for (chunk, place) in records {
            bytes.append(littleEndian: chunk)
            bytes.append(littleEndian: place)
        }
        bytes += [UInt8](repeating: 0, count: max(0, chunks * 4096 - bytes.count))
        return MemoryBytes(Array(bytes.prefix(chunks * 4096)))
    }

    @Test("the header is refused for the first rule that it breaks")
    func header() {
        let magic = StoreHeader.magic
        let cases: [([UInt32], SnapshotStoreError)] = [
            ([0, 1, 1, 8], .uninitialised), ([7, 1, 1, 8], .wrongMagic(found: 7)),
            ([magic, 1, 2, 8], .wrongVersion(found: 2)), ([magic, 0, 1, 8], .invalidated),
            ([magic, 3, 1, 8], .wrongValidFlag(found: 3)),
            ([magic, 1, 1, 0], .wrongChunkSize(sectors: 0)),
            ([magic, 1, 1, 12], .wrongChunkSize(sectors: 12)),
            ([magic, 1, 1, 1 << 22], .wrongChunkSize(sectors: 1 << 22)),
        ]
        for (fields, error) in cases {
            #expect(throws: error) { try SnapshotStoreReader(store(header: fields)) }
        }
    }

    @Test("a record is refused for the first rule that it breaks")
    func records() {
        let cases: [([(UInt64, UInt64)], SnapshotStoreError)] = [
            ([(0, 1)], .wrongDataChunk(area: 0, record: 0, found: 1)),
            ([(0, 16)], .wrongDataChunk(area: 0, record: 0, found: 16)),
            ([(100, 2)], .chunkPastEnd(area: 0, record: 0, found: 100)),
            ([(5, 3)], .outOfOrder(area: 0, record: 0, found: 3, expected: 2)),
            ([(5, 2), (5, 3)], .duplicate(chunk: 5)),
            ([(5, 2), (0, 0), (6, 3)], .garbageAfterEnd(area: 0, record: 2)),
            ([(5, 2), (7, 0)], .garbageAfterEnd(area: 0, record: 1)),
        ]
        for (records, error) in cases {
            #expect(throws: error) {
                try SnapshotStoreReader(store(records), volumeByteCount: 100 * 4096)
            }
        }
    }

    @Test("a duplicate is found too when the volume is too large for a bitmap")
    func largeDuplicate() throws {
        let far: UInt64 = 1 << 40
        #expect(throws: SnapshotStoreError.duplicate(chunk: far)) {
            try SnapshotStoreReader(store([(far, 2), (1, 3), (far, 4)]))
        }
        let reader = try SnapshotStoreReader(store([(far, 2), (1, 3), (far + 1, 4)]))
        #expect(
            try reader.changes().collected().map(\.extent)
                == [
                    Extent(offset: 4096, length: 4096), Extent(offset: far * 4096, length: 8192),
                ])
    }

    @Test("a store without an end, or without its first area, is refused")
    func truncated() {
        let full = (0..<256).map { (UInt64($0), UInt64($0 + 2)) }
        #expect(throws: SnapshotStoreError.notTerminated(area: 1)) {
            try SnapshotStoreReader(store(full, chunks: 258))
        }
        #expect(throws: SnapshotStoreError.truncated(byteCount: 4096)) {
            try SnapshotStoreReader(store(chunks: 1))
        }
        #expect(throws: SnapshotStoreError.truncated(byteCount: 0)) {
            try SnapshotStoreReader(MemoryBytes([]))
        }
    }

    @Test("a chunk size of 1 GiB in a small file is refused without reading or allocating it")
    func hugeChunk() {
        #expect(throws: SnapshotStoreError.truncated(byteCount: 65536)) {
            try SnapshotStoreReader(store(header: [StoreHeader.magic, 1, 1, 1 << 21]))
        }
    }

    @Test("an empty store cannot be told from one with the first record of chunk 0")
    func emptyStore() throws {
        #expect(try SnapshotStoreReader(store()).exceptionCount == 0)
        let one = try SnapshotStoreReader(store([(0, 2)]))
        #expect(try one.changes().collected().map(\.extent) == [Extent(offset: 0, length: 4096)])
    }

    @Test("a read error comes out as it is, whichever read it hits")
    func readErrors() throws {
        let bytes = store([(5, 2)]).bytes
        for reads in 0..<2 {
            let source = CheckedBytes(bytes)
            source.readsLeft = reads
            #expect(throws: SnapshotStoreError.self) {
                try SnapshotStoreReader(source, volumeByteCount: 1 << 20)
            }
        }
    }
}
