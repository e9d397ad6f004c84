// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The numbers of Protocol/Specification.md, section 10, derived from each other.
package enum Limits {
    /// Bytes of the volume that one tag covers.
    package static let blockByteCount = 65_536
    /// Unit of offsets in bytes.
    package static let sectorByteCount: UInt64 = 512
    /// Largest content of one data record in bytes.
    package static let recordContent = 1_048_576
    /// Largest number of blocks that one record touches.
    package static let recordTags = recordContent / blockByteCount + 1
    /// Size of a record's fixed part in bytes.
    package static let recordHeader = 32
    /// Largest header with tags of a record in bytes.
    package static let recordPrefix = recordHeader + recordTags * 16
    /// Largest record in bytes.
    package static let record = recordPrefix + recordContent
    /// Largest payload of every other frame in bytes.
    package static let controlPayload = 1024
    /// Largest number of nodes or pages in one answer.
    package static let nodes: UInt32 = 16
    /// Largest payload of NODES in bytes.
    package static let nodesPayload = 24 + Int(nodes) * 4096
    /// Largest data content of one segment in bytes, without growth; also the limit for
    /// unacknowledged content.
    package static let segmentContent: UInt64 = 33_554_432
    /// Largest number of records in one segment, without growth.
    package static let segmentRecords: UInt32 = 65_536
    /// Largest number of segments in one transfer.
    package static let segments: UInt64 = 1_048_576
    /// Largest number of members in a group.
    package static let groupMembers: UInt32 = 256
    /// Largest volume in bytes.
    package static let volumeSize: UInt64 = 1 << 62
    /// Largest volume with a tag map, in bytes; Blockferry refuses larger ones.
    package static let mappedVolumeSize: UInt64 = 1 << 50
    /// Size of a frame header in bytes.
    package static let frameHeader = 32
    /// A side that has sent no frame for this long sends PING.
    package static let pingSeconds = 15
    /// A side that has received no frame for this long treats the connection as cut.
    package static let idleSeconds = 60
    /// Time from accept until a connection gets a place, and again from there until handshake and
    /// HELLO are done.
    package static let greetingSeconds = 5
    /// Time limit for an enrolment, from the start of the handshake.
    package static let enrolmentSeconds = 10
    /// Largest number of connections that wait for a place, and of those from networks of pinned
    /// peers.
    package static let waiting = (others: 384, known: 128)
    /// Places before authentication, and those reserved for networks of pinned peers.
    package static let placesBeforeAuthentication = (others: 8, known: 16)
    /// How long a connection keeps a place before authentication while others wait for it.
    package static let placeMilliseconds = 500
    /// How long a network stays known after a pinned peer connected from it.
    package static let knownSeconds = 2 * 86_400
    /// Largest number of sessions of all pinned peers together.
    package static let sessions = 64
    /// Largest number of sessions of one peer.
    package static let peerSessions = 8
    /// Delay after which a peer with too many sessions may come back.
    package static let retryAfterSeconds: UInt16 = 2
    /// Largest delay that a refusal may name.
    package static let greatestRetryAfterSeconds: UInt16 = 3600
}

/// Factor by which the segments of a transfer exceed the usual size, a power of two, so that a
/// large transfer stays within the number of segments (Specification 5.5).
package struct SegmentGrowth: RawRepresentable, Equatable, Sendable {
    /// Exponent of the power of two.
    package let rawValue: UInt8

    package init?(rawValue: UInt8) {
        guard rawValue <= 7 else { return nil }
        self.rawValue = rawValue
    }

    private init(known: UInt8) { rawValue = known }

    /// No growth, as in all transfers but the largest.
    package static let none = SegmentGrowth(known: 0)
    package static let most = SegmentGrowth(known: 7)

    /// The next larger growth, or `nil`.
    package var next: SegmentGrowth? { SegmentGrowth(rawValue: rawValue + 1) }

    /// Largest data content of one segment in bytes; also the limit for unacknowledged content.
    package var content: UInt64 { Limits.segmentContent << UInt64(rawValue) }
    /// Largest number of records in one segment.
    package var records: UInt32 { Limits.segmentRecords << UInt32(rawValue) }
}
