// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Synchronization

/// Facts about a device that only device-mapper knows. Needs permission to open
/// `/dev/mapper/control`, and `CAP_SYS_ADMIN`.
package struct MapperAnswer: Hashable, Sendable {
    /// A thin volume's id in its pool; `nil` for other devices.
    package var thinDevice: UInt32?
    /// Whether the tables prove that discarded blocks read as zeros, also after a partial write.
    package var provesDiscards: Bool
    /// Number of opens by all processes together.
    package var openCount: UInt32

    package init(thinDevice: UInt32?, provesDiscards: Bool, openCount: UInt32) {
        self.thinDevice = thinDevice
        self.provesDiscards = provesDiscards
        self.openCount = openCount
    }

    /// Queries device-mapper; `nil` if this process may not, or for other devices.
    package init?(of device: BlockDevice) {
        guard device.mapperName != nil, let control = try? File(path: "/dev/mapper/control", .write)
        else { return nil }
        let number = device.number
        let count = clinux_device_open_count(control.descriptor, number.major, number.minor)
        guard count >= 0 else { return nil }
        openCount = UInt32(clamping: count)
        let table = device.isThin ? try? DeviceTable(of: number) : nil
        thinDevice = table?.thinDevice
        let pool = device.byteCount.flatMap { table?.thinPool(ofWhole: $0) }
        provesDiscards = pool.flatMap { try? DeviceTable(of: $0) }?.zeroesDiscarded ?? false
    }
}

extension BlockDevice {
    /// Queries device-mapper for a process that may not do so itself.
    package typealias Helper = @Sendable (BlockDevice) -> MapperAnswer?

    private static let helper = Mutex<Helper?>(nil)

    /// Sets the helper for a process that may not query device-mapper. Call it when the program
    /// starts.
    package static func setHelper(_ helper: @escaping Helper) {
        Self.helper.withLock { $0 = helper }
    }

    /// Device-mapper's facts about the device; `nil` if it cannot be queried.
    package var mapperAnswer: MapperAnswer? {
        guard mapperName != nil else { return nil }
        return MapperAnswer(of: self) ?? Self.helper.withLock { $0 }?(self)
    }

    /// A thin volume's id in its pool, which LVM changes when it merges a snapshot into the volume.
    /// `nil` for other devices, and if device-mapper cannot be queried.
    package var thinDevice: String? {
        isThin ? mapperAnswer?.thinDevice.map(String.init) : nil
    }
}

// MARK: - Proof

extension DeviceTable {
    /// The id of a device that is a single thin volume.
    package var thinDevice: UInt32? {
        guard lines.count == 1, lines[0].type == "thin", lines[0].parameters.count >= 2 else {
            return nil
        }
        return UInt32(lines[0].parameters[1])
    }

    /// The pool of a device that is a single, whole thin volume without external origin. With an
    /// external origin, an unmapped block shows the origin's content, not zeros.
    package func thinPool(ofWhole byteCount: UInt64) -> DeviceNumber? {
        guard lines.count == 1, lines[0].type == "thin", lines[0].start == 0,
            lines[0].length == byteCount / 512, lines[0].parameters.count == 2
        else { return nil }
        return DeviceNumber(lines[0].parameters[0])
    }

    /// Whether this is the table of a pool whose discarded blocks read as zeros.
    ///
    /// Every feature must be known to be harmless. `ignore_discard` keeps the content. With
    /// `skip_block_zeroing`, a discarded block reads as zeros only until it is written in part: the
    /// rest then shows old content of the pool's disk.
    package var zeroesDiscarded: Bool {
        let harmless: Set<String> = ["no_discard_passdown", "error_if_no_space"]
        guard lines.count == 1, lines[0].type == "thin-pool" else { return false }
        let parameters = lines[0].parameters
        if parameters.count == 4 { return true }
        guard parameters.count > 4, let count = Int(parameters[4]), count == parameters.count - 5
        else { return false }
        return parameters[5...].allSatisfy { harmless.contains($0) }
    }
}
