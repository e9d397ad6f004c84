// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import MapStore
import Platform
import TagMap
import TestSupport
import Testing
import Wire

/// Tag maps, their updates and their digests, through the code that both programs run.
enum VectorMaps {
    private static func members(_ header: TagMapFormat.Header) -> [String: Value] {
        [
            "tag_algorithm": Value(integer: header.algorithm.rawValue),
            "lineage": Value(bytes: header.lineage.bytes),
            "generation_id": Value(bytes: header.generation.bytes),
            "volume_size": Value(integer: header.volumeSize),
            "root": Value(bytes: header.root.bytes),
        ]
    }

    /// What lies behind the first 4096 bytes is none of a header.
    static func header(_ bytes: [UInt8]) throws -> Decoded {
        let header = try bytes.withRawSpan { try TagMapFormat.Header(decoding: $0) }
        return Decoded(
            fields: .object(members(header)),
            encoded: header.encoded() + bytes[TagMapFormat.unit...])
    }

    static func updateHeader(_ bytes: [UInt8]) throws -> Decoded {
        let header = try bytes.withRawSpan { try TagMapFormat.UpdateHeader(decoding: $0) }
        return Decoded(
            fields: .object([
                "base": Value(integer: header.base.rawValue),
                "transfer": Value(bytes: header.transfer.bytes),
            ]), encoded: header.encoded() + bytes[TagMapFormat.unit...])
    }

    /// A map's errors end with the reason.
    private static func wired<Result>(_ body: () throws -> Result) throws -> Result {
        do { return try body() } catch MapError.damaged(_, let reason) {
            let words = reason.split(separator: " ").last.map(String.init) ?? ""
            guard let known = WireError.Reason(rawValue: words) else {
                throw FixtureFailure("no reason of the vectors: \(reason)")
            }
            throw WireError("tag-map", known)
        }
    }

    static func map(_ bytes: [UInt8]) throws -> Decoded {
        let folder = try TemporaryFolder()
        let path = try folder.write(bytes, as: "map")
        var pages: [[UInt8]] = []
        do {
            let map = try wired {
                let map = try TagMapFile(opening: path, isWhole: false)
                try map.prove()
                return map
            }
            for page in 0..<map.shape.pageCount { pages.append(try map.entries(ofPage: page)) }
            var fields = members(map.header)
            let entries = pages.joined().prefix(16 * Int(map.shape.blockCount))
            fields["entries_sha256"] = Value(
                bytes: Array(entries).withRawSpan { SHA256Digest.of($0) }.bytes)
            return Decoded(
                fields: .object(fields), encoded: try remade(map, pages, bytes, folder))
        } catch let error as WireError {
            // In use it is refused too: when it is opened, or when its pages are read.
            #expect(throws: MapError.self, "\(error)") {
                let map = try TagMapFile(opening: path)
                for page in 0..<map.shape.pageCount { _ = try map.entries(ofPage: page) }
            }
            throw error
        }
    }

    /// The same map, written anew. What the file has past the last page belongs to nobody.
    private static func remade(
        _ map: TagMapFile, _ pages: [[UInt8]], _ bytes: [UInt8], _ folder: TemporaryFolder
    ) throws -> [UInt8] {
        let again = try TagMapFile(
            making: "\(folder.path)/again", map.header.algorithm,
            volumeByteCount: map.header.volumeSize)
        for (index, entries) in pages.enumerated() { try again.set(page: UInt64(index), entries) }
        try again.finishPass()
        try again.seal(lineage: map.header.lineage, generation: map.header.generation)
        let made = try folder.read("again")
        let end = TagMapFormat.position(ofPage: map.shape.pageCount - 1) + UInt64(TagMapFormat.unit)
        // Zeros at the end may be missing in either file.
        guard made.dropFirst(bytes.count).allSatisfy({ $0 == 0 }) else { return made }
        let padding = [UInt8](repeating: 0, count: max(0, bytes.count - made.count))
        return Array((made + padding).prefix(min(bytes.count, Int(end))))
            + bytes.dropFirst(Int(end))
    }

    /// Why updates end is not told apart by the reader, only where.
    static func updates(_ bytes: [UInt8], _ expected: JSON) throws -> Decoded {
        let folder = try TemporaryFolder()
        let path = try folder.write(bytes, as: "updates")
        var reader = try wired { try MapUpdateReader(path: path) }
        let header = reader.header
        var found: [TagMapFormat.Update] = []
        var encoded = header.encoded()
        while let page = try reader.nextPage() {
            found += page
            encoded += TagMapFormat.encoded(page)
        }
        #expect(try reader.nextPage() == nil)
        var single = try MapUpdateReader(path: path)
        for update in found { #expect(try single.next() == update) }
        #expect(try single.next() == nil)
        let isWhole = encoded.count == bytes.count
        let ends = expected["ends"].string ?? ""
        return Decoded(
            fields: .object([
                "base": Value(integer: header.base.rawValue),
                "transfer": Value(bytes: header.transfer.bytes),
                "updates": Value(integer: found.count),
                "first_block": Value(integer: found.first?.block ?? 0),
                "last_block": Value(integer: found.last?.block ?? 0),
                "ends": Value(
                    string: isWhole == (ends == "end-of-file")
                        ? ends : "at \(encoded.count) of \(bytes.count)"),
            ]), encoded: encoded + bytes.dropFirst(encoded.count))
    }

    static func digest(_ type: String, _ bytes: [UInt8], _ inputs: Members) throws -> Value {
        func algorithm() throws -> TagAlgorithm {
            let number = try #require(inputs.integer("tag_algorithm"))
            return try #require(TagAlgorithm(rawValue: UInt8(number)))
        }
        switch type {
        case "map-page":
            let page = try #require(inputs.integer("page"))
            return Value(bytes: bytes.withRawSpan { MapDigest.ofPage(page, $0) }.bytes)
        case "map-node":
            let level = try #require(inputs.integer("level"))
            let index = try #require(inputs.integer("index"))
            return Value(
                bytes: bytes.withRawSpan { MapDigest.ofNode(index, level: level, $0) }.bytes)
        case "map-root":
            let shape = MapShape(volumeByteCount: try #require(inputs.integer("volume_size")))
            let top = try #require(SHA256Digest(bytes: bytes))
            return Value(bytes: MapDigest.ofMap(shape, try algorithm(), top: top).bytes)
        case "map-volume":
            let size = try #require(inputs.integer("volume_size"))
            let key = try #require(inputs.key("tag_key"))
            return Value(bytes: try root(bytes, Int(size), Tagger(try algorithm(), key: key)).bytes)
        default: throw FixtureFailure("no such digest: \(type)")
        }
    }

    /// The root of a volume's map, as if it had `size` bytes. What is not there is not given to the builder, but for the
    /// rest of a block.
    private static func root(
        _ content: [UInt8], _ size: Int, _ tagger: Tagger
    ) throws -> SHA256Digest {
        let folder = try TemporaryFolder()
        let map = try TagMapFile(
            making: "\(folder.path)/map", tagger.algorithm, volumeByteCount: UInt64(size))
        var builder = MapBuilder(map, tagger)
        let there = min(size, content.count)
        let unit = Tagger.blockByteCount
        let count = min(size, (there + unit - 1) / unit * unit)
        let memory = AlignedBuffer(byteCount: count)
        content.withRawSpan { memory.store($0.extracting(0..<there), at: 0) }
        try builder.add(at: 0, memory, count: count)
        try builder.finish()
        return map.root
    }
}
