// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// A byte range of a volume.
///
/// An extent is never empty and its end never overflows: both initialisers refuse such a range, so
/// code that holds an extent may use `end` without a check.
public struct Extent: Hashable, Sendable {
    /// Offset in bytes from the start of the volume.
    public let offset: UInt64
    /// Number of bytes; at least one.
    public let length: UInt64

    /// The byte after the last one.
    public var end: UInt64 { offset + length }

    /// Makes an extent, or `nil` if it would be empty or end past 2^64 - 1.
    public init?(offset: UInt64, length: UInt64) {
        guard length > 0, !offset.addingReportingOverflow(length).overflow else { return nil }
        self.offset = offset
        self.length = length
    }

    /// Makes the extent from `start` up to, but not including, `end`, or `nil` if it would be
    /// empty.
    public init?(from start: UInt64, upTo end: UInt64) {
        guard start < end else { return nil }
        self.offset = start
        self.length = end - start
    }

    /// The part of this extent before `limit`, or `nil` if there is none.
    public func clipped(to limit: UInt64) -> Extent? {
        Extent(from: offset, upTo: min(end, limit))
    }
}

/// Meaning of a change-list entry.
public enum ChangeKind: String, Hashable, Sendable, CaseIterable {
    /// The content may differ from the base: read it and send it.
    case data
    /// The extent has no storage in the newer snapshot and reads as zeros there.
    case unmapped
}

/// One entry of a change list.
public struct Change: Hashable, Sendable {
    /// Bytes of the volume that the entry covers.
    public var extent: Extent
    /// Whether the extent holds data to read or has no storage.
    public var kind: ChangeKind

    /// Makes an entry.
    public init(_ extent: Extent, _ kind: ChangeKind) {
        self.extent = extent
        self.kind = kind
    }
}
