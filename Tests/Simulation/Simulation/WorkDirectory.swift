// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform

/// The directory in which the real code runs: in memory, and set to one image after the other.
final class WorkDirectory {
    let path: String
    /// What is known to be there.
    private var known: Image = [:]

    init(_ path: String) throws {
        self.path = path
        for each in ["", "/standby", "/standby/staging", "/standby/locks", "/standby/maps"] {
            try Directory.create(path + each)
        }
    }

    /// Everything that is there and can be durable.
    func image() throws -> Image {
        var image: Image = [:]
        for folder in ["", "/standby", "/standby/staging", "/standby/maps"] {
            for name in try Directory.names(in: path + folder) {
                let file = "\(path)\(folder)/\(name)"
                if Disk.isVolatile(file) || ["standby", "staging", "locks", "maps"].contains(name) {
                    continue
                }
                image[file] = try File(path: file).readAll(limit: 1 << 26)
            }
        }
        return image
    }

    /// Makes the files those of the image. A file that stays keeps its identity.
    func set(_ image: Image) throws {
        for path in known.keys where image[path] == nil { try Directory.remove(path) }
        try Directory.remove(path + "/standby/catalog.sqlite-shm")
        for (path, bytes) in image where known[path] != bytes {
            if known[path] == nil { try Directory.remove(path + ".new") }
            let file =
                Directory.exists(path)
                ? try File(path: path, .write) : try File(path: path, [.write, .createNew])
            try file.write(bytes, at: 0)
            try file.truncate(to: UInt64(bytes.count))
        }
        known = image
    }

    /// Plays a scenario.
    ///
    /// - Returns: what was there after its preparation, and what it then did.
    func record(_ scenario: Scenario) throws -> (start: Image, operations: [Operation]) {
        try set([:])
        try recording(scenario.prepare)
        let start = try image()
        let operations = try Trace.record(path) { try scenario.run(try ModelStandby(path)) }
        try forget(operations)
        return (start, operations)
    }

    /// Does something with what is there.
    func recording(_ body: (ModelStandby) throws -> Void) throws {
        try forget(try Trace.record(path) { try body(try ModelStandby(path)) })
    }

    /// Says that the real code has changed files since `set`.
    func forget(_ operations: [Operation]) throws {
        var handles: [UInt64: String] = [:]
        for operation in operations {
            switch operation {
            case .open(let handle, let path, let made):
                handles[handle] = path
                if made { known[path] = [] }
            case .write(let handle, _, _), .truncate(let handle, _), .punch(let handle, _, _):
                // One byte that no file has.
                if let path = handles[handle], !Disk.isVolatile(path) { known[path] = [0xFF, 0] }
            case .rename(let path, let new):
                known[path] = nil
                known[new] = [0xFF, 0]
            case .unlink(let path): known[path] = nil
            case .sync, .mkdir, .read, .mark: break
            }
        }
    }

    func remove() {
        for folder in ["/standby/staging", "/standby/locks", "/standby/maps", "/standby", ""] {
            for name in (try? Directory.names(in: path + folder)) ?? [] {
                try? Directory.remove("\(path)\(folder)/\(name)")
            }
            _ = unsafe rmdir(path + folder)
        }
    }
}
