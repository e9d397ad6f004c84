// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Wire

/// A few digests and names, so that those of two messages often agree.
enum Known {
    static let digests = (0..<8).map {
        SHA256Digest(bytes: [UInt8](repeating: UInt8($0), count: 32)) ?? .zero
    }
    static let keys = (0..<4).map { TagKey(bytes: [UInt8](repeating: UInt8($0), count: 32)) }
    static let volumes = ["v", "root.disk-0_1", "0"].compactMap { VolumeName($0) }
    /// The last two are the same text to Swift, and not the same bytes.
    static let texts = ["", "fuzz", "x\u{301}", "\u{E9}", "e\u{301}"]
}

/// Structures that an input describes field by field; most of them keep the rules.
extension Input {
    mutating func digest() -> SHA256Digest { Known.digests[Int(byte() & 7)] }

    mutating func id<Kind>(orNone: Bool = false) -> RandomID<Kind> {
        let choice = byte()
        let value = orNone ? choice & 3 : 1 + choice & 3
        return RandomID(bytes: [UInt8](repeating: value, count: 16)) ?? .none
    }

    mutating func volume() -> VolumeName { Known.volumes[Int(byte()) % Known.volumes.count] }

    mutating func text() -> String {
        let choice = Int(byte())
        if choice < 128 { return Known.texts[choice % Known.texts.count] }
        return String(decoding: take(choice & 63), as: UTF8.self)
    }

    /// A size of whole sectors, of some bytes, or of any.
    mutating func volumeSize() -> UInt64 {
        let choice = byte()
        switch choice & 3 {
        case 0: return 1 << 20
        case 1: return 512 * (1 + UInt64(byte()))
        case 2: return 1 + UInt64(word16())
        default: return number()
        }
    }

    mutating func head() -> GenerationHead {
        let choice = byte()
        let kind: GenerationKind = [.full, .delta, .resync, .full][Int(choice & 3)]
        let hasParent = kind == .delta || kind == .resync && choice & 4 == 4
        return GenerationHead(
            kind: kind, tagAlgorithm: choice & 8 == 0 ? .poly1305 : .sha256, lineage: id(),
            number: number(usually: hasParent ? 2 : 1),
            parent: hasParent ? Known.digests[1 + Int(byte() % 4)] : .zero,
            volumeSize: volumeSize(), sourceTime: UInt64(choice), sourceIdentity: text())
    }

    mutating func begin() -> Begin {
        let head = head()
        let choice = byte()
        let hasParent = head.parent != .zero
        var begin = Begin(
            transfer: id(), head: head, plannedContent: head.volumeSize,
            plannedSegments: number(usually: 64), heldSegments: UInt64(choice & 7),
            tagKey: hasParent ? nil : Known.keys[1 + Int(choice >> 6) % 3],
            allowsShrink: head.kind != .full && choice & 8 == 8)
        if choice & 7 == 7, let growth = SegmentGrowth(rawValue: choice >> 5) {
            begin.segmentGrowth = growth
        }
        if choice & 48 == 16 { begin.group = Group(id: id(), members: 2 + UInt32(choice & 3)) }
        if head.kind == .resync {
            begin.comparedRoot = Known.digests[1 + Int(byte() % 4)]
            begin.inPlace = !hasParent && choice & 32 == 32
        }
        return begin
    }

    mutating func standby() -> StandbyState {
        let states = VolumeState.allCases
        let choice = byte()
        let hasGeneration = choice & 1 == 1
        let transfer: TransferID = id(orNone: true)
        return StandbyState(
            state: states[Int(byte()) % states.count],
            targetKind: choice & 2 == 0 ? .file : .blockDevice, targetSize: volumeSize(),
            lineage: id(orNone: true), committedNumber: hasGeneration ? 1 + UInt64(choice >> 6) : 0,
            committedID: hasGeneration ? Known.digests[1 + Int(byte() % 4)] : .zero,
            transfer: transfer, durableSegments: transfer.isNone ? 0 : UInt64(byte()))
    }

    mutating func record() -> GenerationRecord {
        GenerationRecord(
            head: head(), segmentCount: number(), deltaDigest: digest(), volumeRoot: digest(),
            senderKey: KeyID(digest()))
    }

    mutating func range() -> NodeRange {
        NodeRange(level: byte() & 7, index: number(), count: 1 + UInt32(byte() % 17))
    }

    mutating func compare() -> Compare {
        let choice = byte()
        return Compare(
            mode: choice & 1 == 0 ? .read : .stored,
            algorithm: choice & 2 == 0 ? .poly1305 : .sha256, volumeSize: volumeSize(),
            firstPage: number(), pageCount: number(),
            tagKey: choice & 5 == 4 ? Known.keys[1] : nil)
    }

