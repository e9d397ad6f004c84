// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import GRDB
package import Wire

/// A snapshot that this source has made or was about to make.
package struct MadeSnapshot: Equatable, Sendable {
    package var receiver: ReceiverName
    package var volume: VolumeName
    /// LVM's id of its volume group, and its name there; `nil` for a snapshot of version 0.1.0.
    package var groupUUID: String?
    package var name: String?
    /// LVM's id of its origin.
    package var originUUID: String?
    /// LVM's id of the snapshot, once it was seen.
    package var uuid: String?
    /// Proof that it was not written, in the sender's text form, once that was read.
    package var proof: String?

    /// A snapshot that is about to be made.
    package init(
        receiver: ReceiverName, volume: VolumeName, groupUUID: String, name: String,
        originUUID: String
    ) {
        self.receiver = receiver
        self.volume = volume
        self.groupUUID = groupUUID
        self.name = name
        self.originUUID = originUUID
    }
}

/// The snapshots that were made. Only snapshots in this table are ever removed: one with our tags
/// that this catalog does not know may be the base of a newer state than this one.
///
/// 1. `announce`, then the snapshot is made. *A crash before it is made leaves a row without a
///    snapshot; the next sweep removes the row.*
/// 2. `complete` records its id and its facts before it can be written. *A crash before that leaves
///    a row that knows only its name.*
/// 3. The snapshot is removed, then `strikeOut`. *A crash between the two leaves a row without a snapshot, as 1.*
extension SourceCatalog {
    /// Records snapshots that are about to be made.
    package func announce(_ snapshots: [MadeSnapshot]) throws(CatalogError) {
        try store.write("remember snapshots that are about to be made") { db in
            for snapshot in snapshots {
                try db.execute(
                    sql: """
                        INSERT INTO snapshot (receiver, volume, group_uuid, name, origin_uuid)
                        VALUES (?, ?, ?, ?, ?)
                        """,
                    arguments: [
                        snapshot.receiver.text, snapshot.volume.text, snapshot.groupUUID,
                        snapshot.name, snapshot.originUUID,
                    ])
            }
        }
    }

    /// Records the id of a made snapshot and the proof that it was not written.
    ///
    /// - Parameter proof: `nil` keeps the previous value.
    package func complete(
        groupUUID: String, name: String, uuid: String, proof: String?
    ) throws(CatalogError) {
        try store.write("remember snapshot \(name)") { db in
            try db.execute(
                sql: """
                    UPDATE snapshot SET uuid = ?, proof = COALESCE(?, proof)
                    WHERE group_uuid = ? AND name = ?
                    """, arguments: [uuid, proof, groupUUID, name])
        }
    }

    /// All recorded snapshots, in the order in which they were made.
    package func madeSnapshots() throws(CatalogError) -> [MadeSnapshot] {
        try store.read("list the snapshots that were made") { db in
            try Row.fetchAll(db, sql: "SELECT * FROM snapshot ORDER BY entry")
                .map { try MadeSnapshot($0) }
        }
    }

    /// Removes the record of a snapshot that is gone or is no longer ours.
    package func strikeOut(_ snapshot: MadeSnapshot) throws(CatalogError) {
        try store.write("strike out snapshot \(snapshot.name ?? snapshot.proof ?? "")") { db in
            try db.execute(
                sql: """
                    DELETE FROM snapshot WHERE receiver = ? AND volume = ? AND group_uuid IS ?
                        AND name IS ? AND uuid IS ? AND proof IS ?
                    """,
                arguments: [
                    snapshot.receiver.text, snapshot.volume.text, snapshot.groupUUID,
                    snapshot.name, snapshot.uuid, snapshot.proof,
                ])
        }
    }
}

extension MadeSnapshot {
    fileprivate init(_ row: Row) throws {
        let columns = Columns(row)
        receiver = try columns.receiverName("receiver")
        volume = try columns.volumeName("volume")
        groupUUID = try columns.optionalText("group_uuid")
        name = try columns.optionalText("name")
        originUUID = try columns.optionalText("origin_uuid")
        uuid = try columns.optionalText("uuid")
        proof = try columns.optionalText("proof")
    }
}
