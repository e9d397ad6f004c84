// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Digests
import Platform
import Receiving
import Session
import Wire

/// A sender and what it remembers: a value, which is copied and set back as a virtual machine is.
struct ModelSender {
    /// What its volume holds.
    var content: [UInt8]
    var lineage = ModelLineage()
    /// What it knows to be committed.
    var committed: ModelGeneration?
    /// What it has sent without an answer to COMMIT.
    var pending: ModelGeneration?

    var memory: Lineage.SourceMemory {
        Lineage.SourceMemory(
            lineage: committed == nil && pending == nil ? nil : lineage.id,
            committed: committed?.point, pending: pending?.point,
            transfer: pending?.begin.transfer)
    }

    mutating func arrived(_ generation: ModelGeneration) {
        committed = generation
        pending = nil
    }
}

extension ModelGeneration {
    var point: Lineage.GenerationPoint {
        Lineage.GenerationPoint(number: record.head.number, id: record.id)
    }
}

/// Two senders, the second of which may be a copy of the first, and the standby, in everything that they can go through.
///
/// What the sender decides and the standby admits is the product's. What should come of it is said here without a rule of
/// the product: who holds what the standby holds may go on, all others are refused, and the target stays what it was, byte
/// for byte.
final class Explorer {
    struct Counts {
        var sequences = 0
        var committed = 0
        var lost = 0
        var refused = 0
        var stale = 0
        var forced = 0
        var resyncs = 0
        var comparedBytes = 0

        mutating func add(_ other: Counts) {
            sequences += other.sequences
            committed += other.committed
            lost += other.lost
            refused += other.refused
            stale += other.stale
            forced += other.forced
            resyncs += other.resyncs
            comparedBytes += other.comparedBytes
        }
    }

    enum Step: CaseIterable {
        /// The first sender's volume changes and is sent; the second's.
        case send, sendSecond
        /// As `send`, but the answer to COMMIT is lost.
        case sendUnanswered
        /// The second becomes a copy of the first, memory and volume.
        case clone
        /// The first comes back from a backup older than its last commit.
        case restoreSender
        /// The standby does, with its target, or its target alone.
        case restoreStandby, restoreTarget
        /// The first makes the copy its own again.
        case resync
    }

    /// The standby as it must be.
    private struct Truth {
        var committed: ModelGeneration?
        var target: [UInt8]
        var isDiverged = false
        /// Whether the target holds something else than the catalog says.
        var isStale: Bool { committed.map { !target.isSame(as: $0.content) } ?? false }
    }

    private struct World {
        var image: Image
        var senders: [ModelSender]
        var senderBefore: ModelSender?
        var standby: Truth
        var standbyBefore: (image: Image, truth: Truth)?
    }

    private(set) var counts = Counts()
    private let work: WorkDirectory
    private let length: Int
    private let share: (number: Int, of: Int)
    private let peer = KeyID(.zero)
    private var seeded = Seeded(1)
    private var path: [Step] = []

    init(_ work: WorkDirectory, length: Int, share: (number: Int, of: Int)) {
        self.work = work
        self.length = length
        self.share = share
    }

    /// Explores everything that can follow after the first sender has sent some generations.
    func explore(from generations: Int) throws {
        let content = Content.random(Content.block + 4096, &seeded)
        try work.set([:])
        try work.recording { try $0.add(Content.volume, peer, content) }
        var world = World(
            image: try work.image(),
            senders: [ModelSender(content: content), ModelSender(content: content)],
            standby: Truth(target: content))
        for _ in 0..<generations { world = try after(.send, world) ?? world }
        counts = Counts()
        try explore(world)
    }

