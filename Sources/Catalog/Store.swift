// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import GRDB
internal import Platform

/// One SQLite file that several processes use at once, and the rules for opening it.
///
/// It uses WAL and `synchronous=FULL`: an operation's writes are on stable storage when it returns,
/// and a crash leaves all of them or none.
final class Store: Sendable {
    /// Kind of catalog in a file, stored as its `application_id`, so that one kind is not mistaken
    /// for the other.
    enum Purpose: Int64, Sendable {
        /// "BFSB"
        case standby = 0x4246_5342
        /// "BFSO"
        case source = 0x4246_534F
    }

    /// Path of the database file.
    let path: String
    private let queue: DatabaseQueue
    /// What may be missing in a catalog that can only be read.
    let doubt: CatalogReading?

    /// Size to which the log is cut once no reader needs an old state that made it grow.
    private static let logByteLimit = 8 << 20
    /// How long an operation waits for other processes.
    private static let patienceSeconds = 10

    /// Opens the catalog in `directory`, makes both if they are missing, and migrates its tables.
    ///
    /// 1. The directory is made. A crash leaves it empty.
    /// 2. The file is made, empty and with mode 0600. A crash leaves an empty file, which is an
    ///    empty catalog.
    /// 3. Each migration is one transaction. A crash leaves the tables of the previous migration.
    ///
    /// A lock keeps two processes from preparing the same file at once; it is released afterwards.
    init(
        directory: String, purpose: Purpose, migrator: DatabaseMigrator
    ) throws(CatalogError) {
        let path = directory + "/catalog.sqlite"
        self.path = path
        do {
            try Self.prepare(directory)
            let lock = try Self.waitForLock(directory + "/catalog.lock")
            defer { withExtendedLifetime(lock) {} }
            if !Directory.exists(path) {
                _ = try File(path: path, [.write, .createNew, .noFollow])
                try Directory.sync(directory)
            }
            // Check by name only: opening and closing the file here would drop the locks that other
            // connections of this process hold on it.
            try Self.checkFiles(path)
            try Self.checkDescriptors(directory)
            let queue = try DatabaseQueue(path: path, configuration: Self.configuration)
            try queue.inDatabase { db in
                try Self.checkPurpose(db, purpose)
                guard try !migrator.hasBeenSuperseded(db) else {
                    throw CatalogError.Kind.newerFormat
                }
            }
            try migrator.migrate(queue)
            self.queue = queue
            doubt = nil
        } catch {
            throw Self.wrap(error, path, "open the catalog")
        }
    }

    /// Opens the catalog in `directory` read-only, and writes nothing.
    ///
    /// With its log (`-wal`) and the log's index (`-shm`), SQLite reads both as they are. Without a
    /// log the file is complete, and SQLite must be told that the file does not change, because it
    /// would make a log otherwise. With a log and no index, as in a copy, only the file can be
    /// read: the log's changes are missing.
    init(
        reading directory: String, purpose: Purpose, migrator: DatabaseMigrator
    ) throws(CatalogError) {
        let path = directory + "/catalog.sqlite"
        self.path = path
        do {
            guard Directory.exists(path) else { throw CatalogError.Kind.notFound("catalog") }
            var configuration = Configuration()
            configuration.readonly = true
            configuration.label = "catalog"
            configuration.busyMode = .timeout(TimeInterval(Self.patienceSeconds))
            let address = URL(fileURLWithPath: path).absoluteString
            let hasLog = Directory.exists(path + "-wal")
            let isWhole = hasLog && Directory.exists(path + "-shm")
            let queue = try DatabaseQueue(
                path: address + (isWhole ? "?mode=ro" : "?immutable=1"),
                configuration: configuration)
            try queue.read { db in
                let found = try Int64.fetchOne(db, sql: "PRAGMA application_id")
                guard found == purpose.rawValue else {
                    throw CatalogError.Kind.conflict(
                        "the file holds something else than a \(purpose) catalog")
                }
                guard try !migrator.hasBeenSuperseded(db) else {
                    throw CatalogError.Kind.newerFormat
                }
                guard try migrator.hasCompletedMigrations(db) else {
                    throw CatalogError.Kind.conflict(
                        "it is of an older version, and cannot be brought up to date where nothing can be written"
                    )
                }
            }
            self.queue = queue
            doubt = hasLog && !isWhole ? .withoutLog : .asItIs
        } catch {
            throw Self.wrap(error, path, "read the catalog")
        }
    }

    /// Runs one immediate transaction.
    func write<Result>(
        _ operation: @autoclosure () -> String, _ body: (Database) throws -> Result
    ) throws(CatalogError) -> Result {
        do {
            return try queue.writeWithoutTransaction { db in
                var result: Result?
                try db.inTransaction(.immediate) {
                    result = try body(db)
                    return .commit
                }
                guard let result else { throw CatalogError.Kind.storage("nothing was done") }
                return result
            }
        } catch {
            throw Self.wrap(error, path, operation())
        }
    }

    /// Reads one consistent state.
    func read<Result>(
        _ operation: @autoclosure () -> String, _ body: (Database) throws -> Result
    ) throws(CatalogError) -> Result {
        do {
            return try queue.read(body)
        } catch {
            throw Self.wrap(error, path, operation())
        }
    }

