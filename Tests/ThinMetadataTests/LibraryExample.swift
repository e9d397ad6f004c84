// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import TestSupport
import Testing
import ThinMetadata

// What follows up to the marker is in docs/ChangedBlocks.md word for word; a test compares them.

/// The bytes of each changed extent that are in the pool, read from an image of its data device.
func changedData(
    metadata: [UInt8], data: [UInt8], from older: UInt32, to newer: UInt32, sizes: VolumeSizes
) throws -> [(offset: UInt64, bytes: ArraySlice<UInt8>)] {
    let pool = try ThinMetadataReader(MemoryBytes(metadata), root: .current)
    var changes = try pool.changes(from: older, to: newer, sizes: sizes)
    let content = try pool.contentMap(of: newer)
    var result: [(offset: UInt64, bytes: ArraySlice<UInt8>)] = []
    while let change = try changes.next() {
        guard change.kind == .data else { continue }  // .unmapped: zeros in the newer snapshot
        for piece in try content.pieces(of: change.extent) {
            guard let offset = piece.offset else { continue }
            let range = Int(offset)..<Int(offset + piece.extent.length)
            result.append((piece.extent.offset, data[range]))
        }
    }
    return result
}
// Marker: end of the example.

@Suite("The library, as its guide shows it")
struct LibraryExampleTests {
    @Test("the guide's example is this code")
    func guide() throws {
        let own = String(
            decoding: try FixtureFiles.bytes("../ThinMetadataTests/LibraryExample.swift"),
            as: UTF8.self)
        let start = try #require(own.firstRange(of: "/// The bytes of each"))
        let end = try #require(own.firstRange(of: "// Marker: end"))
        let guide = String(
            decoding: try FixtureFiles.bytes("../../docs/ChangedBlocks.md"), as: UTF8.self)
        #expect(guide.contains(own[start.lowerBound..<end.lowerBound]))
    }

    @Test("the guide's example turns the older snapshot into the newer one")
    func example() throws {
        let folder = "kernel/thin-64k"
        let manifest = try FixtureFiles.json("\(folder)/manifest.json")
        let size = try #require(manifest["volume_bytes"].number)
        let metadata = try FixtureFiles.bytes("\(folder)/tmeta-held-offline.img.zst")
        let data = try FixtureFiles.bytes("\(folder)/tdata.img.zst")
        let pool = try ThinMetadataReader(MemoryBytes(metadata))
        var volume = [UInt8](repeating: 0, count: Int(size))
        let whole = try #require(Extent(offset: 0, length: size))
        for piece in try pool.contentMap(of: 3).pieces(of: whole) {
            guard let offset = piece.offset else { continue }
            volume.replaceSubrange(
                Int(piece.extent.offset)..<Int(piece.extent.end),
                with: data[Int(offset)..<Int(offset + piece.extent.length)])
        }
        #expect(try ToolRun.sha256(volume) == manifest["generations"]["s0"].string)
        let sizes = VolumeSizes(older: size, newer: size)
        var changes = try pool.changes(from: 3, to: 5, sizes: sizes)
        while let change = try changes.next() {
            guard change.kind == .unmapped else { continue }
            let range = Int(change.extent.offset)..<Int(change.extent.end)
            volume.replaceSubrange(range, with: repeatElement(0, count: range.count))
        }
        for (offset, bytes) in try changedData(
            metadata: metadata, data: data, from: 3, to: 5, sizes: sizes)
        {
            volume.replaceSubrange(Int(offset)..<Int(offset) + bytes.count, with: bytes)
        }
        #expect(try ToolRun.sha256(volume) == manifest["generations"]["s1"].string)
    }

    @Test(
        "what is behind the older snapshot's end is in the list, whether the metadata differs there or not"
    )
    func grown() throws {
        let folder = "kernel/thin-64k"
        let manifest = try FixtureFiles.json("\(folder)/manifest.json")
        let size = try #require(manifest["volume_bytes"].number)
        let metadata = try FixtureFiles.bytes("\(folder)/tmeta-held-offline.img.zst")
        let data = try FixtureFiles.bytes("\(folder)/tdata.img.zst")
        let pool = try ThinMetadataReader(MemoryBytes(metadata))
        // A device against itself: the metadata does not differ anywhere.
        let older = size / 2 + 512
        var list = try pool.changes(
            from: 5, to: 5, sizes: VolumeSizes(older: older, newer: size))
        var end = older
        while let change = try list.next() {
            #expect(change.extent.offset == end)
            end = change.extent.end
        }
        #expect(end == size)
        var volume = [UInt8](repeating: 0, count: Int(size))
        let whole = try #require(Extent(offset: 0, length: size))
        for piece in try pool.contentMap(of: 5).pieces(of: whole) where piece.extent.offset < older
        {
            guard let offset = piece.offset else { continue }
            let count = Int(min(piece.extent.end, older) - piece.extent.offset)
            volume.replaceSubrange(
                Int(piece.extent.offset)..<Int(piece.extent.offset) + count,
                with: data[Int(offset)..<Int(offset) + count])
        }
        #expect(try ToolRun.sha256(volume) != manifest["generations"]["s1"].string)
        for (offset, bytes) in try changedData(
            metadata: metadata, data: data, from: 5, to: 5,
            sizes: VolumeSizes(older: older, newer: size))
        {
            volume.replaceSubrange(Int(offset)..<Int(offset) + bytes.count, with: bytes)
        }
        #expect(try ToolRun.sha256(volume) == manifest["generations"]["s1"].string)
    }
}
