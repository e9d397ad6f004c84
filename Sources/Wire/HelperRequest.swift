// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Digests

/// LVM's ids of a group and of one of its volumes, without dashes: 64 characters that identify the
/// volume permanently.
package struct LogicalVolumeID: Hashable, Sendable, CustomStringConvertible {
    package static let byteCount = 64
    package let description: String

    /// Returns `nil` if the text is not such an id.
    package init?(_ text: String) {
        guard text.utf8.count == Self.byteCount, text.utf8.allSatisfy(Self.isCharacter) else {
            return nil
        }
        description = text
    }

    static func isCharacter(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x21, 0x23: true
        default: false
        }
    }

    /// Whether a text is LVM's id of one volume in the form that LVM prints.
    package static func isUUID(_ text: String) -> Bool {
        let parts = text.utf8.split(separator: 0x2D, omittingEmptySubsequences: false)
        return parts.map(\.count) == [6, 4, 4, 4, 4, 4, 6]
            && parts.allSatisfy { $0.allSatisfy(isCharacter) }
    }
}

/// A request from the daemon to `blockferryd-lvm` (Protocol/Helper.md 2).
package struct HelperRequest: Hashable, Sendable {
    /// Largest request in bytes.
    package static let limit = 512
    package static let version: UInt8 = 2

    package enum Order: Hashable, Sendable {
        case look
        case room
        /// `after`: LVM's id of the last snapshot already received, or empty.
        case kept(KeptOwner, after: String)
        case keep(KeptOwner, GenerationMark)
        case release(KeptOwner, snapshotUUID: String)
        case grow(byteCount: UInt64)
        case activate

        package var type: UInt8 {
            switch self {
            case .look: 1
            case .room: 2
            case .kept: 3
            case .keep: 4
            case .release: 5
            case .grow: 6
            case .activate: 7
            }
        }

        /// Whether it changes something and so needs the volume's lock.
        package var isChange: Bool { type >= 4 }
    }

    package var volume: LogicalVolumeID
    package var order: Order

    package init(_ volume: LogicalVolumeID, _ order: Order) {
        self.volume = volume
        self.order = order
    }

    static let magic = Array("BFLV".utf8)
    private static let greatestSize: UInt64 = 1 << 62

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("helper request")
        guard try reader.fixed(4, bytes) == Self.magic else { throw reader.error(.badMagic) }
        guard try reader.integer(UInt8.self, bytes) == Self.version else {
            throw reader.error(.badVersion)
        }
        let type = try reader.integer(UInt8.self, bytes)
        guard (1...7).contains(type) else { throw reader.error(.unknownType) }
        try reader.reserved(2, bytes)
        let text = String(
            decoding: try reader.fixed(LogicalVolumeID.byteCount, bytes), as: UTF8.self)
        guard let volume = LogicalVolumeID(text) else { throw reader.error(.badStringCharacters) }
        self.volume = volume
        switch type {
        case 1: order = .look
        case 2: order = .room
        case 3:
            let owner = try reader.owner(bytes)
            order = .kept(owner, after: try reader.uuid(bytes, mayBeEmpty: true))
        case 4:
            let owner = try reader.owner(bytes)
            order = .keep(owner, try reader.mark(bytes))
        case 5:
            let owner = try reader.owner(bytes)
            order = .release(owner, snapshotUUID: try reader.uuid(bytes))
        case 6:
            let size = try reader.integer(UInt64.self, bytes)
            guard size > 0, size <= Self.greatestSize, size % 512 == 0 else {
                throw reader.error(.badVolumeSize)
            }
            order = .grow(byteCount: size)
        default: order = .activate
        }
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes = Self.magic + [Self.version, order.type, 0, 0]
        bytes.append(contentsOf: volume.description.utf8)
        switch order {
        case .look, .room, .activate: break
        case .kept(let owner, let after):
            bytes.append(owner)
            bytes.append(string: after, limit: 38)
        case .keep(let owner, let mark):
            bytes.append(owner)
            bytes.append(mark)
        case .release(let owner, let uuid):
            bytes.append(owner)
            bytes.append(string: uuid, limit: 38)
        case .grow(let byteCount): bytes.append(littleEndian: byteCount)
        }
        return bytes
    }
}

extension FieldReader {
    fileprivate mutating func owner(_ bytes: RawSpan) throws(WireError) -> KeptOwner {
        let standby = try fixed(8, bytes)
        guard let name = VolumeName(try string(1...63, bytes)) else {
            throw error(.badStringCharacters)
        }
        return KeptOwner(standby: standby, volume: name)
    }

    /// Reads LVM's id of a volume.
    mutating func uuid(
        _ bytes: RawSpan, mayBeEmpty: Bool = false
    ) throws(WireError) -> String {
        let text = try string(0...38, bytes)
        if text.isEmpty, mayBeEmpty { return text }
        guard LogicalVolumeID.isUUID(text) else { throw error(.badStringCharacters) }
        return text
    }

    mutating func mark(_ bytes: RawSpan) throws(WireError) -> GenerationMark {
        let number = try integer(UInt64.self, bytes)
        guard number > 0 else { throw error(.badNumber) }
        return GenerationMark(
            number: number, id: try digest(bytes), sourceTime: try integer(UInt64.self, bytes),
            committedAt: try integer(UInt64.self, bytes))
    }
}

extension [UInt8] {
    fileprivate mutating func append(_ owner: KeptOwner) {
        append(contentsOf: owner.standby)
        append(string: owner.volume.text, limit: 63)
    }

    mutating func append(_ mark: GenerationMark) {
        append(littleEndian: mark.number)
        append(contentsOf: mark.id.bytes)
        append(littleEndian: mark.sourceTime)
        append(littleEndian: mark.committedAt)
    }
}
