// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import CDiskTrace
import Connection
import Digests
import Receiving
import Session
import Wire

/// A session of one sender with the standby: the state machines of both sides, frames as bytes between them, and behind
/// them what a worker of the standby does.
final class Conversation {
    private let network: Network
    private var transfer: IncomingTransfer?
    private var sender: SenderSession
    private var receiver = ReceiverSession(isPairing: false, software: "model")
    private var sentFrames: UInt64 = 0
    private var answeredFrames: UInt64 = 0
    private var outcomes: [IncomingTransfer.Outcome] = []
    private var actions: [SenderSession.Action] = []
    private let memory = RecordMemory()

    /// Marks in a recording.
    enum Mark {
        static func acknowledged(_ segments: UInt64) -> UInt64 { segments }
        static let committed: UInt64 = 1 << 32
    }

    init(_ home: StandbyHome, _ peer: KeyID, _ volume: VolumeName, _ network: Network) {
        self.network = network
        sender = SenderSession(.replicate(volume))
        transfer = IncomingTransfer(home, peer: peer) { [unowned self] in
            outcomes.append($0)
            // What the sender can hear from now on, a crash must not take back.
            switch $0 {
            case .ack(let ack): disktrace_mark(Mark.acknowledged(ack.durableSegments))
            case .committed: disktrace_mark(Mark.committed)
            case .opened: hasVolume = true
            default: break
            }
        }
    }

    /// Whether the standby was asked for the volume and has given it to this session.
    private(set) var hasVolume = false

    /// The worker ends.
    func close() {
        transfer = nil
        hasVolume = false
    }

    // MARK: The sender

    func open() throws -> StandbyState {
        try say(SenderSession.hello(software: "model"))
        guard case .open(let open)? = actions.last else { throw unanswered("HELLO") }
        try say(open)
        guard case .decide(let state)? = actions.last else { throw unanswered("OPEN") }
        return state
    }

    func compare(_ compare: Compare) throws -> SHA256Digest {
        try say(sender.compare(compare))
        guard case .compared(let compared)? = actions.last else { throw unanswered("COMPARE") }
        return compared.root
    }

    /// - Returns: the first segment to send.
    func begin(_ begin: Begin) throws -> UInt64 {
        try say(sender.begin(begin))
        guard case .sendSegments(let first)? = actions.last else { throw unanswered("BEGIN") }
        return first
    }

    func segment(_ generation: ModelGeneration, _ index: Int) throws {
        for each in generation.segments[index] { try say(each.header, each.stored) }
        sender.sealed(generation.seals[index])
        try say(generation.seals[index])
        guard case .acknowledged(UInt64(index + 1))? = actions.last else {
            throw unanswered("SEAL")
        }
    }

    /// - Returns: whether it is committed, not only prepared.
    func commit(_ generation: ModelGeneration) throws -> Bool {
        sender.commit(generation.record)
        try say(generation.record)
        switch actions.last {
        case .committed?: return true
        case .prepared?: return false
        default: throw unanswered("COMMIT")
        }
    }

    /// Everything from BEGIN to COMMIT, from where the standby is.
    func transfer(_ generation: ModelGeneration) throws -> Bool {
        for index in Int(try begin(generation.announcement))..<generation.segments.count {
            try segment(generation, index)
        }
        return try commit(generation)
    }

    private func unanswered(_ frame: String) -> Violation {
        Violation("\(frame) was not answered: \(actions)")
    }

    // MARK: Frames

    private func say<Frame: Message>(_ message: Frame) throws {
        actions = []
        let payload = try deliver(
            Frame.type, message.encoded(), &sentFrames)
        guard let arrived = try decoded({ try SenderMessage(Frame.type, $0) }, payload)
        else { throw Violation("\(message) is not a sender's") }
        let action: ReceiverSession.Action
        do { action = try receiver.receive(arrived, type: Frame.type) } catch {
            throw Violation("the standby does not take \(message): \(error)")
        }
        switch action {
        case .welcome(let welcome):
            try answer(welcome)
            guard let key = X25519Key(bytes: [UInt8](repeating: 9, count: 32)) else {
                throw Violation("the constant is no key")
            }
            try answer(ExportKey(key: key))
        case .none, .stopped, .record: break
        default: try work { try $0.perform(action) }
        }
    }

    private func say(_ record: RecordHeader, _ stored: [UInt8]) throws {
        actions = []
        let payload = try deliver(.record, record.encoded() + stored, &sentFrames)
        let arrived = try decoded(
            { try RecordHeader(decoding: $0, recordLength: payload.count) }, payload)
        do { _ = try receiver.receive(.record(arrived), type: .record) } catch {
            throw Violation("the standby does not take a record: \(error)")
        }
        let start = memory.take(arrived, Array(payload.dropFirst(arrived.prefixLength)))
        try work { try $0.record(arrived, memory, start: start) }
    }

    /// Does what a frame asks for and tells the sender what came of it, a refusal too.
    private func work(_ body: (IncomingTransfer) throws -> Void) throws {
        outcomes = []
        var refusal: Refusal?
        do { if let transfer { try body(transfer) } } catch let refused as Refusal {
            refusal = refused
        }
        for outcome in outcomes {
            if let message = receiver.answer(to: outcome) { try answer(message) }
        }
        if let refusal {
            defer { close() }
            try answer(refusal)
        }
    }

    private func answer<Frame: Message>(_ message: Frame) throws {
        let payload = try deliver(Frame.type, message.encoded(), &answeredFrames)
        guard
            let arrived = try decoded({ try ReceiverMessage(Frame.type, $0) }, payload)
        else { throw Violation("\(message) is not a receiver's") }
        do { actions.append(try sender.receive(arrived, type: Frame.type)) } catch {
            if case SessionError.refused(let refusal) = error { throw refusal }
            throw Violation("the sender does not take \(message): \(error)")
        }
    }

    /// - Returns: the payload, as it arrives.
    private func deliver(
        _ type: FrameType, _ payload: [UInt8], _ number: inout UInt64
    ) throws -> [UInt8] {
        let header = FrameHeader(
            type: type, payloadLength: payload.count, sequence: number,
            payloadChecksum: payload.withRawSpan { XXH3.hash($0) })
        let frame = try network.carry(header.encoded() + payload)
        let arrived = try decoded(
            { span in
                let header = try FrameHeader(decoding: span, expecting: number)
                try header.check(payload: span.extracting(Limits.frameHeader..<span.byteCount))
                return header
            }, frame)
        if network.hasDamaged, frame != header.encoded() + payload {
            throw Violation("a damaged frame is taken")
        }
        guard arrived == header else { throw Violation("another header arrives") }
        number += 1
        return Array(frame.dropFirst(Limits.frameHeader))
    }

    /// Decodes what has arrived, which fails only if the network has changed it.
    private func decoded<Value>(
        _ decode: (RawSpan) throws -> Value, _ bytes: [UInt8]
    ) throws -> Value {
        do { return try bytes.withRawSpan { try decode($0) } } catch let error as WireError {
            guard network.hasDamaged else { throw Violation("what was sent is refused: \(error)") }
            close()
            throw Network.Damaged()
        }
    }
}
