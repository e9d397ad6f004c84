// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import Session
import Testing
import Wire

let lineage = LineageID.random()
let otherLineage = LineageID.random()
let mine = TransferID.random()
let theirs = TransferID.random()
let first = point(1)
let second = point(2)
let third = point(3)

func point(_ number: UInt64) -> Lineage.GenerationPoint {
    Lineage.GenerationPoint(number: number, id: SHA256Digest.of([UInt8(number)]))
}

func standby(
    _ state: VolumeState, _ committed: Lineage.GenerationPoint? = nil,
    lineage held: LineageID = lineage, transfer: TransferID = .none,
    kind: TargetKind = .file, size: UInt64 = 1 << 20
) -> StandbyState {
    StandbyState(
        state: state, targetKind: kind, targetSize: size,
        lineage: committed == nil ? .none : held, committedNumber: committed?.number ?? 0,
        committedID: committed?.id ?? .zero, transfer: transfer, durableSegments: 0)
}

/// The states in which a volume takes nothing, with their rules.
let closed: [VolumeState: Lineage.Rule] = [
    .promoted: .promoted, .diverged: .diverged, .suspect: .suspect,
]

/// The states in which a volume admits no transfer, with their rules.
private let refusing = closed.merging([.prepared: .prepared]) { rule, _ in rule }

@Suite("What a sender decides") struct DecisionTests {
    /// Every state with everything that either side may remember.
    private func forEachCase(
        _ body: (Lineage.SourceMemory, StandbyState) throws -> Void
    ) rethrows -> Int {
        let points: [Lineage.GenerationPoint?] = [nil, first, second, third]
        var count = 0
        for state in VolumeState.allCases {
            for known in [nil, lineage, otherLineage] {
                for committed in points {
                    for pending in points {
                        for transfer in [nil, mine] {
                            let memory = Lineage.SourceMemory(
                                lineage: known, committed: committed, pending: pending,
                                transfer: transfer)
                            for held in points {
                                for unfinished in [TransferID.none, mine, theirs] {
                                    try body(
                                        memory, standby(state, held, transfer: unfinished))
                                    count += 1
                                }
                            }
                        }
                    }
                }
            }
        }
        return count
    }

    @Test("nothing is sent but onto what both sides know, whatever they remember")
    func exhaustive() {
        var decisions: [String: Int] = [:]
        let count = forEachCase { memory, standby in
            let there =
                standby.committedID == .zero
                ? nil
                : Lineage.GenerationPoint(
                    number: standby.committedNumber, id: standby.committedID)
            let isOurs = memory.transfer != nil && memory.transfer == standby.transfer
            let decision = Lineage.decide(memory, standby)
            switch decision {
            case .pendingIsCommitted:
                decisions["pending", default: 0] += 1
                #expect(there != nil && there == memory.pending)
                #expect(memory.lineage == standby.lineage)
            case .full(let resume):
                decisions["full", default: 0] += 1
                #expect(there == nil && memory.committed == nil && resume == isOurs)
                #expect(standby.state != .prepared)
            case .delta(let onto, let resume):
                decisions["delta", default: 0] += 1
                #expect(there == onto && memory.committed == onto && resume == isOurs)
                #expect(standby.state != .prepared)
                #expect(memory.lineage == standby.lineage && memory.pending != there)
            case .prepared(let isPending):
                decisions["prepared \(isPending)", default: 0] += 1
                #expect(standby.state == .prepared && memory.committed == there)
                #expect(isPending == (isOurs && memory.pending != nil))
                #expect(there == nil || memory.lineage == standby.lineage)
            case .refuse(let rule):
                decisions[rule.rawValue, default: 0] += 1
                switch rule {
                case .promoted, .suspect: #expect(closed[standby.state] == rule)
                case .notEmpty: #expect(there != nil && memory.lineage == nil)
                case .targetWentBack:
                    #expect(memory.committed.map { $0.number > there?.number ?? 0 } == true)
                case .diverged:
                    #expect(
                        standby.state == .diverged
                            || there != nil
                                && (memory.lineage != standby.lineage || memory.committed != there)
                    )
                default: Issue.record("\(rule) is not for a sender to say")
                }
            }
            if let rule = closed[standby.state] { #expect(decision == .refuse(rule)) }
        }
        let perState = 3 * 4 * 4 * 2 * 4 * 3
        #expect(count == VolumeState.allCases.count * perState)
        #expect(decisions["promoted"] == perState && decisions["suspect"] == perState)
        for wanted in [
            "pending", "full", "delta", "not-empty", "target-went-back", "diverged",
            "prepared true", "prepared false",
        ] {
            #expect(decisions[wanted] ?? 0 > 0, "\(wanted)")
        }
    }

