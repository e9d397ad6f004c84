// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import LVM
internal import Objects
internal import ThinMetadata

/// What proves that a snapshot is still the one that this host has made, and that nobody uses it for anything else.
/// Without that it is not removed: an operator may have made a volume of it.
///
/// - This catalog has made it. One that it knows nothing of may be the base of a newer state than this.
/// - It has the name that it got, and is read-only.
/// - It is in a thin pool: the pool's metadata says that nobody wrote to it since, and the volume that it is a
///   snapshot of is there. It is a classic one: it is still a snapshot of that volume.
/// - It is not open; that is LVM's to check.
struct SnapshotProof {
    let home: SourceHome
    /// Of a pool that somebody else reads.
    let waitSeconds: Int

    /// The row of a snapshot, if this catalog has made it.
    static func row(of lv: LogicalVolume, in made: [MadeSnapshot]) -> MadeSnapshot? {
        made.first { row in
            if let uuid = row.uuid { return uuid == lv.uuid }
            if let name = row.name { return name == lv.name && row.groupUUID == lv.groupUUID }
            return row.proof.flatMap(StoredIdentity.decode)?.snapshotUUID == lv.uuid
        }
    }

    /// Why a snapshot must not be removed; nil if it may be.
    ///
    /// - Throws: what keeps the pool's metadata from being read now.
    func objection(
        to lv: LogicalVolume, _ row: MadeSnapshot, in group: VolumeGroup
    ) throws -> String? {
        if let objection = Self.visibleObjection(to: lv, row, in: group.volumes) {
            return objection
        }
        guard lv.isThin else { return nil }
        let pool = try LivePool(of: lv, in: group, home: home, waitSeconds: waitSeconds)
        return try pool.read { metadata in
            guard case .thin(_, _, let id, _) = lv.kind,
                metadata.devices.contains(where: { $0.deviceID == id })
            else {
                // A crash while a group's snapshots were renewed has left it without a device.
                return lv.tags.contains(ThinPool.renewedTag) && row.proof == nil
                    ? nil : "the thin pool has no device for it any more"
            }
            let device = try pool.device(of: lv, in: metadata)
            let isUnwritten: Bool
            if let known = row.proof.flatMap(StoredIdentity.decode) {
                isUnwritten = try pool.facts(of: lv, in: metadata) == known.content
            } else {
                isUnwritten = try metadata.isUnwritten(device.deviceID)
            }
            return isUnwritten ? nil : "it was written"
        }
    }

    /// The same, as far as LVM's report tells.
    static func visibleObjection(
        to lv: LogicalVolume, _ row: MadeSnapshot, in volumes: [LogicalVolume]
    ) -> String? {
        guard lv.name == row.name ?? lv.name, isOwnName(lv.name) else { return "it was renamed" }
        guard !lv.isMerging else { return "it is being merged" }
        if lv.kind == .plain {
            // What lvcreate had not made a snapshot of when it was killed is not read-only yet.
            return row.uuid == nil && row.proof == nil ? nil : "it is no snapshot any more"
        }
        guard lv.isReadOnly else { return "it was made writable" }
        switch lv.kind {
        case .thin:
            guard let origin = row.originUUID ?? lv.originUUID,
                volumes.contains(where: { $0.uuid == origin })
            else { return "its volume is gone, and it may be all that is left of it" }
        case .snapshot:
            guard let origin = lv.originUUID, origin == row.originUUID ?? origin else {
                return "it is a snapshot of another volume"
            }
        case .plain, .component: return "it is no snapshot any more"
        }
        return nil
    }

    /// "…_blockferry_1a2b3c4d".
    private static func isOwnName(_ name: String) -> Bool {
        let suffix = name.utf8.suffix(20)
        return suffix.count == 20 && suffix.starts(with: "_blockferry_".utf8)
            && suffix.suffix(8).allSatisfy { "0123456789abcdef".utf8.contains($0) }
    }
}
