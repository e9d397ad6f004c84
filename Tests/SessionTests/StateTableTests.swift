// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
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
    let asked = NodeRange(level: 1, index: 2, count: 3)
    let exportKey: X25519Key
    let compare = Compare(
        mode: .read, algorithm: .poly1305, volumeSize: 512, tagKey: .random())

    init(group: Group? = nil) throws {
        volume = try #require(VolumeName("disk"))
        exportKey = try #require(X25519Key(bytes: [UInt8](repeating: 8, count: 32)))
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
            (.compare, .compare(compare)), (.ask, .ask(Ask(range: asked))),
            (.current, .current(Current(number: 1, id: record.id))),
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
            (.welcome, .welcome(Welcome(version: 1, features: 8, software: "test"))),
            (.state, .state(state)), (.ready, .ready(Ready(nextSegment: 0))),
            (.ack, .ack(Ack(durableSegments: 0))),
            (.progress, .progress(Progress(phase: .proving, done: 0, total: 1))),
            (.committed, .committed(Committed(number: 1, id: record.id))),
            (.prepared, .prepared(Prepared(number: 1, id: record.id))),
            (.compared, .compared(Compared(root: SHA256Digest.of([2]), read: 512))),
            (.nodes, .nodes(Nodes(range: asked, content: [UInt8](repeating: 7, count: 12_288)))),
            (.paired, .paired(Paired(volume: volume))), (.ping, .ping),
            (.exportKey, .exportKey(ExportKey(key: exportKey))), (.refuse, .refuse(refusal)),
        ]
    }
}

