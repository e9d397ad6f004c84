// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Foundation
import LVM
import Platform
import TestSupport
import Testing
import Volumes
import Wire

/// One of Protocol/helper-vectors.json.
private struct Vector: Decodable {
    struct Fields: Decodable { let standby, volume: String? }
    let name, kind, bytes: String
    let error: String?
    let fields: Fields?
}

private func decode(request bytes: [UInt8]) throws -> HelperRequest {
    try bytes.withRawSpan { (span) throws(WireError) in try HelperRequest(decoding: span) }
}

private func decode(answer bytes: [UInt8]) throws -> HelperAnswer {
    try bytes.withRawSpan { (span) throws(WireError) in try HelperAnswer(decoding: span) }
}

@Suite("Packets of the helper") struct HelperPacketTests {
    @Test(
        "what the specification makes is read and written as the same bytes; the rest is refused for its reason"
    )
    func vectors() throws {
        let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("../../Protocol/helper-vectors.json")
        let all = try JSONDecoder().decode([Vector].self, from: Data(contentsOf: path))
        for vector in all {
            let bytes = try #require(Hex.decode(vector.bytes))
            guard vector.kind != "tag" else {
                try check(tag: String(decoding: bytes, as: UTF8.self), vector)
                continue
            }
            func coded() throws -> [UInt8] {
                vector.kind == "request"
                    ? try decode(request: bytes).encoded() : try decode(answer: bytes).encoded()
            }
            guard let reason = vector.error else {
                #expect(try coded() == bytes, "\(vector.name)")
                continue
            }
            let error = #expect(throws: WireError.self, "\(vector.name)") { try coded() }
            #expect(error?.reason.rawValue == reason, "\(vector.name)")
        }
        print("vectors of the helper: \(all.count)")
        #expect(all.count >= 76)
    }

    /// One that is refused would be the owner's if it were none of the things that are wrong with it.
    private func check(tag: String, _ vector: Vector) throws {
        let standby = try #require(
            Hex.decode(vector.fields?.standby ?? "0001020304050607"))
        let digest = try #require(
            SHA256Digest(bytes: standby + [UInt8](repeating: 9, count: 24)))
        let volume = try #require(VolumeName(vector.fields?.volume ?? "home"))
        let mark = KeptTags(KeptOwner(KeyID(digest), volume)).mark(tag)
        #expect((mark == nil) == (vector.error != nil), "\(vector.name)")
        guard let mark else { return }
        #expect(
            KeptTags(KeptOwner(KeyID(digest), volume)).new(mark) == ["blockferry", tag],
            "\(vector.name)")
        // Of another standby, and of another volume.
        let other = try #require(VolumeName("other"))
        #expect(KeptTags(KeptOwner(KeyID(digest), other)).mark(tag) == nil)
        let another = try #require(SHA256Digest(bytes: [UInt8](repeating: 7, count: 32)))
        #expect(KeptTags(KeptOwner(KeyID(another), volume)).mark(tag) == nil)
    }

    @Test(
        "a packet of which a byte is missing is none, and what is longer than the limit is none of ours"
    )
    func lengths() throws {
        let owner = KeptOwner(
            KeyID(.zero), try #require(VolumeName(String(repeating: "v", count: 63))))
        let mark = GenerationMark(number: 1, id: .zero, sourceTime: 0, committedAt: 0)
        let id = try #require(LogicalVolumeID(String(repeating: "a", count: 64)))
        let request = HelperRequest(id, .keep(owner, mark)).encoded()
        #expect(request.count < HelperRequest.limit)
        for count in 0..<request.count {
            #expect(throws: WireError.self) { try decode(request: Array(request.prefix(count))) }
        }
        let names = "vg/" + String(repeating: "n", count: 254)
        let full = (0..<HelperAnswer.snapshotLimit).map { index in
            KeptGeneration(
                mark, snapshot: names,
                snapshotUUID: "aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-a"
                    + String(10_000 + index), thinDevice: .max)
        }
        let answer = HelperAnswer.kept(full, hasMore: true)
        #expect(answer.encoded().count <= HelperAnswer.limit)
        #expect(try decode(answer: answer.encoded()) == answer)
    }

    @Test("a reason can be anything that a program prints")
    func reasons() throws {
        for reason in ["", "a\nb\u{0}\u{7F}", String(repeating: "ü", count: 2000)] {
            let read = try decode(answer: HelperAnswer.failed(reason, type: 4).encoded())
            guard case .failed(let text, 4) = read else {
                Issue.record("\(read)")
                continue
            }
            #expect(!text.isEmpty && !text.contains("\n"))
        }
    }
}

@Suite("Volumes that the helper is configured for") struct ConfigurationTests {
    private func volume(_ name: String, in group: String) throws -> LogicalVolume {
        try #require(Report(["lv_name": name, "vg_name": group]).volumes().first)
    }

