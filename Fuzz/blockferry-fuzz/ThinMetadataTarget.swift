// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import ThinMetadata

/// Changes the metadata of a valid pool here and there, corrects the checksums of what was changed,
/// and asks the reader everything.
///
/// The pool has devices 1, 2 and 3: the first two have trees of two levels that share leaves, the
/// third is a leaf of its own.
struct ThinMetadataTarget: Sendable {
    private static let blockByteCount = 4096
    private static let superblockSalt: UInt32 = 160_774
    private static let nodeSalt: UInt32 = 121_107
    private static let blocks = 12
    /// Room in a node of the template, small so that keys and values lie close together, and that leaves of three entries
    /// are full enough.
    private static let capacity = 9

    private let template: [UInt8] = {
        var image = [UInt8](repeating: 0, count: blocks * blockByteCount)
        for (block, held) in [(0, 1), (1, 0)] {
            let start = block * blockByteCount
            let fields: [(Int, Int, UInt64)] = [
                (8, 8, UInt64(block)), (32, 8, Superblock.magic), (40, 4, 2), (44, 4, 3),
                (56, 8, UInt64(held)), (64, 8, 1000), (320, 8, 2), (328, 8, 3), (336, 4, 128),
                (340, 4, 8), (344, 8, UInt64(blocks)),
            ]
            for (offset, width, value) in fields {
                image.put(value, at: start + offset, width: width)
            }
        }
        func node(_ block: Int, isLeaf: Bool, _ entries: [(UInt64, UInt64)]) {
            let start = block * blockByteCount
            let header: [UInt64] = [
                isLeaf ? 2 : 1, UInt64(block), 0, UInt64(entries.count), UInt64(capacity), 8,
            ]
            for (offset, value) in zip([4, 8, 12, 16, 20, 24], header) {
                image.put(value, at: start + offset, width: 4)
            }
            for (index, entry) in entries.enumerated() {
                image.put(entry.0, at: start + 32 + 8 * index, width: 8)
                image.put(entry.1, at: start + 32 + 8 * (capacity + index), width: 8)
            }
        }
        node(2, isLeaf: true, [(1, 4), (2, 5), (3, 6)])
        node(3, isLeaf: true, [])
        // Details have values of 24 bytes, and so room for 126.
        let details = 3 * blockByteCount
        for (offset, value) in zip([16, 20, 24], [3, 126, 24]) {
            image.put(UInt64(value), at: details + offset, width: 4)
        }
        for index in 0..<3 {
            image.put(UInt64(index + 1), at: details + 32 + 8 * index, width: 8)
            let mapped: [UInt64] = [9, 9, 4]
            image.put(mapped[index], at: details + 32 + 8 * 126 + 24 * index, width: 8)
        }
        func leaf(_ block: Int, _ keys: [UInt64], _ data: UInt64) {
            node(block, isLeaf: true, keys.map { ($0, (data + $0) << 24 | 1) })
        }
        node(4, isLeaf: false, [(0, 7), (10, 8), (20, 9)])
        node(5, isLeaf: false, [(0, 7), (10, 10), (20, 9)])
        leaf(6, [0, 1, 11, 30], 500)
        leaf(7, [1, 2, 3], 100)
        leaf(8, [10, 11, 12], 100)
        leaf(9, [20, 22, 24], 100)
        leaf(10, [10, 11, 13], 200)
        leaf(11, [15], 300)
        for block in 0..<blocks { seal(&image, block) }
        return image
    }()

    private static func seal(_ image: inout [UInt8], _ block: Int) {
        let start = block * blockByteCount
        guard start + blockByteCount <= image.count else { return }
        let state = image.withRawSpan {
            CRC32C.update(.max, $0.extracting(start + 4..<start + blockByteCount))
        }
        image.put(
            UInt64(state ^ (block < 2 ? superblockSalt : nodeSalt)), at: start, width: 4)
    }

