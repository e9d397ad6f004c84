// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import LVM

/// What `lvs` prints: any text, or rows whose fields the input fills.
@Sendable func fuzzLVM(_ bytes: [UInt8]) {
    var input = Input(bytes)
    let choice = input.byte()
    if choice & 7 == 7 {
        _ = try? GroupText(report: String(decoding: bytes, as: UTF8.self))
        _ = try? LogicalVolume.decode(String(decoding: input.rest(), as: UTF8.self))
        return
    }
    var rows: [String] = []
    for _ in 0..<(choice < 192 ? 1 : 3) { rows.append(row(&input)) }
    var text = Array("{\"report\":[{\"lv\":[\(rows.joined(separator: ","))]}]}".utf8)
    if choice & 8 == 8 { text.spoil(&input) }
    guard let volumes = try? LogicalVolume.decode(String(decoding: text, as: UTF8.self)) else {
        return
    }
    precondition(volumes.count <= rows.count || choice & 8 == 8)
    precondition(Set(volumes.map(\.uuid)).count == volumes.count, "a volume is reported twice")
    for volume in volumes {
        precondition(!volume.name.hasPrefix("[") && !volume.name.contains("]"))
        precondition(volume.fullName == "\(volume.group)/\(volume.name)")
        precondition(
            !volume.uuid.isEmpty && volume.originUUID != "", "an absent id equals another one")
        let told = SnapshotRoom.warnings(
            of: volume.group, volume.groupText,
            pool: (volume.name, data: volume.usedPercent, metadata: volume.metadataPercent))
        precondition(told.count <= 3)
    }
}

/// What `lvs` is asked for, and values that it has.
private let fields: [(name: String, values: [String])] = [
    ("vg_name", ["vg", "my-vg"]), ("vg_uuid", ["MZcaPs-acja", ""]),
    ("lv_name", ["c1", "[pool_tmeta]", "[", "th-in"]), ("lv_uuid", ["vyfkH7-8VZc", "BlwnJa-uuSm"]),
    ("lv_size", ["8388608", "67108864", "-1", ""]),
    ("lv_tags", ["", "blockferry,blockferry.to=standby", ",,"]),
    ("segtype", ["linear", "thin", "thin-pool", "raid1"]), ("pool_lv", ["", "[pool]"]),
    ("pool_lv_uuid", ["", "p8tOcE-0ehr"]), ("origin", ["", "th-ick", "[hidden]"]),
    ("origin_uuid", ["", "X13V5D-eHpd"]), ("thin_id", ["", "2", "4294967296"]),
    ("transaction_id", ["", "1", "18446744073709551616"]), ("chunk_size", ["0", "4096"]),
    ("lv_kernel_major", ["254", "-1"]), ("lv_kernel_minor", ["9", "-1"]),
    ("data_percent", ["", "0.00", "nan", "1e999"]), ("lv_time", ["1795492362", ""]),
    ("lv_permissions", ["read-only", "unknown", "writeable"]), ("lv_merging", ["", "merging"]),
    ("metadata_percent", ["", "12.50"]), ("vg_mda_size", ["1044480", "0"]),
    ("vg_mda_free", ["519680", ""]),
    ("lv_role", ["public", "public,snapshot,thicksnapshot", "private,thin,pool,metadata"]),
]

private func row(_ input: inout Input) -> String {
    var parts: [String] = []
    for field in fields {
        let choice = Int(input.byte())
        var value = field.values[choice % field.values.count]
        if choice >= 240 { value = String(decoding: input.take(choice & 15), as: UTF8.self) }
        if choice == 239 { value = "\(input.number())" }
        // One is left out, or said as a number.
        if choice == 238 { continue }
        parts.append(
            choice == 237 ? "\"\(field.name)\":\(choice)" : "\"\(field.name)\":\"\(value)\"")
    }
    return "{\(parts.joined(separator: ","))}"
}
