// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
internal import Wire

/// Who of those that connect gets one of a standby's places, and who gives one up (Specification 10), without sockets, clocks
/// or processes.
///
/// A connection waits for its ClientHello to be whole, then for a place before authentication. With a pinned key proven
/// it leaves that place for a session of its peer. Strangers are counted by network, and their places are not those of
/// sessions: however many they are, they take places from each other. What comes from a network that a pinned peer came
/// from lately waits apart, so that it has only its own neighbours before it.
///
/// Times are nanoseconds of one clock that never goes back; a connection is known by a number, the later the greater.
package struct Admission: Sendable {
    /// What is to be done now.
    package enum Step: Equatable, Sendable {
        /// This connection has a place: shake hands.
        case start(Int)
        /// This one has had its time, and others wait for its place: end it.
        case end(Int)
    }

    /// An answer to a peer that has proved a pinned key.
    package enum Answer: Equatable, Sendable {
        case session
        /// It has one too many, and may come back after so many seconds.
        case busy(retryAfter: UInt16)
        /// It has been ended meanwhile.
        case gone
    }

    /// Networks that are remembered.
    private static let networkLimit = 4096
    private static let second: UInt64 = 1_000_000_000

    private var known: [String: UInt64] = [:]
    private var lanes = [
        Lane(waitingLimit: Limits.waiting.others, places: Limits.placesBeforeAuthentication.others),
        Lane(waitingLimit: Limits.waiting.known, places: Limits.placesBeforeAuthentication.known),
    ]
    private var sessions: [Int: KeyID] = [:]

    package init() {}

    // MARK: Waiting

    /// A connection was accepted.
    ///
    /// - Parameter network: what it is counted by until it has proved a key.
    /// - Returns: a connection that is to be closed for it.
    package mutating func arrive(_ connection: Int, from network: String, now: UInt64) -> Int? {
        let isKnown = known[network].map { $0 + UInt64(Limits.knownSeconds) * Self.second > now }
        return lanes[isKnown == true ? 1 : 0].arrive(connection, from: network, now: now)
    }

    /// A connection's ClientHello is whole.
    package mutating func complete(_ connection: Int) {
        for index in lanes.indices { lanes[index].complete(connection) }
    }

    /// The connections that have waited too long and are to be closed.
    package mutating func overdue(now: UInt64) -> [Int] {
        lanes.indices.flatMap { lanes[$0].overdue(now: now) }
    }

    // MARK: Places

    /// The next thing to do; to be asked until there is nothing more.
    package mutating func next(now: UInt64) -> Step? {
        for index in lanes.indices {
            if let step = lanes[index].next(now: now) { return step }
        }
        return nil
    }

    /// Whether somebody waits for a place that will be free at a time which nothing else tells.
    package var isContended: Bool { lanes.contains { $0.isContended } }

    /// Connections of a network that have a place and have proved nothing.
    package func unauthenticated(from network: String) -> Int {
        lanes.reduce(0) { $0 + $1.count(from: network) }
    }

    /// A connection has proved a pinned key: it has a session from now on, if there is one for it.
    package mutating func authenticate(_ connection: Int, as key: KeyID, now: UInt64) -> Answer {
        guard let lane = lanes.indices.first(where: { lanes[$0].network(of: connection) != nil }),
            let network = lanes[lane].network(of: connection)
        else { return .gone }
        remember(network, now: now)
        // What has come from there meanwhile is a known network's too.
        lanes[1].take(lanes[0].giveUp(network, atMost: lanes[1].room))
        guard sessions.count < Limits.sessions,
            sessions.values.lazy.filter({ $0 == key }).count < Limits.peerSessions
        else { return .busy(retryAfter: Limits.retryAfterSeconds) }
        lanes[lane].leave(connection)
        sessions[connection] = key
        return .session
    }

    /// A connection has ended, wherever it was.
    package mutating func leave(_ connection: Int) {
        for index in lanes.indices { lanes[index].leave(connection) }
        sessions[connection] = nil
    }

    private mutating func remember(_ network: String, now: UInt64) {
        if known[network] == nil, known.count >= Self.networkLimit,
            let oldest = known.min(by: { $0.value < $1.value })
        {
            known[oldest.key] = nil
        }
        known[network] = now
    }
}

