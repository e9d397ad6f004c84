// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Digests
internal import MapStore
internal import Platform
internal import Staging
internal import TagMap
internal import Wire

/// The answer to COMPARE: the target's map, either stored or made by reading the target.
final class Comparison {
    /// In mode read: the target, held open so that no other program can write it during the
    /// session.
    let target: Target?
    /// Bytes of the target that were read.
    let read: UInt64
    private let map: TagMapFile
    private let foundPath: String

    var root: SHA256Digest { map.root }

    init(
        _ compare: Compare, _ writer: VolumeWriter, _ progress: (Progress) throws -> Void
    ) throws {
        let volume = writer.volume
        foundPath = writer.map.foundPath
        guard volume.state != .applying, volume.state != .prepared else {
            throw Refusal(.lineage, rule: .prepared, "a generation waits to be applied")
        }
        guard compare.volumeSize <= Limits.mappedVolumeSize else {
            throw Refusal(.limit, "the volume is larger than a tag map can be")
        }
        switch compare.mode {
        case .stored:
            guard [.consistent, .staging].contains(volume.state),
                let map = writer.map.committed(volume),
                map.shape.volumeByteCount == compare.volumeSize,
                map.header.algorithm == compare.algorithm,
                compare.firstPage == 0, compare.pageCount == 0
            else {
                throw Refusal(
                    .lineage, rule: .noMap,
                    "there is no tag map of the volume that could be trusted; the target has to be read"
                )
            }
            self.map = map
            target = nil
            read = 0
        case .read:
            let isLineages = compare.tagKey == nil
            guard let key = compare.tagKey ?? volume.tagKey,
                !isLineages || volume.tagAlgorithm == compare.algorithm
            else {
                throw Refusal(.lineage, rule: .noMap, "the volume has no lineage of its own")
            }
            let target = try writer.openTarget()
            (map, read) = try TargetMap.scan(
                volume.targetPath, into: writer.map.foundPath,
                Tagger(compare.algorithm, key: key), volumeByteCount: compare.volumeSize,
                first: compare.firstPage, count: compare.pageCount, progress)
            try map.seal(lineage: .none, generation: .zero)
            self.target = target
        }
    }

    deinit {
        // A transfer that has begun has moved the file away.
        try? Directory.remove(foundPath)
    }

    /// The content below pages or nodes.
    func nodes(_ range: NodeRange) throws -> [UInt8] {
        guard map.shape.has(level: Int(range.level), index: range.index, count: UInt64(range.count))
        else { throw Refusal(.malformed, "the map has no such nodes") }
        return try map.children(range)
    }
}
