// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
internal import GRDB
package import Wire

/// Names and addresses of standbys and volumes, as the source's operator changes them.
extension SourceCatalog {
    /// Renames a receiver and everything recorded about it.
    ///
    /// - Throws: `conflict` if another receiver has that name.
    package func renameReceiver(
        _ name: ReceiverName, to new: ReceiverName
    ) throws(CatalogError) {
        try store.write("rename receiver \(name)") { db in
            try require(name, db)
            guard try Receiver.find(new, in: db) == nil else {
                throw CatalogError.Kind.conflict("there is a receiver of the name \(new)")
            }
            // The transaction also changes the references to the old name.
            try db.execute(sql: "PRAGMA defer_foreign_keys = ON")
            try db.execute(
                sql: "UPDATE receiver SET name = ? WHERE name = ?",
                arguments: [new.text, name.text]
            )
            for table in ["replica", "history", "verification", "peak"] {
                try db.execute(
                    sql: "UPDATE \(table) SET receiver = ? WHERE receiver = ?",
                    arguments: [new.text, name.text])
            }
        }
    }

    /// Changes the address of a receiver.
    package func setAddress(_ name: ReceiverName, _ address: String) throws(CatalogError) {
        try store.write("change the address of receiver \(name)") { db in
            try require(name, db)
            try db.execute(
                sql: "UPDATE receiver SET address = ? WHERE name = ?",
                arguments: [address, name.text])
        }
    }

    /// Records the key to which export files for the owner of `key` are encrypted.
    package func setExportKey(_ exportKey: X25519Key, of key: KeyID) throws(CatalogError) {
        try store.write("remember the export key of \(key)") { db in
            try db.execute(
                sql: "UPDATE receiver SET export_key = ? WHERE key = ?",
                arguments: [exportKey.stored, key.stored])
        }
    }

    /// Renames a volume at one receiver and everything recorded about it there.
    ///
    /// - Throws: `notFound` if nothing was sent under the old name, `conflict` if something was
    ///   sent under the new one.
    package func renameReplica(
        _ volume: VolumeName, to new: VolumeName, at receiver: ReceiverName
    ) throws(CatalogError) {
        try store.write("rename volume \(volume) at \(receiver)") { db in
            guard try Replica.find(receiver, volume, in: db) != nil else {
                throw CatalogError.Kind.notFound("volume \(volume) at \(receiver)")
            }
            guard try Replica.find(receiver, new, in: db) == nil else {
                throw CatalogError.Kind.conflict("there is a volume of the name \(new) there")
            }
            for table in ["replica", "history", "verification", "peak"] {
                try db.execute(
                    sql: "UPDATE \(table) SET volume = ? WHERE receiver = ? AND volume = ?",
                    arguments: [new.text, receiver.text, volume.text])
            }
        }
    }

    private func require(_ name: ReceiverName, _ db: Database) throws {
        guard try Receiver.find(name, in: db) != nil else {
            throw CatalogError.Kind.notFound("receiver \(name)")
        }
    }
}
