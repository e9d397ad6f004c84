// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
internal import Wire

/// Decides which connections get a standby's places and which give one up (Specification 10),
/// without sockets, clocks or processes.
///
/// A connection waits until its ClientHello is complete, then for a place before authentication.
/// Once it proves a pinned key, it leaves that place for a session of its peer. Strangers are
/// counted by network, and their places are separate from those of sessions: however many they are,
/// they only take places from each other. Connections from a network that a pinned peer used
/// recently wait separately, so only their own neighbours are ahead of them.
///
/// Times are nanoseconds of one monotonic clock. Each connection has a number, greater than those
/// of earlier ones.
package struct Admission: Sendable {
    /// The next action.
    package enum Step: Equatable, Sendable {
        /// The connection has a place: shake hands.
        case start(Int)
        /// The connection has used up its time and others wait for its place: end it.
        case end(Int)
    }

    /// The answer to a peer that has proved a pinned key.
    package enum Answer: Equatable, Sendable {
        case session
        /// The peer has too many sessions and may come back after this many seconds.
        case busy(retryAfter: UInt16)
        /// The connection has been ended meanwhile.
        case gone
    }

    /// Largest number of networks to remember.
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

    /// Adds a connection that was accepted.
    ///
    /// - Parameter network: the network it counts towards until it proves a key.
    /// - Returns: a connection to close in exchange, or `nil`.
    package mutating func arrive(_ connection: Int, from network: String, now: UInt64) -> Int? {
        let isKnown = known[network].map { $0 + UInt64(Limits.knownSeconds) * Self.second > now }
        return lanes[isKnown == true ? 1 : 0].arrive(connection, from: network, now: now)
    }

    /// Notes that a connection's ClientHello is complete.
    package mutating func complete(_ connection: Int) {
        for index in lanes.indices { lanes[index].complete(connection) }
    }

    /// The connections to close because they have waited too long.
    package mutating func overdue(now: UInt64) -> [Int] {
        lanes.indices.flatMap { lanes[$0].overdue(now: now) }
    }

    // MARK: Places

    /// The next action; call again until it returns `nil`.
    package mutating func next(now: UInt64) -> Step? {
        for index in lanes.indices {
            if let step = lanes[index].next(now: now) { return step }
        }
        return nil
    }

    /// Whether a connection waits for a place that only the passage of time will free.
    package var isContended: Bool { lanes.contains { $0.isContended } }

    /// Number of a network's connections that have a place and have not proved a key.
    package func unauthenticated(from network: String) -> Int {
        lanes.reduce(0) { $0 + $1.count(from: network) }
    }

    /// Notes that a connection has proved a pinned key, and gives it a session if one is free.
    package mutating func authenticate(_ connection: Int, as key: KeyID, now: UInt64) -> Answer {
        guard let lane = lanes.indices.first(where: { lanes[$0].network(of: connection) != nil }),
            let network = lanes[lane].network(of: connection)
        else { return .gone }
        remember(network, now: now)
        // Connections that have arrived from this network meanwhile now belong to a known network.
        lanes[1].take(lanes[0].giveUp(network, atMost: lanes[1].room))
        guard sessions.count < Limits.sessions,
            sessions.values.lazy.filter({ $0 == key }).count < Limits.peerSessions
        else { return .busy(retryAfter: Limits.retryAfterSeconds) }
        lanes[lane].leave(connection)
        sessions[connection] = key
        return .session
    }

    /// Notes that a connection has ended, wherever it was.
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

/// Connections that wait for the same kind of place, and those that hold one.
private struct Lane: Sendable {
    struct Member: Sendable {
        var connection: Int
        var network: String
        /// When it was accepted, or got its place.
        var since: UInt64
        /// Whether its ClientHello is complete.
        var isComplete = false
    }

    private static let patience = UInt64(Limits.greetingSeconds) * 1_000_000_000
    private static let turn = UInt64(Limits.placeMilliseconds) * 1_000_000
    /// How long, and for how many networks, to remember when one was last served.
    private static let memory: UInt64 = 60_000_000_000
    private static let networkLimit = 4096

    private let waitingLimit: Int
    private let places: Int
    // Both in order of arrival.
    private var waiting: [Member] = []
    private var placed: [Member] = []
    private var served: [String: UInt64] = [:]

    init(waitingLimit: Int, places: Int) {
        self.waitingLimit = waitingLimit
        self.places = places
    }

    var isContended: Bool { placed.count >= places && waiting.contains { $0.isComplete } }

    func count(from network: String) -> Int { placed.lazy.filter { $0.network == network }.count }

    /// The network of a connection that holds a place, or `nil`.
    func network(of connection: Int) -> String? {
        placed.first { $0.connection == connection }?.network
    }

    mutating func arrive(_ connection: Int, from network: String, now: UInt64) -> Int? {
        var closed: Int?
        if waiting.count >= waitingLimit {
            var counts: [String: Int] = [:]
            for member in waiting { counts[member.network, default: 0] += 1 }
            let most = counts.values.max()
            // The oldest connection of the busiest network has had its chance. A crowd does not
            // push out a lone connection.
            if let index = waiting.firstIndex(where: { counts[$0.network] == most }) {
                closed = waiting.remove(at: index).connection
            }
        }
        waiting.append(Member(connection: connection, network: network, since: now))
        return closed
    }

    /// Number of connections that may still join without closing one.
    var room: Int { max(waitingLimit - waiting.count, 0) }

    /// Removes and returns the waiting connections of a network, the oldest first.
    mutating func giveUp(_ network: String, atMost limit: Int) -> [Member] {
        let found = waiting.filter { $0.network == network }.prefix(limit)
        let numbers = Set(found.map(\.connection))
        waiting.removeAll { numbers.contains($0.connection) }
        return Array(found)
    }

    /// Adds waiting connections, in the order in which all of them arrived.
    mutating func take(_ members: [Member]) {
        guard !members.isEmpty else { return }
        waiting = (waiting + members).sorted { $0.connection < $1.connection }
    }

    mutating func complete(_ connection: Int) {
        guard let index = waiting.firstIndex(where: { $0.connection == connection }) else { return }
        waiting[index].isComplete = true
    }

    mutating func overdue(now: UInt64) -> [Int] {
        // Connections are in order of arrival.
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
