// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests
internal import Platform
package import TagMap
package import Wire

/// The tag map of a volume, in its file (Protocol/TagMap.md, 3).
///
/// Memory holds only the digests above the pages' own: 32 bytes for each 2 GiB of the volume.
/// Everything else is read when needed and proven by the digest above it.
package final class TagMapFile {
    package let path: String
    package private(set) var header: TagMapFormat.Header
    package private(set) var shape: MapShape
    private let file: File
    private(set) var tree: MapTree
    /// The page digests of one strip.
    private var strip: (index: UInt64, digests: [UInt8])?
    /// One proven page.
    private var page: (index: UInt64, entries: [UInt8])?

    private static let nothing = [UInt8](repeating: 0, count: TagMapFormat.unit)

    /// Makes a map of zeros and replaces an old one. It has no header before `seal`.
    package init(
        making path: String, _ algorithm: TagAlgorithm, volumeByteCount: UInt64
    ) throws(MapError) {
        self.path = path
        header = TagMapFormat.Header(
            algorithm: algorithm, lineage: .none, generation: .zero, volumeSize: volumeByteCount,
            root: .zero)
        shape = MapShape(volumeByteCount: volumeByteCount)
        tree = MapTree(shape)
        file = try system { () throws(SystemCallError) in
            if Directory.exists(path) { try Directory.remove(path) }
            let file = try File(path: path, [.write, .createNew, .noFollow])
            try Directory.sync(Directory.parent(of: path))
            return file
        }
    }

    /// Opens a map.
    ///
    /// - Parameter isWhole: whether its digests must match its root; `false` while updates are
    ///   applied again after a crash.
    package init(opening path: String, isWhole: Bool = true) throws(MapError) {
        self.path = path
        guard Directory.exists(path) else { throw .damaged(path, reason: "it is missing") }
        let file = try system { () throws(SystemCallError) in
            try File(path: path, [.write, .noFollow])
        }
        self.file = file
        let bytes = try system { () throws(SystemCallError) in
            try file.readBytes(at: 0, count: TagMapFormat.unit)
        }
        do {
            header = try bytes.withRawSpan { (span) throws(WireError) in
                try TagMapFormat.Header(decoding: span)
            }
        } catch {
            throw .damaged(path, error)
        }
        shape = MapShape(volumeByteCount: header.volumeSize)
        tree = MapTree(shape)
        try forEachStoredStrip(.digests) { (strip) throws(MapError) in
            let digests = try read(at: TagMapFormat.position(ofStrip: strip))
            digests.withRawSpan { tree.set(strip: strip, $0) }
        }
        tree.seal()
        if isWhole { try proveRoot() }
    }

    /// The root of its content.
    package var root: SHA256Digest { tree.root(header.algorithm) }

    private func stripCount(_ shape: MapShape) -> UInt64 {
        (shape.pageCount - 1) / TagMapFormat.stripPages + 1
    }

    private func storedStrips(_ part: StoredStrips.Part) throws(MapError) -> StoredStrips {
        try system { () throws(SystemCallError) in
            try StoredStrips(file, part, end: stripCount(shape))
        }
    }

    private func forEachStoredStrip(
        _ part: StoredStrips.Part, _ body: (UInt64) throws(MapError) -> Void
    ) throws(MapError) {
        var strips = try storedStrips(part)
        var next: UInt64 = 0
        while let strip = try strips.following(next) {
            try body(strip)
            next = strip + 1
        }
    }

    private func read(at position: UInt64) throws(MapError) -> [UInt8] {
        var bytes = try system { () throws(SystemCallError) in
            try file.readBytes(at: position, count: TagMapFormat.unit)
        }
        bytes.append(contentsOf: repeatElement(0, count: TagMapFormat.unit - bytes.count))
        return bytes
    }

    // MARK: Reading

    /// The entry of a block.
    package func entry(ofBlock block: UInt64) throws(MapError) -> Tag {
        let place = MapShape.place(ofBlock: block)
        guard place.page < shape.pageCount else { return .zero }
        return try entries(ofPage: place.page).withRawSpan { Tag(entry: place.entry, of: $0) }
    }

    /// The 4096 bytes of a page, proven by its digest.
    package func entries(ofPage index: UInt64) throws(MapError) -> [UInt8] {
        if let page, page.index == index { return page.entries }
        let digest = try digest(ofPage: index)
        let entries =
            digest == .zero ? Self.nothing : try read(at: TagMapFormat.position(ofPage: index))
        try prove(page: index, entries, digest)
        page = (index, entries)
        return entries
    }

    /// The digest of a page.
    package func digest(ofPage index: UInt64) throws(MapError) -> SHA256Digest {
        let digests = try digests(ofStrip: index / TagMapFormat.stripPages)
        return digests.withRawSpan {
            (try? SHA256Digest($0, at: 32 * Int(index % TagMapFormat.stripPages))) ?? .zero
        }
    }

    private func digests(ofStrip index: UInt64) throws(MapError) -> [UInt8] {
        if let strip, strip.index == index { return strip.digests }
        let digests = try read(at: TagMapFormat.position(ofStrip: index))
        strip = (index, digests)
        return digests
    }

    /// The content below a page (level 0) or a node: 4096 bytes. What the map lacks is zeros, so it
    /// can be compared with the map of a larger volume.
    package func children(level: Int, index: UInt64) throws(MapError) -> [UInt8] {
        guard level <= shape.top else { return try childrenAboveTop(level: level, index: index) }
        guard index < shape.levels[level] else { return Self.nothing }
        switch level {
        case 0: return try entries(ofPage: index)
        case 1: return try digests(ofStrip: index)
        default: return tree.children(level: level, index: index)
        }
    }

    /// Does the same for a level that only the map of a larger volume has: the whole content is
    /// below the first digest of its first node.
    private func childrenAboveTop(level: Int, index: UInt64) throws(MapError) -> [UInt8] {
        guard index == 0 else { return Self.nothing }
        var digest = shape.top == 0 ? try self.digest(ofPage: 0) : tree.top
        var children = Self.nothing
        for above in shape.top + 1...level {
            children.replaceSubrange(0..<32, with: digest.bytes)
            digest = children.withRawSpan { MapDigest.ofNode(0, level: UInt64(above), $0) }
        }
        return children
    }

    /// The content below pages or nodes, which must exist: 4096 bytes for each.
    package func children(_ range: NodeRange) throws(MapError) -> [UInt8] {
        var content: [UInt8] = []
        content.reserveCapacity(Int(range.count) * TagMapFormat.unit)
        for index in range.index..<range.index + UInt64(range.count) {
            content += try children(level: Int(range.level), index: index)
        }
        return content
    }

    // MARK: Proving

    /// Proves the whole file: each page by its digest, the digests by the root of the header (Protocol/TagMap.md, 3).
    package func prove() throws(MapError) {
        try forEachStoredStrip(.all) { (strip) throws(MapError) in
            let first = strip * TagMapFormat.stripPages
            for index in first..<min(first + TagMapFormat.stripPages, shape.pageCount) {
                let entries = try read(at: TagMapFormat.position(ofPage: index))
                try prove(page: index, entries, try digest(ofPage: index))
            }
        }
        try proveRoot()
    }

    private func prove(
        page index: UInt64, _ entries: [UInt8], _ digest: SHA256Digest
    ) throws(MapError) {
        let kept =
            index + 1 < shape.pageCount
            ? TagMapFormat.unit : 16 * (MapShape.place(ofBlock: shape.blockCount - 1).entry + 1)
        let isRight = entries.withRawSpan {
            $0.extracting(kept..<TagMapFormat.unit).isAllZero
                && MapDigest.ofPage(index, $0) == digest
        }
        guard isRight else { throw .damaged(path, "page \(index)", .pageDigest) }
    }

    private func proveRoot() throws(MapError) {
        let last = stripCount(shape) - 1
        let kept = 32 * Int(shape.pageCount - last * TagMapFormat.stripPages)
        let isRight = try digests(ofStrip: last).withRawSpan {
            $0.extracting(kept..<TagMapFormat.unit).isAllZero
        }
        guard isRight, root == header.root else {
            throw .damaged(path, "digests", .rootMismatch)
        }
    }

    // MARK: Changing

    /// Sets the entries of a page. Call it in ascending order, in one pass over the volume.
    package func set(page index: UInt64, _ entries: [UInt8]) throws(MapError) {
        precondition(entries.count == TagMapFormat.unit && index < shape.pageCount)
        let digest = entries.withRawSpan { MapDigest.ofPage(index, $0) }
        // Most pages of a sparse volume are zeros, which are not written.
        guard digest != .zero else { return }
        let at = index / TagMapFormat.stripPages
        if strip?.index != at {
            try writeStrip()
            strip = (at, Self.nothing)
        }
        let place = 32 * Int(index % TagMapFormat.stripPages)
        strip?.digests.replaceSubrange(place..<place + 32, with: digest.bytes)
        try write(entries, at: TagMapFormat.position(ofPage: index))
    }

    private func writeStrip() throws(MapError) {
        guard let strip else { return }
        try write(strip.digests, at: TagMapFormat.position(ofStrip: strip.index))
        strip.digests.withRawSpan { tree.set(strip: strip.index, $0) }
    }

    private func write(_ bytes: [UInt8], at position: UInt64) throws(MapError) {
        try system { () throws(SystemCallError) in try file.write(bytes, at: position) }
    }

    /// Ends a pass of `set`.
    package func finishPass() throws(MapError) {
        try writeStrip()
        strip = nil
        page = nil
        tree.seal()
    }

    /// The root that the map would have after the updates, for a volume of `size` bytes. Writes
    /// nothing.
    package func root(
        with updates: MapUpdateReader, size: UInt64
    ) throws(MapError) -> SHA256Digest {
        try merge(updates, size: size, writing: false).root(header.algorithm)
    }

    /// The root of a map that consists only of updates, for a volume of `size` bytes.
    ///
    /// - Parameter scratch: path for a temporary file.
    package static func root(
        of updates: MapUpdateReader, _ algorithm: TagAlgorithm, size: UInt64, scratch: String
    ) throws -> SHA256Digest {
        defer { try? Directory.remove(scratch) }
        return try TagMapFile(making: scratch, algorithm, volumeByteCount: size)
            .root(with: updates, size: size)
    }

    /// Applies updates. It can be repeated after a crash at any point; `seal` completes it.
    package func apply(_ updates: MapUpdateReader, size: UInt64) throws(MapError) {
        let merged = try merge(updates, size: size, writing: true)
        strip = nil
        page = nil
        shape = MapShape(volumeByteCount: size)
        header.volumeSize = size
        tree = merged
    }

    private func merge(
        _ updates: MapUpdateReader, size: UInt64, writing: Bool
    ) throws(MapError) -> MapTree {
        var updates = updates
        let new = MapShape(volumeByteCount: size)
        var merged = MapTree(new)
        func nextUpdate() throws(MapError) -> TagMapFormat.Update? {
            let update = try updates.next()
            guard update.map({ $0.block < new.blockCount }) ?? true else {
                throw .damaged(path, "updates", .pastVolumeEnd)
            }
            return update
        }
        var update = try nextUpdate()
        // If the volume shrank, the last page loses entries even without an update.
        let last = new.pageCount - 1
        let isCut = size < shape.volumeByteCount
        let cut = try isCut ? storedPage(last) : nil
        var stored = try storedStrips(.digests)
        var next: UInt64 = 0
        while true {
            // What the file does not hold is zeros, unless there is an update.
            let touched = update.map {
                MapShape.place(ofBlock: $0.block).page / TagMapFormat.stripPages
            }
            guard let strip = [try stored.following(next), touched].compactMap({ $0 }).min(),
                strip < stripCount(new)
            else { break }
            next = strip + 1
            let first = strip * TagMapFormat.stripPages
            var digests =
                strip < stripCount(shape) ? try self.digests(ofStrip: strip) : Self.nothing
            var isChanged = false
            if let cut, cut / TagMapFormat.stripPages == strip {
                let end = Int(cut - first + 1) * 32
                digests.replaceSubrange(end..., with: Self.nothing[end...])
                isChanged = true
            }
            var page = first
            while true {
                let touched = update.map { MapShape.place(ofBlock: $0.block).page }
                guard
                    let next = [touched, cut].compactMap({ $0 }).filter({ $0 >= page }).min(),
                    next < first + TagMapFormat.stripPages, next < new.pageCount
                else { break }
                var entries = try oldEntries(ofPage: next, isProven: !writing)
                while let found = update {
                    let place = MapShape.place(ofBlock: found.block)
                    guard place.page == next else { break }
                    entries.replaceSubrange(
                        16 * place.entry..<16 * place.entry + 16, with: found.entry.bytes)
                    update = try nextUpdate()
                }
                if next == cut {
                    let kept = 16 * (MapShape.place(ofBlock: new.blockCount - 1).entry + 1)
                    entries.replaceSubrange(kept..., with: Self.nothing[kept...])
                }
                let digest = entries.withRawSpan { MapDigest.ofPage(next, $0) }
                let place = 32 * Int(next - first)
                digests.replaceSubrange(place..<place + 32, with: digest.bytes)
                isChanged = true
                if writing { try write(entries, at: TagMapFormat.position(ofPage: next)) }
                page = next + 1
            }
            if isChanged, writing { try write(digests, at: TagMapFormat.position(ofStrip: strip)) }
            digests.withRawSpan { merged.set(strip: strip, $0) }
        }
        if writing, isCut { try cutFile(new) }
        merged.seal()
        return merged
    }

    /// The page, if the file holds any data of its strip.
    private func storedPage(_ page: UInt64) throws(MapError) -> UInt64? {
        let strip = page / TagMapFormat.stripPages
        var stored = try storedStrips(.digests)
        return try stored.following(strip) == strip ? page : nil
    }

    /// The entries of a page before an update; zeros if the map has no such page.
    private func oldEntries(
        ofPage index: UInt64, isProven: Bool
    ) throws(MapError) -> [UInt8] {
        guard index < shape.pageCount else { return Self.nothing }
        return isProven
            ? try entries(ofPage: index) : try read(at: TagMapFormat.position(ofPage: index))
    }

    /// Cuts the file after the last page.
    private func cutFile(_ new: MapShape) throws(MapError) {
        let end = TagMapFormat.position(ofPage: new.pageCount - 1) + UInt64(TagMapFormat.unit)
        try system { () throws(SystemCallError) in
            if try file.status().byteCount > end { try file.truncate(to: end) }
        }
    }

    /// Syncs the changes and then records the owner of the map in its header.
    package func seal(lineage: LineageID, generation: SHA256Digest) throws(MapError) {
        header.lineage = lineage
        header.generation = generation
        header.root = root
        let bytes = header.encoded()
        try system { () throws(SystemCallError) in
            try file.sync()
            try file.write(bytes, at: 0)
            try file.sync()
        }
    }
}

extension Tag {
    /// Entry `index` of a page's 4096 bytes.
    package init(entry index: Int, of page: RawSpan) {
        self = (try? Tag(page, at: 16 * index)) ?? .zero
    }
}

extension StoredStrips {
    /// Calls `next` and turns its error into a map's.
    fileprivate mutating func following(_ strip: UInt64) throws(MapError) -> UInt64? {
        do { return try next(from: strip) } catch { throw .failed(error) }
    }
}
