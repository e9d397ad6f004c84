// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
internal import Foundation
internal import GRDB
package import Wire

/// Invitations (Protocol/Specification.md, section 9). The catalog stores only the SHA-256 of a
/// secret.
extension StandbyCatalog {
    /// Adds an invitation to send to `volume` and removes expired ones.
    ///
    /// - Parameters:
    ///   - secretHash: SHA-256 of the secret.
    ///   - expiresAt: end of its validity; nanoseconds since 1970-01-01 UTC, as is `now`.
    /// - Throws: `notFound` if the volume does not exist, `conflict` if the secret is not new.
    package func addInvitation(
        secretHash: SHA256Digest, volume: VolumeName, expiresAt: UInt64, now: UInt64
    ) throws(CatalogError) {
        try store.write("invite a sender to volume \(volume)") { db in
            _ = try StandbyVolume.require(volume, in: db)
            for invitation in try invitations(db) where invitation.expiresAt <= now {
                try db.execute(
                    sql: "DELETE FROM invitation WHERE secret_hash = ?",
                    arguments: [invitation.secretHash.stored])
            }
            guard try invitations(db).allSatisfy({ $0.secretHash != secretHash }) else {
                throw CatalogError.Kind.conflict("there is an invitation with this secret")
            }
            try db.execute(
                sql: """
                    INSERT INTO invitation (secret_hash, volume, expires_at, used)
                    VALUES (?, ?, ?, 0)
                    """, arguments: [secretHash.stored, volume.text, expiresAt.stored])
            try record(.invited, volume, "an invitation was made", db)
        }
    }

    /// Whether an unknown peer could have a reason to connect.
    package func hasOpenInvitation(now: UInt64) throws(CatalogError) -> Bool {
        try store.read("look for invitations") { db in
            try invitations(db).contains { $0.isOpen(now) }
        }
    }

    /// Redeems a secret in one transaction: burns the invitation, adds the peer and pins the volume
    /// to it.
    ///
    /// A known peer keeps its name.
    ///
    /// - Returns: the volume; `nil` if the secret is unknown, used or expired, or if the volume is
    ///   pinned to another peer, which still burns the invitation.
    package func redeem(
        secretHash: SHA256Digest, peerKey: KeyID, peerName: String, now: UInt64
    ) throws(CatalogError) -> VolumeName? {
        try store.write("redeem an invitation") { db in
            let match = try invitations(db).first { $0.secretHash == secretHash }
            guard let invitation = match, invitation.isOpen(now) else { return nil }
            try db.execute(
                sql: "UPDATE invitation SET used = 1, used_by = ? WHERE secret_hash = ?",
                arguments: [peerKey.stored, secretHash.stored])
            var volume = try StandbyVolume.require(invitation.volume, in: db)
            guard volume.peer == nil || volume.peer == peerKey else { return nil }
            if try !hasPeer(peerKey, db) {
                try StandbyPeer(key: peerKey, name: peerName, addedAt: now).insert(into: db)
                try record(.peerAdded, nil, "\(peerName), \(peerKey)", db)
            }
            volume.peer = peerKey
            try volume.update(in: db)
            try record(.paired, volume.name, "\(peerName), \(peerKey)", db)
            return volume.name
        }
    }

    /// The key that has redeemed a secret; `nil` if none has, or if the secret is unknown.
    package func redeemer(of secretHash: SHA256Digest) throws(CatalogError) -> KeyID? {
        try store.read("look for an invitation") { db in
            try invitations(db).first { $0.secretHash == secretHash }?.usedBy
        }
    }

    private func invitations(_ db: Database) throws -> [StoredInvitation] {
        try Row.fetchAll(db, sql: "SELECT * FROM invitation").map { try StoredInvitation($0) }
    }
}

private struct StoredInvitation {
    let secretHash: SHA256Digest
    let volume: VolumeName
    let expiresAt: UInt64
    let used: Bool
    let usedBy: KeyID?

    init(_ row: Row) throws {
        let columns = Columns(row)
        secretHash = try columns.digest("secret_hash")
        volume = try columns.volumeName("volume")
        expiresAt = try columns.number("expires_at")
        used = try columns.flag("used")
        usedBy = try columns.optionalKey("used_by")
    }

    func isOpen(_ now: UInt64) -> Bool { !used && now < expiresAt }
}
