// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Digests
internal import Platform
internal import TLS
internal import Volumes
internal import Wire

/// Keeps committed generations of a volume as read-only thin snapshots of its target.
///
/// Whoever uses one holds the volume's lock, so that the target does not change meanwhile. What a crash leaves:
///
/// 1. *Committed, no snapshot:* the snapshot is due. It is made when the volume is opened next.
/// 2. *Snapshot made, not in the catalog:* its tags say what it is. It is entered.
/// 3. *Snapshot removed, still in the catalog:* it is struck out.
struct Keeper {
    private let home: StandbyHome
    private let volume: StandbyVolume
    /// The volume's; what changes LVM holds it to its end.
    private let lock: FileLock

    init(_ home: StandbyHome, _ volume: StandbyVolume, holding lock: FileLock) {
        self.home = home
        self.volume = volume
        self.lock = lock
    }

    /// Why a generation could not be kept or released.
    struct Problem: Error, CustomStringConvertible {
        let description: String
    }

    /// Whether the target is a volume of which snapshots can be kept.
    static func isPossible(on status: FileStatus) -> Bool {
        status.device.map { BlockDevice($0).isThin } ?? false
    }

    /// The target, if it is an active thin volume.
    private static func thinVolume(at path: String) -> LogicalVolumeID? {
        guard let number = try? File(path: path).status().device else { return nil }
        let device = BlockDevice(number)
        return device.isThin ? device.logicalVolume : nil
    }

    /// How many snapshots the pool of a thin target can still take, by its clock; nil for other targets, and where
    /// that cannot be asked.
    static func snapshotsLeft(_ home: StandbyHome, below path: String) -> UInt64? {
        guard let target = thinVolume(at: path) else { return nil }
        return (try? home.volumes.room(of: target)).map { UInt64($0.snapshotsLeft) }
    }

    /// What the pool of a target with kept generations can still take; nil where that cannot be asked.
    var room: ThinRoom? {
        guard (try? home.catalog.kept(volume.name))?.isEmpty == false,
            let target = Self.thinVolume(at: volume.targetPath)
        else { return nil }
        return try? home.volumes.room(of: target)
    }

    /// Whether LVM has a snapshot of the committed generation. It shares every block of the target, which was not written
    /// since, so that each block that is written now needs a new one.
    var sharesEveryBlock: Bool {
        guard let target = Self.thinVolume(at: volume.targetPath), let owner = try? owner(),
            let kept = try? home.volumes.kept(of: target, by: owner)
        else { return false }
        return !isDue(kept)
    }

    private func owner() throws -> KeptOwner { KeptOwner(try home.identity().keyID, volume.name) }

    /// Whether the target holds its committed generation as a whole, and is this standby's.
    static func isWhole(_ volume: StandbyVolume) -> Bool {
        switch volume.state {
        case .consistent, .staging: true
        // A member of a group that is not complete: a delta waits in its log, a full copy is on the target.
        case .prepared: volume.committed != nil
        case .empty, .initialising, .applying, .promoted, .diverged, .suspect: false
        }
    }

    /// Does what is due, if anything is, and remembers what went wrong.
    ///
    /// - Parameter check: proves that the target holds the generation, if a snapshot is to be made.
    /// - Returns: what went wrong.
    func keepDue(check: () throws -> Void) -> String? {
        do {
            // While the copy is in question, and when it was handed over, every generation stays.
            guard Self.isWhole(volume), let retention = try home.catalog.retention(volume.name)
            else { return nil }
            let kept = try home.catalog.kept(volume.name)
            guard isDue(kept) || !retention.expired(of: kept, now: Clock.wall()).isEmpty else {
                return nil
            }
            let problem = attempt(retention, check)
            try home.catalog.setRetentionProblem(volume.name, problem)
            return problem
        } catch {
            return "\(error)"
        }
    }

    /// Compares with what LVM has and does what is due.
    ///
    /// - Returns: what went wrong.
    func keepNow(check: () throws -> Void) throws -> String? {
        guard let retention = try home.catalog.retention(volume.name) else { return nil }
        let problem = attempt(retention, check)
        if problem == nil { try home.catalog.setRetentionProblem(volume.name, nil) }
        return problem
    }

    private func attempt(_ retention: Retention, _ check: () throws -> Void) -> String? {
        do {
            if isDue(try home.catalog.kept(volume.name)) { try check() }
            try keep(retention)
        } catch { return "\(error)" }
        return nil
    }

    /// Whether the target holds a whole generation of which there is no snapshot.
    private func isDue(_ kept: [KeptGeneration]) -> Bool {
        guard Self.isWhole(volume), let committed = volume.committed else { return false }
        return !kept.contains { $0.id == committed.id }
    }

    private func keep(_ retention: Retention) throws {
        guard let target = Self.thinVolume(at: volume.targetPath) else {
            throw Problem(description: "\(volume.targetPath) is no active thin volume")
        }
        let (owner, volumes) = (try owner(), home.volumes)
        var kept = try compare(volumes.kept(of: target, by: owner))
        if isDue(kept), let committed = volume.committed, let committedAt = volume.committedAt {
            let mark = GenerationMark(
                number: committed.head.number, id: committed.id,
                sourceTime: committed.head.sourceTime, committedAt: committedAt)
            try volumes.keep(mark, of: target, by: owner, holding: lock)
            kept = try compare(volumes.kept(of: target, by: owner))
            guard !isDue(kept) else {
                throw Problem(description: "a snapshot of the target was made, but is not there")
            }
        }
        var problem: (any Error)?
        for generation in retention.expired(of: kept, now: Clock.wall()) {
            do {
                try volumes.release(
                    generation.snapshotUUID, of: target, by: owner, holding: lock)
            } catch {
                // In use, say, or written; the others may go.
                problem = error
                continue
            }
            try home.catalog.removeKept(volume.name, generation)
        }
        if let problem { throw problem }
    }

    /// Brings the catalog to what LVM has.
    ///
    /// - Returns: the snapshots, newest first.
    private func compare(_ found: [KeptGeneration]) throws -> [KeptGeneration] {
        let known = try home.catalog.kept(volume.name)
        for generation in known
        where !found.contains(where: { $0.snapshotUUID == generation.snapshotUUID }) {
            try home.catalog.removeKept(volume.name, generation)
        }
        for generation in found where !known.contains(generation) {
            try home.catalog.addKept(volume.name, generation)
        }
        return try home.catalog.kept(volume.name)
    }
}
