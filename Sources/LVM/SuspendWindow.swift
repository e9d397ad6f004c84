// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Platform

/// A period in which several volumes are suspended together.
package enum SuspendWindow {
    private static let script = """
        held=
        resume() {
            code=0
            for d in $held; do dmsetup resume -j "${d%:*}" -m "${d#*:}" || code=1; done
            return $code
        }
        for d in "$@"; do
            held="$d $held"
            dmsetup suspend -j "${d%:*}" -m "${d#*:}" || { resume; exit 1; }
        done
        echo ready
        read -r _ <&3
        resume
        """

    /// Suspends the volumes' devices, one after the other, and runs `body` while all are suspended:
    /// writes to any of them wait. They are always resumed, also if this process is killed.
    ///
    /// Suspending takes as long as flushing the file systems on the volumes and is never cut short.
    ///
    /// - Parameters:
    ///   - needed: paths that programs need meanwhile; volumes that these are on cannot be
    ///     suspended.
    ///   - lock: held until all are resumed, also if this process ends.
    package static func around(
        _ volumes: [LogicalVolume], needed: [String], holding lock: FileLock?,
        _ body: () throws -> Void
    ) throws {
        let devices = try volumes.map { volume in
            guard let device = volume.device else {
                throw LVMError.refused("\(volume.fullName) is not active")
            }
            try check(device, volume, needed)
            return device
        }
        let guardian: Guardian
        do throws(CommandError) {
            guardian = try Guardian(
                "blockferry-suspend", script: script, devices.map(\.description), holding: lock,
                seconds: nil)
        } catch {
            throw LVMError.command(error)
        }
        let result = Result { try body() }
        do throws(CommandError) { try guardian.finish(seconds: nil) } catch {
            throw LVMError.command(error)
        }
        try result.get()
    }

    /// A program that waits for the device that it must resume would wait forever.
    private static func check(
        _ device: DeviceNumber, _ volume: LogicalVolume, _ needed: [String]
    ) throws(LVMError) {
        let system = ["/", "/usr", "/bin/sh", "/sbin/dmsetup", "/etc", "/run", "/tmp", "/var"]
        for path in system + needed {
            guard let status = try? File(path: path).status(),
                status.identity.hasPrefix("file:\(device):")
            else { continue }
            throw .refused(
                "\(volume.fullName) holds \(path), which is needed while the group's volumes stand still; it can "
                    + "only be sent alone")
        }
        guard !BlockDevice(device).isSuspended else {
            throw .refused("\(volume.fullName) is suspended already, by somebody else")
        }
        let path = try device.path()
        let swaps = (try? File(path: "/proc/swaps").readBytes(at: 0, count: 65536)) ?? []
        let lines = String(decoding: swaps, as: UTF8.self).split(separator: "\n")
        guard !lines.contains(where: { $0.hasPrefix(path + " ") }) else {
            throw .refused("\(volume.fullName) is swap space")
        }
    }
}

/// The messages that replace the content of a thin snapshot.
package enum ThinPool {
    /// The tag of a snapshot whose content was replaced after it was made: its device is newer than
    /// LVM knows.
    package static let renewedTag = "blockferry.renewed"

    /// Makes the device of an inactive snapshot again, from its origin as it is now.
    ///
    /// LVM cannot take thin snapshots of several suspended volumes: it suspends each origin itself,
    /// and takes no snapshot of a volume that is already suspended. So the snapshots are made one
    /// by one before, and renewed while all origins are suspended. The device id stays the one that
    /// LVM knows, and the pool's transaction does not change.
    ///
    /// 1. The device is deleted. A crash leaves a snapshot in LVM without a device in the pool;
    ///    `restore` repairs it.
    /// 2. It is made again with its id. A crash leaves a snapshot like any other.
    package static func renew(
        _ snapshot: LogicalVolume, of origin: LogicalVolume
    ) throws(LVMError) {
        let (pool, id, originID) = try ids(snapshot, origin)
        try message(pool, "delete \(id)")
        try message(pool, "create_snap \(id) \(originID)")
    }

    /// Gives a snapshot without a device a new one, so that LVM can remove it.
    package static func restore(
        _ snapshot: LogicalVolume, of origin: LogicalVolume
    ) throws(LVMError) {
        let (pool, id, originID) = try ids(snapshot, origin)
        try message(pool, "create_snap \(id) \(originID)")
    }

    private static func ids(
        _ snapshot: LogicalVolume, _ origin: LogicalVolume
    ) throws(LVMError) -> (pool: DeviceNumber, id: UInt32, originID: UInt32) {
        guard case .thin(_, let poolUUID, let id, _) = snapshot.kind,
            case .thin(_, poolUUID, let originID, _) = origin.kind, let device = origin.device,
            snapshot.originUUID == origin.uuid, snapshot.device == nil
        else {
            throw .unexpected(
                "\(snapshot.fullName) is no inactive thin snapshot of \(origin.fullName)")
        }
        let table = try DeviceMapper.thinTable(device)
        guard table.deviceID == originID else {
            throw .unexpected(
                "device-mapper says that \(origin.fullName) is device \(table.deviceID) of its pool; LVM says "
                    + "\(originID)")
        }
        return (table.pool, id, originID)
    }

    private static func message(_ pool: DeviceNumber, _ text: String) throws(LVMError) {
        do throws(CommandError) {
            try Command.change(
                "dmsetup", ["message", "-j", "\(pool.major)", "-m", "\(pool.minor)", "0", text])
        } catch {
            throw .command(error)
        }
    }
}
