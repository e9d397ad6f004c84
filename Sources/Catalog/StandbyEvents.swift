// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import GRDB
package import Wire

/// The events that are still useful: each kind has a separate limit in each volume, so that no kind
/// displaces another.
extension StandbyCatalog {
    /// The latest events, newest first, of one volume if it is given.
    package func events(
        volume: VolumeName? = nil, limit: Int
    ) throws(CatalogError) -> [StandbyEvent] {
        let limit = max(0, limit)
        return try store.read("list the events") { db in
            let rows =
                if let volume {
                    try Row.fetchAll(
                        db, sql: EventQuery.ofVolume.rawValue, arguments: [volume.text, limit])
                } else {
                    try Row.fetchAll(db, sql: EventQuery.all.rawValue, arguments: [0, limit])
                }
            return try rows.map { try StandbyEvent($0) }
        }
    }

    /// The oldest events that are not yet in the daemon's journal, oldest first.
    package func untoldEvents() throws(CatalogError) -> [StandbyEvent] {
        try store.read("list the latest events") { db in
            try Row.fetchAll(db, sql: EventQuery.untold.rawValue).map { try StandbyEvent($0) }
        }
    }

    /// Records that all events up to this one are in the journal.
    package func setTold(_ number: UInt64) throws(CatalogError) {
        try store.write("remember which events are told") { db in
            try db.execute(
                sql: "UPDATE journal SET told = max(told, ?)", arguments: [number.stored])
        }
    }

    /// Records that the whole target was read and matches what was committed.
    package func noteScrubbed(_ name: VolumeName, _ text: String) throws(CatalogError) {
        try store.write("record a scrub of volume \(name)") { db in
            try record(.scrubbed, name, text, db)
        }
    }

    /// Appends an event within the transaction that it describes, and removes the oldest one of its
    /// kind and volume beyond the limit.
    func record(
        _ kind: StandbyEvent.Kind, _ volume: VolumeName?, _ text: String, _ db: Database
    ) throws {
        try db.execute(
            sql: "INSERT INTO event (time, volume, kind, text) VALUES (?, ?, ?, ?)",
            arguments: [now.stored, volume?.text, kind.rawValue, text])
        try trim(kind, volume, to: eventLimit(kind), db)
    }

    /// Removes most of the sessions' events of a volume whose name is no longer in use: there may
    /// be any number of them.
    func forgetSteps(of name: VolumeName, _ db: Database) throws {
        for kind in StandbyEvent.Kind.allCases where kind.isOfSession {
            try trim(kind, name, to: min(100, eventLimit(kind)), db)
        }
    }

    private func trim(
        _ kind: StandbyEvent.Kind, _ volume: VolumeName?, to limit: UInt64, _ db: Database
    ) throws {
        try db.execute(
            sql: EventQuery.trim.rawValue, arguments: [volume?.text, kind.rawValue, limit.stored])
    }
}

/// The queries for events; each reads only the rows that it returns.
package enum EventQuery: String, CaseIterable {
    case all = "SELECT * FROM event WHERE number > ? ORDER BY number DESC LIMIT ?"
    case ofVolume = "SELECT * FROM event WHERE volume = ? ORDER BY number DESC LIMIT ?"
    case untold = """
        SELECT * FROM event WHERE number > (SELECT told FROM journal) ORDER BY number LIMIT 1000
        """
    case trim = """
        DELETE FROM event WHERE volume IS ?1 AND kind = ?2 AND number <= (
            SELECT number FROM event WHERE volume IS ?1 AND kind = ?2
            ORDER BY number DESC LIMIT 1 OFFSET ?3)
        """
}

extension StandbyEvent.Kind {
    /// How many events to keep for each volume: years of operators' actions and failures, months of
    /// commits (104 days at one every 15 minutes), and of their steps what may still be useful
    /// today.
    package var limit: UInt64 {
        switch self {
        case .begun, .applying, .prepared: 100
        case .abandoned, .notApplied, .kept, .notKept, .released, .warning, .scrubbed, .refused,
            .suspect,
            .diverged, .targetChanged, .restored:
            1_000
        case .committed, .peerAdded, .peerRemoved, .volumeAdded, .volumeRemoved, .volumeRenamed,
            .overwrite, .invited, .paired, .promoted, .demoted, .reset, .retention:
            10_000
        }
    }

    /// Whether each generation or each session may add one.
    fileprivate var isOfSession: Bool { limit < 10_000 || self == .committed }
}
