// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Origin of a change list, as JSON names it.
public enum ChangeSource: String, Sendable {
    /// The metadata of a thin pool.
    case thin
    /// The store of a classic (copy-on-write) snapshot.
    case cow
}

/// Writes a change list as JSON, piece by piece.
///
/// `changed_bytes` precedes the extents in the text but is known only after them: write each
/// `entry` to a spool, then write `prefix`, the spool and `suffix` to the output. A list that turns
/// out to be damaged half-way then never reaches the output.
public struct ChangeListJSON: Sendable {
    /// Origin of the list.
    public let source: ChangeSource
    /// Granularity of the source in bytes.
    public let chunkByteCount: UInt64
    /// Size of the volume in bytes at the older point in time; `nil` if unknown.
    public let olderByteCount: UInt64?
    /// Size of the volume in bytes at the newer point in time; `nil` if unknown.
    public let newerByteCount: UInt64?
    /// Total bytes of the entries so far.
    public private(set) var changedByteCount: UInt64 = 0
    private var isFirst = true

    /// Starts a list without entries.
    public init(
        source: ChangeSource, chunkByteCount: UInt64, olderByteCount: UInt64?,
        newerByteCount: UInt64?
    ) {
        self.source = source
        self.chunkByteCount = chunkByteCount
        self.olderByteCount = olderByteCount
        self.newerByteCount = newerByteCount
    }

    /// Counts the entry and returns its text.
    public mutating func entry(_ change: Change) -> String {
        let comma = isFirst ? "" : ","
        isFirst = false
        changedByteCount += change.extent.length
        return "\(comma){\"offset\":\(change.extent.offset),\"length\":\(change.extent.length),"
            + "\"kind\":\"\(change.kind.rawValue)\"}"
    }

    /// Text before the entries; complete only after the last `entry`.
    public var prefix: String {
        "{\"schema_version\":1,\"source\":\"\(source.rawValue)\",\"chunk_bytes\":\(chunkByteCount),"
            + "\"older_volume_bytes\":\(olderByteCount.map { "\($0)" } ?? "null"),"
            + "\"volume_bytes\":\(newerByteCount.map { "\($0)" } ?? "null"),"
            + "\"changed_bytes\":\(changedByteCount),\"extents\":["
    }

    /// Text after the entries.
    public var suffix: String { "]}\n" }
}

extension Change {
    /// The entry as a line of text: offset, length and kind, with a newline.
    public var line: String { "\(extent.offset) \(extent.length) \(kind.rawValue)\n" }
}
