// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import LVM
package import Objects
internal import Platform
package import ThinMetadata
internal import Wire

/// An active thin pool, whose metadata is read while it changes.
package struct LivePool {
    /// Full name, "vg/pool".
    package let name: String
    private let uuid: String
    private let device: DeviceNumber
    private let metadataPath: String
    /// Whether unmapped blocks of the volume belong to an external origin and are not zeros.
    package let hasExternalOrigin: Bool
    private let home: SourceHome
    private let waitSeconds: Int

    /// Finds the pool of a thin volume in device-mapper's tables.
    ///
    /// - Parameter waitSeconds: how long to wait for a metadata snapshot that another program
    ///   holds.
    package init(
        of volume: LogicalVolume, in group: VolumeGroup, home: SourceHome, waitSeconds: Int
    ) throws {
        guard case .thin(let pool, let uuid, _, _) = volume.kind else {
            throw SourceError.invalid(path: volume.fullName, reason: "it is no thin volume")
        }
        name = "\(volume.group)/\(pool)"
        self.uuid = uuid
        self.home = home
        self.waitSeconds = waitSeconds
        let active = ([volume] + group.volumes).first { other in
            guard case .thin(_, uuid, _, _) = other.kind else { return false }
            return other.device != nil
        }
        guard let active, let number = active.device else {
            throw SourceError.invalid(
                path: name, reason: "the pool is not active; activate it with: lvchange -ay \(name)"
            )
        }
        let table = try DeviceMapper.thinTable(number)
        guard case .thin(_, _, table.deviceID, _) = active.kind else {
            throw SourceError.noProof(
                .poolUnsound,
                reason:
                    "device-mapper says that \(active.fullName) is device \(table.deviceID) of its pool; "
                    + "LVM says another")
        }
        hasExternalOrigin =
            active.uuid == volume.uuid
            ? table.hasExternalOrigin : Self.hasExternalOrigin(volume, in: group)
        device = table.pool
        metadataPath = try DeviceMapper.poolTable(device).metadata.path()
    }

    /// The same check for an inactive volume, which has no table: an origin outside thin pools is
    /// an external one, and snapshots inherit it.
    private static func hasExternalOrigin(
        _ volume: LogicalVolume, in group: VolumeGroup
    ) -> Bool {
        var next = volume
        for _ in group.volumes {
            guard let origin = next.originUUID.flatMap({ group.volume(uuid: $0) }) else {
                // LVM may have lost the origin in the merge of another snapshot. It may then be any
                // external origin in the pool.
                return next.originUUID == nil
                    && group.volumes.contains { other in
                        other.isThin
                            && other.originUUID.flatMap { group.volume(uuid: $0) }?.isThin == false
                    }
            }
            if !origin.isThin { return true }
            next = origin
        }
        return false
    }

    /// Lends the pool's metadata as of one moment. If this throws, discard everything that was
    /// read.
    ///
    /// It holds the metadata snapshot only while `body` runs; read the content of the volumes
    /// afterwards.
    package func read<Value>(_ body: (ThinMetadataReader) throws -> Value) throws -> Value {
        do {
            let held = try MetadataSnapshot(
                ofPool: device, metadata: metadataPath, called: name, recordIn: home.path,
                seconds: waitSeconds)
            do {
                let reader = try ThinMetadataReader(
                    try FileBytes(path: metadataPath), root: .metadataSnapshotAt(held.block))
                let value = try body(reader)
                try reader.confirmMetadataSnapshot()
                try held.release()
                return value
            } catch {
                try? held.release()
                throw error
            }
        } catch LVMError.refused(let reason) {
            throw SourceError.noProof(.poolUnsound, reason: reason)
        } catch let error as ThinMetadataError {
            throw SourceError.invalid(path: metadataPath, reason: "\(error)")
        }
    }

    /// Finds a volume's device in the metadata and checks that LVM and the kernel agree on it.
    package func device(
        of volume: LogicalVolume, in reader: ThinMetadataReader
    ) throws -> ThinDevice {
        guard case .thin(_, uuid, let id, let transaction) = volume.kind else {
            throw SourceError.noProof(
                .poolUnsound, reason: "\(volume.fullName) is not in the thin pool \(name)")
        }
        guard let found = reader.devices.first(where: { $0.deviceID == id }) else {
            throw SourceError.noProof(
                .poolUnsound,
                reason:
                    "the thin pool \(name) has no device \(id), which LVM says \(volume.fullName) is"
            )
        }
        let isRenewed =
            volume.tags.contains(ThinPool.renewedTag) && found.transactionID > transaction
        guard found.transactionID == transaction || isRenewed else {
            throw SourceError.noProof(
                .poolUnsound,
                reason: "device \(id) of the thin pool \(name) was made in transaction "
                    + "\(found.transactionID), but LVM says \(transaction) of \(volume.fullName)")
        }
        return found
    }

    /// All facts known about a snapshot. A write to it, a merge, a repaired pool or a reused device
    /// id changes at least one of them.
    package func facts(
        of volume: LogicalVolume, in reader: ThinMetadataReader
    ) throws -> ObjectIdentity.Facts {
        let device = try device(of: volume, in: reader)
        return [
            LiveFacts.snapshot: volume.uuid, "pool": uuid, "device": "\(device.deviceID)",
            "transaction": "\(device.transactionID)", "created": "\(device.creationTime)",
            "root": "\(device.mappingRoot)", "mapped": "\(device.mappedBlocks)",
            "block": "\(reader.superblock.dataBlockByteCount)",
        ]
    }
}
