// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Digests
import Foundation
import Testing
import Wire

/// What an operator renames, moves and removes keeps everything that was known of it.
@Suite("Names and targets") struct NamesAndTargetsTests {
    private let scratch: Scratch

    init() throws { scratch = try Scratch() }

    @Test("a volume that is renamed keeps its state, its invitations and its kept generations")
    func volume() throws {
        let catalog = try StandbyCatalog(directory: scratch.directory(), clock: { 5 })
        let old = try name("old")
        let new = try name("new")
        try catalog.create(old)
        try catalog.create(try name("other"))
        let fence = try catalog.takeFence(old)
        try catalog.commitFull(old, fence)
        try catalog.setRetention(old, Retention(generations: 3))
        let kept = KeptGeneration(
            number: 1, id: SHA256Digest.of([1]), sourceTime: 1, committedAt: 2, snapshot: "vg/s",
            snapshotUUID: "u", thinDevice: 3)
        try catalog.setKept(old, [kept])
        let secret = SHA256Digest.of([7])
        try catalog.addInvitation(secretHash: secret, volume: old, expiresAt: 100, now: 5)
        let before = try catalog.require(old)
        #expect(
            refusal { try catalog.renameVolume(old, fence: fence, to: try name("other")) }
                .isConflict)
        #expect(refusal { try catalog.renameVolume(old, fence: fence + 1, to: new) } == .fenced)
        #expect(try catalog.require(old) == before)
        try catalog.renameVolume(old, fence: fence, to: new)
        var expected = before
        expected.name = new
        #expect(try catalog.require(new) == expected)
        #expect(try catalog.volume(old) == nil)
        #expect(try catalog.retention(new) == Retention(generations: 3))
        #expect(try catalog.kept(new) == [kept])
        let peer = key("source")
        #expect(
            try catalog.redeem(secretHash: secret, peerKey: peer, peerName: "source", now: 6) == new
        )
        // The name is free.
        try catalog.createVolume(old, peer: nil, targetPath: "/srv/x", targetKind: .file) { _ in ""
        }
        #expect(try catalog.events(limit: 100).contains { $0.kind == .volumeRenamed })
    }

    @Test("a new target replaces the old one as a whole, and what refuses it changes nothing")
    func target() throws {
        let catalog = try StandbyCatalog(directory: scratch.directory(), clock: { 5 })
        let volume = try name("db")
        try catalog.create(volume)
        try catalog.create(try name("other"))
        let fence = try catalog.takeFence(volume)
        try catalog.commitFull(volume, fence)
        let before = try catalog.require(volume)
        func set(
            _ path: String, _ state: VolumeState, from former: VolumeState = .consistent,
            claim: () throws -> String = { "id2 file inode=7" }
        ) throws {
            try catalog.setTarget(
                volume, fence: fence,
                StandbyCatalog.NewTarget(
                    path: path, kind: .file, formerState: former, state: state, presence: "p",
                    reason: "not compared")
            ) { others in
                #expect(others.count == 2)
                return try claim()
            }
        }
        struct Refused: Error {}
        #expect(refusal { try set("/dev/vg0/other", .consistent) }.isConflict)
        #expect(throws: CatalogError.self) { try set("/srv/new", .consistent) { throw Refused() } }
        // It was looked at while its group was not complete, say, and is being applied by now.
        #expect(refusal { try set("/srv/new", .diverged, from: .prepared) }.isConflict)
        #expect(try catalog.require(volume) == before)
        try set("/srv/new", .diverged)
        var expected = before
        expected.targetPath = "/srv/new"
        expected.targetKind = .file
        expected.targetIdentity = "id2 file inode=7"
        expected.targetPresence = "p"
        expected.state = .diverged
        expected.suspectReason = "not compared"
        #expect(try catalog.require(volume) == expected)
        try set("/srv/new", .consistent, from: .diverged)
        expected.state = .consistent
        expected.suspectReason = nil
        #expect(try catalog.require(volume) == expected)
    }

    @Test("a standby and a volume that are renamed on the source keep what was sent")
    func source() throws {
        let catalog = try SourceCatalog(directory: scratch.directory(), clock: { 5 })
        let old = try #require(ReceiverName("old"))
        let new = try #require(ReceiverName("new"))
        let volume = try name("db")
        try catalog.addReceiver(old, key: key("standby"), address: "a:1")
        let begin = full()
        try catalog.beginTransfer(
            volume, at: old, SourceTransfer(begin: begin, base: "snap", planName: "plan"))
        let before = try #require(try catalog.replica(volume, at: old))
        try catalog.renameReceiver(old, to: new)
        var expected = before
        expected.receiver = new
        #expect(try catalog.replica(volume, at: new) == expected)
        #expect(try catalog.replica(volume, at: old) == nil)
        #expect(refusal { try catalog.renameReceiver(old, to: new) }.isNotFound)
        try catalog.addReceiver(old, key: key("another"), address: "b:1")
        #expect(refusal { try catalog.renameReceiver(old, to: new) }.isConflict)
        try catalog.setAddress(new, "c:2")
        #expect(try catalog.receiver(new)?.address == "c:2")
        #expect(try catalog.receiver(old)?.address == "b:1")
        let other = try name("mail")
        try catalog.renameReplica(volume, to: other, at: new)
        expected.volume = other
        #expect(try catalog.replica(other, at: new) == expected)
        #expect(refusal { try catalog.renameReplica(volume, to: other, at: new) }.isNotFound)
    }
}
