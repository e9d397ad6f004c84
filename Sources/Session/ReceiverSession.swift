// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Wire

/// A frame from a sender, except RECORD, whose content does not pass through here.
package enum SenderMessage: Equatable, Sendable {
    case hello(Hello)
    case open(Open)
    case pair(Pair)
    case begin(Begin)
    case abandon(Abandon)
    case compare(Compare)
    case ask(Ask)
    case current(Current)
    case record(RecordHeader)
    case seal(Seal)
    case commit(GenerationRecord)
    case ping
    case refuse(Refusal)

    /// Decodes a payload other than a record's. Returns `nil` for a type that only receivers send.
    package init?(_ type: FrameType, _ payload: RawSpan) throws(WireError) {
        switch type {
        case .hello: self = .hello(try Hello(decoding: payload))
        case .open: self = .open(try Open(decoding: payload))
        case .pair: self = .pair(try Pair(decoding: payload))
        case .begin: self = .begin(try Begin(decoding: payload))
        case .abandon: self = .abandon(try Abandon(decoding: payload))
        case .compare: self = .compare(try Compare(decoding: payload))
        case .ask: self = .ask(try Ask(decoding: payload))
        case .current: self = .current(try Current(decoding: payload))
        case .record:
            self = .record(try RecordHeader(decoding: payload, recordLength: payload.byteCount))
        case .seal: self = .seal(try Seal(decoding: payload))
        case .commit: self = .commit(try GenerationRecord(decoding: payload))
        case .ping: self = .ping
        case .refuse: self = .refuse(try Refusal(decoding: payload, offered: []))
        case .welcome, .state, .ready, .ack, .committed, .prepared, .progress, .paired, .compared,
            .nodes, .exportKey:
            return nil
        }
    }
}

/// The receiver's half of a session, without sockets, clocks or disks (Specification 11).
///
/// It decides which message may arrive when. `TransferChecker` checks the content of a transfer,
/// `Lineage` what it may follow.
package struct ReceiverSession: Sendable {
    /// What the engine does next.
    package enum Action: Equatable, Sendable {
        case none
        /// Send the greeting, and EXPORTKEY if the feature is on.
        case welcome(Welcome)
        /// Look the volume up; then call `opened`, or refuse.
        case open(VolumeName)
        /// Redeem the secret; then call `paired`, or refuse.
        case pair(Pair)
        /// Admit or refuse the transfer; then call `ready`.
        case begin(Begin)
        /// Drop the transfer if that is allowed; then call `opened`, or refuse.
        case abandon(TransferID)
        /// Make the map of the target; then call `compared`, or refuse.
        case compare(Compare)
        /// Look up nodes of that map; then call `answered`, or refuse.
        case ask(NodeRange)
        /// Record that the source still holds the committed generation; then call `committed`, or
        /// refuse.
        case current(Current)
        case record(RecordHeader)
        case seal(Seal)
        /// Verify, apply and call `committed`; or store it for its group and call `prepared`.
        case commit(GenerationRecord)
        /// The sender refused; close.
        case stopped(Refusal)
    }

    private enum State: Equatable, Sendable {
        case greeting, opening, pairing, looking, redeeming, offered, comparing, compared, answering
        case admitting, receiving, committing, confirming, done
    }

    private let isPairing: Bool
    private var features: Features = []
    private let software: String
    private let refusal: Refusal?
    private var state = State.greeting

    /// Starts a session.
    ///
    /// - Parameters:
    ///   - isPairing: whether the ALPN that was agreed on is that of pairing.
    ///   - refusal: the answer to HELLO if no session is free.
    package init(isPairing: Bool, software: String, refusing refusal: Refusal? = nil) {
        self.isPairing = isPairing
        self.software = software
        self.refusal = refusal
    }

    /// Whether no message has arrived that needs a check of an invitation's secret.
    package var isBeforePairing: Bool { isPairing && (state == .greeting || state == .pairing) }

    /// Whether the sender may close now without losing anything.
    package var isDone: Bool { state == .done }

    /// Whether the session was idle when the sender closed: the sender only asked or compared, or
    /// is done.
    package var isIdle: Bool { isDone || state == .offered || state == .compared }

    /// Whether COMMIT has arrived and COMMITTED has not been sent.
    package var isCommitting: Bool { state == .committing }

    /// Whether COMPARE has arrived and COMPARED has not been sent.
    package var isComparing: Bool { state == .comparing }

    /// Takes a message from the sender.
    package mutating func receive(
        _ message: SenderMessage, type: FrameType
    ) throws(SessionError) -> Action {
        switch (state, message) {
        case (_, .refuse(let refusal)):
            state = .done
            return .stopped(refusal)
        case (.greeting, .hello(let hello)):
            let range = hello.lowestVersion...hello.highestVersion
            guard
                let version = ProtocolVersion.allCases.first(where: { range.contains($0.rawValue) })
            else {
                throw .broken(
                    Refusal(
                        .unsupportedVersion,
                        "this receiver speaks versions \(ProtocolVersion.oldest.rawValue) to "
                            + "\(ProtocolVersion.current.rawValue)"))
            }
            let features = Features(rawValue: hello.features).intersection(.known)
            if var refusal {
                if !features.contains(.retryAfter) { refusal.retryAfter = 0 }
                throw .broken(refusal)
            }
            self.features = features
            state = isPairing ? .pairing : .opening
            return .welcome(
                Welcome(version: version.rawValue, features: features.rawValue, software: software))
        case (.greeting, _):
            throw .unexpected(type, in: "greeting")
        case (_, .ping):
            return .none
        case (.opening, .open(let open)):
            state = .looking
            return .open(open.volume)
        case (.pairing, .pair(let pair)):
            state = .redeeming
            return .pair(pair)
        case (.offered, .compare(let compare)):
            state = .comparing
            return .compare(compare)
        case (.compared, .ask(let ask)):
            state = .answering
            return .ask(ask.range)
        case (.offered, .begin(let begin)), (.compared, .begin(let begin)):
            state = .admitting
            return .begin(begin)
        case (.offered, .abandon(let abandon)):
            state = .looking
            return .abandon(abandon.transfer)
        case (.offered, .current(let current)) where features.contains(.current):
            state = .confirming
            return .current(current)
        case (.receiving, .record(let record)):
            return .record(record)
        case (.receiving, .seal(let seal)):
            return .seal(seal)
        case (.receiving, .commit(let record)):
            state = .committing
            return .commit(record)
        default:
            throw .unexpected(type, in: "\(state)")
        }
    }

    /// Notes that the volume was found, or its transfer handled, and that STATE is sent.
    package mutating func opened() {
        precondition(state == .looking)
        state = .offered
    }

    /// Notes that the secret was redeemed and PAIRED is sent.
    package mutating func paired() {
        precondition(state == .redeeming)
        state = .done
    }

    /// Notes that the map is made and COMPARED is sent.
    package mutating func compared() {
        precondition(state == .comparing)
        state = .compared
    }

    /// Notes that the nodes were found and NODES is sent.
    package mutating func answered() {
        precondition(state == .answering)
        state = .compared
    }

    /// Notes that the transfer was admitted and READY is sent.
    package mutating func ready() {
        precondition(state == .admitting)
        state = .receiving
    }

    /// Notes that the generation waits for its group and PREPARED is sent.
    package mutating func prepared() {
        precondition(state == .committing)
        state = .done
    }

    /// Notes that the generation is committed, or confirmed as current, and COMMITTED is sent.
    package mutating func committed() {
        precondition(state == .committing || state == .confirming)
        state = .done
    }
}
