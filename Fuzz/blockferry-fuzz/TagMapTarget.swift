// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import TagMap
import Wire

/// The header of a map or of its updates, or pages of updates: filled up, with the right checksums.
@Sendable func fuzzTagMap(_ bytes: [UInt8]) {
    var input = Input(bytes)
    let choice = input.byte()
    switch choice % 4 {
    case 0: checkMapHeader(block(&input, "BFTAGMAP", choice))
    case 1: checkUpdateHeader(block(&input, "BFTAGUPD", choice))
    case 2: checkShape(&input)
    default: checkPages(&input)
    }
}

/// A block of 4096 bytes; some inputs keep their own magic, checksum or length.
private func block(_ input: inout Input, _ magic: String, _ choice: UInt8) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: TagMapFormat.unit)
    if choice & 4 == 0 {
        bytes.replaceSubrange(0..<8, with: magic.utf8)
        bytes[8] = 1
        bytes[10] = 1 + (choice >> 7)
        let fields = input.take(256)
        bytes.replaceSubrange(16..<16 + fields.count, with: fields)
    }
    switch input.byte() & 3 {
    case 3: bytes[input.word16() & 4095] = input.byte()
    case 2: bytes.put(input.number(), at: 8 * Int(input.byte() & 15), width: 8)
    default: break
    }
    if choice & 24 != 24 { mend(&bytes, covering: 0..<4092, at: 4092) }
    if choice & 96 == 96 { bytes.removeLast() }
    return bytes
}

private func checkMapHeader(_ bytes: [UInt8]) {
    guard let header = try? bytes.withRawSpan({ try TagMapFormat.Header(decoding: $0) }) else {
        return
    }
    precondition(header.encoded() == Array(bytes.prefix(4096)))
    let shape = MapShape(volumeByteCount: header.volumeSize)
    precondition(shape.levels[shape.top] == 1 && shape.top <= 6)
    _ = MapDigest.ofMap(shape, header.algorithm, top: header.root)
}

private func checkUpdateHeader(_ bytes: [UInt8]) {
    guard let header = try? bytes.withRawSpan({ try TagMapFormat.UpdateHeader(decoding: $0) })
    else { return }
    precondition(header.encoded() == Array(bytes.prefix(4096)) && !header.transfer.isNone)
}

/// What a peer may name of a map's tree.
private func checkShape(_ input: inout Input) {
    let size = input.number()
    guard (1...Limits.volumeSize).contains(size) else { return }
    let shape = MapShape(volumeByteCount: size)
    let (level, index, count) = (Int(input.byte() & 15), input.number(), UInt64(input.byte()))
    if shape.has(level: level, index: index, count: count) {
        precondition(level <= shape.top && index + count <= shape.levels[level])
    }
    let block = input.number()
    if let extent = shape.extent(ofBlock: block) {
        precondition(extent.end <= size && MapShape.blocks(of: extent) == block..<block + 1)
        precondition(MapShape.place(ofBlock: block).page < shape.pageCount)
        let page = MapShape.place(ofBlock: block).page
        precondition(TagMapFormat.position(ofPage: page) < 1 << 62)
    }
}

/// Pages one after the other, as a reader takes them; few, since a page is large.
private func checkPages(_ input: inout Input) {
    var last: UInt64?
    for _ in 0..<4 where !input.isEmpty {
        let style = input.byte()
        let count = min(Int(style >> 1), TagMapFormat.pageUpdates)
        var page = [UInt8](repeating: 0, count: TagMapFormat.unit)
        page.put(UInt64(style & 1 == 0 ? style >> 1 : style), at: 0, width: 4)
        // Blocks are small steps from the one before, so that most ascend.
        var block = last ?? 0
        for index in 0..<count {
            let step = input.byte()
            block &+= UInt64(step >> 1) &+ (step & 1 == 0 || index == 0 ? 1 : 0)
            page.put(block, at: 8 + 24 * index, width: 8)
            page[16 + 24 * index] = step
        }
        // And anything anywhere.
        if input.byte() & 7 == 7 {
            let place = input.word16() & 4095
            page[place] = input.byte()
        }
        if input.byte() & 15 != 15 { mend(&page, covering: 0..<4, and: 8..<4096, at: 4) }
        let updates = page.withRawSpan { TagMapFormat.updates(decoding: $0, after: last) }
        guard let updates else { continue }
        precondition((1...TagMapFormat.pageUpdates).contains(updates.count))
        for update in updates {
            precondition(last.map { $0 < update.block } ?? true, "blocks do not ascend")
            last = update.block
        }
        precondition(TagMapFormat.encoded(updates) == page)
    }
}