    @Test("each history leads to its decision")
    func table() {
        func memory(
            _ committed: Lineage.GenerationPoint?, pending: Lineage.GenerationPoint? = nil,
            _ transfer: TransferID? = nil
        ) -> Lineage.SourceMemory {
            Lineage.SourceMemory(
                lineage: lineage, committed: committed, pending: pending, transfer: transfer)
        }
        let cases: [(Lineage.SourceMemory, StandbyState, Lineage.Decision)] = [
            (Lineage.SourceMemory(), standby(.empty), .full(resume: false)),
            (memory(nil, mine), standby(.initialising, transfer: mine), .full(resume: true)),
            (memory(nil, mine), standby(.initialising, transfer: theirs), .full(resume: false)),
            (memory(nil, pending: first, mine), standby(.consistent, first), .pendingIsCommitted),
            (memory(first), standby(.consistent, first), .delta(onto: first, resume: false)),
            (
                memory(first, mine), standby(.staging, first, transfer: mine),
                .delta(onto: first, resume: true)
            ),
            (
                memory(first, pending: second, mine), standby(.staging, first, transfer: mine),
                .delta(onto: first, resume: true)
            ),
            (
                memory(first, pending: second, mine), standby(.consistent, second),
                .pendingIsCommitted
            ),
            (
                memory(first, pending: second, mine), standby(.prepared, first, transfer: mine),
                .prepared(isPending: true)
            ),
            (
                memory(first, mine), standby(.prepared, first, transfer: mine),
                .prepared(isPending: false)
            ),
            (
                memory(first, pending: second, mine), standby(.prepared, first, transfer: theirs),
                .prepared(isPending: false)
            ),
            (
                memory(nil, pending: first, mine), standby(.prepared, transfer: mine),
                .prepared(isPending: true)
            ),
            (
                Lineage.SourceMemory(), standby(.prepared, transfer: theirs),
                .prepared(isPending: false)
            ),
            (memory(second), standby(.prepared, first, transfer: mine), .refuse(.targetWentBack)),
            (memory(second), standby(.consistent, first), .refuse(.targetWentBack)),
            (memory(first), standby(.empty), .refuse(.targetWentBack)),
            (memory(first), standby(.consistent, second), .refuse(.diverged)),
            (memory(nil), standby(.consistent, first), .refuse(.diverged)),
            (Lineage.SourceMemory(), standby(.consistent, first), .refuse(.notEmpty)),
            (
                memory(first), standby(.consistent, first, lineage: otherLineage),
                .refuse(.diverged)
            ),
        ]
        for (memory, standby, decision) in cases {
            #expect(Lineage.decide(memory, standby) == decision, "\(memory) \(standby)")
        }
    }
}

/// What an admission says, in one word.
func rule(_ admission: Lineage.Admission) -> String {
    switch admission {
    case .resume: "resume"
    case .start(let inPlace): inPlace ? "in place" : "staged"
    case .refuse(let refusal): refusal.rule
    }
}

@Suite("What a receiver admits") struct AdmissionTests {
    /// A delta from the first generation to the second, or a full one.
    private func begin(
        _ kind: GenerationKind, _ change: (inout Begin) -> Void = { _ in }
    ) -> Begin {
        var begin = Begin(
            transfer: mine,
            head: GenerationHead(
                kind: kind, tagAlgorithm: .poly1305, lineage: lineage,
                number: kind == .full ? 1 : 2, parent: kind == .full ? .zero : first.id,
                volumeSize: 1 << 20, sourceTime: 7, sourceIdentity: "test"),
            plannedContent: 512, plannedSegments: 3, heldSegments: 0,
            tagKey: kind == .full ? .random() : nil)
        change(&begin)
        return begin
    }

    @Test("every state with every kind of generation is admitted or refused by its rule")
    func states() {
        var admitted = 0
        var refused = 0
        for state in VolumeState.allCases {
            for held in [nil, first] {
                for kind in [GenerationKind.full, .delta] {
                    let memory = Lineage.StandbyMemory(
                        state: standby(state, held), committedSize: held.map { _ in 1 << 20 },
                        unfinished: nil)
                    let found = rule(Lineage.admit(begin(kind), memory))
                    let wanted =
                        switch (kind, held) {
                        case _ where refusing[state] != nil: refusing[state]?.rawValue
                        case (.full, nil): "in place"
                        case (.full, _): "not-empty"
                        case (.delta, nil): "base-missing"
                        case (.delta, _): "staged"
                        case (.resync, _): "unused"
                        }
                    #expect(found == wanted, "\(state) \(kind)")
                    if ["staged", "in place"].contains(found) {
                        admitted += 1
                    } else {
                        refused += 1
                    }
                }
            }
        }
        #expect(admitted == 10 && refused == 26, "\(admitted) \(refused)")
    }

