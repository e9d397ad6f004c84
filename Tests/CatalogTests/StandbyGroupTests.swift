// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Catalog
import Digests
import Foundation
import Synchronization
import TestSupport
import Testing
import Wire

@Suite("Groups on the standby") struct StandbyGroupTests {
    private let scratch: Scratch
    private let catalog: StandbyCatalog
    private let sender = key("sender")

    init() throws {
        scratch = try Scratch()
        catalog = try StandbyCatalog(directory: scratch.directory(), clock: { 5 })
        try catalog.addPeer(sender, name: "sender")
        try catalog.addPeer(key("other"), name: "other")
    }

    /// A volume with a member's transfer that is ready to be prepared.
    private struct Member {
        let name: VolumeName
        let fence: UInt64
        let record: GenerationRecord
    }

    private func member(
        _ text: String, _ group: Group?, isFull: Bool = false, peer: KeyID? = nil
    ) throws -> Member {
        let volume = try name(text)
        try catalog.create(volume, of: peer ?? sender)
        let fence = try catalog.takeFence(volume)
        try catalog.bring(volume, to: isFull ? .initialising : .staging, fence, group: group)
        let transfer = try #require(try catalog.require(volume).transfer)
        return Member(name: volume, fence: fence, record: record(of: transfer.begin))
    }

    private func prepare(
        _ member: Member, in other: StandbyCatalog? = nil
    ) throws -> StandbyCatalog.Preparation {
        try (other ?? catalog).prepare(member.name, fence: member.fence, member.record)
    }

    private func states(_ members: [Member]) throws -> [VolumeState] {
        try members.map { try catalog.require($0.name).state }
    }

