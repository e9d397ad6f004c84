// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Testing

@Suite("Vocabulary")
struct BlocksTests {
    private func change(_ from: UInt64, _ end: UInt64, _ kind: ChangeKind) throws -> Change {
        Change(try #require(Extent(from: from, upTo: end)), kind)
    }

    @Test("an extent is never empty and never overflows")
    func extents() {
        #expect(Extent(offset: 4, length: 0) == nil)
        #expect(Extent(offset: .max, length: 1) == nil)
        #expect(Extent(from: 5, upTo: 5) == nil)
        #expect(Extent(offset: 4, length: 8)?.clipped(to: 6) == Extent(offset: 4, length: 2))
        #expect(Extent(offset: 4, length: 8)?.clipped(to: 4) == nil)
    }

    @Test("changes are joined when they touch and are of one kind, and end at the volume's end")
    func coalescing() throws {
        var coalescer = ChangeCoalescer(volumeByteCount: 100)
        var list: [Change] = []
        for (from, end, kind) in [
            (0, 10, ChangeKind.data), (10, 20, .data), (20, 30, .unmapped), (40, 50, .unmapped),
            (90, 120, .data), (120, 130, .data),
        ] {
            let next = try change(UInt64(from), UInt64(end), kind)
            if let finished = coalescer.add(next) { list.append(finished) }
        }
        if let last = coalescer.finish() { list.append(last) }
        #expect(
            try list == [
                change(0, 20, .data), change(20, 30, .unmapped), change(40, 50, .unmapped),
                change(90, 100, .data),
            ])
        #expect(coalescer.finish() == nil)
    }

    @Test("the JSON of a change list is exactly this")
    func json() throws {
        var json = ChangeListJSON(
            source: .thin, chunkByteCount: 65536, olderByteCount: nil, newerByteCount: nil)
        let entries =
            json.entry(try change(0, 65536, .data))
            + json.entry(try change(131072, 131584, .unmapped))
        #expect(
            json.prefix + entries + json.suffix
                == "{\"schema_version\":1,\"source\":\"thin\",\"chunk_bytes\":65536,"
                + "\"older_volume_bytes\":null,\"volume_bytes\":null,\"changed_bytes\":66048,\"extents\":["
                + "{\"offset\":0,\"length\":65536,\"kind\":\"data\"},"
                + "{\"offset\":131072,\"length\":512,\"kind\":\"unmapped\"}]}\n")
        let empty = ChangeListJSON(
            source: .cow, chunkByteCount: 4096, olderByteCount: 5, newerByteCount: 7)
        #expect(
            empty.prefix + empty.suffix
                == "{\"schema_version\":1,\"source\":\"cow\",\"chunk_bytes\":4096,"
                + "\"older_volume_bytes\":5,\"volume_bytes\":7,\"changed_bytes\":0,\"extents\":[]}\n"
        )
    }

    @Test(
        "what was recorded counts below the end that both have, and everything behind the older end"
    )
    func sizes() throws {
        let grown = VolumeSizes(older: 100, newer: 300)
        #expect(grown.hasGrown)
        #expect(grown.recorded(try change(50, 200, .unmapped)) == (try change(50, 100, .unmapped)))
        #expect(grown.recorded(try change(100, 200, .data)) == nil)
        #expect(grown.grown(try change(50, 400, .data)) == (try change(100, 300, .data)))
        #expect(grown.grown(try change(0, 100, .data)) == nil)
        let shrunk = VolumeSizes(older: 300, newer: 100)
        #expect(!shrunk.hasGrown)
        #expect(shrunk.recorded(try change(50, 400, .data)) == (try change(50, 100, .data)))
        #expect(shrunk.grown(try change(0, 400, .data)) == nil)
    }

    @Test("CRC-32C has its check value, by instruction and by table, at every length")
    func checksums() {
        Array("123456789".utf8).withRawSpan { bytes in
            #expect(CRC32C.checksum(bytes) == 0xE306_9283)
            #expect(CRC32C.update(.max, bytes) == 0x1CF9_6D7C)
        }
        [UInt8](repeating: 0, count: 4092).withRawSpan { bytes in
            #expect(CRC32C.update(.max, bytes) == 0x58CD_A791)
        }
        for count in 0..<70 {
            let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 * 37 + 5) }
            bytes.withRawSpan { #expect(CRC32C.checksum($0) == CRC32C.checksumByTable($0)) }
        }
    }

    @Test("reading past the end throws, at any offset and count")
    func bounds() {
        let bytes: [UInt8] = [1, 2, 3, 4, 5]
        bytes.withRawSpan { span in
            #expect((try? span.littleEndian(at: 1, as: UInt32.self)) == 0x0504_0302)
            for offset in [2, 5, 6, -1, Int.max, Int.min] {
                #expect(throws: TruncatedBytes.self) {
                    _ = try span.littleEndian(at: offset, as: UInt32.self)
                }
            }
            #expect(throws: TruncatedBytes.self) { try span.copyBytes(at: 4, count: .max) }
            #expect(throws: TruncatedBytes.self) { try span.copyBytes(at: 0, count: -1) }
        }
        let source = MemoryBytes(bytes)
        for (offset, count) in [(0, 6), (5, 1), (UInt64.max, 1), (1, Int.max), (0, -1)] {
            #expect(throws: ByteSourceError.self) {
                try source.read(at: offset, count: count) { _ in }
            }
        }
        #expect(source.readCount == 0)
    }
}
