// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
package import LVM
package import Platform
internal import ThinMetadata
package import Wire

/// Works on volumes in this process, which needs root's privileges for that. It verifies every
/// request before it changes anything.
package struct LocalVolumes: StandbyVolumes {
    /// Directory of the record while a pool's metadata is read.
    private let directory: String
    /// The volumes that may be changed; `nil` if the user of this process decides.
    private let configured: ConfiguredVolumes?
    /// More snapshots than retention can ask for plus those waiting to be released.
    private static let snapshotLimit = 10_100

    package init(recordIn directory: String, configured: ConfiguredVolumes?) {
        self.directory = directory
        self.configured = configured
    }

    package func room(of volume: LogicalVolumeID) throws -> ThinRoom {
        let device = try device(of: volume)
        let room = try PoolRoom(below: device.number)
        let time = try PoolBudget.time(ofPoolBelow: device.number)
        let text = try? GroupText(ofGroup: volume.description.prefix(32))
        return ThinRoom(
            blockByteCount: room.blockByteCount, blocks: room.status.blocks,
            freeBlocks: room.status.freeBlocks, ownBlocks: room.ownBlocks,
            metadataBlocks: room.status.metadataBlocks,
            freeMetadataBlocks: room.status.freeMetadataBlocks,
            textAreaByteCount: text?.areaByteCount ?? 0,
            freeTextByteCount: min(text?.freeByteCount ?? 0, text?.areaByteCount ?? 0),
            growsByItself: (try? PoolRoom.growsByItself()) ?? true,
            snapshotsLeft: UInt32(
                clamping: SnapshotBudget(time: time, highestDevice: 0).left))
    }

    /// The device of an active volume that may be changed.
    package func device(of volume: LogicalVolumeID) throws(LVMError) -> BlockDevice {
        guard let device = volume.device, let name = device.mapperName else {
            throw .refused("the logical volume with the ids \(volume) is not active")
        }
        guard configured?.contains(mapperName: name) ?? true else {
            throw notConfigured(name)
        }
        return device
    }

    package func kept(
        of volume: LogicalVolumeID, by owner: KeptOwner
    ) throws -> [KeptGeneration] {
        let (group, target) = try find(volume)
        return KeptTags(owner).own(in: group.volumes, of: target)
    }

    package func keep(
        _ mark: GenerationMark, of volume: LogicalVolumeID, by owner: KeptOwner,
        holding lock: FileLock
    ) throws {
        let (group, target) = try find(volume)
        let (tags, suffix) = (KeptTags(owner), KeptName(mark))
        let kept = tags.own(in: group.volumes, of: target)
        guard !kept.contains(where: { $0.id == mark.id }) else { return }
        guard case .thin = target.kind, target.device != nil else {
            throw LVMError.refused("\(target.fullName) is no active thin volume")
        }
        guard kept.count < Self.snapshotLimit else {
            throw LVMError.refused("\(target.fullName) has \(kept.count) snapshots")
        }
        guard
            target.groupText.limit == 0 || target.groupText.freeByteCount > target.groupText.reserve
        else {
            throw LVMError.refused(
                "LVM's metadata of volume group \(group.name) is full but for \(target.groupText.freeByteCount) bytes, which "
                    + "are left for other changes. Keep fewer generations (docs/OPERATIONS.md 3)")
        }
        if let pool = try PoolBudget(of: target, in: group), let reason = pool.refusal {
            throw LVMError.refused(
                "\(pool.pool): \(reason) (rule \(RefusalRule.poolExhausted.rawValue))")
        }
        var name = target.derivedName(suffix.short)
        if group.volume(named: name) != nil { name = target.derivedName(suffix.long) }
        try VolumeGroup.createSnapshot(
            of: target, named: name, tags: tags.new(mark), store: nil, isActive: false,
            holding: lock)
        guard
            tags.own(in: try VolumeGroup(group.name).volumes, of: target)
                .contains(where: { $0.id == mark.id })
        else { throw LVMError.unexpected("\(group.name)/\(name) was made, but is not there") }
    }

    package func release(
        _ snapshotUUID: String, of volume: LogicalVolumeID, by owner: KeptOwner,
        holding lock: FileLock
    ) throws {
        let (group, target) = try find(volume)
        let tags = KeptTags(owner)
        guard
            tags.own(in: group.volumes, of: target)
                .contains(where: { $0.snapshotUUID == snapshotUUID }),
            let snapshot = group.volume(uuid: snapshotUUID), let proof = tags.proof(of: snapshot)
        else {
            throw LVMError.refused(
                "\(target.fullName) has no snapshot with the id \(snapshotUUID) that is kept")
        }
        guard try isUnwritten(snapshot, target) else {
            throw LVMError.refused(
                "\(snapshot.fullName) is not removed: somebody has written to it. Take it out of what is kept with: "
                    + "lvchange --deltag \(proof) \(snapshot.fullName)")
        }
        try VolumeGroup.removeSnapshot(snapshot, tag: proof, holding: lock)
    }

    /// Whether a snapshot of the target was not written since it was taken, by the pool's metadata:
    /// one that is read-only now may have been writable for a while.
    private func isUnwritten(
        _ snapshot: LogicalVolume, _ target: LogicalVolume
    ) throws -> Bool {
        guard let device = target.device, case .thin(let pool, _, _, _) = target.kind,
            case .thin(_, _, let id, _) = snapshot.kind
        else { throw LVMError.refused("\(target.fullName) is not active") }
        let table = try DeviceMapper.thinTable(device)
        let path = try DeviceMapper.poolTable(table.pool).metadata.path()
        let held = try MetadataSnapshot(
            ofPool: table.pool, metadata: path, called: "\(target.group)/\(pool)",
            recordIn: directory, seconds: 10)
        defer { try? held.release() }
        let reader = try ThinMetadataReader(
            try FileBytes(path: path), root: .metadataSnapshotAt(held.block))
        let isUnwritten = try reader.isUnwritten(id)
        try reader.confirmMetadataSnapshot()
        return isUnwritten
    }

    package func grow(
        _ volume: LogicalVolumeID, to byteCount: UInt64, holding lock: FileLock
    ) throws {
        let target = try named(volume)
        guard case .thin = target.kind else {
            throw LVMError.refused("\(target.fullName) is no thin volume")
        }
        guard target.byteCount < byteCount else { return }
        try VolumeGroup.extend(target, to: byteCount, holding: lock)
    }

    package func activate(_ volume: LogicalVolumeID, holding lock: FileLock) throws {
        let target = try named(volume)
        guard target.device == nil else { return }
        try VolumeGroup.activate(target, holding: lock)
    }

    /// A volume that an administrator has listed. There are none if root runs this process by hand:
    /// root grows and activates volumes without it.
    private func named(_ volume: LogicalVolumeID) throws(LVMError) -> LogicalVolume {
        guard configured != nil else {
            throw .refused("no file names the volumes that may be grown and activated")
        }
        return try find(volume).target
    }

    private func find(
        _ volume: LogicalVolumeID
    ) throws(LVMError) -> (group: VolumeGroup, target: LogicalVolume) {
        guard let (group, target) = try VolumeGroup.find(ids: volume.description) else {
            throw .notFound("with the ids \(volume)")
        }
        guard configured?.contains(target) ?? true else { throw notConfigured(target.fullName) }
        return (group, target)
    }

    private func notConfigured(_ name: String) -> LVMError {
        .refused("\(name) is none of the volumes that the helper was configured for")
    }
}
