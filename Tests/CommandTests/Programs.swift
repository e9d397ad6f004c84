// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// Everything here drives the built programs; one test at a time, since they share two cores and loop devices.
@Suite(.serialized) enum CommandTests {}

/// The programs, as `swift build -c release` leaves them.
enum Programs {
    static let source = path("blockferry")
    static let standby = path("blockferryd")

    private static func path(_ name: String) -> String {
        let parts = #filePath.split(separator: "/").dropLast(3)
        return "/" + parts.joined(separator: "/") + "/.build/release/\(name)"
    }
}

/// A program that was started here and is ended here at the latest.
final class Running {
    private let process: Process
    private let ended = DispatchSemaphore(value: 0)
    private let folder: TemporaryFolder
    let pid: Int32

    init(_ program: String, _ arguments: [String]) throws {
        guard FileManager.default.isExecutableFile(atPath: program) else {
            throw FixtureFailure("\(program) is missing: swift build -c release makes it")
        }
        folder = try TemporaryFolder()
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        // Never those of this machine, whatever the arguments say of the state.
        process.environment = ProcessInfo.processInfo.environment.merging([
            "BLOCKFERRY_STATE": folder.path + "/source",
            "BLOCKFERRYD_STATE": folder.path + "/standby",
        ]) { _, ours in ours }
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = try FileHandle(
            forWritingTo: URL(fileURLWithPath: try folder.write([], as: "out")))
        process.standardError = try FileHandle(
            forWritingTo: URL(fileURLWithPath: try folder.write([], as: "error")))
        let ended = ended
        process.terminationHandler = { _ in ended.signal() }
        try process.run()
        pid = process.processIdentifier
        self.process = process
    }

    deinit { stop(9) }

    var isRunning: Bool { process.isRunning }

    /// Sends a signal to this process alone.
    func signal(_ number: Int32) {
        if process.isRunning { _ = kill(pid, number) }
    }

    /// Ends it by a signal, and kills it if it will not go.
    func stop(_ number: Int32) {
        signal(number)
        if ended.wait(timeout: .now() + 15) == .timedOut {
            signal(9)
            _ = ended.wait(timeout: .now() + 15)
        }
        ended.signal()
    }

    /// Whether it ended by itself within the time.
    func ends(within milliseconds: Int) -> Bool {
        guard ended.wait(timeout: .now() + .milliseconds(milliseconds)) == .success else {
            return false
        }
        ended.signal()
        return true
    }

    /// Waits for its end.
    func result() throws -> Finished {
        guard ends(within: 120_000) else {
            stop(9)
            throw FixtureFailure("process \(pid) did not end")
        }
        return Finished(
            status: process.terminationReason == .exit
                ? process.terminationStatus : 128 + process.terminationStatus,
            output: String(decoding: try folder.read("out"), as: UTF8.self),
            error: try errorText())
    }

    /// What it has written to standard error so far.
    func errorText() throws -> String {
        String(decoding: try folder.read("error"), as: UTF8.self)
    }
}

/// How a program ended.
struct Finished: CustomStringConvertible {
    let status: Int32
    let output: String
    let error: String

    var description: String { "exit \(status), out: \(output), error: \(error)" }

    /// The result as JSON.
    func json() throws -> JSON { try JSON(Array(output.utf8)) }

    /// Whether standard error holds one sentence and no more.
    var isOneSentence: Bool {
        let lines = error.split(separator: "\n")
        return error.hasSuffix("\n") && error.count < 1200
            && (lines.count == 1 || lines.count == 2 && lines[1].hasPrefix("next: "))
    }

    /// Whether it said nothing on standard output but, as JSON, why it failed.
    var hasNoResult: Bool {
        output.isEmpty || output.hasPrefix("{\"exit\":\(status),\"message\":")
    }
}

/// The SHA-256 of the first bytes of a file or device, in hexadecimal, by the system's tools.
func digest(_ path: String, first count: Int? = nil) throws -> String {
    let head = count.map { "head -c \($0) '\(path)'" } ?? "cat '\(path)'"
    let run = try ToolRun("/bin/sh", "-c", "\(head) | sha256sum")
    return String(String(decoding: run.output, as: UTF8.self).prefix(64))
}

/// Unpacks an image of `Tests/Fixtures`.
func unpack(_ fixture: String, in folder: TemporaryFolder) throws -> String {
    let name = fixture.split(separator: "/").joined(separator: "-").dropLast(".zst".count)
    let path = "\(folder.path)/\(name)"
    _ = try ToolRun(
        "/usr/bin/zstd", "-dqf", "--sparse", "\(FixtureFiles.root)/\(fixture)", "-o", path)
    return path
}

/// A standby: a state directory and the daemon, on a port that stays the same.
final class Standby {
    let folder: TemporaryFolder
    private(set) var port: UInt16 = 0
    private(set) var daemon: Running?

    var state: String { "\(folder.path)/standby" }

