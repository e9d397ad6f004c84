// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Wire

/// Header, trailer and frames of an export file.
@Sendable func fuzzExport(_ bytes: [UInt8]) {
    var input = Input(bytes)
    let choice = input.byte()
    switch choice & 3 {
    case 0: checkHeader(&input, choice)
    case 1: checkTrailer(&input, choice)
    default: checkOrder(&input)
    }
}

private func checkHeader(_ input: inout Input, _ choice: UInt8) {
    var block: [UInt8]
    if choice & 4 == 0 {
        let key = [UInt8](repeating: 5, count: 1 + Int(input.byte()))
        block = ExportFormat.Header(
            standby: KeyID(input.digest()), publicKeyInfo: key, begin: input.begin(),
            volume: input.volume()
        ).encoded()
        block.change(&input, before: 700)
    } else {
        block = Array("BFEXPORT".utf8) + input.rest()
        block += [UInt8](repeating: 0, count: max(0, 4096 - block.count))
    }
    if choice & 24 != 24 { mend(&block, covering: 0..<4092, at: 4092) }
    let header = block.withRawSpan { try? ExportFormat.Header(decoding: $0) }
    guard let header else { return }
    precondition(header.publicKeyInfo.count <= ExportFormat.keyLimit)
    precondition(header.begin.head.kind != .resync && header.begin.group == nil)
    precondition(header.begin.heldSegments == 0)
    precondition(header.encoded() == Array(block.prefix(ExportFormat.headerByteCount)))
}

private func checkTrailer(_ input: inout Input, _ choice: UInt8) {
    var block: [UInt8]
    if choice & 4 == 0 {
        let statement = ExportFormat.Statement(
            length: input.number(), digest: input.digest(), generation: input.digest())
        block = ExportFormat.Trailer(
            statement: statement,
            signature: [UInt8](repeating: 6, count: 1 + Int(input.byte() & 127))
        ).encoded()
        block.change(&input, before: 252)
    } else {
        block = Array("BFEXPEND".utf8) + input.rest()
        block += [UInt8](repeating: 0, count: max(0, 256 - block.count))
    }
    if choice & 24 != 24 { mend(&block, covering: 0..<252, at: 252) }
    let length = block.withRawSpan { (try? $0.littleEndian(at: 8, as: UInt64.self)) ?? 0 }
    let said = choice & 224 == 224 ? length &+ 1 : length
    let trailer = block.withRawSpan { try? ExportFormat.Trailer(decoding: $0, length: said) }
    guard let trailer else { return }
    precondition(said == length && trailer.statement.length == length)
    precondition((1...ExportFormat.signatureLimit).contains(trailer.signature.count))
    precondition(trailer.encoded() == Array(block.prefix(ExportFormat.trailerByteCount)))
}

/// Whatever comes: records only inside segments, and nothing behind COMMIT.
private func checkOrder(_ input: inout Input) {
    var order = ExportFormat.FrameOrder()
    var last = FrameType.seal
    for _ in 0..<256 where !input.isEmpty {
        let choice = input.byte()
        let likely: [FrameType] = [.record, .seal, .commit]
        guard
            let type = choice < 192
                ? likely[Int(choice) % 3] : FrameType(rawValue: UInt16(choice & 31))
        else { continue }
        let before = order
        guard order.take(type) else {
            precondition(order == before)
            continue
        }
        precondition(!before.isComplete && order.sequence == before.sequence + 1)
        precondition(type == .record || (type == .seal) == (last == .record))
        last = type
    }
}

extension [UInt8] {
    /// Changes a number or a byte before `limit`, or nothing.
    fileprivate mutating func change(_ input: inout Input, before limit: Int) {
        switch input.byte() {
        case 0..<128: break
        case 128..<160: put(input.number(), at: input.word16() % limit, width: 4)
        case 160..<192: put(input.number(), at: 8 * Int(input.byte() & 7), width: 4)
        default: self[input.word16() % limit] = input.byte()
        }
    }
}
