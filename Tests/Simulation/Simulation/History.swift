// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import CDiskTrace
import Catalog
import Digests
import Glibc
import Platform
import Receiving
import Session
import Wire

/// A random life of one volume under a seed: generations, and between and in them faults of the network, of the power, of
/// disks. First with faults, where nothing false may be said; then without, where everything must end well.
///
/// The sender is a model that has no disk and remembers what it was told; its session's states are the product's.
final class History {
    private(set) var counts = Counts()
    /// What happened, the same for the same seed.
    private(set) var log: [String] = []

    private let work: WorkDirectory
    private var seeded: Seeded
    private var lineage = ModelLineage()
    private let peer = KeyID(.zero)
    /// Seconds since the beginning.
    private var clock = 0
    /// What the volume holds now.
    private var content: [UInt8]
    /// What it held at each generation, in order.
    private var former: [[UInt8]] = []
    /// By generation, what it is.
    private var contents: [SHA256Digest: [UInt8]] = [:]
    /// What the sender knows to be committed, and what it is sending.
    private var committed: ModelGeneration?
    private var current: ModelGeneration?
    /// Whether COMMIT of the current one was sent and never answered.
    private var isPending = false
    /// Whether a disk has failed or changed something, so that the standby may distrust its copy.
    private var isDoubtful = false
    /// Whether the target was changed behind the standby's back since the last resync.
    private var isRotten = false
    /// The same since the last COMMIT, which may have been carried out without an answer.
    private var isRottenSinceCommit = false
    private var mustResync = false
    /// Whether a resync in place has begun since the last commit: there is nothing to protect.
    private var wentInPlace = false

    init(_ work: WorkDirectory, seed: UInt64) {
        self.work = work
        seeded = Seeded(seed)
        content = Content.random(
            2 * Content.block + 4096 * Int.random(in: 0...4, using: &seeded), &seeded)
    }

    private enum Fault {
        case none, network(Network.Fault), power(at: UInt64), error(
            at: UInt64, count: UInt64, code: CInt)
    }

    func run(steps: Int) throws {
        try work.set([:])
        let setUp = try Trace.record(work.path) {
            try ModelStandby(work.path).add(Content.volume, peer, content)
        }
        try work.forget(setUp)
        for _ in 0..<steps {
            counts.steps += 1
            clock += Int.random(in: 1...3600, using: &seeded)
            try step()
        }
        // From here on nothing goes wrong any more.
        for attempt in 0... {
            guard attempt < 5 else {
                throw Violation("it does not end without faults: \(log.suffix(8))")
            }
            try send(.none)
            if committed?.content == content, current == nil, !isRotten { break }
            // What somebody else wrote, where no increment came by, only a resync finds.
            mustResync = isRotten
        }
        let end = try look()
        guard end.volume.state == .consistent, end.target == content else {
            throw Violation("at the end the copy is not the volume: \(end.volume.state)")
        }
    }

    // MARK: Steps

    private func step() throws {
        switch Int.random(in: 0..<14, using: &seeded) {
        case 0: try rot()
        case 12: try tamper()
        case 13: try showAnotherFile()
        case 1...3: try send(.network(networkFault()))
        case 4...6: try send(.power(at: UInt64.random(in: 1...90, using: &seeded)))
        case 7, 8:
            let code = [EIO, ENOSPC].randomElement(using: &seeded) ?? EIO
            let count: UInt64 = Bool.random(using: &seeded) ? 1 : 1 << 20
            try send(
                .error(at: UInt64.random(in: 1...70, using: &seeded), count: count, code: code))
        default: try send(.none)
        }
        if current == nil, Int.random(in: 0..<3, using: &seeded) > 0 {
            _ = Content.change(&content, Int.random(in: 1...5, using: &seeded), &seeded)
        }
    }

