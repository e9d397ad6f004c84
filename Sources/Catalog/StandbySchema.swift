// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import GRDB

/// The tables of the standby's catalog. A released migration never changes; a new one follows it.
enum StandbySchema {
    static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("standby-1") { db in try db.execute(sql: version1) }
        migrator.registerMigration("standby-2") { db in try db.execute(sql: version2) }
        migrator.registerMigration("standby-demoted") { db in try db.execute(sql: demoted) }
        migrator.registerMigration("standby-targets") { db in try db.execute(sql: targets) }
        migrator.registerMigration("standby-place") { db in try db.execute(sql: place) }
        migrator.registerMigration("standby-redeemers") { db in try db.execute(sql: redeemers) }
        migrator.registerMigration("standby-journal") { db in try db.execute(sql: journal) }
        migrator.registerMigration("standby-order") { db in try db.execute(sql: order) }
        migrator.registerMigration("standby-events") { db in try db.execute(sql: events) }
        migrator.registerMigration("standby-room") { db in try db.execute(sql: room) }
        migrator.registerMigration("standby-owner") { db in try db.execute(sql: owner) }
        return migrator
    }

    // Messages are stored as their payloads, enumerations as their numbers on the wire, times as
    // nanoseconds since 1970-01-01 UTC. Events outlive their subjects and therefore have no
    // references. Fencing numbers count for all volumes together: a volume made again under an old
    // name never gets a number that a writer of the old one still holds.
    private static let version1 = """
        CREATE TABLE peer (
            key BLOB NOT NULL PRIMARY KEY CHECK (length(key) = 32),
            name TEXT NOT NULL,
            added_at INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE volume (
            name TEXT NOT NULL PRIMARY KEY,
            peer BLOB REFERENCES peer (key) ON DELETE SET NULL,
            target_path TEXT NOT NULL UNIQUE,
            target_kind INTEGER NOT NULL,
            target_identity TEXT NOT NULL,
            state INTEGER NOT NULL,
            lineage BLOB,
            tag_algorithm INTEGER,
            tag_key BLOB,
            committed BLOB,
            committed_at INTEGER,
            transfer_begin BLOB,
            transfer_log BLOB,
            transfer_in_place INTEGER,
            applying BLOB,
            fence INTEGER NOT NULL,
            suspect_reason TEXT,
            added_at INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX volume_of_peer ON volume (peer);
        CREATE TABLE fencing (last INTEGER NOT NULL) STRICT;
        INSERT INTO fencing (last) VALUES (0);
        CREATE TABLE invitation (
            secret_hash BLOB NOT NULL PRIMARY KEY CHECK (length(secret_hash) = 32),
            volume TEXT NOT NULL REFERENCES volume (name) ON DELETE CASCADE,
            expires_at INTEGER NOT NULL,
            used INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX invitation_of_volume ON invitation (volume);
        CREATE TABLE event (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            time INTEGER NOT NULL,
            volume TEXT,
            kind TEXT NOT NULL,
            text TEXT NOT NULL
        ) STRICT;
        CREATE INDEX event_of_volume ON event (volume, number);
        CREATE TRIGGER event_is_append_only BEFORE UPDATE ON event
            BEGIN SELECT raise(ABORT, 'events are not changed'); END;
        """
    // The limits for kept generations of a volume, and the kept ones. The id of a logical volume is
    // LVM's own; its name may be changed.
    private static let version2 = """
        CREATE TABLE retention (
            volume TEXT NOT NULL PRIMARY KEY REFERENCES volume (name) ON DELETE CASCADE,
            generations INTEGER,
            seconds INTEGER,
            problem TEXT
        ) STRICT;
        CREATE TABLE kept (
            volume TEXT NOT NULL REFERENCES volume (name) ON DELETE CASCADE,
            generation BLOB NOT NULL CHECK (length(generation) = 32),
            number INTEGER NOT NULL,
            source_time INTEGER NOT NULL,
            committed_at INTEGER NOT NULL,
            snapshot TEXT NOT NULL,
            snapshot_uuid TEXT NOT NULL,
            PRIMARY KEY (volume, generation)
        ) STRICT;
        """
    // Whether one resync may overwrite a promoted copy.
    private static let demoted = """
        ALTER TABLE volume ADD COLUMN is_demoted INTEGER NOT NULL DEFAULT FALSE
        """
    // Whether a first copy may overwrite the target's content, and when its mapping was last
    // checked.
    private static let targets = """
        ALTER TABLE volume ADD COLUMN target_consent INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE volume ADD COLUMN target_presence TEXT;
        """
    // The file that this catalog was in when it was last opened, and the volumes that a restored
    // catalog brought here.
    private static let place = """
        CREATE TABLE place (file TEXT NOT NULL) STRICT;
        ALTER TABLE volume ADD COLUMN is_restored INTEGER NOT NULL DEFAULT FALSE;
        """
    // When the source last said that nothing has changed, why its last session was refused, and the
    // last event written to the daemon's journal.
    private static let journal = """
        ALTER TABLE volume ADD COLUMN confirmed_at INTEGER;
        ALTER TABLE volume ADD COLUMN refused_at INTEGER;
        ALTER TABLE volume ADD COLUMN refused_rule TEXT;
        ALTER TABLE volume ADD COLUMN refused_text TEXT;
        CREATE TABLE journal (told INTEGER NOT NULL) STRICT;
        INSERT INTO journal (told) SELECT coalesce(max(number), 0) FROM event;
        """
    // The order of kept generations, as their thin devices show it, and the clock by which they are
    // released.
    private static let order = """
        ALTER TABLE kept ADD COLUMN thin_device INTEGER NOT NULL DEFAULT 0;
        CREATE TABLE retention_clock (
            volume TEXT NOT NULL PRIMARY KEY REFERENCES volume (name) ON DELETE CASCADE,
            time INTEGER NOT NULL,
            boot TEXT NOT NULL,
            since_boot INTEGER NOT NULL
        ) STRICT;
        """
    // Index for counting events.
    private static let events = """
        CREATE INDEX event_of_kind ON event (volume, kind, number)
        """
    // Warnings about kept generations despite success.
    private static let room = """
        ALTER TABLE retention ADD COLUMN warning TEXT
        """
    // The owner of a volume's kept generations, as in their tags; NULL for those of earlier
    // versions, whose tags have the volume's current name and bytes of the standby's key.
    private static let owner = """
        CREATE TABLE kept_owner (
            volume TEXT NOT NULL PRIMARY KEY REFERENCES volume (name) ON DELETE CASCADE,
            name TEXT NOT NULL,
            id BLOB CHECK (length(id) = 8)
        ) STRICT;
        ALTER TABLE retention ADD COLUMN in_vain INTEGER
        """
    // The key that redeemed an invitation; NULL if that was not recorded yet.
    private static let redeemers = """
        ALTER TABLE invitation ADD COLUMN used_by BLOB CHECK (length(used_by) = 32)
        """
}
