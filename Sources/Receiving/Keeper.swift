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
    let home: StandbyHome
    let volume: StandbyVolume
    /// The volume's; what changes LVM holds it to its end.
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

    /// Whether the target is a volume of which snapshots can be kept.
    static func isPossible(on status: FileStatus) -> Bool {
        status.device.map { BlockDevice($0).isThin } ?? false
    }

    /// The target, if it is an active thin volume.
    static func thinVolume(at path: String) -> LogicalVolumeID? {
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

    /// Whether LVM has a snapshot of the committed generation. It shares every block of the target, which was not written
    /// since, so that each block that is written now needs a new one.
    var sharesEveryBlock: Bool {
        guard let target = Self.thinVolume(at: volume.targetPath), let owner = try? owner(),
            let kept = try? home.volumes.kept(of: target, by: owner)
        else { return false }
        return !isDue(kept)
    }

    func owner() throws -> KeptOwner {
        try home.catalog.keptOwner(volume.name, of: try home.identity().keyID)
    }

    /// Whether the target holds its committed generation as a whole, and is this standby's.
    static func isWhole(_ volume: StandbyVolume) -> Bool {
        // What a restored catalog says of the target is out of date until that was read.
        if volume.isRestored { return false }
        switch volume.state {
        case .consistent, .staging: return true
        // A member of a group that is not complete: a delta waits in its log, a full copy is on the target.
        case .prepared: return volume.committed != nil
        case .empty, .initialising, .applying, .promoted, .diverged, .suspect: return false
        }
    }

    /// Does what is due, if anything is, and remembers what went wrong.
    ///
    /// - Parameters:
    ///   - gaveWay: what is to be told of those that gave way to the generation.
    ///   - check: proves that the target holds the generation, if a snapshot is to be made.
    /// - Returns: what went wrong.
    func keepDue(telling gaveWay: String? = nil, check: () throws -> Void) -> String? {
        do {
            // While the copy is in question, and when it was handed over, every generation stays.
            guard Self.isWhole(volume), let retention = try home.catalog.retention(volume.name)
            else { return nil }
            let kept = try home.catalog.kept(volume.name)
            guard try isDue(kept) || !expired(kept, retention).isEmpty else { return nil }
            return try attempt(retention, telling: gaveWay, check)
        } catch {
            return "\(error)"
        }
    }

    /// Compares with what LVM has and does what is due.
    ///
    /// - Returns: what went wrong.
    func keepNow(check: () throws -> Void) throws -> String? {
        guard let retention = try home.catalog.retention(volume.name) else { return nil }
        return try attempt(retention, telling: nil, check)
    }

    private func attempt(
        _ retention: Retention, telling gaveWay: String?, _ check: () throws -> Void
    ) throws -> String? {
        // Room is looked at first: a snapshot that cannot be made may say something else.
        let warnings = try [gaveWay].compactMap { $0 } + roomWarnings(retention)
        var problem: String?
        do { try keep(retention, check) } catch { problem = "\(error)" }
        try home.catalog.setRetentionProblem(volume.name, problem)
        try home.catalog.setRetentionWarning(
            volume.name, warnings.isEmpty ? nil : warnings.joined(separator: "; "))
        return problem
    }

    /// Whether the target holds a whole generation of which there is no snapshot.
    private func isDue(_ kept: [KeptGeneration]) -> Bool {
        guard Self.isWhole(volume), let committed = volume.committed else { return false }
        return !kept.contains { $0.id == committed.id }
    }

    /// Releases what is beyond the limits, and keeps what is due. What frees room comes before what needs it, and a failure of
    /// the one leaves nothing of the other undone. Only the newest that there is stays until there is a newer one.
    ///
    /// - Parameter check: proves that the target holds the generation, before anything is made or released for it. Whether one
    ///   is due is for LVM to say: the catalog may know a snapshot that somebody has removed or renamed.
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
                    // In use, say, or written; the others may go.
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

    /// Whether the operator still wants what these limits say, and the owner's snapshots still are ours. To release some may
    /// take minutes.
    func mayRelease(_ owner: KeptOwner, _ retention: Retention? = nil) throws -> Bool {
        guard let now = try home.catalog.retention(volume.name), try self.owner() == owner else {
            return false
        }
        return retention.map { now == $0 } ?? true
    }

    /// The committed generation, for a snapshot.
    private var dueMark: GenerationMark? {
        guard let committed = volume.committed, let committedAt = volume.committedAt else {
            return nil
        }
        return GenerationMark(
            number: committed.head.number, id: committed.id,
            sourceTime: committed.head.sourceTime, committedAt: committedAt)
    }

    /// Those that are to go.
    private func expired(
        _ kept: [KeptGeneration], _ retention: Retention
    ) throws -> [KeptGeneration] {
        let now = try retention.seconds.map { _ in
            try home.catalog.retentionTime(volume.name, .now)
        }
        return retention.expired(of: kept, now: now ?? Clock.wall())
    }

    /// Brings the catalog to what LVM has.
    ///
    /// - Returns: the snapshots, newest first.
    func compare(_ found: [KeptGeneration]) throws -> [KeptGeneration] {
        try home.catalog.setKept(volume.name, found)
        return try home.catalog.kept(volume.name)
    }
}

extension KeptGeneration {
    /// One of which there is no snapshot yet.
    fileprivate init(due mark: GenerationMark) {
        self.init(
            number: mark.number, id: mark.id, sourceTime: mark.sourceTime,
            committedAt: mark.committedAt, snapshot: "", snapshotUUID: "", thinDevice: .max)
    }
}

extension RetentionClock {
    /// What the clocks of this host say.
    static var now: RetentionClock {
        RetentionClock(
            time: Clock.wall(), boot: Host.bootID ?? "", sinceBoot: Clock.sinceBoot())
    }
}