    private static var configuration: Configuration {
        var configuration = Configuration()
        configuration.busyMode = .timeout(TimeInterval(patienceSeconds))
        configuration.foreignKeysEnabled = true
        configuration.label = "catalog"
        configuration.prepareDatabase { db in
            // Read the setting back: SQLite silently ignores one that it cannot apply.
            let mode = try String.fetchOne(db, sql: "PRAGMA journal_mode = WAL")
            try db.execute(sql: "PRAGMA synchronous = FULL")
            let synchronous = try Int.fetchOne(db, sql: "PRAGMA synchronous")
            let foreignKeys = try Int.fetchOne(db, sql: "PRAGMA foreign_keys")
            let limit = try Int.fetchOne(db, sql: "PRAGMA journal_size_limit = \(logByteLimit)")
            guard mode == "wal", synchronous == 2, foreignKeys == 1, limit == logByteLimit else {
                throw CatalogError.Kind.storage("SQLite cannot keep a write-ahead log here")
            }
        }
        return configuration
    }

    private static func checkPurpose(_ db: Database, _ purpose: Purpose) throws {
        let found = try Int64.fetchOne(db, sql: "PRAGMA application_id") ?? 0
        if found == 0 {
            let tables =
                try Int.fetchOne(db, sql: "SELECT count(*) FROM sqlite_master") ?? 0
            guard tables == 0 else {
                throw CatalogError.Kind.conflict("the file holds something else")
            }
            try db.execute(sql: "PRAGMA application_id = \(purpose.rawValue)")
        } else if found != purpose.rawValue {
            throw CatalogError.Kind.conflict(
                "the file holds something else than a \(purpose) catalog")
        }
    }

    // MARK: Files

    private static func prepare(_ directory: String) throws {
        if !Directory.exists(directory) {
            try Directory.create(directory)
            try Directory.sync(Directory.parent(of: directory))
        }
        let status = try File(path: directory).status()
        guard status.kind == .directory else {
            throw CatalogError.Kind.permissions("\(directory) is no directory")
        }
        try check(directory, mode: status.mode, owner: status.owner, wanted: "0700")
    }

    private static func checkFiles(_ path: String) throws {
        for file in [path, path + "-wal", path + "-shm"] where Directory.exists(file) {
            // The last process to close a catalog removes the log and its index, and the next one
            // makes them again. If a file's attributes cannot be read at all, SQLite cannot open it
            // either.
            guard let attributes = try? FileManager.default.attributesOfItem(atPath: file) else {
                continue
            }
            guard attributes[.type] as? FileAttributeType == .typeRegular,
                let mode = attributes[.posixPermissions] as? NSNumber,
                let owner = attributes[.ownerAccountID] as? NSNumber
            else { throw CatalogError.Kind.permissions("\(file) is no regular file") }
            guard (attributes[.referenceCount] as? NSNumber)?.intValue ?? 1 <= 1 else {
                throw CatalogError.Kind.permissions(
                    "\(file) has a second name elsewhere (a hard link)")
            }
            try check(file, mode: mode.uint32Value, owner: owner.uint32Value, wanted: "0600")
        }
    }

    /// SQLite needs three descriptors: file, log and index. With fewer, GRDB releases its queue,
    /// and libdispatch, which needs two more for that, ends the process with an illegal instruction
    /// if it does not get them.
    private static func checkDescriptors(_ directory: String) throws {
        let spare = try (0..<6).map { _ in try File(path: directory) }
        withExtendedLifetime(spare) {}
    }

    private static func check(_ path: String, mode: UInt32, owner: UInt32, wanted: String) throws {
        guard owner == geteuid() else {
            throw CatalogError.Kind.permissions(
                "\(path) belongs to user \(owner), and this program runs as user \(geteuid())")
        }
        guard mode & 0o077 == 0 else {
            throw CatalogError.Kind.permissions(
                "\(path) has mode 0\(String(mode, radix: 8)), and others must not reach it; "
                    + "set \(wanted)")
        }
    }

    private static func waitForLock(_ path: String) throws -> FileLock {
        let patience = UInt64(patienceSeconds) * nanosecondsPerSecond
        guard let lock = try FileLock.waiting(patience, path: path) else {
            throw CatalogError.Kind.busy
        }
        return lock
    }

    // MARK: Errors

    static func wrap(
        _ error: any Error, _ path: String, _ operation: String
    ) -> CatalogError {
        let kind: CatalogError.Kind
        let directory = Directory.parent(of: path)
        switch error {
        case let known as CatalogError.Kind: kind = known
        case let failure as DatabaseError:
            kind =
                switch failure.resultCode {
                case .SQLITE_BUSY, .SQLITE_LOCKED: .busy
                case .SQLITE_FULL: .noRoom(directory)
                // The log's index is a mapped file: if it cannot grow, SQLite reports an I/O error.
                case .SQLITE_IOERR where (try? Directory.availableByteCount(at: directory)) == 0:
                    .noRoom(directory)
                case .SQLITE_READONLY: .readOnly(directory)
                // Do not use its description, which may quote values.
                default:
                    .storage("SQLite: \(failure.message ?? "no message") (\(failure.resultCode))")
                }
        case let failure as SystemCallError:
            kind =
                failure.isNoSpace
                ? .noRoom(directory)
                : failure.isReadOnly ? .readOnly(directory) : .storage(failure.description)
        default: kind = .storage("\(error)")
        }
        return CatalogError(path: path, operation: operation, kind: kind)
    }
}
