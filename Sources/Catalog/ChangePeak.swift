// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import GRDB
package import Wire

/// The largest change to expect again between two generations of a volume.
///
/// It remembers what a nightly or weekly job writes over the quiet hours in between: the value
/// halves in two weeks, so three times the value still exceeds the job's change when the job runs
/// again.
package struct ChangePeak: Equatable, Sendable {
    /// Size of the change in bytes.
    package var bytes: UInt64
    /// Time of the last update, nanoseconds since 1970-01-01 UTC.
    package var time: UInt64

    /// Time in which the value halves, in nanoseconds.
    private static let halfLife: UInt64 = 14 * 86_400 * 1_000_000_000
    /// Largest time that one update counts, so that a clock jump cannot erase the value.
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
    /// The largest change of a volume to expect again; `nil` before its first increment.
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

    /// Includes a generation. The first one of a lineage sends the whole volume and does not count
    /// as a change.
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
