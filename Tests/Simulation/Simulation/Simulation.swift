// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CDiskTrace
import Glibc
import Platform

/// Faults of a standby, enumerated: the code of the product on files whose every operation is seen.
@main
struct Simulation: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "blockferry-simulation",
        abstract: "Enumerate what crashes and faults can leave of a standby.",
        subcommands: [States.self, Histories.self, Sequences.self, Lies.self, Rot.self])
}

struct States: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Every state that a power cut can leave, recovered and compared.")

    @Option(help: "The seed of contents and random choices.")
    var seed: UInt64 = 1

    @Option(help: "Which share of the states to check, as in 1/2.")
    var share = "1/1"

    @Option(help: "After every so many recoveries the sender comes back and goes on.")
    var continueEvery = 5

    @Option(help: "Cut the recovery of every so many executed states in turn.")
    var nestedEvery = 400

    @Option(help: "Only scenarios whose name contains this.")
    var only = ""

    func run() throws {
        let parts = share.split(separator: "/").compactMap { Int($0) }
        guard parts.count == 2, (1...parts[1]).contains(parts[0]) else {
            throw ValidationError("--share is a number and a count, as in 1/2.")
        }
        disktrace_prepare()
        let work = try WorkDirectory("/dev/shm/blockferry-simulation.\(getpid())")
        defer { work.remove() }
        var checked = 0
        var nested = 0
        for (index, scenario) in try Scenario.all(seed).enumerated()
        where only.isEmpty || scenario.name.contains(only) {
            let began = Clock.monotonic()
            let enumeration = CrashStates(
                work, scenario, seed: seed &+ UInt64(index), share: (parts[0] - 1, parts[1]),
                continuedEvery: continueEvery, nestedEvery: nestedEvery)
            try enumeration.run()
            let counts = enumeration.counts
            let seconds = Double(Clock.monotonic() - began) / 1e9
            print(
                "\(scenario.name): \(counts.cuts) places, \(counts.states) states "
                    + "(\(counts.nested) of a cut recovery); here \(counts.executed) executed, \(counts.overlaid) laid "
                    + "over, \(counts.agreed) both; old \(counts.old), new \(counts.new), continued "
                    + "\(counts.continued); \((seconds * 10).rounded() / 10) s")
            checked += counts.executed + counts.overlaid
            nested += counts.nested
        }
        print(
            "crash states checked: \(checked), enumerated in cut recoveries: \(nested), seed \(seed), share "
                + share)
    }
}