    init() throws {
        folder = try TemporaryFolder()
        try start()
    }

    /// Starts the daemon and waits until it listens: recovery is over by then.
    func start() throws {
        let file = "\(folder.path)/port"
        try? FileManager.default.removeItem(atPath: file)
        let daemon = try Running(
            Programs.standby,
            ["serve", "--listen", "127.0.0.1:\(port)", "--port-file", file, "--state", state])
        self.daemon = daemon
        let due = ContinuousClock.now + .seconds(60)
        while .now < due {
            if let bytes = try? folder.read("port"), bytes.last == 0x0A,
                let port = UInt16(String(decoding: bytes.dropLast(), as: UTF8.self))
            {
                self.port = port
                return
            }
            guard !daemon.ends(within: 2) else {
                throw FixtureFailure("the daemon ended: \(try daemon.errorText())")
            }
        }
        throw FixtureFailure("the daemon does not listen: \(try daemon.errorText())")
    }

    func stop() {
        daemon?.stop(15)
        daemon = nil
    }

    func kill() {
        daemon?.stop(9)
        daemon = nil
    }

    /// Runs an administration command.
    func run(_ arguments: [String]) throws -> Finished {
        try Running(Programs.standby, arguments + ["--state", state]).result()
    }

    /// Registers a volume and gives the invitation back.
    func invite(_ volume: String, target: String, port: UInt16? = nil) throws -> String {
        let run = try run([
            "invite", volume, "--target", target, "--create", "--address",
            "127.0.0.1:\(port ?? self.port)",
        ])
        try #require(run.status == 0, "\(run)")
        return run.output.trimmingCharacters(in: .whitespacesAndNewlines)
    }

    /// The state of a volume, as `status` tells it.
    func status(_ volume: String) throws -> JSON {
        try run(["status", volume, "--json"]).json()["volumes"].elements.first ?? .null
    }
}

/// A source host: a state directory.
struct Source {
    let folder: TemporaryFolder
    var state: String

    init() throws {
        folder = try TemporaryFolder()
        state = "\(folder.path)/source"
    }

    func run(_ arguments: [String]) throws -> Finished {
        try Running(Programs.source, arguments + ["--state", state]).result()
    }

    func pair(_ invitation: String) throws -> Finished {
        try run(["pair", invitation, "--name", "standby", "--own-name", "source"])
    }

    func sendArguments(_ source: [String], _ volume: String) -> [String] {
        ["send"] + source + ["--to", "standby", "--volume", volume, "--json", "--state", state]
    }

    func send(_ source: [String], to volume: String) throws -> Finished {
        try Running(Programs.source, sendArguments(source, volume)).result()
    }

    /// Sends, and fails unless it is done.
    func mustSend(_ source: [String], to volume: String) throws -> JSON {
        let run = try send(source, to: volume)
        try #require(run.status == 0, "\(run)")
        return try run.json()
    }
}

/// A standby with one volume and a source that may send to it.
struct Pairing {
    let standby: Standby
    let source: Source
    let target: String
    let volume = "disk"

    /// The target is a file in the standby's folder if none is given.
    init(target: String? = nil, through proxy: Proxy? = nil) throws {
        standby = try Standby()
        source = try Source()
        self.target = target ?? "\(standby.folder.path)/target.img"
        proxy?.set(upstream: standby.port)
        let run = try source.pair(
            try standby.invite(volume, target: self.target, port: proxy?.port))
        try #require(run.status == 0, "\(run)")
    }
}

/// A loop device; detached when it goes.
final class LoopDevice {
    let path: String

    /// Whether this machine can have one.
    static let isAvailable: Bool = {
        guard getuid() == 0, let folder = try? TemporaryFolder(),
            (try? LoopDevice(byteCount: 1 << 20, in: folder)) != nil
        else {
            print("CommandTests: NO LOOP DEVICES HERE: block devices are not tested")
            return false
        }
        return true
    }()

    init(file: String, readOnly: Bool = false) throws {
        let options = readOnly ? ["-r", "-f", "--show"] : ["--direct-io=on", "-f", "--show"]
        let run = try ToolRun("/usr/sbin/losetup", options + [file])
        guard run.status == 0, let line = run.lines.first else {
            throw FixtureFailure("losetup failed")
        }
        path = String(line)
    }

    convenience init(byteCount: UInt64, in folder: TemporaryFolder) throws {
        let file = try folder.write([], as: "loop-\(UUID().uuidString).img")
        try setSize(file, byteCount)
        try self.init(file: file)
    }

    deinit { _ = try? ToolRun("/usr/sbin/losetup", "-d", path) }
}

/// Adds up what the suites did; printed at the end of each.
func report(_ text: String) { FileHandle.standardError.write(Data("CommandTests: \(text)\n".utf8)) }

/// Sets the size of a file; what is new is a hole.
func setSize(_ path: String, _ byteCount: UInt64) throws {
    let file = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
    try file.truncate(atOffset: byteCount)
    try file.close()
}
