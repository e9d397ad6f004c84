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

    func open(_ session: Session, _ name: VolumeName) throws -> StandbyState {
        session.answers = []
        try session.transfer?.open(name)
        for case .opened(let state) in session.answers { return state }
        throw Violation("OPEN was not answered")
    }

    func begin(_ session: Session, _ begin: Begin) throws -> UInt64 {
        session.answers = []
        try session.transfer?.begin(begin)
        for case .ready(let ready) in session.answers { return ready.nextSegment }
        throw Violation("BEGIN was not answered")
    }

    func segment(_ session: Session, _ generation: ModelGeneration, _ index: Int) throws {
        for each in generation.segments[index] {
            let start = memory.take(each.header, each.stored)
            try session.transfer?.record(each.header, memory, start: start)
        }
        session.answers = []
        try session.transfer?.seal(generation.seals[index])
        for case .ack in session.answers { return }
        throw Violation("SEAL was not answered")
    }

    /// - Returns: whether it is committed, not only prepared.
    func commit(_ session: Session, _ generation: ModelGeneration) throws -> Bool {
        session.answers = []
        try session.transfer?.commit(generation.record)
        for answer in session.answers {
            if case .committed(let point) = answer {
                guard point.id == generation.record.id else {
                    throw Violation("another id was committed")
                }
                return true
            }
            if case .prepared = answer { return false }
        }
        throw Violation("COMMIT was not answered")
    }

    func compare(_ session: Session, _ compare: Compare) throws -> SHA256Digest {
        session.answers = []
        try session.transfer?.compare(compare)
        for case .compared(let compared) in session.answers { return compared.root }
        throw Violation("COMPARE was not answered")
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
