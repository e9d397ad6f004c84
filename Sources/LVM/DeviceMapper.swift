// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Platform

extension DeviceNumber {
    /// The path of its node by the kernel's name, which is right with and without udev.
    package func path() throws(LVMError) -> String {
        guard let name = BlockDevice(self).nodeName else {
            throw .unexpected("there is no block device \(self)")
        }
        return "/dev/\(name)"
    }
}

/// Tables and status lines of device-mapper devices with one target, decoded.
///
/// Format of the lines: Documentation/admin-guide/device-mapper of Linux.
package enum DeviceMapper {
    /// A thin volume's table: "thin POOL ID [EXTERNAL-ORIGIN]".
    package struct ThinTable: Equatable, Sendable {
        package var pool: DeviceNumber
        package var deviceID: UInt32
        package var hasExternalOrigin: Bool
    }

    /// A pool's table: "thin-pool METADATA DATA BLOCK-SECTORS ...".
    package struct PoolTable: Equatable, Sendable {
        package var metadata: DeviceNumber
        /// Size of a data block in bytes.
        package var blockByteCount: UInt64
    }

    /// A pool's status.
    package struct PoolStatus: Equatable, Sendable {
        /// Block of the metadata snapshot; `nil` if the pool holds none.
        package var metadataSnapshot: UInt64?
        /// Data blocks in total, and those not allocated yet.
        package var blocks: UInt64
        package var freeBlocks: UInt64
        /// Metadata blocks of 4 KiB.
        package var metadataBlocks: UInt64
        package var freeMetadataBlocks: UInt64
        /// Mode: "rw", "ro" or "out_of_data_space".
        package var mode: String
        package var needsCheck: Bool
    }

    /// A classic snapshot's table: "snapshot ORIGIN STORE P|PO|N CHUNK-SECTORS ...".
    package struct SnapshotTable: Equatable, Sendable {
        package var origin: DeviceNumber
        package var store: DeviceNumber
        /// Persistence: P, PO or N.
        package var persistence: String
        /// Options after the chunk size.
        package var features: [String]
    }

    /// A classic snapshot's status.
    package enum SnapshotStatus: Equatable, Sendable {
        /// Sectors of the store, allocated and in total.
        case valid(used: UInt64, total: UInt64)
        /// Invalidated by the kernel; with the text of the status line.
        case invalid(String)
    }

    /// Type and parameters of a device with one target.
    private static func table(_ device: DeviceNumber) throws(LVMError) -> [String] {
        let lines: [DeviceTable.Line]
        do throws(SystemCallError) { lines = try DeviceTable(of: device).lines } catch {
            throw .system(error)
        }
        guard lines.count == 1 else {
            throw .unexpected("device \(device) is made of \(lines.count) targets, not one")
        }
        return [lines[0].type] + lines[0].parameters
    }

    /// Type and status of a device with one target.
    private static func status(_ device: DeviceNumber) throws(LVMError) -> [String] {
        let output: Command.Output
        do throws(CommandError) {
            output = try Command.run(
                "dmsetup", ["status", "-j", "\(device.major)", "-m", "\(device.minor)"])
        } catch {
            throw .command(error)
        }
        let lines = output.text.split(separator: "\n")
        let words = lines.first?.split(separator: " ") ?? []
        // The words are start, length, type, then the rest.
        guard lines.count == 1, words.count >= 3 else {
            throw .unexpected(
                "dmsetup status of device \(device) has \(lines.count) lines, not one")
        }
        return words.dropFirst(2).map(String.init)
    }

    /// The active device with this UUID, and its device-mapper name.
    static func device(uuid: String) throws(LVMError) -> (number: DeviceNumber, name: String)? {
        let output: Command.Output
        do throws(CommandError) {
            output = try Command.run(
                "dmsetup",
                [
                    "info", "--columns", "--noheadings", "--separator", ":", "-o",
                    "major,minor,name", "-u", uuid,
                ])
        } catch {
            if case .exited = error.cause { return nil }
            throw .command(error)
        }
        let parts = output.text.split(whereSeparator: { $0 == ":" || $0.isNewline })
        guard parts.count == 3, let number = DeviceNumber("\(parts[0]):\(parts[1])") else {
            return nil
        }
        return (number, String(parts[2]))
    }

    /// The table of an active thin volume.
    package static func thinTable(_ device: DeviceNumber) throws(LVMError) -> ThinTable {
        try ThinTable(try table(device), of: device)
    }

    /// The table of an active pool.
    package static func poolTable(_ device: DeviceNumber) throws(LVMError) -> PoolTable {
        try PoolTable(try table(device), of: device)
    }

    /// Number of sectors that the pool stores for an active thin volume.
    package static func thinSectors(_ device: DeviceNumber) throws(LVMError) -> UInt64 {
        try thinSectors(try status(device), of: device)
    }

    /// The status of an active pool.
    package static func poolStatus(_ device: DeviceNumber) throws(LVMError) -> PoolStatus {
        try PoolStatus(try status(device), of: device)
    }

    /// The table of an active classic snapshot.
    package static func snapshotTable(_ device: DeviceNumber) throws(LVMError) -> SnapshotTable {
        try SnapshotTable(try table(device), of: device)
    }

    /// The status of an active classic snapshot.
    package static func snapshotStatus(_ device: DeviceNumber) throws(LVMError) -> SnapshotStatus {
        try SnapshotStatus(try status(device), of: device)
    }
}

