// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import CDiskTrace
import Catalog
import Connection
import Digests
import Platform
import Receiving
import Wire

/// What an invariant found.
struct Violation: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// A standby in a directory, with its targets beside it; everything but the network is the real thing.
final class ModelStandby {
    let root: String
    var state: String { root + "/standby" }
    private(set) var home: StandbyHome
    private(set) var session: Session?
    private let memory = RecordMemory()

    /// One sender's session.
    final class Session {
        fileprivate(set) var answers: [IncomingTransfer.Outcome] = []
        fileprivate var transfer: IncomingTransfer?
    }

    /// Marks in a recording.
    enum Mark {
        static func acknowledged(_ segments: UInt64) -> UInt64 { segments }
        static let committed: UInt64 = 1 << 32
    }

    /// Opens what is there.
    init(_ root: String) throws {
        self.root = root
        home = try StandbyHome(path: root + "/standby")
    }

    func target(_ name: VolumeName) -> String { "\(root)/\(name).copy" }

    /// Registers a volume whose target holds `content`.
    func add(_ name: VolumeName, _ peer: KeyID, _ content: [UInt8]) throws {
        let file = try File(path: target(name), [.write, .createNew])
        try file.write(content, at: 0)
        let status = try file.status()
        if try home.catalog.peers().isEmpty { try home.catalog.addPeer(peer, name: "model") }
        try home.catalog.createVolume(
            name, peer: peer, targetPath: target(name), targetKind: .file,
            targetIdentity: status.identity)
    }

    // MARK: A session

    func connect(_ peer: KeyID) -> Session {
        let session = Session()
        session.transfer = IncomingTransfer(home, peer: peer) { [unowned session] in
            session.answers.append($0)
            // What the sender hears, it hears now.
            switch $0 {
            case .ack(let ack): disktrace_mark(Mark.acknowledged(ack.durableSegments))
            case .committed: disktrace_mark(Mark.committed)
            default: break
            }
        }
        self.session = session
        return session
    }

    /// Does what a frame asks for, and picks the answer.
    private func answer<Answer>(
        to frame: String, _ session: Session, _ pick: (IncomingTransfer.Outcome) -> Answer?,
        _ body: (IncomingTransfer) throws -> Void
    ) throws -> Answer {
        session.answers = []
        if let transfer = session.transfer { try body(transfer) }
        guard let answer = session.answers.lazy.compactMap(pick).first else {
            throw Violation("\(frame) was not answered")
        }
        return answer
    }

    func open(_ session: Session, _ name: VolumeName) throws -> StandbyState {
        try answer(to: "OPEN", session) {
            if case .opened(let state) = $0 { state } else { nil }
        } _: {
            try $0.open(name)
        }
    }

    func begin(_ session: Session, _ begin: Begin) throws -> UInt64 {
        try answer(to: "BEGIN", session) {
            if case .ready(let ready) = $0 { ready.nextSegment } else { nil }
        } _: {
            try $0.begin(begin)
        }
    }

    func segment(_ session: Session, _ generation: ModelGeneration, _ index: Int) throws {
        for each in generation.segments[index] {
            let start = memory.take(each.header, each.stored)
            try session.transfer?.record(each.header, memory, start: start)
        }
        _ = try answer(to: "SEAL", session) {
            if case .ack(let ack) = $0 { ack } else { nil }
        } _: {
            try $0.seal(generation.seals[index])
        }
    }

    /// - Returns: whether it is committed, not only prepared.
    func commit(_ session: Session, _ generation: ModelGeneration) throws -> Bool {
        let (id, isCommitted) = try answer(to: "COMMIT", session) { outcome in
            switch outcome {
            case .committed(let point): (point.id, true)
            case .prepared(let point): (point.id, false)
            default: nil
            }
        } _: {
            try $0.commit(generation.record)
        }
        guard id == generation.record.id else { throw Violation("another id was committed") }
        return isCommitted
    }

    func compare(_ session: Session, _ compare: Compare) throws -> SHA256Digest {
        try answer(to: "COMPARE", session) {
            if case .compared(let compared) = $0 { compared.root } else { nil }
        } _: {
            try $0.compare(compare)
        }
    }

    /// Everything from OPEN to COMMIT, from where the standby is.
    @discardableResult
    func send(_ generation: ModelGeneration, to name: VolumeName, _ peer: KeyID) throws -> Bool {
        let session = connect(peer)
        defer { close() }
        let state = try open(session, name)
        if state.committedID == generation.record.id, state.state == .consistent { return true }
        if let root = generation.begin.comparedRoot, state.transfer != generation.begin.transfer {
            let found = try compare(
                session,
                Compare(
                    mode: .read, algorithm: ModelLineage.algorithm,
                    volumeSize: UInt64(generation.content.count), firstPage: 0, pageCount: 0,
                    tagKey: generation.begin.tagKey))
            guard found == root else { throw Violation("the target is not what was compared") }
        }
        var begin = generation.begin
        begin.heldSegments = begin.plannedSegments
        let first = try self.begin(session, begin)
        for index in Int(first)..<generation.segments.count {
            try segment(session, generation, index)
        }
        return try commit(session, generation)
    }

    func close() {
        session?.transfer = nil
        session = nil
    }

    // MARK: Recovery

    /// What a start of the daemon does for a volume; returns what the catalog says then.
    func recover(_ name: VolumeName) throws -> StandbyVolume {
        guard let writer = try VolumeWriter(home, name) else {
            throw Violation("somebody has the volume")
        }
        try writer.recover()
        return writer.volume
    }
}

extension ModelStandby {
    func promote(_ name: VolumeName) throws {
        guard let writer = try VolumeWriter(home, name) else {
            throw Violation("somebody has the volume")
        }
        try writer.promote()
    }
}
