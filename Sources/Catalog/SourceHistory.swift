// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import GRDB
package import Wire

/// The history of sends and comparisons, up to a limit for each volume.
extension SourceCatalog {
    /// The subject of a list.
    package enum Subject: Sendable {
        case everything
        case volume(VolumeName)
        case replica(VolumeName, ReceiverName)
    }

    /// Adds a comparison and removes the volume's oldest one beyond the limit.
    package func addVerification(_ entry: Verification) throws(CatalogError) {
        try store.write("record a verification of volume \(entry.volume)") { db in
            try db.execute(
                sql: """
                    INSERT INTO verification
                        (receiver, volume, id, first_page, end_page, page_count,
                         differing_blocks, verified_at)
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
                    """,
                arguments: [
                    entry.receiver.text, entry.volume.text, entry.id.stored,
                    entry.firstPage.stored, entry.endPage.stored, entry.pageCount.stored,
                    entry.differingBlocks.stored, entry.time.stored,
                ])
            try trim(.verification, entry.receiver, entry.volume, db)
        }
    }

    /// The latest comparisons, newest first.
    package func verifications(
        _ subject: Subject = .everything, limit: Int
    ) throws(CatalogError) -> [Verification] {
        try store.read("list the verifications") { db in
            try rows(.verification, subject, limit, db).map { try Verification($0) }
        }
    }

    /// Adds a committed generation and removes the volume's oldest one beyond the limit.
    package func addHistory(_ entry: HistoryEntry) throws(CatalogError) {
        try store.write("record generation \(entry.number) of volume \(entry.volume)") { db in
            try db.execute(
                sql: """
                    INSERT INTO history
                        (receiver, volume, number, id, committed_at, changed_bytes, wire_bytes,
                         duration)
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
                    """,
                arguments: [
                    entry.receiver.text, entry.volume.text, entry.number.stored, entry.id.stored,
                    entry.committedAt.stored, entry.changedBytes.stored, entry.wireBytes.stored,
                    entry.duration.stored,
                ])
            try trim(.history, entry.receiver, entry.volume, db)
            try ChangePeak.note(entry, in: db)
        }
    }

    /// The latest committed generations, newest first.
    package func history(
        _ subject: Subject = .everything, limit: Int
    ) throws(CatalogError) -> [HistoryEntry] {
        try store.read("list the history") { db in
            try rows(.history, subject, limit, db).map { try HistoryEntry($0) }
        }
    }

    private func rows(
        _ table: HistoryQuery, _ subject: Subject, _ limit: Int, _ db: Database
    ) throws -> [Row] {
        let limit = max(0, limit)
        return switch subject {
        case .everything: try Row.fetchAll(db, sql: table.all, arguments: [0, limit])
        case .volume(let volume):
            try Row.fetchAll(db, sql: table.ofVolume, arguments: [volume.text, limit])
        case .replica(let volume, let receiver):
            try Row.fetchAll(
                db, sql: table.ofReplica, arguments: [receiver.text, volume.text, limit])
        }
    }

    private func trim(
        _ table: HistoryQuery, _ receiver: ReceiverName, _ volume: VolumeName, _ db: Database
    ) throws {
        try db.execute(
            sql: table.trim, arguments: [receiver.text, volume.text, historyLimit.stored])
    }
}

/// The queries on a history table; each reads only the rows that it returns.
package enum HistoryQuery: String, CaseIterable {
    case history, verification

    var all: String { "SELECT * FROM \(rawValue) WHERE entry > ? ORDER BY entry DESC LIMIT ?" }
    var ofVolume: String {
        "SELECT * FROM \(rawValue) WHERE volume = ? ORDER BY entry DESC LIMIT ?"
    }
    var ofReplica: String {
        """
        SELECT * FROM \(rawValue) WHERE receiver = ? AND volume = ? ORDER BY entry DESC LIMIT ?
        """
    }
    var trim: String {
        """
        DELETE FROM \(rawValue) WHERE receiver = ?1 AND volume = ?2 AND entry <= (
            SELECT entry FROM \(rawValue) WHERE receiver = ?1 AND volume = ?2
            ORDER BY entry DESC LIMIT 1 OFFSET ?3)
        """
    }

    /// All of them.
    package var statements: [String] { [all, ofVolume, ofReplica, trim] }
}
