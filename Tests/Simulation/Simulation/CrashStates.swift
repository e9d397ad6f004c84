// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Platform
import Wire

/// Enumerates what a power cut can leave of a scenario, and runs the real recovery on it.
///
/// After each operation the disk holds what was flushed, and any choice of what was not. A choice without the last
/// operation was made before it, so that each state is counted once: with n operations pending there are 2^(n-1) new ones,
/// and those in which the last write is torn. Up to `exhaustive` pending operations all are made, beyond that the
/// prefixes, every omission of one and of two, and random ones.
///
/// States that differ in the target's bytes alone need not all be executed where the recovery was seen to read nothing of
/// the target: it does the same in all of them, and what it writes is laid over the target's bytes. One in `executedEvery` is
/// executed all the same, and must agree.
final class CrashStates {
    struct Counts {
        var states = 0
        var executed = 0
        var overlaid = 0
        var agreed = 0
        var old = 0
        var new = 0
        var continued = 0
        var nested = 0
        var cuts = 0
    }

    private let work: WorkDirectory
    private let scenario: Scenario
    private let share: (index: Int, of: Int)
    private let continuedEvery: Int
    private let nestedEvery: Int
    private var seeded: Seeded
    private(set) var counts = Counts()
    /// Executed states until the next that is continued, and, of a first cut, the next whose recovery is cut in turn.
    private var untilContinued = 0
    private var untilNested = 0

    /// Pending operations up to which every choice is made: executed, and laid over.
    static let exhaustive = 9
    static let overlaidExhaustive = 19
    /// One in so many of the states that are laid over is executed.
    static let executedEvery = 256

    init(
        _ work: WorkDirectory, _ scenario: Scenario, seed: UInt64, share: (index: Int, of: Int),
        continuedEvery: Int, nestedEvery: Int
    ) {
        self.work = work
        self.scenario = scenario
        self.share = share
        self.continuedEvery = continuedEvery
        self.nestedEvery = nestedEvery
        seeded = Seeded(seed)
        untilNested = nestedEvery / 2
    }

    func run() throws {
        let (start, operations) = try work.record(scenario)
        try explore(operations, from: start, depth: 0, Promises())
    }

    private func explore(
        _ operations: [Operation], from start: Image, depth: Int, _ given: Promises
    ) throws {
        var disk = Disk(start)
        var promises = given
        var overlays: [UInt64: Overlay] = [:]
        for operation in operations {
            if case .mark(let number) = operation {
                if number == Conversation.Mark.committed {
                    promises.committed += 1
                } else {
                    promises.acknowledged = number
                }
            }
            let isNew = disk.take(operation)
            let isTargets = disk.lastIsData(in: targets)
            if !isTargets { overlays = [:] }
            guard isNew else { continue }
            counts.cuts += 1
            try visit(disk, depth, promises, isTargets ? overlays : nil) { overlays = $0 }
        }
    }

    private lazy var targets = Set(scenario.volumes.map { "\(work.path)/\($0.name).copy" })

    /// What a recovery does to the targets, as long as nothing but their bytes differs.
    private struct Overlay {
        var writes: [String: [Change]]?
        var sinceExecuted = 0
    }

