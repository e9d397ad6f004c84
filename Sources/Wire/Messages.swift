// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests

/// A message of one frame type, without its frame.
package protocol Message: Equatable, Sendable {
    /// Type of the frame that carries the message.
    static var type: FrameType { get }
    /// Decodes a payload.
    init(decoding bytes: RawSpan) throws(WireError)
    /// Encodes the payload.
    func encoded() -> [UInt8]
}

/// Versions of the protocol, newest first. A new case requires a line in Protocol/CHANGES.md and
/// vectors.
package enum ProtocolVersion: UInt16, CaseIterable, Sendable {
    /// First version.
    case v1 = 1

    /// Newest version that this program speaks.
    package static let current = ProtocolVersion.v1
    /// Oldest version that this program speaks.
    package static let oldest = ProtocolVersion.v1
}

/// Optional capabilities of both sides: bits of HELLO and WELCOME. Unknown bits are not used.
package struct Features: OptionSet, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }

    /// The receiver sends its export key in EXPORTKEY after WELCOME.
    package static let exportKey = Features(rawValue: 1)
    /// REFUSE may say when the sender may come back.
    package static let retryAfter = Features(rawValue: 2)
    /// The receiver accepts every name that LVM accepts (`VolumeName.isWide`).
    package static let wideNames = Features(rawValue: 4)

    /// A sender may send CURRENT to report that nothing has changed.
    package static let current = Features(rawValue: 8)

    /// All features that this program knows.
    package static let known: Features = [.exportKey, .retryAfter, .wideNames, .current]
    /// Every bit.
    package static let all = Features(rawValue: .max)
}

private let greetingMagic = Array("BLKFERRY".utf8)

/// The sender's greeting; its layout never changes.
package struct Hello: Message {
    package static let type = FrameType.hello
    /// Range of versions that the sender speaks.
    package var lowestVersion: UInt16
    package var highestVersion: UInt16
    /// Feature bits (`Features`), including bits not defined yet.
    package var features: UInt32
    /// Name and version of the program; for logs.
    package var software: String

    package init(lowestVersion: UInt16, highestVersion: UInt16, features: UInt32, software: String)
    {
        self.lowestVersion = lowestVersion
        self.highestVersion = highestVersion
        self.features = features
        self.software = software
    }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("HELLO")
        guard try reader.fixed(8, bytes) == greetingMagic else { throw reader.error(.badMagic) }
        lowestVersion = try reader.integer(UInt16.self, bytes)
        guard lowestVersion >= 1 else { throw reader.error(.badVersion) }
        highestVersion = try reader.integer(UInt16.self, bytes)
        guard highestVersion >= lowestVersion else {
            throw reader.error(.badVersionRange)
        }
        features = try reader.integer(UInt32.self, bytes)
        software = try reader.string(0...64, bytes)
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes = greetingMagic
        bytes.append(littleEndian: lowestVersion)
        bytes.append(littleEndian: highestVersion)
        bytes.append(littleEndian: features)
        bytes.append(string: software, limit: 64)
        return bytes
    }
}

/// The receiver's greeting; its layout never changes.
package struct Welcome: Message {
    package static let type = FrameType.welcome
    /// The version that the receiver chose.
    package var version: UInt16
    /// Feature bits, a subset of those the sender offered.
    package var features: UInt32
    /// Name and version of the program; for logs.
    package var software: String

    package init(version: UInt16, features: UInt32, software: String) {
        self.version = version
        self.features = features
        self.software = software
    }

    package init(decoding bytes: RawSpan) throws(WireError) {
        try self.init(decoding: bytes, offered: nil)
    }

    /// Decodes a payload and, if HELLO is given, checks it against what that offered.
    package init(decoding bytes: RawSpan, offered: Hello?) throws(WireError) {
        var reader = FieldReader("WELCOME")
        guard try reader.fixed(8, bytes) == greetingMagic else { throw reader.error(.badMagic) }
        version = try reader.integer(UInt16.self, bytes)
        guard version >= offered?.lowestVersion ?? 1, version <= offered?.highestVersion ?? .max
        else { throw reader.error(.versionNotOffered) }
        try reader.reserved(2, bytes)
        features = try reader.integer(UInt32.self, bytes)
        guard features & ~(offered?.features ?? .max) == 0 else {
            throw reader.error(.featuresNotOffered)
        }
        software = try reader.string(0...64, bytes)
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes = greetingMagic
        bytes.append(littleEndian: version)
        bytes.append(zeros: 2)
        bytes.append(littleEndian: features)
        bytes.append(string: software, limit: 64)
        return bytes
    }
}

