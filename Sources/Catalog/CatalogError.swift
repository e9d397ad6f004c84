// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform
package import Wire

/// Why a catalog could not be opened or an operation failed.
///
/// An error means that nothing was changed: an operation is one transaction.
package struct CatalogError: RuledError, Equatable, Sendable, CustomStringConvertible {
    /// Cause of the failure.
    package enum Kind: Error, Equatable, Sendable {
        /// A newer version of the program has changed the tables.
        case newerFormat
        /// Users other than this program's can access the files.
        case permissions(String)
        /// The named object does not exist.
        case notFound(String)
        /// Another writer has taken the volume over.
        case fenced
        /// The named state of the catalog forbids the operation.
        case conflict(String)
        /// Another program holds the catalog.
        case busy
        /// The file system of this directory is full.
        case noRoom(String)
        /// The file system of this directory is read-only.
        case readOnly(String)
        /// Another member of the group has a different group size.
        case groupMismatch
        /// SQLite or the file system failed, or a stored value cannot be read.
        case storage(String)
    }

    /// Path of the catalog's file or directory.
    package let path: String
    /// The failed operation, such as "commit volume db".
    package let operation: String
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

/// How a catalog was read if nothing can be written.
package enum CatalogReading: Sendable {
    /// Whether a state directory with a catalog is read-only, so that the catalog can only be read.
    package static func isNeeded(in directory: String) -> Bool {
        let files = [directory, directory + "/catalog.sqlite"]
        return files.allSatisfy(Directory.exists) && !files.allSatisfy(Directory.isWritable)
    }

    /// Completely.
    case asItIs
    /// Without the latest changes, which its log holds.
    case withoutLog

    /// The restriction as text.
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
    /// The cause as text.
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