    /// Checks the states that the last operation has brought.
    private func visit(
        _ disk: Disk, _ depth: Int, _ promises: Promises, _ known: [UInt64: Overlay]?,
        keep: ([UInt64: Overlay]) -> Void
    ) throws {
        let last = disk.pending.count - 1
        let hasNames = disk.pending.contains { $0.directory != nil }
        var overlays = known ?? [:]
        func state(
            _ isChosen: @escaping (Int) -> Bool, _ group: UInt64?,
            torn: (index: Int, part: Range<Int>)? = nil
        ) throws {
            counts.states += 1
            // Shares are cut by number; a state of another share is counted there.
            guard counts.states / 64 % share.of == share.index else { return }
            let image = { disk.image(isChosen, torn: torn) }
            guard let group else { return _ = try execute(image(), depth, promises) }
            let bytes = { path in disk.bytes(of: path, isChosen, torn: torn) }
            try check(image, bytes, depth, promises, &overlays[group, default: Overlay()])
        }
        func tear(_ isChosen: @escaping (Int) -> Bool, _ group: UInt64?) throws {
            guard case .data(_, .write(_, let bytes)) = disk.pending[last], bytes.count > 512 else {
                return
            }
            for cut in Self.cuts(bytes.count) {
                try state(isChosen, group, torn: (last, 0..<cut))
                try state(isChosen, group, torn: (last, cut..<bytes.count))
            }
        }
        if known == nil {
            let exhaustive = last <= Self.exhaustive
            let choices = exhaustive ? Self.all(last) : sample(last)
            for choice in choices {
                let isChosen = { (index: Int) in index == last || choice(index) }
                if hasNames, !disk.isPossible(isChosen) { continue }
                try state(isChosen, nil)
            }
            for choice in [{ _ in true }, { _ in false }] as [(Int) -> Bool] {
                let isChosen = { (index: Int) in index == last || choice(index) }
                if !hasNames || disk.isPossible(isChosen) { try tear(isChosen, nil) }
            }
        } else {
            let target = disk.indices(in: targets).dropLast()
            let others = disk.pending.indices.filter { $0 != last && !target.contains($0) }
            let othersChoices = others.count <= 4 ? Self.all(others.count) : sample(others.count)
            for (group, choice) in othersChoices.enumerated() {
                var chosen = Set(others.enumerated().filter { choice($0.offset) }.map(\.element))
                chosen.insert(last)
                if hasNames, !disk.isPossible({ chosen.contains($0) }) { continue }
                let isWhole = chosen.count == others.count + 1
                let limit = depth == 0 && isWhole ? Self.overlaidExhaustive : Self.exhaustive
                let choices = target.count <= limit ? Self.all(target.count) : sample(target.count)
                let place = Dictionary(uniqueKeysWithValues: target.enumerated().map { ($1, $0) })
                for (number, choice) in choices.enumerated() {
                    let isChosen = { (index: Int) in
                        place[index].map(choice) ?? chosen.contains(index)
                    }
                    try state(isChosen, UInt64(group))
                    if number == 0 || number == choices.count - 1 {
                        try tear(isChosen, UInt64(group))
                    }
                }
            }
        }
        keep(overlays)
    }

    /// Every choice of so many.
    private static func all(_ count: Int) -> [(Int) -> Bool] {
        (0..<(1 << count)).map { mask in { mask >> $0 & 1 == 1 } }
    }

    /// Prefixes, omissions of one and of two, and random choices.
    private func sample(_ count: Int) -> [(Int) -> Bool] {
        var choices: [(Int) -> Bool] = (0...count).map { end in { $0 < end } }
        for first in 0..<count {
            choices.append { $0 != first }
            for second in first + 1..<max(count, first + 1) {
                choices.append { $0 != first && $0 != second }
            }
        }
        for _ in 0..<64 {
            let words = (0..<4).map { _ in seeded.next() }
            choices.append { words[$0 / 64 % 4] >> ($0 % 64) & 1 == 1 }
        }
        return choices
    }

    private static func cuts(_ count: Int) -> [Int] {
        var cuts = [512]
        for place in stride(from: 4096, to: count, by: max(4096, count / 4 / 4096 * 4096)) {
            cuts.append(place)
        }
        return cuts.filter { $0 < count }
    }

    // MARK: One state

    /// Checks a state of a family whose members differ in the targets' bytes alone.
    private func check(
        _ image: () -> Image, _ bytes: (String) -> [UInt8], _ depth: Int, _ promises: Promises,
        _ overlay: inout Overlay
    ) throws {
        guard let writes = overlay.writes else {
            let (operations, isNew) = try execute(image(), depth, promises)
            if isNew { overlay.writes = Self.targetWrites(operations, targets) }
            return
        }
        let expected = laidOver(bytes, writes)
        overlay.sinceExecuted += 1
        guard overlay.sinceExecuted > Self.executedEvery else {
            counts.overlaid += 1
            for volume in scenario.volumes
            where expected[path(volume)]?.isSame(as: volume.generation.content) != true {
                throw Violation("\(scenario.name): what recovery writes leaves \(volume.name) torn")
            }
            return
        }
        overlay.sinceExecuted = 0
        _ = try execute(image(), depth, promises)
        for volume in scenario.volumes {
            guard try target(volume) == expected[path(volume)] else {
                throw Violation("\(scenario.name): an execution differs from what was laid over")
            }
        }
        counts.agreed += 1
    }

    private func path(_ volume: Scenario.Expected) -> String { "\(work.path)/\(volume.name).copy" }

    private func target(_ volume: Scenario.Expected) throws -> [UInt8] {
        try File(path: path(volume)).readAll(limit: 1 << 26)
    }

    private func laidOver(
        _ bytes: (String) -> [UInt8], _ writes: [String: [Change]]
    ) -> Image {
        var expected: Image = [:]
        for path in targets {
            var file = bytes(path)
            for change in writes[path] ?? [] { change.apply(to: &file) }
            expected[path] = file
        }
        return expected
    }

