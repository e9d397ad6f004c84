// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Session
import Wire

/// Takes pieces off the front of an input.
struct Input {
    private var bytes: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) { self.bytes = bytes[...] }

    var isEmpty: Bool { bytes.isEmpty }

    mutating func byte() -> UInt8 { bytes.popFirst() ?? 0 }

    mutating func take(_ count: Int) -> [UInt8] {
        let taken = Array(bytes.prefix(count))
        bytes = bytes.dropFirst(count)
        return taken
    }

    mutating func rest() -> [UInt8] { take(bytes.count) }
}

/// What holds for every structure: decoded and encoded again it is the same.
func check<Structure: Message>(_ type: Structure.Type, _ bytes: [UInt8]) {
    guard let value = try? bytes.withRawSpan({ try Structure(decoding: $0) }) else { return }
    precondition(value.encoded() == bytes, "\(type) is encoded otherwise than it was decoded")
}

/// Puts the CRC-32C of `covered` at `offset`, so that mutations get past it.
func mend(_ bytes: inout [UInt8], covering covered: Range<Int>, at offset: Int) {
    guard covered.upperBound <= bytes.count, offset + 4 <= bytes.count else { return }
    var checksum: [UInt8] = []
    checksum.append(littleEndian: bytes.withRawSpan { CRC32C.checksum($0.extracting(covered)) })
    bytes.replaceSubrange(offset..<offset + 4, with: checksum)
}

@Sendable func fuzzFrame(_ input: [UInt8]) {
    var bytes = input
    // The first byte says whether the header is mended; the others are the frame.
    let isMended = bytes.first.map { $0 & 1 == 0 } ?? false
    if !bytes.isEmpty { bytes.removeFirst() }
    if isMended { mend(&bytes, covering: 0..<28, at: 28) }
    let header = bytes.withRawSpan { span -> FrameHeader? in
        try? FrameHeader(decoding: span, expecting: (try? span.littleEndian(at: 8)) ?? 0)
    }
    guard let header else { return }
    precondition(header.payloadLength <= header.type.payloadLimit)
    precondition(header.encoded() == Array(bytes.prefix(32)))
    let payload = Array(bytes.dropFirst(32).prefix(header.payloadLength))
    _ = try? payload.withRawSpan { try header.check(payload: $0) }
    decodeAsBoth(header.type, payload)
}

private func decodeAsBoth(_ type: FrameType, _ payload: [UInt8]) {
    payload.withRawSpan { span in
        _ = try? SenderMessage(type, span)
        _ = try? ReceiverMessage(type, span)
    }
}

/// NODES has at least 4096 bytes more than an input: the last of them counts for all that are missing.
private func padded(_ bytes: [UInt8]) -> [UInt8] {
    guard bytes.count >= 24, let last = bytes.last else { return bytes }
    let wanted = 24 + 4096 * (Int(bytes[16]) % 18)
    return bytes + [UInt8](repeating: last, count: max(0, wanted - bytes.count))
}

@Sendable func fuzzMessage(_ input: [UInt8]) {
    var input = Input(input)
    let choice = input.byte()
    let bytes = input.rest()
    switch choice % 22 {
    case 0: check(Hello.self, bytes)
    case 1: check(Welcome.self, bytes)
    case 2: check(Open.self, bytes)
    case 3: check(StandbyState.self, bytes)
    case 4: check(Begin.self, bytes)
    case 5: check(Ready.self, bytes)
    case 6: check(Seal.self, bytes)
    case 7: check(Ack.self, bytes)
    case 8: check(GenerationRecord.self, bytes)
    case 9: check(Committed.self, bytes)
    case 10: check(Refusal.self, bytes)
    case 11: check(Ping.self, bytes)
    case 12: check(Progress.self, bytes)
    case 13: check(Pair.self, bytes)
    case 14: check(Paired.self, bytes)
    case 15: check(Prepared.self, bytes)
    case 16: check(Abandon.self, bytes)
    case 17: check(Compare.self, bytes)
    case 18: check(Compared.self, bytes)
    case 19: check(Ask.self, bytes)
    case 20: check(Nodes.self, padded(bytes))
    default:
        if let type = FrameType(rawValue: UInt16((bytes.first ?? 0) % 23)) {
            decodeAsBoth(type, Array(bytes.dropFirst()))
        }
    }
}

