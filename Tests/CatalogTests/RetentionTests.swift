// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Digests
import Foundation
import GRDB
import Testing
import Wire

@Suite("Retention") struct RetentionTests {
    private let scratch: Scratch
    private let catalog: StandbyCatalog
    private let volume: VolumeName

    init() throws {
        scratch = try Scratch()
        catalog = try StandbyCatalog(directory: scratch.directory(), clock: { 5 })
        volume = try name("db")
        try catalog.create(volume)
    }

    private func generation(_ number: UInt64, committedAt seconds: UInt64) -> KeptGeneration {
        KeptGeneration(
            number: number, id: digest("generation \(number)"), sourceTime: .max - number,
            committedAt: seconds * 1_000_000_000, snapshot: "vg/db_\(number)",
            snapshotUUID: "uuid-\(number)", thinDevice: UInt32(number))
    }

    @Test("limits are set, replaced and taken away, and know their volume")
    func limits() throws {
        #expect(try catalog.retention(volume) == nil)
        for retention in [
            Retention(generations: 3), Retention(seconds: 60),
            Retention(generations: 1, seconds: .max), nil, Retention(generations: 10_000),
        ] {
            try catalog.setRetention(volume, retention)
            #expect(try catalog.retention(volume) == retention)
        }
        let other = try name("mail")
        #expect(refusal { try catalog.setRetention(other, Retention(seconds: 1)) }.isNotFound)
        #expect(refusal { try catalog.setKept(other, [generation(1, committedAt: 1)]) }.isNotFound)
        #expect(try catalog.retention(other) == nil)
        #expect(try catalog.events(limit: 100).filter { $0.kind == .retention }.count == 5)
    }

    @Test("a problem is remembered until it is gone, and told once")
    func problems() throws {
        try catalog.setRetentionProblem(volume, "no limits, no problem")
        #expect(try catalog.retentionProblem(volume) == nil)
        try catalog.setRetention(volume, Retention(generations: 3))
        for _ in 0..<3 { try catalog.setRetentionProblem(volume, "the pool is full") }
        #expect(try catalog.retentionProblem(volume) == "the pool is full")
        try catalog.setRetentionProblem(volume, nil)
        #expect(try catalog.retentionProblem(volume) == nil)
        let told = try catalog.events(volume: volume, limit: 100).filter { $0.kind == .notKept }
        #expect(told.map(\.text) == ["the pool is full"])
    }

    @Test("a warning stands beside a problem, is told once, and outlives other limits")
    func warnings() throws {
        try catalog.setRetentionWarning(volume, "no limits, no warning")
        #expect(try catalog.retentionWarning(volume) == nil)
        try catalog.setRetention(volume, Retention(generations: 3))
        try catalog.setRetentionProblem(volume, "in use")
        for _ in 0..<3 { try catalog.setRetentionWarning(volume, "80 % full") }
        try catalog.setRetention(volume, Retention(generations: 2))
        #expect(try catalog.retentionWarning(volume) == "80 % full")
        #expect(try catalog.retentionProblem(volume) == "in use")
        try catalog.setRetentionWarning(volume, nil)
        #expect(try catalog.retentionWarning(volume) == nil)
        #expect(try catalog.retentionProblem(volume) == "in use")
        let told = try catalog.events(volume: volume, limit: 100).filter { $0.kind == .warning }
        #expect(told.map(\.text) == ["80 % full"])
    }

