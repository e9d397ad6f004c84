// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Foundation
import Objects
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

    private func changes(_ source: any Source, since base: ObjectIdentity) throws -> [Change] {
        var changes: [Change] = []
        try source.forEachChange(since: base) { changes.append($0) }
        return changes
    }

    private func reason(_ body: () throws -> Void) -> String? {
        do {
            try body()
            return nil
        } catch SourceError.noProof(_, let reason) {
            return reason
        } catch {
            return "another error: \(error)"
        }
    }

    /// Every identity that differs from this one in one fact, or lacks one.
    private func neighbours(_ identity: ObjectIdentity) -> [ObjectIdentity] {
        var found: [ObjectIdentity] = []
        for name in identity.object.keys {
            for value in ["0", nil] as [String?] {
                var other = identity
                other.object[name] = value
                found.append(other)
            }
        }
        for name in identity.content.keys {
            for value in ["0", nil] as [String?] {
                var other = identity
                other.content[name] = value
                found.append(other)
            }
        }
        for kind in ObjectIdentity.Kind.allCases where kind != identity.kind {
            found.append(ObjectIdentity(kind, object: identity.object, content: identity.content))
        }
        return found
    }

    @Test("a thin image gives a list only since a device of the very same files")
    func thinListNeedsTheSameFiles() throws {
        let fixture = try UnpackedFixture("thin-64k", ["tmeta-held-offline", "tdata"])
        let base = try thin(fixture, 3).identity
        let newer = try thin(fixture, 5)
        #expect(base.provesContent && ObjectIdentity("\(base)") == base)
        #expect(newer.proof(since: base) == .list)
        #expect(try !changes(newer, since: base).isEmpty)
        #expect(newer.proof(since: nil) != .list)
        let ofDevice = ["transaction", "created", "root", "mapped", "block"]
        var refused = 0
        for other in neighbours(base) {
            // What the metadata say of the base is theirs to say: they are the same.
            if other.object == base.object, other.kind == base.kind,
                other.content.filter({ !ofDevice.contains($0.key) })
                    == base.content.filter({ !ofDevice.contains($0.key) })
                    || other.content["device"] == "0"
            {
                continue
            }
            #expect(newer.proof(since: other) != .list, "\(other)")
            refused += 1
        }
        #expect(refused > 12)
        // Written in place, and the time put back: the metadata say nothing of that.
        try write(fixture.path("tdata"))
        #expect(try thin(fixture, 5).proof(since: base) != .list)
        #expect(throws: SourceError.self) { try newer.confirm() }
    }

    /// Writes a byte that was there already, and puts the time of last write back.
    private func write(_ path: String) throws {
        let url = URL(fileURLWithPath: path)
        let time = try FileManager.default.attributesOfItem(atPath: path)[.modificationDate]
        let file = try FileHandle(forUpdating: url)
        let byte = try #require(try file.read(upToCount: 1))
        try file.seek(toOffset: 0)
        try file.write(contentsOf: byte)
        try file.close()
        try FileManager.default.setAttributes(
            [.modificationDate: try #require(time)], ofItemAtPath: path)
    }

    @Test("a classic image gives a list only with the very store that was sent, and of its origin")
    func classicListNeedsTheSameFiles() throws {
        let fixture = try UnpackedFixture(
            "cow-chain-16k", ["origin", "cow-s0", "cow-s1", "cow-s2"])
        func source(_ store: String?, base: String?) throws -> SnapshotImageSource {
            try SnapshotImageSource(
                origin: fixture.path("origin"), store: store.map(fixture.path),
                baseStore: base.map(fixture.path))
        }
        let first = try source("cow-s0", base: nil).identity
        let next = try source("cow-s1", base: "cow-s0")
        #expect(first.provesContent && ObjectIdentity("\(first)") == first)
        #expect(try next.proof(since: first) == .list)
        #expect(try !changes(next, since: first).isEmpty)
        for other in neighbours(first) {
            #expect(try next.proof(since: other) != .list, "\(other)")
        }
        // The right base, but another store in its place, a copy of it, or none.
        let second = try source("cow-s1", base: nil).identity
        #expect(try source("cow-s2", base: "cow-s1").proof(since: first) != .list)
        #expect(try source("cow-s1", base: nil).proof(since: first) != .list)
        let copy = fixture.path("copy")
        try FileManager.default.copyItem(atPath: fixture.path("cow-s0"), toPath: copy)
        #expect(try source("cow-s1", base: "copy").proof(since: first) != .list)
        // s1's store in the place of a base that must cover s0's.
        let older = try source("cow-s0", base: "cow-s1")
        let found = reason { _ = try older.proof(since: second) }
        #expect(found?.contains("older") == true, "\(found ?? "accepted")")
        // The origin itself is another content than each of its snapshots.
        let origin = try source(nil, base: nil).identity
        #expect(!origin.hasSameContent(as: first) && !first.hasSameContent(as: second))
        try write(fixture.path("origin"))
        #expect(try source("cow-s1", base: "cow-s0").proof(since: first) != .list)
        #expect(throws: SourceError.self) { try next.confirm() }
    }

    @Test(
        "a file is known again by what the kernel keeps of it, and by nothing that can be put back")
    func plainFiles() throws {
        let folder = try TemporaryFolder()
        let path = try folder.write([UInt8](repeating: 7, count: 10_000), as: "file")
        let first = try PlainSource(path: path)
        #expect(first.identity.hasSameContent(as: try PlainSource(path: path).identity))
        try first.confirm()
        try write(path)
        let second = try PlainSource(path: path)
        #expect(!first.identity.hasSameContent(as: second.identity))
        #expect(first.identity.relation(to: second.identity) == .same)
        #expect(throws: SourceError.self) { try first.confirm() }
        try second.confirm()
        // Longer by a write that keeps its times is longer still.
        try FileHandle(forUpdating: URL(fileURLWithPath: path)).truncate(atOffset: 20_000)
        #expect(throws: SourceError.self) { try second.confirm() }
        let copy = try folder.write([UInt8](repeating: 7, count: 10_000), as: "copy")
        guard case .different = try PlainSource(path: copy).identity.relation(to: first.identity)
        else {
            Issue.record("another file is taken for the same")
            return
        }
    }

    @Test("what version 0.1.0 has kept of a base is understood as far as it goes")
    func formerIdentities() {
        let thin = StoredIdentity.decode(
            "lvm-thin lv=S pool=P device=3 transaction=7 created=2 root=9 mapped=5 block=65536")
        #expect(
            thin
                == ObjectIdentity(
                    .thinSnapshot, object: [:],
                    content: [
                        "snapshot": "S", "pool": "P", "device": "3", "transaction": "7",
                        "created": "2", "root": "9", "mapped": "5", "block": "65536",
                    ]))
        #expect(
            StoredIdentity.decode("lvm-snapshot lv=S origin=O")
                == ObjectIdentity(
                    .classicSnapshot, object: ["origin": "O"], content: ["snapshot": "S"]))
        for text in [
            "", "unidentified", "plain file:8:1:12 size=4096 modified=5",
            "origin file:8:1:2 size=1 modified=1",
            "thin device=3 transaction=2 created=1 root=9 mapped=4 block=65536",
            "classic chunk=4096 records=0 digest=00", "lvm-thin lv",
        ] { #expect(StoredIdentity.decode(text) == nil, "\(text)") }
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

    /// What a plan is cut into, by the text (Protocol/SendPlan.md): the content and the number of pieces of each segment.
    private func segments(
        _ changes: [Change], growth: UInt64
    ) -> [(content: UInt64, pieces: UInt64)] {
        var segments: [(content: UInt64, pieces: UInt64)] = []
        for change in changes {
            var start = change.extent.offset
            while start < change.extent.end {
                let isData = change.kind == .data
                let border = (start / 1_048_576 + 1) * 1_048_576
                let end = isData ? min(border, change.extent.end) : change.extent.end
                let more = isData ? end - start : 0
                if let last = segments.last, last.content + more <= 16_777_216 << growth,
                    last.pieces < 8192 << growth
                {
                    segments[segments.count - 1].content += more
                    segments[segments.count - 1].pieces += 1
                } else {
                    segments.append((more, 1))
                }
                start = end
            }
        }
        return segments
    }

    @Test(
        "segments grow with the plan, by as little as lets it fit, and it is read as it was written"
    )
    func growth() throws {
        let folder = try TemporaryFolder()
        func data(_ offset: UInt64, _ length: UInt64) throws -> Change {
            Change(try #require(Extent(offset: offset, length: length)), .data)
        }
        let tebibyte: UInt64 = 1 << 40
        // 16 TiB of whole pieces fit to the last segment; one sector more does not.
        let plans: [(name: String, changes: [Change], growth: UInt8, segments: UInt64?)] = [
            ("empty", [], 0, 0),
            ("16 TiB", [try data(0, 16 * tebibyte)], 0, 1 << 20),
            ("a sector more", [try data(0, 16 * tebibyte + 512)], 1, nil),
            ("17 TiB", [try data(0, 17 * tebibyte)], 1, 557_056),
        ]
        for (name, changes, growth, segments) in plans {
            let path = "\(folder.path)/\(name)"
            let size = max(changes.last?.extent.end ?? 1, 1)
            let plan = try SendPlan(
                writing: path, transfer: .random(), volumeByteCount: size
            ) { for change in changes { try $0(change) } }
            #expect(plan.growth.rawValue == growth, "\(name)")
            let naive = self.segments(changes, growth: UInt64(growth))
            #expect(plan.segmentCount == naive.count, "\(name)")
            #expect(segments.map { $0 == plan.segmentCount } ?? true, "\(name)")
            let read = try #require(SendPlan(reading: path), "\(name)")
            #expect(read.growth == plan.growth && read.segmentCount == plan.segmentCount)
            #expect(read.content == changes.reduce(0) { $0 + $1.extent.length })
        }
    }

    @Test("every growth has its bound of pieces, and there is none above the greatest")
    func pieces() throws {
        let folder = try TemporaryFolder()
        // Every other sector of a volume.
        var cutter = SegmentCutter(.none)
        var counts: [UInt64] = []
        for growth in 0...UInt8(7) {
            cutter = SegmentCutter(try #require(SegmentGrowth(rawValue: growth)))
            for piece in 0..<UInt64(300_000) {
                guard let extent = Extent(offset: piece * 1024, length: 512) else { continue }
                cutter.cut(Change(extent, piece % 2 == 0 ? .data : .unmapped)) { _ in }
            }
            counts.append(cutter.segmentCount)
        }
        #expect(counts == [37, 19, 10, 5, 3, 2, 1, 1])
        #expect(SegmentGrowth(rawValue: 8) == nil && SegmentGrowth.most.next == nil)
        // Growth 8, in a header that is otherwise right.
        let path = "\(folder.path)/plan"
        _ = try SendPlan(writing: path, transfer: .random(), volumeByteCount: 1 << 20) { _ in }
        var bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
        for (growth, isRead) in [(UInt8(7), true), (8, false)] {
            bytes[52] = growth
            let checksum = bytes.withRawSpan { CRC32C.checksum($0.extracting(0..<60)) }
            for byte in 0..<4 {
                bytes[60 + byte] = UInt8(truncatingIfNeeded: checksum >> (8 * byte))
            }
            try Data(bytes).write(to: URL(fileURLWithPath: path))
            #expect((SendPlan(reading: path) != nil) == isRead)
        }
    }

    @Test("the cut keeps every bound, loses nothing, and is the same each time")
    func cutIsABoundedPartition() throws {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<200 {
            var cutter = SegmentCutter(.none)
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
            #expect(content.values.allSatisfy { $0 <= 16 << 20 })
            #expect(pieces.values.allSatisfy { $0 <= 8192 })
            #expect(cutter.segmentCount == last + 1)
        }
    }
}
