// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The sizes of a volume at the two points in time that a change list is between.
///
/// Metadata records what was written below the end that both have. Behind the older end nothing was recorded for the older
/// one: a classic snapshot's store ends with its snapshot, and a thin volume that shrank keeps what it maps behind its
/// end, so that both may map the same there although the older one does not have it. So all that the newer one has
/// behind the older end is in the list, whatever the metadata says.
public struct VolumeSizes: Hashable, Sendable {
    /// Size at the older point in time, in bytes.
    public let older: UInt64
    /// Size at the newer point in time, in bytes.
    public let newer: UInt64

    /// Takes both, in bytes.
    public init(older: UInt64, newer: UInt64) {
        self.older = older
        self.newer = newer
    }

    /// Whether the newer one has anything behind the older end.
    public var hasGrown: Bool { newer > older }

    /// The part of a recorded change that belongs into the list.
    public func recorded(_ change: Change) -> Change? {
        change.extent.clipped(to: min(older, newer)).map { Change($0, change.kind) }
    }

    /// The part of an extent of the newer point in time that belongs into the list because it is behind the older end.
    public func grown(_ change: Change) -> Change? {
        Extent(from: max(change.extent.offset, older), upTo: min(change.extent.end, newer)).map {
            Change($0, change.kind)
        }
    }
}
