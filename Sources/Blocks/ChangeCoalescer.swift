// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Turns ascending changes into a canonical change list: adjacent entries of one kind merged,
/// everything clipped to the volume.
///
/// It holds one pending entry, whatever the length of the list, and gives each finished entry back
/// to the caller, so that a list of any size can be streamed.
public struct ChangeCoalescer: Sendable {
    private let volumeByteCount: UInt64
    private var pending: Change?

    /// Makes a coalescer that drops what lies at or past `volumeByteCount`; `nil` means no limit.
    public init(volumeByteCount: UInt64?) {
        self.volumeByteCount = volumeByteCount ?? .max
    }

    /// Takes the next change, which must not begin before the end of the one before it.
    ///
    /// - Returns: an entry that is now complete, if there is one.
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
    /// - Returns: the last entry, if there is one.
    public mutating func finish() -> Change? {
        defer { pending = nil }
        return pending
    }
}
