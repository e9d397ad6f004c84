// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
internal import Foundation
internal import GRDB
internal import Wire

extension Columns {
    func receiverName(_ name: String) throws(CatalogError.Kind) -> ReceiverName {
        guard let value = ReceiverName(try text(name)) else {
            throw .storage("the stored value \(name) cannot be read")
        }
        return value
    }
}

extension Receiver {
    init(_ row: Row) throws {
        let columns = Columns(row)
        self.init(
            name: try columns.receiverName("name"), key: try columns.key("key"),
            address: try columns.text("address"), addedAt: try columns.number("added_at"),
            exportKey: try columns.exportKey("export_key"))
    }

    static func find(_ name: ReceiverName, in db: Database) throws -> Receiver? {
        try Row.fetchOne(db, sql: "SELECT * FROM receiver WHERE name = ?", arguments: [name.text])
            .map { try Receiver($0) }
    }
}

extension Replica {
    init(_ row: Row) throws {
        let columns = Columns(row)
        self.init(
            receiver: try columns.receiverName("receiver"),
            volume: try columns.volumeName("volume"))
        lineage = try columns.lineage("lineage")
        tagAlgorithm = try columns.tagAlgorithm("tag_algorithm")
        tagKey = try columns.tagKey("tag_key")
        committed = try columns.message("committed", GenerationRecord.self)
        committedAt = try columns.optionalNumber("committed_at")
        confirmedAt = try columns.optionalNumber("confirmed_at")
        base = try columns.optionalText("base")
        pending = try columns.message("pending", GenerationRecord.self)
        exported = try columns.optionalText("exported")
        isBaseGivenUp = try columns.flag("base_given_up")
        if let begin = try columns.message("transfer_begin", Begin.self) {
            transfer = SourceTransfer(
                begin: begin, base: try columns.text("transfer_base"),
                planName: try columns.text("transfer_plan"))
        }
    }

    static func find(
        _ receiver: ReceiverName, _ volume: VolumeName, in db: Database
    ) throws -> Replica? {
        try Row.fetchOne(
            db, sql: "SELECT * FROM replica WHERE receiver = ? AND volume = ?",
            arguments: [receiver.text, volume.text]
        ).map { try Replica($0) }
    }

    /// Inserts or updates the whole row.
    func save(in db: Database) throws {
        try db.execute(
            sql: """
                INSERT OR REPLACE INTO replica
                    (receiver, volume, lineage, tag_algorithm, tag_key, committed, committed_at,
                     base, pending, transfer_begin, transfer_base, transfer_plan, exported,
                     base_given_up, confirmed_at)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
            arguments: [
                receiver.text, volume.text, lineage?.stored, tagAlgorithm?.rawValue,
                tagKey.map { Data($0.bytes) }, try committed?.stored(), committedAt?.stored,
                base, try pending?.stored(), try transfer?.begin.stored(), transfer?.base,
                transfer?.planName, exported, isBaseGivenUp, confirmedAt?.stored,
            ])
    }
}

extension Verification {
    init(_ row: Row) throws {
        let columns = Columns(row)
        self.init(
            receiver: try columns.receiverName("receiver"),
            volume: try columns.volumeName("volume"), id: try columns.digest("id"),
            firstPage: try columns.number("first_page"), endPage: try columns.number("end_page"),
            pageCount: try columns.number("page_count"),
            differingBlocks: try columns.number("differing_blocks"),
            time: try columns.number("verified_at"))
    }
}

extension HistoryEntry {
    init(_ row: Row) throws {
        let columns = Columns(row)
        self.init(
            receiver: try columns.receiverName("receiver"),
            volume: try columns.volumeName("volume"), number: try columns.number("number"),
            id: try columns.digest("id"), committedAt: try columns.number("committed_at"),
            changedBytes: try columns.number("changed_bytes"),
            wireBytes: try columns.number("wire_bytes"), duration: try columns.number("duration"))
    }
}
