// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Digests
import Foundation
import Platform
import Synchronization
import Testing
import Wire

@Suite("Standby catalog") struct StandbyCatalogTests {
    private let scratch: Scratch
    private let catalog: StandbyCatalog
    private let volume: VolumeName

    init() throws {
        scratch = try Scratch()
        catalog = try StandbyCatalog(directory: scratch.directory(), clock: { 5 })
        volume = try name("db")
        try catalog.create(volume)
    }

    // MARK: Peers and volumes

    @Test("peers are added once, listed, and removed; their volumes stay without a peer")
    func peers() throws {
        try catalog.addPeer(key("a"), name: "alpha")
        try catalog.addPeer(key("b"), name: "beta")
        #expect(refusal { try catalog.addPeer(key("a"), name: "again") }.isConflict)
        #expect(Set(try catalog.peers().map(\.name)) == ["alpha", "beta"])
        #expect(try catalog.peers().allSatisfy { $0.addedAt == 5 })

        let other = try name("mail")
        try catalog.createVolume(
            other, peer: key("a"), targetPath: "/srv/mail.img", targetKind: .file
        ) { _ in "id2 file inode=99" }
        let fence = try catalog.takeFence(other)
        try catalog.commitFull(other, fence)
        let before = try catalog.require(other)
        try catalog.removePeer(key("a"))
        #expect(try catalog.peers().map(\.name) == ["beta"])
        #expect(refusal { try catalog.removePeer(key("a")) }.isNotFound)
        var expected = before
        expected.peer = nil
        let after = try catalog.require(other)
        expected.fence = after.fence
        #expect(after == expected)
        #expect(refusal { try catalog.promote(other, fence: fence) } == .fenced)
    }

