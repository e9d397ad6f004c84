// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
internal import LVM
internal import Platform
package import SnapshotStore
package import ThinMetadata
internal import Wire

/// Changes between two snapshots of a volume in use, or since one was taken.
package struct LiveChanges {
    /// Origin of the list.
    package enum List {
        /// Two devices of a pool. Blocks that the second does not map belong to its external
        /// origin, if it has one, and are not zeros then.
        case thin(
            ThinMetadataReader, from: UInt32, to: UInt32, VolumeSizes, hasExternalOrigin: Bool)
        /// The store of a classic snapshot.
        case store(SnapshotStoreReader, VolumeSizes)
    }

    private enum Way {
        case thin(LivePool, LogicalVolume, LogicalVolume)
        /// The store of the older snapshot, and that of the newer one if it is a snapshot.
        case store(LiveStore, newer: LiveStore?, VolumeSizes)
    }

    private let way: Way

    /// Finds the snapshots by name.
    ///
    /// - Parameters:
    ///   - names: one or two names, the older first.
    ///   - home: keeps the record of a metadata snapshot and of invalidated classic snapshots.
    ///   - waitSeconds: how long to wait for a metadata snapshot that another program holds.
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
                    .noList,
                    reason: "\(older.fullName) and \(newer.fullName) are not in one thin pool")
            }
            for volume in [older, newer] where volume.isMerging {
                throw SourceError.noProof(.noList, reason: "\(volume.fullName) is being merged")
            }
            way = .thin(
                try LivePool(
                    of: newer, in: found[0].group, home: try home(), waitSeconds: waitSeconds),
                older, newer)
        case .snapshot:
            way = try Self.store(
                older, found.count == 2 ? found[1].volume : nil, in: found[0].group
            ) { id in (try? home())?.noteGivenUp(id) ?? () }
        case .plain, .component:
            throw SourceError.noProof(
                .noList,
                reason:
                    "\(older.fullName) is no snapshot; nothing tells what changed since it was made"
            )
        }
    }

    /// - Parameters:
    ///   - newer: `nil` for the volume as it is now.
    ///   - noteGivenUp: receives LVM's id of a snapshot that the kernel has invalidated.
    private static func store(
        _ older: LogicalVolume, _ newer: LogicalVolume?, in group: VolumeGroup,
        noteGivenUp: @escaping (String) -> Void
    ) throws -> Way {
        guard let uuid = older.originUUID, let origin = group.volume(uuid: uuid) else {
            throw SourceError.noProof(
                .noList, reason: "LVM does not say what \(older.fullName) is a snapshot of")
        }
        if let newer {
            guard newer.kind == .snapshot, newer.originUUID == uuid else {
                throw SourceError.noProof(
                    .noList,
                    reason:
                        "\(older.fullName) and \(newer.fullName) are not snapshots of one volume")
            }
        }
        func byteCount(_ volume: LogicalVolume) throws -> UInt64 {
            try AlignedReader(path: try volume.devicePath()).byteCount
        }
        return .store(
            try LiveStore(older, noteGivenUp: noteGivenUp),
            newer: try newer.map { try LiveStore($0, noteGivenUp: noteGivenUp) },
            VolumeSizes(older: try byteCount(older), newer: try byteCount(newer ?? origin)))
    }

    /// Lends the list. If this throws, discard everything derived from the list.
    package func read<Value>(_ body: (List) throws -> Value) throws -> Value {
        switch way {
        case .store(let older, let newer, let sizes):
            // Read the older store second: both may grow.
            let younger = try newer?.read()
            let store = try older.read()
            if let newer, let offset = younger?.firstUncovered(by: store) {
                throw SourceError.noProof(
                    .noList,
                    reason:
                        "nothing proves that \(older.name) was taken before \(newer.name): the store of \(newer.name) "
                        + "names byte \(offset), which that of \(older.name) does not. If it is the other way round, "
                        + "name \(newer.name) first; it is also so if \(newer.name) itself was written, or has larger "
                        + "chunks")
            }
            let value = try body(.store(store, sizes))
            // Only this check proves that the lists were complete when they were read.
            _ = try newer?.usedPercent()
            _ = try older.usedPercent()
            return value
        case .thin(let pool, let older, let newer):
            return try pool.read { metadata in
                try body(
                    .thin(
                        metadata, from: try pool.device(of: older, in: metadata).deviceID,
                        to: try pool.device(of: newer, in: metadata).deviceID,
                        VolumeSizes(older: older.byteCount, newer: newer.byteCount),
                        hasExternalOrigin: pool.hasExternalOrigin))
            }
        }
    }
}
