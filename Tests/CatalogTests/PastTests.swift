// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Digests
import Foundation
import GRDB
import Testing
import Wire

/// What the catalogs keep of the past, what that costs, and how it is found.
@Suite("The past") struct PastTests {
    private let scratch: Scratch
    private let volume: VolumeName

    init() throws {
        scratch = try Scratch()
        volume = try name("db")
    }

    private func limited(_ limit: @escaping @Sendable (StandbyEvent.Kind) -> UInt64) throws
        -> StandbyCatalog
    {
        let catalog = try StandbyCatalog(directory: scratch.directory("small"), eventLimit: limit)
        try catalog.create(volume)
        return catalog
    }

    @Test("of each kind of event in each volume the newest are kept, and none pushes another out")
    func eventLimits() throws {
        let catalog = try limited { $0 == .suspect ? 10 : 3 }
        let other = try name("other")
        try catalog.create(other)
        for number in 1...40 {
            try catalog.markSuspect(volume, reason: "\(number)")
            try catalog.noteScrubbed(volume, "s\(number)")
            if number <= 2 { try catalog.noteScrubbed(other, "o\(number)") }
        }
        let events = try catalog.events(volume: volume, limit: 1000)
        func texts(_ kind: StandbyEvent.Kind) -> [String] {
            events.filter { $0.kind == kind }.map(\.text)
        }
        #expect(texts(.suspect) == (31...40).reversed().map { "\($0)" })
        #expect(texts(.scrubbed) == ["s40", "s39", "s38"])
        #expect(texts(.volumeAdded).count == 1 && events.count == 14)
        #expect(
            try catalog.events(volume: other, limit: 9).map(\.kind) == [
                .scrubbed, .scrubbed, .volumeAdded,
            ])
        let all = try catalog.events(limit: 1000)
        #expect(all.count == 17 && all.map(\.number) == all.map(\.number).sorted(by: >))
        // Those of no volume have a limit, too.
        for number in 1...9 { try catalog.addPeer(key("\(number)"), name: "\(number)") }
        #expect(try catalog.events(limit: 1000).filter { $0.kind == .peerAdded }.count == 3)
    }

    @Test("what operators do outlives ten thousand commits, and of the steps to them few are kept")
    func realLimits() throws {
        let kinds = StandbyEvent.Kind.allCases
        let rare: [StandbyEvent.Kind] = [.paired, .promoted, .demoted, .peerAdded, .reset]
        #expect(
            rare.allSatisfy { $0.limit == 10_000 } && StandbyEvent.Kind.committed.limit == 10_000)
        #expect(
            [.begun, .applying, .prepared].allSatisfy { (kind: StandbyEvent.Kind) in
                kind.limit == 100
            })
        #expect(kinds.allSatisfy { (100...10_000).contains($0.limit) })
        let catalog = try StandbyCatalog(directory: scratch.directory("real"))
        try catalog.create(volume)
        try catalog.promote(volume, fence: try committed(catalog))
        let queue = try DatabaseQueue(path: scratch.directory("real") + "/catalog.sqlite")
        try queue.write { db in
            for kind in ["begun", "applying", "committed"] {
                try db.execute(
                    sql: """
                        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)
                        INSERT INTO event (time, volume, kind, text) SELECT i, 'db', ?, 'x' FROM n
                        """, arguments: [kind])
            }
        }
        try catalog.reset(volume, fence: try catalog.takeFence(volume))
        _ = try committed(catalog)
        let left = Dictionary(
            grouping: try catalog.events(volume: volume, limit: 100_000), by: \.kind
        ).mapValues(\.count)
        #expect(
            left == [
                .volumeAdded: 1, .promoted: 1, .reset: 1, .begun: 100, .applying: 100,
                .committed: 10_000,
            ])
    }

    private func committed(_ catalog: StandbyCatalog) throws -> UInt64 {
        let fence = try catalog.takeFence(volume)
        try catalog.commitFull(volume, fence)
        return fence
    }

    @Test("names that are nobody's any more keep little of their sessions")
    func formerNames() throws {
        let catalog = try limited { $0.limit }
        for number in 1...300 { try catalog.noteScrubbed(volume, "\(number)") }
        let new = try name("new")
        try catalog.renameVolume(volume, fence: try catalog.takeFence(volume), to: new)
        #expect(try catalog.events(volume: volume, limit: 1000).count == 101)
        for number in 1...300 { try catalog.noteScrubbed(new, "\(number)") }
        try catalog.removeVolume(new)
        let left = try catalog.events(volume: new, limit: 1000)
        #expect(left.filter { $0.kind == .scrubbed }.map(\.text).first == "300")
        #expect(left.count == 102)
    }

    @Test("a refusal is an event when its rule is another one than before, and not at every try")
    func refusals() throws {
        let catalog = try limited { $0.limit }
        for (rule, text) in [
            ("missing", "a"), ("missing", "b"), ("in-use", "c"), ("missing", "d"), ("missing", "e"),
        ] {
            try catalog.noteRefusal(volume, rule: rule, text)
        }
        _ = try committed(catalog)
        try catalog.noteRefusal(volume, rule: "missing", "f")
        try catalog.noteRefusal(try name("nobody"), rule: "missing", "g")
        let told = try catalog.events(limit: 100).filter { $0.kind == .refused }
        #expect(
            told.map(\.text) == [
                "f (rule missing)", "d (rule missing)", "c (rule in-use)", "a (rule missing)",
            ])
    }

    // MARK: Plans

    private func plan(_ sql: String, _ db: Database) throws -> [String] {
        let statement = try db.makeStatement(sql: "EXPLAIN QUERY PLAN " + sql)
        statement.setUncheckedArguments(StatementArguments())
        return try Row.fetchAll(statement).map { $0["detail"] }
    }

    @Test("no statement about events and history reads a table from end to end, or sorts it")
    func plans() throws {
        _ = try StandbyCatalog(directory: scratch.directory("standby"))
        _ = try SourceCatalog(directory: scratch.directory("source"))
        var checked = 0
        func check(_ directory: String, _ table: String, _ statements: [String]) throws {
            let queue = try DatabaseQueue(
                path: scratch.directory(directory) + "/catalog.sqlite")
            try queue.read { db in
                for statement in statements {
                    let steps = try plan(statement, db)
                    #expect(steps.contains { $0.hasPrefix("SEARCH \(table) ") }, "\(statement)")
                    #expect(
                        !steps.contains {
                            $0.contains("SCAN \(table)") || $0.contains("TEMP B-TREE")
                        },
                        "\(statement): \(steps)")
                    checked += 1
                }
                // This is how one is seen.
                let scan = "SELECT * FROM \(table) WHERE ?1 IS NULL OR volume = ?1"
                #expect(try plan(scan, db) == ["SCAN \(table)"])
            }
        }
        try check("standby", "event", EventQuery.allCases.map(\.rawValue))
        for table in HistoryQuery.allCases {
            try check("source", table.rawValue, table.statements)
        }
        #expect(checked == 12)
        // And there are no others.
        let sources = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
            .appendingPathComponent("Sources/Catalog")
        let files = try FileManager.default.contentsOfDirectory(atPath: sources.path)
        let others = try files.filter {
            ![
                "StandbyEvents.swift", "SourceHistory.swift", "StandbySchema.swift",
                "SourceSchema.swift",
            ]
            .contains($0)
        }.filter {
            try String(contentsOf: sources.appendingPathComponent($0), encoding: .utf8)
                .contains(/FROM (event|history|verification)\b/)
        }
        #expect(others == [] && files.count > 20)
    }

    // MARK: The log of the database

    @Test("a reader that holds a state for long lets the log grow, and it is cut afterwards")
    func longReader() throws {
        let limit = 8 << 20
        let receiver = try #require(ReceiverName("standby"))
        let standby = try StandbyCatalog(directory: scratch.directory("standby"))
        let source = try SourceCatalog(directory: scratch.directory("source"))
        try standby.create(volume)
        let fence = try standby.takeFence(volume)
        let sides: [(name: String, send: (Int) throws -> Void)] = [
            (
                "standby",
                { number in
                    try standby.noteScrubbed(volume, String(repeating: "x", count: 4000))
                    try standby.noteRefusal(volume, rule: "r\(number)", "again")
                    #expect(try standby.require(volume).fence == fence)
                }
            ),
            (
                "source",
                { number in
                    try source.addHistory(
                        HistoryEntry(
                            receiver: receiver, volume: volume, number: UInt64(number),
                            id: digest("\(number)"), committedAt: 1, changedBytes: 1, wireBytes: 1,
                            duration: 1))
                }
            ),
        ]
        for side in sides {
            let path = scratch.directory(side.name) + "/catalog.sqlite"
            func logSize() throws -> Int {
                try #require(
                    FileManager.default.attributesOfItem(atPath: path + "-wal")[.size] as? Int)
            }
            var configuration = Configuration()
            configuration.allowsUnsafeTransactions = true
            let reader = try DatabaseQueue(path: path, configuration: configuration)
            try reader.inDatabase { db in
                try db.beginTransaction(.deferred)
                _ = try Int.fetchOne(db, sql: "SELECT count(*) FROM sqlite_master")
            }
            var number = 0
            while try logSize() < 2 * limit, number < 4000 {
                number += 1
                try side.send(number)
            }
            #expect(try logSize() >= 2 * limit, "the reader held nothing up")
            try reader.inDatabase { db in try db.commit() }
            for more in 1...3 { try side.send(number + more) }
            #expect(try logSize() <= limit, "\(side.name)")
        }
    }
}
