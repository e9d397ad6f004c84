// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Platform
package import Wire

/// What a standby wants of the logical volumes that are its targets, and what needs root's rights: done in this process
/// (`LocalVolumes`) or by `blockferryd-lvm` (`HelperClient`).
///
/// What changes something holds the volume's lock to its end.
package protocol StandbyVolumes: Sendable {
    /// Asks the pool of an active thin volume.
    func room(of volume: LogicalVolumeID) throws -> ThinRoom

    /// The snapshots of a volume that are kept for somebody, none of them twice.
    func kept(of volume: LogicalVolumeID, by owner: KeptOwner) throws -> [KeptGeneration]

    /// Makes a read-only snapshot of an active thin volume as it is now, unless there is one with this mark's id.
    func keep(
        _ mark: GenerationMark, of volume: LogicalVolumeID, by owner: KeptOwner,
        holding lock: FileLock) throws

    /// Removes a snapshot that is kept, if it still is what was made and nobody has written to it.
    func release(
        _ snapshotUUID: String, of volume: LogicalVolumeID, by owner: KeptOwner,
        holding lock: FileLock) throws

    /// Makes a thin volume at least so large.
    func grow(
        _ volume: LogicalVolumeID, to byteCount: UInt64, holding lock: FileLock) throws

    /// Activates a volume.
    func activate(_ volume: LogicalVolumeID, holding lock: FileLock) throws
}

/// Who works on volumes for this process: itself if it is root's, else the helper.
///
/// - Parameter directory: where this process keeps a record while it reads a pool's metadata.
package func volumes(recordIn directory: String) -> any StandbyVolumes {
    Process.effectiveUser == 0
        ? LocalVolumes(recordIn: directory, configured: nil) : HelperClient()
}

extension BlockDevice {
    /// LVM's ids of a logical volume; nothing for other devices.
    package var logicalVolume: LogicalVolumeID? {
        isLogicalVolume
            ? mapperUUID.flatMap { LogicalVolumeID(String($0.dropFirst("LVM-".count))) } : nil
    }
}

extension LogicalVolumeID {
    /// The device of the volume, if it is active.
    package var device: BlockDevice? {
        let uuid = "LVM-\(self)"
        return BlockDevice.mapped().lazy.map { BlockDevice($0) }.first { $0.mapperUUID == uuid }
    }
}