/// The states in which a sender has lost nothing.
private let ended: Set<String> = ["done", "done, prepared", "done, confirmed", "paired"]

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
        if state == "confirming" || state == "done, confirmed" {
            try take(.current)
            if state == "done, confirmed" { session.committed() }
            return session
        }
        if state.hasSuffix("after comparing") || state == "comparing" {
            try take(.compare)
            #expect(session.isComparing)
            if state == "comparing" { return session }
            session.compared()
            #expect(!session.isComparing)
            if state == "offered after comparing" { return session }
            try take(.ask)
            if state == "answering after comparing" { return session }
            session.answered()
            if state == "answered after comparing" { return session }
        }
        try take(.begin)
        if state.hasPrefix("admitting") { return session }
        session.ready()
        if state.hasPrefix("receiving") { return session }
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
            "offered": [.begin, .abandon, .compare, .current, .ping],
            "confirming": [.ping], "done, confirmed": [.ping], "admitting": [.ping],
            "abandoning": [.ping], "offered again": [.begin, .abandon, .compare, .current, .ping],
            "done, prepared": [.ping],
            "receiving": [.record, .seal, .commit, .ping], "committing": [.ping], "done": [.ping],
            "comparing": [.ping], "offered after comparing": [.begin, .ask, .ping],
            "answering after comparing": [.ping],
            "answered after comparing": [.begin, .ask, .ping],
            "admitting after comparing": [.ping],
            "receiving after comparing": [.record, .seal, .commit, .ping],
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
        print("frames given to a receiver: \(count)")
        #expect(count == 22 * 13)
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
        if state == "hearing the key" {
            let welcome = Welcome(version: 1, features: 5, software: "test")
            _ = try session.receive(.welcome(welcome), type: .welcome)
            return session
        }
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
        if state == "confirming" || state == "done, confirmed" {
            let current = Current(number: 1, id: messages.record.id)
            #expect(session.confirm(current) == current)
            if state == "done, confirmed" { try take(.committed) }
            return session
        }
        if state.hasPrefix("compar") || state.hasSuffix("after comparing") {
            #expect(session.compare(messages.compare) == messages.compare)
            if state == "comparing" { return session }
            if state == "comparing further" {
                try take(.progress)
                return session
            }
            try take(.compared)
            if state == "compared" { return session }
            #expect(session.ask(messages.asked).range == messages.asked)
            if state == "asking after comparing" { return session }
            try take(.nodes)
            if state == "answered after comparing" { return session }
            if state == "asking again after comparing" {
                _ = session.ask(messages.asked)
                return session
            }
        }
        _ = session.begin(messages.begin)
        if state.hasPrefix("beginning") { return session }
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
        print("frames given to a sender: \(alone) alone, \(member) in a group")
        #expect(alone == 20 * 13 && member == 21 * 13)
    }

    /// Gives every frame to a sender in every state; returns how many that were.
    private func checkSender(_ messages: Messages) throws -> Int {
        let isInGroup = messages.begin.group != nil
        var allowed: [String: Set<FrameType>] = [
            "greeting": [.welcome, .ping], "hearing the key": [.exportKey, .ping],
            "opening": [.state, .ping],
            "pairing": [.paired, .ping], "paired": [.ping], "deciding": [.ping],
            "beginning": [.ready, .ping], "sending": [.ack, .ping],
            "committing": [.ack, .progress, .committed, .ping], "done": [.ping],
            "opening again": [.state, .ping], "comparing": [.progress, .compared, .ping],
            "comparing further": [.progress, .compared, .ping], "compared": [.ping],
            "confirming": [.committed, .ping], "done, confirmed": [.ping],
            "asking after comparing": [.nodes, .ping],
            "answered after comparing": [.ping],
            "asking again after comparing": [.nodes, .ping],
            "beginning after comparing": [.ready, .ping],
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

    @Test(
        "the export key comes after WELCOME if both sides have the feature, whatever the session is for"
    )
    func exportKey() throws {
        for (purpose, isPairing) in [
            (SenderSession.Purpose.replicate(messages.volume), false), (.pair(messages.pair), true),
            (.greet, false),
        ] {
            for offered in [0, 1, 2, 3, 7, 15, UInt32.max] as [UInt32] {
                var receiver = ReceiverSession(isPairing: isPairing, software: "test")
                var hello = SenderSession.hello(software: "test")
                #expect(hello.features == 15)
                hello.features = offered
                guard
                    case .welcome(let welcome) = try receiver.receive(.hello(hello), type: .hello)
                else {
                    Issue.record("not welcome")
                    continue
                }
                #expect(welcome.features == offered & 15)
                var sender = SenderSession(purpose)
                var action = try sender.receive(.welcome(welcome), type: .welcome)
                #expect(sender.exportKey == nil && (action == .none) == (offered & 1 == 1))
                if action == .none {
                    let message = ExportKey(key: messages.exportKey)
                    action = try sender.receive(.exportKey(message), type: .exportKey)
                    #expect(sender.exportKey == messages.exportKey)
                }
                switch (purpose, action) {
                case (.replicate, .open), (.pair, .pair): #expect(!sender.isDone)
                case (.greet, .greeted): #expect(sender.isDone)
                default: Issue.record("\(purpose): \(action)")
                }
            }
        }
        var sender = SenderSession(.greet)
        #expect(throws: SessionError.self) {
            try sender.receive(
                .welcome(Welcome(version: 1, features: 16, software: "")), type: .welcome)
        }
    }

    @Test("a comparison gives its root, its nodes and then a transfer, and may end before each")
    func comparison() throws {
        func message(_ type: FrameType) throws -> ReceiverMessage {
            try #require(messages.receiver.first { $0.0 == type }).1
        }
        var session = try sender("comparing", messages)
        #expect(
            try session.receive(message(.progress), type: .progress)
                == .progress(Progress(phase: .proving, done: 0, total: 1)))
        #expect(
            try session.receive(message(.compared), type: .compared)
                == .compared(Compared(root: SHA256Digest.of([2]), read: 512)))
        #expect(!session.isDone)
        for _ in 0..<3 {
            _ = session.ask(messages.asked)
            #expect(
                try session.receive(message(.nodes), type: .nodes)
                    == .nodes([UInt8](repeating: 7, count: 12_288)))
        }
        _ = session.begin(messages.begin)
        #expect(try session.receive(message(.ready), type: .ready) == .sendSegments(from: 0))
    }

    @Test("nodes that were not asked for are refused")
    func otherNodes() throws {
        var refused = 0
        for (level, index, count) in [(0, 2, 3), (2, 2, 3), (1, 1, 3), (1, 2, 2), (1, 2, 4)] {
            let range = NodeRange(level: UInt8(level), index: UInt64(index), count: UInt32(count))
            let content = [UInt8](repeating: 0, count: 4096 * count)
            var session = try sender("asking after comparing", messages)
            #expect(throws: SessionError.self) {
                try session.receive(.nodes(Nodes(range: range, content: content)), type: .nodes)
            }
            refused += 1
        }
        #expect(refused == 5)
    }

    @Test("each type of frame is a sender's, a receiver's, or both")
    func directions() throws {
        let messages = messages
        var (senders, receivers) = (0, 0)
        for (type, message) in messages.sender {
            let payload: [UInt8] =
                switch message {
                case .hello(let message): message.encoded()
                case .open(let message): message.encoded()
                case .pair(let message): message.encoded()
                case .begin(let message): message.encoded()
                case .abandon(let message): message.encoded()
                case .compare(let message): message.encoded()
                case .ask(let message): message.encoded()
                case .current(let message): message.encoded()
                case .record(let record): record.encoded()
                case .seal(let message): message.encoded()
                case .commit(let message): message.encoded()
                case .refuse(let message): message.encoded()
                case .ping: []
                }
            #expect(try payload.withRawSpan { try SenderMessage(type, $0) } == message)
            senders += 1
            if [.ping, .refuse].contains(type) { continue }
            #expect(try payload.withRawSpan { try ReceiverMessage(type, $0) } == nil)
        }
        for (type, message) in messages.receiver {
            let payload: [UInt8] =
                switch message {
                case .welcome(let message): message.encoded()
                case .state(let message): message.encoded()
                case .ready(let message): message.encoded()
                case .ack(let message): message.encoded()
                case .progress(let message): message.encoded()
                case .committed(let message): message.encoded()
                case .prepared(let message): message.encoded()
                case .paired(let message): message.encoded()
                case .compared(let message): message.encoded()
                case .nodes(let message): message.encoded()
                case .exportKey(let message): message.encoded()
                case .refuse(let message): message.encoded()
                case .ping: []
                }
            #expect(payload.count <= type.payloadLimit)
            #expect(try payload.withRawSpan { try ReceiverMessage(type, $0) } == message)
            receivers += 1
            if [.ping, .refuse].contains(type) { continue }
            #expect(try payload.withRawSpan { try SenderMessage(type, $0) } == nil)
        }
        #expect(senders + receivers == FrameType.allCases.count + 2)
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
