// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
internal import GRDB
package import Wire

/// The transitions of a volume (docs of `VolumeState`), each one transaction.
///
/// A writer takes a fence first and presents it with every transition; once somebody else has taken
/// one, its transitions fail with `fenced` and change nothing. What a crash leaves, in the order of
/// a delta:
///
/// 1. `takeFence`. *A crash leaves the volume as it was.* The writer makes the staging log, with
///    its header.
/// 2. `beginTransfer`: staging. *A crash before it leaves a log that no volume names: it is
///    removed. A crash after it leaves a transfer that resumes from the segments in its log, or is
///    abandoned.*
/// 3. The log is proven and synced, then `beginApplying`: applying. *A crash after it leaves a
///    target that may hold parts of two generations and a complete log: it is applied again from
///    its beginning, which needs no network and may be done any number of times. It is never
///    abandoned.*
/// 4. The target is written and flushed, then `commit`: consistent. *A crash before it is that of
///    3.*
/// 5. The log is removed. *A crash before leaves a log that no volume names: it is removed.*
///
/// A full generation goes in place: `beginTransfer` makes the volume initialising, content goes to
/// the target at once, and 3 has nothing left to write. *A crash between 2 and 3 leaves a target
/// that holds part of one generation and is not usable; its log says which segments are durable.*
extension StandbyCatalog {
    /// Takes the volume over from whoever wrote to it.
    ///
    /// - Returns: the number to present; greater than all before it.
    package func takeFence(_ name: VolumeName) throws(CatalogError) -> UInt64 {
        try store.write("take over volume \(name)") { db in
            var volume = try StandbyVolume.require(name, in: db)
            volume.fence = try nextFence(db)
            try volume.update(in: db)
            return volume.fence
        }
    }

    /// Begins a transfer, in place of an unfinished one: consistent or staging → staging for a
    /// delta, which must follow the committed generation; empty or initialising → initialising for
    /// a full generation in place.
    ///
    /// A resync may replace anything that is not being applied or prepared. Staged, it leaves promoted, diverged and
    /// suspect volumes what they are until it is applied; in place, it gives up what was there.
    package func beginTransfer(
        _ name: VolumeName, fence: UInt64, _ transfer: StandbyTransfer
    ) throws(CatalogError) {
        try transition("begin a transfer of", name, fence, .begun) { volume in
            let head = transfer.begin.head
            let isResync = head.kind == .resync
            let isFitting =
                isResync
                ? !transfer.inPlace || head.parent == .zero
                : transfer.inPlace == (head.kind == .full)
            guard isFitting else {
                throw CatalogError.Kind.conflict(
                    "what has a parent goes to the staging log, a full generation in place")
            }
            guard volume.state != .promoted || volume.isDemoted else {
                throw CatalogError.Kind.conflict("the volume was promoted and not demoted")
            }
            let untouched: [VolumeState] = [.promoted, .diverged, .suspect]
            let start: [VolumeState] = transfer.inPlace ? [.empty, .initialising] : []
            let staged: [VolumeState] = [.consistent, .staging]
            try volume.expect(
                isResync
                    ? start + staged + untouched : transfer.inPlace ? start : staged)
            if head.parent != .zero {
                guard head.lineage == volume.lineage, head.parent == volume.committed?.id else {
                    throw CatalogError.Kind.conflict(
                        "the generation does not follow the committed one")
                }
            }
            volume.transfer = transfer
            // Of a volume that is suspect or diverged since it was applied or prepared.
            volume.applying = nil
            if transfer.inPlace {
                volume.state = .initialising
                // What the target holds from now on is this copy's.
                volume.mayOverwrite = true
                volume.isRestored = false
                volume.committed = nil
                volume.committedAt = nil
                volume.confirmedAt = nil
                volume.lineage = nil
                volume.suspectReason = nil
                volume.isDemoted = false
            } else if !untouched.contains(volume.state) {
                volume.state = .staging
            }
            return "\(head.kind) generation \(head.number), transfer \(transfer.begin.transfer)"
        }
    }

    /// Drops the unfinished transfer: staging → consistent, initialising → empty, prepared → what it
    /// was before the transfer.
    package func abandonTransfer(_ name: VolumeName, fence: UInt64) throws(CatalogError) {
        try transition("abandon the transfer of", name, fence, .abandoned) { volume in
            let text = volume.transfer.map { "transfer \($0.begin.transfer)" } ?? ""
            if !volume.hasUntouchedTransfer {
                try volume.expect([.staging, .initialising, .prepared])
                volume.state = volume.committed == nil ? .empty : .consistent
            }
            volume.transfer = nil
            volume.applying = nil
            return text
        }
    }

