// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import LVM
import Platform
import Testing

@Suite("What lvs reports") struct LogicalVolumeTests {
    /// Rows as LVM 2.03.16 prints them, with `changes` made to the first.
    private static func report(_ changes: [String: String] = [:]) -> String {
        var snapshot = [
            "vg_name": "my-vg", "vg_uuid": "MZcaPs-acja-5UWk-onpH-KkRN-v2FM-pVJKwS",
            "lv_name": "c1",
            "lv_uuid": "vyfkH7-8VZc-OMgF-oYTv-fsvE-gFT1-TEE9nJ", "lv_size": "8388608",
            "lv_tags": "",
            "segtype": "linear", "pool_lv": "", "pool_lv_uuid": "", "origin": "th-ick",
            "origin_uuid": "X13V5D-eHpd-ZGRP-JT5y-GFrP-32PS-5wddY3", "thin_id": "",
            "transaction_id": "", "chunk_size": "4096", "lv_kernel_major": "254",
            "lv_kernel_minor": "9", "data_percent": "0.00", "lv_time": "1795492362",
            "lv_permissions": "read-only", "lv_merging": "",
            "lv_role": "public,snapshot,thicksnapshot", "metadata_percent": "",
            "vg_mda_size": "1044480", "vg_mda_free": "519680",
        ]
        var thin = snapshot
        thin.merge([
            "lv_name": "s1", "lv_uuid": "BlwnJa-uuSm-VK3x-W4Cu-lnT8-t7C0-8m3hVS",
            "lv_size": "67108864",
            "lv_tags": "blockferry,blockferry.to=standby", "segtype": "thin", "pool_lv": "[po-ol]",
            "pool_lv_uuid": "p8tOcE-0ehr-vaI3-p35a-PhFQ-OcKk-L2OhH0", "origin": "th-in",
            "thin_id": "2",
            "transaction_id": "1", "chunk_size": "0", "lv_kernel_major": "-1",
            "lv_kernel_minor": "-1",
            "lv_permissions": "unknown", "lv_role": "public,snapshot,thinsnapshot",
        ]) { $1 }
        var hidden = snapshot
        hidden.merge([
            "lv_name": "[po-ol_tmeta]", "lv_uuid": "MDNU4p-G1aF-ntQc-ilqR-ya5U-T4iD-5vSONm",
            "origin": "", "origin_uuid": "", "lv_role": "private,thin,pool,metadata",
        ]) { $1 }
        snapshot.merge(changes) { $1 }
        let rows = [snapshot, thin, hidden, snapshot].map { row in
            "{" + row.map { "\"\($0)\":\"\($1)\"" }.joined(separator: ", ") + "}"
        }
        return "{\"report\":[{\"lv\":[\(rows.joined(separator: ","))]}]}"
    }

