// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import LVM
import Platform

/// What device-mapper says: the kernel's reply with the lines of a table, and words of tables and states.
@Sendable func fuzzDeviceMapper(_ bytes: [UInt8]) {
    var input = Input(bytes)
    if input.byte() & 1 == 1 { return reply(&input) }
    let device = DeviceNumber(major: 254, minor: 7)
    var words = samples[Int(input.byte()) % samples.count].split(separator: " ").map(String.init)
    words.disturb(&input)
    if let table = try? DeviceMapper.ThinTable(words, of: device) {
        precondition(table.hasExternalOrigin || words.count == 3)
        precondition(DeviceNumber(words[1]) == table.pool && UInt32(words[2]) == table.deviceID)
    }
    if let table = try? DeviceMapper.PoolTable(words, of: device) {
        precondition(DeviceNumber(words[1]) == table.metadata)
    }
    if let status = try? DeviceMapper.PoolStatus(words, of: device) {
        precondition(status.needsCheck == words.contains("needs_check"))
        precondition(status.metadataSnapshot != nil || words[4] == "-")
        precondition(status.freeBlocks <= status.blocks)
        precondition(status.freeMetadataBlocks <= status.metadataBlocks)
    }
    if (try? DeviceMapper.thinSectors(words, of: device)) != nil {
        precondition(words[0] == "thin" && words.count == 3)
    }
    if let table = try? DeviceMapper.SnapshotTable(words, of: device) {
        precondition(table.origin == DeviceNumber(words[1]), "a merge is no snapshot")
        precondition(table.features.count == words.count - 5)
    }
    if case .valid? = try? DeviceMapper.SnapshotStatus(words, of: device) {
        precondition(words[1].allSatisfy { $0.isNumber || "/+-".contains($0) })
    }
}

/// Type and parameters, as kernels wrote them.
private let samples = [
    "thin 1280 2047", "thin 0 -", "thin 253:2 1", "thin 253:2 4 253:9",
    "thin-pool 253:0 253:1 128 0 1 no_discard_passdown",
    "thin-pool 3 1024/4161600 65536/1048576 - rw discard_passdown queue_if_no_space - 1024",
    "thin-pool 3 1024/4161600 65536/1048576 4411 ro no_discard_passdown needs_check - 1024",
    "thin-pool Fail", "snapshot 253:3 253:4 P 8",
    "snapshot 253:3 253:4 PO 128 2 discard_zeroes_cow",
    "snapshot-merge 253:3 253:4 P 8", "snapshot 16/204800 16", "snapshot Invalid",
    "snapshot Merge failed",
]

extension [String] {
    /// Leaves out, repeats or replaces some words.
    fileprivate mutating func disturb(_ input: inout Input) {
        for _ in 0..<Int(input.byte() % 4) {
            let place = Int(input.byte()) % (count + 1)
            switch input.byte() % 5 {
            case 0 where place < count: remove(at: place)
            case 1 where place < count: insert(self[place], at: place)
            case 2: insert("\(input.number())", at: place)
            case 3: insert("\(input.number()):\(input.number())", at: place)
            default:
                insert(
                    String(decoding: input.take(Int(input.byte() % 16)), as: UTF8.self), at: place)
            }
        }
    }
}

/// Lines that follow each other as the kernel packs them, spoilt or not.
private func reply(_ input: inout Input) {
    let count = Int(input.byte() % 5)
    var bytes: [UInt8] = []
    for _ in 0..<count {
        let text = input.take(Int(input.byte() % 64)).filter { $0 != 0 }
        let length = (40 + text.count + 1 + 7) / 8 * 8
        let place = bytes.count
        bytes += [UInt8](repeating: 0, count: length)
        bytes.put(input.number(usually: 0), at: place, width: 8)
        bytes.put(input.number(usually: 8192), at: place + 8, width: 8)
        bytes.put(input.number(usually: UInt64(place + length)), at: place + 20, width: 4)
        bytes.replaceSubrange(place + 24..<place + 28, with: Array("thin".utf8))
        bytes.replaceSubrange(place + 40..<place + 40 + text.count, with: text)
    }
    bytes.spoil(&input)
    let said = Int(truncatingIfNeeded: input.number(usually: UInt64(count)))
    let table = bytes.withRawSpan { DeviceTable(reply: $0, count: said) }
    guard let table else { return }
    precondition(table.lines.count == max(0, said))
    precondition(
        table.lines.allSatisfy { line in line.parameters.allSatisfy { !$0.contains(" ") } })
}
