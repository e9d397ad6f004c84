// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Session
import Wire

/// The receiver's half of a session, with the checks of its transfer, against a sender that sends
/// what it likes.
@Sendable func fuzzReceiverSession(_ bytes: [UInt8]) {
    var input = Input(bytes)
    let choice = input.byte()
    var run = ReceiverRun(isPairing: choice & 1 == 1)
    for _ in 0..<64 where !input.isEmpty {
        // Zeros answer at once; a sender that does not wait is heard before the answer.
        if run.isAsked, input.byte() & 3 != 3 {
            run.answer(&input)
        } else if !run.receive(&input) {
            return
        }
    }
}

/// A session and what must be true of it, kept by other means than its own.
private struct ReceiverRun: ~Copyable {
    private enum Phase {
        case greeting, opening, pairing, looking, redeeming, offered, comparing, compared
        case answering, admitting, receiving, committing, confirming, done
    }

    private var session: ReceiverSession
    private let isPairing: Bool
    private var phase = Phase.greeting
    private var features: UInt32 = 0
    private var transfer = Transfer(announcement)
    private var seal: Seal?
    private var record: GenerationRecord?

    init(isPairing: Bool) {
        self.isPairing = isPairing
        session = ReceiverSession(isPairing: isPairing, software: "fuzz")
    }

    /// Whether the session waits for the engine.
    var isAsked: Bool {
        switch phase {
        case .looking, .redeeming, .comparing, .answering, .admitting, .committing, .confirming:
            true
        case .greeting, .opening, .pairing, .offered, .compared, .receiving, .done: false
        }
    }

    /// Does what the session has asked for.
    mutating func answer(_ input: inout Input) {
        switch phase {
        case .looking:
            session.opened()
            phase = .offered
        case .redeeming:
            session.paired()
            phase = .done
        case .comparing:
            session.compared()
            phase = .compared
        case .answering:
            session.answered()
            phase = .compared
        case .admitting:
            session.ready()
            phase = .receiving
        case .committing:
            if input.byte() & 1 == 0 { session.committed() } else { session.prepared() }
            phase = .done
        case .confirming:
            session.committed()
            phase = .done
        case .greeting, .opening, .pairing, .offered, .compared, .receiving, .done: break
        }
        checkState()
    }

    private func checkState() {
        precondition(session.isDone == (phase == .done))
        precondition(session.isCommitting == (phase == .committing))
        precondition(session.isComparing == (phase == .comparing))
    }

    /// Takes the next frame.
    ///
    /// - Returns: whether the connection stays open.
    mutating func receive(_ input: inout Input) -> Bool {
        let choice = input.byte()
        let type: FrameType =
            choice < 192
            ? expected(choice) : FrameType.allCases[Int(choice) % FrameType.allCases.count]
        var payload = message(type, &input)
        if choice & 14 == 14 { payload.spoil(&input) }
        if type == .record { mendRecord(&payload) }
        let decoded = payload.withRawSpan { span -> SenderMessage? in
            (try? SenderMessage(type, span)) ?? nil
        }
        guard let message = decoded,
            let action = try? session.receive(message, type: type)
        else { return false }
        guard take(action, message) else { return false }
        checkState()
        return true
    }

    /// What an honest sender may send now.
    private func expected(_ choice: UInt8) -> FrameType {
        switch phase {
        case .greeting: .hello
        case .opening: .open
        case .pairing: .pair
        case .offered: [.begin, .compare, .current, .abandon][Int(choice >> 4) & 3]
        case .compared: choice & 16 == 0 ? .ask : .begin
        case .receiving: [.record, .record, .seal, .commit][Int(choice >> 4) & 3]
        case .looking, .redeeming, .comparing, .answering, .admitting, .committing,
            .confirming, .done:
            .ping
        }
    }

    private mutating func message(_ type: FrameType, _ input: inout Input) -> [UInt8] {
        guard phase == .receiving else { return input.payload(of: type) }
        switch type {
        case .record: return recordPayload(transfer.nextRecord(&input))
        case .seal:
            let (right, said) = transfer.nextSeal(&input)
            seal = right
            return said.encoded()
        case .commit:
            let (right, said) = transfer.nextRecord(ofGeneration: &input)
            record = right
            return said.encoded()
        default: return input.payload(of: type)
        }
    }

    /// - Returns: whether the engine would go on.
    private mutating func take(
        _ action: ReceiverSession.Action, _ message: SenderMessage
    ) -> Bool {
        switch action {
        case .none: precondition(message == .ping && phase != .greeting)
        case .stopped: return false
        case .welcome(let welcome):
            precondition(phase == .greeting && welcome.version == 1)
            guard case .hello(let hello) = message else { preconditionFailure("welcome to whom") }
            precondition(welcome.features == hello.features & 15)
            features = welcome.features
            phase = isPairing ? .pairing : .opening
        case .open:
            precondition(phase == .opening)
            phase = .looking
        case .pair:
            precondition(phase == .pairing)
            phase = .redeeming
        case .abandon:
            precondition(phase == .offered)
            phase = .looking
        case .compare:
            precondition(phase == .offered)
            phase = .comparing
        case .current:
            precondition(phase == .offered && features & 8 != 0)
            phase = .confirming
        case .ask(let range):
            precondition(phase == .compared && (1...Limits.nodes).contains(range.count))
            phase = .answering
        case .begin(let begin):
            precondition(phase == .offered || phase == .compared)
            transfer = Transfer(begin)
            phase = .admitting
        case .record(let record):
            precondition(phase == .receiving)
            return transfer.take(record)
        case .seal(let said):
            precondition(phase == .receiving)
            guard let seal else { preconditionFailure("a seal that was not made") }
            return transfer.take(said, right: seal)
        case .commit(let said):
            precondition(phase == .receiving)
            guard let record else { preconditionFailure("a record that was not made") }
            phase = .committing
            return transfer.commits(said, right: record)
        }
        return true
    }
}

/// What a transfer begins with until BEGIN says more.
let announcement = Begin(
    transfer: TransferID(bytes: [UInt8](repeating: 1, count: 16)) ?? .none,
    head: GenerationHead(
        kind: .full, tagAlgorithm: .poly1305,
        lineage: LineageID(bytes: [UInt8](repeating: 2, count: 16)) ?? .none, number: 1,
        parent: .zero, volumeSize: 1 << 30, sourceTime: 0, sourceIdentity: "fuzz"),
    plannedContent: 1 << 30, plannedSegments: 64, heldSegments: 0,
    tagKey: TagKey(bytes: [UInt8](repeating: 3, count: 32)))
