// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Turns ascending changes into a canonical change list: merges adjacent entries of one kind and
/// clips all entries to the volume.
///
/// It holds one pending entry, however long the list is, and returns each finished entry to the
/// caller, so a list of any size can be streamed.
public struct ChangeCoalescer: Sendable {
    private let volumeByteCount: UInt64
    private var pending: Change?

    /// Makes a coalescer that drops everything from `volumeByteCount` on; `nil` sets no limit.
    public init(volumeByteCount: UInt64?) {
        self.volumeByteCount = volumeByteCount ?? .max
    }

    /// Takes the next change, which must not begin before the end of the previous one.
    ///
    /// - Returns: an entry that is now complete, or `nil`.
    public mutating func add(_ change: Change) -> Change? {
        guard let extent = change.extent.clipped(to: volumeByteCount) else { return nil }
        guard let last = pending else {
            pending = Change(extent, change.kind)
            return nil
        }
        precondition(extent.offset >= last.extent.end, "changes must be ascending and disjoint")
        if last.kind == change.kind, last.extent.end == extent.offset,
            let merged = Extent(from: last.extent.offset, upTo: extent.end)
        {
            pending = Change(merged, last.kind)
            return nil
        }
        pending = Change(extent, change.kind)
        return last
    }

    /// Ends the list.
    ///
    /// - Returns: the last entry, or `nil` if there is none.
    public mutating func finish() -> Change? {
        defer { pending = nil }
        return pending
    }
}
