// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import GRDB
package import Wire

/// Generations that are committed together or not at all (Protocol/Specification.md, section 7.1).
///
/// After a crash, in the order of one group:
///
/// 1. A member is proven, or flushed on its target, then `prepare`: prepared. *A crash before it
///    leaves the unfinished transfer. A crash after it leaves a waiting generation with a complete
///    staging log and a target that holds the previous generation (for a full one: a target that is
///    not usable).*
/// 2. `prepare` of the last member: all of them applying, in one transaction. *A crash before it
///    leaves all of them at the previous generation. A crash after it leaves a complete log of
///    each, and each is applied as after a crash while applying: none can be abandoned any more.*
/// 3. Each member is written to its target and flushed, then `commit`. *A crash leaves some
///    consistent and the others applying; the recovery of each finishes it.*
extension StandbyCatalog {
    /// Result of preparing a generation.
    package enum Preparation: Equatable, Sendable {
        /// The generation waits; this many of its group are prepared.
        case waiting(prepared: Int)
        /// The group is complete: all these volumes are applying.
        case complete([VolumeName])
    }

    /// Declares a generation of a group complete on the standby: staging or initialising →
    /// prepared. If it is the last of its group, all of them → applying.
    ///
    /// The record must match the transfer's announcement.
    ///
    /// - Throws: `groupMismatch` if a prepared volume has a different size of the group.
    package func prepare(
        _ name: VolumeName, fence: UInt64, _ record: GenerationRecord
    ) throws(CatalogError) -> Preparation {
        try store.write("prepare a generation of volume \(name)") { db in
            var volume = try StandbyVolume.require(name, in: db)
            guard fence == volume.fence else { throw CatalogError.Kind.fenced }
            try volume.expect([.staging, .initialising])
            guard record.head == volume.transfer?.begin.head else {
                throw CatalogError.Kind.conflict("the generation is not the one that was announced")
            }
            guard let group = volume.group, let peer = volume.peer else {
                throw CatalogError.Kind.conflict("the generation belongs to no group")
            }
            volume.applying = record
            volume.state = .prepared
            // The target was compared before this.
            volume.isRestored = false
            try volume.update(in: db)
            let text = "generation \(record.head.number), \(record.id), group \(group.id)"
            try self.record(.prepared, name, text, db)
            let members = try Row.fetchAll(
                db, sql: "SELECT * FROM volume WHERE peer = ? AND state = ? ORDER BY name",
                arguments: [peer.stored, VolumeState.prepared.rawValue]
            ).map { try StandbyVolume($0) }.filter { $0.group?.id == group.id }
            guard members.allSatisfy({ $0.group == group }) else {
                throw CatalogError.Kind.groupMismatch
            }
            guard members.count == group.members else {
                return .waiting(prepared: members.count)
            }
            for var member in members {
                member.state = .applying
                try member.update(in: db)
                try self.record(
                    .applying, member.name, "group \(group.id) of \(group.members) is complete", db)
            }
            return .complete(members.map(\.name))
        }
    }
}
