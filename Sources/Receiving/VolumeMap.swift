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
    /// Proves the staging log, compares what the target holds with its map, reserves room there, and collects what the
    /// generation changes.
    ///
    /// - Returns: the root that the target will have.
    func proveAndCollect(
        _ record: GenerationRecord, _ room: Room, _ progress: (Progress) throws -> Void
    ) throws -> SHA256Digest {
        do { return try collect(record, room, progress) } catch MapError.damaged {
            // It is made anew from the target, and its root tells whether that is what it should be.
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

    /// The map of what the target holds before the generation. One that was lost is made anew from the target.
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

    /// The same where the content is on the target already. After an interruption nobody has the entries of the
    /// segments before it: the target is read.
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

    /// Brings the map to a generation that is on the target. One that cannot be written is given up; it is made anew by
    /// reading the target when it is needed.
    ///
    /// - Parameter isProven: whether nothing went wrong on the way. Else the kernel may have lost what it was given before
    ///   an error, and the target is read.
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
            // What is read from the target would prove nothing.
            guard record.volumeRoot != .zero else { return try map.remove() }
            do {
                try map.rebuild(record, volume.targetPath, try tagKey(), progress)
            } catch MapError.damaged(_, let reason) {
                // What was read may be something else.
                try target.checkPlace()
                try suspect("the target does not hold what was committed: \(reason)")
                throw Refusal(.storage, rule: .suspect, "\(reason)")
            } catch MapError.failed {
                try map.remove()
            }
        }
    }
}
