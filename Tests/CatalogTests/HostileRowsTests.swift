// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Digests
import Foundation
import GRDB
import Testing
import Wire

/// Every column of every row gets values that no catalog has written: what reads them gives a value or an error, never a trap.
@Suite("Hostile rows") struct HostileRowsTests {
    private static let values: [DatabaseValue] =
        [Int64.min, -1, 0, 1, 255, 256, 1 << 32, Int64.max].map { $0.databaseValue }
        + ["", "db", "\u{0}", "x/../y", String(repeating: "é", count: 3000)].map {
            $0.databaseValue
        }
        + [0, 1, 16, 31, 32, 33, 202, 5000].map { Data(repeating: 0xFF, count: $0).databaseValue }
        + [Data(count: 32).databaseValue, .null]

    private let scratch: Scratch
    private let volume: VolumeName
    private let receiver: ReceiverName

    init() throws {
        scratch = try Scratch()
        volume = try name("db")
        receiver = try #require(ReceiverName("standby"))
    }

    /// Sets each column in turn to each value, calls the readers, and puts the row back.
    ///
    /// - Returns: how many values the tables took.
    private func spoil(
        _ directory: String, tables: [String], _ read: () throws -> Void
    ) throws -> (taken: Int, read: Int) {
        let queue = try DatabaseQueue(path: directory + "/catalog.sqlite")
        var taken = 0
        var whole = 0
        for table in tables {
            let columns = try queue.read { db in
                try String.fetchAll(
                    db, sql: "SELECT name FROM pragma_table_info(?)", arguments: [table])
            }
            #expect(!columns.isEmpty)
            for column in columns {
                for value in Self.values {
                    try queue.write { db in
                        // As another program would, which knows no rule of ours.
                        try db.execute(sql: "PRAGMA defer_foreign_keys = ON")
                        try db.execute(sql: "DROP TABLE IF EXISTS temp.before")
                        try db.execute(sql: "CREATE TEMP TABLE before AS SELECT * FROM \(table)")
                    }
                    let isTaken: Bool
                    do {
                        try queue.writeWithoutTransaction { db in
                            try db.execute(sql: "PRAGMA foreign_keys = OFF")
                            try db.execute(sql: "PRAGMA ignore_check_constraints = ON")
                            try db.execute(
                                sql: "UPDATE \(table) SET \(column) = ?", arguments: [value])
                        }
                        isTaken = true
                    } catch {
                        isTaken = false
                    }
                    if isTaken {
                        taken += 1
                        do {
                            try read()
                            whole += 1
                        } catch is CatalogError {}
                    }
                    try queue.writeWithoutTransaction { db in
                        try db.execute(sql: "DELETE FROM \(table)")
                        try db.execute(sql: "INSERT INTO \(table) SELECT * FROM temp.before")
                    }
                }
            }
        }
        return (taken, whole)
    }

    @Test("of the standby")
    func standby() throws {
        let directory = scratch.directory("standby")
        let catalog = try StandbyCatalog(directory: directory)
        try catalog.addPeer(key("peer"), name: "source")
        try catalog.create(volume, of: key("peer"))
        let record = try catalog.commitFull(volume, try catalog.takeFence(volume))
        try catalog.beginDelta(volume, try catalog.takeFence(volume))
        try catalog.setRetention(volume, Retention(generations: 3, seconds: 60))
        let kept = KeptGeneration(
            number: 1, id: record.id, sourceTime: 1, committedAt: 2, snapshot: "vg/s",
            snapshotUUID: "uuid", thinDevice: 3)
        try catalog.setKept(volume, [kept])
        try catalog.addInvitation(
            secretHash: digest("secret"), volume: volume, expiresAt: 10, now: 5)
        let found = try spoil(
            directory,
            tables: ["peer", "volume", "fencing", "invitation", "retention", "kept", "kept_owner"]
        ) {
            _ = try catalog.peers()
            let volumes = try catalog.volumes()
            _ = try catalog.volume(volume)
            for state in VolumeState.allCases { _ = try catalog.volumes(in: state) }
            _ = try catalog.hasOpenInvitation(now: 6)
            _ = try catalog.keptOwner(volume, of: key("peer"))
            let retention = try catalog.retention(volume)
            _ = retention?.expired(of: try catalog.kept(volume), now: 1 << 62)
            _ = try catalog.events(limit: 10)
            for volume in volumes { _ = "\(volume)" }
            _ = try? catalog.takeFence(volume)
        }
        #expect(found.taken > 200 && found.read > 50 && found.read < found.taken, "\(found)")
    }

    @Test("of the source")
    func source() throws {
        let directory = scratch.directory("source")
        let catalog = try SourceCatalog(directory: directory)
        try catalog.addReceiver(receiver, key: key("standby"), address: "a:1")
        let first = full()
        _ = try catalog.beginTransfer(
            volume, at: receiver, SourceTransfer(begin: first, base: "base", planName: "plan"))
        try catalog.setPending(volume, at: receiver, record(of: first))
        _ = try catalog.commit(volume, at: receiver, committedAt: 7)
        let next = delta(onto: record(of: first))
        _ = try catalog.beginTransfer(
            volume, at: receiver, SourceTransfer(begin: next, base: "base", planName: "plan2"))
        try catalog.setPending(volume, at: receiver, record(of: next))
        try catalog.addVerification(
            Verification(
                receiver: receiver, volume: volume, id: record(of: first).id, firstPage: 0,
                endPage: 1, pageCount: 2, differingBlocks: 0, time: 9))
        let found = try spoil(directory, tables: ["receiver", "replica", "verification"]) {
            _ = try catalog.receivers()
            _ = try catalog.receiver(receiver)
            for replica in try catalog.replicas() { _ = "\(replica)" }
            _ = try catalog.replica(volume, at: receiver)
            _ = try catalog.verifications(.replica(volume, receiver), limit: 10)
            _ = try catalog.history(limit: 10)
            _ = try catalog.madeSnapshots()
        }
        #expect(found.taken > 100 && found.read > 20 && found.read < found.taken, "\(found)")
    }
}
