// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Compression

/// Compressed content of a record, as a hostile sender might store it.
struct CompressionTarget: @unchecked Sendable {
    // SAFETY of @unchecked Sendable: a fuzzer has one thread.
    private let decompressor = ZstdDecompressor()

    private let templates: [(content: [UInt8], frame: [UInt8])] = {
        let contents: [[UInt8]] = [
            [UInt8](repeating: 0, count: 4096),
            (0..<1000).map { UInt8($0 * $0 >> 6 & 15) },
            Array(repeatElement(Array("blockferry ".utf8), count: 30).joined()),
        ]
        let compressor = ZstdCompressor()
        return contents.map { content in
            var output = [UInt8](repeating: 0, count: content.count)
            var span = output.mutableSpan
            // SAFETY: bytes have no padding, and every value is valid.
            var bytes = unsafe span.mutableBytes
            let length = content.withRawSpan { compressor.compress($0, into: &bytes) } ?? 0
            return (content, Array(output.prefix(length)))
        }
    }()

    @Sendable func run(_ bytes: [UInt8]) {
        var input = Input(bytes)
        let choice = input.byte()
        let template = templates[Int(choice) % templates.count]
        var frame = template.frame
        switch choice >> 6 {
        case 0:
            for _ in 0..<1 + input.byte() % 4 {
                frame[Int(input.byte()) % min(frame.count, 20)] = input.byte()
            }
        case 1: frame = [0x28, 0xB5, 0x2F, 0xFD] + input.take(300)
        case 2: frame.spoil(&input)
        default: break
        }
        let length = Int(truncatingIfNeeded: input.number(usually: UInt64(template.content.count)))
        guard (1...1 << 16).contains(length) else { return }
        var output = [UInt8](repeating: 0xAA, count: length)
        var span = output.mutableSpan
        // SAFETY: as above.
        var target = unsafe span.mutableBytes
        let isRead =
            (try? frame.withRawSpan { (frame) throws(CompressionError) in
                try decompressor.decompress(frame, into: &target)
            }) != nil
        if frame == template.frame {
            precondition(isRead == (length == template.content.count))
            precondition(!isRead || output == template.content)
        }
        // No dictionary, no reserved bit.
        precondition(!isRead || frame.count >= 6 && frame[4] & 0x0B == 0)
    }
}