    @Test("names and target paths are unique, and every field comes back")
    func volumes() throws {
        #expect(refusal { try catalog.create(volume) }.isConflict)
        let other = try name("mail")
        func create(_ path: String, peer: KeyID? = nil) throws {
            try catalog.createVolume(
                other, peer: peer, targetPath: path, targetKind: .file
            ) { others in
                #expect(others.map(\.name) == [volume])
                return "id2 file inode=1"
            }
        }
        #expect(refusal { try create("/dev/vg0/db") }.isConflict)
        #expect(refusal { try create("/srv/mail.img", peer: key("nobody")) }.isNotFound)
        try create("/srv/mail.img")
        #expect(
            try catalog.volume(other)
                == StandbyVolume(
                    name: other, peer: nil, targetPath: "/srv/mail.img", targetKind: .file,
                    targetIdentity: "id2 file inode=1", addedAt: 5))
        #expect(try catalog.volumes().map(\.name.text) == ["db", "mail"])
        try catalog.removeVolume(volume)
        #expect(try catalog.volume(volume) == nil)
        #expect(refusal { try catalog.removeVolume(volume) }.isNotFound)
        #expect(refusal { try catalog.takeFence(volume) }.isNotFound)
    }

    @Test("a peer finds its own volumes and no others")
    func ownVolumes() throws {
        try catalog.addPeer(key("a"), name: "alpha")
        try catalog.addPeer(key("b"), name: "beta")
        let other = try name("mail")
        try catalog.createVolume(
            other, peer: key("a"), targetPath: "/srv/mail.img", targetKind: .file
        ) { _ in "id2 file inode=1" }
        #expect(try catalog.volume(other, of: key("a"))?.name == other)
        #expect(try catalog.volume(other, of: key("b")) == nil)
        #expect(try catalog.volume(volume, of: key("a")) == nil)
        #expect(try catalog.volume(try name("missing"), of: key("a")) == nil)
    }

    // MARK: Invitations

    private func invite(_ secret: [UInt8], expiresAt: UInt64 = 100) throws {
        try catalog.addInvitation(
            secretHash: SHA256Digest.of(secret), volume: volume, expiresAt: expiresAt, now: 10)
    }

    private func redeem(_ secret: [UInt8], _ peer: String, now: UInt64 = 20) throws -> VolumeName? {
        try catalog.redeem(
            secretHash: SHA256Digest.of(secret), peerKey: key(peer), peerName: peer, now: now)
    }

    @Test("a secret pins the volume to its first user, and is worth nothing then")
    func redeemOnce() throws {
        let secret = SecureRandom.bytes(16)
        #expect(try !catalog.hasOpenInvitation(now: 10))
        try invite(secret)
        #expect(try catalog.hasOpenInvitation(now: 10))
        #expect(try redeem(SecureRandom.bytes(16), "mallory") == nil)
        #expect(try redeem(secret, "alpha") == volume)
        #expect(try !catalog.hasOpenInvitation(now: 20))
        #expect(try catalog.volume(volume, of: key("alpha")) != nil)
        #expect(try catalog.peers().map(\.name) == ["alpha"])
        #expect(try redeem(secret, "alpha") == nil)
        #expect(try redeem(secret, "mallory") == nil)
        // Who has the secret can be told who used it; of any other there is nothing to tell.
        #expect(try catalog.redeemer(of: SHA256Digest.of(secret)) == key("alpha"))
        #expect(try catalog.redeemer(of: SHA256Digest.of(SecureRandom.bytes(16))) == nil)
        #expect(try catalog.peers().map(\.name) == ["alpha"])
        #expect(refusal { try invite(secret) }.isConflict)
    }

    @Test("a secret is worth nothing from the moment it expires")
    func expiry() throws {
        let secret = SecureRandom.bytes(16)
        try invite(secret, expiresAt: 100)
        #expect(try !catalog.hasOpenInvitation(now: 100))
        #expect(try redeem(secret, "late", now: 100) == nil)
        #expect(try catalog.peers().isEmpty)
        #expect(try redeem(secret, "early", now: 99) == volume)
    }

    @Test("a volume of one peer is not given to another, and the invitation is burnt")
    func pinned() throws {
        let (first, second, third) = (
            SecureRandom.bytes(16), SecureRandom.bytes(16), SecureRandom.bytes(16)
        )
        try invite(first)
        try invite(second)
        try invite(third)
        #expect(try redeem(first, "alpha") == volume)
        #expect(try redeem(second, "mallory") == nil)
        #expect(try redeem(second, "alpha") == nil)
        #expect(try redeem(third, "alpha") == volume)
        #expect(try catalog.peers().map(\.name) == ["alpha"])
        #expect(try catalog.require(volume).peer == key("alpha"))
    }

    @Test("an invitation needs a volume and goes with it")
    func invitationOfVolume() throws {
        let secret = SecureRandom.bytes(16)
        try invite(secret)
        try catalog.removeVolume(volume)
        #expect(try !catalog.hasOpenInvitation(now: 10))
        #expect(try redeem(secret, "alpha") == nil)
        #expect(refusal { try invite(SecureRandom.bytes(16)) }.isNotFound)
    }

    @Test("of many that show the same secret at once, exactly one is paired")
    func redeemRace() throws {
        for round in 0..<20 {
            let secret = SecureRandom.bytes(16)
            let volume = try name("round-\(round)")
            try catalog.create(volume)
            try catalog.addInvitation(
                secretHash: SHA256Digest.of(secret), volume: volume, expiresAt: 100, now: 10)
            let handles = try (0..<4).map { _ in
                try StandbyCatalog(directory: scratch.directory())
            }
            let winners = Mutex<[Int]>([])
            let failure = FirstFailure()
            let threads = handles.enumerated().map { index, handle in
                Platform.Thread("redeem") {
                    do {
                        let got = try handle.redeem(
                            secretHash: SHA256Digest.of(secret), peerKey: key("\(round) \(index)"),
                            peerName: "peer \(index)", now: 20)
                        if got != nil { winners.withLock { $0.append(index) } }
                    } catch { failure.record(error) }
                }
            }
            for thread in threads { thread.join() }
            #expect(failure.error == nil)
            let winner = try #require(winners.withLock { $0.count == 1 ? $0.first : nil })
            #expect(try catalog.require(volume).peer == key("\(round) \(winner)"))
        }
        #expect(try catalog.peers().count == 20)
    }

    @Test("no byte of a secret is in any file, and its hash is")
    func secretsAreHashed() throws {
        let (used, open) = (SecureRandom.bytes(16), SecureRandom.bytes(16))
        try invite(used)
        try invite(open)
        #expect(try redeem(used, "alpha") == volume)
        let copy = try copyFiles(of: scratch.directory(), to: scratch.directory("copy"))
        var searched = 0
        for file in copy {
            let content = try Data(contentsOf: URL(fileURLWithPath: file))
            for secret in [used, open] {
                #expect(content.range(of: Data(secret)) == nil)
                for text in [Data(secret).base64EncodedString(), Hex.encode(secret)] {
                    #expect(content.range(of: Data(text.utf8)) == nil)
                }
            }
            searched += content.count
        }
        #expect(searched > 10_000)
        let all = try copy.map { try Data(contentsOf: URL(fileURLWithPath: $0)) }
        #expect(all.contains { $0.range(of: Data(SHA256Digest.of(open).bytes)) != nil })
    }

    // MARK: Events

    @Test("events tell what was done, newest first, and outlive their volume")
    func events() throws {
        let fence = try catalog.takeFence(volume)
        try catalog.commitFull(volume, fence)
        try catalog.removeVolume(volume)
        let events = try catalog.events(volume: volume, limit: 10)
        #expect(
            events.map(\.kind) == [.volumeRemoved, .committed, .applying, .begun, .volumeAdded])
        #expect(events.allSatisfy { $0.time == 5 && $0.volume == volume })
        #expect(events.map(\.number) == events.map(\.number).sorted(by: >))
        #expect(try catalog.events(limit: 2).count == 2)
        #expect(try catalog.events(limit: -1).isEmpty)
    }

}
