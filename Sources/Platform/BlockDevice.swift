// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import Objects

/// The kernel's number of a block device, valid until the device is removed.
package struct DeviceNumber: Hashable, Sendable, CustomStringConvertible {
    package var major: UInt32
    package var minor: UInt32

    package init(major: UInt32, minor: UInt32) {
        self.major = major
        self.minor = minor
    }

    /// Parses "major:minor".
    package init?(_ text: some StringProtocol) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let major = UInt32(parts[0]), let minor = UInt32(parts[1]) else {
            return nil
        }
        self.init(major: major, minor: minor)
    }

    package var description: String { "\(major):\(minor)" }
}

/// Facts from sysfs about a block device. Needs no privilege.
package struct BlockDevice: Sendable {
    /// Number of the device.
    package let number: DeviceNumber
    private let folder: String

    /// The device of this number.
    package init(_ number: DeviceNumber) {
        self.number = number
        folder = "/sys/dev/block/\(number)"
    }

    /// Whether device-mapper has suspended it: writers wait until it is resumed.
    package var isSuspended: Bool { Self.text(folder + "/dm/suspended") == "1" }

    /// Its device-mapper name; `nil` for other devices.
    package var mapperName: String? { Self.text(folder + "/dm/name") }

    /// All devices of device-mapper.
    package static func mapped() -> [DeviceNumber] {
        let names = (try? Directory.names(in: "/sys/block")) ?? []
        return names.filter { $0.hasPrefix("dm-") }.sorted().compactMap {
            text("/sys/block/\($0)/dev").flatMap { DeviceNumber($0) }
        }
    }

    /// Its device-mapper UUID; `nil` for other devices. LVM's UUIDs start with `LVM-`.
    package var mapperUUID: String? { Self.text(folder + "/dm/uuid") }

    /// The kernel's name of its node below `/dev`.
    package var nodeName: String? {
        uevent("DEVNAME")
    }

    /// Whether it is a logical volume that LVM shows to its users, not a part of one.
    package var isLogicalVolume: Bool {
        // LVM-, 32 characters for the group, 32 for the volume; parts have a suffix.
        mapperUUID.map { $0.hasPrefix("LVM-") && $0.utf8.count == 68 } ?? false
    }

    /// The device-mapper UUIDs of the devices directly below it; an empty one for a device without.
    package var mapperUUIDsBelow: [String] {
        let names = (try? Directory.names(in: folder + "/slaves")) ?? []
        return names.map { Self.text("\(folder)/slaves/\($0)/dm/uuid") ?? "" }
    }

    /// Whether it is a thin volume directly on its pool, as LVM makes them.
    package var isThin: Bool {
        let below = mapperUUIDsBelow
        return mapperUUID != nil && below.count == 1 && below[0].hasPrefix("LVM-")
            && below[0].hasSuffix("-tpool")
    }

    /// The devices directly below it: those of a device-mapper or RAID device, the disk of a
    /// partition.
    package var below: [BlockDevice] {
        let names = (try? Directory.names(in: folder + "/slaves")) ?? []
        let slaves = names.compactMap { name in
            Self.text("\(folder)/slaves/\(name)/dev").flatMap { DeviceNumber($0) }
        }
        return slaves.map { BlockDevice($0) } + [disk].compactMap { $0 }
    }

    /// Its size in bytes.
    package var byteCount: UInt64? {
        Self.text(folder + "/size").flatMap { UInt64($0) }.map { KernelValues.bytes($0, of: 512) }
    }

    /// Granularity of discards in bytes; `nil` if it does not support them.
    package var discardUnit: UInt64? {
        KernelValues.discardUnit(
            greatest: Self.text(folder + "/queue/discard_max_bytes"),
            granularity: Self.text(folder + "/queue/discard_granularity"))
    }

    /// Facts that name the device and survive a reboot. Empty if there are none.
    ///
    /// - `dm`: its device-mapper UUID, which for a logical volume contains LVM's ids of group and
    ///   volume;
    /// - `partition`: for a partition, its UUID in the table if the kernel reports it, else its
    ///   number; the other facts are those of the disk;
    /// - `wwid`, `serial`: what the disk reports about itself;
    /// - `backing-…`: for a loop device, the facts that name its file, or its path if the file
    ///   cannot be opened; with `+` and the offset if it does not start at the file's first byte.
    package var objectFacts: ObjectIdentity.Facts {
        var facts: ObjectIdentity.Facts = [:]
        if let uuid = mapperUUID { facts["dm"] = uuid }
        if let number = Self.text(folder + "/partition") {
            facts = disk?.objectFacts ?? [:]
            // On a disk without a name, a partition's number identifies nothing.
            if let uuid = uevent("PARTUUID") ?? linkedPartitionUUID {
                facts["partition"] = uuid
            } else if !facts.isEmpty {
                facts["partition"] = number
            }
            return facts
        }
        let wwid = Self.text(folder + "/wwid") ?? Self.text(folder + "/device/wwid")
        facts["wwid"] = wwid.flatMap(Self.meaningful)
        let serial = Self.text(folder + "/serial") ?? Self.text(folder + "/device/serial")
        facts["serial"] = serial.flatMap(Self.meaningful)
        if let path = backingFile {
            let offset = Self.text(folder + "/loop/offset") ?? "0"
            let place = offset == "0" ? "" : "+" + offset
            // For a file that cannot be read, only the path is known.
            let backing = (try? File(path: path).objectFacts()) ?? ["path": path]
            for (name, value) in backing { facts["backing-" + name] = value + place }
        }
        return facts
    }

    /// The loop devices on an open file, by any of its names: others are hard links and bind
    /// mounts.
    package static func loops(of file: File) -> [BlockDevice] {
        let real = Directory.resolved(file.path)
        let identity = try? file.status().identity
        let names = (try? Directory.names(in: "/sys/block")) ?? []
        return names.filter { $0.hasPrefix("loop") }.compactMap { name in
            text("/sys/block/\(name)/dev").flatMap { DeviceNumber($0) }.map { BlockDevice($0) }
        }.filter { device in
            guard let path = device.backingFile else { return false }
            return path == real
                || identity != nil && identity == (try? File(path: path).status().identity)
        }
    }

    /// Whether it or a part of it is mounted, or held exclusively by another device or program.
    package var isHeld: Bool {
        guard let name = nodeName else { return false }
        do throws(SystemCallError) {
            _ = try File(path: "/dev/\(name)", .exclusive)
            return false
        } catch {
            return error.isBusy
        }
    }

    /// Path of a loop device's file; a removed one ends in " (deleted)".
    package var backingFile: String? { Self.text(folder + "/loop/backing_file") }

    /// The disk of a partition; `nil` for other devices.
    package var disk: BlockDevice? {
        guard Self.text(folder + "/partition") != nil else { return nil }
        return Self.text(folder + "/../dev").flatMap { DeviceNumber($0) }.map { BlockDevice($0) }
    }

    private static func meaningful(_ text: String) -> String? {
        let trimmed = text.split(separator: " ").joined(separator: " ")
        // Emulated disks and USB bridges report zeros or an empty string.
        return trimmed.allSatisfy { $0 == "0" || $0 == " " } ? nil : trimmed
    }

    private func uevent(_ name: String) -> String? {
        let value = Self.lines(folder + "/uevent").first { $0.hasPrefix(name + "=") }?
            .dropFirst(name.utf8.count + 1)
        return value.flatMap { $0.isEmpty ? nil : String($0) }
    }

    /// The UUID of its file system, from udev's link.
    var linkedUUID: String? { link(in: "/dev/disk/by-uuid") }

    private var linkedPartitionUUID: String? { link(in: "/dev/disk/by-partuuid") }

    /// The name of the link to its node in one of udev's directories.
    private func link(in directory: String) -> String? {
        guard let node = nodeName else { return nil }
        let names = (try? Directory.names(in: directory)) ?? []
        return names.sorted().first { Directory.resolved("\(directory)/\($0)") == "/dev/\(node)" }
    }

    /// A mark of a device-mapper device's mapping, or of any device's presence: unique while the
    /// host runs, and gone with the device. It is `diskseq` if the kernel has that (since 5.15),
    /// else the inode of its directory in sysfs.
    ///
    /// Comparable only under the same `Host.bootID`.
    package var presence: String? {
        if let sequence = Self.text(folder + "/diskseq") { return "diskseq:" + sequence }
        var raw = stat()
        // SAFETY: writes the struct passed.
        guard unsafe stat(folder + "/", &raw) == 0 else { return nil }
        return "sysfs:\(raw.st_ino)"
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
