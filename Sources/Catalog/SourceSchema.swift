// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import GRDB

/// The tables of the source's catalog. A released migration never changes; a new one follows it.
enum SourceSchema {
    static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("source-1") { db in try db.execute(sql: version1) }
        migrator.registerMigration("source-2") { db in try db.execute(sql: version2) }
        migrator.registerMigration("source-3") { db in try db.execute(sql: version3) }
        migrator.registerMigration("source-4") { db in try db.execute(sql: version4) }
        migrator.registerMigration("source-snapshots") { db in try db.execute(sql: snapshots) }
        migrator.registerMigration("source-export-key") { db in try db.execute(sql: exportKey) }
        migrator.registerMigration("source-peak") { db in try db.execute(sql: peak) }
        migrator.registerMigration("source-news") { db in try db.execute(sql: news) }
        migrator.registerMigration("source-subjects") { db in try db.execute(sql: subjects) }
        return migrator
    }

    // Messages are stored as their payloads, times as nanoseconds since 1970-01-01 UTC. History
    // outlives the receivers that it names and therefore has no references.
    private static let version1 = """
        CREATE TABLE receiver (
            name TEXT NOT NULL PRIMARY KEY,
            key BLOB NOT NULL CHECK (length(key) = 32),
            address TEXT NOT NULL,
            added_at INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE replica (
            receiver TEXT NOT NULL REFERENCES receiver (name),
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
            committed_at INTEGER NOT NULL,
            changed_bytes INTEGER NOT NULL,
            wire_bytes INTEGER NOT NULL,
            duration INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX history_of_replica ON history (receiver, volume, entry);
        """
    // The pages of a generation that were compared with the standby's, and when.
    private static let version2 = """
        CREATE TABLE verification (
            entry INTEGER PRIMARY KEY AUTOINCREMENT,
            receiver TEXT NOT NULL,
            volume TEXT NOT NULL,
            id BLOB NOT NULL,
            first_page INTEGER NOT NULL,
            end_page INTEGER NOT NULL,
            page_count INTEGER NOT NULL,
            differing_blocks INTEGER NOT NULL,
            verified_at INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX verification_of_replica ON verification (receiver, volume, entry);
        """
    // The file with the pending generation, if that was exported instead of sent.
    private static let version3 = "ALTER TABLE replica ADD COLUMN exported TEXT"
    // Whether the kernel was seen to have invalidated the base's snapshot.
    private static let version4 = """
        ALTER TABLE replica ADD COLUMN base_given_up INTEGER NOT NULL DEFAULT 0
        """
    // The snapshots made here (`MadeSnapshot`). For those of version 0.1.0, only their identity is
    // known.
    private static let snapshots = """
        CREATE TABLE snapshot (
            entry INTEGER PRIMARY KEY AUTOINCREMENT,
            receiver TEXT NOT NULL,
            volume TEXT NOT NULL,
            group_uuid TEXT,
            name TEXT,
            origin_uuid TEXT,
            uuid TEXT,
            proof TEXT
        ) STRICT;
        INSERT INTO snapshot (receiver, volume, proof)
            SELECT receiver, volume, base FROM replica WHERE base LIKE 'lvm-%';
        INSERT INTO snapshot (receiver, volume, proof)
            SELECT receiver, volume, transfer_base FROM replica WHERE transfer_base LIKE 'lvm-%';
        """
    // When the source last told the standby that nothing has changed, and why the last command for
    // a volume failed.
    private static let news = """
        ALTER TABLE replica ADD COLUMN confirmed_at INTEGER;
        CREATE TABLE failure (
            receiver TEXT NOT NULL,
            volume TEXT NOT NULL,
            failed_at INTEGER NOT NULL,
            rule TEXT,
            text TEXT NOT NULL,
            PRIMARY KEY (receiver, volume)
        ) STRICT;
        """
    // Indexes the lists of the past by volume, whatever the standby.
    private static let subjects = """
        CREATE INDEX history_of_volume ON history (volume, entry);
        CREATE INDEX verification_of_volume ON verification (volume, entry);
        """
    // The key to which export files for the standby are encrypted; NULL until the standby sends it.
    private static let exportKey = """
        ALTER TABLE receiver ADD COLUMN export_key BLOB CHECK (length(export_key) = 32)
        """
    // The largest change of each volume (`ChangePeak`).
    private static let peak = """
        CREATE TABLE peak (
            receiver TEXT NOT NULL,
            volume TEXT NOT NULL,
            bytes INTEGER NOT NULL,
            time INTEGER NOT NULL,
            PRIMARY KEY (receiver, volume)
        ) STRICT;
        INSERT INTO peak (receiver, volume, bytes, time)
            SELECT receiver, volume, max(changed_bytes), max(committed_at) FROM history
            WHERE number > 1 GROUP BY receiver, volume;
        """
}
