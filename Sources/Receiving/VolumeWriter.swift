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

/// The only writer of a volume: recovery, and the path from a committed staging log to the target.
///
/// It holds the volume's lock and presents its fencing number with every change of the catalog, so
/// that a writer that was presumed dead cannot change anything after its successor has started.
package final class VolumeWriter {
    /// The volume, as last read from the catalog.
    package private(set) var volume: StandbyVolume
    let home: StandbyHome
    let fence: UInt64
    /// Why keeping or releasing a generation failed; `nil` if it did not.
    package private(set) var keepingProblem: String?
    /// Warning about kept generations that gave way to the committed one.
    private var gaveWay: String?
    /// Why the hook of the last commit failed; `nil` if it did not.
    package private(set) var hookProblem: String?
    /// Whether to apply a committed generation even if the content of its target is unknown.
    var isForced = false
    /// Called during long steps; throwing ends them, except applying.
    var poll: () throws -> Void = {}
    private let lock: FileLock
    let map: TargetMap

    /// Takes the volume, or returns `nil` if another process holds it.
    package init?(_ home: StandbyHome, _ name: VolumeName) throws {
        guard let lock = try home.lock(name) else { return nil }
        self.lock = lock
        self.home = home
        map = TargetMap(home, name)
        fence = try home.takeFence(name)
        guard let volume = try home.catalog.volume(name) else { return nil }
        self.volume = volume
    }

    /// Takes the volume after a short wait if needed: a session or a command releases the volume
    /// only after its last answer.
    ///
    /// - Returns: `nil` if another process still holds it after three seconds.
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

    /// Opens the target exclusively for writing.
    func openTarget() throws(TargetError) -> Target {
        try Target(path: volume.targetPath, registered: volume.targetIdentity)
    }

    /// Activates a logical volume whose device node is missing, if this process may; a promoted
    /// copy belongs to the operator. If it fails, later steps report the missing target.
    private func activateTarget() {
        guard volume.state != .promoted || volume.isDemoted, !Directory.exists(volume.targetPath),
            let uuid = ObjectIdentity(volume.targetIdentity)?.object["dm"], uuid.hasPrefix("LVM-"),
            let id = LogicalVolumeID(String(uuid.dropFirst("LVM-".count)))
        else { return }
        try? home.volumes.activate(id, holding: lock)
    }

    /// Ensures that a device has room for `byteCount` bytes; grows a thin volume that is too small,
    /// if this process may.
    func fit(_ target: Target, to byteCount: UInt64) throws(TargetError) {
        if target.byteCount < byteCount, let volume = target.device?.logicalVolume {
            // A failure to grow is not reported: `prepare` reports that the device is too small,
            // with the remedy.
            try? home.volumes.grow(volume, to: byteCount, holding: lock)
            try target.measure()
        }
        try target.prepare(for: byteCount)
    }

    /// Finishes what an earlier process left behind, without the network.
    ///
    /// What a crash left, by the state in the catalog:
    /// 1. *empty, consistent, promoted, suspect, diverged*: at most a log that no transfer owns; it
    ///    is removed.
    /// 2. *initialising, staging*: the log of the unfinished transfer; it is kept for resuming. If
    ///    the log is missing, the transfer is dropped.
    /// 3. *prepared*: the log is complete and waits for the other members of its group; it is kept.
    ///    If it is missing, the transfer is dropped.
    /// 4. *applying*: the log is complete and committed; it is applied again from the start. An
    ///    error leaves the volume *applying*, with the reason; reading the target proves an attempt
    ///    that follows a failed one. If the log is damaged or the proof fails: *suspect*.
    package func recover(_ progress: (Progress) throws -> Void = { _ in }) throws {
        activateTarget()
        switch volume.state {
        case _ where volume.hasUntouchedTransfer:
            if !Directory.exists(logPath) { try abandon() }
        case .empty, .consistent, .promoted, .suspect, .diverged:
            if Directory.exists(logPath) { try home.removeLog(volume.name) }
        case .initialising where volume.isRestored:
            // The content of the target is unknown by now.
            try abandon()
        case .initialising, .staging, .prepared:
            if !Directory.exists(logPath) { try abandon() }
        case .applying:
            return try applyInRoomOfKept(progress)
        }
        // Another program may have written the target since.
        keepDue { try self.checkBeforeKeeping() }
    }

    /// Keeps the committed generation as a snapshot if that is due, and releases those beyond the
    /// limits. A failure does not affect the generation itself.
    ///
    /// - Parameter check: proves that the target still holds the generation, before a snapshot is
    ///   made.
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

    /// Does the same at the operator's request.
    func keepNow() throws -> String? {
        try keeper.keepNow { try self.checkBeforeKeeping() }
    }

    /// Drops the unfinished transfer, which has not touched a consistent target.
    ///
    /// - Parameter keepingComparison: keep the map that COMPARE made, for a transfer that begins
    ///   now.
    func abandon(keepingComparison: Bool = false) throws {
        try home.catalog.abandonTransfer(volume.name, fence: fence)
        try home.removeLog(volume.name)
        if !keepingComparison { try map.discard() }
        try refresh()
    }

    /// Commits the transfer whose segments are all durable.
    ///
    /// 1. The log is read back and proven, and its changes to the tag map are collected; the root
    ///    must match the record's. A crash leaves the unfinished transfer.
    /// 2. The catalog says *applying*. From here on the generation will be on the target.
    /// 3. The target is written and flushed. A crash leaves it torn; recovery starts again at 3.
    /// 4. The tag map is changed, and the catalog says *consistent*. A crash before leaves 3 to be
    ///    done again.
    /// 5. The log is removed. A crash before leaves a log that no transfer owns.
    /// 6. The generation is kept as a snapshot, if the operator wants that (`Keeper`). A crash
    ///    before leaves it due: it is made when the volume is next opened, before the target is
    ///    written again.
    ///
    /// In mode in place the content is already on the target; 1 and 3 only flush.
    ///
    /// For a member of a group, 2 differs: the catalog says *prepared* and, if it is the last
    /// member, in the same transaction that all of them are *applying* (`StandbyCatalog.prepare`).
    /// Otherwise the commit ends here, and the writer of the last member does 3 to 5 after its own.
    /// A volume that this writer cannot open is finished by whoever opens it next.
    ///
    /// - Parameter isHeld: whether the target was held since it was compared, if it was.
    /// - Parameter root: in mode in place, the root collected as the records arrived.
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
                // The target is not opened again before the group is complete.
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

    /// Applies another member of the group, as far as that is possible now.
    ///
    /// Its generation is committed in any case: what is not done now is done at the next chance,
    /// and errors show in the volume's state or at the next attempt.
    private func finish(_ name: VolumeName, _ progress: (Progress) throws -> Void) {
        guard let writer = try? VolumeWriter.soon(home, name) else { return }
        try? writer.recover(progress)
    }

    /// Ends the lineage here: from now on the target belongs to the operator.
    ///
    /// It takes a new fence, so that a backup of the state made while this writer was working is
    /// recognised as one.
    package func promote() throws {
        let fence = try home.takeFence(volume.name)
        try home.catalog.promote(volume.name, fence: fence, isChecked: !isForced)
        try refresh()
        if Directory.exists(logPath) { try home.removeLog(volume.name) }
        try map.discard()
    }

    /// Lets one resync overwrite a promoted target, or revokes that.
    func demote(_ isDemoted: Bool) throws {
        if !isDemoted, volume.hasUntouchedTransfer { try abandon() }
        try home.catalog.demote(volume.name, fence: fence, isDemoted)
        try refresh()
    }

    /// Forgets every generation, so that a full copy may follow.
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

    /// Applies the committed generation. While its thin pool lacks space, kept generations give way
    /// to it, one after each attempt.
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

    /// Applies the committed generation. It may be repeated any number of times and must be until
    /// it succeeds: the log holds the only complete generation. A waiting caller cannot stop it.
    ///
    /// - Parameter proven: the open target, if the log was just proven.
    private func finishApplying(
        _ told: (Progress) throws -> Void, onProven proven: Target? = nil
    ) throws {
        let progress: (Progress) -> Void = { try? told($0) }
        guard let record = volume.applying, let transfer = volume.transfer else {
            throw Refusal(.storage, "the catalog says applying, but not what")
        }
        do {
            let (target, isKnown) = try apply(record, transfer, onProven: proven, progress)
            // The log is the only complete generation until the target is known to hold the writes
            // at its path.
            try target.checkPlace()
            try keepMap(
                record, transfer, on: target,
                isProven: isKnown && volume.suspectReason == nil, progress)
            try target.checkPlace()
        } catch let error as TargetError {
            // This attempt did not touch a target that cannot be opened, and that may return.
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

    /// Runs the hook; the generation stays committed whatever happens.
    private func runHook(_ record: GenerationRecord) {
        hookProblem = nil
        do throws(CommandError) {
            try home.commitHook?.run(volume.name, record, target: volume.targetPath)
        } catch {
            hookProblem = "\(error)"
        }
    }

    /// - Returns: the target, and whether the blocks that the log does not touch are known to be
    ///   right.
    private func apply(
        _ record: GenerationRecord, _ transfer: StandbyTransfer, onProven proven: Target?,
        _ progress: (Progress) -> Void
    ) throws -> (Target, isKnown: Bool) {
        if transfer.inPlace {
            // Every segment was flushed before its ACK, but the target was not held since.
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
        // A target that this session has compared is known, even if a restored state had forgotten
        // it.
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

    /// Handles an error of the target or the log while a committed generation was applied. The
    /// target may hold parts of two generations, and the log the whole of one: the volume stays
    /// *applying* and is retried, however often it fails, until the operator gives the generation
    /// up. Only in mode in place, where no log can rewrite what a failed flush lost, the copy
    /// becomes *suspect*.
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