/// Mends a record's header checksum, which covers the header and as many tags as it says.
private func mendRecord(_ bytes: inout [UInt8]) {
    guard bytes.count >= 32 else { return }
    let tags = min(Int(bytes[2]) | Int(bytes[3]) << 8, 17)
    guard bytes.count >= 32 + tags * 16 else { return }
    let state = bytes.withRawSpan { span in
        CRC32C.update(
            CRC32C.update(.max, span.extracting(0..<28)), span.extracting(32..<32 + tags * 16))
    }
    var checksum: [UInt8] = []
    checksum.append(littleEndian: ~state)
    bytes.replaceSubrange(28..<32, with: checksum)
}

@Sendable func fuzzRecord(_ input: [UInt8]) {
    var input = Input(input)
    let choice = input.byte()
    var bytes = input.rest()
    if choice & 1 == 0 { mendRecord(&bytes) }
    let length = choice & 2 == 0 ? bytes.count : nil
    guard
        let record = try? bytes.withRawSpan({ try RecordHeader(decoding: $0, recordLength: length) }
        )
    else { return }
    precondition(record.encoded() == Array(bytes.prefix(record.prefixLength)))
    precondition(record.end <= Limits.volumeSize && record.length > 0)
    try? record.check(volumeSize: record.end, previousEnd: record.offset, isFull: true)
    try? record.check(volumeSize: 1 << 20, previousEnd: UInt64(choice) << 12, isFull: false)
}

@Sendable func fuzzInvitation(_ input: [UInt8]) {
    if let first = input.first, first & 1 == 0 {
        // A body with the right checksum, as text.
        var body = Array(input.dropFirst())
        body.append(littleEndian: body.withRawSpan { CRC32C.checksum($0) })
        if let invitation = try? Invitation(text: "bf1." + Base32.encode(body, .lower)) {
            precondition((try? Invitation(text: invitation.text)) == invitation)
        }
    }
    let text = String(decoding: input, as: UTF8.self)
    _ = try? Invitation(text: text)
    _ = try? KeyID(peerID: text)
    _ = VolumeName(text)
    _ = Hex.decode(text)
}

private let announcement = Begin(
    transfer: TransferID(bytes: [UInt8](repeating: 1, count: 16)) ?? .none,
    head: GenerationHead(
        kind: .full, tagAlgorithm: .poly1305,
        lineage: LineageID(bytes: [UInt8](repeating: 2, count: 16)) ?? .none, number: 1,
        parent: .zero, volumeSize: 1 << 30, sourceTime: 0, sourceIdentity: "fuzz"),
    plannedContent: 1 << 30, plannedSegments: 64, heldSegments: 0,
    tagKey: TagKey(bytes: [UInt8](repeating: 3, count: 32)))

@Sendable func fuzzStagingLog(_ input: [UInt8]) {
    var input = Input(input)
    let choice = input.byte()
    // A header or a segment header: a whole block, filled up and mended.
    var block = input.take(200)
    if choice & 1 == 0 {
        let magic = Array((choice & 2 == 0 ? "BFSTAGE1" : "BFSEGMT1").utf8)
        block = magic + block.dropFirst(8)
    }
    block += [UInt8](repeating: 0, count: max(0, 4096 - block.count))
    mend(&block, covering: 0..<4092, at: 4092)
    let id = StagingLogID(bytes: Array(block[8..<24])) ?? .none
    block.withRawSpan { span in
        _ = try? StagingLogFormat.Header(decoding: span)
        for mode in [StagingLogFormat.Mode.staged, .inPlace] {
            _ = try? StagingLogFormat.SegmentHeader(
                decoding: span, logID: id, mode: mode, index: UInt64(choice >> 4),
                available: 1 << 20)
        }
    }
    // Records one after the other, as recovery walks them.
    var checker = TransferChecker(announcement)
    while !input.isEmpty {
        var bytes = input.take(32 + Int(input.byte() % 3) * 16)
        mendRecord(&bytes)
        guard
            let record = try? bytes.withRawSpan({
                try RecordHeader(decoding: $0, recordLength: nil)
            }),
            (try? checker.add(record)) != nil
        else { continue }
        if input.byte() & 3 == 0 { _ = checker.seal() }
    }
    _ = checker.record(sender: KeyID(.zero))
}

/// What an input must name to answer.
private let nodesAsked: UInt32 = 1

private func ask(_ sender: inout SenderSession, _ level: UInt8) {
    _ = sender.ask(NodeRange(level: level, index: 0, count: nodesAsked))
}

