// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Catalog
import Digests
import Platform
import TestSupport
import Testing
import Wire

/// An invitation that was good once.
func expiredInvitation(_ pair: Pairing) throws -> String {
    let secret = SecureRandom.bytes(16)
    let volume = try #require(VolumeName(pair.volume))
    let catalog = try StandbyCatalog(directory: pair.standby.state)
    let now = Clock.wall()
    try catalog.addInvitation(
        secretHash: SHA256Digest.of(secret), volume: volume, expiresAt: now - 1, now: now - 2)
    return try invitation(secret, pair.standby.port, volume, pair.standby.receiver())
}

/// An invitation that nobody made.
func unknownInvitation(like text: String) throws -> String {
    var parsed = try Invitation(text: text)
    parsed.secret = SecureRandom.bytes(16)
    return parsed.text
}

private func invitation(
    _ secret: [UInt8], _ port: UInt16, _ volume: VolumeName, _ key: KeyID
) -> String {
    Invitation(receiver: key, secret: secret, volume: volume, address: "127.0.0.1:\(port)").text
}

extension Standby {
    /// State and generation of a volume, as its catalog has them.
    func held(_ volume: String) throws -> (state: VolumeState, generation: Int) {
        let name = try #require(VolumeName(volume))
        let found = try StandbyCatalog(directory: state).volume(name)
        let held = try #require(found)
        return (held.state, Int(clamping: held.committed?.head.number ?? 0))
    }
}

extension Refused {
    /// Holds the lock that a sender of this volume holds.
    mutating func checkSourceLock() throws {
        let lock = try FileLock(path: "\(pair.source.state)/locks/\(pair.volume)@standby")
        #expect(lock != nil)
        try checkSend(3, "another process is sending")
        withExtendedLifetime(lock) {}
    }
}

extension CommandTests {
    @Suite(.serialized) struct DistrustTests {
        @Test("a suspect and a diverged copy take nothing more")
        func distrusted() throws {
            var count = 0
            for isSuspect in [true, false] {
                var refused = try Refused()
                let catalog = try StandbyCatalog(directory: refused.pair.standby.state)
                let volume = try #require(VolumeName(refused.pair.volume))
                if isSuspect {
                    try catalog.markSuspect(volume, reason: "a test")
                } else {
                    try catalog.markDiverged(volume, reason: "a test")
                }
                try refused.checkSend(7, isSuspect ? "rule suspect" : "rule diverged")
                count += refused.count
            }
            report("refusals: \(count) of distrusted copies")
        }

        @Test("a frame that breaks the rules is refused by its rule and changes nothing")
        func brokenFrames() throws {
            let refused = try Refused()
            let pair = refused.pair
            var count = 0
            func expect(
                _ code: RefusalCode, _ rule: String, _ body: (Client) throws -> Void
            ) throws {
                try waitForWriter(pair.standby, pair.volume)
                // The connection ends with the closure: the worker does not wait for this side's end.
                let refusal = try {
                    let client = try Client(pair)
                    try body(client)
                    return try client.refusal()
                }()
                #expect(refusal.code == code && refusal.rule == rule, "\(refusal)")
                try waitForWriter(pair.standby, pair.volume)
                try #expect(digest(pair.target) == refused.before)
                count += 1
            }
            func begin(
                _ standby: StandbyState, _ change: (inout Begin) -> Void = { _ in }
            ) -> Begin {
                var begin = Begin(
                    transfer: .random(),
                    head: GenerationHead(
                        kind: .delta, tagAlgorithm: .poly1305, lineage: standby.lineage,
                        number: standby.committedNumber + 1, parent: standby.committedID,
                        volumeSize: 3 << 20, sourceTime: 1, sourceIdentity: "test"),
                    plannedContent: 65_536, plannedSegments: 1, heldSegments: 0, tagKey: nil)
                change(&begin)
                return begin
            }
            func started(_ client: Client) throws {
                try client.send(begin(try client.open(pair.volume)))
                #expect(try client.receive().type == .ready)
            }
            let content = [UInt8](repeating: 7, count: 65_536)
            // A tag of another key proves nothing.
            let tags = content.withRawSpan {
                Tagger(.poly1305, key: .random()).tags(ofContent: $0, at: 0)
            }
            let record =
                RecordHeader(
                    data: 0, length: content.count, encoding: .raw, storedLength: content.count,
                    tags: tags
                ).encoded() + content

            for place in [32, 33, 40, 60, 64, 80, 5000, 65_000] {
                try expect(.malformed, "malformed") { client in
                    try started(client)
                    try client.send(.record, record) { $0[place] ^= 1 }
                }
            }
            for place in 0..<32 {
                try expect(.malformed, "malformed") { client in
                    try started(client)
                    try client.send(.record, record) { $0[place] ^= 4 }
                }
            }
            try expect(.corrupt, "corrupt") { client in
                try started(client)
                try client.send(.record, record)
            }
            let zero = RecordHeader(.zero, offset: 0, length: 4096)
            try expect(.malformed, "malformed") { client in
                try started(client)
                try client.send(.record, zero.encoded())
                try client.send(.record, zero.encoded())
            }
            try expect(.malformed, "malformed") { client in
                try started(client)
                try client.send(
                    .record, RecordHeader(.zero, offset: 3 << 20, length: 512).encoded())
            }
            for index in [0, 1] as [UInt64] {
                try expect(.corrupt, "corrupt") { client in
                    try started(client)
                    try client.send(.record, zero.encoded())
                    try client.send(
                        Seal(
                            index: index, recordCount: 1, content: 0, endOffset: 4096,
                            digest: .zero))
                }
            }
            try expect(.malformed, "malformed") { client in
                try client.greet()
                try client.send(
                    Hello(lowestVersion: 1, highestVersion: 1, features: 0, software: ""))
            }
            try expect(.malformed, "malformed") { try $0.send(.record, record) }
            try expect(.unsupportedVersion, "unsupported-version") {
                try $0.send(Hello(lowestVersion: 2, highestVersion: 9, features: 0, software: ""))
            }
            let heads: [(String, (inout Begin) -> Void)] = [
                ("parent-mismatch", { $0.head.parent = SHA256Digest.of([1]) }),
                ("diverged", { $0.head.lineage = .random() }),
                ("number-mismatch", { $0.head.number += 1 }),
                ("size-shrunk", { $0.head.volumeSize -= 512 }),
                (
                    "not-empty",
                    {
                        $0.head.kind = .full
                        $0.head.parent = .zero
                        $0.tagKey = .random()
                    }
                ),
            ]
            for (rule, change) in heads {
                try expect(.lineage, rule) { client in
                    try client.send(begin(try client.open(pair.volume), change))
                }
            }
            try expect(.corrupt, "corrupt") { client in
                let announced = begin(try client.open(pair.volume))
                try client.send(announced)
                #expect(try client.receive().type == .ready)
                try client.send(
                    GenerationRecord(
                        head: announced.head, segmentCount: 1, deltaDigest: .zero,
                        volumeRoot: .zero, senderKey: pair.standby.receiver()))
            }
            try refused.checkArrives()
            report("broken frames refused: \(count)")
            #expect(count >= 50)
        }
    }
}
