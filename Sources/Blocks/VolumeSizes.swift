// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The sizes of a volume at the two points in time that a change list compares.
///
/// Metadata records writes only below the smaller of the two sizes. Past the older end it proves
/// nothing: a classic snapshot's store ends with its snapshot, and a thin volume that shrank keeps
/// its mappings past its end, so both points in time may share a mapping that the older one cannot
/// read. So the list contains everything that the newer one has past the older end, whatever the
/// metadata says.
public struct VolumeSizes: Hashable, Sendable {
    /// Size at the older point in time, in bytes.
    public let older: UInt64
    /// Size at the newer point in time, in bytes.
    public let newer: UInt64

    /// Takes both sizes in bytes.
    public init(older: UInt64, newer: UInt64) {
        self.older = older
        self.newer = newer
    }

    /// Whether the newer size exceeds the older.
    public var hasGrown: Bool { newer > older }

    /// The part of a recorded change that belongs in the list.
    public func recorded(_ change: Change) -> Change? {
        change.extent.clipped(to: min(older, newer)).map { Change($0, change.kind) }
    }

    /// The part of an extent of the newer point in time that belongs in the list because it lies
    /// past the older end.
    public func grown(_ change: Change) -> Change? {
        Extent(from: max(change.extent.offset, older), upTo: min(change.extent.end, newer)).map {
            Change($0, change.kind)
        }
    }
}
