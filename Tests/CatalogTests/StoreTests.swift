// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Digests
import Foundation
import GRDB
import Platform
import Synchronization
import Testing
import Wire

/// Copies the database and its log as a crash would leave them, and gives the paths.
///
/// Another process does it: closing the files in this one would drop SQLite's locks.
@discardableResult
func copyFiles(of directory: String, to copy: String) throws -> [String] {
    try FileManager.default.createDirectory(
        atPath: copy, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o700])
    let names = ["catalog.sqlite", "catalog.sqlite-wal"]
    let process = Foundation.Process()
    process.executableURL = URL(fileURLWithPath: "/bin/cp")
    process.arguments = ["-p"] + names.map { directory + "/" + $0 } + [copy]
    try process.run()
    process.waitUntilExit()
    try #require(process.terminationStatus == 0)
    return names.map { copy + "/" + $0 }
}

private func setMode(_ mode: Int, _ path: String) throws {
    try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: path)
}

private func mode(_ path: String) throws -> Int? {
    try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
}

@Suite("Store") struct StoreTests {
    private let scratch: Scratch
    private let directory: String
    private let volume: VolumeName

    init() throws {
        scratch = try Scratch()
        directory = scratch.directory()
        volume = try name("db")
    }

    private func open() throws -> StandbyCatalog { try StandbyCatalog(directory: directory) }

    /// Changes the file as a program that knows nothing of the catalog's rules.
    private func tamper(_ sql: String) throws {
        try DatabaseQueue(path: directory + "/catalog.sqlite").write { try $0.execute(sql: sql) }
    }

    // MARK: Permissions

