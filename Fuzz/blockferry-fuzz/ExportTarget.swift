// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import HPKE
import Wire

/// Header, chunks, trailer and frames of an export file.
@Sendable func fuzzExport(_ bytes: [UInt8]) {
    var input = Input(bytes)
    let choice = input.byte()
    switch choice & 3 {
    case 0: checkHeader(&input, choice)
    case 1: checkTrailer(&input, choice)
    case 2: checkChunks(&input)
    default: checkOrder(&input)
    }
}

private func checkHeader(_ input: inout Input, _ choice: UInt8) {
    var block: [UInt8]
    if choice & 4 == 0 {
        let key = [UInt8](repeating: 5, count: 1 + Int(input.byte()))
        let envelope = ExportFormat.Envelope(
            standby: KeyID(input.digest()), recipient: input.key(), encapsulated: input.key(),
            publicKeyInfo: key, volume: input.volume())
        block = ExportFormat.Header(
            envelope: envelope, signature: [UInt8](repeating: 6, count: 1 + Int(input.byte() & 127))
        ).encoded()
        block.change(&input, before: 700)
    } else {
        block = Array("BFEXPORT".utf8) + input.rest()
        block += [UInt8](repeating: 0, count: max(0, 1024 - block.count))
    }
    if choice & 24 != 24 { mend(&block, covering: 0..<1020, at: 1020) }
    let header = block.withRawSpan { try? ExportFormat.Header(decoding: $0) }
    guard let header else { return }
    precondition(block.withRawSpan { ExportFormat.Header.format(of: $0) } == 2)
    precondition(header.envelope.publicKeyInfo.count <= ExportFormat.keyLimit)
    precondition((1...ExportFormat.signatureLimit).contains(header.signature.count))
    precondition(header.encoded() == Array(block.prefix(ExportFormat.headerByteCount)))
    // Whatever stands in it, nothing is opened by a key that was not encrypted to.
    let opener = HPKE.open(header.envelope.encapsulated, with: Keys.own, info: header.envelope.info)
    guard let opener else { return }
    precondition(!open(opener, Array(block.suffix(40)), isLast: true).isOpen)
}

/// Keys of nobody but this target; made once, as no input depends on them.
private enum Keys {
    static let own = RecipientKey.generate()
    static let ephemeral = RecipientKey.generate()
}

private func open(_ opener: Opener, _ chunk: [UInt8], isLast: Bool) -> (isOpen: Bool, text: [UInt8])
{
    var chunk = chunk
    let isOpen = chunk.withMutableRawSpan {
        opener.open(&$0, associated: ExportFormat.associated(isLast: isLast))
    }
    return (isOpen, Array(chunk.dropLast(HPKE.tagByteCount)))
}

/// Chunks that were cut, changed, moved, doubled and left out: what opens is what was sealed, in its place, up to the first
/// that does not.
private func checkChunks(_ input: inout Input) {
    let info = input.digest().bytes
    guard
        let (encapsulated, sealer) = HPKE.seal(
            to: Keys.own.publicKey, ephemeral: Keys.ephemeral, info: { _ in info }),
        let opener = HPKE.open(encapsulated, with: Keys.own, info: info)
    else { preconditionFailure("the target's own keys share no secret") }
    let texts = (0..<1 + Int(input.byte() & 3)).map { _ in
        [UInt8](repeating: input.byte(), count: 1 + Int(input.byte()))
    }
    let sealed = texts.indices.map { index in
        var chunk = texts[index] + [UInt8](repeating: 0, count: HPKE.tagByteCount)
        chunk.withMutableRawSpan {
            sealer.seal(
                &$0, associated: ExportFormat.associated(isLast: index == texts.count - 1))
        }
        return chunk
    }
    var file = sealed
    switch input.byte() & 7 {
    case 0: break
    case 1: file.swapAt(Int(input.byte()) % file.count, Int(input.byte()) % file.count)
    case 2: file.remove(at: Int(input.byte()) % file.count)
    case 3: file.append(file[Int(input.byte()) % file.count])
    case 4: file[Int(input.byte()) % file.count] = input.rest()
    default: file[Int(input.byte()) % file.count].spoil(&input)
    }
    for index in file.indices {
        let isLast = index == file.count - 1
        let found = open(opener, file[index], isLast: isLast)
        let isRight =
            index < sealed.count && file[index] == sealed[index]
            && isLast == (index == sealed.count - 1)
        precondition(
            found.isOpen == isRight,
            "a chunk that was not sealed here opens, or the other way round")
        guard found.isOpen else { return }
        precondition(found.text == texts[index])
    }
    precondition(file.isEmpty || file == sealed, "not all that was sealed was opened")
}

extension [UInt8] {
    fileprivate mutating func withMutableRawSpan<Result>(
        _ body: (inout MutableRawSpan) -> Result
    ) -> Result {
        // SAFETY: the span ends with the call, and bytes have no form that is not allowed.
        var span = mutableSpan
        var raw = unsafe span.mutableBytes
        return body(&raw)
    }
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
    var last: FrameType?
    for _ in 0..<256 where !input.isEmpty {
        let choice = input.byte()
        let likely: [FrameType] = [.begin, .record, .seal, .commit]
        guard
            let type = choice < 192
                ? likely[Int(choice) % 4] : FrameType(rawValue: UInt16(choice & 31))
        else { continue }
        let before = order
        guard order.take(type) else {
            precondition(order == before)
            continue
        }
        precondition(!before.isComplete && order.sequence == before.sequence + 1)
        precondition((type == .begin) == (last == nil))
        precondition(type != .seal || last == .record)
        precondition(type != .commit || last != .record)
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
