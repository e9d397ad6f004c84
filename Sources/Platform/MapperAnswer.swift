// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Synchronization

/// What device-mapper alone knows of one of its devices. Needs the right to open `/dev/mapper/control`, and
/// `CAP_SYS_ADMIN`.
package struct MapperAnswer: Hashable, Sendable {
    /// The id by which its pool knows a thin volume; nil for other devices.
    package var thinDevice: UInt32?
    /// Whether the tables prove that what is discarded reads as zeros, now and after it is written in part.
    package var provesDiscards: Bool
    /// How often it is open, by all processes together.
    package var openCount: UInt32

    package init(thinDevice: UInt32?, provesDiscards: Bool, openCount: UInt32) {
        self.thinDevice = thinDevice
        self.provesDiscards = provesDiscards
        self.openCount = openCount
    }

    /// Asks device-mapper; nil where this process may not, and for what is no device of device-mapper.
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
    /// Who is asked where this process may not ask device-mapper.
    package typealias Helper = @Sendable (BlockDevice) -> MapperAnswer?

    private static let helper = Mutex<Helper?>(nil)

    /// Names who is asked where this process may not ask device-mapper. For the start of a program.
    package static func setHelper(_ helper: @escaping Helper) {
        Self.helper.withLock { $0 = helper }
    }

    /// What device-mapper says of the device; nil where nobody answers.
    package var mapperAnswer: MapperAnswer? {
        guard mapperName != nil else { return nil }
        return MapperAnswer(of: self) ?? Self.helper.withLock { $0 }?(self)
    }

    /// The id by which its pool knows a thin volume: LVM gives a volume another one when a snapshot is merged into it.
    /// Nothing for other devices, and where nobody answers.
    package var thinDevice: String? {
        isThin ? mapperAnswer?.thinDevice.map(String.init) : nil
    }
}

// MARK: - Proof

extension DeviceTable {
    /// The id of a device that is one thin volume.
    package var thinDevice: UInt32? {
        guard lines.count == 1, lines[0].type == "thin", lines[0].parameters.count >= 2 else {
            return nil
        }
        return UInt32(lines[0].parameters[1])
    }

    /// The pool of a device that is one thin volume, as a whole and without an external origin: where such a volume
    /// has no block of its own, it shows the origin's, and not zeros.
    package func thinPool(ofWhole byteCount: UInt64) -> DeviceNumber? {
        guard lines.count == 1, lines[0].type == "thin", lines[0].start == 0,
            lines[0].length == byteCount / 512, lines[0].parameters.count == 2
        else { return nil }
        return DeviceNumber(lines[0].parameters[0])
    }

    /// Whether it is a pool's, whose discarded blocks read as zeros.
    ///
    /// Every feature must be one that is known to be harmless. `ignore_discard` keeps the content. With
    /// `skip_block_zeroing` a block that was given back reads as zeros only until a part of it is written: the rest
    /// then shows what the pool's disk held.
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
