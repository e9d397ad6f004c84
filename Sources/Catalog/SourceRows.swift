// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
internal import Foundation
internal import GRDB
internal import Wire

/// The tables of the source's catalog.
enum SourceSchema {
    static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("source-1") { db in try db.execute(sql: version1) }
        return migrator
    }

    // Messages are stored as their payloads, times as nanoseconds since 1970-01-01 UTC.
    private static let version1 = """
        CREATE TABLE receiver (
            name TEXT NOT NULL PRIMARY KEY,
            key BLOB NOT NULL CHECK (length(key) = 32),
            address TEXT NOT NULL,
            added_at INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE replica (
            receiver TEXT NOT NULL REFERENCES receiver (name) ON DELETE CASCADE,
            volume TEXT NOT NULL,
            lineage BLOB,
            tag_algorithm INTEGER,
            tag_key BLOB,
            committed BLOB,
            committed_at INTEGER,
            base TEXT,
            pending BLOB,
            transfer_begin BLOB,
            transfer_base TEXT,
            transfer_plan TEXT,
            PRIMARY KEY (receiver, volume)
        ) STRICT;
        CREATE TABLE history (
            entry INTEGER PRIMARY KEY AUTOINCREMENT,
            receiver TEXT NOT NULL,
            volume TEXT NOT NULL,
            number INTEGER NOT NULL,
            id BLOB NOT NULL,
            changed INTEGER NOT NULL,
            wire INTEGER NOT NULL,
            nanoseconds INTEGER NOT NULL,
            committed_at INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX history_of_volume ON history (receiver, volume, entry);
        """
}

extension Receiver {
    init(_ row: Row) throws {
        let columns = Columns(row)
        self.init(
            name: try columns.text("name"), key: try columns.key("key"),
            address: try columns.text("address"), addedAt: try columns.number("added_at"))
    }
}

extension Replica {
    init(_ row: Row) throws {
        let columns = Columns(row)
        self.init(
            receiver: try columns.text("receiver"), volume: try columns.volumeName("volume"))
        lineage = try columns.lineage("lineage")
        tagAlgorithm = try columns.tagAlgorithm("tag_algorithm")
        tagKey = try columns.tagKey("tag_key")
        committed = try columns.message("committed", GenerationRecord.self)
        committedAt = try columns.optionalNumber("committed_at")
        base = try columns.optionalText("base")
        pending = try columns.message("pending", GenerationRecord.self)
        if let begin = try columns.message("transfer_begin", Begin.self) {
            transfer = SourceTransfer(
                begin: begin, base: try columns.optionalText("transfer_base"),
                planName: try columns.text("transfer_plan"))
        }
    }

    func save(in db: Database) throws {
        try db.execute(
            sql: """
                INSERT OR REPLACE INTO replica (
                    receiver, volume, lineage, tag_algorithm, tag_key, committed, committed_at, base,
                    pending, transfer_begin, transfer_base, transfer_plan)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
            arguments: [
                receiver, volume.text, lineage?.stored, tagAlgorithm?.rawValue,
                tagKey.map { Data($0.bytes) }, try committed?.stored(), committedAt?.stored, base,
                try pending?.stored(), try transfer?.begin.stored(), transfer?.base,
                transfer?.planName,
            ])
    }
}

extension HistoryEntry {
    init(_ row: Row) throws {
        let columns = Columns(row)
        self.init(
            receiver: try columns.text("receiver"), volume: try columns.volumeName("volume"),
            number: try columns.number("number"), id: try columns.digest("id"),
            changedByteCount: try columns.number("changed"),
            wireByteCount: try columns.number("wire"),
            nanoseconds: try columns.number("nanoseconds"),
            committedAt: try columns.number("committed_at"))
    }
}
