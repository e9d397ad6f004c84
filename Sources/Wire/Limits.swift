// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The numbers of Protocol/Specification.md, section 10, derived from each other.
package enum Limits {
    /// Bytes of the volume under one tag.
    package static let blockByteCount = 65_536
    /// Unit of offsets.
    package static let sectorByteCount: UInt64 = 512
    /// Content of one data record in bytes.
    package static let recordContent = 1_048_576
    /// Blocks that a record of the greatest length can touch.
    package static let recordTags = recordContent / blockByteCount + 1
    /// Fixed part of a record.
    package static let recordHeader = 32
    /// Header and tags of a record at most.
    package static let recordPrefix = recordHeader + recordTags * 16
    /// A record at most.
    package static let record = recordPrefix + recordContent
    /// Payload of every other frame.
    package static let controlPayload = 1024
    /// Nodes or pages of one answer.
    package static let nodes: UInt32 = 16
    /// Payload of NODES.
    package static let nodesPayload = 24 + Int(nodes) * 4096
    /// Data content of one segment in bytes, without growth; also what may be sent and not acknowledged.
    package static let segmentContent: UInt64 = 33_554_432
    /// Records of one segment, without growth.
    package static let segmentRecords: UInt32 = 65_536
    /// Segments of one transfer.
    package static let segments: UInt64 = 1_048_576
    /// Members of a group.
    package static let groupMembers: UInt32 = 256
    /// Greatest volume.
    package static let volumeSize: UInt64 = 1 << 62
    /// Greatest volume that has a tag map: of a greater one nothing is taken.
    package static let mappedVolumeSize: UInt64 = 1 << 50
    /// Bytes of a frame header.
    package static let frameHeader = 32
    /// A side that has sent nothing for this long sends PING.
    package static let pingSeconds = 15
    /// A side that has received nothing for this long treats the connection as cut.
    package static let idleSeconds = 60
    /// Time from accept to a place; and for handshake and HELLO together, from there.
    package static let greetingSeconds = 5
    /// Time for an enrolment, from the start of the handshake.
    package static let enrolmentSeconds = 10
    /// Connections that wait for a place, and those from networks of pinned peers.
    package static let waiting = (others: 384, known: 128)
    /// Places before authentication, and those for networks of pinned peers alone.
    package static let placesBeforeAuthentication = (others: 8, known: 16)
    /// How long a place before authentication is one's own, although others wait for it.
    package static let placeMilliseconds = 500
    /// How long a network is known after a pinned peer came from there.
    package static let knownSeconds = 2 * 86_400
    /// Sessions of all pinned peers at once.
    package static let sessions = 64
    /// Sessions that one peer may have at once.
    package static let peerSessions = 8
    /// When a peer with a session too many may come back.
    package static let retryAfterSeconds: UInt16 = 2
    /// The latest time at which a refused peer is told to come back.
    package static let greatestRetryAfterSeconds: UInt16 = 3600
}

/// How much larger the segments of a transfer may be than usual, so that it gets along with the segments that a transfer may
/// have (Specification 5.5): by a power of two.
package struct SegmentGrowth: RawRepresentable, Equatable, Sendable {
    /// The exponent.
    package let rawValue: UInt8

    package init?(rawValue: UInt8) {
        guard rawValue <= 7 else { return nil }
        self.rawValue = rawValue
    }

    private init(known: UInt8) { rawValue = known }

    /// That of all transfers but the largest.
    package static let none = SegmentGrowth(known: 0)
    package static let most = SegmentGrowth(known: 7)

    /// The one above, if there is one.
    package var next: SegmentGrowth? { SegmentGrowth(rawValue: rawValue + 1) }

    /// Data content of one segment in bytes; also what may be sent and not acknowledged.
    package var content: UInt64 { Limits.segmentContent << UInt64(rawValue) }
    /// Records of one segment.
    package var records: UInt32 { Limits.segmentRecords << UInt32(rawValue) }
}
