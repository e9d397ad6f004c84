// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Digests
internal import LVM
internal import TLS
internal import ThinMetadata

/// The snapshots that this host keeps for its standbys, and what they cost.
package struct SnapshotInventory {
    /// What a snapshot is good for.
    package enum Role: String, Sendable {
        /// The standby holds it; the next change list starts from it.
        case base
        /// Of a generation that is not committed yet.
        case unfinished
        /// Nobody needs it: a crash has left it.
        case leftover
    }

    /// A snapshot of ours.
    package struct Entry {
        package let snapshot: OwnSnapshot
        package let role: Role
        /// Bytes of storage that only it keeps from being free; nothing if that cannot be told now.
        package let heldByteCount: UInt64?
        /// Of a classic snapshot: how full its store is, in percent, or nothing if the kernel has given it up.
        package let storePercent: UInt64?
    }

    private let home: SourceHome

    package init(_ home: SourceHome) {
        self.home = home
    }

    private func own() throws -> [(volumes: [LogicalVolume], snapshot: OwnSnapshot, role: Role)] {
        let key = try home.identity().keyID
        let all = try VolumeGroup.all()
        return try all.compactMap { volume in
            guard let own = SnapshotTags.own(volume, key) else { return nil }
            return (
                all.filter { $0.groupUUID == volume.groupUUID }, own,
                try home.catalog.role(of: volume)
            )
        }
    }

    /// All snapshots of ours, with what they hold.
    package func entries() throws -> [Entry] {
        try own().map { volumes, snapshot, role in
            if snapshot.volume.isThin {
                return Entry(
                    snapshot: snapshot, role: role,
                    heldByteCount: try? heldByThin(snapshot.volume, volumes), storePercent: nil)
            }
            var used: UInt64?
            switch snapshot.volume.device.flatMap({ try? DeviceMapper.snapshotStatus($0) }) {
            case .valid(let sectors, let total): used = total == 0 ? 100 : sectors * 100 / total
            case .invalid: home.noteGivenUp(snapshot.volume.uuid)
            case nil: break
            }
            return Entry(
                snapshot: snapshot, role: role, heldByteCount: snapshot.volume.byteCount,
                storePercent: used)
        }
    }

    /// What the snapshot maps and its origin no longer shares with it.
    private func heldByThin(
        _ snapshot: LogicalVolume, _ volumes: [LogicalVolume]
    ) throws -> UInt64? {
        guard let origin = volumes.first(where: { $0.uuid == snapshot.originUUID }) else {
            return nil
        }
        let group = try VolumeGroup(snapshot.group)
        let pool = try LivePool(of: snapshot, in: group, home: home, waitSeconds: 0)
        return try pool.read { metadata in
            var blocks: UInt64 = 0
            var difference = try metadata.difference(
                from: try pool.device(of: snapshot, in: metadata).deviceID,
                to: try pool.device(of: origin, in: metadata).deviceID)
            while let run = try difference.next() {
                if run.kind == .leftOnly || run.kind == .different { blocks += run.length }
            }
            return blocks * metadata.superblock.dataBlockByteCount
        }
    }

    /// Removes what a crash has left: snapshots that no generation needs, and metadata snapshots of ours.
    ///
    /// - Parameter isDryRun: says what it would remove, and removes nothing.
    /// - Returns: snapshots, and pools of which a metadata snapshot was released.
    package func cleanUp(isDryRun: Bool) throws -> (snapshots: [OwnSnapshot], pools: [String]) {
        let tag = SnapshotTags.ofSource(try home.identity().keyID)
        var removed: [OwnSnapshot] = []
        for entry in try own() where entry.role == .leftover {
            let snapshot = entry.snapshot
            // A send that runs now may have made it.
            let lock: SendLock
            do { lock = try home.lock(snapshot.receiver, snapshot.name) } catch SendError.busy {
                continue
            }
            defer { withExtendedLifetime(lock) {} }
            guard try home.catalog.role(of: snapshot.volume) == .leftover else { continue }
            if !isDryRun { try VolumeGroup.removeSnapshot(snapshot.volume, tag: tag) }
            removed.append(snapshot)
        }
        let pools = try MetadataSnapshot.releaseLeftovers(
            recordIn: home.path, isWanted: !isDryRun)
        return (removed, pools)
    }
}

extension SourceCatalog {
    /// What a snapshot is to any replica: its tags tell for which one it was made, under the names of then.
    func role(of snapshot: LogicalVolume) throws -> SnapshotInventory.Role {
        try replicas().lazy.map { $0.role(of: snapshot) }.first { $0 != .leftover } ?? .leftover
    }
}

extension Replica {
    /// What a snapshot is to this replica.
    func role(of snapshot: LogicalVolume) -> SnapshotInventory.Role {
        if baseIdentity?.snapshotUUID == snapshot.uuid { return .base }
        return unfinishedIdentity?.snapshotUUID == snapshot.uuid ? .unfinished : .leftover
    }
}
