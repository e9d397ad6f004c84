// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Digests
import MapStore
import Platform
import TagMap
import Wire

/// What a sender was told until the power went.
struct Promises {
    var acknowledged: UInt64 = 0
    var committed = 0
}

/// What must hold of a volume after a crash and its recovery, without the sender.
enum Invariants {
    /// - Returns: whether it holds the new generation.
    static func check(
        _ expected: Scenario.Expected, _ volume: StandbyVolume, _ target: [UInt8],
        _ promises: Promises, _ root: String
    ) throws -> Bool {
        let new = expected.generation
        let isNew = volume.committed?.id == new.record.id
        switch volume.state {
        case .consistent, .promoted:
            if volume.state == .promoted, !expected.hasEnded { throw Violation("promoted") }
            let content = isNew ? new.content : expected.before.content
            guard isNew || volume.committed?.id == expected.before.record?.id else {
                throw Violation("an unknown generation is committed")
            }
            try compare(target, content)
        case .staging, .prepared:
            guard !isNew, volume.committed?.id == expected.before.record?.id else {
                throw Violation("\(volume.state) with another generation")
            }
            try compare(target, expected.before.content)
        case .empty where expected.stateBefore == .empty:
            break
        case .initialising where expected.isInPlace:
            break
        default:
            throw Violation("the state is \(volume.state): \(volume.suspectReason ?? "")")
        }
        if promises.committed > 0, !isNew { throw Violation("what was committed is not there") }
        if !isNew, !expected.hasEnded, promises.acknowledged > 0 {
            guard volume.transfer?.begin.transfer == new.begin.transfer else {
                throw Violation("acknowledged segments are gone")
            }
        }
        try checkMap(expected, volume, root)
        return isNew
    }

    private static func compare(_ found: [UInt8], _ content: [UInt8]) throws {
        if found.isSame(as: content) { return }
        let place = zip(found, content).enumerated().first { $1.0 != $1.1 }?.offset
        throw Violation(
            "the target is torn: \(found.count) bytes, \(content.count) expected, first difference at "
                + "byte \(place.map(String.init) ?? "none")")
    }

    /// The map is that of the committed generation and right, or is none that anybody would believe.
    private static func checkMap(
        _ expected: Scenario.Expected, _ volume: StandbyVolume, _ root: String
    ) throws {
        let path = "\(root)/standby/maps/\(expected.name).map"
        guard let record = volume.committed, Directory.exists(path),
            let map = try? TagMapFile(opening: path), map.header.generation == record.id
        else { return }
        let isNew = record.id == expected.generation.record.id
        guard map.root == record.volumeRoot else {
            throw Violation("the tag map says that it is the generation's, and has another root")
        }
        guard isNew else { return }
        var page = expected.lineage.entries(expected.generation.content)
        page.append(contentsOf: [UInt8](repeating: 0, count: MapShape.unit - page.count))
        guard try map.entries(ofPage: 0) == page else { throw Violation("the tag map is wrong") }
    }
}
