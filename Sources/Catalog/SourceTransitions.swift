// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import GRDB
package import Wire

/// The transitions of a replica, each one transaction. After a crash:
///
/// 1. The snapshot is taken and the plan written, then `beginTransfer`. *A crash before it leaves a
///    snapshot and a plan that no replica names: they are deleted. A crash after it leaves a
///    transfer that resumes with the same plan.*
/// 2. `setPending`, then COMMIT is sent. *A crash after it leaves a generation in doubt: the source
///    does not know whether it is committed and asks the receiver. If the receiver's committed id
///    is that of `pending`, `commit` follows; if the receiver still has the transfer, COMMIT is
///    sent again; if neither, `abandonTransfer(clearingPending: true)`.*
/// 3. COMMITTED arrives, then `commit`. *A crash before it is that of 2: both snapshots are kept.*
/// 4. The old base and the plan, which `commit` returned, are deleted. *A crash before leaves a
///    snapshot and a plan that no replica names: they are deleted.*
extension SourceCatalog {
    /// Begins a transfer and replaces an unfinished one. A full generation begins a lineage, whose
    /// id, algorithm and key are stored; a delta follows the committed generation.
    ///
    /// - Returns: the replaced transfer, whose snapshot and plan may be deleted.
    /// - Throws: `notFound` if the receiver is unknown; `conflict` while a generation is pending,
    ///   for a full generation if one is committed (forget the replica first), and for a delta that
    ///   does not follow the committed one.
    @discardableResult
    package func beginTransfer(
        _ volume: VolumeName, at receiver: ReceiverName, _ transfer: SourceTransfer
    ) throws(CatalogError) -> SourceTransfer? {
        try store.write("begin a transfer of volume \(volume) to \(receiver)") { db in
            guard try Receiver.find(receiver, in: db) != nil else {
                throw CatalogError.Kind.notFound("receiver \(receiver)")
            }
            var replica =
                try Replica.find(receiver, volume, in: db)
                ?? Replica(receiver: receiver, volume: volume)
            guard replica.pending == nil else {
                throw CatalogError.Kind.conflict(
                    "it is not known yet whether a generation was committed")
            }
            let head = transfer.begin.head
            switch head.kind {
            case .full:
                guard replica.committed == nil else {
                    throw CatalogError.Kind.conflict("a generation is committed already")
                }
                replica.lineage = head.lineage
                replica.tagAlgorithm = head.tagAlgorithm
                replica.tagKey = transfer.begin.tagKey
            case .delta:
                guard head.lineage == replica.lineage, head.parent == replica.committed?.id else {
                    throw CatalogError.Kind.conflict(
                        "the delta does not follow the committed generation")
                }
            case .resync:
                // It follows what the standby holds, whatever this side has recorded. If it begins
                // a lineage, the old one is obsolete.
                if let key = transfer.begin.tagKey {
                    replica.lineage = head.lineage
                    replica.tagAlgorithm = head.tagAlgorithm
                    replica.tagKey = key
                    replica.committed = nil
                    replica.committedAt = nil
                    replica.confirmedAt = nil
                    replica.base = nil
                    replica.isBaseGivenUp = false
                } else {
                    guard head.lineage == replica.lineage else {
                        throw CatalogError.Kind.conflict("the resync is of another lineage")
                    }
                }
            }
            let replaced = replica.transfer
            replica.transfer = transfer
            try replica.save(in: db)
            return replaced
        }
    }

    /// Records the generation whose COMMIT is about to be sent.
    ///
    /// - Parameter exported: path of its file, if it is exported instead of sent; the file may be
    ///   imported at any time.
    /// - Throws: `conflict` if it is not the transfer's generation, or if another one is pending.
    package func setPending(
        _ volume: VolumeName, at receiver: ReceiverName, _ record: GenerationRecord,
        exported: String? = nil
    ) throws(CatalogError) {
        try transition("send COMMIT for", volume, receiver) { replica in
            guard record.head == replica.transfer?.begin.head else {
                throw CatalogError.Kind.conflict(
                    "the generation is not the one that was announced")
            }
            guard replica.pending == nil || replica.pending == record else {
                throw CatalogError.Kind.conflict("another generation is pending")
            }
            replica.pending = record
            replica.exported = exported
        }
    }

