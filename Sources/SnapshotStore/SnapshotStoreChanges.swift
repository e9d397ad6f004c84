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
    private let sizes: VolumeSizes
    private var chunk: UInt64 = 0
    private var position = 0
    private var isAtEnd = false
    private var coalescer = ChangeCoalescer(volumeByteCount: nil)

    init(chunks: ChunkSet, chunkByteCount: UInt64, sizes: VolumeSizes) {
        self.chunks = chunks
        self.chunkByteCount = chunkByteCount
        self.sizes = sizes
    }

    /// The next run of changed chunks, or, of a volume that grew, what is behind the old end.
    public mutating func next() -> Change? {
        while let change = collect() {
            if let done = coalescer.add(change) { return done }
        }
        return coalescer.finish()
    }

    private mutating func collect() -> Change? {
        if !isAtEnd, let first = chunks.next(from: chunk, position: &position) {
            var end = first + 1
            while chunks.next(from: end, position: &position) == end { end += 1 }
            chunk = end
            let run = Extent(from: first * chunkByteCount, upTo: end * chunkByteCount)
            if let change = run.flatMap({ sizes.recorded(Change($0, .data)) }) { return change }
        }
        if isAtEnd { return nil }
        isAtEnd = true
        return Extent(from: 0, upTo: sizes.newer).flatMap { sizes.grown(Change($0, .data)) }
    }
}
