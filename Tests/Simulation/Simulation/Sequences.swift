// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CDiskTrace
import Glibc
import Platform

struct Sequences: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract:
            "Every sequence of operations on two senders and their standby: copies of hosts, backups that come back."
    )

    @Option(help: "Operations in a sequence.")
    var length = 4

    @Option(help: "Which share of the sequences to take, as in 1/2.")
    var share = "1/1"

    @Option(help: "How many sequences must have been carried out.")
    var least = 1

    func run() throws {
        let parts = share.split(separator: "/").compactMap { Int($0) }
        guard parts.count == 2, (1...parts[1]).contains(parts[0]), (2...8).contains(length) else {
            throw ValidationError("--share is a number and a count, as in 1/2; --length is 2 to 8.")
        }
        disktrace_prepare()
        let work = try WorkDirectory("/dev/shm/blockferry-simulation.\(getpid())")
        defer { work.remove() }
        var total = Explorer.Counts()
        for generations in [0, 2] {
            let explorer = Explorer(work, length: length, share: (parts[0] - 1, parts[1]))
            try explorer.explore(from: generations)
            total.add(explorer.counts)
        }
        print(
            "sequences: \(total.sequences) of up to \(length) operations, share \(share): \(total.committed) generations "
                + "committed, \(total.lost) of them without an answer, \(total.refused) sends refused "
                + "(\(total.stale) for what the target holds), \(total.forced) sent nevertheless and refused, "
                + "\(total.resyncs) resyncs; \(total.comparedBytes >> 20) MiB compared")
        guard total.sequences >= least else {
            throw Violation("at least \(least) sequences are expected")
        }
        guard total.committed > 0, total.refused > 0, total.stale > 0, total.resyncs > 0 else {
            throw Violation("too little happened")
        }
    }
}
