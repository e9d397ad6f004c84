// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Digests
import Foundation
import Platform
import Synchronization
import Testing
import Wire

@Suite("Source catalog") struct SourceCatalogTests {
    private let scratch: Scratch
    private let catalog: SourceCatalog
    private let volume: VolumeName
    private let receiver: ReceiverName

    init() throws {
        scratch = try Scratch()
        catalog = try SourceCatalog(directory: scratch.directory(), clock: { 5 })
        volume = try name("db")
        receiver = try #require(ReceiverName("standby"))
        try catalog.addReceiver(receiver, key: key("standby"), address: "standby:7000")
    }

    private func replica() throws -> Replica {
        try #require(try catalog.replica(volume, at: receiver))
    }

    @discardableResult
    private func begin(_ begin: Begin, base: String, plan: String) throws -> SourceTransfer? {
        try catalog.beginTransfer(
            volume, at: receiver, SourceTransfer(begin: begin, base: base, planName: plan))
    }

    @discardableResult
    private func commitFull() throws -> GenerationRecord {
        let announced = full()
        try begin(announced, base: "snap1", plan: "plan1")
        try catalog.setPending(volume, at: receiver, record(of: announced))
        let superseded = try catalog.commit(volume, at: receiver, committedAt: 7)
        #expect(superseded.planName == "plan1" && superseded.base == nil)
        return record(of: announced)
    }

    // MARK: Receivers

    @Test("names of receivers keep their rule")
    func names() {
        let good = ["a", "0", "a.b_c-d", String(repeating: "x", count: 64)]
        let bad = ["", "A", "-a", ".a", "_a", "a b", "ä", String(repeating: "x", count: 65)]
        #expect(good.allSatisfy { ReceiverName($0)?.text == $0 })
        #expect(bad.allSatisfy { ReceiverName($0) == nil })
    }

