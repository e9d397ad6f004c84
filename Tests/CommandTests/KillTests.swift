// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing
import Wire

extension CommandTests {
    @Suite(.serialized) struct KillTests {
        private static let byteCount: UInt64 = 40 << 20

        /// What the kills hit.
        private struct Tally {
            var kills = 0
            var before = 0
            var after = 0
            var midTransfer = 0
            var sendsResumed = 0
            var sendsCompleted = 0

            var text: String {
                "\(kills) kills, \(before) before and \(after) after commit, \(midTransfer) in "
                    + "mid-transfer; \(sendsCompleted) sends completed, \(sendsResumed) of them "
                    + "resumed"
            }
        }

        /// Two versions of a volume that differ everywhere.
        private struct Versions {
            let folder: TemporaryFolder
            let paths: [String]
            let digests: [String]

            init() throws {
                let folder = try TemporaryFolder()
                self.folder = folder
                paths = try ["a", "b"].map { name in
                    let path = "\(folder.path)/\(name).img"
                    let command =
                        "openssl enc -aes-128-ctr -nosalt -pass pass:\(name) -pbkdf2 -iter 1 "
                        + "-in /dev/zero 2>/dev/null | head -c \(byteCount) > '\(path)'"
                    _ = try ToolRun("/bin/sh", "-c", command)
                    return path
                }
                digests = try paths.map { try digest($0) }
                guard digests[0] != digests[1] else { throw FixtureFailure("equal versions") }
            }
        }

        private enum Victim: CaseIterable { case sender, daemon, worker }

        private let versions: Versions
        private let pair: Pairing

        init() throws {
            versions = try Versions()
            pair = try Pairing()
        }

        private func arguments(_ version: Int) -> [String] {
            [versions.paths[version % 2], "--compress", "never"]
        }

        /// The workers of the daemon.
        private func workers() -> [Int32] {
            guard let pid = pair.standby.daemon?.pid,
                let text = try? String(
                    contentsOfFile: "/proc/\(pid)/task/\(pid)/children", encoding: .utf8)
            else { return [] }
            return text.split(separator: " ").compactMap { Int32($0) }
        }

        /// Ends the victim; false if there was nobody to end.
        private func end(_ victim: Victim, _ sender: Running) -> Bool {
            switch victim {
            case .sender:
                guard sender.isRunning else { return false }
                sender.stop(9)
            case .daemon:
                pair.standby.kill()
            case .worker:
                guard let worker = workers().first else { return false }
                kill(worker, 9)
            }
            return true
        }

        /// One kill while `version` is sent, and what is then on the standby; false if there was nothing to kill.
        private func strike(
            _ victim: Victim, _ version: Int, after microseconds: UInt32, _ tally: inout Tally
        ) throws -> Bool {
            let sender = try Running(
                Programs.source, pair.source.sendArguments(arguments(version), pair.volume))
            usleep(microseconds)
            let hit = end(victim, sender)
            if victim != .sender {
                let ended = try sender.result()
                if hit, ended.status != 0 {
                    #expect([4, 5].contains(ended.status), "\(ended)")
                    #expect(ended.isOneSentence, "\(ended)")
                }
            }
            try waitForWriter(pair.standby, pair.volume)
            let left = try pair.standby.held(pair.volume).state
            if victim != .sender {
                pair.standby.stop()
                try pair.standby.start()
            }
            let (state, generation) = try pair.standby.held(pair.volume)
            #expect([.consistent, .staging].contains(state))
            let isNew = generation == version + 1
            try #require(isNew || generation == version)
            let content = try digest(pair.target)
            try #require(
                content == versions.digests[(isNew ? version : version - 1) % 2],
                "\(victim) killed after \(microseconds) us of version \(version): \(left)")
            guard hit else { return false }
            tally.kills += 1
            if isNew { tally.after += 1 } else { tally.before += 1 }
            if left == .staging || left == .applying { tally.midTransfer += 1 }
            return true
        }

        /// Sends a version to its end and compares, and checks that what was durable is not sent again.
        private func complete(_ version: Int, _ tally: inout Tally) throws {
            let durable = try Client(pair).open(pair.volume).durableSegments
            try waitForWriter(pair.standby, pair.volume)
            let result = try pair.source.mustSend(arguments(version), to: pair.volume)
            #expect(result["generation"].number == UInt64(version + 1))
            try #expect(digest(pair.target) == versions.digests[version % 2])
            tally.sendsCompleted += 1
            guard result["result"].string == "delta" else { return }
            let resumed = try #require(result["resumed_segments"].number)
            let planned = try #require(result["planned_segments"].number)
            let wire = try #require(result["bytes_on_wire"].number)
            #expect(resumed == durable, "what is durable is not sent again")
            #expect(wire < (planned - resumed) << 25 + 2 << 20)
            if resumed > 0 { tally.sendsResumed += 1 }
        }

        @Test("killed anywhere, both sides come back to one whole generation and go on")
        func kills() throws {
            let seed = UInt64(ProcessInfo.processInfo.environment["KILL_SEED"] ?? "")
            let chosen = seed ?? UInt64(Date().timeIntervalSince1970)
            report("seed of the kills: \(chosen) (KILL_SEED)")
            var numbers = SeededNumbers(seed: chosen)
            var tally = Tally()
            _ = try pair.source.mustSend(arguments(0), to: pair.volume)
            var version = 1
            let began = ContinuousClock.now
            _ = try pair.source.mustSend(arguments(version), to: pair.volume)
            let length = (ContinuousClock.now - began).components
            let span =
                UInt64(length.seconds) * 1_000_000 + UInt64(length.attoseconds / 1_000_000_000_000)
            version += 1
            var attempts = 0
            var counts = [0, 0]
            while counts[0] < 100 || counts[1] < 100 {
                attempts += 1
                try #require(attempts < 1000, "\(tally.text)")
                for _ in 0..<(2 + numbers.next() % 6) {
                    let isSender = counts[0] < 100 && (counts[1] >= 100 || numbers.next() % 2 == 0)
                    guard isSender || counts[1] < 100 else { break }
                    let victim: Victim =
                        isSender ? .sender : numbers.next() % 2 == 0 ? .daemon : .worker
                    let moment = UInt32(numbers.next() % span)
                    if try strike(victim, version, after: moment, &tally) {
                        counts[isSender ? 0 : 1] += 1
                    }
                    if try pair.standby.held(pair.volume).generation == version + 1 { break }
                }
                try complete(version, &tally)
                version += 1
                if version % 20 == 0 { report("so far \(tally.text)") }
            }
            report(
                "\(tally.text); \(counts[0]) of the sender, \(counts[1]) of the daemon or a worker; "
                    + "a whole send takes \(span / 1000) ms")
            #expect(tally.kills >= 200)
            #expect(tally.midTransfer >= 30)
            #expect(tally.sendsResumed > 0)
        }
    }
}