    @Sendable func run(_ bytes: [UInt8]) {
        var input = Input(bytes)
        var image = template
        let style = input.byte()
        var touched: UInt64 = 0
        while !input.isEmpty {
            let block = Int(input.byte()) % Self.blocks
            let start = block * Self.blockByteCount
            touched |= 1 << UInt64(block)
            let index = Int(input.byte())
            switch input.byte() % 8 {
            case 0: image.put(input.number(), at: start + 4 * (index % 8), width: 4)
            case 1: image.put(input.number(), at: start + 8 * (index % 46), width: 8)
            case 2, 3: image.put(input.number(), at: start + 32 + 8 * (index % 8), width: 8)
            case 4: image.put(UInt64(input.byte()), at: start + 16, width: 4)
            case 5, 6:
                let offset = start + 32 + 8 * (Self.capacity + index % 8)
                image.put(input.number(), at: offset, width: 8)
            default: image.put(input.number(), at: start + input.word16() % 4096, width: 8)
            }
        }
        // Some inputs keep the wrong checksums, and some lose the end.
        if style & 7 != 0 {
            for block in 0..<Self.blocks where touched & 1 << UInt64(block) != 0 {
                Self.seal(&image, block)
            }
        }
        if style & 56 == 56 { image.removeLast(Int(style >> 6) * 4096 + 100) }
        check(image, style & 8 == 0 ? .current : .metadataSnapshot, pair: Int(style >> 4) % 6)
    }

    private func check(_ image: [UInt8], _ root: MetadataRoot, pair: Int) {
        guard
            let reader = try? ThinMetadataReader(
                MemoryBytes(image), root: root, allowsNeedsCheck: true)
        else { return }
        // One ordered pair an input keeps an input cheap; there is an input for each pair.
        guard reader.devices.count >= 3 else { return }
        let (left, right) = [(0, 1), (1, 0), (0, 2), (2, 1), (1, 2), (2, 0)][pair]
        checkPair(reader, reader.devices[left].deviceID, reader.devices[right].deviceID)
        checkContent(reader, reader.devices[left].deviceID)
    }

    /// What was pruned must have been the same.
    private func checkPair(_ reader: ThinMetadataReader, _ left: UInt32, _ right: UInt32) {
        let pruned = runs(reader, left, right, includesSame: false)
        let whole = runs(reader, left, right, includesSame: true)
        if let pruned, let whole { precondition(pruned == whole.filter { $0.kind != .same }) }
        // A size that some pools' devices reach and others do not.
        let sizes = VolumeSizes(older: 3 << 17, newer: left < right ? 1 << 40 : 1 << 17)
        guard var list = try? reader.changes(from: left, to: right, sizes: sizes) else { return }
        var end: UInt64 = 0
        while let change = try? list.next() {
            precondition(change.extent.offset >= end && change.extent.end <= sizes.newer)
            end = change.extent.end
        }
    }

    private func runs(
        _ reader: ThinMetadataReader, _ left: UInt32, _ right: UInt32, includesSame: Bool
    ) -> [DifferenceRun]? {
        do {
            var difference = try reader.difference(
                from: left, to: right, includesSame: includesSame)
            var runs: [DifferenceRun] = []
            var end: UInt64 = 0
            while let run = try difference.next() {
                precondition(run.begin >= end && run.length > 0)
                end = run.begin + run.length
                runs.append(run)
            }
            return runs
        } catch {
            return nil
        }
    }

    private func checkContent(_ reader: ThinMetadataReader, _ device: UInt32) {
        if var full = try? reader.fullChanges(of: device, volumeByteCount: 100 << 16) {
            var end: UInt64 = 0
            do {
                while let change = try full.next() {
                    precondition(change.extent.offset == end)
                    end = change.extent.end
                }
                precondition(end == 100 << 16)
            } catch {}
        }
        guard let map = try? reader.contentMap(of: device),
            let extent = Extent(offset: 70_000, length: 2_000_000),
            let pieces = try? map.pieces(of: extent)
        else { return }
        var end = extent.offset
        for piece in pieces {
            precondition(piece.extent.offset == end)
            end = piece.extent.end
        }
        precondition(end == extent.end)
    }
}