    @Test("a name belongs to one key; the address may change")
    func receivers() throws {
        #expect(
            refusal {
                try catalog.addReceiver(receiver, key: key("other"), address: "standby:7000")
            }.isConflict)
        try catalog.addReceiver(receiver, key: key("standby"), address: "[::1]:7001")
        let found = try #require(try catalog.receiver(receiver))
        #expect(found.key == key("standby") && found.address == "[::1]:7001")
        #expect(found.addedAt == 5 && found.name == receiver)
        #expect(try catalog.receivers() == [found])
        try catalog.removeReceiver(receiver)
        #expect(try catalog.receivers().isEmpty)
        #expect(try catalog.receiver(receiver) == nil)
        #expect(refusal { try catalog.removeReceiver(receiver) }.isNotFound)
        #expect(refusal { try begin(full(), base: "s", plan: "p") }.isNotFound)
    }

    @Test(
        "the export key belongs to the owner of a key, under all names that it has, and may change")
    func exportKeys() throws {
        let second = try #require(ReceiverName("second"))
        let other = try #require(ReceiverName("other"))
        try catalog.addReceiver(second, key: key("standby"), address: "standby:7001")
        try catalog.addReceiver(other, key: key("other"), address: "other:7000")
        #expect(try catalog.receivers().allSatisfy { $0.exportKey == nil })
        for byte in [1, 2] as [UInt8] {
            let told = try #require(X25519Key(bytes: [UInt8](repeating: byte, count: 32)))
            try catalog.setExportKey(told, of: key("standby"))
            #expect(try catalog.receivers().map(\.exportKey) == [nil, told, told])
        }
        // A new address leaves it.
        try catalog.addReceiver(receiver, key: key("standby"), address: "standby:7002")
        #expect(try catalog.receiver(receiver)?.exportKey != nil)
    }

    @Test("a receiver is not removed while a replica names snapshots")
    func removalWithReplicas() throws {
        try commitFull()
        #expect(refusal { try catalog.removeReceiver(receiver) }.isConflict)
        let forgotten = try catalog.forgetReplica(volume, at: receiver)
        #expect(forgotten.base == "snap1")
        #expect(refusal { try catalog.forgetReplica(volume, at: receiver) }.isNotFound)
        try catalog.removeReceiver(receiver)
    }

    // MARK: Replicas

    @Test("a full generation and a delta go through, and every field is what it should be")
    func wholeLife() throws {
        #expect(try catalog.replica(volume, at: receiver) == nil)
        let announced = full()
        #expect(try begin(announced, base: "snap1", plan: "plan1") == nil)
        var expected = Replica(receiver: receiver, volume: volume)
        expected.lineage = announced.head.lineage
        expected.tagAlgorithm = .poly1305
        expected.tagKey = announced.tagKey
        expected.transfer = SourceTransfer(begin: announced, base: "snap1", planName: "plan1")
        #expect(expected.transfer?.begin.heldSegments == 0)
        #expect(try replica() == expected)

        let first = record(of: announced)
        try catalog.setPending(volume, at: receiver, first)
        try catalog.setPending(volume, at: receiver, first)
        expected.pending = first
        #expect(try replica() == expected)

        #expect(
            try catalog.commit(volume, at: receiver, committedAt: 7)
                == Superseded(planName: "plan1", base: nil))
        expected.pending = nil
        expected.transfer = nil
        expected.committed = first
        expected.committedAt = 7
        expected.base = "snap1"
        #expect(try replica() == expected)

        let next = delta(onto: first)
        try begin(next, base: "snap2", plan: "plan2")
        #expect(try replica().base == "snap1" && replica().tagKey == announced.tagKey)
        let second = record(of: next)
        try catalog.setPending(volume, at: receiver, second)
        #expect(
            try catalog.commit(volume, at: receiver, committedAt: 8)
                == Superseded(planName: "plan2", base: "snap1"))
        expected.committed = second
        expected.committedAt = 8
        expected.base = "snap2"
        #expect(try replica() == expected)
        #expect(try catalog.replicas() == [expected])

        let again = try SourceCatalog(directory: scratch.directory())
        #expect(try again.replica(volume, at: receiver) == expected)
    }

    @Test("an unfinished transfer is replaced, and given back")
    func replacement() throws {
        let (first, second) = (full(), full())
        try begin(first, base: "snap1", plan: "plan1")
        let replaced = try begin(second, base: "snap2", plan: "plan2")
        #expect(replaced == SourceTransfer(begin: first, base: "snap1", planName: "plan1"))
        #expect(try replica().tagKey == second.tagKey)
        #expect(try replica().lineage == second.head.lineage)
        let dropped = try catalog.abandonTransfer(volume, at: receiver)
        #expect(dropped?.planName == "plan2")
        #expect(try replica().transfer == nil)
        #expect(try catalog.abandonTransfer(volume, at: receiver) == nil)
    }

    @Test("while a generation is pending nothing forgets its snapshot unless asked")
    func pending() throws {
        let first = try commitFull()
        let announced = delta(onto: first)
        try begin(announced, base: "snap2", plan: "plan2")
        try catalog.setPending(volume, at: receiver, record(of: announced))
        let before = try replica()
        #expect(
            refusal { try begin(delta(onto: first), base: "s", plan: "p") }.isConflict)
        #expect(refusal { try catalog.abandonTransfer(volume, at: receiver) }.isConflict)
        var other = record(of: announced)
        other.deltaDigest = digest("other")
        #expect(refusal { try catalog.setPending(volume, at: receiver, other) }.isConflict)
        #expect(try replica() == before)
        let dropped = try catalog.abandonTransfer(volume, at: receiver, clearingPending: true)
        #expect(dropped?.base == "snap2")
        var expected = before
        expected.pending = nil
        expected.transfer = nil
        #expect(try replica() == expected)
    }

    @Test("what comes in the wrong state is refused and changes nothing")
    func wrongStates() throws {
        func refused(_ body: () throws -> Void) throws {
            let before = try catalog.replica(volume, at: receiver)
            #expect(refusal(body).isConflict)
            #expect(try catalog.replica(volume, at: receiver) == before)
        }
        let announced = full()
        #expect(
            refusal { try catalog.commit(volume, at: receiver, committedAt: 1) }.isNotFound)
        #expect(
            refusal { try catalog.setPending(volume, at: receiver, record(of: full())) }
                .isNotFound)
        #expect(refusal { try catalog.abandonTransfer(volume, at: receiver) }.isNotFound)
        try refused { try begin(delta(onto: record(of: announced)), base: "s", plan: "p") }
        #expect(try catalog.replicas().isEmpty)

        try begin(announced, base: "snap1", plan: "plan1")
        try refused { _ = try catalog.commit(volume, at: receiver, committedAt: 1) }
        try refused { try catalog.setPending(volume, at: receiver, record(of: full())) }
        try refused { try begin(delta(onto: record(of: announced)), base: "s", plan: "p") }
        try catalog.setPending(volume, at: receiver, record(of: announced))
        _ = try catalog.commit(volume, at: receiver, committedAt: 1)
        try refused { _ = try catalog.commit(volume, at: receiver, committedAt: 1) }
        try refused { try catalog.setPending(volume, at: receiver, record(of: announced)) }
        try refused { try begin(full(), base: "s", plan: "p") }
        var foreign = delta(onto: record(of: announced))
        foreign.head.lineage = .random()
        try refused { try begin(foreign, base: "s", plan: "p") }
    }

    @Test("replicas of one volume at two receivers do not touch each other")
    func twoReceivers() throws {
        let other = try #require(ReceiverName("second"))
        try catalog.addReceiver(other, key: key("second"), address: "second:7000")
        try commitFull()
        try catalog.beginTransfer(
            volume, at: other, SourceTransfer(begin: full(), base: "snap9", planName: "plan9"))
        #expect(try replica().transfer == nil)
        #expect(try catalog.replicas().map(\.receiver) == [other, receiver])
        try catalog.forgetReplica(volume, at: other)
        #expect(try replica().base == "snap1")
    }

    @Test("a killed process leaves its pending generation")
    func killed() async throws {
        let directory = scratch.directory("killed")
        await #expect(processExitsWith: .signal(SIGKILL)) { [directory = directory as String] in
            let catalog = try SourceCatalog(directory: directory)
            let volume = try name("db")
            let receiver = try #require(ReceiverName("standby"))
            try catalog.addReceiver(receiver, key: key("standby"), address: "standby:7000")
            let announced = full()
            try catalog.beginTransfer(
                volume, at: receiver, SourceTransfer(begin: announced, base: "s", planName: "p"))
            try catalog.setPending(volume, at: receiver, record(of: announced))
            kill(getpid(), SIGKILL)
        }
        let catalog = try SourceCatalog(directory: directory)
        let found = try #require(try catalog.replica(volume, at: receiver))
        #expect(found.pending?.head == found.transfer?.begin.head && found.committed == nil)
        #expect(
            try catalog.commit(volume, at: receiver, committedAt: 1)
                == Superseded(planName: "p", base: nil))
    }

    @Test("a tag key stands in no description")
    func redaction() throws {
        try begin(full(), base: "snap1", plan: "plan1")
        let replica = try replica()
        let bytes = try #require(replica.tagKey).bytes
        var text = String(describing: replica) + String(reflecting: replica)
        dump(replica, to: &text)
        #expect(text.contains("TagKey(…)"))
        #expect(!text.contains(bytes.prefix(4).map { "\($0)" }.joined(separator: ", ")))
    }

    // MARK: History

    @Test(
        "the history tells the newest first, keeps a limit of each volume, and outlives the receiver"
    )
    func history() throws {
        let small = try SourceCatalog(directory: scratch.directory("small"), historyLimit: 10)
        let other = try name("mail")
        func entry(_ number: UInt64, _ volume: VolumeName) -> HistoryEntry {
            HistoryEntry(
                receiver: receiver, volume: volume, number: number, id: digest("\(number)"),
                committedAt: number, changedBytes: number << 40, wireBytes: UInt64.max,
                duration: 3)
        }
        for number in 1...25 {
            try small.addHistory(entry(UInt64(number), number.isMultiple(of: 5) ? other : volume))
        }
        let left: [UInt64] = [24, 23, 22, 21, 19, 18, 17, 16, 14, 13]
        let rare: [UInt64] = [25, 20, 15, 10, 5]
        #expect(try small.history(.volume(volume), limit: 100).map(\.number) == left)
        #expect(try small.history(.volume(other), limit: 100).map(\.number) == rare)
        #expect(try small.history(limit: 100).map(\.number) == (left + rare).sorted(by: >))
        #expect(try small.history(limit: 1) == [entry(25, other)])
        let nobody = try #require(ReceiverName("nobody"))
        #expect(try small.history(.replica(volume, nobody), limit: 10).isEmpty)
        #expect(try small.history(.replica(other, receiver), limit: 2).map(\.number) == [25, 20])
    }

    @Test("the largest change is remembered over quiet days and weeks, and forgotten in the end")
    func changePeak() throws {
        let minute: UInt64 = 60 * 1_000_000_000
        let day = 1440 * minute
        let mib: UInt64 = 1 << 20
        for period in [1, 7] as [UInt64] {
            var peak = ChangePeak(bytes: 0, time: 50 * 365 * day)
            var jobs = 0
            for step in 1...(40 * 288) as ClosedRange<UInt64> {
                let isJob = step.isMultiple(of: 288 * period)
                // What the store of the snapshot before has room for.
                if isJob, jobs > 0 { #expect(peak.bytes * 3 > 80 * mib) }
                if isJob { jobs += 1 }
                peak = peak.followed(by: isJob ? 70 * mib : 100_000, at: peak.time + 5 * minute)
                #expect(peak.bytes <= 70 * mib)
            }
            #expect(jobs == 40 / Int(period))
            for _ in 0..<(90 * 288) { peak = peak.followed(by: 0, at: peak.time + 5 * minute) }
            #expect(peak.bytes < mib)
        }
        // A clock that leaps takes no more than a day, one that goes back nothing.
        var peak = ChangePeak(bytes: 64 * mib, time: 5 * day)
        peak = peak.followed(by: 1, at: 4000 * day)
        #expect(peak.bytes > 60 * mib)
        let before = peak.bytes
        peak = peak.followed(by: 1, at: day)
        #expect(peak.bytes == before)
        #expect(ChangePeak(bytes: .max, time: 0).followed(by: 7, at: .max).bytes >= 7)
    }

    @Test(
        "the largest change is of one volume at one receiver, takes no first copy, and has a new name with it"
    )
    func changePeaks() throws {
        let other = try name("mail")
        func add(_ number: UInt64, _ bytes: UInt64, _ volume: VolumeName) throws {
            try catalog.addHistory(
                HistoryEntry(
                    receiver: receiver, volume: volume, number: number, id: digest("\(number)"),
                    committedAt: 7, changedBytes: bytes, wireBytes: 1, duration: 3))
        }
        try add(1, 1 << 40, volume)
        #expect(try catalog.changePeak(volume, at: receiver) == nil)
        try add(2, 500, volume)
        try add(3, 400, volume)
        try add(2, 9, other)
        #expect(try catalog.changePeak(volume, at: receiver)?.bytes == 500)
        #expect(try catalog.changePeak(other, at: receiver)?.bytes == 9)
        #expect(try catalog.changePeak(volume, at: try #require(ReceiverName("nobody"))) == nil)
    }
}