// MARK: - Decoding

private func strange(_ words: [String], _ device: DeviceNumber) -> LVMError {
    .unexpected("device-mapper says of device \(device): " + words.joined(separator: " "))
}

extension DeviceMapper.ThinTable {
    /// Decodes type and parameters of the table of `device`, as do the initialisers below.
    package init(_ words: [String], of device: DeviceNumber) throws(LVMError) {
        guard words.count >= 3, words[0] == "thin", let pool = DeviceNumber(words[1]),
            let id = UInt32(words[2])
        else { throw strange(words, device) }
        self.init(pool: pool, deviceID: id, hasExternalOrigin: words.count > 3)
    }
}

extension DeviceMapper {
    /// Decodes the status of a thin volume: "thin MAPPED HIGHEST".
    package static func thinSectors(
        _ words: [String], of device: DeviceNumber
    ) throws(LVMError) -> UInt64 {
        guard words.count == 3, words[0] == "thin", let mapped = UInt64(words[1]) else {
            throw strange(words, device)
        }
        return mapped
    }
}

extension DeviceMapper.PoolTable {
    package init(_ words: [String], of device: DeviceNumber) throws(LVMError) {
        guard words.count >= 4, words[0] == "thin-pool", let metadata = DeviceNumber(words[1]),
            let sectors = UInt32(words[3]), sectors > 0
        else { throw strange(words, device) }
        self.init(metadata: metadata, blockByteCount: UInt64(sectors) * 512)
    }
}

extension DeviceMapper.PoolStatus {
    package init(_ words: [String], of device: DeviceNumber) throws(LVMError) {
        guard words.count >= 6, words[0] == "thin-pool" else {
            if words.last == "Fail" || words.last == "Error" {
                throw .refused("the thin pool has failed: dmsetup status says \(words.last ?? "")")
            }
            throw strange(words, device)
        }
        let held = words[4]
        guard held == "-" || UInt64(held) != nil, let metadata = Self.room(words[2]),
            let data = Self.room(words[3])
        else { throw strange(words, device) }
        self.init(
            metadataSnapshot: UInt64(held), blocks: data.total, freeBlocks: data.free,
            metadataBlocks: metadata.total, freeMetadataBlocks: metadata.free, mode: words[5],
            needsCheck: words.contains("needs_check"))
    }

    /// Decodes "USED/TOTAL".
    private static func room(_ word: String) -> (total: UInt64, free: UInt64)? {
        let parts = word.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2, let used = UInt64(parts[0]), let total = UInt64(parts[1]),
            used <= total
        else { return nil }
        return (total, total - used)
    }
}

extension DeviceMapper.SnapshotTable {
    package init(_ words: [String], of device: DeviceNumber) throws(LVMError) {
        guard words.first != "snapshot-merge" else {
            throw .refused("the snapshot is being merged into its origin")
        }
        guard words.count >= 5, words[0] == "snapshot", let origin = DeviceNumber(words[1]),
            let store = DeviceNumber(words[2])
        else { throw strange(words, device) }
        self.init(
            origin: origin, store: store, persistence: words[3],
            features: Array(words.dropFirst(5)))
    }
}

extension DeviceMapper.SnapshotStatus {
    package init(_ words: [String], of device: DeviceNumber) throws(LVMError) {
        guard words.count >= 2, words[0] == "snapshot" else { throw strange(words, device) }
        let parts = words[1].split(separator: "/")
        guard parts.count == 2, let used = UInt64(parts[0]), let total = UInt64(parts[1]) else {
            self = .invalid(words.dropFirst().joined(separator: " "))
            return
        }
        self = .valid(used: used, total: total)
    }
}
