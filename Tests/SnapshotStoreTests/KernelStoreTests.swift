// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import SnapshotStore
import TestSupport
import Testing

/// A store that a kernel wrote, and what its manifest says of it.
struct KernelStore: CustomTestStringConvertible, Sendable {
    let store: String
    let origin: String
    let volumeByteCount: UInt64
    let chunkByteCount: UInt64
    let exceptionCount: UInt64
    /// Changed chunks as first and count.
    let chunks: [[UInt64]]
    /// SHA-256 of what the snapshot shows.
    let snapshot: String

    var testDescription: String { store }

    var changes: [Change] {
        chunks.compactMap { row in
            Extent(from: row[0] * chunkByteCount, upTo: (row[0] + row[1]) * chunkByteCount)
                .map { Change($0, .data) }
        }
    }

    /// All of them but the invalid one.
    static func all() throws -> [KernelStore] {
        var stores: [KernelStore] = []
        for name in try FixtureFiles.names(in: "kernel") where name.hasPrefix("cow-") {
            let folder = "kernel/\(name)"
            let manifest = try FixtureFiles.json("\(folder)/manifest.json")
            let generations = manifest["generations"]
            func add(
                _ store: String, _ origin: String, _ exceptions: JSON, _ chunks: [[UInt64]],
                _ snapshot: JSON
            ) {
                guard let volume = manifest["origin_bytes"].number,
                    let chunk = manifest["chunk_bytes"].number, let count = exceptions.number,
                    let digest = snapshot.string
                else { return }
                stores.append(
                    KernelStore(
                        store: "\(folder)/\(store).img.zst",
                        origin: "\(folder)/\(origin).img.zst", volumeByteCount: volume,
                        chunkByteCount: chunk, exceptionCount: count, chunks: chunks,
                        snapshot: digest))
            }
            let store = manifest["store"]
            if name.hasPrefix("cow-chain") {
                for (snapshot, entry) in store.members.sorted(by: { $0.key < $1.key }) {
                    add(
                        "cow-\(snapshot)", "origin", entry["exceptions"],
                        entry["changed_chunks"].rows, generations[snapshot])
                }
                continue
            }
            let chunks = manifest["expected"]["changed_chunks"].rows
            add("cow", "origin", store["exceptions"], chunks, generations["snapshot"])
            let merged = manifest["expected"]["merged_chunks"].rows
            if !merged.isEmpty {
                add(
                    "cow-before", "origin-before", store["exceptions_before"],
                    union(chunks, merged), generations["snapshot"])
            }
        }
        return stores
    }

    private static func union(_ first: [[UInt64]], _ second: [[UInt64]]) -> [[UInt64]] {
        var rows: [[UInt64]] = []
        for row in (first + second).sorted(by: { $0[0] < $1[0] }) {
            if let last = rows.last, last[0] + last[1] == row[0] {
                rows[rows.count - 1][1] += row[1]
            } else {
                rows.append(row)
            }
        }
        return rows
    }
}

extension ChangeList {
    /// The rest of the list.
    func collected() throws -> [Change] {
        var list = self
        var changes: [Change] = []
        while let change = try list.next() { changes.append(change) }
        return changes
    }
}

@Suite("Stores that kernels wrote")
struct KernelStoreTests {
    @Test("every store gives its manifest's list, and with the origin the snapshot's content")
    func everyStore() throws {
        let stores = try KernelStore.all()
        #expect(stores.count == 15)
        for fixture in stores {
            let source = CheckedBytes(try FixtureFiles.bytes(fixture.store))
            let reader = try SnapshotStoreReader(
                source, volumeByteCount: fixture.volumeByteCount)
            #expect(reader.header.chunkByteCount == fixture.chunkByteCount)
            #expect(reader.exceptionCount == fixture.exceptionCount, "\(fixture.store)")
            #expect(try reader.changes().collected() == fixture.changes, "\(fixture.store)")
            let unsized = try SnapshotStoreReader(source)
            #expect(try unsized.changes().collected() == fixture.changes)
            #expect(source.isAligned)

            var content = try FixtureFiles.bytes(fixture.origin)
            let volume = try #require(Extent(offset: 0, length: fixture.volumeByteCount))
            let map = try reader.exceptionMap()
            var covered: UInt64 = 0
            for piece in map.pieces(of: volume) {
                #expect(piece.extent.offset == covered)
                covered = piece.extent.end
                guard let offset = piece.offset else { continue }
                let from = Int(offset)..<Int(offset + piece.extent.length)
                content.replaceSubrange(
                    Int(piece.extent.offset)..<Int(piece.extent.end), with: source.bytes[from])
            }
            #expect(covered == fixture.volumeByteCount)
            #expect(try ToolRun.sha256(content) == fixture.snapshot, "\(fixture.store)")
        }
        print("stores that kernels wrote: \(stores.count) read, listed and assembled")
    }

    @Test("a store that the kernel has invalidated is refused")
    func overflow() throws {
        let source = MemoryBytes(try FixtureFiles.bytes("kernel/cow-overflow-16k/cow.img.zst"))
        #expect(throws: SnapshotStoreError.invalidated) { try SnapshotStoreReader(source) }
    }

    @Test(
        "stores around the end of an area and in a merge have their number of records",
        arguments: [
            ("cow-empty", 0), ("cow-exactly-256", 256), ("cow-266", 266), ("cow-mid-merge", 264),
            ("cow-mid-merge2", 257),
        ])
    func areas(name: String, count: UInt64) throws {
        let source = MemoryBytes(try FixtureFiles.bytes("metadata/\(name).img.gz"))
        let reader = try SnapshotStoreReader(source, volumeByteCount: 20001 * 512)
        #expect(reader.exceptionCount == count)
        // The last chunk of this volume has one sector only.
        let end = try reader.changes().collected().map(\.extent.end).max() ?? 0
        #expect(end <= 20001 * 512)
    }

    @Test("an earlier reading's records are the first of a later one's")
    func prefix() throws {
        let before = try SnapshotStoreReader(
            MemoryBytes(try FixtureFiles.bytes("metadata/cow-mid-merge2.img.gz")))
        let after = try SnapshotStoreReader(
            MemoryBytes(try FixtureFiles.bytes("metadata/cow-266.img.gz")))
        var first: [ExceptionRecord] = []
        var second: [ExceptionRecord] = []
        try before.forEachRecord { first.append($0) }
        try after.forEachRecord(first: before.exceptionCount) { second.append($0) }
        #expect(first == second)
        #expect(throws: SnapshotStoreError.tooFewRecords(found: 257, asked: 266)) {
            try before.forEachRecord(first: 266) { _ in }
        }
    }
}