    @Test("each field of a delta that does not fit is refused by its rule")
    func fields() {
        let cases: [(String, (inout Begin) -> Void)] = [
            ("staged", { _ in }),
            ("diverged", { $0.head.lineage = otherLineage }),
            ("parent-mismatch", { $0.head.parent = second.id }),
            ("number-mismatch", { $0.head.number = 3 }),
            ("number-mismatch", { $0.head.number = 1 }),
            ("size-shrunk", { $0.head.volumeSize -= 1 }),
            ("staged", { $0.head.volumeSize += 1 }),
        ]
        for kind in TargetKind.allCases {
            for (wanted, change) in cases {
                let memory = Lineage.StandbyMemory(
                    state: standby(.consistent, first, kind: kind, size: 1 << 21),
                    committedSize: 1 << 20, unfinished: nil)
                let found = rule(Lineage.admit(begin(.delta, change), memory))
                #expect(found == wanted)
            }
        }
        let later = Lineage.StandbyMemory(
            state: standby(.empty), committedSize: nil, unfinished: nil)
        #expect(
            rule(Lineage.admit(begin(.full) { $0.head.number = 2 }, later)) == "number-mismatch")
        var last = Lineage.GenerationPoint(number: .max, id: first.id)
        let full = Lineage.StandbyMemory(
            state: standby(.consistent, last), committedSize: 1, unfinished: nil)
        last.number = 0
        for number in [0, 1, UInt64.max] {
            let begin = begin(.delta) { $0.head.number = number }
            #expect(rule(Lineage.admit(begin, full)) == "number-mismatch")
        }
    }

    @Test("a smaller volume is admitted if, and only if, the sender's operator allows it")
    func shrink() {
        for (size, allowed, wanted) in [
            ((1 << 20) - 512, false, "size-shrunk"), ((1 << 20) - 512, true, "staged"),
            (1, false, "size-shrunk"), (1, true, "staged"),
            (1 << 20, false, "staged"), (1 << 20, true, "staged"),
        ] as [(UInt64, Bool, String)] {
            let memory = Lineage.StandbyMemory(
                state: standby(.consistent, first), committedSize: 1 << 20, unfinished: nil)
            let begin = begin(.delta) {
                $0.head.volumeSize = size
                $0.allowsShrink = allowed
            }
            #expect(rule(Lineage.admit(begin, memory)) == wanted, "\(size) \(allowed)")
        }
        // It allows this and nothing else.
        let wrong = Lineage.StandbyMemory(
            state: standby(.consistent, second), committedSize: 1 << 20, unfinished: nil)
        let begin = begin(.delta) { $0.allowsShrink = true }
        #expect(rule(Lineage.admit(begin, wrong)) == "parent-mismatch")
    }

    @Test("a block device must hold the volume, a file grows")
    func room() {
        for (kind, size, wanted) in [
            (.blockDevice, (1 << 20) - 1, "too-small"), (.blockDevice, 1 << 20, "staged"),
            (.file, 0, "staged"),
        ] as [(TargetKind, UInt64, String)] {
            let memory = Lineage.StandbyMemory(
                state: standby(.consistent, first, kind: kind, size: size),
                committedSize: 1 << 20, unfinished: nil)
            #expect(rule(Lineage.admit(begin(.delta), memory)) == wanted)
        }
    }

    @Test("a transfer is resumed by the same announcement and by no other")
    func resume() {
        let announced = begin(.delta)
        let memory = Lineage.StandbyMemory(
            state: standby(.staging, first, transfer: mine), committedSize: 1 << 20,
            unfinished: announced)
        var same = announced
        same.heldSegments = 3
        #expect(rule(Lineage.admit(same, memory)) == "resume")
        let changes: [(inout Begin) -> Void] = [
            { $0.transfer = theirs }, { $0.plannedContent += 1 }, { $0.plannedSegments += 1 },
            { $0.head.sourceTime += 1 }, { $0.head.sourceIdentity += "!" },
            { $0.head.volumeSize += 512 }, { $0.allowsShrink = true },
            { $0.head.tagAlgorithm = .sha256 },
            { $0.group = Group(id: .random(), members: 2) },
        ]
        for change in changes {
            #expect(rule(Lineage.admit(begin(.delta, change), memory)) == "staged")
        }
        let prepared = Lineage.StandbyMemory(
            state: standby(.prepared, first, transfer: mine), committedSize: 1 << 20,
            unfinished: announced)
        for change in changes + [{ _ in }] {
            #expect(rule(Lineage.admit(begin(.delta, change), prepared)) == "prepared")
        }
    }
}