/// Reads a volume name: a string from a smaller alphabet.
private func volumeName(_ reader: inout FieldReader, _ bytes: RawSpan) throws(WireError)
    -> VolumeName
{
    let text = try reader.string(1...63, bytes)
    guard let name = VolumeName(text) else { throw reader.error(.badStringCharacters) }
    return name
}

/// Names the volume of the session.
package struct Open: Message {
    package static let type = FrameType.open
    package var volume: VolumeName

    package init(volume: VolumeName) { self.volume = volume }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("OPEN")
        volume = try volumeName(&reader, bytes)
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(string: volume.text, limit: 63)
        return bytes
    }
}

/// States of a volume on the standby.
package enum VolumeState: UInt8, Sendable, CaseIterable {
    case empty = 0
    case initialising = 1
    case consistent = 2
    case staging = 3
    case applying = 4
    case promoted = 5
    case diverged = 6
    case suspect = 7
    case prepared = 8
}

/// Kind of a volume's target.
package enum TargetKind: UInt8, Sendable, CaseIterable {
    case blockDevice = 1
    case file = 2
}

/// The standby's state of a volume.
package struct StandbyState: Message {
    package static let type = FrameType.state
    package var state: VolumeState
    package var targetKind: TargetKind
    /// Size of the target in bytes; for a file, its current size.
    package var targetSize: UInt64
    package var lineage: LineageID
    /// Number of the committed generation; 0 if there is none.
    package var committedNumber: UInt64
    /// Id of the committed generation; zeros if there is none.
    package var committedID: SHA256Digest
    /// The unfinished transfer.
    package var transfer: TransferID
    /// Number of durable segments of the unfinished transfer.
    package var durableSegments: UInt64

    package init(
        state: VolumeState, targetKind: TargetKind, targetSize: UInt64, lineage: LineageID = .none,
        committedNumber: UInt64 = 0, committedID: SHA256Digest = .zero,
        transfer: TransferID = .none, durableSegments: UInt64 = 0
    ) {
        self.state = state
        self.targetKind = targetKind
        self.targetSize = targetSize
        self.lineage = lineage
        self.committedNumber = committedNumber
        self.committedID = committedID
        self.transfer = transfer
        self.durableSegments = durableSegments
    }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("STATE")
        guard let state = VolumeState(rawValue: try reader.integer(UInt8.self, bytes)) else {
            throw reader.error(.badState)
        }
        guard let kind = TargetKind(rawValue: try reader.integer(UInt8.self, bytes)) else {
            throw reader.error(.badTargetKind)
        }
        self.state = state
        targetKind = kind
        try reader.reserved(6, bytes)
        targetSize = try reader.integer(UInt64.self, bytes)
        lineage = try reader.identifier(bytes)
        committedNumber = try reader.integer(UInt64.self, bytes)
        committedID = try reader.digest(bytes)
        guard (committedNumber == 0) == (committedID == .zero) else {
            throw reader.error(.committedMismatch)
        }
        transfer = try reader.identifier(bytes)
        durableSegments = try reader.integer(UInt64.self, bytes)
        guard !transfer.isNone || durableSegments == 0 else {
            throw reader.error(.durableWithoutTransfer)
        }
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes = [state.rawValue, targetKind.rawValue]
        bytes.append(zeros: 6)
        bytes.append(littleEndian: targetSize)
        bytes.append(contentsOf: lineage.bytes)
        bytes.append(littleEndian: committedNumber)
        bytes.append(contentsOf: committedID.bytes)
        bytes.append(contentsOf: transfer.bytes)
        bytes.append(littleEndian: durableSegments)
        return bytes
    }
}

/// Names the segment at which the sender continues.
package struct Ready: Message {
    package static let type = FrameType.ready
    /// Index of the segment to send first.
    package var nextSegment: UInt64

    package init(nextSegment: UInt64) { self.nextSegment = nextSegment }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("READY")
        nextSegment = try reader.integer(UInt64.self, bytes)
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: nextSegment)
        return bytes
    }
}

