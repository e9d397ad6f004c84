// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
internal import GRDB
internal import Platform
package import Wire

/// The lasting state of a source: its paired receivers, what each of them holds, and the snapshots
/// that this was made from.
///
/// Several processes may have the same catalog open. Every function is one transaction, durable
/// when it returns.
package final class SourceCatalog: Sendable {
    let store: Store
    private let clock: @Sendable () -> UInt64
    let historyLimit: UInt64

    /// Opens the catalog in `directory`, whose parent must exist, and makes it if it is missing.
    ///
    /// - Parameters:
    ///   - historyLimit: how many committed generations and verifications to keep for each volume
    ///     and receiver; at one every 15 minutes they cover 104 days.
    ///   - clock: nanoseconds since 1970-01-01 UTC; used only for recorded times.
    package init(
        directory: String, historyLimit: UInt64 = 10_000,
        clock: @escaping @Sendable () -> UInt64 = Clock.wall
    ) throws(CatalogError) {
        store = try Store(directory: directory, purpose: .source, migrator: SourceSchema.migrator)
        self.clock = clock
        self.historyLimit = historyLimit
    }

    /// Opens the catalog in `directory` if nothing can be written.
    package init(reading directory: String) throws(CatalogError) {
        store = try Store(reading: directory, purpose: .source, migrator: SourceSchema.migrator)
        clock = Clock.wall
        historyLimit = 0
    }

    /// How the catalog was read, if it cannot be written; otherwise `nil`.
    package var reading: CatalogReading? { store.doubt }

    // MARK: Receivers

    /// Adds a receiver, or changes the address of a known one with the same key.
    ///
    /// - Throws: `conflict` if the name belongs to another key.
    package func addReceiver(
        _ name: ReceiverName, key: KeyID, address: String
    ) throws(CatalogError) {
        try store.write("add receiver \(name)") { db in
            if let known = try Receiver.find(name, in: db), known.key != key {
                throw CatalogError.Kind.conflict("a receiver of this name has another key")
            }
            try db.execute(
                sql: """
                    INSERT INTO receiver (name, key, address, added_at) VALUES (?, ?, ?, ?)
                    ON CONFLICT (name) DO UPDATE SET address = excluded.address
                    """, arguments: [name.text, key.stored, address, clock().stored])
        }
    }

    /// All receivers, sorted by name.
    package func receivers() throws(CatalogError) -> [Receiver] {
        try store.read("list the receivers") { db in
            try Row.fetchAll(db, sql: "SELECT * FROM receiver ORDER BY name")
                .map { try Receiver($0) }
        }
    }

    /// The receiver of this name.
    package func receiver(_ name: ReceiverName) throws(CatalogError) -> Receiver? {
        try store.read("find receiver \(name)") { db in try Receiver.find(name, in: db) }
    }

    /// Removes a receiver.
    ///
    /// - Throws: `conflict` while it has replicas, because they name snapshots that occupy storage.
    package func removeReceiver(_ name: ReceiverName) throws(CatalogError) {
        try store.write("remove receiver \(name)") { db in
            let replica = try String.fetchOne(
                db, sql: "SELECT volume FROM replica WHERE receiver = ?", arguments: [name.text])
            if let replica {
                throw CatalogError.Kind.conflict("volume \(replica) has a replica there")
            }
            try db.execute(sql: "DELETE FROM receiver WHERE name = ?", arguments: [name.text])
            guard db.changesCount == 1 else {
                throw CatalogError.Kind.notFound("receiver \(name)")
            }
            try db.execute(sql: "DELETE FROM failure WHERE receiver = ?", arguments: [name.text])
        }
    }

    // MARK: Replicas

    /// All replicas, sorted by receiver and volume.
    package func replicas() throws(CatalogError) -> [Replica] {
        try store.read("list the replicas") { db in
            try Row.fetchAll(db, sql: "SELECT * FROM replica ORDER BY receiver, volume")
                .map { try Replica($0) }
        }
    }

    /// The replica of `volume` at `receiver`; `nil` before its first transfer.
    package func replica(
        _ volume: VolumeName, at receiver: ReceiverName
    ) throws(CatalogError) -> Replica? {
        try store.read("find the replica of volume \(volume) at \(receiver)") { db in
            try Replica.find(receiver, volume, in: db)
        }
    }

    // MARK: Failures

    /// Records why the last command that sends a volume to a receiver failed; `nil` records its
    /// success.
    package func noteFailure(
        _ volume: VolumeName, at receiver: ReceiverName, _ failure: SourceFailure?
    ) throws(CatalogError) {
        try store.write("note what became of volume \(volume)") { db in
            try db.execute(
                sql: "DELETE FROM failure WHERE receiver = ? AND volume = ?",
                arguments: [receiver.text, volume.text])
            guard let failure else { return }
            try db.execute(
                sql: """
                    INSERT INTO failure (receiver, volume, failed_at, rule, text)
                    VALUES (?, ?, ?, ?, ?)
                    """,
                arguments: [
                    receiver.text, volume.text, failure.time.stored, failure.rule, failure.text,
                ])
        }
    }

    /// The volumes whose last command failed.
    package func failures() throws(CatalogError) -> [(
        volume: VolumeName, receiver: ReceiverName, failure: SourceFailure
    )] {
        try store.read("list the failures") { db in
            try Row.fetchAll(db, sql: "SELECT * FROM failure ORDER BY volume, receiver").map {
                let columns = Columns($0)
                return (
                    try columns.volumeName("volume"), try columns.receiverName("receiver"),
                    SourceFailure(
                        time: try columns.number("failed_at"),
                        rule: try columns.optionalText("rule"), text: try columns.text("text"))
                )
            }
        }
    }
}
