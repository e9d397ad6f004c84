// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Digests

/// Frame types; a number is never reused.
package enum FrameType: UInt16, Sendable, CaseIterable {
    case hello = 1
    case welcome = 2
    case open = 3
    case state = 4
    case begin = 5
    case ready = 6
    case record = 7
    case seal = 8
    case ack = 9
    case commit = 10
    case committed = 11
    case refuse = 12
    case ping = 13
    case progress = 14
    case pair = 15
    case paired = 16
    case prepared = 17
    case abandon = 18
    case compare = 19
    case compared = 20
    case ask = 21
    case nodes = 22
    case exportKey = 23
    case current = 24

    /// Largest payload in bytes.
    package var payloadLimit: Int {
        switch self {
        case .record: Limits.record
        case .ping: 0
        case .nodes: Limits.nodesPayload
        default: Limits.controlPayload
        }
    }
}

/// The header of a frame (Specification 4).
///
/// | offset | size | field            |
/// |-------:|-----:|------------------|
/// |      0 |    4 | payload length   |
/// |      4 |    2 | type             |
/// |      6 |    2 | flags, zero      |
/// |      8 |    8 | sequence         |
/// |     16 |    8 | payload checksum |
/// |     24 |    4 | reserved, zero   |
/// |     28 |    4 | header checksum  |
package struct FrameHeader: Equatable, Sendable {
    /// Length of the payload in bytes.
    package var payloadLength: Int
    package var type: FrameType
    /// Position in this direction of the session, from 0.
    package var sequence: UInt64
    /// XXH3-64 of the payload.
    package var payloadChecksum: UInt64

    package init(
        type: FrameType, payloadLength: Int, sequence: UInt64, payloadChecksum: UInt64
    ) {
        precondition(payloadLength <= type.payloadLimit, "a frame longer than its limit")
        self.type = type
        self.payloadLength = payloadLength
        self.sequence = sequence
        self.payloadChecksum = payloadChecksum
    }

    /// Decodes a header and checks everything that does not need the payload.
    package init(decoding bytes: RawSpan, expecting sequence: UInt64) throws(WireError) {
        var reader = FieldReader("frame")
        guard bytes.byteCount >= Limits.frameHeader else { throw reader.error(.truncated) }
        let length = try reader.integer(UInt32.self, bytes)
        let type = try reader.integer(UInt16.self, bytes)
        let flags = try reader.integer(UInt16.self, bytes)
        self.sequence = try reader.integer(UInt64.self, bytes)
        payloadChecksum = try reader.integer(UInt64.self, bytes)
        let reserved = try reader.integer(UInt32.self, bytes)
        let checksum = try reader.integer(UInt32.self, bytes)
        guard checksum == CRC32C.checksum(bytes.extracting(0..<28)) else {
            throw reader.error(.headerChecksum)
        }
        guard flags == 0, reserved == 0 else { throw reader.error(.reservedBits) }
        guard let known = FrameType(rawValue: type) else { throw reader.error(.unknownType) }
        self.type = known
        guard length <= known.payloadLimit else { throw reader.error(.payloadTooLong) }
        payloadLength = Int(length)
        guard self.sequence == sequence else { throw reader.error(.sequence) }
    }

    /// Checks the payload against the header.
    package func check(payload: RawSpan) throws(WireError) {
        guard XXH3.hash(payload) == payloadChecksum else {
            throw WireError("frame", .payloadChecksum)
        }
    }

    /// The encoded header, 32 bytes.
    package func encoded() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Limits.frameHeader)
        bytes.append(littleEndian: UInt32(payloadLength))
        bytes.append(littleEndian: type.rawValue)
        bytes.append(zeros: 2)
        bytes.append(littleEndian: sequence)
        bytes.append(littleEndian: payloadChecksum)
        bytes.append(zeros: 4)
        bytes.append(littleEndian: bytes.withRawSpan { CRC32C.checksum($0) })
        return bytes
    }
}
