// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Foundation
import MapStore
import Platform
import TagMap
import TestSupport
import Testing
import Wire

/// What a map says of a block; `Tag` alone is one of the tests' too.
typealias Entry = Digests.Tag

/// A tag map as the text has it (Protocol/TagMap.md, 1 and 2): entries by block, and a root made anew each time.
struct Model: Equatable {
    var size: UInt64
    /// What is not here is zeros.
    private(set) var entries: [UInt64: Entry] = [:]

    init(size: UInt64) { self.size = size }

    var blockCount: UInt64 { (size + 65_535) / 65_536 }
    var pageCount: UInt64 { (blockCount + 255) / 256 }

    subscript(block: UInt64) -> Entry {
        get { entries[block] ?? .zero }
        set { entries[block] = newValue.isZero ? nil : newValue }
    }

    mutating func resize(_ size: UInt64) {
        self.size = size
        let end = blockCount
        entries = entries.filter { $0.key < end }
    }

    /// The pages that are not zeros.
    var pages: [UInt64: [UInt8]] {
        var pages: [UInt64: [UInt8]] = [:]
        for (block, entry) in entries {
            let at = 16 * Int(block % 256)
            pages[block / 256, default: [UInt8](repeating: 0, count: 4096)]
                .replaceSubrange(at..<at + 16, with: entry.bytes)
        }
        return pages
    }

    /// The digests that are not zeros, of every level.
    var levels: [[UInt64: [UInt8]]] {
        func number(_ value: UInt64) -> [UInt8] {
            (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
        }
        let start = Array("blockferry map page 1".utf8)
        let level0 = Dictionary(
            uniqueKeysWithValues: pages.map { page, entries in
                (page, SHA256Digest.of(start + number(page) + entries).bytes)
            })
        var levels = [level0]
        var count = pageCount
        while count > 1 {
            let level = UInt64(levels.count)
            let below = levels[levels.count - 1]
            var joined: [UInt64: [UInt8]] = [:]
            for (index, digest) in below {
                let at = 32 * Int(index % 128)
                joined[index / 128, default: [UInt8](repeating: 0, count: 4096)]
                    .replaceSubrange(at..<at + 32, with: digest)
            }
            let node = Array("blockferry map node 1".utf8) + number(level)
            levels.append(
                Dictionary(
                    uniqueKeysWithValues: joined.map { index, digests in
                        (index, SHA256Digest.of(node + number(index) + digests).bytes)
                    }))
            count = (count + 127) / 128
        }
        return levels
    }

    func root(_ algorithm: TagAlgorithm) -> SHA256Digest {
        let top = levels.last?[0] ?? [UInt8](repeating: 0, count: 32)
        var bytes = Array("blockferry map root 1".utf8) + [algorithm.rawValue]
        bytes.append(littleEndian: size)
        return SHA256Digest.of(bytes + top)
    }

    /// A model of random entries: dense, or sparse in a greater volume.
    static func random(size: UInt64, filled: Int) -> Model {
        var model = Model(size: size)
        if filled > 0, model.blockCount <= 2 * UInt64(filled) {
            for block in 0..<model.blockCount where Bool.random() { model[block] = .random() }
        } else {
            for _ in 0..<filled { model[model.someBlock()] = .random() }
        }
        return model
    }

    /// A block that is more often than not where something begins or ends.
    func someBlock() -> UInt64 {
        let last = blockCount - 1
        switch Int.random(in: 0..<6) {
        case 0: return last
        case 1: return last / 256 * 256
        case 2: return min(last, last / 32_768 * 32_768 + UInt64.random(in: 0...1))
        case 3:
            let known = entries.keys.randomElement() ?? 0
            return min(last, known + UInt64.random(in: 0...2))
        default: return UInt64.random(in: 0...last)
        }
    }

    /// Changes of random blocks, some to zeros; ascending.
    func someUpdates(_ count: Int) -> [TagMapFormat.Update] {
        var blocks: Set<UInt64> = []
        for _ in 0..<count { blocks.insert(someBlock()) }
        if let first = blocks.min(), Bool.random() {
            for block in first..<min(first + UInt64(count), blockCount) { blocks.insert(block) }
        }
        return blocks.sorted().map {
            TagMapFormat.Update(block: $0, entry: Int.random(in: 0..<4) == 0 ? .zero : .random())
        }
    }

    mutating func apply(_ updates: [TagMapFormat.Update]) {
        for update in updates { self[update.block] = update.entry }
    }
}

extension Entry {
    static func random() -> Entry {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: UInt64.random(in: 1...UInt64.max))
        bytes.append(littleEndian: UInt64.random(in: 0...UInt64.max))
        return Entry(entry: 0, of: bytes)
    }

