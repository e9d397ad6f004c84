// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Connection
internal import MapStore
internal import Platform
internal import Session
package import Wire

/// Sends several volumes to one standby, all of them or none (Protocol/Specification.md, section
/// 7.1).
///
/// After a crash, the next run with the same points in time resumes; a run with others starts over:
///
/// 1. The sender asks the standby about every member and settles what was in doubt. If one member
///    is refused, nothing is sent. *A crash leaves nothing.*
/// 2. Each member's plan is written and entered into the catalog with the group's id. *A crash
///    leaves a group of which only some members are planned and nothing was sent: the next run
///    makes a new group.*
/// 3. The members are sent one after the other; all but the last wait on the standby. *A crash
///    leaves some of them waiting there, and in doubt here: the next run sends the others. No
///    target has changed.*
/// 4. The last member is committed, and all others with it. *A crash leaves generations in doubt
///    here: the next run asks the standby about each, or the next send of that volume alone does.*
/// 5. The sender asks for the others again, which applies them to their targets, and commits them
///    here. *A crash leaves some of them as after 4.*
package final class GroupSender {
    /// One volume of the group.
    package struct Member {
        package var source: any Source
        package var options: Sender.Options

        package init(source: any Source, options: Sender.Options) {
            self.source = source
            self.options = options
        }
    }

    /// The volume that kept the group from being sent, and the error.
    package struct Failure: RuledError, CustomStringConvertible {
        package var volume: VolumeName
        package var error: any Error

        package var description: String { "\(volume): \(error)" }

        package var refusalRule: RefusalRule? { (error as? any RuledError)?.refusalRule }

        package var words: [String: String] {
            ((error as? any RuledError)?.words ?? [:]).merging(["VOLUME": volume.text]) { $1 }
        }
    }

    private let home: SourceHome
    private let report: (VolumeName, Sender.Report) -> Void

    package init(
        _ home: SourceHome, report: @escaping (VolumeName, Sender.Report) -> Void = { _, _ in }
    ) {
        self.home = home
        self.report = report
    }

    /// A member with its state on both sides.
    private struct Standing {
        let volume: VolumeName
        let source: any Source
        let sender: Sender
        let lock: SendLock
        let settled: Settled
        /// The committed generation, if it already is this point in time.
        let upToDate: GenerationRecord?
        let outcome: Sender.Outcome?
    }

    /// Sends the points in time of all members and waits until all are committed and applied.
    ///
    /// The caller ensures that the points in time belong together. Members that the standby already
    /// has are left out; if a single one remains, it is sent like any other volume.
    ///
    /// - Returns: the outcomes in the order of the members.
    /// - Throws: `Failure`. Either no volume was committed, or all are and the standby will apply
    ///   them.
    package func send(_ members: [Member]) throws -> [Sender.Outcome] {
        let locks = try members.map { member in
            try naming(member.options.volume) {
                try home.lock(member.options.receiver, member.options.volume)
            }
        }
        return try send(members, locks)
    }

    /// Does the same for a caller that holds the lock of each member, in the same order.
    package func send(_ members: [Member], _ locks: [SendLock]) throws -> [Sender.Outcome] {
        precondition(
            zip(members, locks).allSatisfy {
                $0.options.receiver == $1.receiver && $0.options.volume == $1.volume
            } && members.count == locks.count, "a lock for each member")
        precondition(
            Set(members.map(\.options.receiver)).count <= 1
                && Set(members.map(\.options.volume)).count == members.count
                && members.count <= Int(Limits.groupMembers), "a group of one standby's volumes")
        defer { withExtendedLifetime(locks) {} }
        // The first round drops what waits for an abandoned group. A member of it may turn out to
        // be committed, so all are asked again.
        // A damaged tag map is removed once for each member; its source is read once more then.
        for _ in 0..<3 + members.count {
            do {
                let standings = try zip(members, locks).map { try stand($0, $1) }
                let behind = standings.filter { $0.upToDate == nil }
                let known = group(of: behind)
                if known == nil, try abandonPrepared(behind) { continue }
                let sent = try send(behind, known)
                return standings.compactMap { $0.outcome ?? sent[$0.volume] }
            } catch let failure as Failure {
                guard case MapError.damaged = failure.error,
                    let member = members.first(where: { $0.options.volume == failure.volume })
                else { throw failure }
                Sender(home, member.options).map.remove()
            }
        }
        throw SendError.fault("what was abandoned is prepared again, or a map is damaged again")
    }

    /// Explains what `send` would do with each member, up to the first that is refused.
    package func explain(_ members: [Member]) throws -> [Sender.Explanation] {
        var explanations: [Sender.Explanation] = []
        for member in members {
            let explanation = try naming(member.options.volume) {
                try Sender(home, member.options).explain(member.source, inGroup: true)
            }
            explanations.append(explanation)
            if explanation.refusal != nil { break }
        }
        return explanations
    }

    private func send(
        _ behind: [Standing], _ known: Group?
    ) throws -> [VolumeName: Sender.Outcome] {
        if behind.count == 1, let alone = behind.first {
            let outcome = try naming(alone.volume) {
                try alone.sender.send(alone.source, alone.lock)
            }
            return [alone.volume: outcome]
        }
        guard !behind.isEmpty else { return [:] }
        let group = known ?? Group(id: .random(), members: UInt32(behind.count))
        let planned = try behind.map { member in
            try naming(member.volume) {
                try member.sender.prepare(member.source, member.settled, group: group)
            }
        }
        var outcomes: [VolumeName: Sender.Outcome] = [:]
        var waiting: [(Standing, Begin, Sender.Outcome)] = []
        for (member, (begin, plan)) in zip(behind, planned) {
            try naming(member.volume) {
                let sent = try member.sender.sendMember(member.source, begin, plan)
                if sent.isPrepared {
                    waiting.append((member, begin, sent.outcome))
                } else {
                    outcomes[member.volume] = sent.outcome
                }
            }
        }
        for (member, begin, outcome) in waiting {
            try naming(member.volume) { try member.sender.finishMember(begin) }
            try member.sender.remember(outcome)
            outcomes[member.volume] = outcome
        }
        return outcomes
    }

    /// Asks the standby for a member's state.
    private func stand(_ member: Member, _ lock: SendLock) throws -> Standing {
        let volume = member.options.volume
        let sender = Sender(home, member.options) { [report] in report(volume, $0) }
        return try naming(volume) {
            let began = Clock.monotonic()
            let (dialogue, standby) = try sender.open()
            let settled: Settled
            var upToDate: GenerationRecord?
            do {
                settled = try sender.settle(dialogue, standby, keepingPrepared: true)
                switch try sender.decide(member.source, settled, inGroup: true) {
                case .refuse(let refused): throw sender.error(refused, settled, member.source)
                case .upToDate: upToDate = settled.replica.committed
                case .full, .delta, .compare, .wait: break
                }
                if let upToDate { try sender.confirm(upToDate, member.source, dialogue) }
            } catch {
                dialogue.stop(error)
                throw error
            }
            dialogue.connection.close()
            return Standing(
                volume: volume, source: member.source, sender: sender, lock: lock,
                settled: settled, upToDate: upToDate,
                outcome: upToDate.map {
                    sender.outcome(
                        .upToDate, $0, member.source, nil, dialogue, began, resumed: 0)
                })
        }
    }

    /// The group that an earlier run began, if it consists of all these members at these points in
    /// time.
    private func group(of members: [Standing]) -> Group? {
        guard let group = members.first?.settled.replica.transfer?.begin.group,
            group.members == members.count,
            members.allSatisfy({
                $0.sender.planned($0.source, $0.settled.replica, group: group) != nil
            })
        else { return nil }
        return group
    }

    /// Drops the generations that wait on the standby. Returns whether there were any.
    private func abandonPrepared(_ members: [Standing]) throws -> Bool {
        let prepared = members.filter { $0.settled.decision == .prepared(isPending: true) }
        for member in prepared {
            try naming(member.volume) {
                let (dialogue, standby) = try member.sender.open()
                defer { dialogue.connection.close() }
                _ = try member.sender.settle(dialogue, standby, keepingPrepared: false)
            }
        }
        return !prepared.isEmpty
    }

    private func naming<Result>(
        _ volume: VolumeName, _ body: () throws -> Result
    ) throws -> Result {
        do { return try body() } catch {
            throw Failure(volume: volume, error: error)
        }
    }
}

