// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import CDiskTrace
import Catalog
import Digests
import Platform
import Wire

/// A step of a standby's life that is cut at every place: how it begins, what is done, and what may be found afterwards.
struct Scenario {
    let name: String
    let prepare: (ModelStandby) throws -> Void
    let run: (ModelStandby) throws -> Void
    let volumes: [Expected]
    /// Whether the volumes must be all old or all new.
    var isGroup = false

    /// What may be found of one volume.
    struct Expected {
        let name: VolumeName
        let lineage: ModelLineage
        /// What the target held before, and the generation that this was; nothing: the content is nobody's.
        let before: (content: [UInt8], record: GenerationRecord?)
        let generation: ModelGeneration
        let stateBefore: VolumeState
        var hasEnded = false

        var peer: KeyID { lineage.sender }
        var isInPlace: Bool { generation.begin.head.kind == .full || generation.begin.inPlace }
    }
}

/// Volumes of some blocks, and what became of them.
enum Content {
    static let block = 65_536
    static let volume = name("disk")
    static let second = name("logs")

    private static func name(_ text: String) -> VolumeName {
        guard let name = VolumeName(text) else { preconditionFailure("\(text) keeps the rule") }
        return name
    }

    /// Blocks of random bytes, every third one zeros.
    static func random(_ byteCount: Int, _ seed: inout Seeded) -> [UInt8] {
        var content = [UInt8](repeating: 0, count: byteCount)
        for start in stride(from: 0, to: byteCount, by: block) where start / block % 3 != 2 {
            seed.fill(&content, start..<min(start + block, byteCount))
        }
        return content
    }

    /// The units of 4 KiB that differ; one if none does, as a generation without a record has no segment.
    static func differing(_ old: [UInt8], _ new: [UInt8]) -> [Range<Int>] {
        let units = stride(from: 0, to: new.count, by: 4096).map { $0..<min($0 + 4096, new.count) }
        let found = units.filter { old[$0] != new[$0] }
        return found.isEmpty ? [0..<4096] : found
    }

    /// Changes ranges of 4 KiB and whole blocks, some to zeros; gives them back, ascending.
    static func change(_ content: inout [UInt8], _ count: Int, _ seed: inout Seeded) -> [Range<Int>]
    {
        let units = content.count / 4096
        var chosen: Set<Int> = []
        while chosen.count < min(count, units) {
            chosen.insert(Int.random(in: 0..<units, using: &seed))
        }
        var ranges: [Range<Int>] = []
        for unit in chosen.sorted() {
            let start = unit * 4096
            if let last = ranges.last, last.upperBound > start { continue }
            let isBlock =
                start % block == 0 && start + block <= content.count && Bool.random(using: &seed)
            ranges.append(start..<start + (isBlock ? block : 4096))
        }
        // The ragged end of a volume whose size is no multiple of 4 KiB.
        if content.count % 4096 != 0 { ranges.append(units * 4096..<content.count) }
        for (index, range) in ranges.enumerated() {
            if index % 4 == 3 {
                content.replaceSubrange(range, with: [UInt8](repeating: 0, count: range.count))
            } else {
                seed.fill(&content, range)
            }
        }
        return ranges
    }

    /// The whole volume in records.
    static func everything(_ byteCount: Int) -> [Range<Int>] {
        stride(from: 0, to: byteCount, by: block).map { $0..<min($0 + block, byteCount) }
    }
}

/// Random numbers that the seed alone decides (SplitMix64).
struct Seeded: RandomNumberGenerator {
    private var state: UInt64
    init(_ seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    mutating func fill(_ bytes: inout [UInt8], _ range: Range<Int>) {
        for start in stride(from: range.lowerBound, to: range.upperBound, by: 8) {
            var word = next()
            for index in start..<min(start + 8, range.upperBound) {
                bytes[index] = UInt8(truncatingIfNeeded: word) | 1
                word >>= 8
            }
        }
    }
}

extension Scenario {
    /// All of them, from one seed.
    static func all(_ seed: UInt64) throws -> [Scenario] {
        var seeded = Seeded(seed)
        return [
            try increment("increment", 4 * Content.block, changes: 24, &seeded),
            try increment(
                "increment of a volume of odd size", 5 * Content.block + 9728, changes: 6, &seeded),
            try resized("growth", from: 4 * Content.block + 512, to: 6 * Content.block, &seeded),
            try resized(
                "shrinking", from: 6 * Content.block, to: 4 * Content.block + 1536, &seeded),
            try full("full copy", onEmpty: false, &seeded),
            try full("full copy to an empty file", onEmpty: true, &seeded),
            try resync("resync", inPlace: false, &seeded),
            try resync("resync in place", inPlace: true, &seeded),
            try promotion(&seeded),
            try group(&seeded),
        ]
    }

    private static func first(
        _ content: [UInt8], _ lineage: ModelLineage, group: Group? = nil
    ) throws -> ModelGeneration {
        try ModelGeneration(
            .full, content, ranges: Content.everything(content.count), perSegment: 4,
            lineage: lineage, parent: nil, group: group)
    }

    private static func prepared(
        _ standby: ModelStandby, _ name: VolumeName, _ first: ModelGeneration,
        _ lineage: ModelLineage
    ) throws {
        try standby.add(
            name, lineage.sender, [UInt8](repeating: 0, count: first.content.count))
        guard try standby.send(first, to: name, lineage.sender) else {
            throw Violation("the first copy was not committed")
        }
    }

