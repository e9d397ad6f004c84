// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests
internal import Foundation
internal import GRDB
internal import Platform
package import Wire

/// Limits for the committed generations of a volume that are kept as snapshots of its target.
///
/// A generation is released as soon as one limit is exceeded; the newest never is. The order in
/// which the snapshots were made, not a clock, decides which is newer.
package struct Retention: Hashable, Sendable {
    /// Largest number to keep; `nil` for no limit.
    package var generations: UInt64?
    /// Largest age in seconds relative to the newest; `nil` for no limit.
    package var seconds: UInt64?

    package init(generations: UInt64? = nil, seconds: UInt64? = nil) {
        self.generations = generations
        self.seconds = seconds
    }

    /// The generations to release.
    ///
    /// - Parameters:
    ///   - kept: newest first, as `kept(_:)` returns them.
    ///   - now: nanoseconds since 1970-01-01 UTC (`RetentionClock`).
    package func expired(of kept: [KeptGeneration], now: UInt64) -> [KeptGeneration] {
        let times = Self.times(of: kept, now: now)
        return kept.enumerated().dropFirst().filter { index, _ in
            if let generations, UInt64(index) >= generations { return true }
            guard let seconds, let newest = times.first else { return false }
            return (newest - min(times[index], newest)) / nanosecondsPerSecond > seconds
        }.map(\.element)
    }

    /// Plausible commit times although the clock may have been wrong at times: in order, and none
    /// after `now`.
    private static func times(of kept: [KeptGeneration], now: UInt64) -> [UInt64] {
        // A time in the future is ignored.
        var times = kept.map { $0.committedAt <= now ? $0.committedAt : nil }
        var earliest: UInt64 = 0
        for index in times.indices.reversed() {
            guard let time = times[index] else { continue }
            earliest = max(earliest, time)
            times[index] = earliest
        }
        var latest = now
        return times.map { time in
            latest = time ?? latest
            return latest
        }
    }
}

/// The catalog's record of the kept generations of a volume.
///
/// LVM's tags define which snapshots exist; the catalog follows, so that they can be listed without
/// asking LVM. Each change is made in LVM first, and a comparison finds a crash in between
/// (`Receiving.Keeper`).
extension StandbyCatalog {
    /// The limits; `nil` if no generations are kept.
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

    /// The owner of a volume's kept snapshots, as in their tags.
    ///
    /// - Parameter standby: this standby's key, for snapshots of earlier versions.
    package func keptOwner(
        _ name: VolumeName, of standby: KeyID
    ) throws(CatalogError) -> KeptOwner {
        try store.read("look whose the kept generations of volume \(name) are") { db in
            let row = try Row.fetchOne(
                db, sql: "SELECT name, id FROM kept_owner WHERE volume = ?", arguments: [name.text])
            guard let columns = row.map({ Columns($0) }) else { return KeptOwner(standby, name) }
            let tagged = try columns.volumeName("name")
            let id = try columns.optional("id") { $0.count == 8 ? $0 : nil }
            return id.map { KeptOwner(standby: $0, volume: tagged) } ?? KeptOwner(standby, tagged)
        }
    }

    /// Why the last attempt to keep or release a generation failed; `nil` if it did not.
    package func retentionProblem(_ name: VolumeName) throws(CatalogError) -> String? {
        try retentionText(name, "problem")
    }

    /// A warning about kept generations despite success: space that runs short, or generations
    /// released for the copy.
    package func retentionWarning(_ name: VolumeName) throws(CatalogError) -> String? {
        try retentionText(name, "warning")
    }

    /// The last generation for which kept ones gave way without freeing enough space.
    package func gaveWayInVain(_ name: VolumeName) throws(CatalogError) -> UInt64? {
        try store.read("look for the retention of volume \(name)") { db in
            try Row.fetchOne(
                db, sql: "SELECT in_vain FROM retention WHERE volume = ?", arguments: [name.text]
            ).flatMap { try Columns($0).optionalNumber("in_vain") }
        }
    }

