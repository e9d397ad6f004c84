// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import Session
import Testing
import Wire

/// Drives `Admission` as the supervisor does, with a clock of its own.
private struct Standby {
    var admission = Admission()
    var now: UInt64 = 1_000_000_000_000
    var last = 0
    var started: [Int] = []
    var ended: Set<Int> = []
    var closed: Set<Int> = []

    mutating func connect(from network: String, isWhole: Bool = true) -> Int {
        last += 1
        if let other = admission.arrive(last, from: network, now: now) { closed.insert(other) }
        if isWhole { admission.complete(last) }
        return last
    }

    mutating func run() {
        closed.formUnion(admission.overdue(now: now))
        while let step = admission.next(now: now) {
            switch step {
            case .start(let connection): started.append(connection)
            case .end(let connection): ended.insert(connection)
            }
        }
    }

    mutating func pass(milliseconds: UInt64) { now += milliseconds * 1_000_000 }

    func hasPlace(_ connection: Int) -> Bool {
        started.contains(connection) && !ended.contains(connection)
    }

    /// A peer connects and proves its key; the answer it gets.
    mutating func session(_ key: KeyID, from network: String) -> (Int, Admission.Answer) {
        let connection = connect(from: network)
        run()
        guard hasPlace(connection) else { return (connection, .gone) }
        return (connection, admission.authenticate(connection, as: key, now: now))
    }
}

private func key(_ number: UInt8) -> KeyID {
    KeyID(SHA256Digest.of([number]))
}

@Suite("Places") struct PlacesTests {
    private static let busy = Admission.Answer.busy(retryAfter: Limits.retryAfterSeconds)

    /// 1,000 half handshakes a second from 64 networks, for `seconds`; a peer connects ten times a second.
    ///
    /// - Returns: how long the peer waited for a place at most, in milliseconds, and how often it came.
    private func attack(
        _ standby: inout Standby, seconds: Int, peer network: String
    ) -> (longest: UInt64, count: Int) {
        var waiting: [Int: UInt64] = [:]
        var longest: UInt64 = 0
        var count = 0
        for millisecond in 0..<seconds * 1000 {
            _ = standby.connect(from: "10.0.0.\(millisecond % 64)")
            if millisecond % 100 == 99 {
                waiting[standby.connect(from: network)] = standby.now
                count += 1
            }
            standby.run()
            for (connection, since) in waiting where standby.hasPlace(connection) {
                longest = max(longest, (standby.now - since) / 1_000_000)
                #expect(
                    standby.admission.authenticate(connection, as: key(1), now: standby.now)
                        == .session)
                standby.admission.leave(connection)
                waiting[connection] = nil
            }
            #expect(
                waiting.keys.allSatisfy {
                    !standby.closed.contains($0) && !standby.ended.contains($0)
                })
            standby.pass(milliseconds: 1)
        }
        #expect(waiting.count <= 1)
        return (longest, count)
    }

    @Test(
        "among half handshakes a peer from a network of its own has a place soon, and at once if it is known"
    )
    func strangers() {
        for isKnown in [false, true] {
            var standby = Standby()
            if isKnown { #expect(standby.session(key(1), from: "peer").1 == .session) }
            let (longest, count) = attack(&standby, seconds: 20, peer: "peer")
            #expect(count == 200)
            // A stranger's place is free after its time at the latest; a place of a known network at once.
            let limit = isKnown ? 0 : UInt64(Limits.placeMilliseconds) + 100
            #expect(longest <= limit, "\(longest)")
        }
    }

    @Test("a peer that shares its network with some of the strangers has a place within a second")
    func neighbours() {
        var standby = Standby()
        #expect(standby.session(key(1), from: "10.0.0.5").1 == .session)
        let (longest, count) = attack(&standby, seconds: 20, peer: "10.0.0.5")
        #expect(count == 200)
        #expect(longest <= 1000, "\(longest)")
    }

    @Test("strangers take no sessions, and have no more than their places")
    func places() {
        var standby = Standby()
        var held: [Int] = []
        for number in 0..<Limits.sessions {
            let peer = UInt8(number / Limits.peerSessions)
            let (connection, answer) = standby.session(key(peer), from: "site")
            #expect(answer == .session)
            held.append(connection)
        }
        #expect(standby.session(key(200), from: "site").1 == Self.busy)
        standby.admission.leave(held[0])
        #expect(standby.session(key(200), from: "elsewhere").1 == .session)
        for number in 0..<200 { _ = standby.connect(from: "10.1.0.\(number)") }
        standby.run()
        let places = (0..<200).reduce(0) {
            $0 + standby.admission.unauthenticated(from: "10.1.0.\($1)")
        }
        #expect(places == Limits.placesBeforeAuthentication.others)
    }

    @Test(
        "peers are counted by key: many behind one network have their sessions, and one too many is told when to come"
    )
    func peers() {
        var standby = Standby()
        for peer in 0..<UInt8(Limits.sessions / Limits.peerSessions) {
            for _ in 0..<Limits.peerSessions {
                #expect(standby.session(key(peer), from: "site").1 == .session)
            }
            let (refused, answer) = standby.session(key(peer), from: "site")
            #expect(answer == Self.busy)
            standby.admission.leave(refused)
        }
    }

    @Test("the oldest gives its place up to who waits, not before its time, and only then")
    func eviction() {
        var standby = Standby()
        let places = Limits.placesBeforeAuthentication.others
        let first = (0..<places).map { standby.connect(from: "10.0.0.\($0)") }
        standby.run()
        standby.pass(milliseconds: UInt64(Limits.placeMilliseconds) * 4)
        standby.run()
        #expect(standby.ended.isEmpty && !standby.admission.isContended)
        let later = standby.connect(from: "10.0.1.1")
        standby.run()
        #expect(standby.ended == [first[0]] && standby.hasPlace(later))
        #expect(standby.admission.authenticate(first[0], as: key(1), now: standby.now) == .gone)
        // The rest of them may stay until others come, and who came just now has its time.
        let crowd = (0..<places).map { standby.connect(from: "10.0.2.\($0)") }
        standby.run()
        #expect(standby.ended == Set(first) && !standby.hasPlace(crowd[places - 1]))
        #expect(standby.admission.isContended)
        standby.pass(milliseconds: UInt64(Limits.placeMilliseconds))
        standby.run()
        #expect(standby.hasPlace(crowd[places - 1]))
    }

    @Test("of too many that wait the oldest of the most numerous network is closed")
    func waiting() {
        var standby = Standby()
        let alone = standby.connect(from: "alone", isWhole: false)
        let crowd = (0..<Limits.waiting.others).map { _ in
            standby.connect(from: "crowd", isWhole: false)
        }
        #expect(standby.closed == [crowd[0]])
        standby.pass(milliseconds: UInt64(Limits.greetingSeconds) * 1000 + 1)
        standby.run()
        #expect(standby.closed == Set(crowd + [alone]) && standby.started.isEmpty)
    }

    @Test("a network is known for its time, and no longer")
    func known() {
        for (days, isKnown) in [(1, true), (3, false)] as [(UInt64, Bool)] {
            var standby = Standby()
            let (connection, _) = standby.session(key(1), from: "site")
            standby.admission.leave(connection)
            standby.pass(milliseconds: days * 86_400_000)
            for number in 0..<Limits.placesBeforeAuthentication.others {
                _ = standby.connect(from: "10.0.0.\(number)")
            }
            standby.run()
            let again = standby.connect(from: "site")
            standby.run()
            #expect(standby.hasPlace(again) == isKnown)
        }
    }
}
