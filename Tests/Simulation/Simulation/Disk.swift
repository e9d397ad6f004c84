// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform

/// All files below a directory, by path.
typealias Image = [String: [UInt8]]

/// A change of one file's bytes.
enum Change {
    case write(offset: Int, bytes: ArraySlice<UInt8>)
    case truncate(Int)
    case punch(offset: Int, byteCount: Int)

    func apply(to file: inout [UInt8]) {
        switch self {
        case .write(let offset, let bytes):
            if file.count < offset + bytes.count {
                file.append(
                    contentsOf: [UInt8](repeating: 0, count: offset + bytes.count - file.count))
            }
            file.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        case .truncate(let count):
            if file.count > count {
                file.removeLast(file.count - count)
            } else {
                file.append(contentsOf: [UInt8](repeating: 0, count: count - file.count))
            }
        case .punch(let offset, let count):
            let end = min(offset + count, file.count)
            if offset < end {
                file.replaceSubrange(
                    offset..<end, with: [UInt8](repeating: 0, count: end - offset))
            }
        }
    }
}

extension [UInt8] {
    /// Comparison at the speed of memory.
    func isSame(as other: [UInt8]) -> Bool {
        guard count == other.count else { return false }
        // SAFETY: both are read within their length, inside the call.
        return unsafe withUnsafeBytes { mine in
            unsafe other.withUnsafeBytes { theirs in
                guard let mine = mine.baseAddress, let theirs = theirs.baseAddress else {
                    return true
                }
                return unsafe memcmp(mine, theirs, count) == 0
            }
        }
    }
}

/// Something that was done and need not be on the disk yet.
enum Pending {
    case data(node: Int, Change)
    case made(String, node: Int)
    case renamed(String, to: String)
    case removed(String)

    /// The directory whose names it changes; those of one directory reach the disk in their order.
    var directory: String? {
        switch self {
        case .data: nil
        case .made(let path, _), .renamed(let path, _), .removed(let path):
            Directory.parent(of: path)
        }
    }
}

/// Files as a disk with a volatile cache holds them: what is durable, and what was done since.
///
/// A flush of a file makes its bytes durable and not its name; a flush of a directory its names. Changes of names in one
/// directory keep their order, as in a journal. Everything else may be on the disk or not.
struct Disk {
    private(set) var nodes: [Int: [UInt8]] = [:]
    private(set) var names: [String: Int] = [:]
    private(set) var pending: [Pending] = []
    /// Names as the program sees them.
    private var live: [String: Int] = [:]
    private var handles: [UInt64: Int] = [:]
    private var directories: [UInt64: String] = [:]
    private var next = 1
    /// Files whose flushes are answered and not done.
    var ignoresFlush: (String) -> Bool = { _ in false }
    private var unflushable: Set<UInt64> = []

    init(_ image: Image) {
        for (path, bytes) in image {
            nodes[next] = bytes
            names[path] = next
            next += 1
        }
        live = names
    }

    /// What is not durable by its nature: SQLite's index of its log, and files that are only locked.
    static func isVolatile(_ path: String) -> Bool {
        path.hasSuffix("-shm") || path.hasSuffix(".lock") || path.contains("/locks/")
    }

    /// Takes the next operation in.
    ///
    /// - Returns: whether something came to what is pending.
    mutating func take(_ operation: Operation) -> Bool {
        let before = pending.count
        switch operation {
        case .open(let handle, let path, let made):
            if Self.isVolatile(path) { return false }
            if ignoresFlush(path) { unflushable.insert(handle) }
            if made {
                nodes[next] = []
                live[path] = next
                pending.append(.made(path, node: next))
                next += 1
            }
            if let node = live[path] { handles[handle] = node } else { directories[handle] = path }
        case .write(let handle, let offset, let bytes):
            add(handle, .write(offset: offset, bytes: bytes[...]))
        case .truncate(let handle, let count): add(handle, .truncate(count))
        case .punch(let handle, let offset, let count):
            add(handle, .punch(offset: offset, byteCount: count))
        case .sync(let handle): if !unflushable.contains(handle) { sync(handle) }
        case .rename(let path, let new):
            guard let node = live[path] else { break }
            live[path] = nil
            live[new] = node
            pending.append(.renamed(path, to: new))
        case .unlink(let path):
            guard !Self.isVolatile(path), live[path] != nil else { break }
            live[path] = nil
            pending.append(.removed(path))
        case .mkdir, .read, .mark: break
        }
        return pending.count > before
    }

    private mutating func add(_ handle: UInt64, _ change: Change) {
        if let node = handles[handle] { pending.append(.data(node: node, change)) }
    }

    private mutating func sync(_ handle: UInt64) {
        let node = handles[handle]
        let directory = directories[handle]
        var kept: [Pending] = []
        for each in pending {
            switch each {
            case .data(let owner, let change) where owner == node:
                change.apply(to: &nodes[owner, default: []])
            case _ where directory != nil && each.directory == directory:
                Self.apply(each, to: &names)
            default: kept.append(each)
            }
        }
        pending = kept
    }

    private static func apply(_ pending: Pending, to names: inout [String: Int]) {
        switch pending {
        case .data: break
        case .made(let path, let node): names[path] = node
        case .renamed(let path, let new):
            // A name that never reached the disk cannot be moved there.
            if let node = names.removeValue(forKey: path) { names[new] = node }
        case .removed(let path): names[path] = nil
        }
    }

    /// What is on the disk if exactly the chosen ones of what is pending got there.
    ///
    /// - Parameter torn: of the pending write at `index`, only this part.
    func image(
        _ isChosen: (Int) -> Bool, torn: (index: Int, part: Range<Int>)? = nil
    ) -> Image {
        var nodes = nodes
        var names = names
        for (index, each) in pending.enumerated() where isChosen(index) {
            guard case .data(let node, let change) = each else {
                Self.apply(each, to: &names)
                continue
            }
            Self.part(of: change, index, torn).apply(to: &nodes[node, default: []])
        }
        var image: Image = [:]
        for (path, node) in names { image[path] = nodes[node] ?? [] }
        return image
    }

    /// The same, of one file whose name is durable.
    func bytes(
        of path: String, _ isChosen: (Int) -> Bool, torn: (index: Int, part: Range<Int>)? = nil
    ) -> [UInt8] {
        guard let node = names[path] else { return [] }
        var file = nodes[node] ?? []
        for (index, each) in pending.enumerated() where isChosen(index) {
            guard case .data(node, let change) = each else { continue }
            Self.part(of: change, index, torn).apply(to: &file)
        }
        return file
    }

    private static func part(
        of change: Change, _ index: Int, _ torn: (index: Int, part: Range<Int>)?
    ) -> Change {
        guard let torn, torn.index == index, case .write(let offset, let bytes) = change else {
            return change
        }
        let start = bytes.startIndex
        return .write(
            offset: offset + torn.part.lowerBound,
            bytes: bytes[start + torn.part.lowerBound..<start + torn.part.upperBound])
    }

    /// Whether the order of names in each directory allows this choice.
    func isPossible(_ isChosen: (Int) -> Bool) -> Bool {
        var ended: Set<String> = []
        for (index, each) in pending.enumerated() {
            guard let directory = each.directory else { continue }
            if !isChosen(index) {
                ended.insert(directory)
            } else if ended.contains(directory) {
                return false
            }
        }
        return true
    }
}