    /// Records that kept generations gave way to this one without freeing enough space.
    package func setGaveWayInVain(_ name: VolumeName, _ number: UInt64) throws(CatalogError) {
        try store.write("set the retention of volume \(name)") { db in
            try db.execute(
                sql: "UPDATE retention SET in_vain = ? WHERE volume = ?",
                arguments: [number.stored, name.text])
        }
    }

    private func retentionText(
        _ name: VolumeName, _ column: String
    ) throws(CatalogError) -> String? {
        try store.read("look for the retention of volume \(name)") { db in
            try String.fetchOne(
                db, sql: "SELECT \(column) FROM retention WHERE volume = ?", arguments: [name.text])
        }
    }

    /// Changes the limits; `nil` stops keeping. Existing snapshots stay known.
    package func setRetention(
        _ name: VolumeName, _ retention: Retention?
    ) throws(CatalogError) {
        try store.write("set the retention of volume \(name)") { db in
            _ = try StandbyVolume.require(name, in: db)
            guard let retention else {
                try db.execute(
                    sql: "DELETE FROM retention WHERE volume = ?", arguments: [name.text])
                return try record(.retention, name, "none", db)
            }
            // Snapshots from before keeping was last stopped belong to the operator: they do not
            // count and are never released.
            let isKeeping = try Bool.fetchOne(
                db, sql: "SELECT 1 FROM retention WHERE volume = ?", arguments: [name.text])
            if isKeeping == nil {
                try db.execute(
                    sql: "REPLACE INTO kept_owner (volume, name, id) VALUES (?1, ?1, ?2)",
                    arguments: [name.text, Data(SecureRandom.bytes(8))])
                try db.execute(sql: "DELETE FROM kept WHERE volume = ?", arguments: [name.text])
            }
            // A problem stays until it is resolved.
            try db.execute(
                sql: """
                    INSERT INTO retention (volume, generations, seconds) VALUES (?, ?, ?)
                    ON CONFLICT (volume) DO UPDATE SET
                        generations = excluded.generations, seconds = excluded.seconds, in_vain = NULL
                    """,
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

    /// Records why a generation could not be kept or released; `nil` once that is resolved.
    package func setRetentionProblem(
        _ name: VolumeName, _ problem: String?
    ) throws(CatalogError) {
        try setRetentionText(name, "problem", problem, .notKept)
    }

    /// Records a warning despite success; `nil` clears it.
    package func setRetentionWarning(
        _ name: VolumeName, _ warning: String?
    ) throws(CatalogError) {
        try setRetentionText(name, "warning", warning, .warning)
    }

    private func setRetentionText(
        _ name: VolumeName, _ column: String, _ text: String?, _ kind: StandbyEvent.Kind
    ) throws(CatalogError) {
        try store.write("set the retention of volume \(name)") { db in
            let before = try String.fetchOne(
                db, sql: "SELECT \(column) FROM retention WHERE volume = ?", arguments: [name.text])
            guard text != before else { return }
            try db.execute(
                sql: "UPDATE retention SET \(column) = ? WHERE volume = ?",
                arguments: [text, name.text])
            guard let text, db.changesCount > 0 else { return }
            try record(kind, name, text, db)
        }
    }

    /// The time by which a volume's generations are released: the wall clock's, if it is plausible.
    ///
    /// - Parameter found: current readings of this host's clocks.
    package func retentionTime(
        _ name: VolumeName, _ found: RetentionClock
    ) throws(CatalogError) -> UInt64 {
        try store.write("look at the clock for volume \(name)") { db in
            let row = try Row.fetchOne(
                db, sql: "SELECT * FROM retention_clock WHERE volume = ?", arguments: [name.text])
            let last = try row.map { row in
                let columns = Columns(row)
                return RetentionClock(
                    time: try columns.number("time"), boot: try columns.text("boot"),
                    sinceBoot: try columns.number("since_boot"))
            }
            let now = last?.advanced(to: found) ?? found
            try set(now, name, db)
            return now.time
        }
    }

    /// Accepts the wall clock as right, at the operator's request.
    package func trustClock(_ name: VolumeName, _ found: RetentionClock) throws(CatalogError) {
        try store.write("believe the clock for volume \(name)") { db in
            _ = try StandbyVolume.require(name, in: db)
            try set(found, name, db)
            try record(.retention, name, "the clock is right", db)
        }
    }

    private func set(_ clock: RetentionClock, _ name: VolumeName, _ db: Database) throws {
        try db.execute(
            sql: """
                INSERT OR REPLACE INTO retention_clock (volume, time, boot, since_boot)
                VALUES (?, ?, ?, ?)
                """,
            arguments: [name.text, clock.time.stored, clock.boot, clock.sinceBoot.stored])
    }

    /// The kept generations, newest first.
    package func kept(_ name: VolumeName) throws(CatalogError) -> [KeptGeneration] {
        try store.read("list the kept generations of volume \(name)") { db in
            try Row.fetchAll(
                db,
                sql: """
                    SELECT * FROM kept WHERE volume = ?
                    ORDER BY thin_device DESC, committed_at DESC, number DESC
                    """, arguments: [name.text]
            ).map { row in
                let columns = Columns(row)
                return KeptGeneration(
                    number: try columns.number("number"), id: try columns.digest("generation"),
                    sourceTime: try columns.number("source_time"),
                    committedAt: try columns.number("committed_at"),
                    snapshot: try columns.text("snapshot"),
                    snapshotUUID: try columns.text("snapshot_uuid"),
                    thinDevice: UInt32(clamping: try columns.number("thin_device")))
            }
        }
    }

    /// Records the snapshots that LVM has.
    package func setKept(
        _ name: VolumeName, _ found: [KeptGeneration]
    ) throws(CatalogError) {
        let known = try kept(name)
        guard Set(found) != Set(known) else { return }
        try store.write("list the kept generations of volume \(name)") { db in
            _ = try StandbyVolume.require(name, in: db)
            try db.execute(sql: "DELETE FROM kept WHERE volume = ?", arguments: [name.text])
            for kept in found {
                try db.execute(
                    sql: """
                        INSERT OR REPLACE INTO kept (
                            volume, generation, number, source_time, committed_at, snapshot,
                            snapshot_uuid, thin_device)
                        VALUES (?, ?, ?, ?, ?, ?, ?, ?)
                        """,
                    arguments: [
                        name.text, kept.id.stored, kept.number.stored, kept.sourceTime.stored,
                        kept.committedAt.stored, kept.snapshot, kept.snapshotUUID,
                        Int64(kept.thinDevice),
                    ])
            }
            for lost in known where !found.contains(where: { $0.id == lost.id }) {
                try record(
                    .released, name,
                    "generation \(lost.number), \(lost.snapshot): somebody has removed, renamed or changed it",
                    db)
            }
            for new in found where !known.contains(new) {
                try record(.kept, name, "generation \(new.number) as \(new.snapshot)", db)
            }
        }
    }

    /// Removes the record of a snapshot that LVM no longer has.
    ///
    /// - Parameter reason: why it was released, if not by a limit.
    package func removeKept(
        _ name: VolumeName, _ kept: KeptGeneration, because reason: String? = nil
    ) throws(CatalogError) {
        try store.write("release a generation of volume \(name)") { db in
            try db.execute(
                sql: "DELETE FROM kept WHERE volume = ? AND generation = ?",
                arguments: [name.text, kept.id.stored])
            let reason = reason.map { ": \($0)" } ?? ""
            try record(
                .released, name, "generation \(kept.number), \(kept.snapshot)\(reason)", db)
        }
    }
}
