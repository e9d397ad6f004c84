// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import Session
import TestSupport
import Testing
import Wire

/// One message of each kind; they fit each other.
private struct Messages {
    let volume: VolumeName
    let begin: Begin
    let record: GenerationRecord
    let pair = Pair(secret: [UInt8](repeating: 1, count: 16), name: "source")
    let seal = Seal(index: 0, recordCount: 1, content: 0, endOffset: 512, digest: .zero)
    let refusal = Refusal(.busy, "busy")

    init(group: Group? = nil) throws {
        volume = try #require(VolumeName("disk"))
        let key = KeyID(SHA256Digest.of([1]))
        let head = GenerationHead(
            kind: .full, tagAlgorithm: .poly1305, lineage: .random(), number: 1, parent: .zero,
            volumeSize: 512, sourceTime: 0, sourceIdentity: "")
        begin = Begin(
            transfer: .random(), head: head, plannedContent: 0, plannedSegments: 1,
            heldSegments: 1, tagKey: .random(), group: group)
        record = GenerationRecord(
            head: head, segmentCount: 1, deltaDigest: .zero, volumeRoot: .zero, senderKey: key)
    }

    var sender: [(FrameType, SenderMessage)] {
        [
            (.hello, .hello(SenderSession.hello(software: "test"))),
            (.open, .open(Open(volume: volume))), (.pair, .pair(pair)), (.begin, .begin(begin)),
            (.abandon, .abandon(Abandon(transfer: begin.transfer))),
            (.record, .record(RecordHeader(.zero, offset: 0, length: 512))),
            (.seal, .seal(seal)), (.commit, .commit(record)), (.ping, .ping),
            (.refuse, .refuse(refusal)),
        ]
    }

    var receiver: [(FrameType, ReceiverMessage)] {
        let state = StandbyState(
            state: .empty, targetKind: .file, targetSize: 0, lineage: .none, committedNumber: 0,
            committedID: .zero, transfer: .none, durableSegments: 0)
        return [
            (.welcome, .welcome(Welcome(version: 1, features: 0, software: "test"))),
            (.state, .state(state)), (.ready, .ready(Ready(nextSegment: 0))),
            (.ack, .ack(Ack(durableSegments: 0))),
            (.progress, .progress(Progress(phase: .proving, done: 0, total: 1))),
            (.committed, .committed(Committed(number: 1, id: record.id))),
            (.prepared, .prepared(Prepared(number: 1, id: record.id))),
            (.paired, .paired(Paired(volume: volume))), (.ping, .ping),
            (.refuse, .refuse(refusal)),
        ]
    }
}

/// The states in which a sender has lost nothing.
private let ended: Set<String> = ["done", "done, prepared", "paired"]

@Suite struct StateTableTests {
    private let messages: Messages

    init() throws { messages = try Messages() }

    /// The receiver, brought to a state by what leads there.
    private func receiver(_ state: String) throws -> ReceiverSession {
        let isPairing = ["pairing", "redeeming", "paired"].contains(state)
        var session = ReceiverSession(isPairing: isPairing, software: "test")
        func take(_ type: FrameType) throws {
            let message = try #require(messages.sender.first { $0.0 == type }).1
            _ = try session.receive(message, type: type)
        }
        if state == "greeting" { return session }
        try take(.hello)
        if ["opening", "pairing"].contains(state) { return session }
        if isPairing {
            try take(.pair)
            if state == "paired" { session.paired() }
            return session
        }
        try take(.open)
        if state == "looking" { return session }
        session.opened()
        if state == "offered" { return session }
        if state == "abandoning" || state == "offered again" {
            try take(.abandon)
            if state == "offered again" { session.opened() }
            return session
        }
        try take(.begin)
        if state == "admitting" { return session }
        session.ready()
        if state == "receiving" { return session }
        try take(.commit)
        if state == "done" { session.committed() }
        if state == "done, prepared" { session.prepared() }
        return session
    }

    @Test("a receiver takes in each state the frames of the specification and refuses all others")
    func receiverTable() throws {
        let allowed: [String: Set<FrameType>] = [
            "greeting": [.hello], "opening": [.open, .ping], "looking": [.ping],
            "pairing": [.pair, .ping], "redeeming": [.ping], "paired": [.ping],
            "offered": [.begin, .abandon, .ping], "admitting": [.ping],
            "abandoning": [.ping], "offered again": [.begin, .abandon, .ping],
            "done, prepared": [.ping],
            "receiving": [.record, .seal, .commit, .ping], "committing": [.ping], "done": [.ping],
        ]
        var count = 0
        for (state, frames) in allowed {
            for (type, message) in messages.sender {
                var session = try receiver(state)
                let result = Result { () throws(SessionError) in
                    try session.receive(message, type: type)
                }
                count += 1
                switch result {
                case .success(.stopped(let refusal)):
                    #expect(type == .refuse && refusal == messages.refusal && session.isDone)
                case .success:
                    #expect(frames.contains(type), "\(type) in \(state)")
                case .failure(let error):
                    #expect(!frames.contains(type) && type != .refuse, "\(type) in \(state)")
                    guard case .broken(let refusal) = error else {
                        Issue.record("\(error)")
                        continue
                    }
                    #expect(refusal.code == .malformed)
                }
            }
        }
        #expect(count == 14 * 10)
    }

