// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import GRDB
internal import Platform
package import Wire

/// Detects that the catalog was restored from a backup, so that what it says about targets is out
/// of date.
///
/// A restored file has another inode or birth time than the one that was last written. A file
/// overwritten in place does not, but the fences taken since have left marks beside it, with
/// numbers that it does not know. A file system that was rolled back as a whole cannot be detected.
extension StandbyCatalog {
    /// Lock files of volumes are in the same directory; no volume name contains this character.
    private static let mark = "@fence."

    /// Compares the catalog with its state when it was last opened. If it was restored or moved to
    /// another file system, each volume is *restored* until its target has been read in full, and
    /// every permission to overwrite is revoked.
    ///
    /// 1. The marks are read before the catalog, because a number is marked only after it was
    ///    taken.
    /// 2. One transaction. A crash leaves the check to the next process that opens the catalog.
    ///
    /// - Parameter marks: directory of the marks, inside the state directory.
    /// - Returns: the volumes that have just become *restored*.
    package func checkPlace(marks: String) throws(CatalogError) -> [VolumeName] {
        let highest = Self.numbers(in: marks).max()
        let file = BirthFacts.text(of: store.path)
        func place(_ db: Database) throws -> (known: String?, isBehind: Bool) {
            let last = try Int64.fetchOne(db, sql: "SELECT last FROM fencing") ?? 0
            return (
                try String.fetchOne(db, sql: "SELECT file FROM place"),
                highest.map { $0 > UInt64(bitPattern: last) } ?? false
            )
        }
        let operation = "check where the catalog is"
        let found = try store.read(operation, place)
        guard found.known != file || found.isBehind else { return [] }
        return try store.write(operation) { db in
            let (known, isBehind) = try place(db)
            guard known != file || isBehind else { return [] }
            try db.execute(sql: "DELETE FROM place")
            if let file {
                try db.execute(sql: "INSERT INTO place (file) VALUES (?)", arguments: [file])
            }
            // Do not issue a number again that a writer may still hold.
            if let highest, isBehind {
                try db.execute(
                    sql: "UPDATE fencing SET last = ?", arguments: [Int64(bitPattern: highest)])
            }
            guard known != nil || isBehind else { return [] }
            var restored: [VolumeName] = []
            for var volume in try allVolumes(db) {
                volume.isDemoted = false
                volume.mayOverwrite = false
                volume.isRestored = volume.state != .promoted
                try volume.update(in: db)
                try record(
                    .restored, volume.name,
                    "the catalog was restored or moved; it was \(volume.state) there", db)
                if volume.isRestored { restored.append(volume.name) }
            }
            return restored
        }
    }

    /// Marks that a fence was taken. Best effort and not synced: a missing mark only proves less.
    package static func mark(fence: UInt64, in marks: String) {
        let former = numbers(in: marks)
        guard fence > former.max() ?? 0 else { return }
        _ = try? File(path: "\(marks)/\(mark)\(fence)", [.write, .createNew])
        for number in former { try? Directory.remove("\(marks)/\(mark)\(number)") }
    }

    private static func numbers(in marks: String) -> [UInt64] {
        ((try? Directory.names(in: marks)) ?? []).compactMap { name in
            let digits = name.dropFirst(mark.count)
            guard name.hasPrefix(mark), let number = UInt64(digits), digits == "\(number)",
                number < 1 << 62
            else { return nil }
            return number
        }
    }
}
