// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import GRDB
package import Wire

/// The largest change between two generations of a volume that is to be expected again.
///
/// What a job of every night or every week writes is remembered over the quiet hours between: the value halves in two weeks, so
/// that three times it is more than that until the job comes again.
package struct ChangePeak: Equatable, Sendable {
    /// Bytes.
    package var bytes: UInt64
    /// When it was looked at last, nanoseconds since 1970-01-01 UTC.
    package var time: UInt64

    /// Nanoseconds in which it halves.
    private static let halfLife: UInt64 = 14 * 86_400 * 1_000_000_000
    /// No more than this passes at once: a clock that leaps takes nothing.
    private static let longestStep: UInt64 = 86_400 * 1_000_000_000

    package init(bytes: UInt64, time: UInt64) {
        self.bytes = bytes
        self.time = time
    }

    /// The peak after another generation.
    package func followed(by changed: UInt64, at now: UInt64) -> ChangePeak {
        let elapsed = min(now - min(now, time), Self.longestStep)
        let rest = Double(bytes) * exp2(-Double(elapsed) / Double(Self.halfLife))
        return ChangePeak(
            bytes: max(changed, UInt64(exactly: rest.rounded(.down)) ?? bytes), time: now)
    }
}

extension SourceCatalog {
    /// The largest change of a volume that is to be expected again; nil before its first increment.
    package func changePeak(
        _ volume: VolumeName, at receiver: ReceiverName
    ) throws(CatalogError) -> ChangePeak? {
        try store.read("look for the largest change of volume \(volume)") { db in
            try ChangePeak.find(receiver, volume, in: db)
        }
    }
}

extension ChangePeak {
    fileprivate static func find(
        _ receiver: ReceiverName, _ volume: VolumeName, in db: Database
    ) throws -> ChangePeak? {
        try Row.fetchOne(
            db, sql: "SELECT * FROM peak WHERE receiver = ? AND volume = ?",
            arguments: [receiver.text, volume.text]
        ).map { row in
            let columns = Columns(row)
            return ChangePeak(bytes: try columns.number("bytes"), time: try columns.number("time"))
        }
    }

    /// Takes a generation in. The first of a lineage brings the whole volume, and is no change.
    static func note(_ entry: HistoryEntry, in db: Database) throws {
        guard entry.number > 1 else { return }
        let peak =
            try find(entry.receiver, entry.volume, in: db)?
            .followed(by: entry.changedBytes, at: entry.committedAt)
            ?? ChangePeak(bytes: entry.changedBytes, time: entry.committedAt)
        try db.execute(
            sql: "INSERT OR REPLACE INTO peak (receiver, volume, bytes, time) VALUES (?, ?, ?, ?)",
            arguments: [
                entry.receiver.text, entry.volume.text, peak.bytes.stored, peak.time.stored,
            ])
    }
}
