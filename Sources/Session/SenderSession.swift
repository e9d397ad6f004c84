// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
package import Wire

/// A frame from a receiver.
package enum ReceiverMessage: Equatable, Sendable {
    case welcome(Welcome)
    case state(StandbyState)
    case ready(Ready)
    case ack(Ack)
    case progress(Progress)
    case committed(Committed)
    case prepared(Prepared)
    case paired(Paired)
    case compared(Compared)
    case nodes(Nodes)
    case exportKey(ExportKey)
    case ping
    case refuse(Refusal)

    /// Decodes a payload. Returns `nil` for a type that only senders send.
    package init?(_ type: FrameType, _ payload: RawSpan) throws(WireError) {
        switch type {
        case .welcome:
            let offered = SenderSession.hello(software: "")
            self = .welcome(try Welcome(decoding: payload, offered: offered))
        case .state: self = .state(try StandbyState(decoding: payload))
        case .ready: self = .ready(try Ready(decoding: payload))
        case .ack: self = .ack(try Ack(decoding: payload))
        case .progress: self = .progress(try Progress(decoding: payload))
        case .committed: self = .committed(try Committed(decoding: payload))
        case .prepared: self = .prepared(try Prepared(decoding: payload))
        case .paired: self = .paired(try Paired(decoding: payload))
        case .compared: self = .compared(try Compared(decoding: payload))
        case .nodes: self = .nodes(try Nodes(decoding: payload))
        case .exportKey: self = .exportKey(try ExportKey(decoding: payload))
        case .ping: self = .ping
        case .refuse: self = .refuse(try Refusal(decoding: payload))
        case .hello, .open, .begin, .abandon, .record, .seal, .commit, .pair, .compare, .ask,
            .current:
            return nil
        }
    }
}

