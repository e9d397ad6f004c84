// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks

/// Bounds of a mapping.
struct MappingLimits {
    /// First thin block that a volume cannot address.
    let thinBlockLimit: UInt64
    /// Number of blocks on the data device.
    let dataBlockCount: UInt64
}

/// The mappings of leaves in ascending order; decodes a window of leaves at a time.
struct LeafStream {
    private let store: NodeStore
    private let limits: MappingLimits
    private let leaves: [NodeReference]
    /// Index of the next leaf to decode.
    private var nextLeaf = 0
    /// For each leaf of the window, the end of its entries in `keys` and `values`.
    private var ends: [Int] = []
    private var slot = 0
    private static let slotSize = 252

    /// Thin blocks of the window; `position..<end` are those of the current leaf.
    private(set) var keys: [UInt64] = []
    /// Packed values of the window: data block in the upper 40 bits, time in the lower 24.
    private(set) var values: [UInt64] = []
    /// Index of the next entry.
    var position = 0
    /// End of the current leaf's entries.
    private(set) var end = 0

    init(_ store: NodeStore, leaves: [NodeReference], limits: MappingLimits) {
        self.store = store
        self.leaves = leaves
        self.limits = limits
    }

    /// Ensures that `position` is before `end`; returns `false` at the end of the stream.
    mutating func fill() throws(ThinMetadataError) -> Bool {
        while position == end {
            slot += 1
            if slot >= ends.count {
                guard nextLeaf < leaves.count else { return false }
                try decodeWindow()
                slot = 0
            }
            position = slot * Self.slotSize
            end = ends[slot]
        }
        return true
    }

    /// Decodes the next leaves into the window.
    private mutating func decodeWindow() throws(ThinMetadataError) {
        let last = min(nextLeaf + NodeStore.batchCount, leaves.count)
        let count = last - nextLeaf
        if keys.count < count * Self.slotSize {
            keys = Array(repeating: 0, count: count * Self.slotSize)
            values = keys
        }
        ends = Array(repeating: 0, count: count)
        let first = nextLeaf
        let leaves = self.leaves
        let limits = self.limits
        let store = self.store
        try store.read(leaves[first..<last]) { (index, bytes) throws(ThinMetadataError.Reason) in
            let base = (index - first) * Self.slotSize
            ends[index - first] = try Self.decode(
                bytes, leaves[index], limits, into: &keys, &values, at: base)
        }
        nextLeaf = last
    }

    private static func decode(
        _ bytes: RawSpan, _ leaf: NodeReference, _ limits: MappingLimits,
        into keys: inout [UInt64], _ values: inout [UInt64], at base: Int
    ) throws(ThinMetadataError.Reason) -> Int {
        let header = try NodeHeader(checking: bytes, as: leaf, wantLeaf: true)
        let count = header.entryCount
        guard count > 0 else { return base }
        // Use spans: an array checks on every store whether it is shared.
        var keys = keys.mutableSpan
        var values = values.mutableSpan
        var highest: UInt64 = 0
        for index in 0..<count {
            keys[base + index] = try header.key(index, in: bytes)
            let value = try header.value(index, in: bytes)
            values[base + index] = value
            highest = max(highest, value)
        }
        let lastKey = keys[base + count - 1]
        guard lastKey < limits.thinBlockLimit else {
            throw .keyOutOfRange(found: lastKey, from: leaf.low, upTo: limits.thinBlockLimit)
        }
        guard highest >> 24 < limits.dataBlockCount else {
            throw .wrongDataBlock(found: highest >> 24, blockCount: limits.dataBlockCount)
        }
        return base + count
    }
}
