// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Wire

/// Headers of a staging log and of its segments, whole blocks with the right checksum, and records
/// one after the other, as recovery walks them.
@Sendable func fuzzStagingLog(_ bytes: [UInt8]) {
    var input = Input(bytes)
    let choice = input.byte()
    switch choice & 3 {
    case 0: checkHeader(block(&input, choice, "BFSTAGE1") { logHeader(&$0) }, choice)
    case 1: checkSegment(block(&input, choice, "BFSEGMT1") { segmentHeader(&$0) }, choice)
    case 2: checkWalk(&input)
    default:
        let padding = input.rest()
        let isTaken = (try? padding.withRawSpan { try StagingLogFormat.check(padding: $0) }) != nil
        precondition(isTaken == padding.allSatisfy { $0 == 0 })
    }
}

/// A block of 4096 bytes; some inputs keep a wrong checksum, and some lose a byte.
private func block(
    _ input: inout Input, _ choice: UInt8, _ magic: String, _ make: (inout Input) -> [UInt8]
) -> [UInt8] {
    var block: [UInt8]
    if choice & 4 == 0 {
        block = make(&input)
        switch input.byte() {
        case 0..<128: break
        case 128..<160: block.put(input.number(), at: Int(input.byte()), width: 8)
        case 160..<192: block.put(input.number(), at: Int(input.byte()), width: 4)
        case 192..<224: block[Int(input.byte())] = input.byte()
        default: block[input.word16() % block.count] = input.byte()
        }
    } else {
        block = [UInt8](repeating: 0, count: StagingLogFormat.unit)
        block.replaceSubrange(0..<8, with: magic.utf8)
        let rest = input.rest().prefix(4084)
        block.replaceSubrange(8..<8 + rest.count, with: rest)
    }
    if choice & 24 != 24 { mend(&block, covering: 0..<4092, at: 4092) }
    if choice & 224 == 224 { block.removeLast() }
    return block
}

private func logHeader(_ input: inout Input) -> [UInt8] {
    StagingLogFormat.Header(
        mode: input.byte() & 1 == 0 ? .staged : .inPlace, id: input.id(), begin: input.begin()
    ).encoded()
}

private func segmentHeader(_ input: inout Input) -> [UInt8] {
    let seal = Seal(
        index: input.number(usually: 0), recordCount: 1 + UInt32(input.byte()),
        content: input.number(), endOffset: input.number(), digest: input.digest())
    return StagingLogFormat.SegmentHeader(
        logID: input.id(), seal: seal, recordBytes: input.number(usually: 1 << 14)
    ).encoded()
}

private func checkHeader(_ block: [UInt8], _ choice: UInt8) {
    let decoded = block.withRawSpan { try? StagingLogFormat.Header(decoding: $0) }
    guard let header = decoded else { return }
    precondition(header.encoded() == block && !header.id.isNone)
    precondition(header.begin.heldSegments == 0)
}

private func checkSegment(_ block: [UInt8], _ choice: UInt8) {
    let id = StagingLogID(bytes: Array(block[8..<24])) ?? .none
    for mode in [StagingLogFormat.Mode.staged, .inPlace] {
        let available: UInt64 = choice & 32 == 0 ? 1 << 20 : 0
        let growth = choice & 64 == 0 ? SegmentGrowth.none : .most
        let decoded = block.withRawSpan {
            try? StagingLogFormat.SegmentHeader(
                decoding: $0, logID: id, mode: mode, growth: growth, index: 0,
                available: available)
        }
        guard let segment = decoded else { continue }
        precondition(segment.encoded() == block && segment.seal.index == 0)
        precondition(segment.span % 4096 == 0 && segment.span >= 4096 + segment.recordBytes)
        precondition(segment.span <= 4096 + available)
        precondition(segment.seal.content <= 33_554_432 << UInt64(growth.rawValue))
        precondition(segment.seal.recordCount <= 65_536 << UInt32(growth.rawValue))
        precondition((mode == .inPlace) == (segment.recordBytes == 0))
    }
}

/// What lies where records should, read as records until one of them is none.
private func checkWalk(_ input: inout Input) {
    var log: [UInt8] = []
    for _ in 0..<24 where !input.isEmpty {
        var payload = recordPayload(
            input.recordHeader(after: 512 * UInt64(input.byte()), in: 1 << 30))
        payload.spoil(&input)
        mendRecord(&payload)
        log += payload
    }
    log += input.rest()
    var checker = TransferChecker(announcement)
    var place = 0
    while place < log.count {
        let left = Array(log[place...])
        let decoded = left.withRawSpan { try? RecordHeader(decoding: $0, recordLength: nil) }
        let length = left.withRawSpan { try? RecordHeader.byteCount(decoding: $0) }
        guard let record = decoded, let length, length <= left.count else { return }
        precondition(length == record.prefixLength + record.storedLength && length >= 32)
        guard (try? checker.add(record)) != nil else { return }
        place += length
    }
    _ = checker.seal()
}
