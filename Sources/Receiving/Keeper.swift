// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Digests
internal import LVM
internal import Platform
internal import TLS
internal import ThinMetadata
internal import Wire

/// Keeps committed generations of a volume as read-only thin snapshots of its target.
///
/// Whoever uses one holds the volume's lock, so that the target does not change meanwhile. What a crash leaves:
///
/// 1. *Committed, no snapshot:* the snapshot is due. It is made when the volume is opened next.
/// 2. *Snapshot made, not in the catalog:* its tags say what it is. It is entered.
/// 3. *Snapshot removed, still in the catalog:* it is struck out.
struct Keeper {
    private let home: StandbyHome
    private let volume: StandbyVolume
    /// The volume's; what changes LVM holds it to its end.
    private let lock: FileLock

    init(_ home: StandbyHome, _ volume: StandbyVolume, holding lock: FileLock) {
        self.home = home
        self.volume = volume
        self.lock = lock
    }

    /// Why a generation could not be kept or released.
    struct Problem: Error, CustomStringConvertible {
        let description: String
    }

    /// Whether the target is a volume of which snapshots can be kept.
    static func isPossible(on status: FileStatus) -> Bool {
        status.device.map { BlockDevice($0).isThin } ?? false
    }

    /// How many snapshots the pool of a thin target can still take, by its clock; nil for other targets, and where this
    /// process may not ask.
    static func snapshotsLeft(below path: String) -> UInt64? {
        guard let device = try? File(path: path).status().device, BlockDevice(device).isThin,
            let time = try? PoolBudget.time(ofPoolBelow: device)
        else { return nil }
        return SnapshotBudget(time: time, highestDevice: 0).left
    }

    /// What the pool of a target with kept generations can still take; nil where this process may not ask.
    var room: PoolRoom? {
        guard (try? home.catalog.kept(volume.name))?.isEmpty == false,
            let device = try? File(path: volume.targetPath).status().device,
            BlockDevice(device).isThin
        else { return nil }
        return try? PoolRoom(below: device)
    }

    /// Whether LVM has a snapshot of the committed generation. It shares every block of the target, which was not written
    /// since, so that each block that is written now needs a new one.
    var sharesEveryBlock: Bool {
        guard let found = try? VolumeGroup.find(volume.targetPath), let own = try? home.identity()
        else { return false }
        return !isDue(KeptTags(volume.name, own.keyID).own(in: found.0, but: found.1))
    }

    /// Whether the target holds its committed generation as a whole, and is this standby's.
    static func isWhole(_ volume: StandbyVolume) -> Bool {
        switch volume.state {
        case .consistent, .staging: true
        // A member of a group that is not complete: a delta waits in its log, a full copy is on the target.
        case .prepared: volume.committed != nil
        case .empty, .initialising, .applying, .promoted, .diverged, .suspect: false
        }
    }

    /// Does what is due, if anything is, and remembers what went wrong.
    ///
    /// - Parameter check: proves that the target holds the generation, if a snapshot is to be made.
    /// - Returns: what went wrong.
    func keepDue(check: () throws -> Void) -> String? {
        do {
            // While the copy is in question, and when it was handed over, every generation stays.
            guard Self.isWhole(volume), let retention = try home.catalog.retention(volume.name)
            else { return nil }
            let kept = try home.catalog.kept(volume.name)
            guard isDue(kept) || !retention.expired(of: kept, now: Clock.wall()).isEmpty else {
                return nil
            }
            let problem = attempt(retention, check)
            try home.catalog.setRetentionProblem(volume.name, problem)
            return problem
        } catch {
            return "\(error)"
        }
    }

    /// Compares with what LVM has and does what is due.
    ///
    /// - Returns: what went wrong.
    func keepNow(check: () throws -> Void) throws -> String? {
        guard let retention = try home.catalog.retention(volume.name) else { return nil }
        let problem = attempt(retention, check)
        if problem == nil { try home.catalog.setRetentionProblem(volume.name, nil) }
        return problem
    }

    private func attempt(_ retention: Retention, _ check: () throws -> Void) -> String? {
        do {
            if isDue(try home.catalog.kept(volume.name)) { try check() }
            try keep(retention)
        } catch { return "\(error)" }
        return nil
    }

    /// Whether the target holds a whole generation of which there is no snapshot.
    private func isDue(_ kept: [KeptGeneration]) -> Bool {
        guard Self.isWhole(volume), let committed = volume.committed else { return false }
        return !kept.contains { $0.id == committed.id }
    }

    private func keep(_ retention: Retention) throws {
        guard let (found, target) = try VolumeGroup.find(volume.targetPath),
            case .thin = target.kind
        else { throw Problem(description: "\(volume.targetPath) is no thin volume") }
        var group = found
        let tags = KeptTags(volume.name, try home.identity().keyID)
        var kept = try compare(tags.own(in: group, but: target))
        if isDue(kept), let committed = volume.committed, let committedAt = volume.committedAt {
            if let pool = try PoolBudget(of: target, in: group), let reason = pool.refusal {
                throw Problem(
                    description:
                        "\(pool.pool): \(reason) (rule \(RefusalRule.poolExhausted.rawValue))")
            }
            let suffix = KeptName(number: committed.head.number, id: committed.id)
            var name = target.derivedName(suffix.short)
            if group.volume(named: name) != nil { name = target.derivedName(suffix.long) }
            try VolumeGroup.createSnapshot(
                of: target, named: name,
                tags: tags.new(committed, committedAt: committedAt), store: nil, isActive: false,
                holding: lock
            )
            group = try VolumeGroup(group.name)
            kept = try compare(tags.own(in: group, but: target))
            guard !isDue(kept) else {
                throw Problem(description: "\(group.name)/\(name) was made, but is not there")
            }
        }
        var problem: (any Error)?
        let expired = retention.expired(of: kept, now: Clock.wall()).compactMap { generation in
            group.volume(uuid: generation.snapshotUUID).map { (generation, $0) }
        }
        let written = try expired.isEmpty ? [] : written(expired.map(\.1), target)
        for (generation, snapshot) in expired {
            guard !written.contains(snapshot.uuid) else {
                problem = Problem(
                    description:
                        "\(snapshot.fullName) is not removed: somebody has written to it. Take it out of what is kept with: "
                        + "lvchange --deltag \(tags.standby) \(snapshot.fullName)")
                continue
            }
            do throws(LVMError) {
                try VolumeGroup.removeSnapshot(snapshot, tag: tags.standby, holding: lock)
            } catch {
                // In use, say; the others may go.
                problem = error
                continue
            }
            try home.catalog.removeKept(volume.name, generation)
        }
        if let problem { throw problem }
    }

