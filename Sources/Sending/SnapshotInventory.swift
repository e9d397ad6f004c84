// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Digests
package import LVM
internal import Platform
internal import TLS
internal import ThinMetadata
internal import Wire

/// The snapshots that this host keeps for its standbys, and the space they use.
package struct SnapshotInventory {
    /// Purpose of a snapshot.
    package enum Role: String, Sendable {
        /// The standby holds it; the next change list starts from it.
        case base
        /// It belongs to a generation that is not committed yet.
        case unfinished
        /// It is no longer needed: a crash left it.
        case leftover
        /// It has our tags, but this catalog did not make it, or it was changed into something
        /// else. It is never removed.
        case unknown
    }

    /// One of our snapshots.
    package struct Entry {
        package let snapshot: OwnSnapshot
        package let role: Role
        /// Bytes of storage that only this snapshot occupies; `nil` if unknown at the moment.
        package let heldByteCount: UInt64?
        /// Fill level of a classic snapshot's store in percent; `nil` if the kernel has invalidated
        /// it.
        package let storePercent: UInt64?
        /// Its origin, "vg/lv"; `nil` if neither LVM nor the catalog knows it.
        package let origin: String?
    }

    /// A suspended device of a volume that this host replicates.
    package struct Suspended {
        package let volume: LogicalVolume
        package let device: Suspension.Device
    }

    private let home: SourceHome

    package init(_ home: SourceHome) {
        self.home = home
    }

    private typealias Own = (
        group: VolumeGroup, snapshot: OwnSnapshot, role: Role, origin: LogicalVolume?
    )

    private func own() throws -> [Own] {
        let key = try home.identity().keyID
        let made = try home.catalog.madeSnapshots()
        return try VolumeGroup.all().flatMap { group in
            try group.volumes.compactMap { lv in
                guard let own = SnapshotTags.own(lv, key) else { return nil }
                let row = SnapshotProof.row(of: lv, in: made)
                var role = try home.catalog.role(of: lv)
                if let row {
                    let objection = SnapshotProof.visibleObjection(to: lv, row, in: group.volumes)
                    if objection != nil { role = .unknown }
                } else if role == .leftover {
                    role = .unknown
                }
                let origin = (lv.originUUID ?? row?.originUUID).flatMap { group.volume(uuid: $0) }
                return (group, own, role, origin)
            }
        }
    }

    /// All our snapshots, with the space they occupy.
    package func entries() throws -> [Entry] {
        try own().map { group, snapshot, role, origin in
            let name = origin?.fullName ?? snapshot.volume.origin.map { "\(group.name)/\($0)" }
            if snapshot.volume.isThin {
                return Entry(
                    snapshot: snapshot, role: role,
                    heldByteCount: try? heldByThin(snapshot.volume, origin, group),
                    storePercent: nil, origin: name)
            }
            var used: UInt64?
            switch snapshot.volume.device.flatMap({ try? DeviceMapper.snapshotStatus($0) }) {
            case .valid(let sectors, let total): used = KernelValues.percent(sectors, of: total)
            case .invalid: home.noteGivenUp(snapshot.volume.uuid)
            case nil: break
            }
            return Entry(
                snapshot: snapshot, role: role, heldByteCount: snapshot.volume.byteCount,
                storePercent: used, origin: name)
        }
    }

    /// The space that the snapshot maps and its origin no longer shares.
    private func heldByThin(
        _ snapshot: LogicalVolume, _ origin: LogicalVolume?, _ group: VolumeGroup
    ) throws -> UInt64? {
        guard let origin else { return nil }
        let pool = try LivePool(of: snapshot, in: group, home: home, waitSeconds: 0)
        return try pool.read { metadata in
            var blocks: UInt64 = 0
            var difference = try metadata.difference(
                from: try pool.device(of: snapshot, in: metadata).deviceID,
                to: try pool.device(of: origin, in: metadata).deviceID)
            while let run = try difference.next() {
                if run.kind == .leftOnly || run.kind == .different { blocks += run.length }
            }
            return KernelValues.bytes(blocks, of: metadata.superblock.dataBlockByteCount)
        }
    }

    /// The thin pools that contain our snapshots, and the number of snapshots that each can still
    /// take.
    package func pools() throws -> [PoolBudget] {
        var seen: Set<String> = []
        return try own().compactMap { group, snapshot, _, _ in
            guard let budget = try? PoolBudget(of: snapshot.volume, in: group),
                seen.insert(budget.pool).inserted
            else { return nil }
            return budget
        }
    }

    /// Warnings about space in their groups and pools.
    package func roomWarnings() throws -> [String] {
        var seen: Set<String> = []
        return try own().flatMap { group, snapshot, _, _ in
            SnapshotRoom.warnings(for: snapshot.volume, in: group).filter {
                seen.insert($0).inserted
            }
        }
    }

    /// What `cleanUp` did, or would do.
    package struct Cleaned {
        /// Snapshots that were removed, stay for now, or are not ours to remove.
        package var snapshots: [SnapshotCleaner.Found] = []
        /// Pools whose metadata snapshot was released.
        package var pools: [String] = []
        /// Suspended devices of volumes that this host replicates.
        package var suspended: [Suspended] = []
    }

    /// Removes what a crash left: snapshots that this catalog made and no generation needs, and our
    /// metadata snapshots.
    ///
    /// - Parameter isDryRun: report what would be removed, and remove nothing.
    package func cleanUp(isDryRun: Bool) throws -> Cleaned {
        let groups = try VolumeGroup.all()
        var cleaned = Cleaned(suspended: try suspended(in: groups))
        try cleanSnapshots(in: groups, isDryRun: isDryRun, waitSeconds: 10) {
            cleaned.snapshots.append($0)
        }
        cleaned.pools = try MetadataSnapshot.releaseLeftovers(
            recordIn: home.path, isWanted: !isDryRun)
        return cleaned
    }

    /// Cleans up for every standby and volume without a running send.
    func cleanSnapshots(
        in groups: [VolumeGroup], isDryRun: Bool, waitSeconds: Int,
        report: (SnapshotCleaner.Found) throws -> Void
    ) throws {
        let key = try home.identity().keyID
        struct Kept: Hashable {
            let receiver: ReceiverName
            let volume: VolumeName
        }
        var seen: Set<Kept> = []
        for lv in groups.flatMap(\.volumes) {
            guard let own = SnapshotTags.own(lv, key), try home.catalog.role(of: lv) == .leftover,
                seen.insert(Kept(receiver: own.receiver, volume: own.name)).inserted
            else { continue }
            // A running send may have made it.
            let lock: SendLock
            do { lock = try home.lock(own.receiver, own.name) } catch SendError.busy { continue }
            defer { withExtendedLifetime(lock) {} }
            let cleaner = SnapshotCleaner(home, waitSeconds: waitSeconds)
            // Check again, now that the lock is held.
            try cleaner.clean(
                own.receiver, own.name, try VolumeGroup.all(), lock, isDryRun: isDryRun
            ) { try report($0) }
        }
    }

    /// The suspended devices of volumes that have, or were to have, our snapshots.
    package func suspended() throws -> [Suspended] { try suspended(in: try VolumeGroup.all()) }

    private func suspended(in groups: [VolumeGroup]) throws -> [Suspended] {
        let known = Set(try home.catalog.madeSnapshots().compactMap(\.originUUID))
        var seen: Set<Suspension.Device> = []
        return groups.flatMap { group in
            group.volumes.filter { known.contains($0.uuid) }.flatMap { volume in
                Suspension.devices(of: volume, in: group.volumes).filter {
                    seen.insert($0).inserted
                }.map { Suspended(volume: volume, device: $0) }
            }
        }
    }
}

extension SourceCatalog {
    /// Role of a snapshot for any replica: its tags name the replica, under the names at that time.
    func role(of snapshot: LogicalVolume) throws -> SnapshotInventory.Role {
        try replicas().lazy.map { $0.role(of: snapshot) }.first { $0 != .leftover } ?? .leftover
    }
}

extension Replica {
    /// Role of a snapshot for this replica.
    func role(of snapshot: LogicalVolume) -> SnapshotInventory.Role {
        if baseIdentity?.snapshotUUID == snapshot.uuid { return .base }
        return unfinishedIdentity?.snapshotUUID == snapshot.uuid ? .unfinished : .leftover
    }
}
