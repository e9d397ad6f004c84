// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

extension CommandTests {
    @Suite(.serialized) struct EndToEndTests {
        private static let thin = "kernel/thin-64k"
        private static let chain = "kernel/cow-chain-16k"

        /// How the target and the network are to be.
        enum Variant: String, CaseIterable {
            case file, fileCompressed, device

            var arguments: [String] { self == .fileCompressed ? ["--compress", "always"] : [] }
        }

        /// A pairing whose target is what the variant says; the device lives as long as it is held.
        private func pairing(
            _ variant: Variant, byteCount: UInt64
        ) throws -> (Pairing, LoopDevice?, TemporaryFolder)? {
            let folder = try TemporaryFolder()
            guard variant == .device else { return (try Pairing(), nil, folder) }
            guard LoopDevice.isAvailable else { return nil }
            let device = try LoopDevice(byteCount: (byteCount + 4095) / 4096 * 4096, in: folder)
            return (try Pairing(target: device.path), device, folder)
        }

        private func check(_ pair: Pairing, _ expected: String?, _ byteCount: UInt64) throws {
            try #expect(
                digest(pair.target, first: Int(byteCount)) == #require(expected),
                "target of \(pair.volume)")
        }

        @Test("every generation of a thin device arrives as the kernel showed it")
        func thinGenerations() throws {
            var checked = 0
            let images = try TemporaryFolder()
            let metadata = try unpack("\(Self.thin)/tmeta-held-offline.img.zst", in: images)
            let data = try unpack("\(Self.thin)/tdata.img.zst", in: images)
            let manifest = try FixtureFiles.json("\(Self.thin)/manifest.json")
            let size: UInt64 = 134_217_728
            for variant in Variant.allCases {
                guard let (pair, device, folder) = try pairing(variant, byteCount: size) else {
                    continue
                }
                for (number, name) in ["s0", "s1", "s2"].enumerated() {
                    let id = try #require(manifest["devices"][name]["dev_id"].number)
                    let result = try pair.source.mustSend(
                        [
                            "--thin-metadata", metadata, "--thin-data", data, "--device", "\(id)",
                            "--volume-size", "\(size)",
                        ] + variant.arguments, to: pair.volume)
                    #expect(result["result"].string == (number == 0 ? "full" : "delta"))
                    #expect(result["generation"].number == UInt64(number + 1))
                    if number > 0 {
                        let wire = try #require(result["bytes_on_wire"].number)
                        #expect(wire < size / 4, "a delta is no full copy")
                    }
                    try check(pair, manifest["generations"][name].string, size)
                    checked += 1
                }
                withExtendedLifetime((device, folder)) {}
            }
            report("thin generations compared: \(checked)")
            #expect(checked >= 6)
        }

        @Test("a classic snapshot of seven metadata areas arrives whole")
        func classicFull() throws {
            var checked = 0
            let images = try TemporaryFolder()
            let origin = try unpack("kernel/cow-4k/origin.img.zst", in: images)
            let store = try unpack("kernel/cow-4k/cow.img.zst", in: images)
            let manifest = try FixtureFiles.json("kernel/cow-4k/manifest.json")
            let size = try #require(manifest["origin_bytes"].number)
            for variant in Variant.allCases {
                guard let (pair, device, folder) = try pairing(variant, byteCount: size) else {
                    continue
                }
                _ = try pair.source.mustSend(
                    ["--cow-origin", origin, "--cow-store", store] + variant.arguments,
                    to: pair.volume)
                try check(pair, manifest["generations"]["snapshot"].string, size)
                checked += 1
                withExtendedLifetime((device, folder)) {}
            }
            report("classic snapshots compared: \(checked)")
            #expect(checked >= 2)
        }

        @Test("a chain of classic snapshots and then the origin arrive as increments")
        func classicChain() throws {
            var checked = 0
            let images = try TemporaryFolder()
            let origin = try unpack("\(Self.chain)/origin.img.zst", in: images)
            let stores = try ["s0", "s1", "s2"].map {
                try unpack("\(Self.chain)/cow-\($0).img.zst", in: images)
            }
            let manifest = try FixtureFiles.json("\(Self.chain)/manifest.json")
            let size = try #require(manifest["origin_bytes"].number)
            for variant in Variant.allCases {
                guard let (pair, device, folder) = try pairing(variant, byteCount: size) else {
                    continue
                }
                for (number, name) in ["s0", "s1", "s2", "origin"].enumerated() {
                    var arguments = ["--cow-origin", origin] + variant.arguments
                    if name != "origin" { arguments += ["--cow-store", stores[number]] }
                    if number > 0 { arguments += ["--base-store", stores[number - 1]] }
                    let result = try pair.source.mustSend(arguments, to: pair.volume)
                    #expect(result["result"].string == (number == 0 ? "full" : "delta"))
                    if number > 0 {
                        #expect(try #require(result["bytes_on_wire"].number) < size / 2)
                    }
                    try check(pair, manifest["generations"][name].string, size)
                    checked += 1
                }
                withExtendedLifetime((device, folder)) {}
            }
            report("generations of a classic chain compared: \(checked)")
            #expect(checked >= 8)
        }

        @Test("a sparse file whose size is odd arrives, again and again as it changes")
        func plainFile() throws {
            var checked = 0
            for variant in Variant.allCases {
                let size: UInt64 = 20 << 20 + 12_345
                guard let (pair, device, folder) = try pairing(variant, byteCount: size) else {
                    continue
                }
                let path = try folder.write([], as: "plain.img")
                try setSize(path, size)
                var numbers = SeededNumbers(seed: 77)
                for round in 0..<4 {
                    let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
                    for _ in 0..<6 {
                        let count = Int(numbers.next() % 300_000) + 1
                        let place = numbers.next() % (size - UInt64(count))
                        try file.seek(toOffset: place)
                        try file.write(
                            contentsOf: Data(
                                (0..<count).map { _ in
                                    UInt8(truncatingIfNeeded: numbers.next())
                                }))
                    }
                    if round == 1 {
                        // The last, odd bytes too.
                        try file.seek(toOffset: size - 7)
                        try file.write(contentsOf: Data([1, 2, 3, 4, 5, 6, 7]))
                    }
                    try file.close()
                    let result = try pair.source.mustSend(
                        [path] + variant.arguments, to: pair.volume)
                    #expect(result["volume_bytes"].number == size)
                    try check(pair, digest(path), size)
                    checked += 1
                    let again = try pair.source.mustSend([path], to: pair.volume)
                    #expect(again["result"].string == "up-to-date")
                }
                withExtendedLifetime((device, folder)) {}
            }
            report("versions of a plain file compared: \(checked)")
            #expect(checked >= 8)
        }
    }
}