    /// One session, and what is left of it.
    @discardableResult
    private func send(_ fault: Fault) throws -> Bool {
        let start = try work.image()
        var told = ""
        var network = Network()
        if case .network(let fault) = fault { network = Network(fault) }
        let operations = try Trace.record(work.path) {
            switch fault {
            case .power(let at): disktrace_fail(at, 1 << 40, EIO)
            case .error(let at, let count, let code): disktrace_fail(at, count, code)
            case .none, .network: break
            }
            do {
                let standby = try ModelStandby(work.path)
                let session = standby.connect(peer, Content.volume, over: network)
                defer {
                    session.close()
                    network.connectAgain = {}
                }
                network.connectAgain = { [unowned self] in try connectAgain(standby, session) }
                do { try converse(session) } catch is Network.Stalled {
                    try outwait(standby, session)
                    throw Network.Cut()
                }
                told = "done"
            } catch is Network.Cut {
                counts.cuts += 1
                told = "cut"
            } catch is Network.Damaged {
                counts.damaged += 1
                told = "damaged"
            } catch let refusal as Refusal {
                told = "refused \(refusal.rule)"
                if refusal.code == .corrupt, !isDoubtful {
                    throw Violation("refused without a fault: \(refusal)")
                }
            } catch let violation as Violation {
                throw violation
            } catch {
                guard disktrace_failures() > 0 || isDoubtful else {
                    throw Violation("failed without a fault: \(error)")
                }
                told = "failed \(error)"
            }
        }
        let failures = disktrace_failures()
        try work.forget(operations)
        if told == "done", failures == 0 { try checkSuccess() }
        if failures > 0 {
            if case .power = fault {
                counts.powerCuts += 1
                try cutPower(start, operations)
            } else {
                counts.errors += 1
                isDoubtful = true
            }
        }
        let found = try check()
        log.append(
            "\(clock) s: \(fault) \(told) \(network.frames) frames, \(operations.count) operations: \(found)"
        )
        return told == "done"
    }

    /// A session has ended well: whatever was done to the target before, it is the volume now. The standby looks at 64
    /// blocks, which are all that there are.
    private func checkSuccess() throws {
        guard let committed else { return }
        let target = try File(path: target).readAll(limit: 1 << 26)
        guard target.isSame(as: committed.content) else {
            throw Violation("a session ended well, and the copy is another: \(log.suffix(6))")
        }
        counts.comparedBytes += target.count
    }

    private var target: String { "\(work.path)/\(Content.volume).copy" }

    private func networkFault() -> Network.Fault {
        let frame = Int.random(in: 0..<22, using: &seeded)
        return switch Int.random(in: 0..<6, using: &seeded) {
        case 0: .stall(frame: frame)
        case 1: .damage(frame: frame, bit: Int.random(in: 0..<1 << 20, using: &seeded))
        case 2: .again(frame: frame)
        default: .cut(frame: frame)
        }
    }

    /// The sender connects while a session of its own lives: who has the volume keeps it.
    private func connectAgain(_ standby: ModelStandby, _ session: Conversation) throws {
        let second = standby.connect(peer, Content.volume)
        defer { second.close() }
        let isTaken = session.hasVolume
        do {
            _ = try second.open()
            if isTaken { throw Violation("two sessions have the volume") }
        } catch let refusal as Refusal {
            guard refusal.code == .busy || !isTaken else {
                throw Violation("another session has the volume, and it is told: \(refusal)")
            }
            counts.connectedAgain += 1
        }
    }

    /// Nothing comes any more: the sender tries again and again, and is refused until the standby has waited long enough.
    private func outwait(_ standby: ModelStandby, _ session: Conversation) throws {
        counts.stalls += 1
        let due = clock + Int(Limits.idleSeconds)
        while clock < due {
            try connectAgain(standby, session)
            clock += 20
        }
        session.close()
    }

    /// Leaves of what was not flushed a random part.
    private func cutPower(_ start: Image, _ operations: [Operation]) throws {
        var disk = Disk(start)
        for operation in operations { _ = disk.take(operation) }
        let words = (0..<8).map { _ in seeded.next() }
        var isChosen = { (index: Int) in words[index / 64 % 8] >> (index % 64) & 1 == 1 }
        if !disk.isPossible(isChosen) {
            let end = Int.random(in: 0...disk.pending.count, using: &seeded)
            isChosen = { $0 < end }
        }
        try work.set(disk.image(isChosen))
    }

    /// One bit of the target, of the staging log or of the tag map changes while nobody looks.
    private func rot() throws {
        var image = try work.image()
        let paths = image.keys.filter { !$0.contains("catalog") && image[$0]?.isEmpty == false }
            .sorted()
        guard let path = paths.randomElement(using: &seeded), var bytes = image[path] else {
            return
        }
        let place = Int.random(in: 0..<bytes.count, using: &seeded)
        bytes[place] ^= 1 << Int.random(in: 0..<8, using: &seeded)
        image[path] = bytes
        try work.set(image)
        counts.rotten += 1
        isDoubtful = true
        if path.hasSuffix(".copy") {
            isRotten = true
            isRottenSinceCommit = true
        }
        log.append("rot in \(Directory.name(of: path)) at \(place)")
    }

