// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import TestSupport
import Testing
import ThinMetadata

extension ChangeList {
    /// The rest of the list.
    func collected() throws -> [Change] {
        var list = self
        var changes: [Change] = []
        while let change = try list.next() { changes.append(change) }
        return changes
    }
}

extension ThinMetadataReader {
    /// The whole difference.
    func runs(
        from left: UInt32, to right: UInt32, includesSame: Bool = false
    ) throws -> [DifferenceRun] {
        var difference = try difference(from: left, to: right, includesSame: includesSame)
        var runs: [DifferenceRun] = []
        while let run = try difference.next() { runs.append(run) }
        return runs
    }

    /// All mappings of a device.
    func mappingRuns(of deviceID: UInt32) throws -> [MappingRun] {
        var mappings = try mappings(of: deviceID)
        var runs: [MappingRun] = []
        while let run = try mappings.next() { runs.append(run) }
        return runs
    }

    /// The text of `thin_dump`.
    func dump() throws -> String {
        let xml = ThinDumpXML(superblock)
        var text = xml.prefix
        for device in devices {
            text += xml.devicePrefix(device)
            for run in try mappingRuns(of: device.deviceID) { text += xml.run(run) }
            text += xml.deviceSuffix
        }
        return text + xml.suffix
    }

    /// The text of `thin_delta`.
    func delta(from left: UInt32, to right: UInt32) throws -> String {
        let xml = ThinDeltaXML(superblock, from: left, to: right)
        let runs = try runs(from: left, to: right, includesSame: true)
        return runs.reduce(xml.prefix) { $0 + xml.run($1) } + xml.suffix
    }
}

/// A pool that a kernel wrote.
struct KernelPool {
    let folder: String
    let manifest: JSON

    static let all = ["thin-64k", "thin-external-64k", "thin-fragmented-64k", "thin-full-64k"]

    init(_ name: String) throws {
        folder = "kernel/\(name)"
        manifest = try FixtureFiles.json("\(folder)/manifest.json")
    }

    func text(_ name: String) throws -> String {
        String(decoding: try FixtureFiles.bytes("\(folder)/\(name)"), as: UTF8.self)
    }

