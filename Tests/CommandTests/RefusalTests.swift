// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// A volume that holds one generation of a plain file, whose next one is then refused.
struct Refused {
    let pair: Pairing
    let path: String
    private let folder: TemporaryFolder
    private var numbers = SeededNumbers(seed: 5)
    private(set) var before = ""
    private(set) var count = 0

    init(target: String? = nil, proxy: Proxy? = nil, byteCount: UInt64 = 3 << 20) throws {
        pair = try Pairing(target: target, through: proxy)
        folder = try TemporaryFolder()
        path = try folder.write([], as: "disk.img")
        try setSize(path, byteCount)
        try change()
        _ = try pair.source.mustSend([path], to: pair.volume)
        try change()
        try remember()
    }

    /// Writes something new into the source.
    mutating func change() throws {
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        try file.seek(toOffset: numbers.next() % (2 << 20))
        try file.write(
            contentsOf: Data((0..<100_000).map { _ in UInt8(truncatingIfNeeded: numbers.next()) }))
        try file.close()
    }

    /// Takes what the target holds now as what must stay.
    mutating func remember() throws { before = try digest(pair.target) }

    /// Checks one refusal: its exit code, one sentence with the words, nothing printed, the target untouched.
    mutating func check(
        _ run: Finished, _ status: Int32, _ words: String,
        location: SourceLocation = #_sourceLocation
    ) throws {
        #expect(run.status == status, "\(run)", sourceLocation: location)
        #expect(run.error.contains(words), "\(run)", sourceLocation: location)
        #expect(run.isOneSentence, "\(run)", sourceLocation: location)
        #expect(run.hasNoResult, "\(run)", sourceLocation: location)
        try #expect(digest(pair.target) == before, "target changed", sourceLocation: location)
        count += 1
    }

    /// Sends what changed and checks that it is refused.
    mutating func checkSend(
        _ status: Int32, _ words: String, location: SourceLocation = #_sourceLocation
    ) throws {
        try check(pair.source.send([path], to: pair.volume), status, words, location: location)
    }

    /// Sends what changed and checks that it arrives: what was refused did no harm.
    func checkArrives(location: SourceLocation = #_sourceLocation) throws {
        _ = try pair.source.mustSend([path], to: pair.volume)
        let size = try FileManager.default.attributesOfItem(atPath: path)[.size] as? Int
        try #expect(
            digest(pair.target, first: size) == digest(path), sourceLocation: location)
    }
}

/// Copies a state directory.
func copyState(_ from: String, _ to: String) throws {
    try? FileManager.default.removeItem(atPath: to)
    _ = try ToolRun("/bin/cp", "-a", from, to)
}

extension CommandTests {
    @Suite(.serialized) struct LineageRefusalTests {
        @Test("a source restored from an older backup is refused")
        func restoredSource() throws {
            var refused = try Refused()
            let state = refused.pair.source.state
            try copyState(state, state + ".backup")
            _ = try refused.pair.source.mustSend([refused.path], to: refused.pair.volume)
            try refused.change()
            try refused.remember()
            try copyState(state + ".backup", state)
            try refused.checkSend(7, "rule diverged")
            report("refusals: \(refused.count) of a restored source")
        }

        @Test("a source that knows nothing of a used volume is refused")
        func otherLineage() throws {
            var refused = try Refused()
            var fresh = refused.pair.source
            fresh.state += ".fresh"
            try FileManager.default.createDirectory(
                atPath: fresh.state, withIntermediateDirectories: false,
                attributes: [.posixPermissions: 0o700])
            _ = try ToolRun(
                "/bin/cp", "-a", "\(refused.pair.source.state)/identity.pem",
                "\(fresh.state)/identity.pem")
            let invitation = try refused.pair.standby.invite(
                refused.pair.volume, target: refused.pair.target)
            try #require(fresh.pair(invitation).status == 0)
            try refused.check(
                fresh.send([refused.path], to: refused.pair.volume), 7, "rule not-empty")
            try refused.checkArrives()

            // After a reset the fresh source begins a new lineage, and the old one no longer fits.
            let reset = try refused.pair.standby.run(["reset", "disk", "--overwrite"])
            #expect(reset.status == 0, "\(reset)")
            try refused.remember()
            try refused.change()
            try refused.checkSend(7, "rule target-went-back")
            _ = try fresh.mustSend([refused.path], to: refused.pair.volume)
            try refused.remember()
            try refused.change()
            try refused.checkSend(7, "rule diverged")
            report("refusals: \(refused.count) of other lineages")
        }