    // MARK: Somebody else's hands

    /// Somebody changes what the target holds: an older generation comes back, it is cut, or overwritten with zeros.
    private func tamper() throws {
        var image = try work.image()
        guard let bytes = image[target], !bytes.isEmpty,
            let older = former.randomElement(using: &seeded)
        else { return }
        let choice = Int.random(in: 0..<3, using: &seeded)
        switch choice {
        case 0: image[target] = older
        case 1: image[target] = Array(bytes.prefix(bytes.count / 2))
        default: image[target] = [UInt8](repeating: 0, count: bytes.count)
        }
        guard image[target] != bytes else { return }
        try work.set(image)
        counts.tampered += 1
        (isDoubtful, isRotten, isRottenSinceCommit) = (true, true, true)
        log.append("the target is \(["an older one", "cut", "zeros"][choice])")
    }

    /// For one session another file stands at the target's path, with the same content or with other: it is not taken, and
    /// not written. Then the target is back.
    private func showAnotherFile() throws {
        let volume = try look().volume
        guard volume.state == .consistent, volume.committed != nil else { return }
        let aside = target + ".aside"
        var bytes = try File(path: target).readAll(limit: 1 << 26)
        if Bool.random(using: &seeded), !bytes.isEmpty { bytes[0] ^= 0xFF }
        try Directory.moveNew(target, to: aside)
        try File(path: target, [.write, .createNew]).write(bytes, at: 0)
        log.append("another file")
        let (doubtful, rotten) = (isDoubtful, isRotten)
        (isDoubtful, isRotten) = (true, true)
        let ended = try send(.none)
        (isDoubtful, isRotten) = (doubtful, rotten)
        guard !ended, try File(path: target).readAll(limit: 1 << 26) == bytes else {
            throw Violation("another file was taken for the target: \(log.suffix(4))")
        }
        try Directory.remove(target)
        try Directory.moveNew(aside, to: target)
        counts.otherFiles += 1
    }

    // MARK: The sender

    private func converse(_ session: Conversation) throws {
        let state = try session.open()
        // What was in doubt is settled first.
        if let pending = current, isPending, state.committedID == pending.record.id {
            if state.state == .consistent || state.state == .staging { arrived(pending) }
        }
        if current == nil, !mustResync, let committed, committed.content == content,
            state.state == .consistent,
            state.committedID == committed.record.id
        {
            return
        }
        let isLost = [.suspect, .diverged].contains(state.state) || lost(state)
        try checkDecision(state, isLost)
        if isLost || mustResync {
            mustResync = false
            return try resync(session)
        }
        if current == nil
            || (current?.begin.comparedRoot != nil && state.transfer != current?.begin.transfer)
        {
            current = try next(state)
            isPending = false
        }
        guard let current else { return }
        try transfer(current, session)
    }

    /// The product's sender would decide the same; not while it resyncs, which somebody must have wanted.
    private func checkDecision(_ state: StandbyState, _ isLost: Bool) throws {
        guard current?.record.head.kind != .resync,
            committed.map({ $0.record.head.lineage == lineage.id }) ?? true
        else { return }
        let memory = Lineage.SourceMemory(
            lineage: committed == nil && current == nil ? nil : lineage.id,
            committed: committed?.point, pending: isPending ? current?.point : nil,
            transfer: current?.begin.transfer)
        counts.decisions += 1
        switch Lineage.decide(memory, state) {
        case .refuse where isLost: break
        case .full(let resume) where !isLost && committed == nil:
            guard resume == (current != nil && state.transfer == current?.begin.transfer) else {
                throw Violation("resume \(resume)")
            }
        case .delta(let base, let resume) where !isLost && base == committed?.point:
            guard resume == (current != nil && state.transfer == current?.begin.transfer) else {
                throw Violation("resume \(resume)")
            }
        case let decision: throw Violation("the sender would decide \(decision)")
        }
    }

    /// Whether the standby is not where the sender left it.
    private func lost(_ state: StandbyState) -> Bool {
        guard let committed else { return false }
        return state.committedID != committed.record.id
    }

