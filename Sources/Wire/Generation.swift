// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests

/// Whether a generation defines every byte or changes its parent.
package enum GenerationKind: UInt8, Sendable {
    case full = 1
    case delta = 2
    /// Holds the blocks in which two copies of a volume differed when they were compared.
    case resync = 3
}

/// The part of a generation's description that BEGIN and the generation record share.
package struct GenerationHead: Equatable, Sendable {
    package var kind: GenerationKind
    package var tagAlgorithm: TagAlgorithm
    package var lineage: LineageID
    /// Counts from 1; shown to people and used for resuming.
    package var number: UInt64
    /// Id of the generation that this one changes; zeros if it begins a lineage.
    package var parent: SHA256Digest
    /// Size of the volume in bytes.
    package var volumeSize: UInt64
    /// The snapshot's point in time, nanoseconds since 1970-01-01 UTC.
    package var sourceTime: UInt64
    /// Description of what the sender read; at most 512 bytes.
    package var sourceIdentity: String

    package init(
        kind: GenerationKind, tagAlgorithm: TagAlgorithm, lineage: LineageID, number: UInt64,
        parent: SHA256Digest, volumeSize: UInt64, sourceTime: UInt64, sourceIdentity: String
    ) {
        self.kind = kind
        self.tagAlgorithm = tagAlgorithm
        self.lineage = lineage
        self.number = number
        self.parent = parent
        self.volumeSize = volumeSize
        self.sourceTime = sourceTime
        self.sourceIdentity = sourceIdentity
    }
}

/// Announces a transfer (Specification 5.5).
package struct Begin: Message {
    package static let type = FrameType.begin
    package var transfer: TransferID
    package var head: GenerationHead
    /// Bytes of data extents in the change list.
    package var plannedContent: UInt64
    package var plannedSegments: UInt64
    /// Number of leading segments whose digests the sender holds.
    package var heldSegments: UInt64
    /// Tag key of the lineage that the generation begins; otherwise `nil`.
    package var tagKey: TagKey?
    /// Whether the sender's operator allows a volume smaller than the committed one; not used in a
    /// full generation.
    package var allowsShrink: Bool
    /// The group, if the generation is committed together with others.
    package var group: Group?
    /// In a resync: the root of the map that it was compared with.
    package var comparedRoot: SHA256Digest?
    /// In a resync without parent: the target's content needs no protection.
    package var inPlace: Bool
    /// Growth of the transfer's segments.
    package var segmentGrowth: SegmentGrowth

    package init(
        transfer: TransferID, head: GenerationHead, plannedContent: UInt64, plannedSegments: UInt64,
        heldSegments: UInt64, tagKey: TagKey?, allowsShrink: Bool = false, group: Group? = nil,
        comparedRoot: SHA256Digest? = nil, inPlace: Bool = false,
        segmentGrowth: SegmentGrowth = .none
    ) {
        self.transfer = transfer
        self.head = head
        self.plannedContent = plannedContent
        self.plannedSegments = plannedSegments
        self.heldSegments = heldSegments
        self.tagKey = tagKey
        self.allowsShrink = allowsShrink
        self.group = group
        self.comparedRoot = comparedRoot
        self.inPlace = inPlace
        self.segmentGrowth = segmentGrowth
    }

    /// Bits of the flags field.
    private static let shrinkAllowed: UInt8 = 1
    private static let inPlaceWanted: UInt8 = 2

    /// The flags allowed for a kind of generation.
    private static func flags(of kind: GenerationKind) -> UInt8 {
        switch kind {
        case .full: 0
        case .delta: shrinkAllowed
        case .resync: shrinkAllowed | inPlaceWanted
        }
    }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("BEGIN")
        transfer = try reader.identifier(bytes)
        guard !transfer.isNone else { throw reader.error(.zeroTransfer) }
        let (kind, algorithm) = try reader.kindAndAlgorithm(bytes)
        let flags = try reader.integer(UInt8.self, bytes)
        guard flags & ~Self.flags(of: kind) == 0 else { throw reader.error(.reservedBits) }
        allowsShrink = flags & Self.shrinkAllowed != 0
        inPlace = flags & Self.inPlaceWanted != 0
        guard let growth = SegmentGrowth(rawValue: try reader.integer(UInt8.self, bytes)) else {
            throw reader.error(.badSegmentGrowth)
        }
        segmentGrowth = growth
        let members = try reader.integer(UInt32.self, bytes)
        guard members == 0 || Group.sizes.contains(members) else {
            throw reader.error(.badMembers)
        }
        let (lineage, number, parent) = try reader.place(kind, bytes)
        guard !inPlace || parent == .zero else { throw reader.error(.badParent) }
        let size = try reader.volumeSize(bytes)
        let time = try reader.integer(UInt64.self, bytes)
        plannedContent = try reader.integer(UInt64.self, bytes)
        plannedSegments = try reader.integer(UInt64.self, bytes)
        guard plannedSegments <= Limits.segments else { throw reader.error(.plannedSegments) }
        heldSegments = try reader.integer(UInt64.self, bytes)
        let key = try reader.fixed(TagKey.byteCount, bytes)
        let isZero = key.allSatisfy { $0 == 0 }
        guard isZero == (parent != .zero) else { throw reader.error(.badTagKey) }
        tagKey = isZero ? nil : TagKey(bytes: key)
        let group: GroupID = try reader.identifier(bytes)
        guard group.isNone == (members == 0) else { throw reader.error(.badGroup) }
        self.group = group.isNone ? nil : Group(id: group, members: members)
        let root = try reader.digest(bytes)
        guard (root == .zero) == (kind != .resync) else { throw reader.error(.badComparedRoot) }
        comparedRoot = root == .zero ? nil : root
        head = GenerationHead(
            kind: kind, tagAlgorithm: algorithm, lineage: lineage, number: number, parent: parent,
            volumeSize: size, sourceTime: time, sourceIdentity: try reader.string(0...512, bytes))
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes = transfer.bytes
        bytes.append(head.kind.rawValue)
        bytes.append(head.tagAlgorithm.rawValue)
        bytes.append(
            (allowsShrink ? Self.shrinkAllowed : 0) | (inPlace ? Self.inPlaceWanted : 0))
        bytes.append(segmentGrowth.rawValue)
        bytes.append(littleEndian: group?.members ?? 0)
        bytes.append(contentsOf: head.lineage.bytes)
        bytes.append(littleEndian: head.number)
        bytes.append(contentsOf: head.parent.bytes)
        bytes.append(littleEndian: head.volumeSize)
        bytes.append(littleEndian: head.sourceTime)
        bytes.append(littleEndian: plannedContent)
        bytes.append(littleEndian: plannedSegments)
        bytes.append(littleEndian: heldSegments)
        bytes.append(contentsOf: tagKey?.bytes ?? [UInt8](repeating: 0, count: TagKey.byteCount))
        bytes.append(contentsOf: (group?.id ?? .none).bytes)
        bytes.append(contentsOf: (comparedRoot ?? .zero).bytes)
        bytes.append(string: head.sourceIdentity, limit: 512)
        return bytes
    }
}

