// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Digests
import Testing
import Wire

/// Everything one can do to a volume.
private enum Step: CaseIterable, Sendable {
    case beginFull, beginDelta, abandon, apply, prepare, commit, suspect, diverged, promote, reset
}

extension StandbyCatalog {
    fileprivate func take(_ step: Step, _ name: VolumeName, _ fence: UInt64) throws {
        let volume = try require(name)
        switch step {
        case .beginFull:
            try beginTransfer(
                name, fence: fence, StandbyTransfer(begin: full(), logID: .random(), inPlace: true))
        case .beginDelta:
            let parent = volume.committed ?? record(of: full())
            try beginTransfer(
                name, fence: fence,
                StandbyTransfer(begin: delta(onto: parent), logID: .random(), inPlace: false))
        case .abandon: try abandonTransfer(name, fence: fence)
        case .apply:
            try beginApplying(name, fence: fence, record(of: volume.transfer?.begin ?? full()))
        case .prepare:
            _ = try prepare(name, fence: fence, record(of: volume.transfer?.begin ?? full()))
        case .commit: try commit(name, fence: fence, committedAt: 99)
        case .suspect: try markSuspect(name, reason: "again")
        case .diverged: try markDiverged(name, reason: "again")
        case .promote: try promote(name, fence: fence)
        case .reset: try reset(name, fence: fence)
        }
    }
}

/// Where each step leads from each state; what is missing is refused.
private func destination(
    _ state: VolumeState, _ step: Step, isInGroup: Bool
) -> VolumeState? {
    switch (step, state) {
    case (.beginFull, .empty), (.beginFull, .initialising): .initialising
    case (.beginDelta, .consistent), (.beginDelta, .staging): .staging
    case (.abandon, .initialising): .empty
    case (.abandon, .staging), (.abandon, .prepared): .consistent
    case (.apply, .initialising), (.apply, .staging): isInGroup ? nil : .applying
    case (.prepare, .initialising), (.prepare, .staging): isInGroup ? .prepared : nil
    case (.commit, .applying): .consistent
    case (.promote, .consistent), (.promote, .staging): .promoted
    case (.suspect, .promoted), (.diverged, .promoted): .promoted
    case (.suspect, _), (.diverged, .suspect): .suspect
    case (.diverged, _): .diverged
    case (.reset, _): .empty
    default: nil
    }
}

@Suite("Standby transitions") struct StandbyTransitionTests {
    private let scratch: Scratch
    private let catalog: StandbyCatalog
    private let volume: VolumeName

    init() throws {
        scratch = try Scratch()
        catalog = try StandbyCatalog(directory: scratch.directory(), clock: { 5 })
        volume = try name("db")
        try catalog.create(volume)
    }

    @Test("each step leads from each state where it should, or is refused and changes nothing")
    func table() throws {
        var allowed = 0
        var refused = 0
        let sender = key("sender")
        try catalog.addPeer(sender, name: "sender")
        let cases = VolumeState.allCases.flatMap { state in
            Step.allCases.flatMap { step in [(state, step, true), (state, step, false)] }
        }
        for (state, step, isInGroup) in cases {
            do {
                let kind = isInGroup ? "group" : "alone"
                let volume = try name("\(state)-\(step)-\(kind)".lowercased())
                try catalog.create(volume, of: sender)
                let fence = try catalog.takeFence(volume)
                let group = isInGroup ? Group(id: .random(), members: 2) : nil
                try catalog.bring(volume, to: state, fence, group: group)
                let before = try catalog.require(volume)
                #expect(before.state == state)
                let events = try catalog.events(limit: 1)
                let refusal = refusal { try catalog.take(step, volume, fence) }
                let after = try catalog.require(volume)
                if let destination = destination(state, step, isInGroup: isInGroup) {
                    #expect(refusal == nil, "\(state) \(step)")
                    #expect(after.state == destination, "\(state) \(step)")
                    #expect(after.fence == fence)
                    #expect(try catalog.events(volume: volume, limit: 1) != events)
                    allowed += 1
                } else {
                    #expect(refusal.isConflict, "\(state) \(step)")
                    #expect(after == before)
                    #expect(try catalog.events(limit: 1) == events)
                    refused += 1
                }
            }
        }
        #expect(allowed == 78 && refused == 102, "\(allowed) allowed, \(refused) refused")
    }

