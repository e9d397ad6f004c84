// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
internal import Foundation
internal import GRDB
internal import Platform
package import Wire

/// The durable state of a source host: the standbys it knows, and where each volume stands on each of them.
package final class SourceCatalog: Sendable {
    private let store: Store
    private let clock: @Sendable () -> UInt64

    /// Opens the catalog in `directory`, whose parent must exist, and makes it if it is missing.
    package init(
        directory: String, clock: @escaping @Sendable () -> UInt64 = { Clock.wall() }
    ) throws(CatalogError) {
        store = try Store(
            directory: directory, purpose: .source, migrator: SourceSchema.migrator)
        self.clock = clock
    }

    // MARK: Receivers

    /// Adds a standby, or changes the address of one that is known by the same key.
    ///
    /// - Throws: `conflict` if the name belongs to another key.
    package func addReceiver(
        _ name: String, key: KeyID, address: String
    ) throws(CatalogError) {
        try store.write("add the standby \(name)") { db in
            if let known = try Self.receiver(name, db), known.key != key {
                throw CatalogError.Kind.conflict("the name belongs to another key")
            }
            try db.execute(
                sql: """
                    INSERT INTO receiver (name, key, address, added_at) VALUES (?, ?, ?, ?)
                    ON CONFLICT (name) DO UPDATE SET address = excluded.address
                    """,
                arguments: [name, key.stored, address, clock().stored])
        }
    }

    /// A standby by its name here.
    package func receiver(_ name: String) throws(CatalogError) -> Receiver? {
        try store.read("find the standby \(name)") { db in try Self.receiver(name, db) }
    }

    /// All standbys.
    package func receivers() throws(CatalogError) -> [Receiver] {
        try store.read("list the standbys") { db in
            try Row.fetchAll(db, sql: "SELECT * FROM receiver ORDER BY name")
                .map { try Receiver($0) }
        }
    }

    private static func receiver(_ name: String, _ db: Database) throws -> Receiver? {
        try Row.fetchOne(db, sql: "SELECT * FROM receiver WHERE name = ?", arguments: [name])
            .map { try Receiver($0) }
    }

    // MARK: Replicas

    /// What is known of a volume on a standby; an empty one if nothing is.
    package func replica(
        _ receiver: String, _ volume: VolumeName
    ) throws(CatalogError) -> Replica {
        try store.read("find volume \(volume)") { db in try Self.replica(receiver, volume, db) }
    }

    /// All replicas.
    package func replicas() throws(CatalogError) -> [Replica] {
        try store.read("list the volumes") { db in
            try Row.fetchAll(db, sql: "SELECT * FROM replica ORDER BY receiver, volume")
                .map { try Replica($0) }
        }
    }

    // A transfer goes through these, and a crash between them leaves:
    // 1. `beginTransfer`: the transfer and its plan; the next send resumes it or replaces it.
    // 2. `setPending`: a generation that the standby may have committed; the next send asks.
    // 3. `commit`: the new generation is the base of the next one. The old plan file may be left; it
    //    is removed with the next one.

    /// Notes a transfer before it is announced, in place of an unfinished one. A full generation begins a
    /// lineage.
    package func beginTransfer(
        _ receiver: String, _ volume: VolumeName, _ transfer: SourceTransfer
    ) throws(CatalogError) {
        try change("begin a transfer of", receiver, volume) { replica in
            let head = transfer.begin.head
            switch head.kind {
            case .full:
                guard replica.committed == nil else {
                    throw CatalogError.Kind.conflict("a lineage is there already")
                }
                replica.lineage = head.lineage
                replica.tagAlgorithm = head.tagAlgorithm
                replica.tagKey = transfer.begin.tagKey
            case .delta:
                guard replica.lineage == head.lineage, replica.committed?.id == head.parent else {
                    throw CatalogError.Kind.conflict("the generation does not follow the last one")
                }
            }
            var kept = transfer
            kept.begin.heldSegments = 0
            replica.transfer = kept
            replica.pending = nil
        }
    }

    /// Keeps the record of a generation before COMMIT is sent.
    package func setPending(
        _ receiver: String, _ volume: VolumeName, _ record: GenerationRecord
    ) throws(CatalogError) {
        try change("keep a generation of", receiver, volume) { replica in
            guard replica.transfer?.begin.head == record.head else {
                throw CatalogError.Kind.conflict("the generation is not the one that was announced")
            }
            replica.pending = record
        }
    }

    /// Notes that the standby has committed the pending generation.
    ///
    /// - Returns: the name of the plan file, which is of no use any more.
    package func commit(
        _ receiver: String, _ volume: VolumeName
    ) throws(CatalogError) -> String? {
        var plan: String?
        let now = clock()
        try change("commit a generation of", receiver, volume) { replica in
            guard let record = replica.pending else {
                throw CatalogError.Kind.conflict("no generation waits to be committed")
            }
            plan = replica.transfer?.planName
            replica.committed = record
            replica.committedAt = now
            replica.base = replica.transfer?.base
            replica.pending = nil
            replica.transfer = nil
        }
        return plan
    }

    /// Forgets what is known of a volume on a standby: the next send needs an empty volume there.
    ///
    /// - Returns: the name of the plan file, which is of no use any more.
    package func forget(
        _ receiver: String, _ volume: VolumeName
    ) throws(CatalogError) -> String? {
        try store.write("forget volume \(volume)") { db in
            let replica = try Self.replica(receiver, volume, db)
            try db.execute(
                sql: "DELETE FROM replica WHERE receiver = ? AND volume = ?",
                arguments: [receiver, volume.text])
            guard db.changesCount == 1 else {
                throw CatalogError.Kind.notFound("volume \(volume) on \(receiver)")
            }
            return replica.transfer?.planName
        }
    }

    private func change(
        _ verb: String, _ receiver: String, _ volume: VolumeName,
        _ body: (inout Replica) throws -> Void
    ) throws(CatalogError) {
        try store.write("\(verb) volume \(volume)") { db in
            guard try Self.receiver(receiver, db) != nil else {
                throw CatalogError.Kind.notFound("standby \(receiver)")
            }
            var replica = try Self.replica(receiver, volume, db)
            try body(&replica)
            try replica.save(in: db)
        }
    }

    private static func replica(
        _ receiver: String, _ volume: VolumeName, _ db: Database
    ) throws -> Replica {
        try Row.fetchOne(
            db, sql: "SELECT * FROM replica WHERE receiver = ? AND volume = ?",
            arguments: [receiver, volume.text]
        ).map { try Replica($0) } ?? Replica(receiver: receiver, volume: volume)
    }

    // MARK: History

    /// Adds a committed generation; the newest thousand of a volume are kept.
    package func addHistory(_ entry: HistoryEntry) throws(CatalogError) {
        try store.write("note a generation of volume \(entry.volume)") { db in
            try db.execute(
                sql: """
                    INSERT INTO history (receiver, volume, number, id, changed, wire, nanoseconds,
                        committed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
                    """,
                arguments: [
                    entry.receiver, entry.volume.text, entry.number.stored, entry.id.stored,
                    entry.changedByteCount.stored, entry.wireByteCount.stored,
                    entry.nanoseconds.stored, entry.committedAt.stored,
                ])
            try db.execute(
                sql: """
                    DELETE FROM history WHERE receiver = ? AND volume = ? AND entry <= (
                        SELECT max(entry) FROM history WHERE receiver = ? AND volume = ?) - 1000
                    """,
                arguments: [
                    entry.receiver, entry.volume.text, entry.receiver, entry.volume.text,
                ])
        }
    }

    /// The newest generations of a volume, newest first.
    package func history(
        _ receiver: String, _ volume: VolumeName, limit: Int
    ) throws(CatalogError) -> [HistoryEntry] {
        try store.read("list the generations of volume \(volume)") { db in
            try Row.fetchAll(
                db,
                sql: """
                    SELECT * FROM history WHERE receiver = ? AND volume = ?
                    ORDER BY entry DESC LIMIT ?
                    """,
                arguments: [receiver, volume.text, limit]
            ).map { try HistoryEntry($0) }
        }
    }
}