/// The record of a generation, whose SHA-256 is the generation's id (Specification 7).
package struct GenerationRecord: Message {
    package static let type = FrameType.commit
    package var head: GenerationHead
    package var segmentCount: UInt64
    package var deltaDigest: SHA256Digest
    /// Root of the volume's tag map; zeros if the sender has none.
    package var volumeRoot: SHA256Digest
    package var senderKey: KeyID

    package init(
        head: GenerationHead, segmentCount: UInt64, deltaDigest: SHA256Digest,
        volumeRoot: SHA256Digest, senderKey: KeyID
    ) {
        self.head = head
        self.segmentCount = segmentCount
        self.deltaDigest = deltaDigest
        self.volumeRoot = volumeRoot
        self.senderKey = senderKey
    }

    private static let magic = Array("BFGR".utf8)

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("generation")
        guard try reader.fixed(4, bytes) == Self.magic else { throw reader.error(.badMagic) }
        guard try reader.integer(UInt16.self, bytes) == 1 else { throw reader.error(.badFormat) }
        let (kind, algorithm) = try reader.kindAndAlgorithm(bytes)
        let (lineage, number, parent) = try reader.place(kind, bytes)
        let size = try reader.volumeSize(bytes)
        let time = try reader.integer(UInt64.self, bytes)
        segmentCount = try reader.integer(UInt64.self, bytes)
        deltaDigest = try reader.digest(bytes)
        volumeRoot = try reader.digest(bytes)
        senderKey = KeyID(try reader.digest(bytes))
        head = GenerationHead(
            kind: kind, tagAlgorithm: algorithm, lineage: lineage, number: number, parent: parent,
            volumeSize: size, sourceTime: time, sourceIdentity: try reader.string(0...512, bytes))
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes = Self.magic
        bytes.append(littleEndian: UInt16(1))
        bytes.append(head.kind.rawValue)
        bytes.append(head.tagAlgorithm.rawValue)
        bytes.append(contentsOf: head.lineage.bytes)
        bytes.append(littleEndian: head.number)
        bytes.append(contentsOf: head.parent.bytes)
        bytes.append(littleEndian: head.volumeSize)
        bytes.append(littleEndian: head.sourceTime)
        bytes.append(littleEndian: segmentCount)
        bytes.append(contentsOf: deltaDigest.bytes)
        bytes.append(contentsOf: volumeRoot.bytes)
        bytes.append(contentsOf: senderKey.digest.bytes)
        bytes.append(string: head.sourceIdentity, limit: 512)
        return bytes
    }

    /// SHA-256 of the record.
    package var id: SHA256Digest { SHA256Digest.of(encoded()) }

    /// Checks that this is the record of a transfer (end of Specification 7).
    package func check(against transfer: SealedTransfer) throws(WireError) {
        guard head == transfer.head, head.sourceIdentity.isSameBytes(transfer.head.sourceIdentity)
        else { throw WireError("COMMIT", .beginMismatch) }
        guard senderKey == transfer.sender else { throw WireError("COMMIT", .senderKey) }
        guard segmentCount == transfer.segmentCount else {
            throw WireError("COMMIT", .segmentCount)
        }
        guard deltaDigest == transfer.deltaDigest else { throw WireError("COMMIT", .deltaDigest) }
        guard !transfer.hasOpenSegment else { throw WireError("COMMIT", .recordsAfterSeal) }
        guard head.kind != .full || transfer.lastEnd == head.volumeSize else {
            throw WireError("COMMIT", .volumeNotCovered)
        }
    }
}

