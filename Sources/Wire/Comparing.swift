// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests

/// Asks the receiver for the tag map of its target (Specification 5.19 and 7.2).
package struct Compare: Message {
    package static let type = FrameType.compare

    /// Origin of the map.
    package enum Mode: UInt8, Sendable, CaseIterable {
        /// The receiver reads its target.
        case read = 1
        /// The receiver uses its stored map.
        case stored = 2
    }

    package var mode: Mode
    package var algorithm: TagAlgorithm
    /// Size of the sender's volume in bytes.
    package var volumeSize: UInt64
    package var firstPage: UInt64
    /// Number of pages; 0 means all from the first one on.
    package var pageCount: UInt64
    /// `nil` uses the key of the volume's lineage.
    package var tagKey: TagKey?

    package init(
        mode: Mode, algorithm: TagAlgorithm, volumeSize: UInt64, firstPage: UInt64 = 0,
        pageCount: UInt64 = 0, tagKey: TagKey?
    ) {
        self.mode = mode
        self.algorithm = algorithm
        self.volumeSize = volumeSize
        self.firstPage = firstPage
        self.pageCount = pageCount
        self.tagKey = tagKey
    }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("COMPARE")
        guard let mode = Mode(rawValue: try reader.integer(UInt8.self, bytes)) else {
            throw reader.error(.badMode)
        }
        self.mode = mode
        guard let algorithm = TagAlgorithm(rawValue: try reader.integer(UInt8.self, bytes)) else {
            throw reader.error(.badTagAlgorithm)
        }
        self.algorithm = algorithm
        try reader.reserved(6, bytes)
        volumeSize = try reader.volumeSize(bytes)
        firstPage = try reader.integer(UInt64.self, bytes)
        pageCount = try reader.integer(UInt64.self, bytes)
        let key = try reader.fixed(TagKey.byteCount, bytes)
        tagKey = key.allSatisfy { $0 == 0 } ? nil : TagKey(bytes: key)
        guard tagKey == nil || mode == .read else { throw reader.error(.badTagKey) }
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes = [mode.rawValue, algorithm.rawValue]
        bytes.append(zeros: 6)
        bytes.append(littleEndian: volumeSize)
        bytes.append(littleEndian: firstPage)
        bytes.append(littleEndian: pageCount)
        bytes.append(contentsOf: tagKey?.bytes ?? [UInt8](repeating: 0, count: TagKey.byteCount))
        return bytes
    }
}

/// Reports that the map is made.
package struct Compared: Message {
    package static let type = FrameType.compared
    package var root: SHA256Digest
    /// Bytes of the target that were read for the map.
    package var read: UInt64
    /// Volume size of the committed generation in bytes; 0 if there is none.
    package var committedSize: UInt64

    package init(root: SHA256Digest, read: UInt64, committedSize: UInt64 = 0) {
        self.root = root
        self.read = read
        self.committedSize = committedSize
    }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("COMPARED")
        root = try reader.digest(bytes)
        guard root != .zero else { throw reader.error(.zeroRoot) }
        read = try reader.integer(UInt64.self, bytes)
        committedSize = try reader.integer(UInt64.self, bytes)
        guard committedSize <= Limits.volumeSize else { throw reader.error(.badVolumeSize) }
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes = root.bytes
        bytes.append(littleEndian: read)
        bytes.append(littleEndian: committedSize)
        return bytes
    }
}

/// A range of pages (level 0) or of nodes of a tree.
package struct NodeRange: Equatable, Sendable {
    package var level: UInt8
    package var index: UInt64
    /// Number of pages or nodes, 1–16.
    package var count: UInt32

    package init(level: UInt8, index: UInt64, count: UInt32) {
        self.level = level
        self.index = index
        self.count = count
    }

    fileprivate init(_ reader: inout FieldReader, _ bytes: RawSpan) throws(WireError) {
        level = try reader.integer(UInt8.self, bytes)
        try reader.reserved(7, bytes)
        index = try reader.integer(UInt64.self, bytes)
        count = try reader.integer(UInt32.self, bytes)
        guard (1...Limits.nodes).contains(count) else { throw reader.error(.badCount) }
        try reader.reserved(4, bytes)
    }

    fileprivate var encoded: [UInt8] {
        var bytes = [level]
        bytes.append(zeros: 7)
        bytes.append(littleEndian: index)
        bytes.append(littleEndian: count)
        bytes.append(zeros: 4)
        return bytes
    }
}

/// Asks for the content below nodes of the receiver's tree.
package struct Ask: Message {
    package static let type = FrameType.ask
    package var range: NodeRange

    package init(range: NodeRange) { self.range = range }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("ASK")
        range = try NodeRange(&reader, bytes)
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] { range.encoded }
}

/// The content below nodes of the receiver's tree: 4096 bytes for each.
package struct Nodes: Message {
    package static let type = FrameType.nodes
    package var range: NodeRange
    package var content: [UInt8]

    package init(range: NodeRange, content: [UInt8]) {
        self.range = range
        self.content = content
    }

    package init(decoding bytes: RawSpan) throws(WireError) {
        var reader = FieldReader("NODES")
        range = try NodeRange(&reader, bytes)
        content = try reader.fixed(Int(range.count) * TagMapFormat.unit, bytes)
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] { range.encoded + content }
}