    /// What was written to the targets; nothing, if one was read.
    private static func targetWrites(
        _ operations: [Operation], _ targets: Set<String>
    ) -> [String: [Change]]? {
        var handles: [UInt64: String] = [:]
        var writes: [String: [Change]] = [:]
        for operation in operations {
            switch operation {
            case .open(let handle, let path, _) where targets.contains(path): handles[handle] = path
            case .read(let handle) where handles[handle] != nil: return nil
            case .write(let handle, let offset, let bytes):
                if let path = handles[handle] {
                    writes[path, default: []].append(.write(offset: offset, bytes: bytes[...]))
                }
            case .truncate(let handle, let count):
                if let path = handles[handle] { writes[path, default: []].append(.truncate(count)) }
            case .punch(let handle, let offset, let count):
                if let path = handles[handle] {
                    writes[path, default: []].append(.punch(offset: offset, byteCount: count))
                }
            default: break
            }
        }
        return writes
    }

    /// Runs the recovery that a daemon's start would run.
    ///
    /// - Returns: what it did, and whether the volumes are new.
    private func execute(
        _ image: Image, _ depth: Int, _ promises: Promises
    ) throws -> (operations: [Operation], isNew: Bool) {
        counts.executed += 1
        try work.set(image)
        var isNew: [Bool] = []
        let place = "\(scenario.name), cut \(counts.cuts), state \(counts.states)"
        let operations: [Operation]
        do {
            var volumes: [StandbyVolume] = []
            operations = try Trace.record(work.path) {
                let standby = try ModelStandby(work.path)
                // A start recovers every volume; the first of a group may have to wait for the last.
                for volume in scenario.volumes { _ = try standby.recover(volume.name) }
                volumes = try scenario.volumes.map { try standby.recover($0.name) }
            }
            for (expected, volume) in zip(scenario.volumes, volumes) {
                var promised = promises
                if scenario.isGroup { promised.acknowledged = 0 }
                isNew.append(
                    try Invariants.check(
                        expected, volume, try target(expected), promised, work.path))
            }
            guard !scenario.isGroup || Set(isNew).count == 1 else {
                throw Violation("one of the group is new, and one is old")
            }
        } catch {
            throw Violation("\(place): \(error)")
        }
        try work.forget(operations)
        if isNew.allSatisfy({ $0 }) { counts.new += 1 } else { counts.old += 1 }
        untilContinued -= 1
        if untilContinued < 0, !scenario.volumes[0].hasEnded {
            untilContinued = continuedEvery - 1
            do { try goOn(promises) } catch { throw Violation("\(place), continued: \(error)") }
            counts.continued += 1
        }
        if depth == 0 { untilNested -= 1 }
        if depth == 0, untilNested < 0 {
            untilNested = nestedEvery
            let before = counts.states
            let all = counts
            try explore(operations, from: image, depth: 1, promises)
            counts.nested += counts.states - before
            counts.cuts = all.cuts
        }
        return (operations, isNew.allSatisfy { $0 })
    }

    /// The sender comes back: what was acknowledged is there, and the same generation ends well.
    private func goOn(_ promises: Promises) throws {
        let operations = try Trace.record(work.path) {
            let standby = try ModelStandby(work.path)
            for expected in scenario.volumes {
                let session = standby.connect(expected.peer, expected.name)
                let state = try session.open()
                let isNew = state.committedID == expected.generation.record.id
                if !isNew, !scenario.isGroup, state.durableSegments < promises.acknowledged {
                    throw Violation(
                        "of \(promises.acknowledged) segments \(state.durableSegments) are left")
                }
                session.close()
                // A prepared one waits for the other member.
                if state.state == .prepared { continue }
                try standby.send(expected.generation, to: expected.name, expected.peer)
            }
            for expected in scenario.volumes {
                let volume = try standby.recover(expected.name)
                guard
                    try Invariants.check(
                        expected, volume, try target(expected), promises, work.path)
                else {
                    throw Violation("the generation did not arrive")
                }
            }
        }
        try work.forget(operations)
    }
}

extension Disk {
    /// Whether the last thing that is pending are bytes of one of these files.
    func lastIsData(in paths: Set<String>) -> Bool {
        indices(in: paths).last == pending.count - 1 && !pending.isEmpty
    }

    /// Which of what is pending are bytes of these files.
    func indices(in paths: Set<String>) -> [Int] {
        let nodes = Set(paths.compactMap { names[$0] })
        return pending.indices.filter {
            if case .data(let node, _) = pending[$0] { return nodes.contains(node) }
            return false
        }
    }
}