/// What a receiver says of a generation of each kind, if its state is this.
private func admit(_ announcement: Begin, _ standby: StandbyState) {
    var resync = announcement
    resync.head.kind = .resync
    resync.comparedRoot = SHA256Digest.of([1])
    var following = resync
    following.head.lineage = standby.lineage
    following.head.parent = standby.committedID
    following.head.number = standby.committedNumber
    for begin in [announcement, resync, following] {
        for root in [nil, begin.comparedRoot] {
            let memory = Lineage.StandbyMemory(
                state: standby, committedSize: 1, unfinished: nil, comparedRoot: root)
            guard case .start(let inPlace) = Lineage.admit(begin, memory) else { continue }
            precondition(standby.state != .prepared, "a prepared generation is replaced")
            precondition(begin.head.kind != .resync || root != nil, "nothing was compared")
            precondition(
                !inPlace || standby.committedID == .zero || begin.inPlace
                    || [.empty, .initialising].contains(standby.state),
                "a generation is given up that nobody gave up")
        }
    }
}

@Sendable func fuzzSession(_ input: [UInt8]) {
    var input = Input(input)
    let choice = input.byte()
    var receiver = ReceiverSession(isPairing: choice & 1 == 1, software: "fuzz")
    var announcement = announcement
    if choice & 2 == 2 {
        let id = GroupID(bytes: [UInt8](repeating: 4, count: 16)) ?? .none
        announcement.group = Group(id: id, members: 2)
    }
    var sender = SenderSession(
        VolumeName("v").map { .replicate($0) } ?? .pair(Pair(secret: [], name: "x")))
    var checker = TransferChecker(announcement)
    while !input.isEmpty {
        let type = FrameType(rawValue: UInt16(input.byte() % 23)) ?? .ping
        var payload = input.take(Int(input.byte()))
        if type == .nodes { payload = padded(payload) }
        payload.withRawSpan { span in
            if let message = try? SenderMessage(type, span),
                let action = try? receiver.receive(message, type: type)
            {
                // The engine does at once what it is asked for.
                switch action {
                case .open, .abandon: receiver.opened()
                case .pair: receiver.paired()
                case .begin: receiver.ready()
                case .compare:
                    precondition(receiver.isComparing)
                    receiver.compared()
                case .ask(let range):
                    precondition((1...Limits.nodes).contains(range.count))
                    receiver.answered()
                case .commit(let record):
                    _ = try? checker.check(record, sender: record.senderKey)
                    if record.segmentCount & 1 == 0 {
                        receiver.committed()
                    } else {
                        receiver.prepared()
                    }
                case .record(let record): _ = try? checker.add(record)
                case .seal(let seal): _ = try? checker.seal(expecting: seal)
                case .none, .welcome, .stopped: break
                }
            }
            if let message = try? ReceiverMessage(type, span),
                let action = try? sender.receive(message, type: type)
            {
                switch action {
                case .decide(let standby):
                    let decision = Lineage.decide(Lineage.SourceMemory(), standby)
                    if case .prepared = decision, !standby.transfer.isNone {
                        precondition(standby.state == .prepared)
                        _ = sender.abandon(standby.transfer)
                        return
                    }
                    admit(announcement, standby)
                    if choice & 4 == 4 {
                        _ = sender.compare(
                            Compare(
                                mode: .read, algorithm: .poly1305, volumeSize: 1 << 30, tagKey: nil)
                        )
                        return
                    }
                    _ = sender.begin(announcement)
                case .compared(let compared):
                    precondition(compared.root != .zero)
                    if choice & 8 == 8 { _ = sender.begin(announcement) } else { ask(&sender, 1) }
                case .nodes(let content):
                    precondition(content.count == 4096 * Int(nodesAsked))
                    if choice & 16 == 16 { _ = sender.begin(announcement) } else { ask(&sender, 0) }
                case .sendSegments(let first):
                    precondition(first == 0, "a receiver made the sender skip what it must send")
                    sender.sealed(
                        Seal(index: 0, recordCount: 1, content: 0, endOffset: 512, digest: .zero))
                    sender.commit(
                        TransferChecker(announcement).record(sender: KeyID(.zero)))
                case .prepared:
                    precondition(announcement.group != nil, "waits for a group that it is not in")
                default: break
                }
            }
        }
    }
}
