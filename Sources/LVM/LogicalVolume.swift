// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import FoundationEssentials
package import Platform

/// A logical volume as `lvs` reports it.
package struct LogicalVolume: Hashable, Sendable {
    /// Kind of the volume, as far as Blockferry distinguishes it.
    package enum Kind: Hashable, Sendable {
        /// A volume in a thin pool, with its device id and transaction there.
        case thin(pool: String, poolUUID: String, deviceID: UInt32, transactionID: UInt64)
        /// A classic (copy-on-write) snapshot.
        case snapshot
        /// Any other volume that holds data: linear, striped, RAID, cached ...
        case plain
        /// A pool or a part of another volume.
        case component
    }

    package var group: String
    package var groupUUID: String
    /// Name within the group; for a hidden volume without the brackets.
    package var name: String
    /// LVM's id of the volume, which is never reused.
    package var uuid: String
    package var kind: Kind
    /// Size in bytes; for a classic snapshot the size of its store.
    package var byteCount: UInt64
    package var tags: Set<String>
    /// Name and id of a snapshot's origin, as far as LVM knows them: merging a snapshot into a thin
    /// volume makes LVM forget the origin of all others.
    package var origin: String?
    package var originUUID: String?
    /// Chunk size in bytes; 0 if the volume has none.
    package var chunkByteCount: UInt64
    /// The device; `nil` if the volume is not active.
    package var device: DeviceNumber?
    /// Seconds since 1970-01-01 UTC.
    package var createdAt: UInt64
    /// The same in nanoseconds; 0 for an invalid time.
    package var createdAtNanoseconds: UInt64 {
        Int64(exactly: createdAt).flatMap { KernelValues.time(seconds: $0, nanoseconds: 0) } ?? 0
    }
    /// Whether the device, or the inactive volume, is read-only.
    package var isReadOnly: Bool
    /// Whether it is being merged into its origin, or will be at the next activation.
    package var isMerging: Bool
    /// Used share of a snapshot's store or of a pool's data, in percent; `nil` if not active.
    package var usedPercent: Double?
    /// Used share of a pool's metadata, in percent; `nil` for others, and if not active.
    package var metadataPercent: Double?
    /// The space for LVM's text of the group.
    package var groupText: GroupText

    /// Full name, "vg/lv".
    package var fullName: String { "\(group)/\(name)" }

    /// A name in the same group that ends in `ending`, after as much of this volume's name as
    /// device-mapper allows: its name consists of group and volume with hyphens doubled, and a
    /// suffix for what is below.
    package func derivedName(_ ending: String) -> String {
        func length(_ text: some StringProtocol) -> Int {
            text.utf8.count + text.utf8.count { $0 == UInt8(ascii: "-") }
        }
        let most = 127 - length(group) - "-".utf8.count - "_tdata-real".utf8.count
        var start = name.prefix(90)
        while !start.isEmpty, length(start) + length(ending) > most { start.removeLast() }
        // The snapshot gets a name even if nothing of the volume's name is left.
        return start.isEmpty ? String(ending.drop { $0 == "_" }) : start + ending
    }

    /// The path of its device node; the volume must be active.
    package func devicePath() throws(LVMError) -> String {
        guard let device else { throw .refused("\(fullName) is not active") }
        return try device.path()
    }
}

extension LogicalVolume {
    /// The fields that `lvs` reports.
    static let fields = [
        "vg_name", "vg_uuid", "lv_name", "lv_uuid", "lv_size", "lv_tags", "segtype", "pool_lv",
        "pool_lv_uuid", "origin", "origin_uuid", "thin_id", "transaction_id", "chunk_size",
        "lv_kernel_major", "lv_kernel_minor", "data_percent", "metadata_percent", "lv_time",
        "lv_permissions",
        "lv_merging", "lv_role", "vg_mda_size", "vg_mda_free",
    ]

    private struct Report: Decodable {
        struct Part: Decodable { let lv: [[String: String]] }
        let report: [Part]
    }

    /// Decodes the output of `lvs --reportformat json`. A volume of several segments has several
    /// rows; the first one counts.
    package static func decode(_ text: String) throws(LVMError) -> [LogicalVolume] {
        let report: Report
        do {
            report = try JSONDecoder().decode(Report.self, from: Data(text.utf8))
        } catch {
            throw .unexpected(
                "lvs printed no report that can be read; it begins: "
                    + text.split(whereSeparator: \.isWhitespace).joined(separator: " ").prefix(80))
        }
        var seen: Set<String> = []
        var volumes: [LogicalVolume] = []
        for row in report.report.flatMap(\.lv) {
            let volume = try LogicalVolume(row)
            if seen.insert(volume.uuid).inserted { volumes.append(volume) }
        }
        return volumes
    }

    private static func isOfTag(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
            || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
            || "_+.-/=!:&#@".utf8.contains(byte)
    }

    private init(_ row: [String: String]) throws(LVMError) {
        func text(_ name: String) throws(LVMError) -> String {
            guard let value = row[name] else { throw .unexpected("lvs does not report \(name)") }
            return value
        }
        /// `nil` for an absent id, which matches no other.
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
        /// The error for an unknown word, which would otherwise count as no.
        func unknown(_ name: String) -> LVMError {
            .unexpected("lvs reports \(name)=\(row[name] ?? "") of \(row["lv_name"] ?? "")")
        }
        func number(_ name: String) throws(LVMError) -> UInt64 {
            guard let value = UInt64(try text(name)) else { throw unknown(name) }
            return value
        }
        group = try text("vg_name")
        groupUUID = try identifier("vg_uuid")
        name = String(try text("lv_name").drop { $0 == "[" }.prefix { $0 != "]" })
        uuid = try identifier("lv_uuid")
        byteCount = try number("lv_size")
        tags = Set(try text("lv_tags").split(separator: ",").map(String.init))
        // The characters that LVM allows in tags. Any other means that the separator is not a
        // comma.
        guard tags.allSatisfy({ $0.utf8.allSatisfy(Self.isOfTag) }) else {
            throw unknown("lv_tags")
        }
        origin = try optional("origin").map { String($0.drop { $0 == "[" }.prefix { $0 != "]" }) }
        originUUID = try optional("origin_uuid")
        chunkByteCount = try number("chunk_size")
        createdAt = try optional("lv_time") == nil ? 0 : try number("lv_time")
        switch try text("lv_permissions") {
        case "read-only", "read-only-override": isReadOnly = true
        // LVM reports "unknown" for a volume without permissions of its own.
        case "writeable", "unknown", "": isReadOnly = false
        default: throw unknown("lv_permissions")
        }
        switch try text("lv_merging") {
        case "": isMerging = false
        case "merging", "unknown": isMerging = true
        default: throw unknown("lv_merging")
        }
        func percent(_ name: String) throws(LVMError) -> Double? {
            guard let text = try optional(name) else { return nil }
            guard let value = Double(text) else { throw unknown(name) }
            return value
        }
        usedPercent = try percent("data_percent")
        metadataPercent = try percent("metadata_percent")
        groupText = GroupText(
            areaByteCount: try number("vg_mda_size"), freeByteCount: try number("vg_mda_free"))
        // -1 means not active.
        switch try (text("lv_kernel_major"), text("lv_kernel_minor")) {
        case ("-1", "-1"): break
        default:
            device = DeviceNumber(
                major: UInt32(clamping: try number("lv_kernel_major")),
                minor: UInt32(clamping: try number("lv_kernel_minor")))
        }
        let roles = try text("lv_role").split(separator: ",")
        guard roles.contains("public") || roles.contains("private") else {
            throw unknown("lv_role")
        }
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
