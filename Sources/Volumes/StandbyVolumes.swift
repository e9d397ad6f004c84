// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Platform
package import Wire

/// The standby's operations on its logical volumes that need root's privileges, performed by this
/// process (`LocalVolumes`) or by `blockferryd-lvm` (`HelperClient`).
///
/// Operations that change something hold the volume's lock to their end.
package protocol StandbyVolumes: Sendable {
    /// Remaining capacity of an active thin volume's pool.
    func room(of volume: LogicalVolumeID) throws -> ThinRoom

    /// The kept snapshots of a volume for one owner, without duplicates.
    func kept(of volume: LogicalVolumeID, by owner: KeptOwner) throws -> [KeptGeneration]

    /// Makes a read-only snapshot of an active thin volume as it is now, unless one with this
    /// mark's id exists.
    func keep(
        _ mark: GenerationMark, of volume: LogicalVolumeID, by owner: KeptOwner,
        holding lock: FileLock) throws

    /// Removes a kept snapshot, if it still is the one that was made and was not written.
    func release(
        _ snapshotUUID: String, of volume: LogicalVolumeID, by owner: KeptOwner,
        holding lock: FileLock) throws

    /// Grows a thin volume to at least this size.
    func grow(
        _ volume: LogicalVolumeID, to byteCount: UInt64, holding lock: FileLock) throws

    /// Activates a volume.
    func activate(_ volume: LogicalVolumeID, holding lock: FileLock) throws
}

/// The operations for this process: its own if it runs as root, else those of the helper.
///
/// - Parameter directory: directory of the record while a pool's metadata is read.
package func volumes(recordIn directory: String) -> any StandbyVolumes {
    Process.effectiveUser == 0
        ? LocalVolumes(recordIn: directory, configured: nil) : HelperClient()
}

extension BlockDevice {
    /// LVM's ids of a logical volume; `nil` for other devices.
    package var logicalVolume: LogicalVolumeID? {
        isLogicalVolume
            ? mapperUUID.flatMap { LogicalVolumeID(String($0.dropFirst("LVM-".count))) } : nil
    }
}

extension LogicalVolumeID {
    /// The device of the volume; `nil` if it is not active.
    package var device: BlockDevice? {
        let uuid = "LVM-\(self)"
        return BlockDevice.mapped().lazy.map { BlockDevice($0) }.first { $0.mapperUUID == uuid }
    }
}
