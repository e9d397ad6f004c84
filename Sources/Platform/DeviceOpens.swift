// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

extension BlockDevice {
    /// Whether another process keeps a device-mapper device open. Programs that scan every device,
    /// such as LVM and udev, close it soon.
    ///
    /// - Parameter patience: how long other processes may keep it open, in milliseconds.
    /// - Returns: `false` also if that is unknown: for other devices, and if device-mapper cannot
    ///   be queried (`mapperAnswer`).
    package func isOpenElsewhere(patience: UInt64) -> Bool {
        let due = Clock.monotonic() + patience * (nanosecondsPerSecond / 1000)
        while let count = mapperAnswer?.openCount, Int(count) > ownDescriptors {
            guard Clock.monotonic() < due else { return true }
            Clock.sleep(milliseconds: 50)
        }
        return false
    }

    /// Number of this process's descriptors for the device.
    private var ownDescriptors: Int {
        let names = (try? Directory.names(in: "/proc/self/fd")) ?? []
        return names.compactMap { Int32($0) }.filter { descriptor in
            var raw = stat()
            // SAFETY: writes the struct passed.
            guard unsafe fstat(descriptor, &raw) == 0 else { return false }
            return clinux_mode_is_block_device(raw.st_mode) != 0
                && clinux_major(raw.st_rdev) == number.major
                && clinux_minor(raw.st_rdev) == number.minor
        }.count
    }
}
