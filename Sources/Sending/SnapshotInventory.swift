// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Digests
package import LVM
internal import Platform
internal import TLS
internal import ThinMetadata
internal import Wire

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
        /// It has our tags, but this catalog has not made it, or somebody has made something else of it. It is never
        /// removed.
        case unknown
    }

    /// A snapshot of ours.
    package struct Entry {
        package let snapshot: OwnSnapshot
        package let role: Role
        /// Bytes of storage that only it keeps from being free; nothing if that cannot be told now.
        package let heldByteCount: UInt64?
        /// Of a classic snapshot: how full its store is, in percent, or nothing if the kernel has given it up.
        package let storePercent: UInt64?
        /// What it is a snapshot of, "vg/lv"; nil if neither LVM nor the catalog knows.
        package let origin: String?
    }

    /// A device of a volume that we know which device-mapper has suspended.
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

    /// All snapshots of ours, with what they hold.
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

    /// What the snapshot maps and its origin no longer shares with it.
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

    /// The thin pools that snapshots of ours are in, and how many snapshots each can still take.
    package func pools() throws -> [PoolBudget] {
        var seen: Set<String> = []
        return try own().compactMap { group, snapshot, _, _ in
            guard let budget = try? PoolBudget(of: snapshot.volume, in: group),
                seen.insert(budget.pool).inserted
            else { return nil }
            return budget
        }
    }

    /// What to tell of the room in their groups and pools.
    package func roomWarnings() throws -> [String] {
        var seen: Set<String> = []
        return try own().flatMap { group, snapshot, _, _ in
            SnapshotRoom.warnings(for: snapshot.volume, in: group).filter {
                seen.insert($0).inserted
            }
        }
    }

    /// What `cleanUp` has done, or would have.
    package struct Cleaned {
        /// Snapshots that were removed, that stay for now, or that are not ours to remove.
        package var snapshots: [SnapshotCleaner.Found] = []
        /// Pools of which a metadata snapshot was released.
        package var pools: [String] = []
        /// Suspended devices of volumes that we know.
        package var suspended: [Suspended] = []
    }

    /// Removes what a crash has left: snapshots that this catalog has made and no generation needs, and metadata
    /// snapshots of ours.
    ///
    /// - Parameter isDryRun: says what it would remove, and removes nothing.
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

    /// Goes through the leftovers of every standby and volume that no send is at work on now.
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
            // A send that runs now may have made it.
            let lock: SendLock
            do { lock = try home.lock(own.receiver, own.name) } catch SendError.busy { continue }
            defer { withExtendedLifetime(lock) {} }
            let cleaner = SnapshotCleaner(home, waitSeconds: waitSeconds)
            // Asked again, since the lock is ours only now.
            try cleaner.clean(
                own.receiver, own.name, try VolumeGroup.all(), lock, isDryRun: isDryRun
            ) { try report($0) }
        }
    }

    /// The suspended devices of volumes that snapshots of ours are of, or were to be of.
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
