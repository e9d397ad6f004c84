// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import MapStore
import TagMap
import Wire

/// The file of a tag map and the file of its updates, under digests and checksums that are mostly
/// right.
struct MapFileTarget: Sendable {
    private static let unit = TagMapFormat.unit
    private static let pageBytes = UInt64(MapShape.pageEntries) * MapShape.blockByteCount
    private let map = ScratchFile("map")
    private let updates = ScratchFile("updates")

    @Sendable func run(_ bytes: [UInt8]) {
        var input = Input(bytes)
        let style = input.byte()
        let size = mapSize(&input)
        let shape = MapShape(volumeByteCount: size)
        var (file, isRight) = mapFile(&input, shape, style)
        if style & 12 == 12 {
            file.spoil(&input)
            isRight = false
        }
        map.fill(file)
        guard let opened = try? TagMapFile(opening: map.path, isWhole: style & 16 == 0) else {
            return precondition(!isRight, "a map is refused")
        }
        precondition(style & 16 == 16 || opened.root == opened.header.root)
        // Proving reads each page that the file might hold: of a large map seldom.
        if shape.pageCount <= 4 || input.byte() & 15 == 15 {
            let isProven = (try? opened.prove()) != nil
            precondition(isProven || !isRight, "a map cannot be proven")
        }
        let block = input.number(usually: 3)
        if let entry = try? opened.entry(ofBlock: block), isRight, block < shape.blockCount {
            let place = MapShape.place(ofBlock: block)
            let at = Int(clamping: TagMapFormat.position(ofPage: place.page)) + 16 * place.entry
            let stored = file.withRawSpan { try? Tag($0, at: at) }
            precondition(entry == stored ?? .zero)
        }
        if opened.shape.has(level: Int(style >> 5) & 1, index: 0, count: 1) {
            let range = NodeRange(level: style >> 5 & 1, index: 0, count: 1)
            if let below = try? opened.children(range) { precondition(below.count == Self.unit) }
        }
        if style & 128 == 128 { checkUpdates(&input, opened) }
    }

    private func mapSize(_ input: inout Input) -> UInt64 {
        // Few of those that have several levels, each of which costs digests on both sides.
        switch input.byte() {
        case 0..<160: return Self.pageBytes
        case 160..<224: return 1 + UInt64(input.word16()) << 9
        case 224..<244: return Self.pageBytes * (1 + UInt64(input.byte()))
        default: return min(max(1, input.number()), Limits.volumeSize)
        }
    }

    /// A header, the digests of the first strip, and the first pages.
    private func mapFile(
        _ input: inout Input, _ shape: MapShape, _ style: UInt8
    ) -> (bytes: [UInt8], isRight: Bool) {
        let pages = Int(min(shape.pageCount, UInt64(style & 1) + 1))
        var file = [UInt8](repeating: 0, count: Self.unit * (2 + pages))
        var isRight = true
        for page in 0..<pages {
            let start = Self.unit * (2 + page)
            let blocks = Int(min(shape.blockCount - 256 * UInt64(page), 256))
            for _ in 0..<1 + input.byte() % 4 {
                file[start + 16 * (Int(input.byte()) % blocks)] = input.byte()
            }
            let digest = file.withRawSpan {
                MapDigest.ofPage(UInt64(page), $0.extracting(start..<start + Self.unit))
            }
            let place = Self.unit + 32 * page
            file.replaceSubrange(place..<place + 32, with: digest.bytes)
        }
        if input.byte() & 7 == 7 {
            isRight = false
            file[Self.unit + input.word16() % (Self.unit * (1 + pages))] = input.byte()
        }
        var tree = MapTree(shape)
        file.withRawSpan { tree.set(strip: 0, $0.extracting(Self.unit..<2 * Self.unit)) }
        tree.seal()
        var header = TagMapFormat.Header(
            algorithm: .poly1305, lineage: input.id(orNone: true), generation: input.digest(),
            volumeSize: shape.volumeByteCount, root: tree.root(.poly1305))
        if input.byte() & 7 == 7 {
            header.root = input.digest()
            isRight = false
        }
        file.replaceSubrange(0..<Self.unit, with: header.encoded())
        return (file, isRight)
    }

    private func checkUpdates(_ input: inout Input, _ opened: TagMapFile) {
        var file = TagMapFormat.UpdateHeader(
            base: input.byte() & 1 == 0 ? .parent : .zeros, transfer: input.id()
        ).encoded()
        var list: [TagMapFormat.Update] = []
        var block = input.number(usually: 0)
        for _ in 0..<8 where !input.isEmpty {
            let choice = input.byte()
            list.append(TagMapFormat.Update(block: block, entry: choice & 1 == 0 ? .zero : someTag))
            let (next, overflow) = block.addingReportingOverflow(1 + UInt64(choice >> 1) * 37)
            if overflow { break }
            block = next
        }
        if !list.isEmpty { file += TagMapFormat.encoded(list) }
        if input.byte() & 7 == 7 { file.spoil(&input) }
        updates.fill(file)
        guard let reader = try? MapUpdateReader(path: updates.path) else { return }
        let size = input.byte() & 1 == 0 ? opened.header.volumeSize : mapSize(&input)
        let root = try? opened.root(with: reader, size: size)
        if list.isEmpty, size == opened.header.volumeSize, let root {
            precondition(root == opened.root, "no updates change the map")
        }
    }
}
