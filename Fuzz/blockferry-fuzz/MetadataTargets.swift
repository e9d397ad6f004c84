// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import SnapshotStore
import ThinMetadata

/// A store of 4 KiB chunks that is right but for what the input writes into it.
///
/// The input is a list of patches: place (2 bytes) and value (1 byte); the last byte chooses the volume's size.
@Sendable func fuzzSnapshotStore(_ input: [UInt8]) {
    let chunk = 512
    var image = [UInt8](repeating: 0, count: chunk * 80)
    var header: [UInt8] = []
    for word: UInt32 in [0x7041_6E53, 1, 1, 1] { header.append(littleEndian: word) }
    image.replaceSubrange(0..<16, with: header)
    // Forty records in two areas of 32.
    for number in 0..<40 {
        let area = number / 32
        let place = (1 + area * 33) * chunk + (number % 32) * 16
        var record: [UInt8] = []
        record.append(littleEndian: UInt64(number * 7 % 61))
        record.append(littleEndian: UInt64(2 + number + area))
        image.replaceSubrange(place..<place + 16, with: record)
    }
    patch(&image, input)
    let size = UInt64(input.last ?? 0) * 1024
    guard
        let reader = try? SnapshotStoreReader(
            MemoryBytes(image), volumeByteCount: size == 0 ? nil : size,
            order: input.count & 1 == 0 ? .sequential : .any)
    else { return }
    var end: UInt64 = 0
    var changes = reader.changes()
    while let change = changes.next() {
        precondition(change.extent.offset >= end, "a change list goes back")
        end = change.extent.end
        precondition(size == 0 || end <= size, "a change list passes the volume's end")
    }
    guard let map = try? reader.exceptionMap() else { return }
    if let extent = Extent(offset: 0, length: 64 * 512) {
        var next: UInt64 = 0
        for piece in map.pieces(of: extent) {
            precondition(piece.extent.offset == next, "pieces leave a gap")
            next = piece.extent.end
        }
        precondition(next == extent.end)
    }
}

private func patch(_ image: inout [UInt8], _ input: [UInt8]) {
    var index = 0
    while index + 3 <= input.count {
        let place = (Int(input[index]) | Int(input[index + 1]) << 8) % image.count
        image[place] = input[index + 2]
        index += 3
    }
}

/// A small pool: superblock, a top-level tree, a details tree, and device trees of two levels that share leaves. The
/// input patches it, and the checksums and block numbers are mended afterwards, so that the patches are looked at.
@Sendable func fuzzThinMetadata(_ input: [UInt8]) {
    var image = Pool.image
    var index = 0
    while index + 4 <= input.count {
        let block = Int(input[index]) % Pool.blockCount
        let place = (Int(input[index + 1]) | Int(input[index + 2]) << 8) % 2400
        image[block * 4096 + place] = input[index + 3]
        index += 4
    }
    for block in 0..<Pool.blockCount { Pool.mend(&image, block) }
    guard let reader = try? ThinMetadataReader(MemoryBytes(image), allowsNeedsCheck: true) else {
        return
    }
    let size: UInt64 = 1 << 30
    for left in reader.devices.prefix(3) {
        for right in reader.devices.prefix(3) {
            if var list = try? reader.changes(
                from: left.deviceID, to: right.deviceID, volumeByteCount: size)
            {
                walk(&list, size)
            }
        }
        if var list = try? reader.fullChanges(of: left.deviceID, volumeByteCount: size) {
            walk(&list, size)
        }
        if let map = try? reader.contentMap(of: left.deviceID),
            let extent = Extent(offset: 65_536, length: 1 << 20),
            let pieces = try? map.pieces(of: extent)
        {
            precondition(pieces.reduce(0) { $0 + $1.extent.length } == extent.length)
        }
    }
}

private func walk(_ list: inout some ChangeList, _ size: UInt64) {
    var end: UInt64 = 0
    while let change = try? list.next() {
        precondition(change.extent.offset >= end, "a change list goes back")
        end = change.extent.end
        precondition(end <= size, "a change list passes the volume's end")
    }
}

/// The pool that the input patches.
private enum Pool {
    static let blockCount = 9

    static let image: [UInt8] = {
        var image = [UInt8](repeating: 0, count: blockCount * 4096)
        func put<Value: FixedWidthInteger>(_ value: Value, _ block: Int, _ place: Int) {
            var bytes: [UInt8] = []
            bytes.append(littleEndian: value)
            let start = block * 4096 + place
            image.replaceSubrange(start..<start + bytes.count, with: bytes)
        }
        func node(
            _ block: Int, isLeaf: Bool, valueSize: Int, _ entries: [(key: UInt64, value: [UInt64])]
        ) {
            let most = (4096 - 32) / (8 + valueSize) / 3 * 3
            put(UInt32(isLeaf ? 2 : 1), block, 4)
            put(UInt32(entries.count), block, 16)
            put(UInt32(most), block, 20)
            put(UInt32(valueSize), block, 24)
            for (index, entry) in entries.enumerated() {
                put(entry.key, block, 32 + index * 8)
                for (word, value) in entry.value.enumerated() {
                    put(value, block, 32 + most * 8 + index * valueSize + word * 8)
                }
            }
        }
        func leaf(_ block: Int, _ first: UInt64, _ data: UInt64) {
            node(
                block, isLeaf: true, valueSize: 8,
                (0..<20).map { (first + $0, [(data + $0) << 24 | 1]) })
        }
        put(UInt64(27_022_010), 0, 32)
        put(UInt32(2), 0, 40)
        put(UInt32(3), 0, 44)
        put(UInt64(4096), 0, 64)
        put(UInt64(1), 0, 320)
        put(UInt64(2), 0, 328)
        put(UInt32(128), 0, 336)
        put(UInt32(8), 0, 340)
        put(UInt64(blockCount), 0, 344)
        node(1, isLeaf: true, valueSize: 8, [(1, [3]), (2, [4])])
        node(2, isLeaf: true, valueSize: 24, [(1, [40, 1, 1 | 2 << 32]), (2, [40, 2, 2 | 2 << 32])])
        // Both devices share the leaf 5.
        node(3, isLeaf: false, valueSize: 8, [(0, [5]), (30, [6])])
        node(4, isLeaf: false, valueSize: 8, [(0, [5]), (30, [7])])
        leaf(5, 0, 100)
        leaf(6, 30, 200)
        leaf(7, 31, 300)
        leaf(8, 60, 400)
        return image
    }()

    /// Puts the block's number and the checksum of its kind in place.
    static func mend(_ image: inout [UInt8], _ block: Int) {
        let start = block * 4096
        image.replaceSubrange(
            start + 8..<start + 16, with: [UInt8(block), 0, 0, 0, 0, 0, 0, 0])
        let salt: UInt32 = block == 0 ? 160_774 : 121_107
        let raw = image.withRawSpan { CRC32C.update(.max, $0.extracting(start + 4..<start + 4096)) }
        var checksum: [UInt8] = []
        checksum.append(littleEndian: raw ^ salt)
        image.replaceSubrange(start..<start + 4, with: checksum)
    }
}