    /// Declares that the target is about to be written, or, in place, is complete and flushed:
    /// staging or initialising → applying. The record must agree with the transfer's announcement.
    /// A member of a group goes another way: `prepare`.
    package func beginApplying(
        _ name: VolumeName, fence: UInt64, _ record: GenerationRecord
    ) throws(CatalogError) {
        try transition("apply a generation of", name, fence, .applying) { volume in
            if !volume.hasUntouchedTransfer { try volume.expect([.staging, .initialising]) }
            guard record.head == volume.transfer?.begin.head else {
                throw CatalogError.Kind.conflict("the generation is not the one that was announced")
            }
            guard volume.group == nil else {
                throw CatalogError.Kind.conflict("the generation belongs to a group")
            }
            volume.applying = record
            volume.state = .applying
            volume.suspectReason = nil
            // The target was compared before this.
            volume.isRestored = false
            return "generation \(record.head.number), \(record.id)"
        }
    }

    /// Declares that the target holds the generation and was flushed: applying → consistent. A
    /// generation that begins a lineage brings its tag key.
    package func commit(
        _ name: VolumeName, fence: UInt64, committedAt: UInt64
    ) throws(CatalogError) {
        try transition("commit a generation of", name, fence, .committed) { volume in
            try volume.expect([.applying])
            guard let record = volume.applying, let transfer = volume.transfer else {
                throw CatalogError.Kind.storage(
                    "the generation that is being applied is not stored")
            }
            if let key = transfer.begin.tagKey {
                volume.tagAlgorithm = record.head.tagAlgorithm
                volume.tagKey = key
            }
            volume.suspectReason = nil
            volume.isRestored = false
            volume.lineage = record.head.lineage
            volume.committed = record
            volume.committedAt = committedAt
            volume.confirmedAt = nil
            volume.refusal = nil
            volume.transfer = nil
            volume.applying = nil
            volume.isDemoted = false
            volume.state = .consistent
            return "generation \(record.head.number), \(record.id)"
        }
    }

    /// Notes that the source holds now what the committed generation holds: the age of the copy counts from here. No event:
    /// a quiet volume has one of these with each send.
    package func noteConfirmed(_ name: VolumeName, fence: UInt64) throws(CatalogError) {
        try store.write("confirm volume \(name) as current") { db in
            var volume = try StandbyVolume.require(name, in: db)
            guard fence == volume.fence else { throw CatalogError.Kind.fenced }
            try volume.expect([.consistent, .staging])
            volume.confirmedAt = now
            volume.refusal = nil
            try volume.update(in: db)
        }
    }

    /// Keeps why the last session of the volume's source was refused, until a generation is committed or confirmed. Needs no
    /// fence: it changes nothing that a writer relies on. An event tells the first of a row with one rule: a timer goes on.
    package func noteRefusal(_ name: VolumeName, rule: String, _ text: String) throws(CatalogError)
    {
        try store.write("note why volume \(name) was refused") { db in
            let known = try String.fetchOne(
                db, sql: "SELECT refused_rule FROM volume WHERE name = ?", arguments: [name.text])
            try db.execute(
                sql: """
                    UPDATE volume SET refused_at = ?, refused_rule = ?, refused_text = ?
                    WHERE name = ?
                    """, arguments: [now.stored, rule, text, name.text])
            guard db.changesCount == 1, known != rule else { return }
            try record(.refused, name, "\(text) (rule \(rule))", db)
        }
    }

    /// Says why a committed generation could not be brought to the target yet: applying stays applying.
    package func noteApplyingProblem(
        _ name: VolumeName, fence: UInt64, reason: String
    ) throws(CatalogError) {
        try transition("note a problem of", name, fence, .notApplied) { volume in
            try volume.expect([.applying])
            volume.suspectReason = reason
            return reason
        }
    }

    /// Declares that the copy cannot be trusted, until an operator resets the volume. Needs no
    /// fence: who has seen an I/O error is right even if he was replaced.
    ///
    /// The first reason stays, and the unfinished transfer goes: nothing of it may come to the target any more. A
    /// promoted volume stays promoted, and an event tells the reason.
    package func markSuspect(_ name: VolumeName, reason: String) throws(CatalogError) {
        try transition("mark as suspect", name, nil, .suspect) { volume in
            if volume.state != .promoted, volume.state != .suspect {
                volume.state = .suspect
                volume.suspectReason = reason
                volume.transfer = nil
                volume.applying = nil
            }
            return reason
        }
    }

