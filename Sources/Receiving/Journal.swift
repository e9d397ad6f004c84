// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Digests
internal import Platform
internal import Session
package import Wire

/// One line of the daemon's journal: a session, an event of the catalog, or other text.
package struct JournalEntry: Sendable, ExpressibleByStringInterpolation {
    /// The purpose and the result of a session.
    package struct Session: Sendable {
        /// `send`, `group send`, `resync`, `verify` (compared only), `question` (asked for the
        /// volume's state only: explain, a dry run, or a send that reads its source first) or
        /// `pairing`.
        package var kind: String
        package var volume: VolumeName?
        /// The other side's address and its name on this host.
        package var address: String
        package var peer: String
        /// Number of the generation before and after the session; `nil` if there is none.
        package var from: UInt64?
        package var to: UInt64?
        /// Bytes on the wire in both directions.
        package var byteCount: UInt64 = 0
        package var nanoseconds: UInt64 = 0
        /// `committed`, `prepared`, `up to date`, `done`, `refused`, `stopped` (by the sender), or
        /// `interrupted`.
        package var outcome: String
        package var rule: String?
        /// Reason, if the session did not achieve its purpose.
        package var reason: String?
    }

    /// The line as text.
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

/// Collects the result of a session from its incoming frames and outgoing answers.
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

    /// Notes that the sender has closed.
    mutating func closed(isIdle: Bool) {
        guard session.outcome == "interrupted" else { return }
        if isIdle { session.outcome = "done" } else { session.reason = "the sender closed early" }
    }

    /// Notes that a side has refused to continue.
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

/// Writes the catalog's events to the journal: those of sessions, of commands and of the daemon
/// itself.
package struct EventTeller: Sendable {
    private let home: StandbyHome
    private let log: @Sendable (JournalEntry) -> Void

    package init(_ home: StandbyHome, log: @escaping @Sendable (JournalEntry) -> Void) {
        self.home = home
        self.log = log
    }

    /// Runs forever, from the first event not written yet, including those of earlier runs. If the
    /// catalog cannot be read now, it is read later; a session that meets the error reports it.
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

    /// Steps of a session, whose own line covers them.
    private static let steps: [StandbyEvent.Kind] = [.begun, .applying, .prepared, .refused]
}
