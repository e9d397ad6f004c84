// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks

/// Reads metadata blocks in batches.
final class NodeStore {
    /// Largest number of blocks per read.
    static let maximumRun = 64
    /// Number of nodes in one batch.
    static let batchCount = 128

    let source: any ByteSource
    /// A valid pointer lies in `1..<blockCount`.
    let blockCount: UInt64

    init(_ source: any ByteSource, blockCount: UInt64) {
        self.source = source
        self.blockCount = blockCount
    }

    /// Reads one block.
    func read<Value>(
        _ block: UInt64,
        _ body: (RawSpan) throws(ThinMetadataError.Reason) -> Value
    ) throws(ThinMetadataError) -> Value {
        var value: Value?
        try readRun(block, 1) { (_, bytes) throws(ThinMetadataError.Reason) in
            value = try body(bytes)
        }
        guard let value else { throw ThinMetadataError(block: block, .tooSmall(byteCount: 0)) }
        return value
    }

    /// Reads nodes in the order of their blocks, joins adjacent ones into one read, and passes each
    /// to `body` with its index.
    func read(
        _ nodes: ArraySlice<NodeReference>,
        _ body: (Int, RawSpan) throws(ThinMetadataError.Reason) -> Void
    ) throws(ThinMetadataError) {
        var order = Array(nodes.indices)
        let isSorted = zip(nodes, nodes.dropFirst()).allSatisfy { $0.block < $1.block }
        if !isSorted { order.sort { nodes[$0].block < nodes[$1].block } }
        var first = 0
        while first < order.count {
            let start = nodes[order[first]].block
            var count = 1
            while first + count < order.count, count < Self.maximumRun,
                nodes[order[first + count]].block == start + UInt64(count)
            {
                count += 1
            }
            try readRun(start, count) { (index, bytes) throws(ThinMetadataError.Reason) in
                try body(order[first + index], bytes)
            }
            first += count
        }
    }

    /// Reads `count` consecutive blocks.
    private func readRun(
        _ start: UInt64, _ count: Int,
        _ body: (Int, RawSpan) throws(ThinMetadataError.Reason) -> Void
    ) throws(ThinMetadataError) {
        guard start < blockCount, UInt64(count) <= blockCount - start else {
            throw ThinMetadataError(
                block: nil, .wrongPointer(found: start, blockCount: blockCount))
        }
        let size = MetadataBlock.byteCount
        var failure: ThinMetadataError?
        do throws(ByteSourceError) {
            try source.read(at: start * UInt64(size), count: count * size) { bytes in
                for index in 0..<count {
                    do throws(ThinMetadataError.Reason) {
                        try body(index, bytes.extracting(index * size..<(index + 1) * size))
                    } catch {
                        failure = ThinMetadataError(block: start + UInt64(index), error)
                        return
                    }
                }
            }
        } catch {
            throw ThinMetadataError(block: start, .read(error))
        }
        if let failure { throw failure }
    }

    /// The nodes one level below the given internal nodes, in key order.
    func children(of nodes: [NodeReference]) throws(ThinMetadataError) -> [NodeReference] {
        var level: [NodeReference] = []
        var start = 0
        while start < nodes.count {
            let end = min(start + Self.batchCount, nodes.count)
            var parts = [[NodeReference]](repeating: [], count: end - start)
            let blockCount = self.blockCount
            try read(nodes[start..<end]) { (index, bytes) throws(ThinMetadataError.Reason) in
                let node = nodes[index]
                let header = try NodeHeader(checking: bytes, as: node, wantLeaf: false)
                parts[index - start] = try header.children(
                    in: bytes, of: node, blockCount: blockCount)
            }
            for part in parts { level += part }
            start = end
        }
        return level
    }

    /// Number of internal levels above the leaves, measured along the tree's left edge.
    func height(
        of root: UInt64, valueByteCount: UInt32 = 8
    ) throws(ThinMetadataError) -> Int {
        var node = NodeReference.root(root)
        for height in 0..<NodeReference.maximumDepth {
            let blockCount = self.blockCount
            let child: NodeReference? = try read(node.block) {
                (bytes) throws(ThinMetadataError.Reason) in
                let header = try NodeHeader(
                    checking: bytes, as: node, wantLeaf: nil, valueByteCount: valueByteCount)
                if header.isLeaf { return nil }
                return try header.children(in: bytes, of: node, blockCount: blockCount).first
            }
            guard let child else { return height }
            node = child
        }
        throw ThinMetadataError(block: root, .tooDeep)
    }

    /// The leaves of a tree in key order; reads all its internal nodes and one leaf.
    func leaves(
        of root: UInt64, valueByteCount: UInt32 = 8
    ) throws(ThinMetadataError) -> [NodeReference] {
        var level = [NodeReference.root(root)]
        for _ in 0..<(try height(of: root, valueByteCount: valueByteCount)) {
            level = try children(of: level)
        }
        return level
    }
}
