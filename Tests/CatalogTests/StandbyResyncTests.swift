// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Digests
import Testing
import Wire

/// Where a volume stands before a step.
private enum Start: Hashable, Sendable, CustomStringConvertible {
    case plain(VolumeState)
    /// A resync is staged, in one of the states that it does not touch before it is applied.
    case untouched(VolumeState, isFollowing: Bool)
    /// A resync is staged onto a consistent volume, or goes in place.
    case staged
    case inPlace

    static let all: [Start] =
        VolumeState.allCases.map { .plain($0) }
        + [VolumeState.promoted, .diverged, .suspect].flatMap { state in
            [true, false].map { .untouched(state, isFollowing: $0) }
        } + [.staged, .inPlace]

    var state: VolumeState {
        switch self {
        case .plain(let state), .untouched(let state, _): state
        case .staged: .staging
        case .inPlace: .initialising
        }
    }

    var isUntouched: Bool { if case .untouched = self { true } else { false } }

    var description: String {
        switch self {
        case .plain(let state): "\(state)"
        case .untouched(let state, let isFollowing): "\(state)-resync-\(isFollowing ? 1 : 0)"
        case .staged: "staging-resync"
        case .inPlace: "initialising-resync"
        }
    }
}

private enum Step: CaseIterable, Sendable {
    case stageFollowing, stageBeginning, beginInPlace, followInPlace
    case beginFull, beginDelta, abandon, apply, commit, suspect, diverged, promote, reset
}

/// Where each step leads; what is missing is refused.
private func destination(_ start: Start, _ step: Step) -> VolumeState? {
    switch (step, start.state) {
    case (.suspect, .promoted), (.diverged, .promoted): .promoted
    case (.suspect, _), (.diverged, .suspect): .suspect
    case (.diverged, _): .diverged
    case (.reset, _): .empty
    case (.followInPlace, _): nil
    case (.stageFollowing, .consistent), (.stageFollowing, .staging): .staging
    case (.stageBeginning, .consistent), (.stageBeginning, .staging): .staging
    case (.stageFollowing, let state), (.stageBeginning, let state):
        [.promoted, .diverged, .suspect].contains(state) ? state : nil
    case (.beginInPlace, .applying), (.beginInPlace, .prepared): nil
    case (.beginInPlace, _): .initialising
    case (.beginFull, .empty), (.beginFull, .initialising): .initialising
    case (.beginDelta, .consistent), (.beginDelta, .staging): .staging
    case (.abandon, .initialising): .empty
    case (.abandon, .staging), (.abandon, .prepared): .consistent
    case (.abandon, let state): start.isUntouched ? state : nil
    case (.apply, .initialising), (.apply, .staging): .applying
    case (.apply, _): start.isUntouched ? .applying : nil
    case (.commit, .applying): .consistent
    case (.promote, .consistent), (.promote, .staging): .promoted
    default: nil
    }
}

@Suite("Resync at the standby") struct StandbyResyncTests {
    private let scratch: Scratch
    private let catalog: StandbyCatalog
    private let sender = key("sender")

    init() throws {
        scratch = try Scratch()
        catalog = try StandbyCatalog(directory: scratch.directory(), clock: { 5 })
        try catalog.addPeer(sender, name: "sender")
    }

    private func create(_ text: String) throws -> (VolumeName, UInt64) {
        let volume = try name(text.lowercased())
        try catalog.create(volume, of: sender)
        return (volume, try catalog.takeFence(volume))
    }

    @discardableResult
    private func begin(
        _ volume: VolumeName, _ fence: UInt64, _ begin: Begin, inPlace: Bool = false
    ) throws -> StandbyTransfer {
        let transfer = StandbyTransfer(begin: begin, logID: .random(), inPlace: inPlace)
        try catalog.beginTransfer(volume, fence: fence, transfer)
        return transfer
    }

