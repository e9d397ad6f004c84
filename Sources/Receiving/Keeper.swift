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
/// Its user holds the volume's lock, so the target does not change meanwhile. After a crash:
///
/// 1. *Committed, no snapshot:* the snapshot is due. It is made when the volume is next opened.
/// 2. *Snapshot made, not in the catalog:* its tags identify it. It is entered.
/// 3. *Snapshot removed, still in the catalog:* its entry is removed.
struct Keeper {
    let home: StandbyHome
    let volume: StandbyVolume
    /// The volume's lock; a running LVM command holds it until its end.
    let lock: FileLock

    init(_ home: StandbyHome, _ volume: StandbyVolume, holding lock: FileLock) {
        self.home = home
        self.volume = volume
        self.lock = lock
    }

    /// Why a generation could not be kept or released.
    struct Problem: Error, CustomStringConvertible {
        let description: String
    }

    /// Whether the target is a volume whose snapshots can be kept.
    static func isPossible(on status: FileStatus) -> Bool {
        status.device.map { BlockDevice($0).isThin } ?? false
    }

    /// LVM's id of the target if it is an active thin volume, otherwise `nil`.
    static func thinVolume(at path: String) -> LogicalVolumeID? {
        guard let number = try? File(path: path).status().device else { return nil }
        let device = BlockDevice(number)
        return device.isThin ? device.logicalVolume : nil
    }

    /// Number of snapshots that the pool of a thin target can still take, by its clock; `nil` for
    /// other targets, or if unknown.
    static func snapshotsLeft(_ home: StandbyHome, below path: String) -> UInt64? {
        guard let target = thinVolume(at: path) else { return nil }
        return (try? home.volumes.room(of: target)).map { UInt64($0.snapshotsLeft) }
    }

    /// Whether LVM has a snapshot of the committed generation. It shares every block of the target,
    /// which was not written since, so each block that is written now needs a new one.
    var sharesEveryBlock: Bool {
        guard let target = Self.thinVolume(at: volume.targetPath), let owner = try? owner(),
            let kept = try? home.volumes.kept(of: target, by: owner)
        else { return false }
        return !isDue(kept)
    }

    func owner() throws -> KeptOwner {
        try home.catalog.keptOwner(volume.name, of: try home.identity().keyID)
    }

    /// Whether the target holds its complete committed generation and belongs to this standby.
    static func isWhole(_ volume: StandbyVolume) -> Bool {
        // A restored catalog's facts about the target are out of date until the target is read.
        if volume.isRestored { return false }
        switch volume.state {
        case .consistent, .staging: return true
        // A member of an incomplete group: a delta waits in its log, a full copy is on the target.
        case .prepared: return volume.committed != nil
        case .empty, .initialising, .applying, .promoted, .diverged, .suspect: return false
        }
    }

    /// Keeps and releases what is due, if anything, and records any problem.
    ///
    /// - Parameters:
    ///   - gaveWay: warning about generations released to make room for this one.
    ///   - check: proves that the target holds the generation, before a snapshot is made.
    /// - Returns: the problem, or `nil`.
    func keepDue(telling gaveWay: String? = nil, check: () throws -> Void) -> String? {
        do {
            // Every generation stays while the copy is in question or promoted.
            guard Self.isWhole(volume), let retention = try home.catalog.retention(volume.name)
            else { return nil }
            let kept = try home.catalog.kept(volume.name)
            guard try isDue(kept) || !expired(kept, retention).isEmpty else { return nil }
            return try attempt(retention, telling: gaveWay, check)
        } catch {
            return "\(error)"
        }
    }

    /// Compares the catalog with LVM and does what is due.
    ///
    /// - Returns: the problem, or `nil`.
    func keepNow(check: () throws -> Void) throws -> String? {
        guard let retention = try home.catalog.retention(volume.name) else { return nil }
        return try attempt(retention, telling: nil, check)
    }

    private func attempt(
        _ retention: Retention, telling gaveWay: String?, _ check: () throws -> Void
    ) throws -> String? {
        // Check the space first: a failed snapshot may report a different error.
        let warnings = try [gaveWay].compactMap { $0 } + roomWarnings(retention)
        var problem: String?
        do { try keep(retention, check) } catch { problem = "\(error)" }
        try home.catalog.setRetentionProblem(volume.name, problem)
        try home.catalog.setRetentionWarning(
            volume.name, warnings.isEmpty ? nil : warnings.joined(separator: "; "))
        return problem
    }

    /// Whether the target holds a complete generation without a snapshot.
    private func isDue(_ kept: [KeptGeneration]) -> Bool {
        guard Self.isWhole(volume), let committed = volume.committed else { return false }
        return !kept.contains { $0.id == committed.id }
    }

