// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import FoundationEssentials
package import Platform

/// A logical volume, as `lvs` reports it.
package struct LogicalVolume: Hashable, Sendable {
    /// What kind of volume it is, as far as that matters here.
    package enum Kind: Hashable, Sendable {
        /// A volume in a thin pool; its device id and transaction there.
        case thin(pool: String, poolUUID: String, deviceID: UInt32, transactionID: UInt64)
        /// A classic (copy-on-write) snapshot.
        case snapshot
        /// Anything else that holds data: linear, striped, RAID, cached ...
        case plain
        /// A pool, or a part of another volume.
        case component
    }

    package var group: String
    package var groupUUID: String
    /// Name within the group; of a hidden volume without the brackets.
    package var name: String
    /// LVM's id of the volume, which is never given twice.
    package var uuid: String
    package var kind: Kind
    /// Bytes; of a classic snapshot the size of its store.
    package var byteCount: UInt64
    package var tags: Set<String>
    /// Name and id of the origin of a snapshot, as far as LVM knows it: when a snapshot is merged into a thin volume,
    /// LVM forgets the origin of all others.
    package var origin: String?
    package var originUUID: String?
    /// Bytes; 0 for what has none.
    package var chunkByteCount: UInt64
    /// The device, if it is active.
    package var device: DeviceNumber?
    /// Seconds since 1970-01-01 UTC.
    package var createdAt: UInt64
    /// The same in nanoseconds; 0 for a time that is none.
    package var createdAtNanoseconds: UInt64 {
        Int64(exactly: createdAt).flatMap { KernelValues.time(seconds: $0, nanoseconds: 0) } ?? 0
    }
    /// Whether the device, or the volume where it is not active, is read-only.
    package var isReadOnly: Bool
    /// Whether it is being merged into its origin, or will be at the next activation.
    package var isMerging: Bool
    /// How much of a snapshot's store or of a pool's data is in use, in percent; nil if not active.
    package var usedPercent: Double?

    /// "vg/lv".
    package var fullName: String { "\(group)/\(name)" }

    /// The path of its node; the volume must be active.
    package func devicePath() throws(LVMError) -> String {
        guard let device else { throw .refused("\(fullName) is not active") }
        return try device.path()
    }
}

extension LogicalVolume {
    /// What `lvs` is asked for.
    static let fields = [
        "vg_name", "vg_uuid", "lv_name", "lv_uuid", "lv_size", "lv_tags", "segtype", "pool_lv",
        "pool_lv_uuid", "origin", "origin_uuid", "thin_id", "transaction_id", "chunk_size",
        "lv_kernel_major", "lv_kernel_minor", "data_percent", "lv_time", "lv_permissions",
        "lv_merging", "lv_role",
    ]

    private struct Report: Decodable {
        struct Part: Decodable { let lv: [[String: String]] }
        let report: [Part]
    }

    /// Decodes what `lvs --reportformat json` has printed. A volume of several segments appears several times;
    /// its first row is taken.
    package static func decode(_ text: String) throws(LVMError) -> [LogicalVolume] {
        let report: Report
        do {
            report = try JSONDecoder().decode(Report.self, from: Data(text.utf8))
        } catch {
            throw .unexpected("lvs printed no report that can be read: \(error)")
        }
        var seen: Set<String> = []
        var volumes: [LogicalVolume] = []
        for row in report.report.flatMap(\.lv) {
            let volume = try LogicalVolume(row)
            if seen.insert(volume.uuid).inserted { volumes.append(volume) }
        }
        return volumes
    }

    private init(_ row: [String: String]) throws(LVMError) {
        func text(_ name: String) throws(LVMError) -> String {
            guard let value = row[name] else { throw .unexpected("lvs does not report \(name)") }
            return value
        }
        /// An absent id is none, and so equals no other.
        func optional(_ name: String) throws(LVMError) -> String? {
            let value = try text(name)
            return value.isEmpty ? nil : value
        }
        func identifier(_ name: String) throws(LVMError) -> String {
            guard let value = try optional(name) else {
                throw .unexpected("lvs reports no \(name) of \(row["lv_name"] ?? "")")
            }
            return value
        }
        func number(_ name: String) throws(LVMError) -> UInt64 {
            guard let value = UInt64(try text(name)) else {
                throw .unexpected(
                    "lvs reports \(name)=\(row[name] ?? "") of \(row["lv_name"] ?? "")")
            }
            return value
        }
        group = try text("vg_name")
        groupUUID = try identifier("vg_uuid")
        name = String(try text("lv_name").drop { $0 == "[" }.prefix { $0 != "]" })
        uuid = try identifier("lv_uuid")
        byteCount = try number("lv_size")
        tags = Set(try text("lv_tags").split(separator: ",").map(String.init))
        origin = try optional("origin").map { String($0.drop { $0 == "[" }.prefix { $0 != "]" }) }
        originUUID = try optional("origin_uuid")
        chunkByteCount = try number("chunk_size")
        createdAt = UInt64(try text("lv_time")) ?? 0
        isReadOnly = try text("lv_permissions").hasPrefix("read-only")
        isMerging = try !text("lv_merging").isEmpty
        usedPercent = Double(try text("data_percent"))
        // Not active: -1.
        if let major = UInt32(try text("lv_kernel_major")),
            let minor = UInt32(try text("lv_kernel_minor"))
        {
            device = DeviceNumber(major: major, minor: minor)
        }
        let roles = try text("lv_role").split(separator: ",")
        let type = try text("segtype")
        if try text("lv_name").hasPrefix("[") || type.hasSuffix("-pool") {
            kind = .component
        } else if type == "thin" {
            kind = .thin(
                pool: String(try text("pool_lv").drop { $0 == "[" }.prefix { $0 != "]" }),
                poolUUID: try identifier("pool_lv_uuid"),
                deviceID: UInt32(clamping: try number("thin_id")),
                transactionID: try number("transaction_id"))
        } else if roles.contains("thicksnapshot") {
            kind = .snapshot
        } else {
            kind = .plain
        }
    }
}
