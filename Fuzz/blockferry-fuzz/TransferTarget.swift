// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Wire

/// A transfer as one side makes it and the other side takes it, and what must be true of it by
/// rules that are written down again here.
struct Transfer: ~Copyable {
    let begin: Begin
    private let sender = KeyID(Known.digests[5])
    private var maker: TransferChecker
    private var taker: TransferChecker
    private var end: UInt64 = 0
    private var records = 0
    private var content: UInt64 = 0
    private var seals: [Seal] = []

    init(_ begin: Begin) {
        self.begin = begin
        maker = TransferChecker(begin)
        taker = TransferChecker(begin)
    }

    /// A record that mostly follows the last one.
    func nextRecord(_ input: inout Input) -> RecordHeader {
        input.recordHeader(after: end, in: begin.head.volumeSize)
    }

    /// Gives a record that was decoded to both sides.
    ///
    /// - Returns: whether the transfer goes on.
    mutating func take(_ record: RecordHeader) -> Bool {
        let size = begin.head.volumeSize
        let more = record.kind == .data ? record.length : 0
        let isRight =
            record.end <= size && (record.length % 512 == 0 || record.end == size)
            && (begin.head.kind == .full ? record.offset == end : record.offset >= end)
            && content + more <= 32 << (20 + UInt64(begin.segmentGrowth.rawValue))
        precondition(
            ((try? taker.add(record)) != nil) == isRight, "the receiver misjudged a record")
        precondition(((try? maker.add(record)) != nil) == isRight, "the sender misjudged a record")
        guard isRight else { return false }
        end = record.end
        content += more
        records += 1
        precondition(taker.previousEnd == end && taker.hasOpenSegment)
        return true
    }

    /// What the sender says of the segment it has filled, and that as the input changes it.
    mutating func nextSeal(_ input: inout Input) -> (right: Seal, said: Seal) {
        let right = maker.seal()
        precondition(right.recordCount == records && right.content == content)
        var said = right
        switch input.byte() {
        case 208..<216: said.index = input.number()
        case 216..<224: said.recordCount = UInt32(truncatingIfNeeded: input.number())
        case 224..<232: said.content = input.number()
        case 232..<244: said.endOffset = input.number()
        case 244...255: said.digest = input.digest()
        default: break
        }
        return (right, said)
    }

    /// Gives the receiver what it was said of the segment.
    ///
    /// - Returns: whether the transfer goes on.
    mutating func take(_ said: Seal, right: Seal) -> Bool {
        let isRight = said == right && said.index < begin.plannedSegments
        let isTaken = (try? taker.seal(expecting: said)) != nil
        precondition(isTaken == isRight, "a seal was misjudged")
        guard isTaken else { return false }
        (records, content) = (0, 0)
        seals.append(right)
        precondition(taker.segments == maker.segments && taker.content == maker.content)
        return true
    }

    /// The generation's record, as the input changes it.
    func nextRecord(
        ofGeneration input: inout Input
    ) -> (right: GenerationRecord, said: GenerationRecord) {
        let right = maker.record(sender: sender)
        var said = right
        said.volumeRoot = input.digest()
        switch input.byte() {
        case 208..<216: said.head = input.head()
        case 216..<224: said.segmentCount = input.number()
        case 224..<232: said.deltaDigest = input.digest()
        case 232..<240: said.senderKey = KeyID(input.digest())
        case 240..<248: said.head.sourceIdentity = input.text()
        case 248...255: said.head.sourceTime = input.number()
        default: break
        }
        return (right, said)
    }

    /// Whether the receiver takes the generation; it must be this one, and all of it.
    func commits(_ said: GenerationRecord, right: GenerationRecord) -> Bool {
        var expected = right
        expected.volumeRoot = said.volumeRoot
        let isRight =
            said.encoded() == expected.encoded() && records == 0
            && (begin.head.kind != .full || end == begin.head.volumeSize)
        let isTaken = (try? taker.check(said, sender: sender)) != nil
        precondition(isTaken == isRight, "a generation was misjudged")
        return isTaken
    }

    /// Recovery knows sealed segments by their seals alone, and must come to the same generation.
    func checkRecovery() {
        var recovered = TransferChecker(begin)
        for seal in seals {
            precondition((try? recovered.skip(seal)) != nil)
            precondition((try? recovered.skip(seal)) == nil, "a segment was taken twice")
        }
        precondition(recovered.segments == taker.segments)
        precondition(records > 0 || recovered.previousEnd == taker.previousEnd)
        precondition(
            recovered.record(sender: sender).deltaDigest == deltaDigest(of: taker.segments))
    }
}

/// Records, seals and a commit of one transfer, most of them right.
@Sendable func fuzzTransfer(_ bytes: [UInt8]) {
    var input = Input(bytes)
    var transfer = Transfer(input.begin())
    for _ in 0..<64 where !input.isEmpty {
        switch input.byte() {
        case 0..<160:
            var payload = recordPayload(transfer.nextRecord(&input))
            payload.spoil(&input)
            mendRecord(&payload)
            let decoded = payload.withRawSpan {
                try? RecordHeader(decoding: $0, recordLength: nil)
            }
            guard let record = decoded, transfer.take(record) else { return }
        case 160..<224:
            let (right, said) = transfer.nextSeal(&input)
            let decoded = said.encoded().withRawSpan { try? Seal(decoding: $0) }
            guard let decoded, transfer.take(decoded, right: right) else { return }
        case 224..<232: transfer.checkRecovery()
        default:
            let (right, said) = transfer.nextRecord(ofGeneration: &input)
            _ = transfer.commits(said, right: right)
            return transfer.checkRecovery()
        }
    }
}