    private func bring(_ volume: VolumeName, to start: Start, _ fence: UInt64) throws {
        switch start {
        case .plain(let state):
            try catalog.bring(volume, to: state, fence)
            // Its operator has let a resync overwrite it.
            if state == .promoted { try catalog.demote(volume, fence: fence) }
        case .untouched(let state, let isFollowing):
            try bring(volume, to: .plain(state), fence)
            let parent = try catalog.require(volume).committed
            try begin(volume, fence, resync(onto: isFollowing ? parent : nil))
        case .staged:
            let parent = try catalog.commitFull(volume, fence)
            try begin(volume, fence, resync(onto: parent))
        case .inPlace:
            try catalog.commitFull(volume, fence)
            try begin(volume, fence, resync(onto: nil, inPlace: true), inPlace: true)
        }
    }

    private func take(_ step: Step, _ volume: VolumeName, _ fence: UInt64) throws {
        let found = try catalog.require(volume)
        let parent = found.committed ?? record(of: full())
        switch step {
        case .stageFollowing: try begin(volume, fence, resync(onto: parent))
        case .stageBeginning: try begin(volume, fence, resync(onto: nil))
        case .beginInPlace:
            try begin(volume, fence, resync(onto: nil, inPlace: true), inPlace: true)
        case .followInPlace: try begin(volume, fence, resync(onto: parent), inPlace: true)
        case .beginFull: try begin(volume, fence, full(), inPlace: true)
        case .beginDelta: try begin(volume, fence, delta(onto: parent))
        case .abandon: try catalog.abandonTransfer(volume, fence: fence)
        case .apply:
            let begin = found.transfer?.begin ?? full()
            try catalog.beginApplying(volume, fence: fence, record(of: begin))
        case .commit: try catalog.commit(volume, fence: fence, committedAt: 99)
        case .suspect: try catalog.markSuspect(volume, reason: "again")
        case .diverged: try catalog.markDiverged(volume, reason: "again")
        case .promote: try catalog.promote(volume, fence: fence)
        case .reset: try catalog.reset(volume, fence: fence)
        }
    }

    @Test("each step leads from each state where it should, or is refused and changes nothing")
    func table() throws {
        var (allowed, refused) = (0, 0)
        for start in Start.all {
            for step in Step.allCases {
                let (volume, fence) = try create("\(start)-\(step)")
                try bring(volume, to: start, fence)
                let before = try catalog.require(volume)
                #expect(before.state == start.state)
                #expect(before.hasUntouchedTransfer == start.isUntouched)
                let events = try catalog.events(limit: 1)
                let refusal = refusal { try take(step, volume, fence) }
                let after = try catalog.require(volume)
                guard let destination = destination(start, step) else {
                    #expect(refusal.isConflict, "\(start) \(step)")
                    #expect(after == before, "\(start) \(step)")
                    #expect(try catalog.events(limit: 1) == events)
                    refused += 1
                    continue
                }
                #expect(refusal == nil, "\(start) \(step)")
                #expect(after.state == destination, "\(start) \(step)")
                #expect(try catalog.events(volume: volume, limit: 1) != events)
                check(step, before, after)
                allowed += 1
            }
        }
        print("resync at the standby: \(allowed) allowed, \(refused) refused")
        #expect(allowed + refused == 17 * 13)
        #expect(allowed == 121 && refused == 100)
    }

    /// What a step changes beside the state, and what it does not.
    private func check(_ step: Step, _ before: StandbyVolume, _ after: StandbyVolume) {
        var expected = before
        expected.state = after.state
        switch step {
        case .stageFollowing, .stageBeginning, .beginFull, .beginDelta:
            #expect(after.transfer != nil && after.transfer != before.transfer)
            expected.mayOverwrite = after.transfer?.inPlace == true || before.mayOverwrite
            expected.transfer = after.transfer
            // What was applied or prepared before the volume became suspect counts no more.
            expected.applying = nil
        case .beginInPlace:
            #expect(after.transfer?.inPlace == true && after.transfer?.begin.inPlace == true)
            expected.transfer = after.transfer
            expected.mayOverwrite = true
            expected.applying = nil
            expected.committed = nil
            expected.committedAt = nil
            expected.lineage = nil
            expected.suspectReason = nil
            expected.isDemoted = false
        case .abandon:
            expected.transfer = nil
            expected.applying = nil
        case .apply:
            expected.applying = after.applying
            expected.suspectReason = nil
        default: return
        }
        #expect(after == expected, "\(step)")
    }

