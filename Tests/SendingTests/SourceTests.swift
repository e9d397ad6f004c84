// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Foundation
import Platform
import Sending
import TestSupport
import Testing
import Wire

/// Unpacked images of a fixture in a directory that goes away with the value.
final class UnpackedFixture {
    private let folder: TemporaryFolder

    init(_ name: String, _ images: [String]) throws {
        folder = try TemporaryFolder()
        for image in images {
            _ = try folder.write(
                try FixtureFiles.bytes("kernel/\(name)/\(image).img.zst"), as: image)
        }
    }

    func path(_ image: String) -> String { "\(folder.path)/\(image)" }
}

@Suite("Sources")
struct SourceTests {
    private func thin(_ fixture: UnpackedFixture, _ device: UInt32) throws -> ThinImageSource {
        try ThinImageSource(
            metadata: fixture.path("tmeta-held-offline"), data: fixture.path("tdata"),
            device: device, volumeByteCount: 134_217_728, heldByMetadataSnapshot: false)
    }

    private func changes(_ source: any Source, since base: String) throws -> [Change] {
        var changes: [Change] = []
        try source.forEachChange(since: base) { changes.append($0) }
        return changes
    }

    private func reason(_ body: () throws -> Void) -> String? {
        do {
            try body()
            return nil
        } catch SourceError.noProof(let reason) {
            return reason
        } catch {
            return "another error: \(error)"
        }
    }

    @Test("a thin device that may be overwritten in place has no identity and is no base")
    func writtenDeviceIsNoBase() throws {
        let fixture = try UnpackedFixture("thin-64k", ["tmeta-held-offline", "tdata"])
        #expect(try thin(fixture, 1).identity == nil)
        #expect(try thin(fixture, 3).identity != nil)
        let newer = try thin(fixture, 5)
        let found = reason { _ = try changes(newer, since: "unidentified") }
        #expect(found?.contains("nobody has written") == true, "\(found ?? "accepted")")
    }

    @Test("a thin base that is no longer what was sent is refused")
    func changedBaseIsRefused() throws {
        let fixture = try UnpackedFixture("thin-64k", ["tmeta-held-offline", "tdata"])
        let base = try #require(try thin(fixture, 3).identity)
        let newer = try thin(fixture, 5)
        #expect(try !changes(newer, since: base).isEmpty)
        for (field, other) in [
            ("device=3", "device=9"), ("transaction=2", "transaction=3"),
            ("created=1", "created=2"),
            ("root=", "root=1"), ("mapped=", "mapped=1"), ("block=65536", "block=131072"),
        ] {
            #expect(base.contains(field), "\(base)")
            let changed = base.replacingOccurrences(of: field, with: other)
            #expect(reason { _ = try changes(newer, since: changed) } != nil, "\(changed)")
        }
    }

    @Test("a base store that is older than the snapshot's store is refused")
    func oldBaseStoreIsRefused() throws {
        let fixture = try UnpackedFixture(
            "cow-chain-16k", ["origin", "cow-s0", "cow-s1", "cow-s2"])
        func source(_ store: String, base: String?) throws -> SnapshotImageSource {
            try SnapshotImageSource(
                origin: fixture.path("origin"), store: fixture.path(store),
                baseStore: base.map(fixture.path))
        }
        let first = try #require(try source("cow-s0", base: nil).identity)
        #expect(try !changes(try source("cow-s1", base: "cow-s0"), since: first).isEmpty)
        // s1's store in the place of a base that must cover s0's.
        let second = try #require(try source("cow-s1", base: nil).identity)
        let older = try source("cow-s0", base: "cow-s1")
        let found = reason { _ = try changes(older, since: second) }
        #expect(found?.contains("older") == true, "\(found ?? "accepted")")
        // The right base, but another store in its place.
        let foreign = try source("cow-s2", base: "cow-s1")
        #expect(reason { _ = try changes(foreign, since: first) } != nil)
        // No store at all.
        let none = try source("cow-s1", base: nil)
        #expect(reason { _ = try changes(none, since: first) } != nil)
    }

    /// SHA-256 of the whole content, read extent by extent; every byte must be defined, in order.
    private func digest(of source: any Source) throws -> SHA256Digest {
        let memory = AlignedBuffer(byteCount: 1 << 20)
        var hasher = SHA256Hasher()
        var end: UInt64 = 0
        try source.forEachExtent { change in
            #expect(change.extent.offset == end)
            while end < change.extent.end {
                let border = min(end + 1 << 20, change.extent.end)
                guard let part = Extent(from: end, upTo: border) else { return }
                if change.kind == .data {
                    try source.read(part, into: memory)
                } else {
                    memory.zero(at: 0, count: memory.byteCount)
                }
                memory.withBytes(count: Int(part.length)) { hasher.update($0) }
                end = border
            }
        }
        #expect(end == source.volumeByteCount)
        return hasher.finish()
    }

