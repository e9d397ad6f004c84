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
            snapshotUUID: "uuid-\(number)")
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
        #expect(refusal { try catalog.addKept(other, generation(1, committedAt: 1)) }.isNotFound)
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

    @Test("kept generations come back newest first with every field, and go with their volume")
    func kept() throws {
        let all = [3, 1, 2].map { generation($0, committedAt: 100 + $0) }
        for kept in all { try catalog.addKept(volume, kept) }
        // The same generation again: LVM's newest word counts.
        var renamed = all[0]
        renamed.snapshot = "vg/other"
        try catalog.addKept(volume, renamed)
        #expect(try catalog.kept(volume) == [renamed, all[2], all[1]])
        // A new lineage begins with number 1 again.
        var newer = generation(1, committedAt: 900)
        newer.id = digest("another lineage")
        try catalog.addKept(volume, newer)
        #expect(try catalog.kept(volume) == [newer, renamed, all[2], all[1]])
        try catalog.removeKept(volume, all[2])
        #expect(try catalog.kept(volume) == [newer, renamed, all[1]])
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
        #expect(Retention(generations: 1).expired(of: [], now: 5).isEmpty)
        // All of them old: one stays.
        #expect(left(Retention(seconds: 1), kept, now: 9000 * day) == [100])
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
                    DROP TABLE retention; DROP TABLE kept; ALTER TABLE invitation DROP COLUMN used_by;
                    ALTER TABLE volume DROP COLUMN is_demoted;
                    ALTER TABLE volume DROP COLUMN target_consent;
                    ALTER TABLE volume DROP COLUMN target_presence;
                    ALTER TABLE volume DROP COLUMN is_restored; DROP TABLE place;
                    ALTER TABLE volume DROP COLUMN confirmed_at; DROP TABLE journal;
                    ALTER TABLE volume DROP COLUMN refused_at;
                    ALTER TABLE volume DROP COLUMN refused_rule;
                    ALTER TABLE volume DROP COLUMN refused_text;
                    DELETE FROM grdb_migrations WHERE identifier <> 'standby-1';
                    """)
        }
        let again = try StandbyCatalog(directory: scratch.directory())
        #expect(try again.volume(volume) == before)
        try again.setRetention(volume, Retention(generations: 2))
        try again.addKept(volume, generation(1, committedAt: 1))
        #expect(try again.kept(volume).count == 1)
    }
}
