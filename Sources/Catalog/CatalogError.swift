// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform
package import Wire

/// Why a catalog could not be opened, or did not do what it was asked.
///
/// Nothing was changed when one is thrown: an operation is one transaction.
package struct CatalogError: RuledError, Equatable, Sendable, CustomStringConvertible {
    /// What was wrong.
    package enum Kind: Error, Equatable, Sendable {
        /// A newer version of the program has changed the tables.
        case newerFormat
        /// Others than the user this program runs as can reach the files.
        case permissions(String)
        /// There is no such thing; the text names it.
        case notFound(String)
        /// Somebody else has taken the volume over.
        case fenced
        /// The catalog is in a state that forbids it; the text says which.
        case conflict(String)
        /// Another program holds the catalog.
        case busy
        /// The file system of this directory has no room.
        case noRoom(String)
        /// The file system of this directory is read-only.
        case readOnly(String)
        /// A group has another size in another of its members.
        case groupMismatch
        /// SQLite or the file system failed, or a stored value cannot be read.
        case storage(String)
    }

    /// The catalog's file, or its directory.
    package let path: String
    /// What was to be done, such as "commit volume db".
    package let operation: String
    /// What was wrong.
    package let kind: Kind

    package init(path: String, operation: String, kind: Kind) {
        self.path = path
        self.operation = operation
        self.kind = kind
    }

    package var refusalRule: RefusalRule? {
        switch kind {
        case .fenced: .fenced
        case .busy: .busy
        case .noRoom: .space
        case .readOnly: .stateReadOnly
        case .newerFormat, .permissions, .notFound, .conflict, .groupMismatch, .storage: nil
        }
    }

    package var description: String { "cannot \(operation): \(kind.sentence) (catalog \(path))" }
}

/// How a catalog was read where nothing could be written.
package enum CatalogReading: Sendable {
    /// Whether a state directory with a catalog cannot be written, so that it can only be read.
    package static func isNeeded(in directory: String) -> Bool {
        let files = [directory, directory + "/catalog.sqlite"]
        return files.allSatisfy(Directory.exists) && !files.allSatisfy(Directory.isWritable)
    }

    /// As it is there.
    case asItIs
    /// Without the last changes, which its log holds.
    case withoutLog

    /// For people.
    package var sentence: String {
        switch self {
        case .asItIs: "the state directory cannot be written: what is shown is what it holds"
        case .withoutLog:
            "the state directory cannot be written, and the log of its catalog (catalog.sqlite-wal) cannot be read without "
                + "that: what is shown may be older than what was done last"
        }
    }
}

extension CatalogError.Kind {
    /// The kind in words.
    fileprivate var sentence: String {
        switch self {
        case .newerFormat:
            "the catalog was written by a newer version of this program; use that version"
        case .permissions(let text), .conflict(let text), .storage(let text): text
        case .notFound(let what): "there is no \(what)"
        case .groupMismatch: "another member says that its group has another size"
        case .fenced: "another process has taken the volume over"
        case .busy: "another program holds the catalog"
        case .noRoom(let directory): "there is no room on the file system of \(directory)"
        case .readOnly(let directory): "the file system of \(directory) is read-only"
        }
    }
}
