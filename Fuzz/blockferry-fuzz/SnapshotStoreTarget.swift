// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import SnapshotStore

/// Changes a valid store here and there, and asks the reader everything.
struct SnapshotStoreTarget: Sendable {
    /// Chunks of one sector, so that an area has 32 records and a store of three areas is small.
    private static let recordsPerArea = 32
    private static let records = 70

    private let template: [UInt8] = {
        var bytes = [UInt8](repeating: 0, count: 110 * 512)
        for (index, value) in [UInt64(StoreHeader.magic), 1, 1, 1].enumerated() {
            bytes.put(value, at: 4 * index, width: 4)
        }
        var place: UInt64 = 2
        for record in 0..<records {
            if place % UInt64(recordsPerArea + 1) == 1 { place += 1 }
            bytes.put(UInt64(record) * 7 % 101, at: offset(ofRecord: record), width: 8)
            bytes.put(place, at: offset(ofRecord: record) + 8, width: 8)
            place += 1
        }
        return bytes
    }()

    private static func offset(ofRecord record: Int) -> Int {
        (1 + record / recordsPerArea * (recordsPerArea + 1)) * 512 + record % recordsPerArea * 16
    }

    @Sendable func run(_ bytes: [UInt8]) {
        var input = Input(bytes)
        var store = template
        let style = input.byte()
        let volume: UInt64? =
            style & 1 == 0 ? nil : style & 2 == 0 ? 101 * 512 : input.number() % (1 << 24)
        while !input.isEmpty {
            switch input.byte() % 6 {
            case 0: store.put(input.number(), at: Int(input.byte() % 4) * 4, width: 4)
            case 1, 2:
                let record = Int(input.byte()) % (Self.records + 4)
                let field = Int(input.byte() % 2) * 8
                store.put(input.number(), at: Self.offset(ofRecord: record) + field, width: 8)
            case 3: store.put(input.number(), at: input.word16(), width: 8)
            case 4: store.removeLast(min(store.count, input.word16() % 4096))
            default: store.append(contentsOf: [UInt8](repeating: input.byte(), count: 512))
            }
        }
        check(store, volume, style & 4 == 0 ? .sequential : .any)
    }

    private func check(_ store: [UInt8], _ volume: UInt64?, _ order: AllocationOrder) {
        guard
            let reader = try? SnapshotStoreReader(
                MemoryBytes(store), volumeByteCount: volume, order: order)
        else { return }
        var (end, total): (UInt64, UInt64) = (0, 0)
        var list = reader.changes()
        while let change = list.next() {
            precondition(change.kind == .data && (end == 0 || change.extent.offset > end))
            precondition(change.extent.end <= volume ?? .max)
            end = change.extent.end
            total += change.extent.length
        }
        let chunk = reader.header.chunkByteCount
        precondition(total <= reader.exceptionCount * chunk)
        precondition(total + chunk > reader.exceptionCount * chunk || volume == 0)
        precondition(reader.firstUncovered(by: reader) == nil, "a list is not in itself")
        if let volume, volume < 1 << 62 {
            var grown = reader.changes(newerByteCount: volume + 700)
            var last: Extent?
            while let change = grown.next() { last = change.extent }
            precondition(last.map { $0.offset <= volume && $0.end == volume + 700 } ?? false)
        }
        guard let map = try? reader.exceptionMap() else { return }
        precondition(map.count == Int(reader.exceptionCount))
        for start in [0, end / 2, end - min(end, 700)] {
            guard let extent = Extent(offset: start, length: 5_000) else { continue }
            var covered = start
            for piece in map.pieces(of: extent) {
                precondition(piece.extent.offset == covered)
                precondition(piece.offset.map { $0 < UInt64(store.count) } ?? true)
                covered = piece.extent.end
            }
            precondition(covered == extent.end)
        }
    }
}
