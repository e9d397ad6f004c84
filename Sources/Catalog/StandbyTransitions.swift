// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
internal import GRDB
package import Wire

/// The transitions of a volume (see `VolumeState`), each one transaction.
///
/// A writer first takes a fence and presents it with every transition; once another writer has
/// taken one, its transitions fail with `fenced` and change nothing. After a crash, in the order of
/// a delta:
///
/// 1. `takeFence`. *A crash leaves the volume unchanged.* The writer makes the staging log with its
///    header.
/// 2. `beginTransfer`: staging. *A crash before it leaves a log that no volume names: it is
///    removed. A crash after it leaves a transfer that resumes from the segments in its log, or is
///    abandoned.*
/// 3. The log is proven and synced, then `beginApplying`: applying. *A crash after it leaves a
///    target that may hold parts of two generations, and a complete log: the log is applied again
///    from its start, which needs no network and may be repeated any number of times. It is never
///    abandoned.*
/// 4. The target is written and flushed, then `commit`: consistent. *A crash before it is that of
///    3.*
/// 5. The log is removed. *A crash before leaves a log that no volume names: it is removed.*
///
/// A full generation is written in place: `beginTransfer` makes the volume initialising, content
/// goes to the target at once, and 3 has nothing left to write. *A crash between 2 and 3 leaves a
/// target that holds part of one generation and is not usable; its log says which segments are
/// durable.*
extension StandbyCatalog {
    /// Takes the volume over from its previous writer.
    ///
    /// - Returns: the fencing number to present; greater than all earlier ones.
    package func takeFence(_ name: VolumeName) throws(CatalogError) -> UInt64 {
        try store.write("take over volume \(name)") { db in
            var volume = try StandbyVolume.require(name, in: db)
            volume.fence = try nextFence(db)
            try volume.update(in: db)
            return volume.fence
        }
    }

    /// Begins a transfer and replaces an unfinished one: consistent or staging → staging for a
    /// delta, which must follow the committed generation; empty or initialising → initialising for
    /// a full generation in place.
    ///
    /// A resync may replace anything that is not being applied or prepared. A staged one leaves
    /// promoted, diverged and suspect volumes in their state until it is applied; one in place
    /// gives up their content.
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
            // Left over if the volume became suspect or diverged after being applied or prepared.
            volume.applying = nil
            if transfer.inPlace {
                volume.state = .initialising
                // From now on the target holds this copy's content.
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

    /// Drops the unfinished transfer: staging → consistent, initialising → empty, prepared → its
    /// state before the transfer.
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

    /// Declares that the target is about to be written or, in place, is complete and flushed:
    /// staging or initialising → applying. The record must match the transfer's announcement. For a
    /// member of a group, use `prepare` instead.
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
    /// generation that begins a lineage sets its tag key.
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

    /// Records that the source still holds the committed generation: the age of the copy counts
    /// from now. It adds no event, because a quiet volume would add one with each send.
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

    /// Records why the last session of the volume's source was refused, until a generation is
    /// committed or confirmed. It needs no fence, because it changes nothing that a writer relies
    /// on. Only the first of several refusals by one rule adds an event, because a timer repeats
    /// them.
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

    /// Records why a committed generation could not be applied yet: applying stays applying.
    package func noteApplyingProblem(
        _ name: VolumeName, fence: UInt64, reason: String
    ) throws(CatalogError) {
        try transition("note a problem of", name, fence, .notApplied) { volume in
            try volume.expect([.applying])
            volume.suspectReason = reason
            return reason
        }
    }

    /// Declares the copy untrustworthy until an operator resets the volume. It needs no fence: a
    /// writer that saw an I/O error is right even after being replaced.
    ///
    /// The first reason stays, and the unfinished transfer is dropped: no part of it may reach the
    /// target any more. A promoted volume stays promoted, and an event records the reason.
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

    /// Declares that another program wrote to the target, until an operator resets the volume. It
    /// needs no fence. A suspect volume stays suspect and a promoted one promoted.
    package func markDiverged(_ name: VolumeName, reason: String) throws(CatalogError) {
        try transition("mark as diverged", name, nil, .diverged) { volume in
            switch volume.state {
            case .promoted, .suspect, .diverged: break
            case .empty, .initialising, .consistent, .staging, .applying, .prepared:
                volume.state = .diverged
                volume.suspectReason = reason
                // No part of the unfinished transfer fits the target.
                volume.transfer = nil
                volume.applying = nil
            }
            return reason
        }
    }

    /// Hands the target over: consistent or staging → promoted. The staged transfer never touched
    /// the target and is dropped; an apply must be finished first.
    ///
    /// - Parameter isChecked: `false` allows promoting a copy that another program is known to have
    ///   written to.
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

    /// Lets one resync overwrite a promoted target, or revokes that, at the operator's request.
    package func demote(
        _ name: VolumeName, fence: UInt64, _ isDemoted: Bool = true
    ) throws(CatalogError) {
        try transition("demote", name, fence, .demoted) { volume in
            try volume.expect([.promoted])
            volume.isDemoted = isDemoted
            return isDemoted ? "the next resync may overwrite it" : "no resync may overwrite it"
        }
    }

    /// Forgets the target's content at the operator's request: any state → empty. The next
    /// generation must be a full one.
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

    /// One transition: finds the volume, checks the fence, changes the volume and records the event
    /// with the text that `body` returns.
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
    /// Whether a resync is staged that leaves the volume's state unchanged until it is applied.
    package var hasUntouchedTransfer: Bool {
        [.promoted, .diverged, .suspect].contains(state)
            && transfer?.begin.head.kind == .resync
    }

    /// Whether only a resync may still write to the target, so that a sender gets this state
    /// whatever happened to the target.
    package var isGivenUp: Bool { [.promoted, .diverged, .suspect].contains(state) }

    /// Refuses every other state.
    func expect(_ states: [VolumeState]) throws(CatalogError.Kind) {
        guard states.contains(state) else {
            let wanted = states.map { "\($0)" }.joined(separator: " or ")
            throw .conflict("the volume is \(state), not \(wanted)")
        }
    }
}
