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

/// Result of comparing a target with its tag map.
package struct ScrubResult: Sendable {
    /// The committed generation that the target was compared with.
    package var generation: GenerationRecord
    /// Whether the map was missing, so that the one made by reading proves only the root.
    package var wasMapMissing: Bool
    /// Whether the target has the generation's root; `nil` if the generation has none.
    package var rootMatches: Bool?
    /// Bytes of the target that were read.
    package var readByteCount: UInt64
    /// Bytes missing on the target at the end of the volume; the volume's last block differs then.
    package var missingByteCount: UInt64
    /// Bytes of a target file past the end of the volume.
    package var excessByteCount: UInt64
    /// Number of 64 KiB blocks that differ from the map.
    package var differingBlocks: UInt64 = 0
    /// Offsets of those blocks in bytes; at most 1000.
    package var offsets: [UInt64] = []

    /// Whether the target differs from what was committed.
    package var isDifferent: Bool {
        differingBlocks > 0 || rootMatches == false || excessByteCount > 0
    }

    /// Whether there was a map or a root to compare with.
    package var isProof: Bool { !wasMapMissing || rootMatches != nil }

    /// Whether the target is proven to be what was committed.
    package var isClean: Bool { isProof && !isDifferent }
}

extension Administration {
    /// Reads the whole target and compares it with the tag map of the committed generation. A
    /// difference makes the volume *diverged*, and so does a target without map and root. A
    /// diverged volume stays diverged.
    package func scrub(
        _ name: VolumeName, _ progress: (Progress) throws -> Void = { _ in }
    ) throws -> ScrubResult {
        let writer = try writer(name)
        try writer.recover()
        let volume = writer.volume
        guard [.consistent, .staging, .diverged].contains(volume.state),
            let committed = volume.committed,
            let key = volume.tagKey
        else { throw AdministrationError.nothingToScrub(name, volume.state) }
        let target = try writer.openTarget()
        defer { withExtendedLifetime(target) {} }
        let known = writer.map.committed(volume)
        let size = committed.head.volumeSize
        var hasRoot: Bool?
        let found = try writer.map.compareAll(
            volume.targetPath, known, Tagger(committed.head.tagAlgorithm, key: key),
            volumeByteCount: size, progress
        ) { found, path in
            guard committed.volumeRoot != .zero else { return }
            hasRoot = found.root == committed.volumeRoot
            guard hasRoot == true, known == nil else { return }
            try found.seal(lineage: committed.head.lineage, generation: committed.id)
            try Directory.move(path, to: writer.map.path)
        }
        let result = ScrubResult(
            generation: committed, wasMapMissing: known == nil, rootMatches: hasRoot,
            readByteCount: found.readByteCount,
            missingByteCount: size - min(target.byteCount, size),
            excessByteCount: target.kind == .file ? max(target.byteCount, size) - size : 0,
            differingBlocks: found.differingBlocks, offsets: found.offsets)
        if result.isDifferent {
            var divergence = found.divergence ?? TargetDivergence(offsets: [], count: 0)
            if result.excessByteCount > 0 {
                divergence.cause =
                    "the target has \(result.excessByteCount) bytes behind the volume's end"
            }
            try writer.diverge("found by scrub: \(divergence)")
        } else if !result.isProof {
            try writer.diverge("found by scrub: \(TargetDivergence.unproven)")
        } else {
            try home.catalog.noteScrubbed(
                name,
                "clean at generation \(committed.head.number), \(found.readByteCount) bytes read")
        }
        return result
    }
}
