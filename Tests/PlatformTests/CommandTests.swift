// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Foundation
import Platform
import Testing

@Suite("Programs of the host") struct CommandTests {
    @Test("what a program prints comes back, with the C locale and nothing on its input")
    func output() throws {
        let output = try Command.run(
            "sh", ["-c", "echo \"$1 $LC_ALL\"; cat; echo w1 >&2; echo w2 >&2", "sh", "a b"])
        #expect(output.text == "a b C\n")
        #expect(output.warnings == "w1 w2")
    }

    @Test("a failure names the command as one would type it, the status and what it said")
    func failure() {
        let error = #expect(throws: CommandError.self) {
            try Command.run("sh", ["-c", "echo no such volume >&2; exit 5"])
        }
        #expect(error?.cause == .exited(5))
        #expect(error?.message == "no such volume")
        #expect(
            error?.description
                == "'sh -c 'echo no such volume >&2; exit 5'' failed with exit status 5: no such volume"
        )
    }

    @Test("a program that is missing, killed or too slow is told apart")
    func endings() {
        let missing = #expect(throws: CommandError.self) {
            try Command.run("no-such-program-here", [])
        }
        if case .notStarted? = missing?.cause {
        } else {
            Issue.record("\(String(describing: missing))")
        }
        let killed = #expect(throws: CommandError.self) {
            try Command.run("sh", ["-c", "kill -9 $$"])
        }
        #expect(killed?.cause == .signalled(9))
        let slow = #expect(throws: CommandError.self) {
            try Command.run("sh", ["-c", "sleep 60 & wait"], seconds: 1)
        }
        #expect(slow?.cause == .timedOut(seconds: 1))
    }

    @Test("more output than a pipe holds, on both streams at once, does not block")
    func muchOutput() throws {
        let output = try Command.run(
            "sh",
            [
                "-c",
                "head -c 3000000 /dev/zero | tr '\\0' x; head -c 3000000 /dev/zero | tr '\\0' y >&2",
            ])
        #expect(output.text.utf8.count == 3_000_000)
        #expect(output.warnings.utf8.count == 3_000_000)
    }

    @Test("no descriptor of ours reaches a program")
    func descriptors() throws {
        let file = try File(path: "/etc/passwd")
        defer { withExtendedLifetime(file) {} }
        // The listing itself has one more open.
        let output = try Command.run("sh", ["-c", "ls /proc/self/fd | wc -l"])
        #expect(output.text.trimmingCharacters(in: .whitespacesAndNewlines) == "4")
    }
}

@Suite("Work that is undone") struct GuardianTests {
    private let directory = FileManager.default.temporaryDirectory
        .appendingPathComponent("blockferry-guardian-\(UUID().uuidString)").path
    private let script =
        "echo did >>\"$1\"; echo ready; read -r _ <&3; sleep 0.2; echo undid >>\"$1\""

    private func log() -> String {
        (try? String(contentsOfFile: directory + "/log", encoding: .utf8)) ?? ""
    }

    @Test("finishing waits until the work is undone")
    func finish() throws {
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let guardian = try Guardian("test", script: script, [directory + "/log"], seconds: 20)
        #expect(log() == "did\n")
        try guardian.finish(seconds: 20)
        #expect(log() == "did\nundid\n")
    }

    @Test("letting go is enough")
    func letGo() throws {
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        do { _ = try Guardian("test", script: script, [directory + "/log"], seconds: 20) }
        for _ in 0..<400 where log() != "did\nundid\n" { usleep(50_000) }
        #expect(log() == "did\nundid\n")
    }

    @Test("a first half that fails is an error with its words, and nothing is undone")
    func failingFirstHalf() {
        let error = #expect(throws: CommandError.self) {
            try Guardian("test", script: "echo busy >&2; exit 1", [], seconds: 20)
        }
        #expect(error?.cause == .exited(1))
        #expect(error?.message == "busy")
    }

    @Test("a second half that fails is an error")
    func failingSecondHalf() throws {
        let guardian = try Guardian(
            "test", script: "echo ready; read -r _ <&3; echo stuck >&2; exit 3", [], seconds: 20)
        let error = #expect(throws: CommandError.self) { try guardian.finish(seconds: 20) }
        #expect(error?.cause == .exited(3))
        #expect(error?.message == "stuck")
    }

    @Test("the lock that it holds is free only when the work is undone")
    func lock() throws {
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let path = directory + "/lock"
        var lock: FileLock? = try FileLock(path: path)
        let guardian = try Guardian(
            "test", script: "echo ready; read -r _ <&3; true", [], holding: lock, seconds: 20)
        lock = nil
        #expect(try FileLock(path: path) == nil)
        try guardian.finish(seconds: 20)
        #expect(try FileLock(path: path) != nil)
    }
}