    /// LVM's ids of those snapshots of the target that somebody has written to since they were taken, as the pool's
    /// metadata says: one that is read-only may have been writable for a while.
    private func written(
        _ snapshots: [LogicalVolume], _ target: LogicalVolume
    ) throws -> Set<String> {
        guard let device = target.device, case .thin(let pool, _, _, _) = target.kind else {
            throw Problem(description: "\(target.fullName) is not active")
        }
        let table = try DeviceMapper.thinTable(device)
        let path = try DeviceMapper.poolTable(table.pool).metadata.path()
        let held = try MetadataSnapshot(
            ofPool: table.pool, metadata: path, called: "\(target.group)/\(pool)",
            recordIn: home.path, seconds: 10)
        defer { try? held.release() }
        let reader = try ThinMetadataReader(
            try FileBytes(path: path), root: .metadataSnapshotAt(held.block))
        let found = try snapshots.filter { snapshot in
            guard case .thin(_, _, let id, _) = snapshot.kind else { return true }
            return try !reader.isUnwritten(id)
        }
        try reader.confirmMetadataSnapshot()
        return Set(found.map(\.uuid))
    }

    /// Brings the catalog to what LVM has.
    ///
    /// - Returns: the snapshots, newest first.
    private func compare(_ found: [KeptGeneration]) throws -> [KeptGeneration] {
        let known = try home.catalog.kept(volume.name)
        for generation in known
        where !found.contains(where: { $0.snapshotUUID == generation.snapshotUUID }) {
            try home.catalog.removeKept(volume.name, generation)
        }
        for generation in found where !known.contains(generation) {
            try home.catalog.addKept(volume.name, generation)
        }
        return try home.catalog.kept(volume.name)
    }
}

/// How the name of a kept generation's snapshot ends.
private struct KeptName {
    let short: String
    /// Numbers begin anew with every lineage.
    let long: String

    init(number: UInt64, id: SHA256Digest) {
        short = "_blockferry_g\(number)"
        long = short + "_\(id)".prefix(9)
    }

    init(_ generation: KeptGeneration) {
        self.init(number: generation.number, id: generation.id)
    }

    /// Where nothing fits before it, a name is the ending without its first sign.
    func matches(_ name: String) -> Bool {
        let name = "_" + name
        return name.hasSuffix(short) || name.hasSuffix(long)
    }
}

/// The tags on the snapshots of a standby, which say all there is to know of a kept generation.
private struct KeptTags {
    private let name: VolumeName
    /// Only this standby's snapshots have it.
    let standby: String

    init(_ name: VolumeName, _ standby: KeyID) {
        self.name = name
        self.standby = "blockferry.standby=" + "\(standby.digest)".prefix(16)
    }

    func new(_ generation: GenerationRecord, committedAt: UInt64) -> [String] {
        [
            "blockferry", standby, "blockferry.volume=\(name)",
            "blockferry.generation=\(generation.head.number)",
            "blockferry.id=\(generation.id)",
            "blockferry.time=\(generation.head.sourceTime)",
            "blockferry.committed=\(committedAt)",
        ]
    }

    /// The generations of this volume that are kept in a group, none of them twice.
    ///
    /// A snapshot that was made writable may hold something else by now, one that was renamed is somebody's, and so is one
    /// that LVM knows to be of another volume: they are the operator's.
    func own(in group: VolumeGroup, but target: LogicalVolume) -> [KeptGeneration] {
        var ids: Set<SHA256Digest> = []
        return group.volumes.compactMap { lv in
            guard case .thin = lv.kind, lv.isReadOnly, !lv.isMerging, lv.uuid != target.uuid,
                lv.originUUID ?? target.uuid == target.uuid, let found = generation(of: lv),
                KeptName(found).matches(lv.name)
            else { return nil }
            return found
        }.filter { ids.insert($0.id).inserted }
    }

    private func generation(of lv: LogicalVolume) -> KeptGeneration? {
        func value(_ name: String) -> String? {
            let prefix = "blockferry.\(name)="
            return lv.tags.first { $0.hasPrefix(prefix) }.map { String($0.dropFirst(prefix.count)) }
        }
        guard lv.tags.isSuperset(of: ["blockferry", standby, "blockferry.volume=\(name)"]),
            let number = value("generation").flatMap({ UInt64($0) }),
            let id = value("id").flatMap(Hex.decode).flatMap({ SHA256Digest(bytes: $0) }),
            let sourceTime = value("time").flatMap({ UInt64($0) }),
            let committedAt = value("committed").flatMap({ UInt64($0) })
        else { return nil }
        return KeptGeneration(
            number: number, id: id, sourceTime: sourceTime, committedAt: committedAt,
            snapshot: lv.fullName, snapshotUUID: lv.uuid)
    }
}