    /// Releases what exceeds the limits and keeps what is due. It frees space before it uses any,
    /// and a failure of one step does not stop the other. The newest snapshot stays until there is
    /// a newer one.
    ///
    /// - Parameter check: proves that the target holds the generation, before anything is made or
    ///   released for it. LVM decides whether a snapshot is due: the catalog may name one that was
    ///   removed or renamed.
    private func keep(_ retention: Retention, _ check: () throws -> Void) throws {
        guard let target = Self.thinVolume(at: volume.targetPath) else {
            throw Problem(description: "\(volume.targetPath) is no active thin volume")
        }
        let (owner, volumes) = (try owner(), home.volumes)
        let kept = try compare(volumes.kept(of: target, by: owner))
        let due = isDue(kept) ? dueMark : nil
        if due != nil { try check() }
        var problems: [any Error] = []
        let wanted = due.map { KeptGeneration(due: $0) }.map { [$0] + kept } ?? kept
        var released = try expired(wanted, retention)
        if !Self.isWhole(volume), !released.isEmpty {
            // They may be all that is left of the copy.
            problems.append(
                Problem(
                    description:
                        "\(released.count) generations are kept beyond the limits, since the volume is \(volume.state)"
                ))
            released = []
        }
        func release(_ generations: [KeptGeneration]) {
            for generation in generations {
                do {
                    guard try mayRelease(owner, retention) else {
                        throw Problem(description: "the limits were changed meanwhile")
                    }
                    try volumes.release(
                        generation.snapshotUUID, of: target, by: owner, holding: lock)
                    try home.catalog.removeKept(volume.name, generation)
                } catch {
                    // A snapshot in use, for example, or one that was written; others may still be
                    // released.
                    problems.append(error)
                }
            }
        }
        release(released.filter { due == nil || $0.id != kept.first?.id })
        if let due {
            do {
                try volumes.keep(due, of: target, by: owner, holding: lock)
                guard !isDue(try compare(volumes.kept(of: target, by: owner))) else {
                    throw Problem(
                        description: "a snapshot of the target was made, but is not there")
                }
                release(released.filter { $0.id == kept.first?.id })
            } catch {
                problems.insert(error, at: 0)
            }
        }
        let tooOld = retention.expired(of: wanted, now: Clock.wall()).count
        if Self.isWhole(volume), tooOld > released.count {
            problems.append(
                Problem(
                    description:
                        "\(tooOld - released.count) generations are kept although they are too old by the clock, which "
                        + "has gone ahead further than time can have passed"))
        }
        guard problems.isEmpty else {
            throw Problem(description: problems.map { "\($0)" }.joined(separator: "; "))
        }
    }

    /// Whether the operator has not changed these limits and the owner's snapshots are still ours.
    /// Releasing several may take minutes.
    func mayRelease(_ owner: KeptOwner, _ retention: Retention? = nil) throws -> Bool {
        guard let now = try home.catalog.retention(volume.name), try self.owner() == owner else {
            return false
        }
        return retention.map { now == $0 } ?? true
    }

    /// The committed generation as the mark of a snapshot.
    private var dueMark: GenerationMark? {
        guard let committed = volume.committed, let committedAt = volume.committedAt else {
            return nil
        }
        return GenerationMark(
            number: committed.head.number, id: committed.id,
            sourceTime: committed.head.sourceTime, committedAt: committedAt)
    }

    /// The kept generations to release.
    private func expired(
        _ kept: [KeptGeneration], _ retention: Retention
    ) throws -> [KeptGeneration] {
        let now = try retention.seconds.map { _ in
            try home.catalog.retentionTime(volume.name, .now)
        }
        return retention.expired(of: kept, now: now ?? Clock.wall())
    }

    /// Updates the catalog to the snapshots that LVM has.
    ///
    /// - Returns: the snapshots, newest first.
    func compare(_ found: [KeptGeneration]) throws -> [KeptGeneration] {
        try home.catalog.setKept(volume.name, found)
        return try home.catalog.kept(volume.name)
    }
}

extension KeptGeneration {
    /// A generation that has no snapshot yet.
    fileprivate init(due mark: GenerationMark) {
        self.init(
            number: mark.number, id: mark.id, sourceTime: mark.sourceTime,
            committedAt: mark.committedAt, snapshot: "", snapshotUUID: "", thinDevice: .max)
    }
}

extension RetentionClock {
    /// Reads the clocks of this host.
    static var now: RetentionClock {
        RetentionClock(
            time: Clock.wall(), boot: Host.bootID ?? "", sinceBoot: Clock.sinceBoot())
    }
}
