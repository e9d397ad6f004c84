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
    /// How much of a pool's metadata is in use, in percent; nil for others, and if not active.
    package var metadataPercent: Double?
    /// The room for LVM's own text of the group.
    package var groupText: GroupText

    /// "vg/lv".
    package var fullName: String { "\(group)/\(name)" }

    /// A name in its group that ends in `ending`, with as much of this one's name before it as device-mapper takes: it knows
    /// a volume by the names of group and volume, in which it doubles hyphens, and by a suffix of what is below.
    package func derivedName(_ ending: String) -> String {
        func length(_ text: some StringProtocol) -> Int {
            text.utf8.count + text.utf8.count { $0 == UInt8(ascii: "-") }
        }
        let most = 127 - length(group) - "-".utf8.count - "_tdata-real".utf8.count
        var start = name.prefix(90)
        while !start.isEmpty, length(start) + length(ending) > most { start.removeLast() }
        // A snapshot of what has a name without letters has one all the same.
        return start.isEmpty ? String(ending.drop { $0 == "_" }) : start + ending
    }

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
        "lv_kernel_major", "lv_kernel_minor", "data_percent", "metadata_percent", "lv_time",
        "lv_permissions",
        "lv_merging", "lv_role", "vg_mda_size", "vg_mda_free",
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
        /// A word that means something else than what is known would be taken for no.
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
        // What LVM lets a tag be. Another sign means that something else than a comma is between them.
        guard tags.allSatisfy({ $0.utf8.allSatisfy(Self.isOfTag) }) else {
            throw unknown("lv_tags")
        }
        origin = try optional("origin").map { String($0.drop { $0 == "[" }.prefix { $0 != "]" }) }
        originUUID = try optional("origin_uuid")
        chunkByteCount = try number("chunk_size")
        createdAt = try optional("lv_time") == nil ? 0 : try number("lv_time")
        switch try text("lv_permissions") {
        case "read-only", "read-only-override": isReadOnly = true
        // LVM says "unknown" of what has no permissions of its own.
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
        // Not active: -1.
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
