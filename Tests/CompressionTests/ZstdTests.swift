// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Compression
import Testing

private let words = ["replica ", "volume ", "extent ", "segment ", "lineage ", "generation "]

/// Content that zstd shrinks: words in a random order.
private func text(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
    var state = seed
    var bytes = [UInt8]()
    while bytes.count < count {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        bytes += words[Int((state >> 40) % 6)].utf8
    }
    return [UInt8](bytes.prefix(count))
}

private func random(_ count: Int) -> [UInt8] {
    var generator = SystemRandomNumberGenerator()
    return (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
}

private func compress(_ content: [UInt8], level: Int = 1, capacity: Int? = nil) -> [UInt8]? {
    var output = [UInt8](repeating: 0, count: capacity ?? content.count)
    var span = output.mutableSpan
    var bytes = unsafe span.mutableBytes
    let compressor = ZstdCompressor(level: level)
    guard let count = content.withRawSpan({ compressor.compress($0, into: &bytes) }) else {
        return nil
    }
    return [UInt8](output.prefix(count))
}

private func decompress(_ frame: [UInt8], length: Int) throws(CompressionError) -> [UInt8] {
    var output = [UInt8](repeating: 0, count: length)
    var span = output.mutableSpan
    var bytes = unsafe span.mutableBytes
    let decompressor = ZstdDecompressor()
    try frame.withRawSpan { (frame) throws(CompressionError) in
        try decompressor.decompress(frame, into: &bytes)
    }
    return output
}

/// A frame made by hand: header, then raw blocks.
private func frame(descriptor: UInt8, _ fields: [UInt8], blocks: [[UInt8]]) -> [UInt8] {
    var bytes: [UInt8] = [0x28, 0xB5, 0x2F, 0xFD, descriptor] + fields
    for (index, block) in blocks.enumerated() {
        let header = UInt32(block.count) << 3 | (index == blocks.count - 1 ? 1 : 0)
        bytes += [UInt8(header & 255), UInt8(header >> 8 & 255), UInt8(header >> 16)]
        bytes += block
    }
    return bytes
}

@Suite("Zstd") struct ZstdTests {
    @Test("content survives the round trip", arguments: [-7, -1, 1, 3, 19])
    func roundTrip(level: Int) throws {
        for count in [512, 4096, 65_536, 1 << 20] {
            let content = text(count)
            let frame = try #require(compress(content, level: level))
            #expect(frame.count < count - count / 16)
            #expect(try decompress(frame, length: count) == content)
        }
    }

    @Test("one compressor and one decompressor serve many contents")
    func reuse() throws {
        let compressor = ZstdCompressor()
        let decompressor = ZstdDecompressor()
        for seed in 1...50 {
            let content = text(1000 * seed, seed: UInt64(seed))
            var stored = [UInt8](repeating: 0, count: content.count)
            var storedSpan = stored.mutableSpan
            var storedBytes = unsafe storedSpan.mutableBytes
            let count = try #require(
                content.withRawSpan { compressor.compress($0, into: &storedBytes) })
            var plain = [UInt8](repeating: 0, count: content.count)
            var plainSpan = plain.mutableSpan
            var plainBytes = unsafe plainSpan.mutableBytes
            try [UInt8](stored.prefix(count)).withRawSpan { (frame) throws(CompressionError) in
                try decompressor.decompress(frame, into: &plainBytes)
            }
            #expect(plain == content)
        }
    }

    @Test("random content does not pay")
    func doesNotPay() {
        #expect(compress(random(65_536)) == nil)
        #expect(compress(text(65_536), capacity: 100) == nil)
        #expect(compress([]) == nil)
        #expect(compress([1]) == nil)
    }

    @Test("the estimate knows text from random bytes")
    func estimate() {
        let compressor = ZstdCompressor()
        for count in [512, 4096, 8193, 1 << 20] {
            #expect(text(count).withRawSpan { compressor.looksCompressible($0) })
            #expect(!random(count).withRawSpan { compressor.looksCompressible($0) })
        }
        let half = random(1 << 19) + text(1 << 19)
        #expect(half.withRawSpan { compressor.looksCompressible($0) })
        #expect(![UInt8]().withRawSpan { compressor.looksCompressible($0) })
    }
}