    func open(_ name: String, _ root: MetadataRoot) throws -> ThinMetadataReader {
        let source = CheckedBytes(try FixtureFiles.bytes("\(folder)/\(name).img.zst"))
        defer { #expect(source.isAligned) }
        return try ThinMetadataReader(source, root: root)
    }

    /// Each image that shows what the manifest expects, and where to begin in it.
    var images: [(name: String, root: MetadataRoot)] {
        switch folder {
        case "kernel/thin-64k":
            [
                ("tmeta-held-live", .metadataSnapshot), ("tmeta-held-live", .current),
                ("tmeta-held-live-later", .metadataSnapshotAt(37)),
                ("tmeta-held-offline", .metadataSnapshot),
            ]
        case "kernel/thin-full-64k": [("tmeta-offline", .current)]
        default: [("tmeta-held-live", .metadataSnapshot), ("tmeta-offline", .current)]
        }
    }

    func id(_ device: String) throws -> UInt32 {
        UInt32(try #require(manifest["devices"][device]["dev_id"].number))
    }
}

@Suite("Pools that kernels wrote")
struct KernelPoolTests {
    @Test("every pair of devices differs as the manifest says", arguments: KernelPool.all)
    func deltas(name: String) throws {
        let pool = try KernelPool(name)
        let volume = try #require(pool.manifest["volume_bytes"].number)
        let block = try #require(pool.manifest["block_bytes"].number)
        var pairs = 0
        for image in pool.images {
            let reader = try pool.open(image.name, image.root)
            for (pair, expected) in pool.manifest["expected"]["deltas"].members {
                let names = pair.split(separator: ".").map(String.init)
                let (left, right) = (try pool.id(names[0]), try pool.id(names[1]))
                var runs: [DifferenceRun] = []
                for kind in [DifferenceKind.different, .leftOnly, .rightOnly] {
                    runs += expected[kind.rawValue].rows.map {
                        DifferenceRun(begin: $0[0], length: $0[1], kind: kind)
                    }
                }
                runs.sort { $0.begin < $1.begin }
                #expect(try reader.runs(from: left, to: right) == runs, "\(image) \(pair)")
                var coalescer = ChangeCoalescer(volumeByteCount: volume)
                var changes: [Change] = []
                for run in runs {
                    let extent = Extent(offset: run.begin * block, length: run.length * block)
                    let kind: ChangeKind = run.kind == .leftOnly ? .unmapped : .data
                    let change = Change(try #require(extent), kind)
                    if let finished = coalescer.add(change) { changes.append(finished) }
                }
                if let last = coalescer.finish() { changes.append(last) }
                let list = try reader.changes(
                    from: left, to: right, sizes: VolumeSizes(older: volume, newer: volume))
                #expect(try list.collected() == changes)
                pairs += 1
            }
        }
        #expect(pairs >= 1)
    }

    @Test("every device is described and mapped as the manifest says", arguments: KernelPool.all)
    func devices(name: String) throws {
        let pool = try KernelPool(name)
        let volume = try #require(pool.manifest["volume_bytes"].number)
        let block = try #require(pool.manifest["block_bytes"].number)
        for image in pool.images {
            let reader = try pool.open(image.name, image.root)
            #expect(reader.devices.count == pool.manifest["devices"].members.count)
            for (name, expected) in pool.manifest["devices"].members {
                let device = try reader.device(try pool.id(name))
                #expect(device.mappedBlocks == expected["mapped_blocks"].number)
                #expect(device.transactionID == expected["transaction"].number)
                #expect(UInt64(device.creationTime) == expected["creation_time"].number)
                #expect(UInt64(device.snapshottedTime) == expected["snap_time"].number)
                #expect(device.identity == (try reader.device(device.deviceID)).identity)
                let full = try reader.fullChanges(of: device.deviceID, volumeByteCount: volume)
                    .collected()
                let mapped = full.filter { $0.kind == .data }.map {
                    [$0.extent.offset / block, $0.extent.length / block]
                }
                #expect(mapped == pool.manifest["expected"]["mapped"][name].rows, "\(name)")
                #expect(full.map(\.extent.length).reduce(0, +) == volume)
            }
        }
    }

    @Test("a pool that went on has its later mappings in the current state, and the earlier held")
    func later() throws {
        let pool = try KernelPool("thin-64k")
        let block = try #require(pool.manifest["block_bytes"].number)
        for name in ["tmeta-held-offline", "tmeta-released-offline"] {
            let reader = try pool.open(name, .current)
            for (device, expected) in pool.manifest["offline_mapped"].members {
                let full = try reader.fullChanges(
                    of: try pool.id(device),
                    volumeByteCount: try #require(pool.manifest["volume_bytes"].number))
                let mapped = try full.collected().filter { $0.kind == .data }.map {
                    [$0.extent.offset / block, $0.extent.length / block]
                }
                #expect(mapped == expected.rows)
            }
        }
        let reader = try pool.open("tmeta-held-live-later", .metadataSnapshot)
        try reader.confirmMetadataSnapshot()
        #expect(throws: ThinMetadataError(block: 0, .noMetadataSnapshot(found: 37))) {
            try pool.open("tmeta-held-live", .metadataSnapshotAt(38))
        }
        #expect(throws: ThinMetadataError(block: 0, .noMetadataSnapshot(found: 0))) {
            try pool.open("tmeta-released-offline", .metadataSnapshot)
        }
    }

    @Test("the XML is that of thin_delta and thin_dump 0.9.0, byte for byte")
    func xml() throws {
        var files = 0
        for name in KernelPool.all {
            let pool = try KernelPool(name)
            for file in try FixtureFiles.names(in: pool.folder) where file.contains(".xml") {
                let isHeld = name != "thin-full-64k" && !file.contains("offline")
                let image =
                    name == "thin-64k" && !isHeld
                    ? "tmeta-released-offline" : isHeld ? "tmeta-held-live" : "tmeta-offline"
                let reader = try pool.open(image, isHeld ? .metadataSnapshot : .current)
                let text = try pool.text(file)
                if file.hasPrefix("thin_dump") {
                    #expect(try reader.dump() == text, "\(name)/\(file)")
                } else {
                    let ids = try file.dropLast(4).split(separator: "-").dropFirst().map {
                        try pool.id(String($0))
                    }
                    #expect(try reader.delta(from: ids[0], to: ids[1]) == text, "\(file)")
                }
                files += 1
            }
        }
        let small = CheckedBytes(try FixtureFiles.bytes("metadata/thin-small.img.gz"))
        let reader = try ThinMetadataReader(small, root: .metadataSnapshotAt(41))
        #expect(
            try reader.dump()
                == String(
                    decoding: try FixtureFiles.bytes("metadata/thin-small.dump.xml"),
                    as: UTF8.self))
        for left in UInt32(1)...4 {
            for right in UInt32(1)...4 {
                let file = "metadata/thin-small.delta.\(left)-\(right).xml"
                let text = String(decoding: try FixtureFiles.bytes(file), as: UTF8.self)
                #expect(try reader.delta(from: left, to: right) == text)
                files += 1
            }
        }
        #expect(files == 27)
        print("XML files equal to those of thin_delta and thin_dump 0.9.0: \(files + 1)")
    }

    @Test("metadata and data together give the content of every volume")
    func content() throws {
        var volumes = 0
        for name in ["thin-64k", "thin-fragmented-64k", "thin-full-64k"] {
            let pool = try KernelPool(name)
            let data = try FixtureFiles.bytes("\(pool.folder)/tdata.img.zst")
            let image = name == "thin-64k" ? "tmeta-held-offline" : "tmeta-offline"
            let reader = try pool.open(image, .current)
            let size = try #require(pool.manifest["volume_bytes"].number)
            for device in pool.manifest["devices"].members.keys {
                // y and never are smaller; t has gone on since its digest was taken.
                let key = name == "thin-64k" && device == "t" ? "t_after_hold" : device
                guard let digest = pool.manifest["generations"][key].string else { continue }
                let volume = device == "y" ? 32768 * 512 : size
                var content = [UInt8](repeating: 0, count: Int(volume))
                let map = try reader.contentMap(of: try pool.id(device))
                var start: UInt64 = 0
                // In pieces that do not line up with blocks.
                while let extent = Extent(from: start, upTo: min(start + 1_000_448, volume)) {
                    for piece in try map.pieces(of: extent) {
                        #expect(piece.extent.offset == start)
                        start = piece.extent.end
                        guard let offset = piece.offset else { continue }
                        content.replaceSubrange(
                            Int(piece.extent.offset)..<Int(piece.extent.end),
                            with: data[Int(offset)..<Int(offset + piece.extent.length)])
                    }
                }
                #expect(try ToolRun.sha256(content) == digest, "\(name) \(device)")
                volumes += 1
            }
        }
        #expect(volumes == 11)
        print("volumes assembled from metadata and data: \(volumes)")
    }
}
