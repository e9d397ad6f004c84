// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Digests
internal import Platform
package import Wire

/// Writes the updates of one generation (Protocol/TagMap.md, 4).
///
/// A crash may lose unsynced updates from some page on; the file itself shows where it ends.
package final class MapUpdateWriter {
    private let file: File
    private let base: TagMapFormat.Base
    private var position: UInt64
    private var page: [TagMapFormat.Update] = []
    /// The map to change: an entry that it already has is not an update.
    private let old: TagMapFile?
    /// The last block with an update.
    package private(set) var lastBlock: UInt64?

    /// Makes a new file and replaces an old one.
    package init(
        making path: String, base: TagMapFormat.Base, transfer: TransferID,
        against old: TagMapFile? = nil
    ) throws(MapError) {
        self.base = base
        self.old = old
        position = UInt64(TagMapFormat.unit)
        file = try system { () throws(SystemCallError) in
            if Directory.exists(path) { try Directory.remove(path) }
            let file = try File(path: path, [.write, .createNew, .noFollow])
            try file.write(
                TagMapFormat.UpdateHeader(base: base, transfer: transfer).encoded(), at: 0)
            return file
        }
    }

    /// Continues after the last full page of a file; `nil` if the file is not this transfer's.
    package init?(
        resuming path: String, base: TagMapFormat.Base, transfer: TransferID,
        against old: TagMapFile? = nil
    ) throws(MapError) {
        guard var reader = try? MapUpdateReader(path: path),
            reader.header == TagMapFormat.UpdateHeader(base: base, transfer: transfer)
        else { return nil }
        self.base = base
        self.old = old
        var end = UInt64(TagMapFormat.unit)
        while let updates = try reader.nextPage() {
            // Rewrite a page that is not full.
            guard updates.count == TagMapFormat.pageUpdates else {
                page = updates
                lastBlock = updates.last?.block
                break
            }
            lastBlock = updates.last?.block
            end += UInt64(TagMapFormat.unit)
        }
        position = end
        file = try system { () throws(SystemCallError) in
            let file = try File(path: path, [.write, .noFollow])
            try file.truncate(to: end)
            return file
        }
    }

    /// Adds the next block's entry. Blocks ascend; an earlier one is skipped.
    package func add(_ update: TagMapFormat.Update) throws(MapError) {
        if let lastBlock, update.block <= lastBlock { return }
        if base == .zeros, update.entry.isZero { return }
        if let old, try old.entry(ofBlock: update.block) == update.entry { return }
        lastBlock = update.block
        page.append(update)
        if page.count == TagMapFormat.pageUpdates { try flush() }
    }

    /// Adds blocks that become zeros. Blocks that already are zeros cost nothing.
    package func addZeros(_ blocks: Range<UInt64>) throws {
        let first = max(blocks.lowerBound, lastBlock.map { $0 + 1 } ?? 0)
        guard first < blocks.upperBound, old != nil || base == .parent else { return }
        guard let old else {
            // Without a map it is not known which of them already are zeros.
            for block in first..<blocks.upperBound {
                try add(TagMapFormat.Update(block: block, entry: .zero))
            }
            return
        }
        try old.forEachContent(in: first..<blocks.upperBound) { block, _ in
            try add(TagMapFormat.Update(block: block, entry: .zero))
        }
    }

    private func flush() throws(MapError) {
        let bytes = TagMapFormat.encoded(page)
        try system { () throws(SystemCallError) in try file.write(bytes, at: position) }
        position += UInt64(bytes.count)
        page.removeAll(keepingCapacity: true)
    }

    /// Ends the file and makes it durable.
    package func finish() throws(MapError) {
        if !page.isEmpty { try flush() }
        try system { () throws(SystemCallError) in try file.sync() }
    }
}

/// Reads updates up to the first invalid page.
package struct MapUpdateReader {
    package let header: TagMapFormat.UpdateHeader
    private let file: File
    private var position = UInt64(TagMapFormat.unit)
    private var last: UInt64?
    /// No page follows one that is not full.
    private var isAtEnd = false
    private var page: ArraySlice<TagMapFormat.Update> = []

    package init(path: String) throws(MapError) {
        let file = try system { () throws(SystemCallError) in
            try File(path: path, [.noFollow])
        }
        self.file = file
        let bytes = try system { () throws(SystemCallError) in
            try file.readBytes(at: 0, count: TagMapFormat.unit)
        }
        do {
            header = try bytes.withRawSpan { (span) throws(WireError) in
                try TagMapFormat.UpdateHeader(decoding: span)
            }
        } catch {
            throw .damaged(path, error)
        }
    }

    /// The updates of the next page; `nil` at the end.
    package mutating func nextPage() throws(MapError) -> [TagMapFormat.Update]? {
        if isAtEnd { return nil }
        let (file, position) = (file, position)
        let bytes = try system { () throws(SystemCallError) in
            try file.readBytes(at: position, count: TagMapFormat.unit)
        }
        let last = last
        guard
            let updates = bytes.withRawSpan({ TagMapFormat.updates(decoding: $0, after: last) })
        else { return nil }
        isAtEnd = updates.count < TagMapFormat.pageUpdates
        self.position += UInt64(TagMapFormat.unit)
        self.last = updates.last?.block
        return updates
    }

    /// The next update; `nil` at the end.
    package mutating func next() throws(MapError) -> TagMapFormat.Update? {
        if page.isEmpty {
            guard let more = try nextPage() else { return nil }
            page = more[...]
        }
        return page.popFirst()
    }
}
