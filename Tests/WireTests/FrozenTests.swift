// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Testing
import Wire

/// HELLO, WELCOME and their frames never change: any two versions must be able to refuse each other.
@Suite("Frozen messages") struct FrozenTests {
    private let magic: [UInt8] = [0x42, 0x4C, 0x4B, 0x46, 0x45, 0x52, 0x52, 0x59]

    @Test("HELLO is the same bytes for ever")
    func hello() throws {
        let message = Hello(
            lowestVersion: 0x0102, highestVersion: 0x0304, features: 0x0506_0708, software: "ab")
        let bytes: [UInt8] =
            magic + [
                0x02, 0x01, 0x04, 0x03, 0x08, 0x07, 0x06, 0x05, 0x02, 0x00, 0x61, 0x62,
            ]
        #expect(message.encoded() == bytes)
        #expect(try decode(Hello.self, bytes) == message)
    }

    @Test("WELCOME is the same bytes for ever")
    func welcome() throws {
        let message = Welcome(version: 0x0102, features: 0x0506_0708, software: "ab")
        let bytes: [UInt8] =
            magic + [
                0x02, 0x01, 0x00, 0x00, 0x08, 0x07, 0x06, 0x05, 0x02, 0x00, 0x61, 0x62,
            ]
        #expect(message.encoded() == bytes)
        #expect(try decode(Welcome.self, bytes) == message)
    }

    @Test("REFUSE without a time is the same bytes for ever")
    func refuse() throws {
        let message = Refusal(.busy, "ab")
        let bytes: [UInt8] = [
            0x04, 0x00, 0x00, 0x00, 0x04, 0x00, 0x62, 0x75, 0x73, 0x79, 0x02, 0x00, 0x61, 0x62,
        ]
        #expect(message.encoded() == bytes)
        let decoded = try bytes.withRawSpan { try Refusal(decoding: $0, offered: []) }
        #expect(decoded == message)
    }

    @Test("the frame header of an empty PING is the same bytes for ever")
    func frame() {
        let header = FrameHeader(
            type: .ping, payloadLength: 0, sequence: 1, payloadChecksum: 0x2D06_8005_38D3_94C2)
        var bytes: [UInt8] = [
            0x00, 0x00, 0x00, 0x00, 0x0D, 0x00, 0x00, 0x00,
            0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
            0xC2, 0x94, 0xD3, 0x38, 0x05, 0x80, 0x06, 0x2D,
            0x00, 0x00, 0x00, 0x00,
        ]
        bytes.append(littleEndian: bytes.withRawSpan { CRC32C.checksumByTable($0) })
        #expect(header.encoded() == bytes)
    }
}
