// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Foundation
import GRDB
import Testing
import Wire

@Suite struct NewsTests {
    private let scratch: Scratch
    private let catalog: StandbyCatalog
    private let volume: VolumeName
    private let fence: UInt64

    init() throws {
        scratch = try Scratch()
        catalog = try StandbyCatalog(directory: scratch.directory(), clock: { 500 })
        volume = try name("vol")
        try catalog.create(volume)
        fence = try catalog.takeFence(volume)
    }

    @Test("a copy is confirmed as current only where it is whole, until the next generation")
    func confirmed() throws {
        // A volume of nobody can be in no group.
        try catalog.addPeer(key("peer"), name: "peer")
        for state in VolumeState.allCases {
            let other = try name("v\(state)")
            try catalog.create(other, of: key("peer"))
            let fence = try catalog.takeFence(other)
            try catalog.bring(other, to: state, fence)
            let isWhole = [.consistent, .staging].contains(state)
            let refused = refusal { try catalog.noteConfirmed(other, fence: fence) }
            #expect(isWhole ? refused == nil : refused.isConflict, "\(state)")
            #expect(try catalog.require(other).confirmedAt == (isWhole ? 500 : nil))
            #expect(try catalog.require(other).state == state)
        }
        let other = try name("vconsistent")
        #expect(refusal { try catalog.noteConfirmed(other, fence: fence) } == .fenced)
        let own = try catalog.takeFence(other)
        let transfer = try catalog.beginDelta(other, own)
        #expect(try catalog.require(other).confirmedAt == 500)
        try catalog.beginApplying(other, fence: own, record(of: transfer.begin))
        try catalog.commit(other, fence: own, committedAt: 900)
        #expect(try catalog.require(other).confirmedAt == nil)
    }

    @Test("the last refusal stays until something succeeds")
    func refused() throws {
        try catalog.commitFull(volume, fence)
        for text in ["first", "second"] {
            try catalog.noteRefusal(volume, rule: "missing", text)
            #expect(
                try catalog.require(volume).refusal
                    == Refused(time: 500, rule: "missing", text: text))
        }
        try catalog.noteConfirmed(volume, fence: fence)
        #expect(try catalog.require(volume).refusal == nil)
        try catalog.noteRefusal(volume, rule: "missing", "third")
        let transfer = try catalog.beginDelta(volume, fence)
        try catalog.beginApplying(volume, fence: fence, record(of: transfer.begin))
        #expect(try catalog.require(volume).refusal?.text == "third")
        try catalog.commit(volume, fence: fence, committedAt: 900)
        #expect(try catalog.require(volume).refusal == nil)
    }

    @Test(
        "each event is told once, also by another process, and those from before the journal never")
    func told() throws {
        let first = try catalog.untoldEvents()
        #expect(first.map(\.kind) == [.volumeAdded])
        try catalog.setTold(try #require(first.last).number)
        #expect(try catalog.untoldEvents().isEmpty)
        try catalog.noteScrubbed(volume, "clean")
        let again = try StandbyCatalog(directory: scratch.directory())
        #expect(try again.untoldEvents().map(\.text) == ["clean"])
        // A process that is behind takes nothing back.
        try again.setTold(99)
        try again.setTold(1)
        #expect(try again.untoldEvents().isEmpty)
        try DatabaseQueue(path: scratch.directory() + "/catalog.sqlite").write { db in
            try db.execute(sql: "DROP TABLE journal")
            for column in ["confirmed_at", "refused_at", "refused_rule", "refused_text"] {
                try db.execute(sql: "ALTER TABLE volume DROP COLUMN \(column)")
            }
            try db.execute(
                sql: "DELETE FROM grdb_migrations WHERE identifier = 'standby-journal'")
        }
        let migrated = try StandbyCatalog(directory: scratch.directory())
        #expect(try migrated.untoldEvents().isEmpty)
        try migrated.noteScrubbed(volume, "after")
        #expect(try migrated.untoldEvents().map(\.text) == ["after"])
    }

    @Test("a source keeps why the last command failed, also before there is anything of the volume")
    func failures() throws {
        let source = try SourceCatalog(directory: scratch.directory("source"))
        let receiver = try #require(ReceiverName("standby"))
        try source.addReceiver(receiver, key: key("r"), address: "a:1")
        for text in ["first", "second"] {
            try source.noteFailure(
                volume, at: receiver, SourceFailure(time: 5, rule: "missing", text: text))
            let found = try source.failures()
            #expect(found.count == 1 && found.first?.volume == volume)
            #expect(found.first?.failure.text == text && found.first?.receiver == receiver)
        }
        try source.noteFailure(volume, at: receiver, nil)
        #expect(try source.failures().isEmpty)
    }
}
