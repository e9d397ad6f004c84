// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
internal import Foundation
internal import GRDB
internal import Wire

extension StandbyVolume {
    init(_ row: Row) throws {
        let columns = Columns(row)
        self.init(
            name: try columns.volumeName("name"),
            peer: try columns.optional("peer") { SHA256Digest(bytes: $0) }.map { KeyID($0) },
            targetPath: try columns.text("target_path"),
            targetKind: try columns.enumerated("target_kind", TargetKind.self),
            targetIdentity: try columns.text("target_identity"),
            addedAt: try columns.number("added_at"))
        mayOverwrite = try columns.flag("target_consent")
        targetPresence = try columns.optionalText("target_presence")
        state = try columns.enumerated("state", VolumeState.self)
        lineage = try columns.lineage("lineage")
        tagAlgorithm = try columns.tagAlgorithm("tag_algorithm")
        tagKey = try columns.tagKey("tag_key")
        committed = try columns.message("committed", GenerationRecord.self)
        committedAt = try columns.optionalNumber("committed_at")
        confirmedAt = try columns.optionalNumber("confirmed_at")
        if let time = try columns.optionalNumber("refused_at") {
            refusal = Refused(
                time: time, rule: try columns.text("refused_rule"),
                text: try columns.text("refused_text"))
        }
        if let begin = try columns.message("transfer_begin", Begin.self),
            let log = try columns.optional("transfer_log", { StagingLogID(bytes: $0) })
        {
            transfer = StandbyTransfer(
                begin: begin, logID: log, inPlace: try columns.flag("transfer_in_place"))
        }
        applying = try columns.message("applying", GenerationRecord.self)
        fence = try columns.number("fence")
        suspectReason = try columns.optionalText("suspect_reason")
        isDemoted = try columns.flag("is_demoted")
        isRestored = try columns.flag("is_restored")
    }

    static func find(_ name: VolumeName, in db: Database) throws -> StandbyVolume? {
        try Row.fetchOne(db, sql: "SELECT * FROM volume WHERE name = ?", arguments: [name.text])
            .map { try StandbyVolume($0) }
    }

    static func require(_ name: VolumeName, in db: Database) throws -> StandbyVolume {
        guard let volume = try find(name, in: db) else {
            throw CatalogError.Kind.notFound("volume \(name)")
        }
        return volume
    }

    func insert(into db: Database) throws {
        try db.execute(
            sql: """
                INSERT INTO volume
                    (name, peer, target_path, target_kind, target_identity, target_consent,
                     target_presence, state, fence, added_at)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
            arguments: [
                name.text, peer?.stored, targetPath, targetKind.rawValue, targetIdentity,
                mayOverwrite, targetPresence, state.rawValue, fence.stored, addedAt.stored,
            ])
    }

    /// Writes the columns that transitions change.
    func update(in db: Database) throws {
        try db.execute(
            sql: """
                UPDATE volume SET
                    peer = ?, target_path = ?, target_kind = ?, target_identity = ?,
                    target_consent = ?, target_presence = ?, state = ?, lineage = ?, tag_algorithm = ?, tag_key = ?, committed = ?,
                    committed_at = ?, confirmed_at = ?, refused_at = ?, refused_rule = ?,
                    refused_text = ?, transfer_begin = ?, transfer_log = ?, transfer_in_place = ?,
                    applying = ?, fence = ?, suspect_reason = ?, is_demoted = ?,
                    is_restored = ?
                WHERE name = ?
                """,
            arguments: [
                peer?.stored, targetPath, targetKind.rawValue, targetIdentity, mayOverwrite,
                targetPresence, state.rawValue, lineage?.stored, tagAlgorithm?.rawValue,
                tagKey.map { Data($0.bytes) }, try committed?.stored(), committedAt?.stored,
                confirmedAt?.stored, refusal?.time.stored, refusal?.rule, refusal?.text,
                try transfer?.begin.stored(), transfer?.logID.stored, transfer?.inPlace,
                try applying?.stored(), fence.stored, suspectReason, isDemoted,
                isRestored, name.text,
            ])
    }
}

extension StandbyPeer {
    init(_ row: Row) throws {
        let columns = Columns(row)
        self.init(
            key: try columns.key("key"), name: try columns.text("name"),
            addedAt: try columns.number("added_at"))
    }

    func insert(into db: Database) throws {
        try db.execute(
            sql: "INSERT INTO peer (key, name, added_at) VALUES (?, ?, ?)",
            arguments: [key.stored, name, addedAt.stored])
    }
}

extension StandbyEvent {
    init(_ row: Row) throws {
        let columns = Columns(row)
        guard let kind = Kind(rawValue: try columns.text("kind")) else {
            throw CatalogError.Kind.storage("the stored value kind cannot be read")
        }
        self.init(
            number: try columns.number("number"), time: try columns.number("time"),
            volume: try columns.optionalText("volume").flatMap { VolumeName($0) }, kind: kind,
            text: try columns.text("text"))
    }
}