    @Test("a full generation and a delta go through, and every field is what it should be")
    func wholeLife() throws {
        let fence = try catalog.takeFence(volume)
        let begin = full()
        let transfer = StandbyTransfer(begin: begin, logID: .random(), inPlace: true)
        try catalog.beginTransfer(volume, fence: fence, transfer)
        var found = try catalog.require(volume)
        #expect(found.state == .initialising && found.transfer == transfer)
        #expect(found.transfer?.begin.heldSegments == 0)
        #expect(found.lineage == nil && found.tagKey == nil && found.committed == nil)

        let first = record(of: begin)
        try catalog.beginApplying(volume, fence: fence, first)
        found = try catalog.require(volume)
        #expect(found.applying == first && found.transfer == transfer && found.committed == nil)

        try catalog.commit(volume, fence: fence, committedAt: UInt64.max)
        found = try catalog.require(volume)
        #expect(found.state == .consistent && found.committed == first)
        #expect(found.committed?.id == first.id && found.committedAt == UInt64.max)
        #expect(found.lineage == begin.head.lineage && found.tagKey == begin.tagKey)
        #expect(found.tagAlgorithm == .poly1305)
        #expect(found.transfer == nil && found.applying == nil)

        let next = try catalog.beginDelta(volume, fence)
        #expect(try catalog.require(volume).committed == first)
        let second = record(of: next.begin)
        try catalog.beginApplying(volume, fence: fence, second)
        #expect(try catalog.require(volume).committed == first)
        try catalog.commit(volume, fence: fence, committedAt: 8)
        found = try catalog.require(volume)
        #expect(found.committed == second && found.tagKey == begin.tagKey)
        #expect(found.lineage == begin.head.lineage)

        let kinds = try catalog.events(volume: volume, limit: 100).map(\.kind)
        #expect(
            kinds == [
                .committed, .applying, .begun, .committed, .applying, .begun, .volumeAdded,
            ])
    }

    @Test("a delta that does not follow the committed generation is refused")
    func wrongParent() throws {
        let fence = try catalog.takeFence(volume)
        let first = try catalog.commitFull(volume, fence)
        var wrong = delta(onto: first)
        wrong.head.parent = digest("another")
        var foreign = delta(onto: first)
        foreign.head.lineage = .random()
        for begin in [wrong, foreign] {
            let transfer = StandbyTransfer(begin: begin, logID: .random(), inPlace: false)
            #expect(
                refusal { try catalog.beginTransfer(volume, fence: fence, transfer) }.isConflict)
        }
        let staged = StandbyTransfer(begin: full(), logID: .random(), inPlace: false)
        #expect(refusal { try catalog.beginTransfer(volume, fence: fence, staged) }.isConflict)
        #expect(try catalog.require(volume).state == .consistent)
    }

    @Test("a record that disagrees with the announcement is not applied")
    func wrongRecord() throws {
        let fence = try catalog.takeFence(volume)
        try catalog.commitFull(volume, fence)
        let transfer = try catalog.beginDelta(volume, fence)
        var other = record(of: transfer.begin)
        other.head.volumeSize += 512
        #expect(refusal { try catalog.beginApplying(volume, fence: fence, other) }.isConflict)
        #expect(try catalog.require(volume).state == .staging)
    }

    @Test("an announcement that could not be read back is not stored")
    func unreadable() throws {
        let fence = try catalog.takeFence(volume)
        var begin = full()
        begin.head.number = 0
        let transfer = StandbyTransfer(begin: begin, logID: .random(), inPlace: true)
        #expect(refusal { try catalog.beginTransfer(volume, fence: fence, transfer) }.isConflict)
        #expect(try catalog.require(volume).state == .empty)
    }

    @Test("every fenced transition is refused once another handle took the volume over")
    func fencing() throws {
        let other = try StandbyCatalog(directory: scratch.directory())
        var refused = 0
        let sender = key("sender")
        try catalog.addPeer(sender, name: "sender")
        for step in Step.allCases where step != .suspect && step != .diverged {
            let group = step == .prepare ? Group(id: .random(), members: 9) : nil
            for state in VolumeState.allCases
            where destination(state, step, isInGroup: group != nil) != nil {
                let volume = try name("\(state)-\(step)".lowercased())
                try catalog.create(volume, of: sender)
                let old = try catalog.takeFence(volume)
                try catalog.bring(volume, to: state, old, group: group)
                let new = try other.takeFence(volume)
                #expect(new > old)
                let before = try other.require(volume)
                #expect(refusal { try catalog.take(step, volume, old) } == .fenced)
                #expect(try other.require(volume) == before)
                try other.take(step, volume, new)
                refused += 1
            }
        }
        #expect(refused == 23)
    }

    @Test("a volume made again under an old name has a fence that its old writer does not hold")
    func fenceOfNamesake() throws {
        let old = try catalog.takeFence(volume)
        try catalog.removeVolume(volume)
        #expect(refusal { try catalog.reset(volume, fence: old) }.isNotFound)
        try catalog.create(volume)
        #expect(try catalog.takeFence(volume) > old)
        #expect(refusal { try catalog.reset(volume, fence: old) } == .fenced)
    }

    @Test("suspect needs no fence, keeps its first reason, and drops what was under way")
    func suspect() throws {
        let fence = try catalog.takeFence(volume)
        try catalog.bring(volume, to: .applying, fence)
        let before = try catalog.require(volume)
        try catalog.markSuspect(volume, reason: "first")
        try catalog.markSuspect(volume, reason: "second")
        try catalog.markDiverged(volume, reason: "third")
        var expected = before
        expected.state = .suspect
        expected.suspectReason = "first"
        (expected.transfer, expected.applying) = (nil, nil)
        #expect(try catalog.require(volume) == expected)
        #expect(
            try catalog.events(volume: volume, limit: 3).map(\.text) == [
                "third", "second", "first",
            ])
        try catalog.reset(volume, fence: fence)
        let empty = try catalog.require(volume)
        #expect(empty.state == .empty && empty.committed == nil && empty.tagKey == nil)
        #expect(empty.lineage == nil && empty.transfer == nil && empty.applying == nil)
        #expect(empty.suspectReason == nil && empty.fence == fence)
        #expect(empty.targetPath == before.targetPath)
    }

    @Test("a tag key stands in no description")
    func redaction() throws {
        let fence = try catalog.takeFence(volume)
        try catalog.bring(volume, to: .initialising, fence)
        let transfer = try catalog.require(volume)
        let announced = try #require(transfer.transfer?.begin.tagKey)
        try catalog.beginApplying(
            volume, fence: fence, record(of: try #require(transfer.transfer).begin))
        try catalog.commit(volume, fence: fence, committedAt: 1)
        let committed = try catalog.require(volume)
        #expect(committed.tagKey == announced)
        for value in [transfer, committed] {
            var text = String(describing: value) + String(reflecting: value)
            dump(value, to: &text)
            #expect(text.contains("TagKey(…)"))
            let shown = announced.bytes.prefix(4).map { "\($0)" }
            #expect(!text.contains(shown.joined(separator: ", ")))
            #expect(!text.contains(announced.bytes.map { String($0, radix: 16) }.joined()))
        }
        let events = try catalog.events(limit: 100).map(\.text).joined()
        #expect(!events.contains(announced.bytes.map { String($0, radix: 16) }.joined()))
    }
}