    /// Declares that the target was written by somebody else, until an operator resets the volume.
    /// Needs no fence. A suspect volume stays suspect and a promoted one promoted.
    package func markDiverged(_ name: VolumeName, reason: String) throws(CatalogError) {
        try transition("mark as diverged", name, nil, .diverged) { volume in
            switch volume.state {
            case .promoted, .suspect, .diverged: break
            case .empty, .initialising, .consistent, .staging, .applying, .prepared:
                volume.state = .diverged
                volume.suspectReason = reason
                // Nothing of what was unfinished fits it.
                volume.transfer = nil
                volume.applying = nil
            }
            return reason
        }
    }

    /// Hands the target over: consistent or staging → promoted. What was staged never touched the
    /// target and is dropped; an apply must be finished first.
    ///
    /// - Parameter isChecked: false if a copy may be handed over that is known to have been written by somebody else.
    package func promote(
        _ name: VolumeName, fence: UInt64, isChecked: Bool = true
    ) throws(CatalogError) {
        try transition("promote", name, fence, .promoted) { volume in
            try volume.expect([.consistent, .staging] + (isChecked ? [] : [.diverged]))
            volume.transfer = nil
            volume.isDemoted = false
            volume.isRestored = false
            volume.state = .promoted
            return volume.committed.map { "at generation \($0.head.number), \($0.id)" } ?? ""
        }
    }

    /// Lets one resync overwrite what a promoted target holds, on the word of the standby's operator, or takes that back.
    package func demote(
        _ name: VolumeName, fence: UInt64, _ isDemoted: Bool = true
    ) throws(CatalogError) {
        try transition("demote", name, fence, .demoted) { volume in
            try volume.expect([.promoted])
            volume.isDemoted = isDemoted
            return isDemoted ? "the next resync may overwrite it" : "no resync may overwrite it"
        }
    }

    /// Forgets what the target holds, on an operator's word: any state → empty. The next generation
    /// must be a full one.
    package func reset(_ name: VolumeName, fence: UInt64) throws(CatalogError) {
        try transition("reset", name, fence, .reset) { volume in
            let text = "it was \(volume.state)"
            var empty = StandbyVolume(
                name: volume.name, peer: volume.peer, targetPath: volume.targetPath,
                targetKind: volume.targetKind, targetIdentity: volume.targetIdentity,
                addedAt: volume.addedAt)
            empty.fence = volume.fence
            empty.targetPresence = volume.targetPresence
            empty.mayOverwrite = true
            volume = empty
            return text
        }
    }

    /// One transition: finds the volume, checks the fence, changes it and records the event with
    /// the text that `body` gives.
    func transition(
        _ verb: String, _ name: VolumeName, _ fence: UInt64?, _ kind: StandbyEvent.Kind,
        _ body: (inout StandbyVolume) throws -> String
    ) throws(CatalogError) {
        try store.write("\(verb) volume \(name)") { db in
            var volume = try StandbyVolume.require(name, in: db)
            if let fence, fence != volume.fence { throw CatalogError.Kind.fenced }
            let text = try body(&volume)
            try volume.update(in: db)
            try record(kind, name, text, db)
        }
    }

    /// Takes the next fencing number of the whole catalog.
    func nextFence(_ db: Database) throws -> UInt64 {
        try db.execute(sql: "UPDATE fencing SET last = last + 1")
        guard let last = try Int64.fetchOne(db, sql: "SELECT last FROM fencing") else {
            throw CatalogError.Kind.storage("the last fencing number is not stored")
        }
        return UInt64(bitPattern: last)
    }
}

extension StandbyVolume {
    /// Whether a resync is staged that leaves the volume what it is until it is applied.
    package var hasUntouchedTransfer: Bool {
        [.promoted, .diverged, .suspect].contains(state)
            && transfer?.begin.head.kind == .resync
    }

    /// Whether nothing goes to the target any more but a resync, so that a sender hears of that whatever became of the target.
    package var isGivenUp: Bool { [.promoted, .diverged, .suspect].contains(state) }

    /// Refuses every state but these.
    func expect(_ states: [VolumeState]) throws(CatalogError.Kind) {
        guard states.contains(state) else {
            let wanted = states.map { "\($0)" }.joined(separator: " or ")
            throw .conflict("the volume is \(state), not \(wanted)")
        }
    }
}
