// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CDiskTrace
import Digests
import Glibc
import Platform

struct Histories: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract:
            "Random lives of a volume, with faults of network, power and disks, and then without.")

    @Option(help: "The first seed.")
    var seed: UInt64 = 1

    @Option(help: "How many seeds.")
    var seeds = 1000

    @Option(help: "Sessions of each, before the faults end.")
    var steps = 16

    func run() throws {
        disktrace_prepare()
        let work = try WorkDirectory("/dev/shm/blockferry-simulation.\(getpid())")
        defer { work.remove() }
        var total = History.Counts()
        var again = 0
        for number in seed..<seed + UInt64(seeds) {
            let history = History(work, seed: number)
            do { try history.run(steps: steps) } catch {
                throw Violation("seed \(number): \(error)")
            }
            total.add(history.counts)
            guard number % 50 == 0 else { continue }
            let second = History(work, seed: number)
            try second.run(steps: steps)
            guard second.log == history.log else {
                let place = zip(history.log, second.log).first { $0 != $1 }
                throw Violation(
                    "seed \(number) went another way the second time: \(place.map { "\($0)" } ?? "")"
                )
            }
            again += 1
        }
        print(
            "histories: \(seeds) from seed \(seed), \(total.steps) sessions, \(total.committed) generations committed "
                + "(\(total.resyncs) resyncs begun), \(total.decisions) decisions compared; faults: \(total.cuts) cuts (\(total.stalls) after a stall), "
                + "\(total.damaged) damaged frames, \(total.connectedAgain) repeated connections, \(total.powerCuts) power cuts, "
                + "\(total.tampered) targets changed, \(total.otherFiles) other files, \(total.errors) disks that failed, \(total.rotten) rotten bits, \(total.rotFound) of them told as "
                + "diverged; \(total.comparedBytes >> 20) MiB compared; \(again) run twice")
        guard total.stalls > seeds / 8, total.damaged > seeds / 8,
            total.connectedAgain > seeds / 4, total.committed > seeds, total.powerCuts > seeds / 4,
            total.errors > seeds / 4, total.tampered > seeds / 4, total.otherFiles > seeds / 4
        else {
            throw Violation("too little happened")
        }
    }
}

extension History {
    /// What happened in some lives, so that a run in which too little did is told from one that passed.
    struct Counts {
        var steps = 0
        var committed = 0
        var resyncs = 0
        var decisions = 0
        var cuts = 0
        var stalls = 0
        var damaged = 0
        var connectedAgain = 0
        var powerCuts = 0
        var errors = 0
        var rotten = 0
        var rotFound = 0
        var tampered = 0
        var otherFiles = 0
        var comparedBytes = 0
    }
}

extension History.Counts {
    mutating func add(_ other: History.Counts) {
        steps += other.steps
        committed += other.committed
        resyncs += other.resyncs
        decisions += other.decisions
        cuts += other.cuts
        stalls += other.stalls
        damaged += other.damaged
        connectedAgain += other.connectedAgain
        powerCuts += other.powerCuts
        errors += other.errors
        rotten += other.rotten
        rotFound += other.rotFound
        tampered += other.tampered
        otherFiles += other.otherFiles
        comparedBytes += other.comparedBytes
    }
}
