// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import TagMap
import Wire

/// The header of a map or of its updates, or pages of updates: filled up, with the right checksums.
@Sendable func fuzzTagMap(_ input: [UInt8]) {
    var input = Input(input)
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
    var bytes = Array(magic.utf8)
    bytes.append(littleEndian: UInt16(1))
    if choice & 4 != 0 { bytes = [] }
    bytes += input.rest()
    bytes += [UInt8](repeating: 0, count: max(0, 4096 - bytes.count))
    if choice & 8 == 0 { mend(&bytes, covering: 0..<4092, at: 4092) }
    if choice & 48 == 48 { bytes.removeLast() }
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
    func number() -> UInt64 { input.take(8).reduce(0) { $0 << 8 | UInt64($1) } }
    let size = number()
    guard (1...Limits.volumeSize).contains(size) else { return }
    let shape = MapShape(volumeByteCount: size)
    let (level, index, count) = (Int(input.byte()), number(), UInt64(input.byte()))
    if shape.has(level: level, index: index, count: count) {
        precondition(level <= shape.top && index + count <= shape.levels[level])
    }
    let block = number()
    if let extent = shape.extent(ofBlock: block) {
        precondition(extent.end <= size && MapShape.blocks(of: extent) == block..<block + 1)
        precondition(MapShape.place(ofBlock: block).page < shape.pageCount)
        let page = MapShape.place(ofBlock: block).page
        precondition(TagMapFormat.position(ofPage: page) < 1 << 62)
    }
}

/// Pages one after the other, as a reader takes them.
private func checkPages(_ input: inout Input) {
    var last: UInt64?
    while !input.isEmpty {
        let style = input.byte()
        var page: [UInt8] = []
        page.append(littleEndian: UInt32(style & 1 == 0 ? style >> 1 : style))
        page.append(littleEndian: UInt32(0))
        // Blocks are small steps from the one before, so that some ascend; entries are one byte.
        var block = last ?? 0
        for _ in 0..<min(Int(style >> 1), 170) {
            block &+= UInt64(input.byte()) &- (style & 1 == 0 ? 0 : 1)
            page.append(littleEndian: block)
            page.append(contentsOf: [UInt8](repeating: input.byte(), count: 16))
        }
        page += [UInt8](repeating: 0, count: 4096 - page.count)
        // And anything anywhere.
        if input.byte() & 7 == 0 {
            let place = Int(input.byte()) << 4 | Int(input.byte() & 15)
            page[place] = input.byte()
        }
        if style & 2 == 0 || input.byte() & 3 != 0 { mendPage(&page) }
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

/// The checksum of a page covers its count and what follows the checksum.
private func mendPage(_ page: inout [UInt8]) {
    let state = page.withRawSpan { span in
        CRC32C.update(CRC32C.update(.max, span.extracting(0..<4)), span.extracting(8..<4096))
    }
    var checksum: [UInt8] = []
    checksum.append(littleEndian: ~state)
    page.replaceSubrange(4..<8, with: checksum)
}
