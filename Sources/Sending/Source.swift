// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
package import Platform

/// Why a source cannot be read, or cannot prove what changed.
package enum SourceError: Error, Sendable, CustomStringConvertible {
    /// A file or device could not be read.
    case unreadable(SystemCallError)
    /// The metadata is damaged, or does not hold what was asked for.
    case invalid(path: String, reason: String)
    /// There is no proof of what changed since the base; `reason` says what is missing.
    case noProof(reason: String)
    /// A hook failed.
    case hook(CommandError)

    package var description: String {
        switch self {
        case .unreadable(let error): error.description
        case .invalid(let path, let reason): "\(path): \(reason)"
        case .noProof(let reason): reason
        case .hook(let error): error.description
        }
    }
}

/// A frozen point in time of a volume that can be read and compared with an earlier one.
package protocol Source: AnyObject {
    /// What it is, in words; goes into the generation record.
    var summary: String { get }
    /// Identifies this point in time: kept as the base of the next generation. Equal identities mean equal
    /// content.
    ///
    /// Nothing if the source cannot identify its content.
    var identity: String? { get }
    /// The point in time, nanoseconds since 1970-01-01 UTC, as far as it can be known.
    var time: UInt64 { get }
    /// Bytes.
    var volumeByteCount: UInt64 { get }

    /// Whether it can tell what changed since a base. Of one that cannot, all content is compared with the tag map.
    var provesChanges: Bool { get }

    /// Every byte of the volume, in order and without a gap.
    func forEachExtent(_ body: (Change) throws -> Void) throws

    /// What may differ from the base with this identity, in order: exact or too much, never too little.
    ///
    /// Throws `SourceError.noProof` if that cannot be known for certain.
    func forEachChange(since base: String, _ body: (Change) throws -> Void) throws

    /// Reads content of at most 1 MiB that lies inside the volume.
    func read(_ extent: Extent, into memory: AlignedBuffer) throws

    /// Called after the last read and before the generation is committed: throws if what was read may not be
    /// the point in time after all.
    func confirm() throws
}

extension Source {
    package func confirm() throws {}
    package var provesChanges: Bool { true }
}

/// Reads a list and clips each entry to what lies at or after `start`.
func clip(_ change: Change, from start: UInt64) -> Change? {
    Extent(from: max(change.extent.offset, start), upTo: change.extent.end).map {
        Change($0, change.kind)
    }
}
