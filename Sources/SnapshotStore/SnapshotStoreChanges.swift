// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

public import Blocks

/// The change list of a classic snapshot.
///
/// It is a superset of what differs: a chunk is named once it was written, in the origin or in the
/// snapshot itself, even if with the same bytes.
public struct SnapshotStoreChanges: ChangeList {
    private let chunks: ChunkSet
    private let chunkByteCount: UInt64
    private let volumeByteCount: UInt64?
    private var chunk: UInt64 = 0
    private var position = 0

    init(chunks: ChunkSet, chunkByteCount: UInt64, volumeByteCount: UInt64?) {
        self.chunks = chunks
        self.chunkByteCount = chunkByteCount
        self.volumeByteCount = volumeByteCount
    }

    /// The next run of changed chunks.
    public mutating func next() -> Change? {
        guard let first = chunks.next(from: chunk, position: &position) else { return nil }
        var end = first + 1
        while chunks.next(from: end, position: &position) == end { end += 1 }
        chunk = end
        let limit = volumeByteCount ?? .max
        return Extent(from: first * chunkByteCount, upTo: min(end * chunkByteCount, limit))
            .map { Change($0, .data) }
    }
}
