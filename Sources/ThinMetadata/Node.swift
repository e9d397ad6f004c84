// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks

/// A node as its parent describes it: its block and the range of its keys.
///
/// The ranges of one level never overlap, and only a root may be empty. So the second read of a
/// block that a damaged tree refers to twice is refused, and a walk stays bounded.
struct NodeReference {
    /// Largest number of levels in a tree; 252^4 already exceeds the largest pool.
    static let maximumDepth = 10

    let block: UInt64
    /// Lowest key.
    let low: UInt64
    /// First key past the range; `UInt64.max` if there is no limit.
    let high: UInt64
    var isRoot = false

    static func root(_ block: UInt64) -> NodeReference {
        NodeReference(block: block, low: 0, high: .max, isRoot: true)
    }
}

/// The checked header of a b-tree node.
///
/// | offset | size | field                                   |
/// |-------:|-----:|-----------------------------------------|
/// |      0 |    4 | checksum                                |
/// |      4 |    4 | flags: 1 internal, 2 leaf               |
/// |      8 |    8 | the node's own block number             |
/// |     16 |    4 | entries in use                          |
/// |     20 |    4 | capacity in entries, n                 |
/// |     24 |    4 | size of a value                         |
/// |     28 |    4 | padding                                 |
/// |     32 |  8·n | keys                                    |
/// | 32+8·n |      | values                                  |
///
/// Layout: `struct node_header` in drivers/md/persistent-data/dm-btree-internal.h.
struct NodeHeader {
    static let byteCount = 32

    let isLeaf: Bool
    let entryCount: Int
    /// Offset of the first value.
    let valuesOffset: Int

    /// Checks a block and the header of the node in it.
    ///
    /// - Parameters:
    ///   - wantLeaf: the required kind, or `nil` if it is not known.
    ///   - valueByteCount: size of a leaf's value in bytes.
    init(
        checking bytes: RawSpan, as node: NodeReference, wantLeaf: Bool?, valueByteCount: UInt32 = 8
    ) throws(ThinMetadataError.Reason) {
        try MetadataBlock.check(bytes, number: node.block, salt: .node)
        let flags: UInt32 = try bytes.field(at: 4)
        guard flags == 1 || flags == 2, wantLeaf == nil || wantLeaf == (flags == 2) else {
            throw .wrongNodeKind(flags: flags, wantLeaf: wantLeaf ?? true)
        }
        isLeaf = flags == 2
        let entries: UInt32 = try bytes.field(at: 16)
        let capacity: UInt32 = try bytes.field(at: 20)
        let size: UInt32 = try bytes.field(at: 24)
        let expectedSize = isLeaf ? valueByteCount : 8
        guard size == expectedSize else {
            throw .wrongValueSize(found: size, expected: expectedSize)
        }
        let room = UInt32(MetadataBlock.byteCount - Self.byteCount) / (8 + size)
        guard capacity > 0, capacity <= room, capacity % 3 == 0 else {
            throw .wrongCapacity(found: capacity, valueByteCount: size)
        }
        let least = node.isRoot ? (isLeaf ? 0 : 1) : Self.leastEntries(capacity: capacity)
        guard entries >= least, entries <= capacity else {
            throw .wrongEntryCount(found: entries, minimum: least, maximum: capacity)
        }
        entryCount = Int(entries)
        valuesOffset = Self.byteCount + 8 * Int(capacity)
        try checkKeys(bytes, node)
    }

    /// The fewest entries that any kernel leaves in a node other than a root: one less than a third
    /// of its capacity, because kernels before 5.5 stopped one removal too late. See "Counts" in
    /// docs/formats/thin-metadata.md.
    private static func leastEntries(capacity: UInt32) -> UInt32 {
        max(capacity / 3, 2) - 1
    }

    /// Checks that the keys ascend and stay inside the parent's range.
    private func checkKeys(
        _ bytes: RawSpan, _ node: NodeReference
    ) throws(ThinMetadataError.Reason) {
        guard entryCount > 0 else { return }
        var previous: UInt64 = try bytes.field(at: Self.byteCount)
        guard previous >= node.low else {
            throw .keyOutOfRange(found: previous, from: node.low, upTo: node.high)
        }
        for index in 1..<max(entryCount, 1) {
            let key: UInt64 = try bytes.field(at: Self.byteCount + 8 * index)
            guard key > previous else { throw .keysOutOfOrder(index: index) }
            previous = key
        }
        guard previous < node.high else {
            throw .keyOutOfRange(found: previous, from: node.low, upTo: node.high)
        }
    }

    /// Key number `index`, which must be below `entryCount`.
    @inline(__always)
    func key(_ index: Int, in bytes: RawSpan) throws(ThinMetadataError.Reason) -> UInt64 {
        try bytes.field(at: Self.byteCount + 8 * index)
    }

    /// Value number `index` of a node with 8-byte values.
    @inline(__always)
    func value(_ index: Int, in bytes: RawSpan) throws(ThinMetadataError.Reason) -> UInt64 {
        try bytes.field(at: valuesOffset + 8 * index)
    }

    /// The children of an internal node, in key order.
    func children(
        in bytes: RawSpan, of node: NodeReference, blockCount: UInt64
    ) throws(ThinMetadataError.Reason) -> [NodeReference] {
        var children: [NodeReference] = []
        children.reserveCapacity(entryCount)
        for index in 0..<entryCount {
            let block = try value(index, in: bytes)
            guard block > 0, block < blockCount else {
                throw .wrongPointer(found: block, blockCount: blockCount)
            }
            let high = index + 1 < entryCount ? try key(index + 1, in: bytes) : node.high
            children.append(
                NodeReference(block: block, low: try key(index, in: bytes), high: high))
        }
        return children
    }
}