/// Connections that wait for the same places, and those that have them.
private struct Lane: Sendable {
    struct Member: Sendable {
        var connection: Int
        var network: String
        /// When it was accepted, or had its place.
        var since: UInt64
        /// Whether its ClientHello is whole.
        var isComplete = false
    }

    private static let patience = UInt64(Limits.greetingSeconds) * 1_000_000_000
    private static let turn = UInt64(Limits.placeMilliseconds) * 1_000_000
    /// How long it is remembered when a network was served last, and of how many.
    private static let memory: UInt64 = 60_000_000_000
    private static let networkLimit = 4096

    private let waitingLimit: Int
    private let places: Int
    // Both in the order in which they came.
    private var waiting: [Member] = []
    private var placed: [Member] = []
    private var served: [String: UInt64] = [:]

    init(waitingLimit: Int, places: Int) {
        self.waitingLimit = waitingLimit
        self.places = places
    }

    var isContended: Bool { placed.count >= places && waiting.contains { $0.isComplete } }

    func count(from network: String) -> Int { placed.lazy.filter { $0.network == network }.count }

    /// The network of a connection that has a place.
    func network(of connection: Int) -> String? {
        placed.first { $0.connection == connection }?.network
    }

    mutating func arrive(_ connection: Int, from network: String, now: UInt64) -> Int? {
        var closed: Int?
        if waiting.count >= waitingLimit {
            var counts: [String: Int] = [:]
            for member in waiting { counts[member.network, default: 0] += 1 }
            let most = counts.values.max()
            // Its oldest one has had its chance. Who waits alone is not pushed out by those that come in crowds.
            if let index = waiting.firstIndex(where: { counts[$0.network] == most }) {
                closed = waiting.remove(at: index).connection
            }
        }
        waiting.append(Member(connection: connection, network: network, since: now))
        return closed
    }

    /// How many more may wait without one being closed for it.
    var room: Int { max(waitingLimit - waiting.count, 0) }

    /// Takes those that wait out whose network this is, the oldest first.
    mutating func giveUp(_ network: String, atMost limit: Int) -> [Member] {
        let found = waiting.filter { $0.network == network }.prefix(limit)
        let numbers = Set(found.map(\.connection))
        waiting.removeAll { numbers.contains($0.connection) }
        return Array(found)
    }

    /// Lets them wait here, in the order in which all of them came.
    mutating func take(_ members: [Member]) {
        guard !members.isEmpty else { return }
        waiting = (waiting + members).sorted { $0.connection < $1.connection }
    }

    mutating func complete(_ connection: Int) {
        guard let index = waiting.firstIndex(where: { $0.connection == connection }) else { return }
        waiting[index].isComplete = true
    }

    mutating func overdue(now: UInt64) -> [Int] {
        // They came one after the other.
        let late = waiting.prefix { $0.since + Self.patience < now }.map(\.connection)
        waiting.removeFirst(late.count)
        return late
    }

    mutating func next(now: UInt64) -> Admission.Step? {
        if placed.count >= places {
            guard let oldest = placed.first, oldest.since + Self.turn <= now, isContended else {
                return nil
            }
            placed.removeFirst()
            return .end(oldest.connection)
        }
        var best: (rank: (Int, UInt64), index: Int)?
        var ranks: [String: (Int, UInt64)] = [:]
        for (index, member) in waiting.enumerated() where member.isComplete {
            let rank =
                ranks[member.network]
                ?? (count(from: member.network), served[member.network] ?? 0)
            ranks[member.network] = rank
            if best.map({ rank < $0.rank }) ?? true { best = (rank, index) }
        }
        guard let best else { return nil }
        var member = waiting.remove(at: best.index)
        if served.count >= Self.networkLimit {
            served = served.filter { $0.value + Self.memory > now }
        }
        served[member.network] = now
        member.since = now
        placed.append(member)
        return .start(member.connection)
    }

    mutating func leave(_ connection: Int) {
        waiting.removeAll { $0.connection == connection }
        placed.removeAll { $0.connection == connection }
    }
}
