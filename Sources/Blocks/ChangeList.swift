// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Changes in ascending order, disjoint, adjacent ones of one kind merged, clipped to the volume.
///
/// A list is pulled, one entry at a time, and holds only what the next entry needs. If `next`
/// throws, the list is worthless as a whole: what came before must be discarded too.
public protocol ChangeList {
    /// What can go wrong on the way.
    associatedtype Failure: Error

    /// The next entry, or `nil` at the end.
    mutating func next() throws(Failure) -> Change?
}

/// Where the bytes of a part of a volume are kept in an offline image.
public struct ContentPiece: Hashable, Sendable {
    /// The part of the volume.
    public let extent: Extent
    /// Offset of its first byte in the store (classic snapshot) or the data device (thin volume);
    /// `nil` if it is not kept there: the origin has it (classic), or nobody and it reads as zeros
    /// (thin).
    public let offset: UInt64?

    /// Makes a piece.
    public init(_ extent: Extent, at offset: UInt64?) {
        self.extent = extent
        self.offset = offset
    }
}