/// Ends a segment.
package struct Seal: Message {
    package static let type = FrameType.seal
    /// Index from 0.
    package var index: UInt64
    /// Number of records in the segment.
    package var recordCount: UInt32
    /// Content of its data records in bytes.
    package var content: UInt64
    /// End of its last record in bytes.
    package var endOffset: UInt64
    /// SHA-256 of the meaning of its records.
    package var digest: SHA256Digest

    package init(
        index: UInt64, recordCount: UInt32, content: UInt64, endOffset: UInt64, digest: SHA256Digest
    ) {
        self.index = index
        self.recordCount = recordCount
        self.content = content
        self.endOffset = endOffset
        self.digest = digest
    }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("SEAL")
        index = try reader.integer(UInt64.self, bytes)
        recordCount = try reader.integer(UInt32.self, bytes)
        guard (1...SegmentGrowth.most.records).contains(recordCount) else {
            throw reader.error(.badRecordCount)
        }
        try reader.reserved(4, bytes)
        content = try reader.integer(UInt64.self, bytes)
        guard content <= SegmentGrowth.most.content else { throw reader.error(.contentLimit) }
        endOffset = try reader.integer(UInt64.self, bytes)
        digest = try reader.digest(bytes)
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: index)
        bytes.append(littleEndian: recordCount)
        bytes.append(zeros: 4)
        bytes.append(littleEndian: content)
        bytes.append(littleEndian: endOffset)
        bytes.append(contentsOf: digest.bytes)
        return bytes
    }

    /// Checks the other side's claim against the local count.
    package func check(against counted: Seal) throws(WireError) {
        guard index == counted.index else { throw WireError("SEAL", .segmentIndex) }
        guard recordCount == counted.recordCount else { throw WireError("SEAL", .recordCount) }
        guard content == counted.content else { throw WireError("SEAL", .contentMismatch) }
        guard endOffset == counted.endOffset else { throw WireError("SEAL", .endOffset) }
        guard digest == counted.digest else { throw WireError("SEAL", .segmentDigest) }
    }
}

/// Reports the number of segments on stable storage.
package struct Ack: Message {
    package static let type = FrameType.ack
    package var durableSegments: UInt64

    package init(durableSegments: UInt64) { self.durableSegments = durableSegments }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("ACK")
        durableSegments = try reader.integer(UInt64.self, bytes)
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: durableSegments)
        return bytes
    }
}

/// Keeps the connection alive.
package struct Ping: Message {
    package static let type = FrameType.ping

    package init() {}

    package init(decoding bytes: RawSpan) throws(WireError) {
        try FieldReader("PING").finish(bytes)
    }

    package func encoded() -> [UInt8] { [] }
}

/// Reports the receiver's progress between COMMIT and COMMITTED.
package struct Progress: Message {
    package static let type = FrameType.progress
    /// The receiver's current activity.
    package enum Phase: UInt8, Sendable { case proving = 1, applying = 2, reading = 3 }
    package var phase: Phase
    /// Bytes done so far.
    package var done: UInt64
    package var total: UInt64

    package init(phase: Phase, done: UInt64, total: UInt64) {
        self.phase = phase
        self.done = done
        self.total = total
    }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("PROGRESS")
        guard let phase = Phase(rawValue: try reader.integer(UInt8.self, bytes)) else {
            throw reader.error(.badPhase)
        }
        self.phase = phase
        try reader.reserved(7, bytes)
        done = try reader.integer(UInt64.self, bytes)
        total = try reader.integer(UInt64.self, bytes)
        guard done <= total else { throw reader.error(.donePastTotal) }
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes = [phase.rawValue]
        bytes.append(zeros: 7)
        bytes.append(littleEndian: done)
        bytes.append(littleEndian: total)
        return bytes
    }
}

/// Redeems an invitation.
package struct Pair: Message {
    package static let type = FrameType.pair
    /// Sixteen bytes from the invitation.
    package var secret: [UInt8]
    /// The name that the sender gives itself.
    package var name: String

    package init(secret: [UInt8], name: String) {
        self.secret = secret
        self.name = name
    }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("PAIR")
        secret = try reader.fixed(16, bytes)
        name = try reader.string(1...64, bytes)
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes = secret
        bytes.append(string: name, limit: 64)
        return bytes
    }
}

/// Names the volume for which the sender's key is now pinned.
package struct Paired: Message {
    package static let type = FrameType.paired
    package var volume: VolumeName

    package init(volume: VolumeName) { self.volume = volume }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("PAIRED")
        volume = try volumeName(&reader, bytes)
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] { Open(volume: volume).encoded() }
}

extension FieldReader {
    mutating func identifier<Kind>(_ bytes: RawSpan) throws(WireError) -> RandomID<Kind> {
        let value = try fixed(16, bytes)
        guard let id = RandomID<Kind>(bytes: value) else { throw error(.truncated) }
        return id
    }

    mutating func digest(_ bytes: RawSpan) throws(WireError) -> SHA256Digest {
        let value = try fixed(32, bytes)
        guard let digest = SHA256Digest(bytes: value) else { throw error(.truncated) }
        return digest
    }
}
