// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import LVM
internal import Objects
internal import ThinMetadata

/// Proves that a snapshot still is the one that this host made, and that it is not used for
/// anything else. Without the proof it is not removed: an operator may have turned it into a
/// volume.
///
/// - This catalog has made it. An unknown one may be the base of a newer state of the catalog.
/// - It still has its original name and is read-only.
/// - In a thin pool: the pool's metadata shows that it was not written, and its origin exists. A
///   classic one: it is still a snapshot of that volume.
/// - It is not open; LVM checks that.
struct SnapshotProof {
    let home: SourceHome
    /// How long to wait for a pool that another program reads.
    let waitSeconds: Int

    /// The row of a snapshot, if this catalog has made it.
    static func row(of lv: LogicalVolume, in made: [MadeSnapshot]) -> MadeSnapshot? {
        made.first { row in
            if let uuid = row.uuid { return uuid == lv.uuid }
            if let name = row.name { return name == lv.name && row.groupUUID == lv.groupUUID }
            return row.proof.flatMap(StoredIdentity.decode)?.snapshotUUID == lv.uuid
        }
    }

    /// Why a snapshot must not be removed; `nil` if it may be.
    ///
    /// - Throws: the error that keeps the pool's metadata from being read.
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
                // A crash during the renewal of a group's snapshots left it without a device.
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

    /// Does the same with LVM's report alone.
    static func visibleObjection(
        to lv: LogicalVolume, _ row: MadeSnapshot, in volumes: [LogicalVolume]
    ) -> String? {
        guard lv.name == row.name ?? lv.name, isOwnName(lv.name) else { return "it was renamed" }
        guard !lv.isMerging else { return "it is being merged" }
        if lv.kind == .plain {
            // If lvcreate was killed before it made a snapshot of the volume, it is not read-only
            // yet.
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

    /// Whether the name ends like "…_blockferry_1a2b3c4d".
    private static func isOwnName(_ name: String) -> Bool {
        let suffix = name.utf8.suffix(20)
        return suffix.count == 20 && suffix.starts(with: "_blockferry_".utf8)
            && suffix.suffix(8).allSatisfy { "0123456789abcdef".utf8.contains($0) }
    }
}