    private static func following(
        _ name: String, _ first: ModelGeneration, _ next: ModelGeneration, _ lineage: ModelLineage
    ) -> Scenario {
        Scenario(
            name: name, prepare: { try prepared($0, Content.volume, first, lineage) },
            run: { _ = try $0.send(next, to: Content.volume, lineage.sender) },
            volumes: [
                Expected(
                    name: Content.volume, lineage: lineage, before: (first.content, first.record),
                    generation: next, stateBefore: .consistent)
            ])
    }

    private static func increment(
        _ name: String, _ byteCount: Int, changes: Int, _ seeded: inout Seeded
    ) throws -> Scenario {
        let lineage = ModelLineage()
        var content = Content.random(byteCount, &seeded)
        let first = try first(content, lineage)
        let ranges = Content.change(&content, changes, &seeded)
        let next = try ModelGeneration(
            .delta, content, ranges: ranges, perSegment: 5, lineage: lineage, parent: first.record)
        return following(name, first, next, lineage)
    }

    private static func resized(
        _ name: String, from old: Int, to new: Int, _ seeded: inout Seeded
    ) throws -> Scenario {
        let lineage = ModelLineage()
        var content = Content.random(old, &seeded)
        let first = try first(content, lineage)
        var ranges = Content.change(&content, 4, &seeded)
        if new > old {
            var grown = [UInt8](repeating: 0, count: new - old)
            seeded.fill(&grown, 0..<grown.count - 4096)
            content.append(contentsOf: grown)
            ranges.append(old..<new)
        } else {
            content.removeLast(old - new)
            ranges = ranges.filter { $0.upperBound <= new }
        }
        let next = try ModelGeneration(
            .delta, content, ranges: ranges, perSegment: 3, lineage: lineage, parent: first.record)
        return following(name, first, next, lineage)
    }

    private static func full(
        _ name: String, onEmpty: Bool, _ seeded: inout Seeded
    ) throws -> Scenario {
        let lineage = ModelLineage()
        let content = Content.random(5 * Content.block + 512, &seeded)
        let old = onEmpty ? [] : Content.random(5 * Content.block + 512, &seeded)
        let first = try first(content, lineage)
        return Scenario(
            name: name, prepare: { try $0.add(Content.volume, lineage.sender, old) },
            run: { _ = try $0.send(first, to: Content.volume, lineage.sender) },
            volumes: [
                Expected(
                    name: Content.volume, lineage: lineage, before: (old, nil), generation: first,
                    stateBefore: .empty)
            ])
    }

    private static func resync(
        _ name: String, inPlace: Bool, _ seeded: inout Seeded
    ) throws -> Scenario {
        let lineage = ModelLineage()
        let other = ModelLineage()
        var content = Content.random(6 * Content.block, &seeded)
        let first = try first(content, lineage)
        let changed = Content.change(&content, 6, &seeded)
        let blocks = Set(changed.map { $0.lowerBound / Content.block }).sorted()
        let used = inPlace ? other : lineage
        let next = try ModelGeneration(
            .resync, content,
            ranges: blocks.map { $0 * Content.block..<($0 + 1) * Content.block }, perSegment: 2,
            lineage: used, parent: inPlace ? nil : first.record,
            comparedRoot: used.root(first.content), inPlace: inPlace)
        return Scenario(
            name: name, prepare: { try prepared($0, Content.volume, first, lineage) },
            run: { _ = try $0.send(next, to: Content.volume, lineage.sender) },
            volumes: [
                Expected(
                    name: Content.volume, lineage: used, before: (first.content, first.record),
                    generation: next, stateBefore: .consistent)
            ])
    }

    /// An increment that has begun, then the standby is promoted.
    private static func promotion(_ seeded: inout Seeded) throws -> Scenario {
        let lineage = ModelLineage()
        var content = Content.random(4 * Content.block, &seeded)
        let first = try first(content, lineage)
        let ranges = Content.change(&content, 5, &seeded)
        let next = try ModelGeneration(
            .delta, content, ranges: ranges, perSegment: 2, lineage: lineage, parent: first.record)
        return Scenario(
            name: "promotion", prepare: { try prepared($0, Content.volume, first, lineage) },
            run: { standby in
                let session = standby.connect(lineage.sender, Content.volume)
                _ = try session.open()
                _ = try session.begin(next.begin)
                try session.segment(next, 0)
                session.close()
                try standby.promote(Content.volume)
            },
            volumes: [
                Expected(
                    name: Content.volume, lineage: lineage, before: (first.content, first.record),
                    generation: next, stateBefore: .consistent, hasEnded: true)
            ])
    }

    /// Two volumes that are committed together.
    private static func group(_ seeded: inout Seeded) throws -> Scenario {
        let group = Group(id: .random(), members: 2)
        var volumes: [Expected] = []
        var firsts: [ModelGeneration] = []
        for name in [Content.volume, Content.second] {
            let lineage = ModelLineage()
            var content = Content.random(3 * Content.block, &seeded)
            let first = try first(content, lineage)
            let ranges = Content.change(&content, 3, &seeded)
            let next = try ModelGeneration(
                .delta, content, ranges: ranges, perSegment: 3, lineage: lineage,
                parent: first.record, group: group)
            firsts.append(first)
            volumes.append(
                Expected(
                    name: name, lineage: lineage, before: (first.content, first.record),
                    generation: next, stateBefore: .consistent))
        }
        return Scenario(
            name: "group of two",
            prepare: { [volumes] standby in
                for (volume, first) in zip(volumes, firsts) {
                    try prepared(standby, volume.name, first, volume.lineage)
                }
            },
            run: { [volumes] standby in
                for volume in volumes {
                    _ = try standby.send(volume.generation, to: volume.name, volume.peer)
                }
            }, volumes: volumes, isGroup: true)
    }
}
