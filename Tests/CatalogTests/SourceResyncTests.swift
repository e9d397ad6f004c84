// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Digests
import Foundation
import GRDB
import Testing
import Wire

@Suite("Resync and verification at the source") struct SourceResyncTests {
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

    /// The replica as another process finds it.
    private func replica() throws -> Replica {
        try #require(
            try SourceCatalog(directory: scratch.directory()).replica(volume, at: receiver))
    }

    @discardableResult
    private func begin(_ begin: Begin, _ number: Int) throws -> SourceTransfer? {
        try catalog.beginTransfer(
            volume, at: receiver,
            SourceTransfer(begin: begin, base: "snap\(number)", planName: "plan\(number)"))
    }

    @discardableResult
    private func commit(_ begin: Begin, _ number: Int) throws -> Superseded {
        try self.begin(begin, number)
        try catalog.setPending(volume, at: receiver, record(of: begin))
        return try catalog.commit(volume, at: receiver, committedAt: UInt64(number))
    }

    @Test("a resync of the lineage keeps base and committed generation until it is committed")
    func following() throws {
        let first = full()
        try commit(first, 1)
        var expected = try replica()
        // It follows what the standby holds, which this side need not know.
        var unknown = record(of: first)
        unknown.deltaDigest = digest("another")
        for (number, parent) in [(2, record(of: first)), (3, unknown)] {
            let next = resync(onto: parent)
            try begin(next, number)
            expected.transfer = SourceTransfer(
                begin: next, base: "snap\(number)", planName: "plan\(number)")
            #expect(try replica() == expected)
            #expect(try replica().transfer?.begin.comparedRoot == digest("map"))
            try catalog.setPending(volume, at: receiver, record(of: next))
            #expect(
                try catalog.commit(volume, at: receiver, committedAt: 9)
                    == Superseded(planName: "plan\(number)", base: expected.base))
            expected.transfer = nil
            expected.committed = record(of: next)
            expected.committedAt = 9
            expected.base = "snap\(number)"
            #expect(try replica() == expected)
        }
        // Deltas go on from there, and from there only.
        #expect(refusal { try begin(delta(onto: unknown), 8) }.isConflict)
        #expect(try begin(delta(onto: record(of: resync(onto: unknown))), 9) == nil)
    }

    @Test("a resync that begins a lineage gives up what was known, with the old base")
    func beginning() throws {
        let first = full()
        try commit(first, 1)
        let next = resync(onto: nil)
        #expect(try begin(next, 2) == nil)
        var expected = Replica(receiver: receiver, volume: volume)
        expected.lineage = next.head.lineage
        expected.tagAlgorithm = .poly1305
        expected.tagKey = next.tagKey
        expected.transfer = SourceTransfer(begin: next, base: "snap2", planName: "plan2")
        #expect(try replica() == expected)
        // A delta from before has nothing to follow.
        #expect(refusal { try begin(delta(onto: record(of: first)), 3) }.isConflict)
        try catalog.setPending(volume, at: receiver, record(of: next))
        #expect(
            try catalog.commit(volume, at: receiver, committedAt: 2)
                == Superseded(planName: "plan2", base: nil))
        #expect(try replica().committed == record(of: next) && replica().base == "snap2")
        try commit(delta(onto: record(of: next)), 3)
        #expect(try replica().base == "snap3" && replica().tagKey == next.tagKey)
    }

    @Test("a volume of which nothing was sent may begin with a resync, and forget it again")
    func first() throws {
        let next = resync(onto: nil, inPlace: true)
        try begin(next, 1)
        #expect(try replica().transfer?.begin.inPlace == true)
        #expect(try replica().lineage == next.head.lineage)
        let dropped = try catalog.abandonTransfer(volume, at: receiver)
        #expect(dropped?.planName == "plan1")
        try commit(full(), 2)
        #expect(try replica().committed?.head.kind == .full)
    }

    @Test("a resync is refused while a generation is pending, and of another lineage always")
    func refusals() throws {
        var refused = 0
        func refuse(_ begin: Begin) throws {
            let before = try catalog.replica(volume, at: receiver)
            #expect(refusal { try self.begin(begin, 7) }.isConflict)
            #expect(try catalog.replica(volume, at: receiver) == before)
            refused += 1
        }
        let announced = full()
        try refuse(resync(onto: record(of: announced)))
        try commit(announced, 1)
        var foreign = resync(onto: record(of: announced))
        foreign.head.lineage = .random()
        try refuse(foreign)
        var rootless = resync(onto: record(of: announced))
        rootless.comparedRoot = nil
        try refuse(rootless)
        let next = delta(onto: record(of: announced))
        try begin(next, 2)
        try catalog.setPending(volume, at: receiver, record(of: next))
        try refuse(resync(onto: record(of: announced)))
        try refuse(resync(onto: nil))
        try catalog.abandonTransfer(volume, at: receiver, clearingPending: true)
        // An unfinished transfer is replaced, and given back.
        try begin(next, 3)
        #expect(try begin(resync(onto: nil), 4)?.planName == "plan3")
        #expect(refused == 5)
    }

    // MARK: Verifications

    private func verification(
        _ number: UInt64, of volume: VolumeName, at receiver: ReceiverName
    ) -> Verification {
        Verification(
            receiver: receiver, volume: volume, id: digest("\(number)"), firstPage: number,
            endPage: UInt64.max - number, pageCount: .max, differingBlocks: number << 40,
            time: number + (1 << 63))
    }

    @Test("verifications tell the newest first, of one volume at one receiver, and keep a limit")
    func verifications() throws {
        let small = try SourceCatalog(directory: scratch.directory("small"), historyLimit: 20)
        let other = try name("mail")
        let second = try #require(ReceiverName("second"))
        var all: [Verification] = []
        for number in 1...60 as ClosedRange<UInt64> {
            let entry = verification(
                number, of: number.isMultiple(of: 3) ? other : volume,
                at: number.isMultiple(of: 5) ? second : receiver)
            try small.addVerification(entry)
            all.append(entry)
        }
        var found = 0
        for volume in [volume, other] {
            for receiver in [receiver, second] {
                let kept = all.filter { $0.volume == volume && $0.receiver == receiver }
                    .suffix(20).reversed().map { $0 }
                #expect(try small.verifications(.replica(volume, receiver), limit: 100) == kept)
                let newest = try small.verifications(.replica(volume, receiver), limit: 1)
                #expect(newest == Array(kept.prefix(1)))
                #expect(try small.verifications(.replica(volume, receiver), limit: -1).isEmpty)
                found += kept.count
            }
        }
        #expect(found == 48)
        #expect(try small.verifications(.replica(try name("none"), receiver), limit: 9).isEmpty)
        let ofVolume = all.filter { $0.volume == volume }.reversed().map { $0 }
        #expect(try small.verifications(.volume(volume), limit: 5) == Array(ofVolume.prefix(5)))
        #expect(try small.verifications(limit: 3) == all.suffix(3).reversed().map { $0 })
        let again = try SourceCatalog(directory: scratch.directory("small"))
        #expect(try again.verifications(.replica(other, second), limit: 9).first == all[59])
        // They outlive what they speak of, and are no history.
        #expect(try small.history(limit: 9).isEmpty)
    }

    @Test("a catalog from before the verifications is brought up to date and loses nothing")
    func migration() throws {
        try commit(full(), 1)
        let before = try replica()
        let path = scratch.directory() + "/catalog.sqlite"
        try DatabaseQueue(path: path).write { db in
            let later = try String.fetchAll(
                db, sql: "SELECT identifier FROM grdb_migrations WHERE identifier > 'source-1'")
            #expect(later.contains("source-2"))
            try db.execute(sql: "DELETE FROM grdb_migrations WHERE identifier > 'source-1'")
            try db.execute(sql: "DROP TABLE verification")
            if later.contains("source-subjects") {
                try db.execute(sql: "DROP INDEX history_of_volume")
            }
            try db.execute(sql: "DROP TABLE snapshot")
            try db.execute(sql: "DROP TABLE peak")
            try db.execute(sql: "UPDATE replica SET base = 'lvm-thin lv=a-b pool=c'")
            if later.contains("source-4") {
                try db.execute(sql: "ALTER TABLE replica DROP COLUMN base_given_up")
            }
            if later.contains("source-3") {
                try db.execute(sql: "ALTER TABLE replica DROP COLUMN exported")
            }
            if later.contains("source-news") {
                try db.execute(sql: "DROP TABLE failure")
                try db.execute(sql: "ALTER TABLE replica DROP COLUMN confirmed_at")
            }
            if later.contains("source-export-key") {
                try db.execute(sql: "ALTER TABLE receiver DROP COLUMN export_key")
            }
        }
        let found = try SourceCatalog(directory: scratch.directory())
        var after = try #require(try found.replica(volume, at: receiver))
        #expect(after.base == "lvm-thin lv=a-b pool=c")
        after.base = before.base
        #expect(after == before)
        // The base that an older version has made may be removed one day.
        let made = try found.madeSnapshots()
        #expect(made.map(\.proof) == ["lvm-thin lv=a-b pool=c"])
        #expect(made.first?.volume == volume && made.first?.name == nil)
        // A standby of then has told no key.
        #expect(try found.receivers().map(\.exportKey) == [nil])
        let entry = verification(7, of: volume, at: receiver)
        try found.addVerification(entry)
        #expect(try found.verifications(.replica(volume, receiver), limit: 9) == [entry])
        let tables = try DatabaseQueue(path: path).read { db in
            try String.fetchAll(db, sql: "SELECT identifier FROM grdb_migrations ORDER BY 1")
        }
        #expect(tables.starts(with: ["source-1", "source-2"]))
    }

    @Test("a stored verification that cannot be read is an error and no trap")
    func damage() throws {
        try catalog.addVerification(verification(1, of: volume, at: receiver))
        let path = scratch.directory() + "/catalog.sqlite"
        for value in ["id = x'00'", "receiver = 'A B'"] {
            try DatabaseQueue(path: path).write { db in
                try db.execute(sql: "UPDATE verification SET \(value)")
            }
            let asked = value.hasPrefix("id")
            let found = refusal {
                let rows = try catalog.verifications(.replica(volume, receiver), limit: 9)
                #expect(rows.isEmpty)
            }
            #expect(found.isStorage == asked)
        }
    }
}
