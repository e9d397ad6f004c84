// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Disjoint changes in ascending order, clipped to the volume; adjacent ones of one kind are
/// merged.
///
/// The caller pulls one entry at a time, and the list holds only what the next entry needs. If
/// `next` throws, discard the earlier entries too: the whole list is invalid.
public protocol ChangeList {
    /// The error that `next` throws.
    associatedtype Failure: Error

    /// The next entry, or `nil` at the end.
    mutating func next() throws(Failure) -> Change?
}

/// Location of a part of a volume in an offline image.
public struct ContentPiece: Hashable, Sendable {
    /// The part of the volume.
    public let extent: Extent
    /// Offset in bytes of its first byte in the store (classic snapshot) or on the data device
    /// (thin volume). `nil`: the origin holds it (classic), or it has no storage and reads as zeros
    /// (thin).
    public let offset: UInt64?

    /// Makes a piece.
    public init(_ extent: Extent, at offset: UInt64?) {
        self.extent = extent
        self.offset = offset
    }
}
