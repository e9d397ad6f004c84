// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The number by which the kernel knows a block device, until the device goes.
package struct DeviceNumber: Hashable, Sendable, CustomStringConvertible {
    package var major: UInt32
    package var minor: UInt32

    package init(major: UInt32, minor: UInt32) {
        self.major = major
        self.minor = minor
    }

    /// From "major:minor".
    package init?(_ text: some StringProtocol) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let major = UInt32(parts[0]), let minor = UInt32(parts[1]) else {
            return nil
        }
        self.init(major: major, minor: minor)
    }

    package var description: String { "\(major):\(minor)" }
}

/// What sysfs tells of a block device. Needs no privilege.
package struct BlockDevice: Sendable {
    private let folder: String

    /// The device of this number.
    package init(_ number: DeviceNumber) {
        folder = "/sys/dev/block/\(number)"
    }

    /// Its device-mapper uuid; nothing if it is not a device-mapper device. LVM's begin with `LVM-`.
    package var mapperUUID: String? { Self.text(folder + "/dm/uuid") }

    /// The kernel's name of its node, below `/dev`.
    package var nodeName: String? {
        let name = Self.lines(folder + "/uevent").first { $0.hasPrefix("DEVNAME=") }?
            .dropFirst("DEVNAME=".count)
        return name.flatMap { $0.isEmpty ? nil : String($0) }
    }

    /// Whether it is a logical volume as LVM shows it to its users, and not a part of one.
    package var isLogicalVolume: Bool {
        // LVM-, 32 characters for the group, 32 for the volume; parts have a suffix.
        mapperUUID.map { $0.hasPrefix("LVM-") && $0.utf8.count == 68 } ?? false
    }

    /// The device-mapper uuids of the devices right below it; an empty one for what has none.
    package var mapperUUIDsBelow: [String] {
        let names = (try? Directory.names(in: folder + "/slaves")) ?? []
        return names.map { Self.text("\(folder)/slaves/\($0)/dm/uuid") ?? "" }
    }

    /// Whether it is a thin volume that stands on nothing but its pool, as LVM makes them.
    package var isThin: Bool {
        let below = mapperUUIDsBelow
        return mapperUUID != nil && below.count == 1 && below[0].hasPrefix("LVM-")
            && below[0].hasSuffix("-tpool")
    }

    /// In which units it can give storage back, in bytes; nothing if it takes no discards.
    package var discardUnit: UInt64? {
        guard let limit = number("queue/discard_max_bytes"), limit > 0,
            let unit = number("queue/discard_granularity"), unit > 0
        else { return nil }
        return unit
    }

    private func number(_ name: String) -> UInt64? {
        Self.text("\(folder)/\(name)").flatMap { UInt64($0) }
    }

    /// The first line of a file in sysfs.
    private static func text(_ path: String) -> String? { lines(path).first.map(String.init) }

    private static func lines(_ path: String) -> [Substring] {
        guard let file = try? File(path: path),
            let bytes = try? file.readBytes(at: 0, count: 4096)
        else { return [] }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n")
    }
}