    /// Records that the receiver has committed the pending generation, whose snapshot becomes the
    /// base.
    package func commit(
        _ volume: VolumeName, at receiver: ReceiverName, committedAt: UInt64
    ) throws(CatalogError) -> Superseded {
        try transition("commit a generation of", volume, receiver) { replica in
            guard let record = replica.pending, let transfer = replica.transfer else {
                throw CatalogError.Kind.conflict("no generation is pending")
            }
            let superseded = Superseded(planName: transfer.planName, base: replica.base)
            replica.committed = record
            replica.committedAt = committedAt
            replica.confirmedAt = nil
            replica.base = transfer.base
            replica.isBaseGivenUp = false
            replica.pending = nil
            replica.exported = nil
            replica.transfer = nil
            return superseded
        }
    }

    /// Records that the receiver knows that nothing has changed since the committed generation.
    package func noteConfirmed(
        _ volume: VolumeName, at receiver: ReceiverName, time: UInt64
    ) throws(CatalogError) {
        try transition("confirm", volume, receiver) { $0.confirmedAt = time }
    }

    /// Drops the unfinished transfer, if there is one.
    ///
    /// - Parameter clearingPending: true once the receiver has answered that it did not commit the
    ///   pending generation.
    /// - Returns: the transfer, whose snapshot and plan may be deleted.
    /// - Throws: `conflict` if a generation is pending and `clearingPending` is false: its snapshot
    ///   may be the base of what the receiver holds.
    @discardableResult
    package func abandonTransfer(
        _ volume: VolumeName, at receiver: ReceiverName, clearingPending: Bool = false
    ) throws(CatalogError) -> SourceTransfer? {
        try transition("abandon the transfer of", volume, receiver) { replica in
            guard clearingPending || replica.pending == nil else {
                throw CatalogError.Kind.conflict(
                    "it is not known yet whether a generation was committed")
            }
            let dropped = replica.transfer
            replica.pending = nil
            replica.exported = nil
            replica.transfer = nil
            return dropped
        }
    }

    /// Restores the record of a receiver's copy from before a resync that the receiver refused.
    ///
    /// - Parameter former: the replica before `beginTransfer`, whose transfer no longer exists.
    /// - Throws: `conflict` if there is an unfinished transfer.
    package func restoreReplica(_ former: Replica) throws(CatalogError) {
        try transition("restore what is known of", former.volume, former.receiver) { replica in
            guard replica.transfer == nil, replica.pending == nil else {
                throw CatalogError.Kind.conflict("a transfer is unfinished")
            }
            replica = former
            replica.transfer = nil
            replica.pending = nil
            replica.exported = nil
        }
    }

    /// Records that the kernel has invalidated the base's snapshot, if it still is the base.
    package func setBaseGivenUp(
        _ volume: VolumeName, at receiver: ReceiverName, _ base: String?
    ) throws(CatalogError) {
        try transition("remember the lost base of", volume, receiver) { replica in
            if replica.base == base { replica.isBaseGivenUp = true }
        }
    }

    /// Forgets a replica at the operator's request; the next generation must be a full one.
    ///
    /// - Returns: the former record, whose snapshots and plan may be deleted.
    @discardableResult
    package func forgetReplica(
        _ volume: VolumeName, at receiver: ReceiverName
    ) throws(CatalogError) -> Replica {
        try store.write("forget the replica of volume \(volume) at \(receiver)") { db in
            let replica = try require(volume, receiver, db)
            try db.execute(
                sql: "DELETE FROM replica WHERE receiver = ? AND volume = ?",
                arguments: [receiver.text, volume.text])
            try db.execute(
                sql: "DELETE FROM failure WHERE receiver = ? AND volume = ?",
                arguments: [receiver.text, volume.text])
            return replica
        }
    }

    private func transition<Result>(
        _ verb: String, _ volume: VolumeName, _ receiver: ReceiverName,
        _ body: (inout Replica) throws -> Result
    ) throws(CatalogError) -> Result {
        try store.write("\(verb) volume \(volume) at \(receiver)") { db in
            var replica = try require(volume, receiver, db)
            let result = try body(&replica)
            try replica.save(in: db)
            return result
        }
    }

    private func require(
        _ volume: VolumeName, _ receiver: ReceiverName, _ db: Database
    ) throws -> Replica {
        guard let replica = try Replica.find(receiver, volume, in: db) else {
            throw CatalogError.Kind.notFound("replica of volume \(volume) at \(receiver)")
        }
        return replica
    }
}