        @Test("a volume that has shrunk is refused")
        func shrunk() throws {
            var refused = try Refused()
            try setSize(refused.path, 3 << 20 - 512)
            try refused.checkSend(7, "rule size-shrunk")
            try setSize(refused.path, 3 << 20 + 1000)
            try refused.checkArrives()
            report("refusals: \(refused.count) of a shrunk volume")
        }

        @Test("a volume that has shrunk is sent where the operator allows it, and may grow again")
        func allowedShrunk() throws {
            var refused = try Refused()
            for size in [2 << 20 + 700, 1 << 20, 3 << 20 + 512] as [UInt64] {
                try refused.change()
                try setSize(refused.path, size)
                if size < 3 << 20 {
                    try refused.remember()
                    try refused.checkSend(7, "rule size-shrunk")
                }
                _ = try refused.pair.source.mustSend(
                    [refused.path, "--allow-shrink"], to: refused.pair.volume)
                try #expect(
                    digest(refused.pair.target, first: Int(size)) == digest(refused.path))
            }
            #expect(refused.count == 2)
            report("shrunk: 2 refused, 2 allowed, 1 grown again")
        }

        @Test("a promoted volume takes nothing more")
        func promoted() throws {
            var refused = try Refused()
            let run = try refused.pair.standby.run(["promote", "disk"])
            #expect(run.status == 0 && run.output.contains("generation 1"), "\(run)")
            try refused.checkSend(7, "rule promoted")
            report("refusals: \(refused.count) of a promoted volume")
        }

