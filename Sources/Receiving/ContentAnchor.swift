// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Digests
internal import MapStore
internal import Platform
internal import Staging
internal import TagMap

/// Checks with a few blocks whether a target holds what its map says. After a reboot, a merge or a
/// restore, the names and numbers of files and devices may lead elsewhere; only the content proves
/// that they do not.
///
/// It does not prove the whole target; `scrub` and `verify` do.
struct ContentAnchor {
    /// Number of blocks to compare.
    static let blockCount = 64
    /// Smallest number of compared blocks with content that can prove a replaced target.
    private static let enough = 4

    /// Number of compared blocks that are not zeros, and how many of those differ.
    private(set) var comparedWithContent = 0
    private(set) var differingWithContent = 0
    private(set) var divergence: TargetDivergence?

    /// Compares a random sample.
    ///
    /// - Parameters:
    ///   - touched: returns the blocks of the sample that may hold something else; they are
    ///     skipped.
    ///   - read: fills memory from an offset and returns the number of bytes read.
    init(
        _ map: TagMapFile, _ tagger: Tagger,
        without touched: (Set<UInt64>) throws -> Set<UInt64> = { _ in [] },
        read: (UInt64, AlignedBuffer, Int) throws -> Int
    ) throws {
        var random = SystemRandomNumberGenerator()
        let memory = AlignedBuffer(byteCount: Tagger.blockByteCount)
        let samples = try map.sample(Self.blockCount, using: &random)
        let left = try touched(Set(samples.map(\.block)))
        for sample in samples where !left.contains(sample.block) {
            guard let extent = map.shape.extent(ofBlock: sample.block) else { continue }
            let length = Int(extent.length)
            // Direct I/O reads whole units; bytes past the volume's end are not compared.
            let unit = AlignedBuffer.alignment
            let got = try read(extent.offset, memory, (length + unit - 1) / unit * unit)
            if got < length { memory.zero(at: got, count: length - got) }
            let found = memory.withBytes(count: length) { tagger.entry(of: $0) }
            let isRight = found == sample.entry || sample.entry == .missing
            if !sample.entry.isZero {
                comparedWithContent += 1
                if !isRight { differingWithContent += 1 }
            }
            if !isRight { note(extent.offset) }
        }
    }

    /// Whether the target holds something else, rather than a copy with scattered writes.
    var isReplaced: Bool {
        comparedWithContent >= Self.enough && differingWithContent * 10 >= comparedWithContent * 9
    }

    /// Refuses a target that holds something else or was written by another program.
    func check(_ path: String) throws {
        if isReplaced {
            throw TargetError.replaced(
                path, differing: differingWithContent, compared: comparedWithContent)
        }
        if let divergence { throw divergence }
    }

    private mutating func note(_ offset: UInt64) {
        var found = divergence ?? TargetDivergence(offsets: [], count: 0)
        found.count += 1
        if found.offsets.count < TargetDivergence.told { found.offsets.append(offset) }
        divergence = found
    }
}