    /// The sender, brought to a state by what leads there.
    private func sender(
        _ state: String, _ messages: Messages
    ) throws -> SenderSession {
        let isPairing = ["pairing", "paired"].contains(state)
        var session = SenderSession(
            isPairing ? .pair(messages.pair) : .replicate(messages.volume))
        func take(_ type: FrameType) throws {
            let message = try #require(messages.receiver.first { $0.0 == type }).1
            _ = try session.receive(message, type: type)
        }
        if state == "greeting" { return session }
        try take(.welcome)
        if ["opening", "pairing"].contains(state) { return session }
        if isPairing {
            try take(.paired)
            return session
        }
        try take(.state)
        if state == "deciding" { return session }
        if state == "opening again" {
            #expect(session.abandon(messages.begin.transfer).transfer == messages.begin.transfer)
            return session
        }
        _ = session.begin(messages.begin)
        if state == "beginning" { return session }
        try take(.ready)
        session.sealed(messages.seal)
        if state == "sending" { return session }
        session.commit(messages.record)
        if state == "done" { try take(.committed) }
        if state == "done, prepared" { try take(.prepared) }
        return session
    }

    @Test("a sender takes in each state the frames of the specification and fails at all others")
    func senderTable() throws {
        let alone = try checkSender(messages)
        let group = Group(id: .random(), members: 2)
        let member = try checkSender(Messages(group: group))
        #expect(alone == 10 * 10 && member == 11 * 10)
    }

    /// Gives every frame to a sender in every state; returns how many that were.
    private func checkSender(_ messages: Messages) throws -> Int {
        let isInGroup = messages.begin.group != nil
        var allowed: [String: Set<FrameType>] = [
            "greeting": [.welcome, .ping], "opening": [.state, .ping],
            "pairing": [.paired, .ping], "paired": [.ping], "deciding": [.ping],
            "beginning": [.ready, .ping], "sending": [.ack, .ping],
            "committing": [.ack, .progress, .committed, .ping], "done": [.ping],
            "opening again": [.state, .ping],
        ]
        // A generation that belongs to no group cannot wait for one.
        if isInGroup {
            allowed["committing"]?.insert(.prepared)
            allowed["done, prepared"] = [.ping]
        }
        var count = 0
        for (state, frames) in allowed {
            for (type, message) in messages.receiver {
                var session = try sender(state, messages)
                let result = Result { () throws(SessionError) in
                    try session.receive(message, type: type)
                }
                count += 1
                switch result {
                case .success: #expect(frames.contains(type), "\(type) in \(state)")
                case .failure(.refused(let refusal)):
                    #expect(type == .refuse && refusal == messages.refusal)
                    #expect(!ended.contains(state))
                case .failure(.broken):
                    #expect(!frames.contains(type), "\(type) in \(state)")
                    #expect(type != .refuse || ended.contains(state))
                }
            }
        }
        return count
    }

    @Test("a sender is told that its transfer was dropped, and decides again")
    func abandoned() throws {
        var session = try sender("opening again", messages)
        let state = try #require(messages.receiver.first { $0.0 == .state })
        guard case .decide = try session.receive(state.1, type: .state) else {
            Issue.record("not asked to decide")
            return
        }
        _ = session.begin(messages.begin)
        let ready = try #require(messages.receiver.first { $0.0 == .ready })
        #expect(try session.receive(ready.1, type: .ready) == .sendSegments(from: 0))
        #expect(!session.isDone)
    }

    @Test("answers that lead past what was sent are refused")
    func answers() throws {
        let messages = try Messages(group: Group(id: .random(), members: 2))
        var beginning = try sender("beginning", messages)
        #expect(throws: SessionError.self) {
            try beginning.receive(.ready(Ready(nextSegment: 2)), type: .ready)
        }
        var sending = try sender("sending", messages)
        #expect(throws: SessionError.self) {
            try sending.receive(.ack(Ack(durableSegments: 2)), type: .ack)
        }
        _ = try sending.receive(.ack(Ack(durableSegments: 1)), type: .ack)
        #expect(throws: SessionError.self) {
            try sending.receive(.ack(Ack(durableSegments: 0)), type: .ack)
        }
        var committing = try sender("committing", messages)
        #expect(throws: SessionError.self) {
            try committing.receive(
                .committed(Committed(number: 1, id: .zero)), type: .committed)
        }
        for wrong in [
            Prepared(number: 1, id: .zero), Prepared(number: 2, id: messages.record.id),
        ] {
            var session = try sender("committing", messages)
            #expect(throws: SessionError.self) {
                try session.receive(.prepared(wrong), type: .prepared)
            }
            #expect(!session.isDone)
        }
    }
}
