// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Session
import Wire

/// What both sides conclude from what they remember and what the other side claims.
@Sendable func fuzzLineage(_ bytes: [UInt8]) {
    var input = Input(bytes)
    let standby = input.standby()
    let memory = sourceMemory(&input, standby)
    let decision = Lineage.decide(memory, standby)
    check(decision, memory, standby)
    var begin = input.begin()
    if input.byte() & 1 == 0 { follow(decision, standby, &begin) }
    var unfinished: Begin?
    switch input.byte() & 3 {
    case 0: break
    case 1: unfinished = begin
    default:
        unfinished = begin
        unfinished?.heldSegments = input.number()
        if input.byte() & 1 == 1 { unfinished?.plannedContent = input.number() }
    }
    let standbyMemory = Lineage.StandbyMemory(
        state: standby, committedSize: input.byte() & 1 == 0 ? nil : input.volumeSize(),
        unfinished: unfinished,
        comparedRoot: input.byte() & 1 == 0 ? begin.comparedRoot : input.digest())
    check(Lineage.admit(begin, standbyMemory), begin, standbyMemory)
    checkAgreement(decision, begin, standbyMemory)
}

private func sourceMemory(
    _ input: inout Input, _ standby: StandbyState
) -> Lineage.SourceMemory {
    let there = Lineage.GenerationPoint(number: standby.committedNumber, id: standby.committedID)
    func point(_ input: inout Input) -> Lineage.GenerationPoint? {
        switch input.byte() & 3 {
        case 0: standby.committedID == .zero ? nil : there
        case 1: nil
        default: Lineage.GenerationPoint(number: UInt64(input.byte()), id: input.digest())
        }
    }
    var memory = Lineage.SourceMemory()
    switch input.byte() & 3 {
    case 0: memory.lineage = standby.lineage
    case 1: memory.lineage = nil
    default: memory.lineage = input.id()
    }
    memory.committed = point(&input)
    if input.byte() & 1 == 1 { memory.pending = point(&input) }
    if input.byte() & 1 == 1 { memory.transfer = input.id() }
    return memory
}

/// A delta needs that both hold the same generation of one lineage; everything else is refused or a
/// full copy onto nothing.
private func check(
    _ decision: Lineage.Decision, _ memory: Lineage.SourceMemory, _ standby: StandbyState
) {
    let isDistrusted = [.promoted, .diverged, .suspect].contains(standby.state)
    if isDistrusted {
        guard case .refuse = decision else {
            preconditionFailure("something is sent to a standby that is \(standby.state)")
        }
    }
    let sameLineage = memory.lineage == standby.lineage
    switch decision {
    case .pendingIsCommitted:
        precondition(sameLineage && memory.pending?.id == standby.committedID)
    case .full(let resume):
        precondition(standby.committedID == .zero && memory.committed == nil)
        precondition(!resume || memory.transfer == standby.transfer)
        precondition(standby.state != .prepared)
    case .delta(let base, let resume):
        precondition(sameLineage && memory.committed == base)
        precondition(base.id == standby.committedID && base.number == standby.committedNumber)
        precondition(!resume || memory.transfer == standby.transfer)
        precondition(standby.state != .prepared)
    case .prepared(let isPending):
        precondition(standby.state == .prepared)
        precondition(!isPending || memory.pending != nil)
    case .refuse: break
    }
}

/// Makes of an announcement the one that an honest sender would send after its decision.
private func follow(
    _ decision: Lineage.Decision, _ standby: StandbyState, _ begin: inout Begin
) {
    switch decision {
    case .full:
        begin.head.kind = .full
        begin.head.number = 1
        begin.head.parent = .zero
        (begin.comparedRoot, begin.inPlace, begin.allowsShrink) = (nil, false, false)
    case .delta(let base, _):
        begin.head.kind = .delta
        begin.head.lineage = standby.lineage
        begin.head.number = base.number &+ 1
        begin.head.parent = base.id
        (begin.comparedRoot, begin.inPlace) = (nil, false)
    case .pendingIsCommitted, .prepared, .refuse: break
    }
}

/// What the receiver begins must not cost it a generation that nobody gave up.
private func check(
    _ admission: Lineage.Admission, _ begin: Begin, _ memory: Lineage.StandbyMemory
) {
    let standby = memory.state
    let hasNothing = standby.committedID == .zero
    switch admission {
    case .refuse(let refusal):
        let payload = refusal.encoded()
        precondition(payload.count <= Limits.controlPayload)
        precondition((try? payload.withRawSpan { try Refusal(decoding: $0) })?.code == refusal.code)
        return
    case .resume:
        guard var unfinished = memory.unfinished else {
            preconditionFailure("resumes what was never begun")
        }
        unfinished.heldSegments = begin.heldSegments
        precondition(unfinished == begin, "resumes another transfer")
    case .start(let inPlace):
        precondition(!(inPlace && begin.head.kind == .delta), "a delta is written in place")
        precondition(
            !inPlace || hasNothing || begin.inPlace
                || [.empty, .initialising].contains(standby.state),
            "a generation is given up that nobody gave up")
    }
    precondition(standby.state != .prepared, "a prepared generation is replaced")
    precondition(
        standby.targetKind != .blockDevice || begin.head.volumeSize <= standby.targetSize)
    switch begin.head.kind {
    case .full: precondition(hasNothing && begin.head.number == 1)
    case .delta:
        precondition(!hasNothing && begin.head.parent == standby.committedID)
        precondition(begin.head.lineage == standby.lineage)
        precondition(begin.head.number > standby.committedNumber)
        precondition(begin.allowsShrink || memory.committedSize ?? 0 <= begin.head.volumeSize)
    case .resync:
        precondition(memory.comparedRoot != nil && memory.comparedRoot == begin.comparedRoot)
    }
    if begin.head.kind != .resync {
        precondition(![.promoted, .diverged, .suspect].contains(standby.state))
    }
}

/// What an honest sender decides to send, an honest receiver takes, but for the sizes.
private func checkAgreement(
    _ decision: Lineage.Decision, _ begin: Begin, _ memory: Lineage.StandbyMemory
) {
    var begin = begin
    switch decision {
    case .full, .delta: follow(decision, memory.state, &begin)
    case .pendingIsCommitted, .prepared, .refuse: return
    }
    guard case .refuse(let refusal) = Lineage.admit(begin, memory) else { return }
    precondition(
        ["size-shrunk", "too-small"].contains(refusal.rule) || begin.head.number == 0,
        "the sides do not agree: \(refusal.rule)")
}
