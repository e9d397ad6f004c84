// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import LVM
internal import Platform
package import SnapshotStore
package import ThinMetadata

/// What changed between snapshots of a volume in use, or since one was taken.
package struct LiveChanges {
    /// Where the list comes from.
    package enum List {
        /// Two devices of a pool; of the second, what is needed to read it.
        case thin(ThinMetadataReader, from: UInt32, to: UInt32, Volume)
        /// The store of a classic snapshot, and the volume's size in bytes.
        case store(SnapshotStoreReader, volumeByteCount: UInt64)
    }

    /// A thin volume.
    package struct Volume {
        package let byteCount: UInt64
        /// What it does not map is not zero, but the external origin's.
        package let hasExternalOrigin: Bool
    }

    private enum Way {
        case thin(LivePool, LogicalVolume, LogicalVolume)
        case store(LiveStore, volumeByteCount: UInt64)
    }

    private let way: Way

    /// Finds the snapshots.
    ///
    /// - Parameters:
    ///   - names: one or two, the older first.
    ///   - home: where the record of a metadata snapshot is kept, and that the kernel has given up a classic one.
    ///   - waitSeconds: how long to wait for a metadata snapshot that somebody else holds.
    package init(
        _ names: [String], home: @escaping () throws -> SourceHome, waitSeconds: Int
    ) throws {
        let found = try names.map { name in
            guard let found = try VolumeGroup.find(name) else {
                throw LVMError.notFound(name)
            }
            return found
        }
        let older = found[0].volume
        switch older.kind {
        case .thin(_, let pool, _, _):
            guard found.count == 2 else {
                throw SourceError.invalid(
                    path: older.fullName,
                    reason:
                        "it is in a thin pool, where two snapshots are compared: name a second one")
            }
            let newer = found[1].volume
            guard case .thin(_, pool, _, _) = newer.kind else {
                throw SourceError.noProof(
                    reason: "\(older.fullName) and \(newer.fullName) are not in one thin pool")
            }
            for volume in [older, newer] where volume.isMerging {
                throw SourceError.noProof(reason: "\(volume.fullName) is being merged")
            }
            way = .thin(
                try LivePool(
                    of: newer, in: found[0].group, home: try home(), waitSeconds: waitSeconds),
                older, newer)
        case .snapshot:
            let noteGivenUp = { (id: String) in (try? home())?.noteGivenUp(id) ?? () }
            if found.count == 2 {
                try Self.check(older, isOlderThan: found[1].volume, noteGivenUp)
            }
            way = .store(
                try LiveStore(older, noteGivenUp: noteGivenUp),
                volumeByteCount: try AlignedReader(path: try older.devicePath()).byteCount)
        case .plain, .component:
            throw SourceError.noProof(
                reason:
                    "\(older.fullName) is no snapshot; nothing tells what changed since it was made"
            )
        }
    }

    /// The older one's store names all that was written since, so it must be the older one's.
    private static func check(
        _ older: LogicalVolume, isOlderThan newer: LogicalVolume,
        _ noteGivenUp: @escaping (String) -> Void
    ) throws {
        guard newer.kind == .snapshot, newer.originUUID == older.originUUID else {
            throw SourceError.noProof(
                reason: "\(older.fullName) and \(newer.fullName) are not snapshots of one volume")
        }
        guard older.createdAt <= newer.createdAt else {
            throw SourceError.noProof(
                reason:
                    "\(older.fullName) was taken after \(newer.fullName); name the older one first")
        }
        guard older.createdAt == newer.createdAt else { return }
        // Of the same second. What is in the newer store is in the older one, so that the longer list is the older;
        // it is read second, since both may grow.
        let second = try LiveStore(newer, noteGivenUp: noteGivenUp).read().exceptionCount
        let first = try LiveStore(older, noteGivenUp: noteGivenUp).read().exceptionCount
        guard first >= second else {
            throw SourceError.noProof(
                reason: "\(older.fullName) seems to be the newer one; name the older one first")
        }
    }

    /// Lends the list. What was made of it is worth nothing if this throws.
    package func read<Value>(_ body: (List) throws -> Value) throws -> Value {
        switch way {
        case .store(let store, let volumeByteCount):
            let value = try body(.store(try store.read(), volumeByteCount: volumeByteCount))
            // Only now is it known that the list was whole when it was read.
            _ = try store.usedPercent()
            return value
        case .thin(let pool, let older, let newer):
            return try pool.read { metadata in
                try body(
                    .thin(
                        metadata, from: try pool.device(of: older, in: metadata).deviceID,
                        to: try pool.device(of: newer, in: metadata).deviceID,
                        Volume(
                            byteCount: newer.byteCount, hasExternalOrigin: pool.hasExternalOrigin)))
            }
        }
    }
}