    @Test("what was not to be trusted is, once the resync is applied, and stays so until then")
    func wholeLife() throws {
        var count = 0
        for state in [VolumeState.consistent, .staging, .promoted, .diverged, .suspect] {
            for isFollowing in [true, false] {
                let (volume, fence) = try create("\(state)-\(isFollowing)")
                try bring(volume, to: .plain(state), fence)
                let before = try catalog.require(volume)
                let parent = try #require(before.committed)
                let begin = resync(onto: isFollowing ? parent : nil)
                let transfer = try self.begin(volume, fence, begin)
                #expect(transfer.begin.comparedRoot == digest("map"))
                let next = record(of: begin)

                // A killed daemon finds each of the steps again.
                func reopened() throws -> StandbyVolume {
                    try StandbyCatalog(directory: scratch.directory()).require(volume)
                }
                var expected = before
                expected.state = state == .consistent ? .staging : state
                expected.transfer = transfer
                #expect(try reopened() == expected)
                try catalog.beginApplying(volume, fence: fence, next)
                expected.state = .applying
                expected.applying = next
                expected.suspectReason = nil
                #expect(try reopened() == expected)
                try catalog.commit(volume, fence: fence, committedAt: 123)
                expected.state = .consistent
                expected.applying = nil
                expected.transfer = nil
                expected.isDemoted = false
                expected.committed = next
                expected.committedAt = 123
                expected.lineage = begin.head.lineage
                expected.tagKey = begin.tagKey ?? before.tagKey
                #expect(try reopened() == expected)
                #expect((expected.tagKey == before.tagKey) == isFollowing)

                // Deltas go on from there.
                try catalog.beginDelta(volume, fence)
                #expect(try reopened().state == .staging)
                count += 1
            }
        }
        #expect(count == 10)
    }

