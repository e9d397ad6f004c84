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
    /// Data content of one segment in bytes; also what may be sent and not acknowledged.
    package static let segmentContent: UInt64 = 33_554_432
    /// Records of one segment.
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
    /// Time for handshake and HELLO together, from accept.
    package static let greetingSeconds = 5
    /// Sessions that one peer may have at once.
    package static let peerSessions = 8
}