    @Test("one that was released before its time is told with the reason")
    func gaveWay() throws {
        let all = [3, 2, 1].map { generation($0, committedAt: 100 + $0) }
        try catalog.setKept(volume, all)
        try catalog.removeKept(volume, all[2], because: "the pool has no room for generation 4")
        try catalog.removeKept(volume, all[1])
        #expect(try catalog.kept(volume) == [all[0]])
        let told = try catalog.events(volume: volume, limit: 100).filter { $0.kind == .released }
        #expect(
            Set(told.map(\.text)) == [
                "generation 1, vg/db_1: the pool has no room for generation 4",
                "generation 2, vg/db_2",
            ])
    }

    @Test("kept generations come back newest first with every field, and go with their volume")
    func kept() throws {
        try catalog.setRetention(volume, Retention(generations: 9))
        let all = [3, 2, 1].map { generation($0, committedAt: 100 + $0) }
        for found in [[all[2]], [all[1], all[2]], all, all] { try catalog.setKept(volume, found) }
        // The same generation again: LVM's newest word counts.
        var renamed = all[0]
        renamed.snapshot = "vg/other"
        try catalog.setKept(volume, [renamed, all[1], all[2]])
        #expect(try catalog.kept(volume) == [renamed, all[1], all[2]])
        // A new lineage begins with number 1 again, and the clock may have gone back.
        var newer = generation(1, committedAt: 9)
        newer.id = digest("another lineage")
        newer.thinDevice = 17
        try catalog.setKept(volume, [newer, renamed, all[1], all[2]])
        #expect(try catalog.kept(volume) == [newer, renamed, all[1], all[2]])
        try catalog.setKept(volume, [newer, renamed, all[1]])
        #expect(try catalog.kept(volume) == [newer, renamed, all[1]])
        let told = try catalog.events(volume: volume, limit: 100).filter {
            [.kept, .released].contains($0.kind)
        }
        #expect(told.filter { $0.kind == .kept }.count == 5)
        #expect(
            told.filter { $0.kind == .released }.map(\.text) == [
                "generation 1, vg/db_1: somebody has removed, renamed or changed it"
            ])
        // A reset forgets what the target holds, not what is kept.
        try catalog.setRetention(volume, Retention(generations: 4))
        let fence = try catalog.takeFence(volume)
        try catalog.commitFull(volume, fence)
        try catalog.reset(volume, fence: fence)
        #expect(try catalog.kept(volume).count == 3)
        #expect(try catalog.retention(volume)?.generations == 4)
        try catalog.removeVolume(volume)
        try catalog.create(volume)
        #expect(try catalog.kept(volume).isEmpty)
        #expect(try catalog.retention(volume) == nil)
    }

    @Test("each limit takes what is beyond it, and no limit takes the newest")
    func expiry() {
        let day: UInt64 = 86_400
        let now = 1000 * day
        // Committed 0, 1, 2 ... 9 days ago.
        let kept = (0..<10).map { generation(100 - $0, committedAt: now - $0 * day) }
        func left(_ retention: Retention, _ kept: [KeptGeneration], now: UInt64) -> [UInt64] {
            let gone = Set(retention.expired(of: kept, now: now * 1_000_000_000))
            return kept.filter { !gone.contains($0) }.map(\.number)
        }
        var checked = 0
        for generations: UInt64? in [nil, 1, 2, 9, 10, 11, 10_000] {
            for seconds: UInt64? in [nil, 1, day - 1, day, day + 1, 5 * day, 100 * day, .max] {
                let found = left(
                    Retention(generations: generations, seconds: seconds), kept, now: now)
                let expected = (0..<10).filter { index in
                    index == 0
                        || (generations.map { index < $0 } ?? true)
                            && (seconds.map { UInt64(index) * day <= $0 } ?? true)
                }.map { 100 - $0 }
                #expect(
                    found == expected,
                    "\(String(describing: generations)) \(String(describing: seconds))")
                checked += 1
            }
        }
        #expect(checked == 56)
        // A clock that went back takes nothing by age.
        #expect(left(Retention(seconds: 1), kept, now: 1).count == 10)
        // Age counts from the newest: without a new one, nothing goes.
        #expect(left(Retention(seconds: 5 * day), kept, now: 9000 * day).count == 6)
        #expect(Retention(generations: 1).expired(of: [], now: 5).isEmpty)
        // All of them old: one stays.
        #expect(left(Retention(seconds: 1), kept, now: 9000 * day) == [100])
    }

    @Test(
        "the order is that of the snapshots, whatever their dates say, and a wrong date takes nothing"
    )
    func wrongDates() throws {
        let day: UInt64 = 86_400
        let today = 5000
        let now = UInt64(today) * day
        func left(_ days: [Int], _ retention: Retention, now: UInt64 = now) -> [Int] {
            let kept = days.enumerated().map { index, day in
                generation(100 - UInt64(index), committedAt: UInt64(today + day) * 86_400)
            }
            let gone = retention.expired(of: kept, now: now * 1_000_000_000)
            return kept.indices.filter { !gone.contains(kept[$0]) }
        }
        let week = Retention(seconds: 7 * day)
        // Each as it should be, newest first, in days.
        #expect(left([0, -1, -2, -8, -9], week) == [0, 1, 2])
        // The newest is dated five years back, and those after it: they are newer than what is older.
        #expect(left([-1800, -1, -2, -6, -900], week) == [0, 1, 2, 3])
        #expect(left([0, -1800, -1801, -6, -7, -9], week) == [0, 1, 2, 3, 4])
        // One is dated five years ahead: it counts as the one after it.
        #expect(left([0, 1800, -2, -8], week) == [0, 1, 2])
        #expect(left([-5, 1800, -14, -15], week) == [0, 1])
        // The newest is: it counts as now.
        #expect(left([1800, -1, -6, -8], week) == [0, 1, 2])
        // By number nothing but the order counts.
        #expect(left([-1800, 1800, -900, 0, 5], Retention(generations: 3)) == [0, 1, 2])
        for (index, wrong) in [(0, -1800), (0, 1800), (3, 1800), (3, -1800)] {
            var days = [0, -1, -2, -3, -4, -5]
            days[index] = wrong
            #expect(left(days, week).count == 6)
        }
    }

    @Test("a clock is believed as far as time can have passed, and by an operator's word")
    func clock() throws {
        let hour: UInt64 = 3600 * 1_000_000_000
        let day = 24 * hour
        let year = 365 * day
        let start = 50 * year
        func clock(_ time: UInt64, _ boot: String, _ sinceBoot: UInt64) -> RetentionClock {
            RetentionClock(time: time, boot: boot, sinceBoot: sinceBoot)
        }
        func time(_ found: RetentionClock) throws -> UInt64 {
            try catalog.retentionTime(volume, found)
        }
        #expect(try time(clock(start, "a", 5 * hour)) == start)
        #expect(try time(clock(start + day, "a", 29 * hour)) == start + day)
        // It is corrected by some minutes.
        let later = start + 2 * day - hour / 2
        #expect(try time(clock(later, "a", 53 * hour)) == later)
        // It leaps ahead, and back.
        #expect(try time(clock(start + 5 * year, "a", 54 * hour)) == later + hour)
        #expect(try time(clock(start - 5 * year, "a", 55 * hour)) == later + 2 * hour)
        #expect(try time(clock(0, "a", 56 * hour)) == later + 3 * hour)
        #expect(try time(clock(.max, "a", 57 * hour)) == later + 4 * hour)
        // And is right again.
        #expect(try time(clock(later + 5 * hour, "a", 58 * hour)) == later + 5 * hour)
        // After a start of the host, the time that it was down is not known.
        let next = later + 5 * hour
        #expect(try time(clock(next + 20 * hour, "b", hour)) == next + 20 * hour)
        #expect(try time(clock(next + 30 * day, "c", hour)) == next + 44 * hour)
        #expect(try time(clock(1, "d", hour)) == next + 44 * hour)
        // A clock of the host that goes back is another start, too.
        #expect(try time(clock(next + 45 * hour, "d", 1)) == next + 45 * hour)
        try catalog.trustClock(volume, clock(next + 30 * day, "d", 2))
        #expect(try time(clock(next + 30 * day + 1, "d", 3)) == next + 30 * day + 1)
        // Each volume has its own; a name that is changed keeps it.
        let fence = try catalog.takeFence(volume)
        try catalog.renameVolume(volume, fence: fence, to: try name("other"))
        #expect(
            try catalog.retentionTime(try name("other"), clock(start, "d", 3)) == next + 30 * day
                + 1)
    }

    @Test("what is kept has one owner until it is given up, whatever the volume is called")
    func owner() throws {
        let standby = key("standby")
        let other = try name("other")
        try catalog.setKept(volume, [generation(1, committedAt: 1)])
        // As earlier versions had it.
        #expect(try catalog.keptOwner(volume, of: standby) == KeptOwner(standby, volume))
        try catalog.renameVolume(volume, fence: try catalog.takeFence(volume), to: other)
        #expect(try catalog.keptOwner(other, of: standby) == KeptOwner(standby, volume))
        #expect(try catalog.kept(other).count == 1)
        try catalog.renameVolume(other, fence: try catalog.takeFence(other), to: volume)
        try catalog.setRetention(volume, Retention(generations: 3))
        let first = try catalog.keptOwner(volume, of: standby)
        #expect(first.volume == volume)
        #expect(first != KeptOwner(standby, volume))
        #expect(try catalog.kept(volume).isEmpty)
        try catalog.setRetention(volume, Retention(generations: 2))
        #expect(try catalog.keptOwner(volume, of: standby) == first)
        try catalog.setRetention(volume, nil)
        #expect(try catalog.keptOwner(volume, of: standby) == first)
        try catalog.renameVolume(volume, fence: try catalog.takeFence(volume), to: other)
        #expect(try catalog.keptOwner(other, of: standby) == first)
        try catalog.setRetention(other, Retention(generations: 2))
        let second = try catalog.keptOwner(other, of: standby)
        #expect(second.volume == other)
        #expect(second.standby != first.standby)
    }

    @Test("a catalog of the first version gets the tables and keeps what it holds")
    func migration() throws {
        let fence = try catalog.takeFence(volume)
        try catalog.commitFull(volume, fence)
        var before = try catalog.require(volume)
        // That version did not know it.
        before.mayOverwrite = false
        let queue = try DatabaseQueue(path: scratch.directory() + "/catalog.sqlite")
        try queue.write { db in
            try db.execute(
                sql: """
                    DROP TABLE retention; DROP TABLE retention_clock; DROP TABLE kept; DROP TABLE kept_owner; ALTER TABLE invitation DROP COLUMN used_by;
                    ALTER TABLE volume DROP COLUMN is_demoted;
                    ALTER TABLE volume DROP COLUMN target_consent;
                    ALTER TABLE volume DROP COLUMN target_presence;
                    ALTER TABLE volume DROP COLUMN is_restored; DROP TABLE place;
                    ALTER TABLE volume DROP COLUMN confirmed_at; DROP TABLE journal;
                    DROP INDEX event_of_kind;
                    ALTER TABLE volume DROP COLUMN refused_at;
                    ALTER TABLE volume DROP COLUMN refused_rule;
                    ALTER TABLE volume DROP COLUMN refused_text;
                    DELETE FROM grdb_migrations WHERE identifier <> 'standby-1';
                    """)
        }
        let again = try StandbyCatalog(directory: scratch.directory())
        #expect(try again.volume(volume) == before)
        try again.setRetention(volume, Retention(generations: 2))
        try again.setRetentionWarning(volume, "80 % full")
        #expect(try again.retentionWarning(volume) == "80 % full")
        try again.setKept(volume, [generation(1, committedAt: 1)])
        #expect(try again.kept(volume).count == 1)
    }
}
