// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Digests
internal import MapStore
internal import Platform
internal import Staging
internal import Wire

/// The tag map's part of a commit.
extension VolumeWriter {
    /// Proves the staging log, compares the target with its map, reserves space on it, and collects
    /// the generation's changes.
    ///
    /// - Returns: the future root of the target.
    func proveAndCollect(
        _ record: GenerationRecord, _ room: Room, _ progress: (Progress) throws -> Void
    ) throws -> SHA256Digest {
        do { return try collect(record, room, progress) } catch MapError.damaged {
            // The map is made again from the target, and its root shows whether that is right.
            try map.removeCommitted()
            return try collect(record, room, progress)
        }
    }

    private func collect(
        _ record: GenerationRecord, _ room: Room, _ progress: (Progress) throws -> Void
    ) throws -> SHA256Digest {
        guard let begin = volume.transfer?.begin else {
            throw Refusal(.storage, "the catalog has no transfer to commit")
        }
        let collection = try UpdateCollection(
            map, begin, try tagKey(), base: try mapBefore(begin, progress),
            target: volume.targetPath, isChecked: true, poll: poll)
        try prove(try redo(record), progress) { record, content in
            room.reserve(record)
            try collection.add(record, content)
        }
        return try collection.finish(map, begin)
    }

    /// The map of the target's content before the generation. A lost map is made again from the
    /// target.
    func mapBefore(
        _ begin: Begin, _ progress: (Progress) throws -> Void
    ) throws -> TagMapFile {
        if let found = map.committed(volume) {
            if begin.head.kind == .delta || found.root == begin.comparedRoot { return found }
        }
        if begin.head.kind == .resync {
            guard let found = map.compared(begin.comparedRoot) else {
                throw Refusal(
                    .lineage, rule: .notCompared,
                    "the map that the resync was compared with is gone")
            }
            return found
        }
        guard let committed = volume.committed, let key = volume.tagKey else {
            throw Refusal(.storage, "the catalog has no generation to follow")
        }
        try map.rebuildProven(committed, volume.targetPath, key, progress)
        guard let found = map.committed(volume) else {
            throw Refusal(.storage, "the tag map of the volume cannot be kept")
        }
        return found
    }

    func checkRoot(_ root: SHA256Digest, _ record: GenerationRecord) throws {
        guard record.volumeRoot == .zero || record.volumeRoot == root else {
            throw Refusal(
                .corrupt, rule: .rootMismatch,
                "the volume would not be what the source has: its tag map gets another root")
        }
    }

    /// Checks the root when the content is already on the target. After an interruption, the
    /// entries of earlier segments are lost and the target is read.
    func checkInPlace(
        _ record: GenerationRecord, _ root: SHA256Digest?, _ progress: (Progress) throws -> Void
    ) throws {
        if let root { return try checkRoot(root, record) }
        do { try map.rebuild(record, volume.targetPath, try tagKey(), progress) } catch let error
            as MapError
        {
            guard case .damaged = error else { throw error }
            throw Refusal(
                .corrupt, rule: .rootMismatch,
                "the target does not hold what the source has: its tag map has another root")
        }
    }

    /// Brings the map to a generation that is on the target. A map that cannot be written is
    /// removed, and made again from the target when needed.
    ///
    /// - Parameter isProven: whether no error occurred. After an error the kernel may have lost
    ///   earlier writes, so the target is read.
    func keepMap(
        _ record: GenerationRecord, _ transfer: StandbyTransfer, on target: Target, isProven: Bool,
        _ progress: (Progress) -> Void
    ) throws {
        var next = volume
        next.committed = record
        if isProven, transfer.inPlace, map.committed(next) != nil { return }
        do {
            guard isProven else {
                throw MapError.damaged(map.path, reason: "the target is to be read")
            }
            try map.apply(record, transfer.begin)
        } catch {
            // Reading the target would prove nothing.
            guard record.volumeRoot != .zero else { return try map.remove() }
            do {
                try map.rebuild(record, volume.targetPath, try tagKey(), progress)
            } catch MapError.damaged(_, let reason) {
                // The read may have come from something else.
                try target.checkPlace()
                try suspect("the target does not hold what was committed: \(reason)")
                throw Refusal(.storage, rule: .suspect, "\(reason)")
            } catch MapError.failed {
                try map.remove()
            }
        }
    }
}