extension Sender {
    /// Sends the planned transfer over a new connection, for a member of a group or a single
    /// volume.
    ///
    /// - Returns: also whether the generation waits on the standby for the others and is not
    ///   committed yet.
    func sendMember(
        _ source: any Source, _ begin: Begin, _ plan: SendPlan
    ) throws -> (outcome: Outcome, isPrepared: Bool) {
        let began = Clock.monotonic()
        let (dialogue, standby) = try open()
        var isUnderWay = false
        defer { if !isUnderWay { dialogue.connection.close() } }
        let settled = try settle(dialogue, standby, keepingPrepared: true)
        try checkLineage(settled)
        let replica = settled.replica
        if let committed = replica.committed, committed.head == begin.head {
            // The group was already complete when this run began.
            let outcome = outcome(
                Self.kind(committed), committed, source, plan, dialogue, began,
                resumed: plan.segmentCount)
            try remember(outcome)
            return (outcome, false)
        }
        if settled.decision == .prepared(isPending: true), let pending = replica.pending {
            let outcome = outcome(
                Self.kind(pending), pending, source, plan, dialogue, began,
                resumed: plan.segmentCount)
            return (outcome, true)
        }
        guard replica.transfer?.begin.transfer == begin.transfer else {
            throw SendError.brokenProtocol("the standby's state contradicts itself")
        }
        isUnderWay = true
        return try transfer(source, begin, plan, dialogue, began)
    }

    /// Has the standby apply a member whose group was committed, and commits it here.
    fileprivate func finishMember(_ begin: Begin) throws {
        let (dialogue, standby) = try open()
        defer { dialogue.connection.close() }
        let settled = try settle(dialogue, standby, keepingPrepared: true)
        guard settled.replica.committed?.head == begin.head else { throw SendError.groupIncomplete }
    }
}
