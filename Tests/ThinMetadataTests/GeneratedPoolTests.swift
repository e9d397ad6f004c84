// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import TestSupport
import Testing
import ThinMetadata

/// What the independent generator says is in a pool.
struct PoolModel {
    /// Data block and time of each thin block, by device.
    var devices: [UInt32: [UInt64: (data: UInt64, time: UInt64)]] = [:]

    init(_ run: ToolRun) throws {
        for line in run.lines {
            let answer = try JSON(Array(line.utf8))
            var mappings: [UInt64: (data: UInt64, time: UInt64)] = [:]
            for row in answer["runs"].rows {
                for index in 0..<row[2] { mappings[row[0] + index] = (row[1] + index, row[3]) }
            }
            devices[UInt32(try #require(answer["device"].number))] = mappings
        }
    }

    /// The difference by comparing every block.
    func runs(from left: UInt32, to right: UInt32, includesSame: Bool) -> [DifferenceRun] {
        let (left, right) = (devices[left] ?? [:], devices[right] ?? [:])
        var runs: [DifferenceRun] = []
        for block in Set(left.keys).union(right.keys).sorted() {
            let kind: DifferenceKind =
                switch (left[block], right[block]) {
                case (let old?, let new?): old.data == new.data ? .same : .different
                case (_?, nil): .leftOnly
                default: .rightOnly
                }
            if kind == .same, !includesSame { continue }
            if let last = runs.last, last.kind == kind, last.begin + last.length == block {
                runs[runs.count - 1] = DifferenceRun(
                    begin: last.begin, length: last.length + 1, kind: kind)
            } else {
                runs.append(DifferenceRun(begin: block, length: 1, kind: kind))
            }
        }
        return runs
    }
}

@Suite("Generated pools")
struct GeneratedPoolTests {
    static let generator = "\(FixtureFiles.root)/generate/thin_pool.py"
    static let devicesEach = 60

    @Test("20,000 random pairs of snapshots differ as the model says, and thin_delta agrees")
    func pairs() throws {
        var (pairs, restored, agreed, unshared, failures) = (0, 0, 0, 0, 0)
        for seed in 0..<8 * LongRun.rounds {
            let folder = try TemporaryFolder()
            let image = "\(folder.path)/pool"
            let capacity = [6, 9, 30, 252][seed % 4]
            let run = try ToolRun(
                "/usr/bin/python3", Self.generator, "random", "\(seed)", "\(Self.devicesEach)",
                "\(capacity)", image)
            let model = try PoolModel(run)
            let source = CheckedBytes(try folder.read("pool"))
            let reader = try ThinMetadataReader(
                source, root: seed % 2 == 0 ? .current : .metadataSnapshot)
            let ids = reader.devices.map(\.deviceID)
            #expect(Set(ids) == Set(model.devices.keys) && ids.count == Self.devicesEach)
            // The same mappings in trees that share nothing.
            let xml = try folder.write(
                Array(try ThinMetadataReader(source).dump().utf8), as: "pool.xml")
            _ = try folder.write([UInt8](repeating: 0, count: 8 << 20), as: "restored")
            let restoring = try ToolRun(
                "/usr/sbin/thin_restore", ["-i", xml, "-o", "\(folder.path)/restored"])
            // Version 0.9.0 loses count of the references to some pool's blocks, as of seed 191, and gives up.
            let second =
                restoring.status == 0
                ? try ThinMetadataReader(CheckedBytes(try folder.read("restored"))) : nil
            failures += second == nil ? 1 : 0
            for left in ids {
                for right in ids {
                    let expected = model.runs(from: left, to: right, includesSame: false)
                    let found = try reader.runs(from: left, to: right)
                    if found != expected { Issue.record("seed \(seed): \(left) to \(right)") }
                    pairs += 1
                    unshared += expected.isEmpty ? 0 : 1
                    guard (Int(left) * 31 + Int(right)) % 4 == 0 else { continue }
                    if let second {
                        if try second.runs(from: left, to: right) != expected {
                            Issue.record("seed \(seed), restored: \(left) to \(right)")
                        }
                        restored += 1
                    }
                    let all = model.runs(from: left, to: right, includesSame: true)
                    if try reader.runs(from: left, to: right, includesSame: true) != all {
                        Issue.record("seed \(seed), with same: \(left) to \(right)")
                    }
                }
            }
            for index in 0..<25 {
                guard let second else { break }
                let left = ids[index * 7 % ids.count]
                let right = ids[(index * 13 + 5) % ids.count]
                let delta = try ToolRun(
                    "/usr/sbin/thin_delta", "--snap1", "\(left)", "--snap2", "\(right)",
                    "\(folder.path)/restored")
                let text = String(decoding: delta.output, as: UTF8.self)
                #expect(try second.delta(from: left, to: right) == text)
                agreed += 1
            }
            #expect(source.isAligned)
        }
        #expect(pairs >= 20_000 * LongRun.rounds)
        #expect(unshared >= pairs * 3 / 4)
        #expect(failures <= LongRun.rounds / 10)
        print(
            "random pairs: \(pairs) in trees that share nodes (\(unshared) with a difference), "
                + "\(restored) of them in trees that do not, \(agreed) compared with thin_delta; of \(failures) pools "
                + "thin_restore made none")
    }

    @Test("mappings, full lists and content maps agree with the model")
    func mappings() throws {
        let folder = try TemporaryFolder()
        let run = try ToolRun(
            "/usr/bin/python3", Self.generator, "random", "100", "20", "6", "\(folder.path)/pool")
        let model = try PoolModel(run)
        let reader = try ThinMetadataReader(MemoryBytes(try folder.read("pool")))
        let block = reader.superblock.dataBlockByteCount
        for device in reader.devices {
            let expected = try #require(model.devices[device.deviceID])
            var found = 0
            for run in try reader.mappingRuns(of: device.deviceID) {
                for index in 0..<run.length {
                    let place = try #require(expected[run.thinBlock + index])
                    #expect(place == (run.dataBlock + index, UInt64(run.time)))
                    found += 1
                }
            }
            #expect(found == expected.count)
            let map = try reader.contentMap(of: device.deviceID)
            for center in expected.keys.sorted().prefix(40) {
                let start = max(center * block, block / 2) - block / 2
                let extent = try #require(Extent(offset: start, length: 3 * block + 512))
                var covered = start
                for piece in try map.pieces(of: extent) {
                    #expect(piece.extent.offset == covered)
                    while covered < piece.extent.end {
                        let place = expected[covered / block].map {
                            $0.data * block + covered % block
                        }
                        #expect(piece.offset.map { $0 + covered - piece.extent.offset } == place)
                        covered = min((covered / block + 1) * block, piece.extent.end)
                    }
                }
                #expect(covered == extent.end)
            }
        }
    }

    @Test("200 changes among 2 million mappings cost fewer than 1,000 blocks of reading")
    func pruning() throws {
        let folder = try TemporaryFolder()
        let run = try ToolRun(
            "/usr/bin/python3", Self.generator, "bulk", "2000000", "200", "16", "1",
            "\(folder.path)/pool")
        let changed = try JSON(run.output)["changed"].elements.compactMap(\.number)
        let source = CheckedBytes(try folder.read("pool"))
        let reader = try ThinMetadataReader(source)
        #expect(reader.devices.map(\.mappedBlocks) == [2_000_000, 2_000_000])
        let runs = try reader.runs(from: 1, to: 2)
        let found = runs.flatMap { run in (0..<run.length).map { run.begin + $0 } }
        #expect(found == changed)
        #expect(runs.allSatisfy { $0.kind == .different })
        #expect(source.blockReadCount < 1_000)
        print("pruning: \(source.blockReadCount) of \(source.bytes.count / 4096) blocks read")
    }
}