/// The facts that COMMIT is checked against.
package struct SealedTransfer: Sendable {
    /// From the announcement.
    package var head: GenerationHead
    /// The peer's key.
    package var sender: KeyID
    package var segmentCount: UInt64
    /// Digest of the sealed segments.
    package var deltaDigest: SHA256Digest
    /// Whether records follow the last SEAL.
    package var hasOpenSegment: Bool
    /// End of the last record in bytes.
    package var lastEnd: UInt64

    package init(
        head: GenerationHead, sender: KeyID, segmentCount: UInt64, deltaDigest: SHA256Digest,
        hasOpenSegment: Bool, lastEnd: UInt64
    ) {
        self.head = head
        self.sender = sender
        self.segmentCount = segmentCount
        self.deltaDigest = deltaDigest
        self.hasOpenSegment = hasOpenSegment
        self.lastEnd = lastEnd
    }
}

extension String {
    /// Compares bytes, as the protocol does; Swift's `==` also accepts canonically equivalent
    /// strings.
    fileprivate func isSameBytes(_ other: String) -> Bool { utf8.elementsEqual(other.utf8) }
}

extension FieldReader {
    fileprivate mutating func kindAndAlgorithm(
        _ bytes: RawSpan
    ) throws(WireError) -> (GenerationKind, TagAlgorithm) {
        guard let kind = GenerationKind(rawValue: try integer(UInt8.self, bytes)) else {
            throw error(.badKind)
        }
        guard let algorithm = TagAlgorithm(rawValue: try integer(UInt8.self, bytes)) else {
            throw error(.badTagAlgorithm)
        }
        return (kind, algorithm)
    }

    fileprivate mutating func place(
        _ kind: GenerationKind, _ bytes: RawSpan
    ) throws(WireError) -> (LineageID, UInt64, SHA256Digest) {
        let lineage: LineageID = try identifier(bytes)
        guard !lineage.isNone else { throw error(.zeroLineage) }
        let number = try integer(UInt64.self, bytes)
        guard number >= 1 else { throw error(.badNumber) }
        let parent = try digest(bytes)
        guard kind == .resync || (parent == .zero) == (kind == .full) else {
            throw error(.badParent)
        }
        return (lineage, number, parent)
    }

    mutating func volumeSize(_ bytes: RawSpan) throws(WireError) -> UInt64 {
        let size = try integer(UInt64.self, bytes)
        guard (1...Limits.volumeSize).contains(size) else { throw error(.badVolumeSize) }
        return size
    }
}

/// Computes the digest of one segment from its records (Specification 6.3).
package struct SegmentDigester: ~Copyable {
    private var hasher = SHA256Hasher()
    /// Number of records so far.
    package private(set) var recordCount: UInt32 = 0
    /// Bytes of data records so far.
    package private(set) var content: UInt64 = 0
    /// End of the last record in bytes.
    package private(set) var endOffset: UInt64 = 0

    /// Starts the segment with number `index`.
    package init(index: UInt64) {
        var start = Array("blockferry segment 1".utf8)
        start.append(littleEndian: index)
        hasher.update(start)
    }

    package mutating func add(_ record: RecordHeader) {
        var bytes = [record.kind.rawValue]
        bytes.append(littleEndian: record.offset)
        bytes.append(littleEndian: record.length)
        for tag in record.tags { tag.append(to: &bytes) }
        hasher.update(bytes)
        recordCount += 1
        if record.kind == .data { content += record.length }
        endOffset = record.end
    }

    /// Ends the segment; call `add` no more.
    package mutating func finish() -> SHA256Digest { hasher.finish() }
}

/// The digest of a whole generation from the digests of its segments (Specification 6.3).
package func deltaDigest(of segments: [SHA256Digest]) -> SHA256Digest {
    var hasher = SHA256Hasher()
    var start = Array("blockferry delta 1".utf8)
    start.append(littleEndian: UInt64(segments.count))
    hasher.update(start)
    for segment in segments { hasher.update(segment.bytes) }
    return hasher.finish()
}