/// The sender's half of a session, without sockets, clocks or disks (Specification 11).
///
/// The engine passes it each incoming message and performs the action it returns. Every transition
/// is total: a frame that does not belong in the state is an error, never a trap; the receiver's
/// answers never make the sender read outside its plan.
package struct SenderSession: Sendable {
    /// Purpose of the session.
    package enum Purpose: Equatable, Sendable {
        case replicate(VolumeName)
        case pair(Pair)
        /// Receive what the receiver sends to every known peer, and nothing else.
        case greet
    }

    /// What the engine does next.
    package enum Action: Equatable, Sendable {
        case none
        case open(Open)
        case pair(Pair)
        /// The receiver does not support this volume name, which was not sent; close.
        case unknownName(VolumeName)
        /// The greetings are exchanged, which was the session's purpose.
        case greeted
        /// Decide from the standby's state; then call `begin`, `compare` or `abandon`, or close.
        case decide(StandbyState)
        /// Send the segments from this one on.
        case sendSegments(from: UInt64)
        /// Segments below this index are durable.
        case acknowledged(UInt64)
        case progress(Progress)
        case committed
        /// The generation waits on the standby for the other members of its group.
        case prepared
        case paired(VolumeName)
        /// The standby's map is made: call `ask` or `begin`, or close.
        case compared(Compared)
        /// The content below the requested nodes.
        case nodes([UInt8])
    }

    private enum State: Equatable, Sendable {
        case greeting, hearingKey, opening, pairing, deciding, comparing, compared, beginning,
            sending
        case committing, confirming, done
    }

    private let purpose: Purpose
    private var state = State.greeting
    /// The receiver's export key, once it has arrived.
    package private(set) var exportKey: X25519Key?
    private var held: UInt64 = 0
    private var sealed: UInt64 = 0
    private var acknowledged: UInt64 = 0
    private var record: GenerationRecord?
    private var isInGroup = false
    private var asked: NodeRange?
    private var features: Features = []
    private var current: Current?

    /// Starts a session; send `hello` at once.
    package init(_ purpose: Purpose) {
        self.purpose = purpose
    }

    /// The first message.
    package static func hello(software: String) -> Hello {
        Hello(
            lowestVersion: ProtocolVersion.oldest.rawValue,
            highestVersion: ProtocolVersion.current.rawValue, features: Features.known.rawValue,
            software: software)
    }

    /// Whether the receiver has confirmed everything that was sent.
    package var isDone: Bool { state == .done }

    /// Takes a message from the receiver.
    package mutating func receive(
        _ message: ReceiverMessage, type: FrameType
    ) throws(SessionError) -> Action {
        switch (state, message) {
        case (_, .refuse(let refusal)) where state != .done:
            throw .refused(refusal)
        case (_, .ping):
            return .none
        case (.greeting, .welcome(let welcome)):
            let features = Features(rawValue: welcome.features)
            guard welcome.version == ProtocolVersion.current.rawValue,
                features.isSubset(of: .known)
            else { throw .malformed("the receiver chose what was not offered") }
            if case .replicate(let volume) = purpose, volume.isWide,
                !features.contains(.wideNames)
            {
                state = .done
                return .unknownName(volume)
            }
            self.features = features
            guard features.contains(.exportKey) else { return begin() }
            state = .hearingKey
            return .none
        case (.hearingKey, .exportKey(let message)):
            exportKey = message.key
            return begin()
        case (.opening, .state(let standby)):
            state = .deciding
            return .decide(standby)
        case (.pairing, .paired(let paired)):
            state = .done
            return .paired(paired.volume)
        case (.comparing, .progress(let progress)):
            return .progress(progress)
        case (.comparing, .compared(let compared)):
            state = .compared
            return .compared(compared)
        case (.compared, .nodes(let nodes)):
            guard let range = asked, nodes.range == range else {
                throw .malformed("the receiver answers what was not asked")
            }
            asked = nil
            return .nodes(nodes.content)
        case (.beginning, .ready(let ready)):
            guard ready.nextSegment <= held else {
                throw .malformed("the receiver wants to resume past what this side holds")
            }
            state = .sending
            sealed = ready.nextSegment
            acknowledged = ready.nextSegment
            return .sendSegments(from: ready.nextSegment)
        case (.sending, .ack(let ack)), (.committing, .ack(let ack)):
            guard ack.durableSegments >= acknowledged, ack.durableSegments <= sealed else {
                throw .malformed("the receiver acknowledges what was not sent")
            }
            acknowledged = ack.durableSegments
            return .acknowledged(acknowledged)
        case (.committing, .progress(let progress)):
            return .progress(progress)
        case (.committing, .committed(let committed)):
            guard let record, committed.id == record.id, committed.number == record.head.number
            else { throw .malformed("the receiver committed something else") }
            state = .done
            return .committed
        case (.confirming, .committed(let committed)):
            guard let current, committed.id == current.id, committed.number == current.number
            else { throw .malformed("the receiver confirms something else") }
            state = .done
            return .committed
        case (.committing, .prepared(let prepared)) where isInGroup:
            guard let record, prepared.id == record.id, prepared.number == record.head.number
            else { throw .malformed("the receiver prepared something else") }
            state = .done
            return .prepared
        default:
            throw .unexpected(type, in: "\(state)")
        }
    }

    /// Starts what the session is for.
    private mutating func begin() -> Action {
        switch purpose {
        case .replicate(let volume):
            state = .opening
            return .open(Open(volume: volume))
        case .pair(let pair):
            state = .pairing
            return .pair(pair)
        case .greet:
            state = .done
            return .greeted
        }
    }

    /// Asks to drop an unfinished transfer, after `decide`; another `decide` follows.
    package mutating func abandon(_ transfer: TransferID) -> Abandon {
        precondition(state == .deciding, "ABANDON follows STATE")
        state = .opening
        return Abandon(transfer: transfer)
    }

    /// Reports that nothing has changed since the committed generation, after `decide`.
    ///
    /// - Returns: `nil` if the receiver does not support CURRENT.
    package mutating func confirm(_ current: Current) -> Current? {
        precondition(state == .deciding, "CURRENT follows STATE")
        guard features.contains(.current) else { return nil }
        state = .confirming
        self.current = current
        return current
    }

    /// Asks for the standby's map, after `decide`.
    package mutating func compare(_ compare: Compare) -> Compare {
        precondition(state == .deciding, "COMPARE follows STATE")
        state = .comparing
        return compare
    }

    /// Asks for the content below nodes, after `compared`, one range at a time.
    package mutating func ask(_ range: NodeRange) -> Ask {
        precondition(state == .compared && asked == nil, "ASK follows COMPARED or NODES")
        asked = range
        return Ask(range: range)
    }

    /// Announces a transfer, after `decide` or `compared`.
    package mutating func begin(_ begin: Begin) -> Begin {
        precondition(
            state == .deciding || state == .compared && asked == nil,
            "BEGIN follows STATE, COMPARED or NODES")
        state = .beginning
        held = begin.heldSegments
        isInGroup = begin.group != nil
        return begin
    }

    /// Notes that a segment was sealed.
    package mutating func sealed(_ seal: Seal) {
        precondition(state == .sending && seal.index == sealed, "seals go up by one")
        sealed += 1
    }

    /// Notes that COMMIT is sent.
    package mutating func commit(_ record: GenerationRecord) {
        precondition(state == .sending, "COMMIT follows the segments")
        state = .committing
        self.record = record
    }

    /// Number of segments that are sealed but not acknowledged.
    package var unacknowledgedSegments: UInt64 { sealed - acknowledged }
}
