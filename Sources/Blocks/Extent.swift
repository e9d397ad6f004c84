// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// A byte range of a volume.
///
/// An extent is never empty and its end never overflows: `init` refuses both, so that code holding
/// an extent may use `end` without a check.
public struct Extent: Hashable, Sendable {
    /// First byte, counted from the start of the volume.
    public let offset: UInt64
    /// Number of bytes; at least one.
    public let length: UInt64

    /// The byte after the last one.
    public var end: UInt64 { offset + length }

    /// Makes an extent, or nothing if it would be empty or would end past 2^64 - 1.
    public init?(offset: UInt64, length: UInt64) {
        guard length > 0, !offset.addingReportingOverflow(length).overflow else { return nil }
        self.offset = offset
        self.length = length
    }

    /// Makes the extent from `start` up to but not including `end`, or nothing if there is none.
    public init?(from start: UInt64, upTo end: UInt64) {
        guard start < end else { return nil }
        self.offset = start
        self.length = end - start
    }

    /// The part of this extent that lies before `limit`, if any.
    public func clipped(to limit: UInt64) -> Extent? {
        Extent(from: offset, upTo: min(end, limit))
    }
}

/// What a change list says about an extent.
public enum ChangeKind: String, Hashable, Sendable, CaseIterable {
    /// The content may differ from the base: read it and send it.
    case data
    /// The extent has no storage in the newer snapshot and reads as zeros there.
    case unmapped
}

/// One entry of a change list.
public struct Change: Hashable, Sendable {
    /// Where.
    public var extent: Extent
    /// What.
    public var kind: ChangeKind

    /// Makes an entry.
    public init(_ extent: Extent, _ kind: ChangeKind) {
        self.extent = extent
        self.kind = kind
    }
}
