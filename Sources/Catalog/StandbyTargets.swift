// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import GRDB
package import Wire

/// Changes the names and targets of volumes for the standby's operator. It never touches a target's
/// content.
extension StandbyCatalog {
    /// Forgets a volume, its invitations and the record of its kept generations; the target stays
    /// unchanged.
    package func removeVolume(_ name: VolumeName) throws(CatalogError) {
        try store.write("remove volume \(name)") { db in
            let volume = try StandbyVolume.require(name, in: db)
            try db.execute(sql: "DELETE FROM volume WHERE name = ?", arguments: [name.text])
            try record(.volumeRemoved, name, "it was \(volume.state)", db)
            try forgetSteps(of: name, db)
        }
    }

    /// Renames a volume and everything recorded about it.
    ///
    /// - Throws: `conflict` if another volume has that name.
    package func renameVolume(
        _ name: VolumeName, fence: UInt64, to new: VolumeName
    ) throws(CatalogError) {
        try store.write("rename volume \(name)") { db in
            let volume = try StandbyVolume.require(name, in: db)
            guard volume.fence == fence else { throw CatalogError.Kind.fenced }
            guard try StandbyVolume.find(new, in: db) == nil else {
                throw CatalogError.Kind.conflict("there is a volume of the name \(new)")
            }
            // The transaction also changes the references to the old name.
            try db.execute(sql: "PRAGMA defer_foreign_keys = ON")
            try db.execute(
                sql: "UPDATE volume SET name = ? WHERE name = ?", arguments: [new.text, name.text])
            // The tags of its snapshots keep the old name.
            try db.execute(
                sql: "INSERT OR IGNORE INTO kept_owner (volume, name) VALUES (?1, ?1)",
                arguments: [name.text])
            for table in ["invitation", "retention", "retention_clock", "kept", "kept_owner"] {
                try db.execute(
                    sql: "UPDATE \(table) SET volume = ? WHERE volume = ?",
                    arguments: [new.text, name.text])
            }
            try record(.volumeRenamed, new, "it was \(name)", db)
            try forgetSteps(of: name, db)
        }
    }

    /// Records the target's current facts: it was proven to hold the copy, or to be unused.
    package func noteTarget(
        _ name: VolumeName, fence: UInt64, identity: String, presence: String?
    ) throws(CatalogError) {
        try transition("note the target of", name, fence, .targetChanged) { volume in
            volume.targetIdentity = identity
            volume.targetPresence = presence
            return identity
        }
    }

    /// Records that a restored volume's target was read and holds the committed generation.
    package func noteProven(_ name: VolumeName, fence: UInt64) throws(CatalogError) {
        try transition("note the target of", name, fence, .restored) { volume in
            volume.isRestored = false
            return "the target was read, and holds its generation"
        }
    }

    /// Allows a first copy to replace the target's content.
    package func allowOverwriting(_ name: VolumeName) throws(CatalogError) {
        try transition("allow overwriting of", name, nil, .overwrite) { volume in
            volume.mayOverwrite = true
            return "what \(volume.targetPath) holds may be replaced"
        }
    }

    /// The new location of a volume's copy.
    package struct NewTarget: Sendable {
        package var path: String
        package var kind: TargetKind
        /// State of the volume when the target was checked.
        package var formerState: VolumeState
        /// State of the volume with the new target. *diverged* and *empty* drop what was
        /// unfinished; *consistent*, *applying* and *prepared* mean that the target was proven.
        package var state: VolumeState
        package var presence: String?
        /// Reason, if the volume becomes *diverged*.
        package var reason: String

        package init(
            path: String, kind: TargetKind, formerState: VolumeState, state: VolumeState,
            presence: String?, reason: String
        ) {
            self.path = path
            self.kind = kind
            self.formerState = formerState
            self.state = state
            self.presence = presence
            self.reason = reason
        }
    }

    /// Gives a volume another target.
    ///
    /// - Parameter claim: as in `createVolume`.
    /// - Throws: `conflict` if the volume's state has changed since the target was checked, for
    ///   example because the last member of its group has arrived.
    package func setTarget(
        _ name: VolumeName, fence: UInt64, _ target: NewTarget,
        claim: ([StandbyVolume]) throws -> String
    ) throws(CatalogError) {
        try store.write("change the target of volume \(name)") { db in
            var volume = try StandbyVolume.require(name, in: db)
            guard volume.fence == fence else { throw CatalogError.Kind.fenced }
            guard volume.state == target.formerState else {
                throw CatalogError.Kind.conflict(
                    "the volume is \(volume.state) by now, not \(target.formerState); give the same command again"
                )
            }
            if volume.targetPath != target.path { try refuseTakenPath(target.path, db) }
            volume.targetIdentity = try claim(try allVolumes(db))
            volume.targetPath = target.path
            volume.targetKind = target.kind
            volume.targetPresence = target.presence
            switch target.state {
            case .consistent:
                volume.suspectReason = nil
                volume.isRestored = false
            case .applying, .prepared: volume.isRestored = false
            case .diverged where volume.state != .diverged:
                volume.suspectReason = target.reason
                volume.transfer = nil
                volume.applying = nil
            // The operator has not allowed replacing the content of the new target.
            case .empty:
                volume.mayOverwrite = false
                volume.isRestored = false
            default: break
            }
            volume.state = target.state
            try volume.update(in: db)
            try record(.targetChanged, name, "target \(target.path)", db)
        }
    }
}