    @Test("a promoted copy is overwritten by one resync, and only where its operator has said so")
    func demotion() throws {
        var count = 0
        for inPlace in [false, true] {
            let (volume, fence) = try create("\(inPlace)")
            let first = try catalog.commitFull(volume, fence)
            #expect(refusal { try catalog.demote(volume, fence: fence) }.isConflict)
            func promoteAndTry() throws {
                try catalog.promote(volume, fence: fence)
                let before = try catalog.require(volume)
                let begin = resync(onto: inPlace ? nil : before.committed, inPlace: inPlace)
                #expect(
                    refusal { try self.begin(volume, fence, begin, inPlace: inPlace) }.isConflict)
                #expect(try catalog.require(volume) == before)
                try catalog.demote(volume, fence: fence)
                #expect(
                    try StandbyCatalog(directory: scratch.directory()).require(volume).isDemoted)
                try self.begin(volume, fence, begin, inPlace: inPlace)
                try catalog.beginApplying(volume, fence: fence, record(of: begin))
                try catalog.commit(volume, fence: fence, committedAt: 9)
                #expect(try !catalog.require(volume).isDemoted)
                count += 1
            }
            try promoteAndTry()
            #expect(try catalog.require(volume).committed != first)
            // The word was for that one.
            try promoteAndTry()
        }
        #expect(count == 4)
    }

    @Test("in place, a resync gives up what was there before the first byte of it changes")
    func inPlace() throws {
        var count = 0
        for state in VolumeState.allCases where state != .applying && state != .prepared {
            let (volume, fence) = try create("\(state)")
            try bring(volume, to: .plain(state), fence)
            let begin = resync(onto: nil, inPlace: true)
            let transfer = try self.begin(volume, fence, begin, inPlace: true)
            let found = try StandbyCatalog(directory: scratch.directory()).require(volume)
            #expect(found.state == .initialising && found.transfer == transfer)
            #expect(found.committed == nil && found.lineage == nil && found.suspectReason == nil)
            try catalog.beginApplying(volume, fence: fence, record(of: begin))
            try catalog.commit(volume, fence: fence, committedAt: 9)
            let after = try catalog.require(volume)
            #expect(after.state == .consistent && after.committed == record(of: begin))
            #expect(after.tagKey == begin.tagKey && after.lineage == begin.head.lineage)
            count += 1
        }
        #expect(count == VolumeState.allCases.count - 2)
    }

    @Test("a resync of another lineage or onto another generation is refused, whatever the state")
    func wrongParent() throws {
        var refused = 0
        for state in [VolumeState.consistent, .staging, .promoted, .diverged, .suspect] {
            let (volume, fence) = try create("\(state)")
            try bring(volume, to: .plain(state), fence)
            let before = try catalog.require(volume)
            let parent = try #require(before.committed)
            var wrong = resync(onto: parent)
            wrong.head.parent = digest("another")
            var foreign = resync(onto: parent)
            foreign.head.lineage = .random()
            for begin in [wrong, foreign] {
                #expect(refusal { try self.begin(volume, fence, begin) }.isConflict)
                refused += 1
            }
            // And one without the root that it was compared with could not be read back.
            var rootless = resync(onto: parent)
            rootless.comparedRoot = nil
            #expect(refusal { try self.begin(volume, fence, rootless) }.isConflict)
            #expect(try catalog.require(volume) == before)
            refused += 1
        }
        #expect(refused == 15)
    }

    @Test("what was being applied when a volume became suspect or diverged counts no more")
    func staleApplying() throws {
        var count = 0
        for state in [VolumeState.applying, .prepared] {
            for inPlace in [false, true] {
                let (volume, fence) = try create("\(state)-\(inPlace)")
                try bring(volume, to: .plain(state), fence)
                try catalog.markSuspect(volume, reason: "pwrite: EIO")
                let suspect = try catalog.require(volume)
                #expect(suspect.applying == nil && suspect.transfer == nil)
                let parent = try catalog.require(volume).committed
                let begin = resync(onto: inPlace ? nil : parent, inPlace: inPlace)
                let transfer = try self.begin(volume, fence, begin, inPlace: inPlace)
                let found = try catalog.require(volume)
                #expect(found.applying == nil && found.transfer == transfer)
                #expect(found.state == (inPlace ? .initialising : .suspect))
                count += 1
            }
        }
        #expect(count == 4)
    }

    @Test("a resync may be a member of a group where the volume is consistent, and nowhere else")
    func groups() throws {
        let group = Group(id: .random(), members: 2)
        let (first, firstFence) = try create("first")
        try catalog.bring(first, to: .staging, firstFence, group: group)
        let delta = try #require(try catalog.require(first).transfer).begin
        #expect(
            try catalog.prepare(first, fence: firstFence, record(of: delta))
                == .waiting(prepared: 1))
        for state in [VolumeState.promoted, .diverged, .suspect] {
            let (volume, fence) = try create("\(state)")
            try bring(volume, to: .plain(state), fence)
            let begin = resync(onto: try catalog.require(volume).committed, group: group)
            try self.begin(volume, fence, begin)
            let before = try catalog.require(volume)
            #expect(
                refusal { try catalog.prepare(volume, fence: fence, record(of: begin)) }.isConflict)
            #expect(
                refusal { try catalog.beginApplying(volume, fence: fence, record(of: begin)) }
                    .isConflict)
            #expect(try catalog.require(volume) == before)
        }
        let (last, lastFence) = try create("last")
        let parent = try catalog.commitFull(last, lastFence)
        let begin = resync(onto: parent, group: group)
        try self.begin(last, lastFence, begin)
        #expect(
            try catalog.prepare(last, fence: lastFence, record(of: begin))
                == .complete([first, last]))
        for (volume, fence) in [(first, firstFence), (last, lastFence)] {
            #expect(try catalog.require(volume).state == .applying)
            try catalog.commit(volume, fence: fence, committedAt: 1)
        }
        #expect(try catalog.require(last).committed == record(of: begin))
    }

    @Test("who was replaced begins, applies and abandons no resync any more")
    func fencing() throws {
        let other = try StandbyCatalog(directory: scratch.directory())
        var refused = 0
        for start in Start.all where start.isUntouched {
            for step in [Step.stageFollowing, .stageBeginning, .beginInPlace, .abandon, .apply] {
                let (volume, old) = try create("\(start)-\(step)")
                try bring(volume, to: start, old)
                let new = try other.takeFence(volume)
                let before = try other.require(volume)
                #expect(refusal { try take(step, volume, old) } == .fenced)
                #expect(try other.require(volume) == before)
                try take(step, volume, new)
                refused += 1
            }
        }
        #expect(refused == 6 * 5)
    }
}