    @Test(
        "classic and thin snapshots and hidden volumes are told apart, and rows of one volume merged"
    )
    func kinds() throws {
        let volumes = try LogicalVolume.decode(Self.report())
        #expect(volumes.map(\.name) == ["c1", "s1", "po-ol_tmeta"])
        #expect(volumes[0].kind == .snapshot)
        #expect(volumes[0].device == DeviceNumber(major: 254, minor: 9))
        #expect(volumes[0].isReadOnly)
        #expect(volumes[0].chunkByteCount == 4096)
        #expect(
            volumes[1].kind
                == .thin(
                    pool: "po-ol", poolUUID: "p8tOcE-0ehr-vaI3-p35a-PhFQ-OcKk-L2OhH0", deviceID: 2,
                    transactionID: 1))
        #expect(volumes[1].device == nil)
        #expect(volumes[1].tags == ["blockferry", "blockferry.to=standby"])
        #expect(volumes[2].kind == .component)
        #expect(
            volumes[0].groupText == GroupText(areaByteCount: 1_044_480, freeByteCount: 519_680))
        let pool = try LogicalVolume.decode(Self.report(["metadata_percent": "12.50"]))
        #expect(pool[0].metadataPercent == 12.5 && pool[1].metadataPercent == nil)
    }

    @Test("LVM's text of a group has a half of its metadata area, and a twentieth of that is left")
    func groupText() throws {
        let text = try GroupText(report: "   1044480 519680\n")
        #expect(text == GroupText(areaByteCount: 1_044_480, freeByteCount: 519_680))
        #expect(text.limit == 521_472)
        #expect(text.reserve == 26_073)
        for (area, limit) in [
            (0, 0), (1, 0), (1536, 0), (1538, 1), (UInt64.max, UInt64.max / 2 - 768),
        ] {
            #expect(GroupText(areaByteCount: area, freeByteCount: 0).limit == limit)
        }
        for report in ["", "1", "1 2 3", "1044480B 519680", "-1 0", "  No volume group found"] {
            #expect(throws: LVMError.self) { try GroupText(report: report) }
        }
    }

    @Test("what a snapshot needs room in is told from 80 percent on")
    func fullness() {
        let empty = GroupText(areaByteCount: 1_044_480, freeByteCount: 521_472)
        func told(
            _ text: GroupText, data: Double? = nil, metadata: Double? = nil
        ) -> [String] {
            SnapshotRoom.warnings(
                of: "volume group vg", text,
                pool: ("thin pool vg/pool", data: data, metadata: metadata))
        }
        for percent in [nil, 0, 79.99, -.infinity, .infinity, .nan] as [Double?] {
            #expect(told(empty, data: percent, metadata: percent).isEmpty, "\(percent ?? -1)")
        }
        #expect(told(GroupText(areaByteCount: 0, freeByteCount: 0)).isEmpty)
        #expect(told(GroupText(areaByteCount: 2, freeByteCount: .max)).isEmpty)
        let data = told(empty, data: 80)
        #expect(data.count == 1 && data[0].contains("thin pool vg/pool is 80 % full"))
        let metadata = told(empty, metadata: 1e300)
        #expect(
            metadata.count == 1
                && metadata[0].contains("metadata of the thin pool vg/pool is 100 %"))
        let most = GroupText(areaByteCount: 1_044_480, freeByteCount: 104_295)
        #expect(told(most).isEmpty)
        let full = told(
            GroupText(areaByteCount: 1_044_480, freeByteCount: 104_294), data: 99, metadata: 90)
        #expect(
            full.count == 3
                && full[2].contains("LVM's metadata of the volume group vg is 80 % full"))
        #expect(
            SnapshotRoom.warnings(
                of: "volume group vg", GroupText(areaByteCount: 1_044_480, freeByteCount: 0),
                pool: nil
            )
            .count == 1)
    }

    @Test(
        "a row with a field missing or out of form is refused",
        arguments: [
            ["lv_size": "8m"], ["lv_size": ""], ["lv_size": "99999999999999999999"],
            ["metadata_percent": "x"], ["vg_mda_size": ""], ["vg_mda_free": "1k"],
            ["segtype": "thin"], ["segtype": "thin", "thin_id": "x", "transaction_id": "1"],
        ])
    func malformed(_ changes: [String: String]) {
        #expect(throws: LVMError.self) { try LogicalVolume.decode(Self.report(changes)) }
    }

    @Test(
        "what is no report is refused",
        arguments: ["", "{}", "[]", "{\"report\":[{}]}", "{\"report\":[{\"lv\":[{}]}]}", "\u{0}"])
    func noReport(_ text: String) {
        #expect(throws: LVMError.self) { try LogicalVolume.decode(text) }
    }

    @Test("numbers of devices")
    func deviceNumbers() {
        #expect(DeviceNumber("253:4") == DeviceNumber(major: 253, minor: 4))
        for text in ["", ":", "253", "253:", ":4", "253:4:1", "253:-1", "a:b", "4294967296:1"] {
            #expect(DeviceNumber(text) == nil)
        }
    }

    @Test("the room of a pool is what its table and its status say")
    func poolRoom() throws {
        let device = DeviceNumber(major: 253, minor: 4)
        let table = try DeviceMapper.PoolTable(
            ["thin-pool", "253:1", "253:2", "128", "0", "0"], of: device)
        #expect(table.blockByteCount == 65536)
        let status = try DeviceMapper.PoolStatus(
            ["thin-pool", "1", "20/2048", "100/256", "-", "rw", "discard_passdown"], of: device)
        #expect((status.blocks, status.freeBlocks) == (256, 156))
        #expect((status.metadataBlocks, status.freeMetadataBlocks) == (2048, 2028))
        #expect(try DeviceMapper.thinSectors(["thin", "1280", "2047"], of: device) == 1280)
        #expect(try DeviceMapper.thinSectors(["thin", "0", "-"], of: device) == 0)
        for words in [
            ["thin", "Fail"], ["thin", "-1", "2"], ["thin", "1"], ["linear", "1", "2"],
        ] {
            #expect(throws: LVMError.self) { try DeviceMapper.thinSectors(words, of: device) }
        }
        for used in ["257/256", "256", "x/256", "1/2/3"] {
            #expect(throws: LVMError.self) {
                try DeviceMapper.PoolStatus(
                    ["thin-pool", "1", "20/2048", used, "-", "rw"], of: device)
            }
            #expect(throws: LVMError.self) {
                try DeviceMapper.PoolStatus(
                    ["thin-pool", "1", used, "20/2048", "-", "rw"], of: device)
            }
        }
        for sectors in ["0", "-1", "x", "4294967296"] {
            #expect(throws: LVMError.self) {
                try DeviceMapper.PoolTable(
                    ["thin-pool", "253:1", "253:2", sectors], of: device)
            }
        }
    }

    @Test("blocks that extents touch are counted once, and never too many")
    func touchedBlocks() throws {
        func count(_ extents: [(UInt64, UInt64)]) throws -> UInt64 {
            var counter = PoolBlockCounter(blockByteCount: 65536)
            for (offset, length) in extents {
                counter.add(try #require(Extent(offset: offset, length: length)))
            }
            return counter.count
        }
        #expect(try count([]) == 0)
        #expect(try count([(0, 1), (1, 65535)]) == 1)
        #expect(try count([(65535, 2)]) == 2)
        #expect(try count([(0, 4096), (8192, 4096), (65536, 131072)]) == 3)
        // Out of order, which no sender does, there may be fewer.
        #expect(try count([(1 << 20, 65536), (0, 65536)]) == 1)
    }
}
