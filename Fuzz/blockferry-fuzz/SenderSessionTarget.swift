// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Session
import Wire

/// The sender's half of a session against a receiver that sends what it likes.
@Sendable func fuzzSenderSession(_ bytes: [UInt8]) {
    var input = Input(bytes)
    let choice = input.byte()
    var run = SenderRun(isPairing: choice & 1 == 1)
    for _ in 0..<64 where !input.isEmpty {
        // Zeros go on as an honest receiver would.
        if input.byte() & 3 == 3 {
            run.act(&input)
        } else if !run.receive(&input) {
            return
        }
    }
}

/// A session and what must be true of it, kept by other means than its own: which calls were made
/// and what each answer was an answer to.
private struct SenderRun {
    private enum Phase {
        case greeting, hearingKey, opening, deciding, pairing, comparing, compared, asking,
            beginning
        case sending, committing, confirming, done
    }

    private var session: SenderSession
    private let isPairing: Bool
    private var phase = Phase.greeting
    private var begin: Begin?
    private var record: GenerationRecord?
    private var current: Current?
    private var asked = NodeRange(level: 0, index: 0, count: 1)
    private var sealed: UInt64 = 0
    private var acknowledged: UInt64 = 0

    init(isPairing: Bool) {
        self.isPairing = isPairing
        let pair = Pair(secret: [UInt8](repeating: 1, count: 16), name: "fuzz")
        session = SenderSession(isPairing ? .pair(pair) : .replicate(Known.volumes[0]))
    }

    /// What the engine may do where the session stands.
    mutating func act(_ input: inout Input) {
        switch phase {
        case .deciding:
            switch input.byte() & 7 {
            case 0...3: announce(&input)
            case 4, 5:
                _ = session.compare(input.compare())
                phase = .comparing
            case 6:
                current = Current(number: input.number(usually: 1), id: input.digest())
                if let current, session.confirm(current) != nil { phase = .confirming }
            default:
                _ = session.abandon(input.id())
                phase = .opening
            }
        case .compared:
            guard input.byte() & 1 == 0 else { return announce(&input) }
            asked = input.range()
            _ = session.ask(asked)
            phase = .asking
        case .sending:
            if input.byte() & 1 == 0 {
                session.sealed(
                    Seal(
                        index: sealed, recordCount: 1, content: 0, endOffset: 512,
                        digest: .zero))
                sealed += 1
            } else {
                let record = input.record()
                session.commit(record)
                self.record = record
                phase = .committing
            }
        case .greeting, .hearingKey, .opening, .pairing, .comparing, .asking, .beginning,
            .committing, .confirming, .done:
            break
        }
    }

    private mutating func announce(_ input: inout Input) {
        let begin = input.begin()
        _ = session.begin(begin)
        self.begin = begin
        phase = .beginning
    }

    /// Takes the next frame.
    ///
    /// - Returns: whether the connection stays open.
    mutating func receive(_ input: inout Input) -> Bool {
        let choice = input.byte()
        let type: FrameType =
            choice < 160 ? expected : FrameType.allCases[Int(choice) % FrameType.allCases.count]
        var payload = choice & 1 == 0 ? answer(type, &input) : input.payload(of: type)
        if choice & 14 == 14 { payload.spoil(&input) }
        let decoded = payload.withRawSpan { span -> ReceiverMessage? in
            (try? ReceiverMessage(type, span)) ?? nil
        }
        guard let message = decoded else { return false }
        do throws(SessionError) {
            let action = try session.receive(message, type: type)
            take(action, message)
        } catch {
            if case .refused = error { precondition(type == .refuse) }
            return false
        }
        precondition(session.isDone == (phase == .done))
        if phase == .sending || phase == .committing {
            precondition(session.unacknowledgedSegments == sealed - acknowledged)
        }
        return true
    }

    /// What an honest receiver would send now.
    private var expected: FrameType {
        switch phase {
        case .greeting: .welcome
        case .hearingKey: .exportKey
        case .opening: .state
        case .pairing: .paired
        case .comparing: .compared
        case .asking: .nodes
        case .beginning: .ready
        case .sending: .ack
        case .confirming: .committed
        case .committing: begin?.group == nil ? .committed : .prepared
        case .deciding, .compared, .done: .ping
        }
    }

    /// A message that fits what was asked, or nearly.
    private func answer(_ type: FrameType, _ input: inout Input) -> [UInt8] {
        let number = record?.head.number ?? 1
        switch type {
        case .ready:
            return Ready(nextSegment: input.number(usually: begin?.heldSegments ?? 0)).encoded()
        case .ack: return Ack(durableSegments: input.number(usually: sealed)).encoded()
        case .nodes: return input.nodes(asked).encoded()
        case .committed, .prepared:
            if phase == .confirming, let current, input.byte() & 3 != 3 { return current.encoded() }
            return Committed(number: input.number(usually: number), id: record?.id ?? .zero)
                .encoded()
        default: return input.payload(of: type)
        }
    }

    /// Whether this message may be the last one of the greeting.
    private func hasGreeted(_ message: ReceiverMessage) -> Bool {
        switch message {
        case .welcome(let welcome): phase == .greeting && welcome.features & 1 == 0
        case .exportKey(let said): phase == .hearingKey && session.exportKey == said.key
        default: false
        }
    }

    private mutating func take(_ action: SenderSession.Action, _ message: ReceiverMessage) {
        switch action {
        case .none:
            guard case .welcome = message else { return precondition(message == .ping) }
            precondition(phase == .greeting && session.exportKey == nil)
            phase = .hearingKey
        case .open:
            precondition(hasGreeted(message) && !isPairing)
            phase = .opening
        case .pair:
            precondition(hasGreeted(message) && isPairing)
            phase = .pairing
        case .unknownName: preconditionFailure("no wide name is sent here")
        case .greeted: preconditionFailure("nobody greets for its own sake here")
        case .decide:
            precondition(phase == .opening)
            phase = .deciding
        case .paired:
            precondition(phase == .pairing)
            phase = .done
        case .progress: precondition(phase == .comparing || phase == .committing)
        case .compared(let compared):
            precondition(phase == .comparing && compared.root != .zero)
            phase = .compared
        case .nodes(let content):
            precondition(phase == .asking && content.count == 4096 * Int(asked.count))
            phase = .compared
        case .sendSegments(let first):
            precondition(phase == .beginning)
            precondition(
                first <= begin?.heldSegments ?? 0,
                "a receiver made the sender skip what it must send")
            (sealed, acknowledged) = (first, first)
            phase = .sending
        case .acknowledged(let count):
            precondition(phase == .sending || phase == .committing)
            precondition(count >= acknowledged && count <= sealed)
            acknowledged = count
        case .committed where phase == .confirming:
            precondition(
                message
                    == .committed(Committed(number: current?.number ?? 0, id: current?.id ?? .zero))
            )
            phase = .done
        case .committed:
            guard case .committed(let said) = message, let record else {
                preconditionFailure("committed by nothing")
            }
            precondition(phase == .committing && said.id == record.id)
            precondition(said.number == record.head.number)
            phase = .done
        case .prepared:
            guard case .prepared(let said) = message, let record else {
                preconditionFailure("prepared by nothing")
            }
            precondition(phase == .committing && said.id == record.id)
            precondition(begin?.group != nil, "waits for a group that it is not in")
            phase = .done
        }
    }
}
