// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Digests
internal import Platform
internal import Session
package import Wire

/// One line of the daemon's journal: a session, an event of the catalog, or something else in words.
package struct JournalEntry: Sendable, ExpressibleByStringInterpolation {
    /// What a session was for and what came of it.
    package struct Session: Sendable {
        /// `send`, `group send`, `resync`, `verify` (compared and no more), `question` (asked where the volume stands and no more:
        /// explain, a dry run, or a send that reads its source first) or `pairing`.
        package var kind: String
        package var volume: VolumeName?
        /// The address and, as the peer is called here, the name of the other side.
        package var address: String
        package var peer: String
        /// The generations that it was to bring the copy from and to; nothing if there is none.
        package var from: UInt64?
        package var to: UInt64?
        /// Bytes on the wire, both ways.
        package var byteCount: UInt64 = 0
        package var nanoseconds: UInt64 = 0
        /// `committed`, `prepared`, `up to date`, `done`, `refused`, `stopped` (by the sender's word), or `interrupted`.
        package var outcome: String
        package var rule: String?
        /// Why, if it did not do what it was for.
        package var reason: String?
    }

    /// The line for people.
    package let text: String
    package let session: Session?
    package let event: StandbyEvent?

    package init(stringLiteral text: String) {
        self.text = text
        session = nil
        event = nil
    }

    package init(_ session: Session) {
        let whom = "\(session.address) (\(session.peer))"
        let what = session.volume.map { "\(session.kind) of \($0)" } ?? session.kind
        let steps = session.to.map { " \(session.from ?? 0)→\($0)" } ?? ""
        let tenths = session.nanoseconds / (nanosecondsPerSecond / 10)
        let reason = session.reason.map { ": \($0)" } ?? ""
        text =
            "\(whom): \(what)\(steps): \(session.outcome), \(session.byteCount) bytes on wire, "
            + "\(tenths / 10).\(tenths % 10) s\(reason)"
        self.session = session
        event = nil
    }

    package init(_ event: StandbyEvent) {
        let words = event.text.isEmpty ? "" : ": \(event.text)"
        text = (event.volume.map { "volume \($0): " } ?? "") + event.kind.rawValue + words
        session = nil
        self.event = event
    }
}

/// What a session comes to, as its frames come in and answers go out.
struct SessionStory {
    private(set) var session: JournalEntry.Session
    private let began = Clock.monotonic()

    init(_ address: String, peer: String) {
        session = JournalEntry.Session(
            kind: "question", address: address, peer: peer, outcome: "interrupted")
    }

    mutating func note(_ action: ReceiverSession.Action) {
        switch action {
        case .open(let name): session.volume = name
        case .pair(let pair):
            session.kind = "pairing"
            session.peer = pair.name
        case .compare: session.kind = "verify"
        case .current(let current):
            session.kind = "send"
            session.from = current.number
            session.to = current.number
        case .begin(let begin):
            session.kind =
                begin.head.kind == .resync ? "resync" : begin.group == nil ? "send" : "group send"
            session.to = begin.head.number
        case .none, .welcome, .abandon, .ask, .record, .seal, .commit, .stopped: break
        }
    }

    mutating func note(_ outcome: IncomingTransfer.Outcome) {
        switch outcome {
        case .opened(let state): session.from = state.committedNumber
        case .paired(let volume):
            session.volume = volume
            session.outcome = "done"
        case .committed(let committed):
            session.outcome = session.from == committed.number ? "up to date" : "committed"
        case .prepared: session.outcome = "prepared"
        case .compared, .nodes, .ready, .ack, .progress, .refuse, .note, .memory: break
        }
    }

    /// The sender has closed.
    mutating func closed(isIdle: Bool) {
        guard session.outcome == "interrupted" else { return }
        if isIdle { session.outcome = "done" } else { session.reason = "the sender closed early" }
    }

    /// A side has refused to go on.
    mutating func ended(_ outcome: String, _ refusal: Refusal) {
        session.outcome = outcome
        session.rule = refusal.rule
        session.reason = "\(refusal)"
    }

    mutating func failed(_ error: any Error) {
        if session.outcome == "interrupted" { session.reason = "\(error)" }
    }

    func entry(_ byteCount: UInt64) -> JournalEntry {
        var session = session
        session.byteCount = byteCount
        session.nanoseconds = Clock.monotonic() - began
        if session.kind == "question" || session.kind == "verify" { session.from = nil }
        return JournalEntry(session)
    }
}

/// Says in the journal what the catalog records: what sessions, commands and the daemon itself have done.
package struct EventTeller: Sendable {
    private let home: StandbyHome
    private let log: @Sendable (JournalEntry) -> Void

    package init(_ home: StandbyHome, log: @escaping @Sendable (JournalEntry) -> Void) {
        self.home = home
        self.log = log
    }

    /// Tells for ever, from the first event that was not told yet, also by an earlier run. A catalog that cannot be read now
    /// is read later: a session that meets it says so.
    package func run() {
        while true {
            if let events = try? home.catalog.untoldEvents(), let last = events.last {
                for event in events where !Self.steps.contains(event.kind) {
                    log(JournalEntry(event))
                }
                try? home.catalog.setTold(last.number)
            }
            Clock.sleep(milliseconds: 500)
        }
    }

    /// Steps of a session, which has a line of its own.
    private static let steps: [StandbyEvent.Kind] = [.begun, .applying, .prepared, .refused]
}