    private func explore(_ world: World) throws {
        for (index, step) in Step.allCases.enumerated() {
            // The second step says whose share it is.
            if path.count == 1, index % share.of != share.number { continue }
            path.append(step)
            defer { path.removeLast() }
            let next: World?
            do { next = try after(step, world) } catch {
                throw Violation("after \(path.map { "\($0)" }.joined(separator: ", ")): \(error)")
            }
            guard let next else { continue }
            if path.count > 1 || share.number == 0 { counts.sequences += 1 }
            if path.count < length { try explore(next) }
        }
    }

    /// What a step makes of a world; nothing if there is nothing that it could change.
    private func after(_ step: Step, _ old: World) throws -> World? {
        var world = old
        try work.set(old.image)
        switch step {
        case .send: try send(0, &world)
        case .sendSecond: try send(1, &world)
        case .sendUnanswered: try send(0, &world, isAnswered: false)
        case .clone: world.senders[1] = world.senders[0]
        case .restoreSender:
            guard let before = world.senderBefore else { return nil }
            (world.senders[0], world.senderBefore) = (before, nil)
        case .restoreStandby:
            guard let before = world.standbyBefore else { return nil }
            try work.set(before.image)
            (world.standby, world.standbyBefore) = (before.truth, nil)
        case .restoreTarget:
            guard let target = world.standbyBefore?.truth.target,
                !target.isSame(as: world.standby.target)
            else { return nil }
            var image = old.image
            image["\(work.path)/\(Content.volume).copy"] = target
            try work.set(image)
            world.standby.target = target
        case .resync: try resync(&world)
        }
        try check(world.standby)
        world.image = try work.image()
        return world
    }

    // MARK: The senders

    private func send(_ number: Int, _ world: inout World, isAnswered: Bool = true) throws {
        let old = world
        let truth = world.standby
        var sender = world.senders[number]
        let holdsIt = sender.committed?.record.id == truth.committed?.record.id
        let doubtsIt = sender.pending.map { $0.record.id == truth.committed?.record.id } ?? false
        let mayGoOn = !truth.isDiverged && (holdsIt || doubtsIt)
        var sent: ModelGeneration?
        var refusal: Lineage.Rule?
        try work.recording { standby in
            let session = standby.connect(peer, Content.volume)
            defer { session.close() }
            let state = try session.open()
            var decision = Lineage.decide(sender.memory, state)
            if case .pendingIsCommitted = decision, let pending = sender.pending {
                sender.arrived(pending)
                decision = Lineage.decide(sender.memory, state)
            }
            if case .refuse(let rule) = decision {
                refusal = rule
                session.close()
                return try force(sender, truth, standby)
            }
            let generation = try sender.pending ?? next(&sender)
            switch decision {
            case .full(resume: false) where generation.begin.head.kind == .full: break
            case .delta(let base, resume: false)
            where base == sender.committed?.point && generation.begin.head.kind == .delta:
                break
            default: throw Violation("the sender decides \(decision)")
            }
            sender.pending = generation
            sent = generation
            do {
                guard try session.transfer(generation) else {
                    throw Violation("prepared without a group")
                }
            } catch let refused as Refusal where refused.rule == Lineage.Rule.diverged.rawValue {
                (refusal, sender.pending) = (.diverged, nil)
            }
        }
        // All of the target is compared as soon as a session begins: the volume is small.
        if refusal != nil, truth.isStale { world.standby.isDiverged = true }
        switch (refusal, mayGoOn) {
        case (nil, true):
            guard let sent, !truth.isStale else {
                throw Violation("a change was taken onto another content")
            }
            took(sent, &world, old)
            if isAnswered { sender.arrived(sent) } else { counts.lost += 1 }
            // What it goes back to is what it was before it knew.
            if number == 0 { world.senderBefore = old.senders[0] }
        case (.some, true):
            guard truth.isStale, refusal == .diverged else {
                throw Violation("refused for no reason: \(refusal.map { "\($0)" } ?? "")")
            }
            counts.refused += 1
            counts.stale += 1
        case (nil, false): throw Violation("a generation was taken from who has no base for it")
        case (.some, false): counts.refused += 1
        }
        world.senders[number] = sender
    }