    private func next(_ state: StandbyState) throws -> ModelGeneration {
        guard let committed else {
            return try made(
                ModelGeneration(
                    .full, content, ranges: Content.everything(content.count), perSegment: 2,
                    lineage: lineage, parent: nil))
        }
        return try made(
            ModelGeneration(
                .delta, content, ranges: Content.differing(committed.content, content),
                perSegment: 3, lineage: lineage, parent: committed.record))
    }

    private func made(_ generation: ModelGeneration) -> ModelGeneration {
        contents[generation.record.id] = generation.content
        former.append(generation.content)
        return generation
    }

    private func resync(_ session: Conversation) throws {
        let fresh = ModelLineage()
        let root = try session.compare(
            Compare(
                mode: .read, algorithm: ModelLineage.algorithm, volumeSize: UInt64(content.count),
                tagKey: fresh.key))
        lineage = fresh
        let resync = made(
            try ModelGeneration(
                .resync, content, ranges: Content.everything(content.count), perSegment: 2,
                lineage: fresh, parent: nil, comparedRoot: root,
                inPlace: Bool.random(using: &seeded)))
        current = resync
        isPending = false
        wentInPlace = wentInPlace || resync.begin.inPlace
        counts.resyncs += 1
        try transfer(resync, session)
    }

    private func transfer(_ generation: ModelGeneration, _ session: Conversation) throws {
        let first: UInt64
        do { first = try session.begin(generation.announcement) } catch let refusal as Refusal {
            if refusal.rule == "not-compared" { current = nil }  // It begins anew.
            throw refusal
        }
        for index in Int(first)..<generation.segments.count {
            try session.segment(generation, index)
        }
        isPending = true
        isRottenSinceCommit = false
        do { _ = try session.commit(generation) } catch let refusal as Refusal {
            // Nothing of it is on the standby any more.
            if ["root-mismatch", "not-compared", "diverged"].contains(refusal.rule) {
                if refusal.rule == "diverged" {
                    guard isRotten else { throw Violation("diverged without a reason") }
                    counts.rotFound += 1
                }
                isPending = false
                current = nil
            }
            throw refusal
        }
        arrived(generation)
    }

    private func arrived(_ generation: ModelGeneration) {
        committed = generation
        current = nil
        isPending = false
        counts.committed += 1
        wentInPlace = false
        if generation.begin.head.kind == .resync {
            (isRotten, isDoubtful) = (isRottenSinceCommit, isRottenSinceCommit)
        }
    }

    // MARK: What must hold

    private func look() throws -> (volume: StandbyVolume, target: [UInt8]) {
        var volume: StandbyVolume?
        let operations = try Trace.record(work.path) {
            let standby = try ModelStandby(work.path)
            do { volume = try standby.recover(Content.volume) } catch let violation as Violation {
                throw violation
            } catch {
                guard isDoubtful else {
                    throw Violation("recovery failed without a fault: \(error)")
                }
                volume = try standby.home.catalog.volume(Content.volume)
            }
        }
        try work.forget(operations)
        guard let volume else { throw Violation("the volume is gone") }
        return (volume, try File(path: target).readAll(limit: 1 << 26))
    }

    /// After a recovery without the sender, the standby says nothing false.
    private func check() throws -> String {
        let (volume, target) = try look()
        switch volume.state {
        case .consistent, .staging:
            guard let id = volume.committed?.id, let expected = contents[id] else {
                throw Violation("\(volume.state) at a generation that nobody has made")
            }
            if !isRotten, !target.isSame(as: expected) {
                throw Violation("the copy is torn: \(log.suffix(6))")
            }
            counts.comparedBytes += target.count
            // What was acknowledged is there: it, or what came after it and was never answered.
            if let committed, id != committed.record.id, !(isPending && id == current?.record.id) {
                throw Violation("the acknowledged generation is gone: \(log.suffix(6))")
            }
        case .empty, .initialising:
            if committed != nil, !wentInPlace { throw Violation("\(volume.state) after a commit") }
        case .suspect, .diverged, .applying:
            let text = "\(volume.state) without a fault: \(log.suffix(6))"
            guard isDoubtful else { throw Violation(text) }
        case .promoted, .prepared: throw Violation("\(volume.state)")
        }
        return "\(volume.state) \(volume.committed?.head.number ?? 0)"
    }
}