    @Test("what is made is reachable by its owner alone")
    func modes() throws {
        let catalog = try open()
        try catalog.create(volume)
        #expect(try mode(directory) == 0o700)
        for file in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm", "catalog.lock"] {
            #expect(try mode(directory + "/" + file) == 0o600, "\(file)")
        }
    }

    @Test("a directory or file that others can reach is refused, and nothing is made in it")
    func wideModes() throws {
        var refused = 0
        for wide in [0o701, 0o710, 0o750, 0o755, 0o702] {
            let path = scratch.directory("\(wide)")
            try FileManager.default.createDirectory(
                atPath: path, withIntermediateDirectories: false)
            try setMode(wide, path)
            #expect(refusal { try StandbyCatalog(directory: path) }.isPermissions)
            #expect(refusal { try SourceCatalog(directory: path) }.isPermissions)
            #expect(try FileManager.default.contentsOfDirectory(atPath: path).isEmpty)
            refused += 1
        }
        _ = try open()
        for wide in [0o640, 0o604, 0o660] {
            try setMode(wide, directory + "/catalog.sqlite")
            #expect(refusal { try open() }.isPermissions)
            refused += 1
        }
        try setMode(0o600, directory + "/catalog.sqlite")
        _ = try open()
        #expect(refused == 8)
    }

    @Test("a directory of another user is refused")
    func foreignOwner() throws {
        var path = "/usr"
        if geteuid() == 0 {
            path = directory
            try FileManager.default.createDirectory(
                atPath: path, withIntermediateDirectories: false,
                attributes: [.posixPermissions: 0o700])
            try FileManager.default.setAttributes(
                [.ownerAccountID: 12_345], ofItemAtPath: path)
        }
        #expect(refusal { try StandbyCatalog(directory: path) }.isPermissions)
    }

    @Test("a symbolic link in place of the file is refused")
    func link() throws {
        let catalog = try open()
        try catalog.create(volume)
        let elsewhere = scratch.directory("elsewhere")
        try FileManager.default.createDirectory(
            atPath: elsewhere, withIntermediateDirectories: false,
            attributes: [.posixPermissions: 0o700])
        try FileManager.default.createSymbolicLink(
            atPath: elsewhere + "/catalog.sqlite",
            withDestinationPath: directory + "/catalog.sqlite")
        #expect(refusal { try StandbyCatalog(directory: elsewhere) }.isPermissions)
    }

    // MARK: Formats

    @Test("a catalog of a newer program is refused with a clear sentence, and left alone")
    func newerFormat() throws {
        try open().create(volume)
        try tamper("INSERT INTO grdb_migrations (identifier) VALUES ('standby-99')")
        do {
            _ = try open()
            Issue.record("it was opened")
        } catch let error as CatalogError {
            #expect(error.kind == .newerFormat)
            #expect(error.description.contains("newer version"))
            #expect(error.description.contains(directory))
        }
        try tamper("DELETE FROM grdb_migrations WHERE identifier = 'standby-99'")
        #expect(try open().volume(volume) != nil)
    }

    @Test("one kind of catalog is not taken for the other, nor is another database for a catalog")
    func purpose() throws {
        _ = try open()
        #expect(refusal { try SourceCatalog(directory: directory) }.isConflict)
        _ = try open()
        let foreign = scratch.directory("foreign")
        _ = try SourceCatalog(directory: foreign)
        #expect(refusal { try StandbyCatalog(directory: foreign) }.isConflict)
        try tamper("PRAGMA application_id = 0")
        #expect(refusal { try open() }.isConflict)
    }

    @Test("a file that is no database, and a value that is none of ours, are errors and no traps")
    func damage() throws {
        let catalog = try open()
        try catalog.create(volume)
        for value in ["state = 99", "lineage = x'00'", "committed = x'0102'", "state = -1"] {
            try tamper("UPDATE volume SET \(value), name = name")
            #expect(refusal { try catalog.volumes() }.isStorage, "\(value)")
            try tamper("UPDATE volume SET state = 0, lineage = NULL, committed = NULL")
            #expect(try catalog.volumes().count == 1)
        }
        let foreign = scratch.directory("foreign")
        try FileManager.default.createDirectory(
            atPath: foreign, withIntermediateDirectories: false,
            attributes: [.posixPermissions: 0o700])
        let path = foreign + "/catalog.sqlite"
        try Data(repeating: 0x41, count: 8192).write(to: URL(fileURLWithPath: path))
        try setMode(0o600, path)
        #expect(refusal { try StandbyCatalog(directory: foreign) }.isStorage)
    }

    @Test("events cannot be changed")
    func appendOnly() throws {
        try open().create(volume)
        #expect(throws: DatabaseError.self) { try tamper("UPDATE event SET text = 'other'") }
    }

    // MARK: Several at once

    @Test("many make and open the same catalog at once, and no fencing number is given twice")
    func manyHandles() throws {
        let (count, rounds) = (8, 10)
        let failure = FirstFailure()
        let numbers = Mutex<[UInt64]>([])
        let (directory, volume) = (directory, volume)
        let threads = (0..<count).map { index in
            Platform.Thread("catalog \(index)") {
                do {
                    let catalog = try StandbyCatalog(directory: directory)
                    _ = refusal { try catalog.create(volume) }
                    for _ in 0..<rounds {
                        let number = try catalog.takeFence(volume)
                        numbers.withLock { $0.append(number) }
                    }
                } catch { failure.record(error) }
            }
        }
        for thread in threads { thread.join() }
        #expect(failure.error == nil, "\(String(describing: failure.error))")
        let taken = numbers.withLock { $0.sorted() }
        #expect(taken == (1...UInt64(count * rounds)).map { $0 })
        #expect(try open().events(limit: 100).count == 1)
    }

    // MARK: Crashes

    @Test("files copied after each transition hold exactly what was committed")
    func copies() throws {
        let catalog = try open()
        try catalog.create(volume)
        let fence = try catalog.takeFence(volume)
        var checked = 0
        func check() throws {
            let copy = scratch.directory("copy-\(checked)")
            try copyFiles(of: directory, to: copy)
            let reopened = try StandbyCatalog(directory: copy)
            #expect(try reopened.require(volume) == catalog.require(volume))
            #expect(try reopened.events(limit: 100) == catalog.events(limit: 100))
            checked += 1
        }
        try check()
        let first = full()
        try catalog.beginTransfer(
            volume, fence: fence, StandbyTransfer(begin: first, logID: .random(), inPlace: true))
        try check()
        try catalog.beginApplying(volume, fence: fence, record(of: first))
        try check()
        try catalog.commit(volume, fence: fence, committedAt: 9)
        try check()
        let transfer = try catalog.beginDelta(volume, fence)
        try check()
        try catalog.beginApplying(volume, fence: fence, record(of: transfer.begin))
        try check()

        // A transaction of another process that is under way, in the log but not committed.
        let writer = try DatabaseQueue(path: directory + "/catalog.sqlite")
        let log = directory + "/catalog.sqlite-wal"
        func logSize() throws -> Int {
            try #require(FileManager.default.attributesOfItem(atPath: log)[.size] as? Int)
        }
        let committedSize = try logSize()
        try writer.writeWithoutTransaction { db in
            try db.execute(sql: "PRAGMA cache_size = 1")
            try db.beginTransaction(.immediate)
            for number in 0..<2000 {
                try db.execute(
                    sql: "INSERT INTO event (time, kind, text) VALUES (0, 'begun', ?)",
                    arguments: [String(repeating: "x", count: number)])
            }
            try db.execute(sql: "UPDATE volume SET state = 2")
            #expect(try logSize() > committedSize + 1_000_000)
            try check()
            try db.rollback()
        }
        #expect(checked == 7)
    }

    @Test("a log cut anywhere gives one of the states that were committed, in their order")
    func cutLog() throws {
        let catalog = try open()
        try catalog.create(volume)
        let fence = try catalog.takeFence(volume)
        var states = [try catalog.require(volume)]
        try catalog.bring(volume, to: .initialising, fence)
        states.append(try catalog.require(volume))
        let begin = try #require(states.last?.transfer?.begin)
        try catalog.beginApplying(volume, fence: fence, record(of: begin))
        states.append(try catalog.require(volume))
        try catalog.commit(volume, fence: fence, committedAt: 9)
        states.append(try catalog.require(volume))
        let log = try #require(
            try copyFiles(of: directory, to: scratch.directory("whole")).last)
        let content = try Data(contentsOf: URL(fileURLWithPath: log))
        var last = -1
        var seen: Set<Int> = []
        for step in 0...60 {
            let copy = scratch.directory("cut-\(step)")
            let path = try #require(try copyFiles(of: directory, to: copy).last)
            try content.prefix(content.count * step / 60).write(to: URL(fileURLWithPath: path))
            try setMode(0o600, path)
            let found = try StandbyCatalog(directory: copy).volume(volume)
            guard let found else {
                #expect(last == -1, "the volume was there before")
                continue
            }
            // Between creation and the first state in the list stands the volume without a fence.
            let index = found.fence == 0 ? -1 : try #require(states.firstIndex(of: found))
            #expect(index >= last)
            last = index
            seen.insert(index)
        }
        #expect(last == 3 && seen.isSuperset(of: [1, 2, 3]), "\(seen)")
    }

    @Test("what a killed process had committed is there")
    func killed() async throws {
        await #expect(processExitsWith: .signal(SIGKILL)) { [directory = directory as String] in
            let catalog = try StandbyCatalog(directory: directory)
            let volume = try name("db")
            try catalog.create(volume)
            let fence = try catalog.takeFence(volume)
            try catalog.bring(volume, to: .applying, fence)
            kill(getpid(), SIGKILL)
        }
        let found = try open().require(volume)
        #expect(found.state == .applying && found.applying?.head.number == 2)
        #expect(found.committed?.head.number == 1)
        let catalog = try open()
        let fence = try catalog.takeFence(volume)
        try catalog.commit(volume, fence: fence, committedAt: 1)
        #expect(try catalog.require(volume).committed?.head.number == 2)
    }
}