    /// A sender that does not care for what it has decided; also one that lies about everything but the generation that it
    /// has.
    private func force(_ sender: ModelSender, _ truth: Truth, _ standby: ModelStandby) throws {
        var begins: [Begin] = []
        if sender.committed != nil {
            var sender = sender
            begins = Array(repeating: try next(&sender).announcement, count: 2)
            if let there = truth.committed?.record.head {
                (begins[1].head.number, begins[1].head.lineage) = (there.number + 1, there.lineage)
            }
        }
        // Where nothing is, a full copy replaces nothing.
        if truth.committed != nil {
            var stranger = ModelSender(content: sender.content)
            begins.append(try next(&stranger).announcement)
        }
        for begin in begins {
            let session = standby.connect(peer, Content.volume)
            defer { session.close() }
            _ = try session.open()
            do {
                _ = try session.begin(begin)
                throw Violation("a \(begin.head.kind) generation is begun that nobody may send")
            } catch let refused as Refusal {
                guard refused.code == .lineage else { throw Violation("refused: \(refused)") }
                counts.forced += 1
            }
        }
    }

    /// What the sender would send next: a change in each block.
    private func next(_ sender: inout ModelSender) throws -> ModelGeneration {
        for start in stride(from: 0, to: sender.content.count, by: Content.block) {
            let end = min(start + Content.block, sender.content.count)
            let unit = start + 4096 * Int.random(in: 0..<(end - start) / 4096, using: &seeded)
            seeded.fill(&sender.content, unit..<unit + 4096)
        }
        let ranges =
            sender.committed.map { Content.differing($0.content, sender.content) }
            ?? Content.everything(sender.content.count)
        return try ModelGeneration(
            sender.committed == nil ? .full : .delta, sender.content, ranges: ranges, perSegment: 2,
            lineage: sender.lineage, parent: sender.committed?.record)
    }

    private func resync(_ world: inout World) throws {
        let old = world
        var sender = ModelSender(content: world.senders[0].content)
        var sent: ModelGeneration?
        try work.recording { standby in
            let session = standby.connect(peer, Content.volume)
            defer { session.close() }
            _ = try session.open()
            let root = try session.compare(
                Compare(
                    mode: .read, algorithm: ModelLineage.algorithm,
                    volumeSize: UInt64(sender.content.count), tagKey: sender.lineage.key))
            let generation = try ModelGeneration(
                .resync, sender.content, ranges: Content.everything(sender.content.count),
                perSegment: 2, lineage: sender.lineage, parent: nil, comparedRoot: root)
            _ = try session.transfer(generation)
            sent = generation
        }
        guard let sent else { return }
        sender.arrived(sent)
        world.senders[0] = sender
        world.senderBefore = old.senders[0]
        took(sent, &world, old)
        world.standby.isDiverged = false
        counts.resyncs += 1
    }

    private func took(_ generation: ModelGeneration, _ world: inout World, _ old: World) {
        world.standby.committed = generation
        world.standby.target = generation.content
        world.standbyBefore = (old.image, old.standby)
        counts.committed += 1
    }

    // MARK: The standby

    /// The standby is what it must be, to the byte.
    private func check(_ truth: Truth) throws {
        try work.recording { standby in
            let volume = try standby.recover(Content.volume)
            guard volume.committed?.id == truth.committed?.record.id else {
                throw Violation("another generation is committed")
            }
            let expected: VolumeState =
                truth.isDiverged ? .diverged : truth.committed == nil ? .empty : .consistent
            guard volume.state == expected else {
                throw Violation("the volume is \(volume.state), not \(expected)")
            }
            let target = try File(path: standby.target(Content.volume)).readAll(limit: 1 << 26)
            guard target.isSame(as: truth.target) else {
                throw Violation("the target is not what it must be")
            }
            counts.comparedBytes += target.count
        }
    }
}
