// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Platform

/// Devices that device-mapper has suspended. A writer waits until its device is resumed: forever,
/// if the program that suspended it is gone.
package enum Suspension {
    /// A suspended device.
    package struct Device: Hashable, Sendable {
        package let number: DeviceNumber
        /// Device-mapper name.
        package let name: String

        /// The command that resumes it.
        package var remedy: String { "dmsetup resume \(name)" }
    }

    /// The suspended devices of a volume, of its pool, and of the snapshots that LVM suspends with it, in `group`.
    package static func devices(
        of volume: LogicalVolume, in group: [LogicalVolume]
    ) -> [Device] {
        var uuids: Set<String> = [volume.uuid]
        if let origin = volume.originUUID { uuids.insert(origin) }
        for other in group {
            guard let origin = other.originUUID else { continue }
            if uuids.contains(origin) { uuids.insert(other.uuid) }
        }
        if case .thin(_, let pool, _, _) = volume.kind { uuids.insert(pool) }
        // LVM-, id of the group, id of the volume, both without dashes, and a suffix for devices
        // below.
        let ids = uuids.map { "LVM-" + (volume.groupUUID + $0).filter { $0 != "-" } }
        return BlockDevice.mapped().compactMap { number in
            let device = BlockDevice(number)
            guard device.isSuspended, let uuid = device.mapperUUID, let name = device.mapperName,
                ids.contains(where: { uuid.hasPrefix($0) })
            else { return nil }
            return Device(number: number, name: name)
        }
    }

    /// Resumes a device.
    package static func resume(_ device: Device) throws(LVMError) {
        do throws(CommandError) {
            try Command.change(
                "dmsetup",
                ["resume", "-j", "\(device.number.major)", "-m", "\(device.number.minor)"])
        } catch {
            throw .command(error)
        }
    }

    /// Runs a program that changes a volume, and waits for its end. If it fails, devices that it
    /// left suspended are resumed.
    ///
    /// - Parameter lock: held while the program runs, also if this process ends.
    @discardableResult
    static func change(
        _ volume: LogicalVolume, _ program: String, _ arguments: [String], holding lock: FileLock?
    ) throws(LVMError) -> Command.Output {
        let before = Set(BlockDevice.mapped().filter { BlockDevice($0).isSuspended })
        do throws(CommandError) {
            return try LVMProgram.change(program, arguments, holding: lock)
        } catch {
            // LVM answers this only when no other command is changing the group: what is suspended
            // now was left behind.
            let after = (try? VolumeGroup(volume.group).volumes) ?? [volume]
            for device in devices(of: volume, in: after) where !before.contains(device.number) {
                do throws(LVMError) {
                    try resume(device)
                    Process.say("\(device.name) was resumed; \(program) had left it suspended")
                } catch {
                    Process.say(
                        "\(device.name) is suspended since \(program) failed, and could not be resumed: \(error). "
                            + "Resume it with: \(device.remedy)")
                }
            }
            throw LVMProgram.explained(error)
        }
    }
}
