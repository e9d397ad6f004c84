// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests

/// The digests of a tag map (Protocol/TagMap.md, 2). A page or node of zeros has the zero digest.
package enum MapDigest {
    private static let page = Array("blockferry map page 1".utf8)
    private static let node = Array("blockferry map node 1".utf8)
    private static let root = Array("blockferry map root 1".utf8)

    /// The digest of a page, from its 4096 bytes.
    package static func ofPage(_ index: UInt64, _ entries: RawSpan) -> SHA256Digest {
        var start = page
        start.append(littleEndian: index)
        return digest(start, entries)
    }

    /// The digest of a node of level 1 or above, from the 4096 bytes of the digests below it.
    package static func ofNode(
        _ index: UInt64, level: UInt64, _ digests: RawSpan
    ) -> SHA256Digest {
        var start = node
        start.append(littleEndian: level)
        start.append(littleEndian: index)
        return digest(start, digests)
    }

    private static func digest(_ start: [UInt8], _ content: RawSpan) -> SHA256Digest {
        guard !content.isAllZero else { return .zero }
        var hasher = SHA256Hasher()
        hasher.update(start)
        hasher.update(content)
        return hasher.finish()
    }

    /// The digest of the whole map.
    package static func ofMap(
        _ shape: MapShape, _ algorithm: TagAlgorithm, top: SHA256Digest
    ) -> SHA256Digest {
        var hasher = SHA256Hasher()
        var start = root
        start.append(algorithm.rawValue)
        start.append(littleEndian: shape.volumeByteCount)
        hasher.update(start)
        hasher.update(top.bytes)
        return hasher.finish()
    }
}

/// The digests of level 1 and above of a map whose lower levels are stored elsewhere.
///
/// It holds one 32-byte digest for each 128 pages, which is 2 GiB of a volume, but none for zeros:
/// a peer may claim any size.
package struct MapTree: Sendable {
    package let shape: MapShape
    /// Level 1 first; empty if the map has one page. Missing entries are zeros.
    private var upper: [[UInt64: SHA256Digest]]
    /// The digest of a map's only page.
    private var only: SHA256Digest

    /// Makes the tree of a map of zeros.
    package init(_ shape: MapShape) {
        self.shape = shape
        upper = shape.levels.dropFirst().map { _ in [:] }
        only = .zero
    }

    /// Sets the page digests of a strip: 4096 bytes. `seal` updates the levels above it.
    package mutating func set(strip: UInt64, _ digests: RawSpan) {
        if upper.isEmpty {
            only = (try? SHA256Digest(digests, at: 0)) ?? .zero
        } else {
            let digest = MapDigest.ofNode(strip, level: 1, digests)
            upper[0][strip] = digest == .zero ? nil : digest
        }
    }

    /// Computes the levels from 2 on.
    package mutating func seal() {
        for level in upper.indices.dropFirst() {
            var digests: [UInt64: SHA256Digest] = [:]
            for below in upper[level - 1].keys {
                let index = below / UInt64(MapShape.nodeDigests)
                guard digests[index] == nil else { continue }
                digests[index] = children(level: level + 1, index: index).withRawSpan {
                    MapDigest.ofNode(index, level: UInt64(level) + 1, $0)
                }
            }
            upper[level] = digests
        }
    }

    /// The 4096 bytes of the digests below a node of level 2 or above.
    package func children(level: Int, index: UInt64) -> [UInt8] {
        let below = upper[level - 2]
        let first = index * UInt64(MapShape.nodeDigests)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(MapShape.unit)
        for digest in first..<first + UInt64(MapShape.nodeDigests) {
            bytes.append(contentsOf: (below[digest] ?? .zero).bytes)
        }
        return bytes
    }

    /// The first node at or after `index` that is not zeros, on a level from 1 to the top; `nil` if
    /// there is none. Call `seal` first.
    package func content(level: Int, from index: UInt64) -> UInt64? {
        let unit = UInt64(MapShape.nodeDigests)
        let (digests, count) = (upper[level - 1], shape.levels[level])
        func first(_ range: Range<UInt64>) -> UInt64? { range.first { digests[$0] != nil } }
        guard index < count else { return nil }
        if let found = first(index..<min((index / unit + 1) * unit, count)) { return found }
        guard level < shape.top, let above = content(level: level + 1, from: index / unit + 1)
        else { return nil }
        return first(above * unit..<min((above + 1) * unit, count))
    }

    /// The digest of the top.
    package var top: SHA256Digest {
        guard let last = upper.last else { return only }
        return last[0] ?? .zero
    }

    /// The root of the whole map.
    package func root(_ algorithm: TagAlgorithm) -> SHA256Digest {
        MapDigest.ofMap(shape, algorithm, top: top)
    }
}
