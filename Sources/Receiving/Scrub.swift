// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import Digests
internal import MapStore
internal import Platform
internal import Staging
internal import TagMap
package import Wire

/// What a target and its tag map have in common.
package struct ScrubResult: Sendable {
    /// The committed generation.
    package var generation: GenerationRecord
    /// Whether there was no map, so that the one that was made by reading proves the root alone.
    package var wasMapMissing: Bool
    /// Whether the target has the root of the generation; nothing, if that has none.
    package var rootMatches: Bool?
    /// Bytes of the target that were read.
    package var readByteCount: UInt64
    /// Bytes that the target lacks at the end of the volume; the volume's last block differs then.
    package var missingByteCount: UInt64
    /// Blocks of 64 KiB that are not what the map says.
    package var differingBlocks: UInt64 = 0
    /// Where they begin, in bytes; not more than 1000.
    package var offsets: [UInt64] = []

    /// Whether the target is what was committed.
    package var isClean: Bool { differingBlocks == 0 && rootMatches != false }
}

extension Administration {
    /// Reads the whole target and compares it with the tag map of the committed generation. A difference makes the
    /// volume *diverged*.
    package func scrub(
        _ name: VolumeName, _ progress: (Progress) -> Void = { _ in }
    ) throws -> ScrubResult {
        let writer = try writer(name)
        try writer.recover()
        let volume = writer.volume
        guard [.consistent, .staging].contains(volume.state), let committed = volume.committed,
            let key = volume.tagKey
        else { throw AdministrationError.nothingToScrub(name, volume.state) }
        let target = try writer.openTarget()
        defer { withExtendedLifetime(target) {} }
        let known = writer.map.committed(volume)
        let path = writer.map.path + ".scrub"
        defer { try? Directory.remove(path) }
        let (found, read) = try TargetMap.scan(
            volume.targetPath, into: path, Tagger(committed.head.tagAlgorithm, key: key),
            volumeByteCount: committed.head.volumeSize, progress)
        var result = ScrubResult(
            generation: committed, wasMapMissing: known == nil,
            rootMatches: committed.volumeRoot == .zero ? nil : found.root == committed.volumeRoot,
            readByteCount: read,
            missingByteCount: committed.head.volumeSize
                - min(target.byteCount, committed.head.volumeSize))
        if let known, known.root != found.root {
            try MapDifference(found) { try known.children($0) }.forEach { block, _ in
                result.differingBlocks += 1
                if result.offsets.count < 1000 {
                    result.offsets.append(block * MapShape.blockByteCount)
                }
            }
        }
        if result.isClean, known == nil {
            try found.seal(lineage: committed.head.lineage, generation: committed.id)
            try Directory.move(path, to: writer.map.path)
        }
        if !result.isClean {
            if writer.volume.state == .staging { try writer.abandon() }
            let divergence = TargetDivergence(
                offsets: Array(result.offsets.prefix(TargetDivergence.told)),
                count: result.differingBlocks)
            try home.catalog.markDiverged(name, reason: "found by scrub: \(divergence)")
        }
        return result
    }
}