    /// A record of few bytes: without content, or one whose content is said to be compressed into
    /// one.
    mutating func recordHeader(after end: UInt64, in size: UInt64) -> RecordHeader {
        let choice = byte()
        var offset = end
        if choice & 24 == 8 { offset &+= 512 * UInt64(byte()) }
        if choice & 24 == 24 { offset = number() }
        var length = [65_536, 1 << 20, 512, size &- offset][Int(choice >> 5) & 3]
        if choice & 128 == 128 { length = number() }
        // What is left, or less: records of a transfer mostly end inside the volume.
        if choice & 4 == 0 { length = min(length, size &- offset) }
        switch choice & 3 {
        case 0, 1:
            length = choice & 24 == 24 ? length : min(length, 1 << 20)
            let isHonest = length > 0 && length <= 1 << 20 && offset <= .max - length
            let count = isHonest ? RecordHeader.tagCount(offset: offset, length: length) : 1
            let tags = [Tag](repeating: choice & 1 == 0 ? .zero : someTag, count: count)
            return RecordHeader(
                data: offset, length: Int(clamping: length), encoding: .zstd, storedLength: 1,
                tags: tags)
        case 2: return RecordHeader(.zero, offset: offset, length: length)
        default: return RecordHeader(.unmap, offset: offset, length: length)
        }
    }

    /// The payload of a frame; every type has fields that agree with each other more often than
    /// not.
    mutating func payload(of type: FrameType) -> [UInt8] {
        switch type {
        case .hello:
            Hello(
                lowestVersion: UInt16(truncatingIfNeeded: number(usually: 1)),
                highestVersion: UInt16(truncatingIfNeeded: number(usually: 1)),
                features: UInt32(byte() & 15), software: text()
            ).encoded()
        case .welcome:
            Welcome(
                version: UInt16(truncatingIfNeeded: number(usually: 1)),
                features: UInt32(truncatingIfNeeded: number(usually: 1)), software: text()
            ).encoded()
        case .open: Open(volume: volume()).encoded()
        case .state: standby().encoded()
        case .begin: begin().encoded()
        case .ready: Ready(nextSegment: number()).encoded()
        case .record: recordPayload(recordHeader(after: 512 * UInt64(byte()), in: 1 << 30))
        case .seal:
            Seal(
                index: number(), recordCount: 1 + UInt32(byte()), content: number(),
                endOffset: number(), digest: digest()
            ).encoded()
        case .ack: Ack(durableSegments: number()).encoded()
        case .commit: record().encoded()
        case .committed: Committed(number: number(), id: digest()).encoded()
        case .current: Current(number: number(), id: digest()).encoded()
        case .prepared: Prepared(number: number(), id: digest()).encoded()
        case .refuse: refusal().encoded()
        case .ping: []
        case .progress:
            Progress(phase: .reading, done: UInt64(byte()), total: number(usually: 255)).encoded()
        case .pair: Pair(secret: [UInt8](repeating: byte(), count: 16), name: text()).encoded()
        case .paired: Paired(volume: volume()).encoded()
        case .abandon: Abandon(transfer: id()).encoded()
        case .compare: compare().encoded()
        case .compared:
            Compared(root: digest(), read: number(), committedSize: number() % (1 << 62 + 1))
                .encoded()
        case .ask: Ask(range: range()).encoded()
        case .nodes: nodes(range()).encoded()
        case .exportKey: ExportKey(key: key()).encoded()
        }
    }

    /// A public key that is none, but for its length.
    mutating func key() -> X25519Key {
        guard
            let key = X25519Key(bytes: digest().bytes)
                ?? X25519Key(bytes: [1] + [UInt8](repeating: 0, count: 31))
        else { fatalError("32 bytes are no key") }
        return key
    }

    mutating func nodes(_ range: NodeRange) -> Nodes {
        Nodes(
            range: range, content: [UInt8](repeating: byte(), count: 4096 * Int(range.count)))
    }

    private mutating func refusal() -> Refusal {
        let codes = RefusalCode.allCases
        let code = codes[Int(byte()) % codes.count]
        let later = UInt16(truncatingIfNeeded: number(usually: 0))
        var refusal = Refusal(code, retryAfter: later, text())
        if byte() & 1 == 1 { refusal.rule = text() }
        return refusal
    }
}

/// A tag that is not that of zeros.
let someTag: Tag = {
    let bytes = [UInt8](repeating: 7, count: Tag.byteCount)
    return bytes.withRawSpan { try? Tag($0, at: 0) } ?? .zero
}()

/// A record's header and tags, with as many bytes behind them as it says are stored, if those are
/// few.
func recordPayload(_ record: RecordHeader) -> [UInt8] {
    record.encoded() + [UInt8](repeating: 0, count: min(record.storedLength, 4096))
}
