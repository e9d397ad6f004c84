// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CDiskTrace
import Catalog
import Glibc
import Platform
import Receiving
import Wire

struct Lies: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "What a disk that ignores flushes loses, and whether a scrub names it.")

    @Option(help: "The seed of contents and random choices.")
    var seed: UInt64 = 1

    @Option(help: "How many states of each kind.")
    var states = 10_000

    func run() throws {
        disktrace_prepare()
        let work = try WorkDirectory("/dev/shm/blockferry-simulation.\(getpid())")
        defer { work.remove() }
        let scenarios = try Scenario.all(seed).filter { !$0.isGroup && !$0.volumes[0].hasEnded }
        for lying in LyingDisk.Kind.allCases {
            var total = LyingDisk.Counts()
            for (index, scenario) in scenarios.enumerated() {
                let part = states * (index + 1) / scenarios.count - states * index / scenarios.count
                let disk = LyingDisk(work, scenario, lying, seed: seed &+ UInt64(index))
                try disk.run(states: part)
                total.add(disk.counts)
            }
            print(
                "\(lying.rawValue): \(total.states) states, \(total.told) told by recovery, \(total.scrubbed) scrubbed: "
                    + "\(total.whole) whole, \(total.lossy) with losses, \(total.named) blocks named, \(total.byRoot) by "
                    + "the root alone, \(total.falseAlarms) false alarms; seed \(seed)")
            guard total.states == states, total.lossy > states / 20, total.whole > states / 20
            else {
                throw Violation("too little happened")
            }
        }
    }
}

/// Power cuts of disks that ignore flushes: they say that something is durable, and lose it.
///
/// No program can survive that. What can be asked: a recovery says what it finds or ends with an error, and where it finds
/// a committed generation, a scrub tells every block that is not that generation's.
final class LyingDisk {
    enum Kind: String, CaseIterable {
        /// The state is on an honest disk, and a scrub names exactly what was lost.
        case target = "lying target"
        /// Catalogs, maps and logs are lost as well. A scrub never calls a copy clean that is not.
        case everything = "lying disks"
    }

    struct Counts {
        var states = 0
        var told = 0
        var scrubbed = 0
        var whole = 0
        var lossy = 0
        var named = 0
        var byRoot = 0
        var falseAlarms = 0

        mutating func add(_ other: Counts) {
            states += other.states
            told += other.told
            scrubbed += other.scrubbed
            whole += other.whole
            lossy += other.lossy
            named += other.named
            byRoot += other.byRoot
            falseAlarms += other.falseAlarms
        }
    }

    private let work: WorkDirectory
    private let scenario: Scenario
    private let kind: Kind
    private var seeded: Seeded
    private(set) var counts = Counts()

    init(_ work: WorkDirectory, _ scenario: Scenario, _ kind: Kind, seed: UInt64) {
        self.work = work
        self.scenario = scenario
        self.kind = kind
        seeded = Seeded(seed)
    }

    private var expected: Scenario.Expected { scenario.volumes[0] }
    private var target: String { "\(work.path)/\(expected.name).copy" }

    func run(states: Int) throws {
        let (start, operations) = try work.record(scenario)
        for number in 0..<states {
            counts.states += 1
            do { try check(try cut(start, operations)) } catch let violation as Violation {
                throw Violation("\(kind.rawValue), \(scenario.name), state \(number): \(violation)")
            }
        }
    }

    /// What is left after a cut at a random place, in half of the cases at the end.
    private func cut(_ start: Image, _ operations: [Operation]) throws -> Image {
        var disk = Disk(start)
        let (kind, target) = (kind, target)
        disk.ignoresFlush = { kind == .everything || $0 == target }
        let end =
            Bool.random(using: &seeded)
            ? operations.count : Int.random(in: 0...operations.count, using: &seeded)
        for operation in operations[..<end] { _ = disk.take(operation) }
        // From nearly everything to nearly nothing is lost.
        let share = UInt64.random(in: 0...16, using: &seeded)
        let kept = disk.pending.indices.map { _ in seeded.next() % 16 < share }
        let isChosen = { (index: Int) in kept[index] }
        if disk.isPossible(isChosen) { return disk.image(isChosen) }
        let last = Int.random(in: 0...disk.pending.count, using: &seeded)
        return disk.image { $0 < last }
    }

    private func check(_ image: Image) throws {
        try work.set(image)
        var found: (volume: StandbyVolume, target: [UInt8], scrub: ScrubResult)?
        let operations = try Trace.record(work.path) {
            do {
                let standby = try ModelStandby(work.path)
                let volume = try standby.recover(expected.name)
                guard [.consistent, .staging].contains(volume.state) else { return }
                let content = try File(path: target).readAll(limit: 1 << 26)
                found = (volume, content, try Administration(standby.home).scrub(expected.name))
            } catch let violation as Violation {
                throw violation
            } catch {}
        }
        try work.forget(operations)
        guard let found else { return counts.told += 1 }
        counts.scrubbed += 1
        let isNew = found.volume.committed?.id == expected.generation.record.id
        guard isNew || found.volume.committed?.id == expected.before.record?.id else {
            throw Violation("an unknown generation is committed")
        }
        let content = isNew ? expected.generation.content : expected.before.content
        var lost = Self.differing(content, found.target)
        let named = found.scrub.offsets.map { Int($0) }
        // The last one is missing if the file is too short.
        let last = (content.count - 1) / Content.block * Content.block
        if found.target.count < content.count, lost.last != last { lost.append(last) }
        // One that is too long is no copy either, and has no block that differs.
        let isWhole = lost.isEmpty && found.target.count <= content.count
        if isWhole { counts.whole += 1 } else { counts.lossy += 1 }
        if found.scrub.wasMapMissing, !lost.isEmpty { counts.byRoot += 1 }
        guard found.scrub.isClean == isWhole else {
            // A map that was lost in part may name more than there is.
            guard kind == .everything, lost.isEmpty else {
                throw Violation("lost: blocks at \(lost); the scrub named \(named)")
            }
            return counts.falseAlarms += 1
        }
        counts.named += named.count
        guard kind == .everything || found.scrub.wasMapMissing || named == lost else {
            throw Violation("lost: blocks at \(lost); the scrub named \(named)")
        }
    }

    /// Where the blocks begin that differ.
    private static func differing(_ content: [UInt8], _ found: [UInt8]) -> [Int] {
        stride(from: 0, to: content.count, by: Content.block).filter { start in
            let end = min(start + Content.block, content.count)
            let there = found[min(start, found.count)..<min(end, found.count)]
            // What a file does not have reads as zeros.
            return !content[start..<end].starts(with: there)
                || content[start + there.count..<end].contains { $0 != 0 }
        }
    }
}