    private init(entry index: Int, of bytes: [UInt8]) {
        self = bytes.withRawSpan { Entry(entry: index, of: $0) }
    }
}

/// Sizes of volumes at which something begins or ends.
enum Sizes {
    static let block: UInt64 = 65_536
    static let page: UInt64 = 256 * block
    static let strip: UInt64 = 128 * page

    /// One page; some; more than 128; more than 128 · 128.
    static func some() -> UInt64 {
        let exact: UInt64 =
            switch Int.random(in: 0..<8) {
            case 0: UInt64.random(in: 1...3) * block
            case 1: page
            case 2: UInt64.random(in: 1...600) * block
            case 3: UInt64.random(in: 1...5) * page
            case 4: strip
            case 5: strip + UInt64.random(in: 0...3 * strip)
            case 6: 128 * strip
            default: 128 * strip + UInt64.random(in: 0...3) * strip + page
            }
        switch Int.random(in: 0..<4) {
        case 0: return exact
        case 1: return exact + 1
        case 2: return exact - UInt64.random(in: 0..<min(exact, block))
        default: return exact + UInt64.random(in: 0...block)
        }
    }
}

/// Maps and updates of a test, in a folder of their own.
final class Maps {
    let folder: TemporaryFolder
    let lineage = LineageID.random()
    private var number = 0

    init() throws { folder = try TemporaryFolder() }

    /// A path that nothing has yet.
    func path() -> String {
        number += 1
        return "\(folder.path)/\(number)"
    }

    /// The map of a model, made from scratch.
    func make(
        _ model: Model, _ algorithm: TagAlgorithm = .poly1305, isSealed: Bool = true
    ) throws -> TagMapFile {
        let map = try TagMapFile(
            making: path(), algorithm, volumeByteCount: model.size)
        for (page, entries) in model.pages.sorted(by: { $0.key < $1.key }) {
            try map.set(page: page, entries)
        }
        try map.finishPass()
        if isSealed { try map.seal(lineage: lineage, generation: SHA256Digest.of([1])) }
        return map
    }

    /// A file of updates.
    func make(
        _ updates: [TagMapFormat.Update], base: TagMapFormat.Base = .parent,
        against old: TagMapFile? = nil
    ) throws -> String {
        let path = path()
        let writer = try MapUpdateWriter(
            making: path, base: base, transfer: .random(), against: old)
        for update in updates { try writer.add(update) }
        try writer.finish()
        return path
    }

    /// All updates of a file.
    func read(_ path: String) throws -> [TagMapFormat.Update] {
        var reader = try MapUpdateReader(path: path)
        var found: [TagMapFormat.Update] = []
        while let update = try reader.next() { found.append(update) }
        return found
    }

    func bytes(_ path: String) throws -> [UInt8] {
        let file = try File(path: path)
        return try file.readBytes(at: 0, count: Int(file.status().byteCount))
    }

    func remove(_ paths: String...) throws {
        for path in paths { try Directory.remove(path) }
    }
}

/// Whether a map says what a model says: root, size, pages, entries, digests at every level.
func expect(_ map: TagMapFile, is model: Model, _ comment: String = "") throws {
    #expect(map.root == model.root(map.header.algorithm), "\(comment)")
    #expect(map.shape.volumeByteCount == model.size && map.header.volumeSize == model.size)
    let pages = model.pages
    // Pages that are not zeros, and some that are.
    let others = (0..<4).map { _ in UInt64.random(in: 0..<model.pageCount) }
    for page in Set(pages.keys).union(others) {
        let wanted = pages[page] ?? [UInt8](repeating: 0, count: 4096)
        #expect(try map.entries(ofPage: page) == wanted, "\(comment): page \(page)")
    }
    for (block, entry) in model.entries.sorted(by: { $0.key < $1.key }) {
        #expect(try map.entry(ofBlock: block) == entry)
    }
    #expect(try map.entry(ofBlock: model.blockCount) == .zero)
    let levels = model.levels
    #expect(map.shape.levels.count == levels.count)
    for level in levels.indices.dropFirst() {
        for index in Set(levels[level].keys).union([0, map.shape.levels[level] - 1]) {
            let below = (0..<128).flatMap {
                levels[level - 1][index * 128 + $0] ?? [UInt8](repeating: 0, count: 32)
            }
            #expect(try map.children(level: level, index: index) == below)
        }
    }
}