    @Test("the last member takes all others along, and each is then committed on its own")
    func wholeLife() throws {
        for count in [2, 3, 5] {
            let group = Group(id: .random(), members: UInt32(count))
            // A first full copy may be a member as well.
            let members = try (0..<count).map {
                try member("m\(count)-\($0)", group, isFull: $0 == 1)
            }
            let before = try members.map { try catalog.require($0.name).committed }
            for (index, member) in members.dropLast().enumerated() {
                #expect(try prepare(member) == .waiting(prepared: index + 1))
                let volume = try catalog.require(member.name)
                #expect(volume.state == .prepared && volume.applying == member.record)
                #expect(volume.committed == before[index] && volume.group == group)
                #expect(volume.fence == member.fence)
            }
            #expect(
                try states(members)
                    == Array(repeating: .prepared, count: count - 1)
                    + [count == 2 ? .initialising : .staging])
            let last = try #require(members.last)
            #expect(try prepare(last) == .complete(members.map(\.name)))
            #expect(try states(members) == Array(repeating: .applying, count: count))
            for (index, member) in members.enumerated().reversed() {
                #expect(try catalog.require(member.name).committed == before[index])
                try catalog.commit(member.name, fence: member.fence, committedAt: 9)
                let volume = try catalog.require(member.name)
                #expect(volume.state == .consistent && volume.committed == member.record)
                #expect(volume.transfer == nil && volume.applying == nil && volume.tagKey != nil)
                let kinds = try catalog.events(volume: member.name, limit: 4).map(\.kind)
                #expect(kinds == [.committed, .applying, .prepared, .begun])
            }
        }
    }

    @Test("members of another peer, of another group or of none do not complete a group")
    func strangers() throws {
        let group = Group(id: .random(), members: 2)
        let mine = try member("mine", group)
        #expect(try prepare(mine) == .waiting(prepared: 1))
        let foreign = try member("foreign", group, peer: key("other"))
        #expect(try prepare(foreign) == .waiting(prepared: 1))
        let elsewhere = try member("elsewhere", Group(id: .random(), members: 2))
        #expect(try prepare(elsewhere) == .waiting(prepared: 1))
        let alone = try member("alone", nil)
        #expect(refusal { try prepare(alone) }.isConflict)
        let nobody = try member("nobody", group)
        try catalog.removePeer(key("other"))
        #expect(try catalog.require(foreign.name).state == .prepared)
        #expect(
            try states([mine, foreign, elsewhere, alone, nobody])
                == [.prepared, .prepared, .prepared, .staging, .staging])
        #expect(try prepare(nobody) == .complete([mine.name, nobody.name]))
        #expect(
            try states([mine, foreign, elsewhere]) == [.applying, .prepared, .prepared])
    }

    @Test("a volume without a peer is prepared in no group")
    func noPeer() throws {
        let member = try member("m", Group(id: .random(), members: 2), peer: key("other"))
        try catalog.removePeer(key("other"))
        let fence = try catalog.takeFence(member.name)
        #expect(
            refusal { try catalog.prepare(member.name, fence: fence, member.record) }.isConflict)
        #expect(try states([member]) == [.staging])
    }

    @Test("members that disagree about the size of their group are refused, and change nothing")
    func mismatch() throws {
        let id = GroupID.random()
        let first = try member("first", Group(id: id, members: 3))
        let second = try member("second", Group(id: id, members: 2))
        #expect(try prepare(first) == .waiting(prepared: 1))
        let before = try catalog.require(second.name)
        let events = try catalog.events(limit: 1)
        #expect(refusal { try prepare(second) } == .groupMismatch)
        #expect(try catalog.require(second.name) == before)
        #expect(try catalog.events(limit: 1) == events)
        #expect(try states([first, second]) == [.prepared, .staging])
    }

    @Test("a record of another generation, or an old writer, prepares nothing")
    func wrongRecord() throws {
        let group = Group(id: .random(), members: 2)
        let first = try member("first", group)
        let second = try member("second", group)
        var other = second.record
        other.head.volumeSize += 512
        #expect(try prepare(first) == .waiting(prepared: 1))
        #expect(
            refusal { try catalog.prepare(second.name, fence: second.fence, other) }.isConflict)
        let fence = try catalog.takeFence(second.name)
        #expect(refusal { try prepare(second) } == .fenced)
        #expect(try states([first, second]) == [.prepared, .staging])
        #expect(
            try catalog.prepare(second.name, fence: fence, second.record)
                == .complete([first.name, second.name]))
    }

    @Test(
        "a member that was dropped keeps its group from becoming complete; afterwards none can be")
    func dropped() throws {
        let drops: [(String, VolumeState, (Member) throws -> Void)] = [
            ("abandon", .consistent, { try catalog.abandonTransfer($0.name, fence: $0.fence) }),
            ("reset", .empty, { try catalog.reset($0.name, fence: $0.fence) }),
            ("suspect", .suspect, { try catalog.markSuspect($0.name, reason: "EIO") }),
            ("diverged", .diverged, { try catalog.markDiverged($0.name, reason: "written") }),
        ]
        for (text, state, drop) in drops {
            let group = Group(id: .random(), members: 2)
            let first = try member("\(text)-1", group)
            let second = try member("\(text)-2", group)
            let committed = try catalog.require(first.name).committed
            #expect(try prepare(first) == .waiting(prepared: 1))
            try drop(first)
            #expect(try states([first]) == [state])
            if state == .consistent {
                let volume = try catalog.require(first.name)
                #expect(volume.committed == committed && volume.transfer == nil)
                #expect(volume.applying == nil)
            }
            #expect(try prepare(second) == .waiting(prepared: 1))
            #expect(try states([first, second]) == [state, .prepared])
        }
        let group = Group(id: .random(), members: 2)
        let first = try member("first", group, isFull: true)
        let second = try member("second", group)
        #expect(try prepare(first) == .waiting(prepared: 1))
        try catalog.abandonTransfer(first.name, fence: first.fence)
        #expect(try states([first]) == [.empty])
        try catalog.bring(first.name, to: .initialising, first.fence, group: group)
        let again = try #require(try catalog.require(first.name).transfer)
        #expect(try prepare(second) == .waiting(prepared: 1))
        let complete = try catalog.prepare(
            first.name, fence: first.fence, record(of: again.begin))
        #expect(complete == .complete([first.name, second.name]))
        for member in [first, second] {
            #expect(
                refusal { try catalog.abandonTransfer(member.name, fence: member.fence) }
                    .isConflict)
            #expect(refusal { try catalog.promote(member.name, fence: member.fence) }.isConflict)
        }
    }

    @Test("the last two members prepared at once by two writers: exactly one completes the group")
    func atOnce() throws {
        let other = try StandbyCatalog(directory: scratch.directory())
        for round in 0..<40 {
            let group = Group(id: .random(), members: 3)
            let members = try (0..<3).map { try member("r\(round)-\($0)", group) }
            #expect(try prepare(members[0]) == .waiting(prepared: 1))
            let found = Mutex<[StandbyCatalog.Preparation]>([])
            DispatchQueue.concurrentPerform(iterations: 2) { index in
                let result = Result {
                    try prepare(members[1 + index], in: index == 0 ? catalog : other)
                }
                switch result {
                case .success(let preparation): found.withLock { $0.append(preparation) }
                case .failure(let error): Issue.record(error)
                }
            }
            let results = found.withLock { $0 }
            #expect(results.contains(.waiting(prepared: 2)) && results.count == 2)
            #expect(results.contains(.complete(members.map(\.name))))
            #expect(try states(members) == [.applying, .applying, .applying])
        }
    }

    @Test("whatever is done in whatever order, a group is applied as a whole or not at all")
    func randomHistories() throws {
        var numbers = SeededNumbers(seed: 20)
        let volumes = try (0..<4).map { try name("v\($0)") }
        for volume in volumes { try catalog.create(volume, of: sender) }
        var current = Group(id: .random(), members: 2)
        var completed = 0
        var dropped = 0
        for _ in 0..<1200 {
            let before = try volumes.map { try catalog.require($0) }
            let index = Int(numbers.next() % 4)
            let volume = before[index]
            let fence = try catalog.takeFence(volume.name)
            let transfer = volume.transfer
            var preparation: StandbyCatalog.Preparation?
            do {
                switch numbers.next() % 16 {
                case 0 where numbers.next() % 3 == 0:
                    current = Group(id: .random(), members: UInt32(2 + numbers.next() % 3))
                case 1: try catalog.abandonTransfer(volume.name, fence: fence)
                case 2 where numbers.next() % 4 == 0: try catalog.reset(volume.name, fence: fence)
                case 3 where numbers.next() % 8 == 0:
                    try catalog.markSuspect(volume.name, reason: "EIO")
                case 4..<9:
                    let begin =
                        volume.committed.map { delta(onto: $0, group: current) }
                        ?? full(group: current)
                    try catalog.beginTransfer(
                        volume.name, fence: fence,
                        StandbyTransfer(
                            begin: begin, logID: .random(), inPlace: begin.head.kind == .full))
                case 9..<14:
                    preparation = try catalog.prepare(
                        volume.name, fence: fence, record(of: transfer?.begin ?? full()))
                default: try catalog.commit(volume.name, fence: fence, committedAt: 1)
                }
            } catch {
                guard error.kind == .groupMismatch || Optional(error.kind).isConflict else {
                    throw error
                }
            }
            let after = try volumes.map { try catalog.require($0) }
            let applied = zip(before, after).filter {
                $0.state != .applying && $1.state == .applying
            }
            .map(\.1)
            if let group = applied.first?.group {
                completed += 1
                // All of them at once, all of one group, as many as it has.
                #expect(applied.allSatisfy { $0.group == group })
                #expect(applied.count == Int(group.members))
                #expect(preparation == .complete(applied.map(\.name)))
                #expect(after.allSatisfy { $0.group != group || $0.state != .prepared })
            } else {
                #expect(applied.isEmpty)
            }
            // What is being applied is never dropped but by an operator or an error.
            for (old, new) in zip(before, after) where old.state == .applying {
                #expect(
                    [.applying, .suspect, .empty].contains(new.state)
                        || new.committed == old.applying)
            }
            if before[index].state == .prepared, [.consistent, .empty].contains(after[index].state)
            {
                dropped += 1
            }
            if after[index].state == .suspect, numbers.next() % 4 == 0 {
                try catalog.reset(volume.name, fence: fence)
            }
        }
        #expect(completed >= 20 && dropped >= 30, "\(completed) complete, \(dropped) dropped")
    }
}
