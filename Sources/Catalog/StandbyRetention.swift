// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
internal import Foundation
internal import GRDB
internal import Platform
package import Wire

/// How many committed generations of a volume are kept as snapshots of its target.
///
/// A generation goes as soon as one of the limits says so; the newest never does.
package struct Retention: Hashable, Sendable {
    /// So many at most.
    package var generations: UInt64?
    /// None that was committed longer ago, in seconds.
    package var seconds: UInt64?

    package init(generations: UInt64? = nil, seconds: UInt64? = nil) {
        self.generations = generations
        self.seconds = seconds
    }

    /// Those that are to go.
    ///
    /// - Parameters:
    ///   - kept: newest first, as `kept(_:)` gives them.
    ///   - now: nanoseconds since 1970-01-01 UTC.
    package func expired(of kept: [KeptGeneration], now: UInt64) -> [KeptGeneration] {
        kept.enumerated().dropFirst().filter { index, generation in
            if let generations, UInt64(index) >= generations { return true }
            guard let seconds, now > generation.committedAt else { return false }
            return (now - generation.committedAt) / nanosecondsPerSecond > seconds
        }.map(\.element)
    }
}

/// What the catalog knows about the kept generations of a volume.
///
/// LVM's tags are the truth about which snapshots there are; the catalog follows, so that they can be listed without
/// asking LVM. So each change is made there first, and a crash in between is found by comparing (`Receiving.Keeper`).
extension StandbyCatalog {
    /// What is to be kept, if anything.
    package func retention(_ name: VolumeName) throws(CatalogError) -> Retention? {
        try store.read("look for the retention of volume \(name)") { db in
            try Row.fetchOne(
                db, sql: "SELECT * FROM retention WHERE volume = ?", arguments: [name.text]
            ).map { row in
                let columns = Columns(row)
                return Retention(
                    generations: try columns.optionalNumber("generations"),
                    seconds: try columns.optionalNumber("seconds"))
            }
        }
    }

    /// Why a generation could not be kept or released when that was tried last.
    package func retentionProblem(_ name: VolumeName) throws(CatalogError) -> String? {
        try store.read("look for the retention of volume \(name)") { db in
            try String.fetchOne(
                db, sql: "SELECT problem FROM retention WHERE volume = ?", arguments: [name.text])
        }
    }

    /// Changes what is to be kept from now on; nothing ends it. Snapshots that there are stay known.
    package func setRetention(
        _ name: VolumeName, _ retention: Retention?
    ) throws(CatalogError) {
        try store.write("set the retention of volume \(name)") { db in
            _ = try StandbyVolume.require(name, in: db)
            try db.execute(sql: "DELETE FROM retention WHERE volume = ?", arguments: [name.text])
            guard let retention else { return try record(.retention, name, "none", db) }
            try db.execute(
                sql: "INSERT INTO retention (volume, generations, seconds) VALUES (?, ?, ?)",
                arguments: [
                    name.text, retention.generations?.stored, retention.seconds?.stored,
                ])
            let limits = [
                retention.generations.map { "\($0) generations" },
                retention.seconds.map { "\($0) seconds" },
            ]
            try record(.retention, name, limits.compactMap { $0 }.joined(separator: ", "), db)
        }
    }

    /// Remembers why a generation could not be kept or released; nothing if all is well again.
    package func setRetentionProblem(
        _ name: VolumeName, _ problem: String?
    ) throws(CatalogError) {
        try store.write("set the retention of volume \(name)") { db in
            let before = try String.fetchOne(
                db, sql: "SELECT problem FROM retention WHERE volume = ?", arguments: [name.text])
            guard problem != before else { return }
            try db.execute(
                sql: "UPDATE retention SET problem = ? WHERE volume = ?",
                arguments: [problem, name.text])
            guard let problem, db.changesCount > 0 else { return }
            try record(.notKept, name, problem, db)
        }
    }

    /// The kept generations, newest first.
    package func kept(_ name: VolumeName) throws(CatalogError) -> [KeptGeneration] {
        try store.read("list the kept generations of volume \(name)") { db in
            try Row.fetchAll(
                db,
                sql: """
                    SELECT * FROM kept WHERE volume = ? ORDER BY committed_at DESC, number DESC
                    """, arguments: [name.text]
            ).map { row in
                let columns = Columns(row)
                return KeptGeneration(
                    number: try columns.number("number"), id: try columns.digest("generation"),
                    sourceTime: try columns.number("source_time"),
                    committedAt: try columns.number("committed_at"),
                    snapshot: try columns.text("snapshot"),
                    snapshotUUID: try columns.text("snapshot_uuid"))
            }
        }
    }

    /// Writes down a snapshot that LVM has, in place of what was known of this generation.
    package func addKept(
        _ name: VolumeName, _ kept: KeptGeneration
    ) throws(CatalogError) {
        try store.write("keep a generation of volume \(name)") { db in
            _ = try StandbyVolume.require(name, in: db)
            try db.execute(
                sql: """
                    INSERT OR REPLACE INTO kept (
                        volume, generation, number, source_time, committed_at, snapshot,
                        snapshot_uuid)
                    VALUES (?, ?, ?, ?, ?, ?, ?)
                    """,
                arguments: [
                    name.text, kept.id.stored, kept.number.stored, kept.sourceTime.stored,
                    kept.committedAt.stored, kept.snapshot, kept.snapshotUUID,
                ])
            try record(.kept, name, "generation \(kept.number) as \(kept.snapshot)", db)
        }
    }

    /// Forgets a snapshot that LVM no longer has.
    package func removeKept(
        _ name: VolumeName, _ kept: KeptGeneration
    ) throws(CatalogError) {
        try store.write("release a generation of volume \(name)") { db in
            try db.execute(
                sql: "DELETE FROM kept WHERE volume = ? AND generation = ?",
                arguments: [name.text, kept.id.stored])
            try record(.released, name, "generation \(kept.number), \(kept.snapshot)", db)
        }
    }
}
