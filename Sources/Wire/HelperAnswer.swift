// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Digests

/// Remaining capacity of a thin pool and of its volume group's metadata.
package struct ThinRoom: Hashable, Sendable {
    /// Size of a block of the pool in bytes.
    package var blockByteCount: UInt64
    package var blocks: UInt64
    package var freeBlocks: UInt64
    /// Blocks mapped by the volume in question, shared or not.
    package var ownBlocks: UInt64
    /// Size of the pool's metadata in blocks.
    package var metadataBlocks: UInt64
    package var freeMetadataBlocks: UInt64
    /// Size of a metadata area of the group in bytes, and how much LVM's text can still grow; 0 if
    /// unknown.
    package var textAreaByteCount: UInt64
    package var freeTextByteCount: UInt64
    /// Whether LVM may extend pools automatically, which makes the free space meaningless.
    package var growsByItself: Bool
    /// Number of snapshots that the pool's clock still allows.
    package var snapshotsLeft: UInt32

    package init(
        blockByteCount: UInt64, blocks: UInt64, freeBlocks: UInt64, ownBlocks: UInt64,
        metadataBlocks: UInt64, freeMetadataBlocks: UInt64, textAreaByteCount: UInt64,
        freeTextByteCount: UInt64, growsByItself: Bool, snapshotsLeft: UInt32
    ) {
        self.blockByteCount = blockByteCount
        self.blocks = blocks
        self.freeBlocks = freeBlocks
        self.ownBlocks = ownBlocks
        self.metadataBlocks = metadataBlocks
        self.freeMetadataBlocks = freeMetadataBlocks
        self.textAreaByteCount = textAreaByteCount
        self.freeTextByteCount = freeTextByteCount
        self.growsByItself = growsByItself
        self.snapshotsLeft = snapshotsLeft
    }
}

