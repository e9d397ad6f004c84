// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

public import Blocks

/// The change list of a classic snapshot.
///
/// The list is a superset of the differences: it names a chunk once it was written, in the origin
/// or in the snapshot, even if the bytes stayed the same.
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

    /// The next run of changed chunks or, if the volume grew, the part past its old end; `nil` at
    /// the end.
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
