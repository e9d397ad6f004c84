// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Where a change list came from, as JSON names it.
public enum ChangeSource: String, Sendable {
    /// The metadata of a thin pool.
    case thin
    /// The store of a classic (copy-on-write) snapshot.
    case cow
}

/// Writes a change list as JSON, piece by piece.
///
/// `changed_bytes` stands before the extents but is known only after them: write `entry` after
/// `entry` to a spool, then `prefix`, the spool and `suffix` to the output. That also keeps a list
/// that turns out to be damaged half-way from reaching the output at all.
public struct ChangeListJSON: Sendable {
    /// Where the list came from.
    public let source: ChangeSource
    /// Granularity of the source in bytes.
    public let chunkByteCount: UInt64
    /// Size of the volume at the older point in time, in bytes, if it is known.
    public let olderByteCount: UInt64?
    /// Size of the volume at the newer point in time, in bytes, if it is known.
    public let newerByteCount: UInt64?
    /// Bytes in all the entries so far.
    public private(set) var changedByteCount: UInt64 = 0
    private var isFirst = true

    /// Starts a list.
    public init(
        source: ChangeSource, chunkByteCount: UInt64, olderByteCount: UInt64?,
        newerByteCount: UInt64?
    ) {
        self.source = source
        self.chunkByteCount = chunkByteCount
        self.olderByteCount = olderByteCount
        self.newerByteCount = newerByteCount
    }

    /// The text of the next entry.
    public mutating func entry(_ change: Change) -> String {
        let comma = isFirst ? "" : ","
        isFirst = false
        changedByteCount += change.extent.length
        return "\(comma){\"offset\":\(change.extent.offset),\"length\":\(change.extent.length),"
            + "\"kind\":\"\(change.kind.rawValue)\"}"
    }

    /// What comes before the entries; right only after the last of them.
    public var prefix: String {
        "{\"schema_version\":1,\"source\":\"\(source.rawValue)\",\"chunk_bytes\":\(chunkByteCount),"
            + "\"older_volume_bytes\":\(olderByteCount.map { "\($0)" } ?? "null"),"
            + "\"volume_bytes\":\(newerByteCount.map { "\($0)" } ?? "null"),"
            + "\"changed_bytes\":\(changedByteCount),\"extents\":["
    }

    /// What comes after the entries.
    public var suffix: String { "]}\n" }
}

extension Change {
    /// The entry as a line of text: offset, length and kind, with a newline.
    public var line: String { "\(extent.offset) \(extent.length) \(kind.rawValue)\n" }
}
