// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import TestSupport
import Testing
import Wire

@Suite("Damaged frames") struct FrameDamageTests {
    /// Behind TLS nothing but these checksums sees what a sender's memory has done to a frame.
    @Test("every single flipped bit of a frame is found, in its header and in its payload")
    func everyBit() throws {
        var seeded = SeededNumbers(seed: 4)
        var flips = 0
        var missed = 0
        func damage(_ type: FrameType, _ length: Int) {
            let payload = (0..<length).map { _ in UInt8.random(in: 0...255, using: &seeded) }
            let sequence = seeded.next()
            var frame = FrameHeader(
                type: type, payloadLength: length, sequence: sequence,
                payloadChecksum: payload.withRawSpan { XXH3.hash($0) }
            ).encoded()
            frame += payload
            #expect(isTaken(frame, sequence))
            for place in frame.indices {
                for bit in 0..<8 {
                    frame[place] ^= 1 << bit
                    if isTaken(frame, sequence) { missed += 1 }
                    frame[place] ^= 1 << bit
                    flips += 1
                }
            }
        }
        for type in FrameType.allCases {
            for length in [0, 1, 40, 200] where length <= type.payloadLimit { damage(type, length) }
        }
        for length in [4096 + 24, 65_536 + 40, 65_536 + 24] { damage(.record, length) }
        print("\(flips) flipped bits in frames, \(missed) not found")
        #expect(missed == 0)
        #expect(flips >= 1_000_000)
    }

    /// Whether a receiver would look at the payload: what it does with a frame, in that order.
    private func isTaken(_ frame: [UInt8], _ sequence: UInt64) -> Bool {
        frame.withRawSpan { span in
            guard let header = try? FrameHeader(decoding: span, expecting: sequence) else {
                return false
            }
            let payload = span.extracting(Limits.frameHeader..<span.byteCount)
            return header.payloadLength == payload.byteCount
                && (try? header.check(payload: payload)) != nil
        }
    }
}
