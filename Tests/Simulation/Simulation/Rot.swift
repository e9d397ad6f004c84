// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CDiskTrace
import Catalog
import Digests
import Glibc
import Platform
import Receiving
import Wire

struct Rot: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "One bit that changes in a target or in a staging log, and what is told of it.")

    @Option(help: "The seed of contents and random choices.")
    var seed: UInt64 = 1

    @Option(help: "How many bits of each kind.")
    var bits = 50_000

    func run() throws {
        disktrace_prepare()
        let work = try WorkDirectory("/dev/shm/blockferry-simulation.\(getpid())")
        defer { work.remove() }
        let disk = try RottingDisk(work, seed: seed)
        for _ in 0..<bits { try disk.rotTarget() }
        print("rotten target: \(bits) bits, a scrub named the block of each; seed \(seed)")
        for _ in 0..<bits { try disk.rotLog() }
        print(
            "rotten log: \(bits) bits; \(disk.arrived) generations arrived whole, \(disk.kept) were refused and the "
                + "old one kept; seed \(seed)")
        guard disk.arrived > bits / 20, disk.kept > bits / 20 else {
            throw Violation("too little happened")
        }
    }
}

/// A standby with one committed generation, and the same with the next one in its staging log, sealed and not committed.
final class RottingDisk {
    private let work: WorkDirectory
    private var seeded: Seeded
    private let lineage = ModelLineage()
    private let old: ModelGeneration
    private let new: ModelGeneration
    private let committed: Image
    private let staged: Image
    private(set) var arrived = 0
    private(set) var kept = 0

    init(_ work: WorkDirectory, seed: UInt64) throws {
        self.work = work
        seeded = Seeded(seed)
        var content = Content.random(2 * Content.block + 4096, &seeded)
        old = try ModelGeneration(
            .full, content, ranges: Content.everything(content.count), perSegment: 2,
            lineage: lineage, parent: nil)
        let ranges = Content.change(&content, 5, &seeded)
        new = try ModelGeneration(
            .delta, content, ranges: ranges, perSegment: 2, lineage: lineage, parent: old.record)
        let (old, new, peer) = (old, new, lineage.sender)
        try work.set([:])
        try work.recording { standby in
            try standby.add(Content.volume, peer, [])
            try standby.send(old, to: Content.volume, peer)
        }
        committed = try work.image()
        try work.recording { standby in
            let session = standby.connect(peer, Content.volume)
            defer { session.close() }
            _ = try session.open()
            _ = try session.begin(new.begin)
            for index in new.segments.indices { try session.segment(new, index) }
        }
        staged = try work.image()
    }

    /// Changes a bit of the target; a scrub must name its block and no other.
    func rotTarget() throws {
        let place = try rot(committed) { $0.hasSuffix(".copy") }
        try work.recording { standby in
            let found = try Administration(standby.home).scrub(Content.volume)
            let block = UInt64(place / Content.block * Content.block)
            guard !found.isClean, found.offsets == [block] else {
                throw Violation("byte \(place) of the target: the scrub named \(found.offsets)")
            }
        }
    }

    /// Changes a bit of the log before the sender comes back, or between BEGIN and COMMIT; the target must then hold one
    /// generation or the other.
    func rotLog() throws {
        let isBefore = Bool.random(using: &seeded)
        let place = try rot(staged) { $0.contains("/staging/") }
        let rotten = try work.image()
        if !isBefore { try work.set(staged) }
        try work.recording { standby in
            let session = standby.connect(lineage.sender, Content.volume)
            defer { session.close() }
            do {
                if isBefore {
                    try standby.send(new, to: Content.volume, lineage.sender)
                } else {
                    _ = try session.open()
                    guard try session.begin(new.announcement) == new.begin.plannedSegments else {
                        throw Violation("a log that is whole is not believed")
                    }
                    for (path, bytes) in rotten where path.contains("/staging/") {
                        try File(path: path, .write).write([bytes[place]], at: UInt64(place))
                    }
                    _ = try session.commit(new)
                }
            } catch let violation as Violation { throw violation } catch {}
            session.close()
            let isNew = try standby.recover(Content.volume).committed?.id == new.record.id
            let target = try File(path: standby.target(Content.volume)).readAll(limit: 1 << 26)
            guard target.isSame(as: isNew ? new.content : old.content) else {
                throw Violation("byte \(place) of the log: the target is torn")
            }
            if isNew { arrived += 1 } else { kept += 1 }
        }
    }

    private func rot(_ image: Image, _ isWanted: (String) -> Bool) throws -> Int {
        var image = image
        guard let path = image.keys.first(where: isWanted), var bytes = image[path],
            !bytes.isEmpty
        else { throw Violation("there is nothing that could rot") }
        let place = Int.random(in: 0..<bytes.count, using: &seeded)
        bytes[place] ^= 1 << Int.random(in: 0..<8, using: &seeded)
        image[path] = bytes
        try work.set(image)
        return place
    }
}