    @Test("one name a line; a line that is none makes the whole file none")
    func lines() throws {
        let found = try #require(ConfiguredVolumes("# mine\n\nvg/home\nmy-vg/a-b+c\n"))
        #expect(found.names == ["vg/home", "my-vg/a-b+c"])
        #expect(found.contains(try volume("home", in: "vg")))
        #expect(!found.contains(try volume("home", in: "vg2")))
        for name in ["vg-home", "my--vg-a--b+c"] { #expect(found.contains(mapperName: name)) }
        for name in ["vg-home2", "my-vg-a-b+c", "vg/home", ""] {
            #expect(!found.contains(mapperName: name))
        }
        for text in [
            "vg", "vg/", "/home", "vg/home ", " vg/home", "/dev/vg/home", "vg/a/b", "vg/../x",
            "-f/x",
            "vg/-x", "vg/home\r", "vg/hö", "vg/home\n#ok\nx y\n",
        ] { #expect(ConfiguredVolumes(text) == nil, "\(text)") }
        #expect(ConfiguredVolumes("") != nil)
    }
}

/// Rows of `lvs`, a thin volume unless said otherwise.
struct Report {
    private let rows: [[String: String]]

    init(_ changes: [String: String]...) {
        rows = changes.map { change in
            [
                "vg_name": "vg", "vg_uuid": "MZcaPs-acja-5UWk-onpH-KkRN-v2FM-pVJKwS",
                "lv_name": "home", "lv_uuid": "vyfkH7-8VZc-OMgF-oYTv-fsvE-gFT1-TEE9nJ",
                "lv_size": "8388608", "lv_tags": "", "segtype": "thin", "pool_lv": "pool",
                "pool_lv_uuid": "p8tOcE-0ehr-vaI3-p35a-PhFQ-OcKk-L2OhH0", "origin": "",
                "origin_uuid": "", "thin_id": "2", "transaction_id": "1", "chunk_size": "0",
                "lv_kernel_major": "-1", "lv_kernel_minor": "-1", "data_percent": "",
                "lv_time": "1795492362", "lv_permissions": "writeable", "lv_merging": "",
                "lv_role": "public", "metadata_percent": "", "vg_mda_size": "1044480",
                "vg_mda_free": "519680",
            ].merging(change) { $1 }
        }
    }

    func volumes() throws -> [LogicalVolume] {
        let text = rows.map { row in
            "{" + row.map { "\"\($0)\":\"\($1)\"" }.joined(separator: ", ") + "}"
        }
        return try LogicalVolume.decode("{\"report\":[{\"lv\":[\(text.joined(separator: ","))]}]}")
    }
}

@Suite("Snapshots that are an owner's") struct KeptTagsTests {
    private static let target = "vyfkH7-8VZc-OMgF-oYTv-fsvE-gFT1-TEE9nJ"
    private static let tags =
        "blockferry,blockferry.standby=0000000000000000,blockferry.volume=home,blockferry.generation=7,"
        + "blockferry.id=\(String(repeating: "0", count: 64)),blockferry.time=1,blockferry.committed=2"
    /// The same in the second form.
    private static let packed =
        "blockferry,bfk2:7:home:\(String(repeating: "A", count: 54))EAAAAAAAAAAgAAAAAAAAA"
    private static let kept = [
        "lv_name": "home_blockferry_g7", "lv_uuid": "BlwnJa-uuSm-VK3x-W4Cu-lnT8-t7C0-8m3hVS",
        "lv_permissions": "read-only", "origin": "home", "origin_uuid": target, "lv_tags": tags,
    ]

    private func own(_ changes: [String: String] = [:]) throws -> [KeptGeneration] {
        let volumes = try Report([:], Self.kept.merging(changes) { $1 }).volumes()
        let owner = KeptOwner(KeyID(.zero), try #require(VolumeName("home")))
        return KeptTags(owner).own(in: volumes, of: try #require(volumes.first))
    }

    private func count(_ changes: [String: String] = [:]) throws -> Int {
        try own(changes).count
    }

    @Test("both forms of tags say the same, and two tags of the second form nothing")
    func forms() throws {
        let first = try own()
        #expect(first.count == 1)
        #expect(first.first?.sourceTime == 1 && first.first?.committedAt == 2)
        #expect(try own(["lv_tags": Self.packed]) == first)
        // The second form counts.
        let other = Self.packed.replacingOccurrences(of: "bfk2:7:", with: "bfk2:8:")
        for tags in [
            "\(Self.tags),\(other)", "\(Self.packed),\(other.dropFirst("blockferry,".count))",
            Self.packed.replacingOccurrences(of: "blockferry,", with: ""),
            Self.packed.replacingOccurrences(of: ":home:", with: ":mail:"),
            Self.packed.replacingOccurrences(of: "home:AAA", with: "home:BAA"), other,
            "\(Self.tags),bfk2:", "\(Self.packed),bfk2:",
        ] { #expect(try count(["lv_tags": tags]) == 0, "\(tags)") }
        #expect(try count(["lv_tags": "\(Self.tags),\(Self.packed.dropFirst(11))"]) == 1)
        let owner = KeptOwner(KeyID(.zero), try #require(VolumeName("home")))
        let mark = try #require(first.first?.mark)
        #expect(
            KeptTags(owner).new(mark) == Self.packed.split(separator: ",").map(String.init))
        #expect(KeptTags(owner).new(mark).joined().utf8.count <= 100)
    }

    @Test("only what has tags, name and origin, and is read-only, is the owner's")
    func proofs() throws {
        #expect(try count() == 1)
        #expect(try count(["lv_name": "home_blockferry_g7_00000000"]) == 1)
        // The volume was renamed since.
        #expect(try count(["lv_name": "old_blockferry_g7"]) == 1)
        // A merge made LVM forget the origin; then the whole name counts, and the pool.
        #expect(try count(["origin": "", "origin_uuid": ""]) == 1)
        for refused in [
            ["origin": "", "origin_uuid": "", "lv_name": "old_blockferry_g7"],
            [
                "origin": "", "origin_uuid": "",
                "pool_lv_uuid": "p8tOcE-0ehr-vaI3-p35a-PhFQ-OcKk-L2OhH1",
            ],
            ["origin_uuid": "BlwnJa-uuSm-VK3x-W4Cu-lnT8-t7C0-8m3hVT"],
            ["lv_permissions": "writeable"], ["lv_merging": "merging"], ["segtype": "linear"],
            ["lv_name": "precious"], ["lv_name": "home_blockferry_g8"],
            ["lv_name": "[home_blockferry_g7]"], ["lv_uuid": Self.target], ["lv_tags": ""],
            ["lv_tags": Self.tags.replacingOccurrences(of: "standby=0", with: "standby=1")],
            ["lv_tags": Self.tags.replacingOccurrences(of: "volume=home", with: "volume=mail")],
            ["lv_tags": Self.tags.replacingOccurrences(of: "generation=7", with: "generation=0")],
            ["lv_tags": Self.tags.replacingOccurrences(of: "committed=2", with: "committed=x")],
            ["lv_tags": Self.tags.replacingOccurrences(of: "blockferry,", with: "")],
        ] { #expect(try count(refused) == 0, "\(refused)") }
    }
}

@Suite("The helper") struct HelperServerTests {
    private let id = String(repeating: "a", count: 64)

    /// What the helper answers to a packet; nil if it closes without an answer.
    private func answer(
        _ packet: [UInt8], configured text: String? = "vg/home\n", mode: Int = 0o600,
        user: UInt32 = Process.effectiveUser
    ) throws -> HelperAnswer? {
        let folder = try TemporaryFolder()
        let path = try folder.write(Array((text ?? "").utf8), as: "volumes")
        try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: path)
        let pair = try Channel.pair()
        pair.far.send(packet)
        HelperServer(
            volumes: text == nil ? path + ".none" : path, user: user, recordIn: "/nonexistent"
        ) { _ in }.serve(pair.near)
        guard pair.far.wait(seconds: 1) else { return nil }
        guard let message = pair.far.receive(HelperAnswer.limit) else { return nil }
        return try decode(answer: message.bytes)
    }

    private func reason(_ answer: HelperAnswer?) -> String {
        switch answer {
        case .refused(let reason, _), .failed(let reason, _): reason
        default: "\(String(describing: answer))"
        }
    }

    @Test("what is no request is refused in words")
    func hostile() throws {
        for packet in [[0], Array("BFLV".utf8), [UInt8](repeating: 1, count: 5000)] {
            let found = try answer(packet)
            #expect(found?.type == 0 && reason(found).contains("request"), "\(reason(found))")
        }
    }

    @Test("without a file that root alone may write nothing is done")
    func configuration() throws {
        let volume = try #require(LogicalVolumeID(id))
        let look = HelperRequest(volume, .look).encoded()
        #expect(reason(try answer(look)).contains("is not active"))
        #expect(reason(try answer(look, configured: nil)).contains("No such file"))
        #expect(reason(try answer(look, mode: 0o666)).contains("can be written by others"))
        #expect(reason(try answer(look, configured: "vg home\n")).contains("no VG/LV"))
        let large = String(repeating: "vg/home\n", count: 10_000)
        #expect(reason(try answer(look, configured: large)).contains("too long"))
    }

    @Test("a change without the volume's lock is refused")
    func lock() throws {
        let volume = try #require(LogicalVolumeID(id))
        let found = try answer(HelperRequest(volume, .activate).encoded())
        #expect(reason(found).contains("lock"), "\(reason(found))")
    }

    @Test(
        "who is neither root nor the daemon's user is not heard",
        .enabled(if: Process.effectiveUser != 0))
    func stranger() throws {
        let volume = try #require(LogicalVolumeID(id))
        #expect(try answer(HelperRequest(volume, .look).encoded(), user: 1) == nil)
    }
}