    @Test("every image source reads back the content that the kernel showed")
    func contentIsTheKernels() throws {
        let pool = try UnpackedFixture("thin-64k", ["tmeta-held-offline", "tdata"])
        let chain = try UnpackedFixture(
            "cow-chain-16k", ["origin", "cow-s0", "cow-s1", "cow-s2"])
        func snapshot(_ store: String?) throws -> SnapshotImageSource {
            try SnapshotImageSource(
                origin: chain.path("origin"), store: store.map(chain.path), baseStore: nil)
        }
        let cases: [(any Source, String, String)] = [
            (try thin(pool, 3), "thin-64k", "s0"), (try thin(pool, 5), "thin-64k", "s1"),
            (try snapshot("cow-s0"), "cow-chain-16k", "s0"),
            (try snapshot("cow-s1"), "cow-chain-16k", "s1"),
            (try snapshot("cow-s2"), "cow-chain-16k", "s2"),
            (try snapshot(nil), "cow-chain-16k", "origin"),
            (try PlainSource(path: chain.path("origin")), "cow-chain-16k", "origin"),
        ]
        for (source, fixture, generation) in cases {
            let manifest = try JSONSerialization.jsonObject(
                with: Data(try FixtureFiles.bytes("kernel/\(fixture)/manifest.json")))
            let generations = (manifest as? [String: Any])?["generations"] as? [String: Any]
            let expected = try #require(generations?[generation] as? String)
            #expect("\(try digest(of: source))" == expected, "\(fixture) \(generation)")
        }
        print("images whose content is the kernel's: \(cases.count)")
    }
}

@Suite("Plan")
struct PlanTests {
    @Test("a plan gives back its entries, and any damage to it is noticed")
    func planRoundTrip() throws {
        let folder = try TemporaryFolder()
        var generator = SystemRandomNumberGenerator()
        var entries: [Change] = []
        var position: UInt64 = 0
        for _ in 0..<20_000 {
            position += UInt64.random(in: 0...64, using: &generator) * 512
            let length = UInt64.random(in: 1...8192, using: &generator) * 512
            let kind: ChangeKind = Bool.random(using: &generator) ? .data : .unmapped
            if let extent = Extent(offset: position, length: length) {
                entries.append(Change(extent, kind))
            }
            position += length
        }
        let path = "\(folder.path)/plan"
        let plan = try SendPlan(
            writing: path, transfer: .random(), volumeByteCount: position
        ) { body in for entry in entries { try body(entry) } }
        let read = try #require(SendPlan(reading: path))
        var found: [Change] = []
        try read.forEach { found.append($0) }
        #expect(found == entries)
        #expect(read.segmentCount == plan.segmentCount && read.content == plan.content)
        var flips = 0
        let good = try Data(contentsOf: URL(fileURLWithPath: path))
        for _ in 0..<300 {
            var bad = good
            let bit = Int.random(in: 0..<bad.count * 8, using: &generator)
            bad[bit / 8] ^= 1 << (bit % 8)
            try bad.write(to: URL(fileURLWithPath: path))
            #expect(SendPlan(reading: path) == nil, "bit \(bit)")
            flips += 1
        }
        #expect(flips == 300)
    }

    @Test("the cut keeps every bound, loses nothing, and is the same each time")
    func cutIsABoundedPartition() throws {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<200 {
            var cutter = SegmentCutter()
            var position: UInt64 = 0
            var content: [UInt64: UInt64] = [:]
            var pieces: [UInt64: Int] = [:]
            var last: UInt64 = 0
            for _ in 0..<500 {
                position += UInt64.random(in: 0...4, using: &generator) * 512
                let length = UInt64.random(in: 1...20_000, using: &generator) * 512
                guard let extent = Extent(offset: position, length: length) else { continue }
                let kind: ChangeKind =
                    Int.random(in: 0..<4, using: &generator) == 0 ? .unmapped : .data
                var end = extent.offset
                cutter.cut(Change(extent, kind)) { piece in
                    #expect(piece.change.extent.offset == end && piece.change.kind == kind)
                    #expect(piece.segment == last || piece.segment == last + 1)
                    if kind == .data {
                        #expect(piece.change.extent.length <= 1 << 20)
                        content[piece.segment, default: 0] += piece.change.extent.length
                    }
                    pieces[piece.segment, default: 0] += 1
                    end = piece.change.extent.end
                    last = piece.segment
                }
                #expect(end == extent.end)
                position = extent.end
            }
            #expect(content.values.allSatisfy { $0 <= SegmentCutter.segmentContent })
            #expect(pieces.values.allSatisfy { $0 <= SegmentCutter.segmentPieces })
            #expect(cutter.segmentCount == last + 1)
        }
    }
}