/// An answer of `blockferryd-lvm` (Protocol/Helper.md 3).
package enum HelperAnswer: Hashable, Sendable {
    /// Largest answer in bytes.
    package static let limit = 131_072
    /// Largest number of snapshots in one answer.
    package static let snapshotLimit = 256

    case look(thinDevice: UInt32?, provesDiscards: Bool, openCount: UInt32)
    case room(ThinRoom)
    /// The kept snapshots, in ascending order of their ids.
    case kept([KeptGeneration], hasMore: Bool)
    /// A request that changes something succeeded.
    case done(type: UInt8)
    /// The request is not allowed: not configured, or not what it claims.
    case refused(String, type: UInt8)
    /// LVM or the kernel failed to do it.
    case failed(String, type: UInt8)

    /// Type of the request that it answers; 0 if the request was not understood.
    package var type: UInt8 {
        switch self {
        case .look: 1
        case .room: 2
        case .kept: 3
        case .done(let type), .refused(_, let type), .failed(_, let type): type
        }
    }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("helper answer")
        guard try reader.fixed(4, bytes) == HelperRequest.magic else {
            throw reader.error(.badMagic)
        }
        guard try reader.integer(UInt8.self, bytes) == HelperRequest.version else {
            throw reader.error(.badVersion)
        }
        let type = try reader.integer(UInt8.self, bytes)
        guard type <= 7 else { throw reader.error(.unknownType) }
        let status = try reader.integer(UInt8.self, bytes)
        try reader.reserved(1, bytes)
        switch (status, type) {
        case (0, 1): self = try Self.look(&reader, bytes)
        case (0, 2): self = .room(try Self.room(&reader, bytes))
        case (0, 3): self = try Self.kept(&reader, bytes)
        case (0, 4...7): self = .done(type: type)
        case (1, _): self = .refused(try reader.string(1...1024, bytes), type: type)
        case (2, _): self = .failed(try reader.string(1...1024, bytes), type: type)
        default: throw reader.error(.badCode)
        }
        try reader.finish(bytes)
    }

    private static func look(
        _ reader: inout FieldReader, _ bytes: RawSpan
    ) throws(WireError) -> HelperAnswer {
        let flags = try reader.integer(UInt8.self, bytes)
        guard flags <= 3 else { throw reader.error(.reservedBits) }
        try reader.reserved(3, bytes)
        let id = try reader.integer(UInt32.self, bytes)
        guard flags & 1 == 1 || id == 0 else { throw reader.error(.badNumber) }
        return .look(
            thinDevice: flags & 1 == 1 ? id : nil, provesDiscards: flags & 2 == 2,
            openCount: try reader.integer(UInt32.self, bytes))
    }

    private static func room(
        _ reader: inout FieldReader, _ bytes: RawSpan
    ) throws(WireError) -> ThinRoom {
        let blockByteCount = try reader.integer(UInt64.self, bytes)
        guard blockByteCount > 0 else { throw reader.error(.zeroLength) }
        /// Reads total and free space.
        func room() throws(WireError) -> (all: UInt64, free: UInt64) {
            let all = try reader.integer(UInt64.self, bytes)
            let free = try reader.integer(UInt64.self, bytes)
            guard free <= all else { throw reader.error(.badNumber) }
            return (all, free)
        }
        let (data, metadata, text) = (try room(), try room(), try room())
        return ThinRoom(
            blockByteCount: blockByteCount, blocks: data.all, freeBlocks: data.free,
            ownBlocks: try reader.integer(UInt64.self, bytes), metadataBlocks: metadata.all,
            freeMetadataBlocks: metadata.free, textAreaByteCount: text.all,
            freeTextByteCount: text.free, growsByItself: try reader.boolean(bytes),
            snapshotsLeft: try reader.integer(UInt32.self, bytes))
    }

    private static func kept(
        _ reader: inout FieldReader, _ bytes: RawSpan
    ) throws(WireError) -> HelperAnswer {
        let hasMore = try reader.boolean(bytes)
        let count = Int(try reader.integer(UInt16.self, bytes))
        guard count <= snapshotLimit, count > 0 || !hasMore else { throw reader.error(.badCount) }
        var found: [KeptGeneration] = []
        for _ in 0..<count {
            let mark = try reader.mark(bytes)
            let device = try reader.integer(UInt32.self, bytes)
            let next = KeptGeneration(
                mark, snapshot: try reader.string(1...257, bytes),
                snapshotUUID: try reader.uuid(bytes), thinDevice: device)
            if let last = found.last, last.snapshotUUID >= next.snapshotUUID {
                throw reader.error(.order)
            }
            found.append(next)
        }
        return .kept(found, hasMore: hasMore)
    }

    package func encoded() -> [UInt8] {
        let status: UInt8 =
            switch self {
            case .refused: 1
            case .failed: 2
            default: 0
            }
        var bytes = HelperRequest.magic + [HelperRequest.version, type, status, 0]
        switch self {
        case .look(let thinDevice, let provesDiscards, let openCount):
            bytes += [(thinDevice == nil ? 0 : 1) | (provesDiscards ? 2 : 0), 0, 0, 0]
            bytes.append(littleEndian: thinDevice ?? 0)
            bytes.append(littleEndian: openCount)
        case .room(let room):
            for number in [
                room.blockByteCount, room.blocks, room.freeBlocks, room.metadataBlocks,
                room.freeMetadataBlocks, room.textAreaByteCount, room.freeTextByteCount,
                room.ownBlocks,
            ] { bytes.append(littleEndian: number) }
            bytes.append(room.growsByItself ? 1 : 0)
            bytes.append(littleEndian: room.snapshotsLeft)
        case .kept(let found, let hasMore):
            bytes.append(hasMore ? 1 : 0)
            bytes.append(littleEndian: UInt16(clamping: found.count))
            for generation in found { bytes.append(generation) }
        case .done: break
        case .refused(let reason, _), .failed(let reason, _):
            bytes.append(string: Self.plain(reason), limit: 1024)
        }
        return bytes
    }

    /// Cuts a reason down to what a string may hold; a program's output can contain anything.
    private static func plain(_ reason: String) -> String {
        let scalars = reason.unicodeScalars.map { $0.value >= 0x20 && $0.value != 0x7F ? $0 : " " }
        let text = String(String.UnicodeScalarView(scalars))
        return text.isEmpty ? "for no reason that it names" : text
    }
}

extension FieldReader {
    fileprivate mutating func boolean(_ bytes: RawSpan) throws(WireError) -> Bool {
        let value = try integer(UInt8.self, bytes)
        guard value <= 1 else { throw error(.reservedBits) }
        return value == 1
    }
}

extension [UInt8] {
    fileprivate mutating func append(_ generation: KeptGeneration) {
        append(generation.mark)
        append(littleEndian: generation.thinDevice)
        append(string: generation.snapshot, limit: 257)
        append(string: generation.snapshotUUID, limit: 38)
    }
}
