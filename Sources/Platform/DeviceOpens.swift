// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

extension BlockDevice {
    /// Whether another process has a device-mapper device open, and keeps it open. Programs that look at every device, as
    /// LVM and udev do, let go of it soon.
    ///
    /// - Parameter patience: how long others may have it open, in milliseconds.
    /// - Returns: false also where that cannot be asked: of other devices, and where nobody answers (`mapperAnswer`).
    package func isOpenElsewhere(patience: UInt64) -> Bool {
        let due = Clock.monotonic() + patience * (nanosecondsPerSecond / 1000)
        while let count = mapperAnswer?.openCount, Int(count) > ownDescriptors {
            guard Clock.monotonic() < due else { return true }
            Clock.sleep(milliseconds: 50)
        }
        return false
    }

    /// Descriptors that this process has of it.
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