        @Test("the second of two senders is refused while the first is at it")
        func busy() throws {
            var refused = try Refused()
            do {
                let client = try Client(refused.pair)
                _ = try client.open(refused.pair.volume)
                try refused.checkSend(3, "another session has the volume")
                withExtendedLifetime(client) {}
            }
            let first = try Running(
                Programs.source,
                refused.pair.source.sendArguments([refused.path], refused.pair.volume))
            first.stop(9)
            try waitForWriter(refused.pair.standby, refused.pair.volume)
            try refused.checkSourceLock()
            report("refusals: \(refused.count) of a second sender")
        }
    }

    @Suite(.serialized) struct IdentityRefusalTests {
        @Test("a source with another key is refused, and so is a standby with another key")
        func otherKeys() throws {
            var refused = try Refused()
            let own = "\(refused.pair.source.state)/identity.pem"
            try FileManager.default.moveItem(atPath: own, toPath: own + ".kept")
            try refused.checkSend(6, "does not accept this host's key")
            try FileManager.default.removeItem(atPath: own)
            try FileManager.default.moveItem(atPath: own + ".kept", toPath: own)
            try refused.checkArrives()

            try refused.change()
            try refused.remember()
            refused.pair.standby.stop()
            try FileManager.default.removeItem(atPath: "\(refused.pair.standby.state)/identity.pem")
            try refused.pair.standby.start()
            try refused.checkSend(6, "is not accepted here")
            report("refusals: \(refused.count) of other keys")
        }

        @Test("an unknown volume and another peer's volume get the same refusal")
        func otherVolumes() throws {
            var refused = try Refused()
            let other = try Source()
            let target = "\(refused.pair.standby.folder.path)/other.img"
            let invitation = try refused.pair.standby.invite("other", target: target)
            try #require(other.pair(invitation).status == 0)
            let theirs = try refused.pair.source.send([refused.path], to: "other")
            let unknown = try refused.pair.source.send([refused.path], to: "never")
            try refused.check(theirs, 6, "there is no volume other for this peer")
            try refused.check(unknown, 6, "there is no volume never for this peer")
            #expect(theirs.error.replacing("other", with: "never") == unknown.error)
            let size = try FileManager.default.attributesOfItem(atPath: target)[.size] as? Int
            #expect(size == 0)
            let nobody = try refused.pair.source.run([
                "send", refused.path, "--to", "nobody", "--volume", "disk",
            ])
            try refused.check(nobody, 6, "no standby is called nobody")
            report("refusals: \(refused.count) of volumes")
        }

        @Test("used, expired and unknown invitations get the same refusal")
        func invitations() throws {
            var refused = try Refused()
            let pair = refused.pair
            let open = try pair.standby.invite("disk", target: pair.target)
            let used = try pair.standby.invite("disk", target: pair.target)
            try #require(pair.source.pair(used).status == 0)
            var texts: Set<String> = []
            let made = [
                used, try expiredInvitation(pair), try unknownInvitation(like: open),
            ]
            for invitation in made {
                let run = try pair.source.pair(invitation)
                try refused.check(run, 6, "the invitation is unknown, used or expired")
                texts.insert(run.error)
            }
            #expect(texts.count == 1)
            // An invitation for a volume that is another peer's pins nothing.
            try refused.check(
                Source().pair(open), 6, "the invitation is unknown, used or expired")
            try refused.checkArrives()
            report("refusals: \(refused.count) of invitations")
        }
    }

    @Suite(.serialized) struct UsageTests {
        @Test("damaged metadata of a thin pool is refused before anything is printed")
        func damagedMetadata() throws {
            let folder = try TemporaryFolder()
            let name = "kernel/thin-64k/tmeta-held-offline.img.zst"
            let metadata = try unpack(name, in: folder)
            let data = try unpack("kernel/thin-64k/tdata.img.zst", in: folder)
            let good = try FixtureFiles.bytes(name)
            let blocks = stride(from: 0, to: good.count, by: 4096).filter { start in
                good[start..<(start + 4096)].contains { $0 != 0 }
            }
            let pair = try Pairing()
            var refusals = 0
            var accepted = 0
            for (number, block) in blocks.enumerated() where number % (blocks.count / 24) == 0 {
                var bad = good
                bad[block + 200] ^= 0x10
                try Data(bad).write(to: URL(fileURLWithPath: metadata))
                let run = try pair.source.send(
                    [
                        "--thin-metadata", metadata, "--thin-data", data, "--device", "3",
                        "--volume-size", "134217728", "--dry-run",
                    ], to: pair.volume)
                // Blocks that this device does not need (space maps, other devices) may be damaged.
                if run.status == 0 {
                    accepted += 1
                } else {
                    refusals += 1
                    #expect(run.status == 1 && run.hasNoResult && run.isOneSentence, "\(run)")
                }
                let changes = try pair.source.run([
                    "changes", "--thin-metadata", metadata, "--from", "3", "--to", "5",
                ])
                #expect(changes.status == 0 || changes.output.isEmpty, "\(changes)")
            }
            report("damaged metadata: \(refusals) refused, \(accepted) where nothing reads it")
            #expect(refusals >= 2)
        }

        @Test("wrong use ends with 2 and says how it is meant")
        func usage() throws {
            let source = try Source()
            let to = ["--to", "standby", "--volume", "disk"]
            var count = 0
            let wrong: [[String]] = [
                ["send"] + to, ["send", "a", "--thin-metadata", "b"] + to,
                ["send", "a", "--to", "standby"], ["send", "a", "--compress", "some"] + to,
                ["send", "a", "--to", "standby", "--volume", "../x"],
                ["send", "a", "--base-store", "b"] + to, ["send", "--device", "x"] + to,
                ["send", "a", "--what"] + to, ["what"], ["pair", "bf1.nonsense"], ["pair"],
                ["send", "--thin-metadata", "a", "--device", "3"] + to,
            ]
            for arguments in wrong {
                let run = try Running(Programs.source, arguments).result()
                #expect(run.status == 2 && run.hasNoResult && !run.error.isEmpty, "\(run)")
                count += 1
            }
            let wrongOnStandby: [[String]] = [
                ["reset", "disk"], ["invite", "Bad Name", "--target", "/x"],
                ["invite", "disk", "--target", ""], ["invite", "disk", "--minutes", "0"],
                ["serve", "--port-file"],
            ]
            for arguments in wrongOnStandby {
                let run = try Running(Programs.standby, arguments).result()
                #expect(run.status == 2 && run.hasNoResult && !run.error.isEmpty, "\(run)")
                count += 1
            }
            withExtendedLifetime(source) {}
            report("wrong uses: \(count)")
        }
    }
}
