// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Catalog
internal import Digests
internal import MapStore
internal import Objects
internal import Platform
internal import Staging
internal import Volumes
package import Wire

/// The one writer of a volume: recovery, and the way from a committed staging log to the target.
///
/// It holds the volume's lock and presents its fencing number with every change of the catalog, so that a
/// writer that was believed dead cannot change anything after its successor has begun.
package final class VolumeWriter {
    /// The volume, as the catalog had it last.
    package private(set) var volume: StandbyVolume
    let home: StandbyHome
    let fence: UInt64
    /// Why a generation could not be kept or released, if that was tried and went wrong.
    package private(set) var keepingProblem: String?
    /// What is to be told of kept generations that gave way to the one that is committed.
    private var gaveWay: String?
    /// Why what was to be run after the last commit has failed, if it did.
    package private(set) var hookProblem: String?
    /// Whether a committed generation is written although nobody knows what its target holds by now.
    var isForced = false
    /// Called while something takes long; what it throws ends that. What is being applied is not ended.
    var poll: () throws -> Void = {}
    private let lock: FileLock
    let map: TargetMap

    /// Takes the volume, or returns nothing if another process has it.
    package init?(_ home: StandbyHome, _ name: VolumeName) throws {
        guard let lock = try home.lock(name) else { return nil }
        self.lock = lock
        self.home = home
        map = TargetMap(home, name)
        fence = try home.takeFence(name)
        guard let volume = try home.catalog.volume(name) else { return nil }
        self.volume = volume
    }

    /// Takes the volume, if need be a little later: who ends a session or a command lets go of the volume only after its
    /// last answer.
    ///
    /// - Returns: nothing if another process still has it after three seconds.
    static func soon(_ home: StandbyHome, _ name: VolumeName) throws -> VolumeWriter? {
        let due = Clock.monotonic() + 3 * nanosecondsPerSecond
        while Clock.monotonic() < due {
            if let writer = try VolumeWriter(home, name) { return writer }
            Clock.sleep(milliseconds: 20)
        }
        return try VolumeWriter(home, name)
    }

    /// Keeps past generations of the volume.
    var keeper: Keeper { Keeper(home, volume, holding: lock) }

    var logPath: String { home.logPath(volume.name) }

    func refresh() throws {
        if let volume = try home.catalog.volume(volume.name) { self.volume = volume }
    }

    /// Opens the target for writing, which nobody else may have open.
    func openTarget() throws(TargetError) -> Target {
        try Target(path: volume.targetPath, registered: volume.targetIdentity)
    }

    /// Activates a logical volume whose node is missing, if somebody may; a copy that was handed over is its operator's. Without
    /// it what follows says that the target is missing.
    private func activateTarget() {
        guard volume.state != .promoted || volume.isDemoted, !Directory.exists(volume.targetPath),
            let uuid = ObjectIdentity(volume.targetIdentity)?.object["dm"], uuid.hasPrefix("LVM-"),
            let id = LogicalVolumeID(String(uuid.dropFirst("LVM-".count)))
        else { return }
        try? home.volumes.activate(id, holding: lock)
    }

    /// Makes sure that a device has room for so many bytes: one that is too small grows, if it is a thin volume that
    /// somebody may grow.
    func fit(_ target: Target, to byteCount: UInt64) throws(TargetError) {
        if target.byteCount < byteCount, let volume = target.device?.logicalVolume {
            // Why it does not grow is not told: that it is too small is, and what mends that.
            try? home.volumes.grow(volume, to: byteCount, holding: lock)
            try target.measure()
        }
        try target.prepare(for: byteCount)
    }

    /// Finishes what an earlier process left behind, without the network.
    ///
    /// What a crash left, by the state in the catalog:
    /// 1. *empty, consistent, promoted, suspect, diverged*: at most a log that no transfer owns; it is removed.
    /// 2. *initialising, staging*: the log of the unfinished transfer; it is kept for resuming. If the log is
    ///    gone, so is the transfer.
    /// 3. *prepared*: the log is whole and waits for the other members of its group; it is kept. If it is gone,
    ///    so is the transfer.
    /// 4. *applying*: the log is whole and committed; it is applied again from the beginning. An error leaves it
    ///    *applying*, with the reason; an attempt after a failed one is proven by reading the target. If the log is damaged,
    ///    or the proof fails: *suspect*.
    package func recover(_ progress: (Progress) throws -> Void = { _ in }) throws {
        activateTarget()
        switch volume.state {
        case _ where volume.hasUntouchedTransfer:
            if !Directory.exists(logPath) { try abandon() }
        case .empty, .consistent, .promoted, .suspect, .diverged:
            if Directory.exists(logPath) { try home.removeLog(volume.name) }
        case .initialising where volume.isRestored:
            // Nobody knows whose content the target holds by now.
            try abandon()
        case .initialising, .staging, .prepared:
            if !Directory.exists(logPath) { try abandon() }
        case .applying:
            return try applyInRoomOfKept(progress)
        }
        // Somebody may have written the target since.
        keepDue { try self.checkBeforeKeeping() }
    }

    /// Keeps the committed generation as a snapshot if that is due, and releases those beyond the limits. If it goes
    /// wrong, that takes nothing from the generation itself.
    ///
    /// - Parameter check: proves, before a snapshot is made, that the target still holds the generation.
    private func keepDue(check: () throws -> Void = {}) {
        keepingProblem = keeper.keepDue(telling: gaveWay, check: check)
    }

    private func checkBeforeKeeping() throws {
        try checkTarget()
        guard Keeper.isWhole(volume) else {
            throw Keeper.Problem(
                description: volume.suspectReason ?? "the target does not hold the generation")
        }
    }

    /// The same, because an operator asks for it.
    func keepNow() throws -> String? {
        try keeper.keepNow { try self.checkBeforeKeeping() }
    }

    /// Drops the unfinished transfer; a consistent target was not touched by it.
    ///
    /// - Parameter keepingComparison: whether the map that COMPARE made stays, for a transfer that begins now.
    func abandon(keepingComparison: Bool = false) throws {
        try home.catalog.abandonTransfer(volume.name, fence: fence)
        try home.removeLog(volume.name)
        if !keepingComparison { try map.discard() }
        try refresh()
    }

    /// Commits the transfer whose segments are all durable.
    ///
    /// 1. The log is read back and proven, and what it changes in the tag map is collected; the root must be that of
    ///    the record. A crash leaves the unfinished transfer.
    /// 2. The catalog says *applying*. From here on the generation will be on the target.
    /// 3. The target is written and flushed. A crash leaves it torn; recovery starts again at 3.
    /// 4. The tag map is changed, and the catalog says *consistent*. A crash before leaves 3 to be done again.
    /// 5. The log is removed. A crash before leaves a log that no transfer owns.
    /// 6. The generation is kept as a snapshot, if that is wanted (`Keeper`). A crash before leaves it due: it is
    ///    made when the volume is opened next, which is before the target is written again.
    ///
    /// In mode in place the content is on the target already; 1 and 3 have nothing to do but flush.
    ///
    /// Of a member of a group, 2 is another step: the catalog says *prepared*, and, if it is the last member,
    /// in the same transaction that all of them are *applying* (`StandbyCatalog.prepare`). Else it ends here, and 3
    /// to 5 are done by the writer of the last member, after its own. What that one cannot open is done by whoever
    /// opens the volume next.
    ///
    /// - Parameter isHeld: whether the target was held since it was compared, if it was.
    /// - Parameter root: in mode in place, the root that was collected while the records came in.
    /// - Returns: whether the target holds the generation; if not, it waits for its group.
    func commit(
        _ record: GenerationRecord, on target: Target, isHeld: Bool, root: SHA256Digest?,
        _ progress: (Progress) throws -> Void
    ) throws -> Bool {
        let transfer = volume.transfer
        if transfer?.inPlace == false {
            let room = Room(target, keeper)
            try checkRoot(try proveAndCollect(record, room, progress), record)
            try checkAnchor(on: target, isHeld: isHeld, progress)
            try room.check(record, volume)
            gaveWay = room.gaveWay
        } else {
            try checkInPlace(record, root, progress)
        }
        try target.checkPlace()
        if transfer?.begin.group != nil {
            if transfer?.inPlace == true {
                // Nobody opens the target again before the group is complete.
                do {
                    try target.prepare(for: record.head.volumeSize)
                    try target.sync()
                } catch {
                    if case .failed = error, !error.isLackOfRoom { try suspect("\(error)") }
                    throw error
                }
            }
            let preparation = try home.catalog.prepare(volume.name, fence: fence, record)
            try refresh()
            guard case .complete(let members) = preparation else { return false }
            try finishApplying(progress, onProven: target)
            for name in members where name != volume.name { finish(name, progress) }
        } else {
            try home.catalog.beginApplying(volume.name, fence: fence, record)
            try refresh()
            try finishApplying(progress, onProven: target)
        }
        return true
    }

    /// Brings another member of the group to its target, as far as that is possible now.
    ///
    /// It is committed whatever happens here: what is not done now is done at the next chance, and an error is found
    /// in the volume's state, or by whoever tries again.
    private func finish(_ name: VolumeName, _ progress: (Progress) throws -> Void) {
        guard let writer = try? VolumeWriter.soon(home, name) else { return }
        try? writer.recover(progress)
    }

    /// Ends the lineage here: the target is the operator's from now on.
    ///
    /// It takes a fence of its own, so that a backup of the state that was made while this writer was at work is known as one.
    package func promote() throws {
        let fence = try home.takeFence(volume.name)
        try home.catalog.promote(volume.name, fence: fence, isChecked: !isForced)
        try refresh()
        if Directory.exists(logPath) { try home.removeLog(volume.name) }
        try map.discard()
    }

    /// Lets one resync overwrite what a promoted target holds, or takes that back.
    func demote(_ isDemoted: Bool) throws {
        if !isDemoted, volume.hasUntouchedTransfer { try abandon() }
        try home.catalog.demote(volume.name, fence: fence, isDemoted)
        try refresh()
    }

    /// Forgets every generation, so that a full copy may come again.
    package func reset() throws {
        try home.catalog.reset(volume.name, fence: fence)
        try refresh()
        if Directory.exists(logPath) { try home.removeLog(volume.name) }
        try map.remove()
    }

    func redo(_ record: GenerationRecord) throws -> Redo {
        Redo(path: logPath, record: record, key: try tagKey())
    }

    func tagKey() throws -> TagKey {
        guard let key = volume.transfer?.begin.tagKey ?? volume.tagKey else {
            throw Refusal(.storage, "the catalog has no tag key for the volume")
        }
        return key
    }

    func prove(
        _ redo: Redo, _ progress: (Progress) throws -> Void,
        _ body: (RecordHeader, ContentProof.Content?) throws -> Void = { _, _ in }
    ) throws {
        let total = volume.transfer?.begin.plannedContent ?? 0
        var done: UInt64 = 0
        try redo.prove { record, content in
            try body(record, content)
            done += UInt64(content?.count ?? 0)
            try progress(Progress(phase: .proving, done: min(done, total), total: total))
        }
    }

    /// Brings the committed generation to the target. While its thin pool has no room, kept generations give way to it, one
    /// after each attempt.
    private func applyInRoomOfKept(_ told: (Progress) throws -> Void) throws {
        var released: [KeptGeneration] = []
        while true {
            do { return try finishApplying(told) } catch let error as TargetError {
                guard error.isLackOfRoom, volume.state == .applying,
                    volume.transfer?.inPlace == false, let number = volume.applying?.head.number
                else { throw error }
                let (more, hasHelped) = keeper.giveWay(toWaiting: number)
                released += more
                gaveWay = Keeper.sentence(released, for: number)
                guard hasHelped else { throw error }
            }
        }
    }

    /// Brings the committed generation to the target. It may be done any number of times, and is done until it has
    /// worked: what the log holds is the only whole generation that is left. Nobody who waits can stop it.
    ///
    /// - Parameter proven: the target, open already, if the log was just proven.
    private func finishApplying(
        _ told: (Progress) throws -> Void, onProven proven: Target? = nil
    ) throws {
        let progress: (Progress) -> Void = { try? told($0) }
        guard let record = volume.applying, let transfer = volume.transfer else {
            throw Refusal(.storage, "the catalog says applying, but not what")
        }
        do {
            let (target, isKnown) = try apply(record, transfer, onProven: proven, progress)
            // The log is the only whole generation until what was written is where it is looked for.
            try target.checkPlace()
            try keepMap(
                record, transfer, on: target,
                isProven: isKnown && volume.suspectReason == nil, progress)
            try target.checkPlace()
        } catch let error as TargetError {
            // A target that cannot be opened was not touched by this attempt, and may come back.
            if case .failed(let failure) = error {
                try failedToApply(failure, inPlace: transfer.inPlace)
            }
            throw error
        } catch let error as Redo.Failure {
            switch error {
            case .target(.failed(let failure)), .log(.failed(let failure)):
                try failedToApply(failure, inPlace: transfer.inPlace)
            case .target, .stopped: break
            case .log, .otherGeneration: try suspect("\(error)")
            }
            if case .target(let refused) = error { throw refused }
            throw error
        }
        try home.catalog.commit(volume.name, fence: fence, committedAt: Clock.wall())
        try home.removeLog(volume.name)
        try map.discard()
        try refresh()
        keepDue()
        runHook(record)
    }

    /// The generation is committed, whatever comes of it.
    private func runHook(_ record: GenerationRecord) {
        hookProblem = nil
        do throws(CommandError) {
            try home.commitHook?.run(volume.name, record, target: volume.targetPath)
        } catch {
            hookProblem = "\(error)"
        }
    }

    /// - Returns: the target, and whether what the log does not touch is known to be as it should.
    private func apply(
        _ record: GenerationRecord, _ transfer: StandbyTransfer, onProven proven: Target?,
        _ progress: (Progress) -> Void
    ) throws -> (Target, isKnown: Bool) {
        if transfer.inPlace {
            // Every segment was flushed before it was acknowledged, but nobody has held the target since.
            let target = try proven ?? openTarget()
            if proven == nil, !isForced { try checkWhole(target.path, record, progress) }
            try target.prepare(for: record.head.volumeSize)
            try target.trim(to: record.head.volumeSize)
            try target.sync()
            return (target, true)
        }
        let redo = try redo(record)
        if proven == nil { try prove(redo, progress) }
        let target = try proven ?? openTarget()
        // A target that this session has compared is known, whatever a backup of the state may have forgotten before.
        let isDoubtful = try proven == nil && (volume.isRestored || isUnnamed(target.path))
        if isDoubtful, !isForced { try checkAll(of: target.path, transfer.begin, progress) }
        let isKnown =
            try proven != nil
            || checkUntouched(on: target, transfer.begin, size: record.head.volumeSize)
        let total = transfer.begin.plannedContent
        var done: UInt64 = 0
        try redo.apply(to: target) { more in
            done += more
            progress(Progress(phase: .applying, done: min(done, total), total: total))
        }
        return (target, isKnown && !isDoubtful)
    }

    /// The target, or the log, gave an error while a committed generation was brought to the target. The target may hold
    /// parts of two generations, and the log the whole of one: the volume stays *applying* and is tried again, however often
    /// it fails, until the operator gives the generation up. Only in place, where no log could write again what a failed
    /// flush has lost, the copy is given up.
    private func failedToApply(_ error: SystemCallError, inPlace: Bool) throws {
        if inPlace, !error.isNoSpace { return try suspect("\(error)") }
        try home.catalog.noteApplyingProblem(volume.name, fence: fence, reason: "\(error)")
        try refresh()
    }

    /// Declares the copy untrustworthy; final until the operator acts.
    func suspect(_ reason: String) throws {
        try home.catalog.markSuspect(volume.name, reason: reason)
        try refresh()
    }
}