@Suite("Hostile frames") struct HostileFrameTests {
    @Test("a frame of another length is refused before a byte is written")
    func wrongLength() throws {
        let frame = try #require(compress(text(4096)))
        for length in [0, 1, 4095, 4097, 1 << 20] {
            #expect(throws: CompressionError.contentSize) {
                try decompress(frame, length: length)
            }
        }
    }

    @Test("a bomb is refused: 1 MiB of zeros where 512 bytes are wanted")
    func bomb() throws {
        let frame = try #require(compress([UInt8](repeating: 0, count: 1 << 20)))
        #expect(frame.count < 200)
        #expect(throws: CompressionError.contentSize) { try decompress(frame, length: 512) }
    }

    @Test("a frame that lies about its content is refused, whichever way it lies")
    func lie() {
        // Single segment, one-byte content size.
        for real in [9, 11] {
            let lying = frame(
                descriptor: 0x20, [10], blocks: [[UInt8](repeating: 7, count: real)])
            #expect(throws: CompressionError.damaged) { try decompress(lying, length: 10) }
        }
    }

    @Test("bytes after the frame are refused, also a second frame")
    func trailing() throws {
        let frame = try #require(compress(text(4096)))
        for tail: [UInt8] in [[0], frame, [0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0]] {
            #expect(throws: CompressionError.trailingBytes) {
                try decompress(frame + tail, length: 4096)
            }
        }
    }

    @Test("a skippable frame and foreign bytes are refused")
    func notAFrame() {
        for bytes: [UInt8] in [
            [], [0x28, 0xB5, 0x2F, 0xFD, 0x20], [0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0],
        ] {
            #expect(throws: CompressionError.notAFrame) { try decompress(bytes, length: 0) }
        }
    }

    @Test("a frame that names a dictionary is refused")
    func dictionary() {
        let named = frame(descriptor: 0x21, [5, 3], blocks: [[1, 2, 3]])
        #expect(throws: CompressionError.dictionary) { try decompress(named, length: 3) }
    }

    @Test("a window above 1 MiB is refused, 1 MiB is not")
    func window() throws {
        // Two-byte content size, which counts from 256.
        let content = [UInt8](repeating: 9, count: 300)
        let allowed = frame(descriptor: 0x40, [10 << 3, 44, 0], blocks: [content])
        #expect(try decompress(allowed, length: 300) == content)
        let above = frame(descriptor: 0x40, [10 << 3 | 1, 44, 0], blocks: [content])
        #expect(throws: CompressionError.window(1_179_648)) {
            try decompress(above, length: 300)
        }
        let greatest = frame(descriptor: 0x40, [0xFF, 44, 0], blocks: [content])
        #expect(throws: CompressionError.window((1 << 41) / 8 * 15)) {
            try decompress(greatest, length: 300)
        }
        // Single segment, four-byte content size.
        let single = frame(descriptor: 0xA0, [0, 0, 0x20, 0], blocks: [content])
        #expect(throws: CompressionError.window(1 << 21)) {
            try decompress(single, length: 1 << 21)
        }
    }

    @Test("a frame without content size is refused")
    func noContentSize() {
        let unknown = frame(descriptor: 0, [0], blocks: [[1, 2, 3]])
        #expect(throws: CompressionError.noContentSize) { try decompress(unknown, length: 3) }
    }

    @Test("every cut frame is refused, and no damage traps or writes past the end")
    func damage() throws {
        let content = text(4096)
        let frame = try #require(compress(content))
        for end in 0..<frame.count {
            #expect(throws: CompressionError.self) {
                try decompress([UInt8](frame.prefix(end)), length: content.count)
            }
        }
        var refused = 0
        for index in frame.indices {
            var damaged = frame
            damaged[index] ^= 0x10
            do { _ = try decompress(damaged, length: content.count) } catch { refused += 1 }
        }
        #expect(refused > 10)
    }
}
