// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Digests
internal import MapStore
internal import Objects
internal import Platform
internal import Staging
package import Wire

// Changes the targets and names of volumes, and removes volumes. It never touches the content of
// targets.

/// Result of changing a volume's target.
package struct RetargetResult: Sendable {
    package var path: String
    /// The generation that a read proved to be on the target; `nil` if no proof was requested or
    /// there is none.
    package var proven: GenerationRecord?
    /// Bytes that were read for the proof.
    package var readByteCount: UInt64 = 0
    /// State of the volume afterwards.
    package var state: VolumeState
}

/// What a removed volume leaves behind.
package struct RemoveResult: Sendable {
    package var targetPath: String
    package var state: VolumeState
    /// Snapshots that hold its kept generations.
    package var kept: [KeptGeneration]
}

/// Result of dropping an unfinished transfer.
package struct DropResult: Sendable {
    /// Number of the dropped generation.
    package var number: UInt64
    /// Facts of its staging log.
    package var staged: StagedLog?
    package var committed: GenerationRecord?
    package var state: VolumeState
}

extension Administration {
    /// Gives a volume another target, or the same one after its mark was lost.
    ///
    /// 1. The target is opened exclusively. If a complete generation should be on it, it is read in
    ///    full and must have the generation's root; if one is being applied, the blocks that it
    ///    does not touch must be the copy's; with `isForResync` it is not read, and the volume
    ///    becomes *diverged*, for a resync to repair. A crash leaves everything unchanged.
    /// 2. A file gets the volume's mark, and the catalog the new target, in one transaction. A
    ///    crash in between leaves a mark that no volume has; the next registration of the file
    ///    replaces it.
    /// 3. The map is stored, if it was made again. A crash before leaves it to be made when needed.
    /// 4. The old file loses its mark. A crash before leaves the mark, as after 2.
    ///
    /// - Parameters:
    ///   - isForResync: accept the target's content as the start of a resync.
    ///   - mayReplace: a generation that is being applied may replace the content, even if no block
    ///     that it does not touch proves that this is the target.
    ///   - givesUpGeneration: accept the loss of a committed generation that only the log holds
    ///     completely.
    ///   - isDryRun: stop after 1.
    /// - Throws: `AdministrationError.notRetargeted` if the target is not proven to hold the
    ///   generation.
    package func retarget(
        _ name: VolumeName, to path: String, isForResync: Bool, givesUpGeneration: Bool,
        mayReplace: Bool, isDryRun: Bool,
        _ progress: (Progress) throws -> Void = { _ in }
    ) throws -> RetargetResult {
        let writer = try writer(name)
        // What is pending belongs on the old target, if that exists.
        if !isDryRun { try? writer.recover(progress) }
        let volume = writer.volume
        guard volume.state != .promoted || isForResync else {
            throw AdministrationError.notRetargeted(
                name, path,
                "the volume is promoted, so that nothing tells what the new target should hold")
        }
        guard volume.state != .applying || !isForResync || givesUpGeneration else {
            throw AdministrationError.onlyInLog(name)
        }
        try TargetOwner.checkOwnState(home, path)
        let target = try Target(path: path, registered: nil)
        defer { withExtendedLifetime(target) {} }
        let object = try TargetObject(path: path)
        let owner = try TargetOwner(home, object)
        try owner.check(name, among: try home.catalog.volumes())
        var result = RetargetResult(path: path, state: volume.state)
        let map = TargetMap(home, name)
        var isProven = false
        if !isForResync, volume.state == .applying || isOnTarget(volume) {
            try proveUnfinished(writer, object, mayReplace, progress)
            isProven = true
        } else if !isForResync, let committed = volume.committed {
            result.readByteCount = try prove(committed, volume, object, map, isDryRun, progress)
            result.proven = committed
            isProven = true
        }
        // The resync was compared with the old target or its old content.
        let isStale = volume.transfer?.begin.head.kind == .resync && volume.state != .applying
        result.state = Self.state(of: volume, isProven: isProven)
        if isStale, result.state == .staging { result.state = .consistent }
        guard !isDryRun else { return result }
        if isStale || volume.state == .initialising { try writer.abandon() }
        let old = try? TargetObject(path: volume.targetPath)
        try claiming { claim in
            try home.catalog.setTarget(
                name, fence: writer.fence,
                StandbyCatalog.NewTarget(
                    path: path, kind: object.kind, formerState: writer.volume.state,
                    state: result.state,
                    presence: object.device.flatMap { VolumeWriter.presence(of: $0) },
                    reason: "the target is \(path) now, and was not compared")
            ) { others in
                try claim {
                    try owner.check(name, among: others)
                    return "\(try owner.claim(for: name))"
                }
            }
        }
        let isOther = object.identity.relation(to: old?.identity ?? object.identity) != .same
        if let old, isOther { TargetOwner.release(home, old, volume) }
        return result
    }

    /// Whether a first copy that waits for its group is on the target rather than in the log.
    private func isOnTarget(_ volume: StandbyVolume) -> Bool {
        volume.state == .prepared && volume.transfer?.inPlace == true
    }

    /// Proves that a target may get the rest of a generation that is being applied or waits for its
    /// group. The registered object at another path is the same target, unless the state was
    /// restored; any other must hold what the generation does not touch or, for a first copy, all
    /// of it.
    private func proveUnfinished(
        _ writer: VolumeWriter, _ object: TargetObject, _ mayReplace: Bool,
        _ progress: (Progress) throws -> Void
    ) throws {
        let volume = writer.volume
        if !volume.isRestored, let registered = ObjectIdentity(volume.targetIdentity),
            case .same = registered.relation(to: object.identity)
        {
            return
        }
        guard let transfer = volume.transfer else { return }
        do {
            if transfer.inPlace {
                try writer.checkWritten(object.path, transfer.begin, progress)
            } else {
                try writer.checkAll(
                    of: object.path, transfer.begin, isTorn: true, mayReplace: mayReplace, progress)
            }
        } catch TargetError.replaced(_, _, 0) where !transfer.inPlace && !mayReplace {
            throw AdministrationError.notRetargeted(
                volume.name, object.path,
                "nothing that its generation does not touch proves that this is the target")
        } catch let error as TargetError {
            throw AdministrationError.notRetargeted(
                volume.name, object.path,
                "\(error): the volume is \(volume.state), and what its generation does not touch is not the copy's"
            )
        }
    }

    /// The volume's state with a target that is or is not proven.
    private static func state(of volume: StandbyVolume, isProven: Bool) -> VolumeState {
        switch volume.state {
        case .empty, .initialising: .empty
        case .promoted: .promoted
        case .suspect, .diverged: isProven ? .consistent : volume.state
        case .staging: isProven ? .staging : .diverged
        case .consistent: isProven ? .consistent : .diverged
        case .applying, .prepared: isProven ? volume.state : .diverged
        }
    }

    /// Reads the whole target, which must hold the committed generation.
    ///
    /// - Returns: number of bytes read.
    private func prove(
        _ committed: GenerationRecord, _ volume: StandbyVolume, _ object: TargetObject,
        _ map: TargetMap, _ isDryRun: Bool, _ progress: (Progress) throws -> Void
    ) throws -> UInt64 {
        let size = committed.head.volumeSize
        func refuse(_ reason: String) -> AdministrationError {
            .notRetargeted(volume.name, object.path, reason)
        }
        if let problem = object.problem(holding: size) { throw refuse(problem) }
        guard let key = volume.tagKey else {
            throw Refusal(.storage, "the catalog has no tag key for the volume")
        }
        let known = map.committed(volume)
        guard let root = committed.volumeRoot == .zero ? known?.root : committed.volumeRoot else {
            throw refuse(
                "its tag map is gone and the generation has no root, so that nothing could prove it"
            )
        }
        let found = try map.compareAll(
            object.path, known, Tagger(committed.head.tagAlgorithm, key: key),
            volumeByteCount: size,
            progress
        ) { found, path in
            guard found.root == root, known == nil, !isDryRun else { return }
            try found.seal(lineage: committed.head.lineage, generation: committed.id)
            try Directory.move(path, to: map.path)
        }
        guard found.root == root else {
            throw refuse(
                found.divergence.map { "\($0.count) blocks of 64 KiB differ" }
                    ?? "its content differs")
        }
        return found.readByteCount
    }

    /// Forgets a volume.
    ///
    /// 1. The catalog forgets it, with its invitations and the list of its kept generations. A
    ///    crash before leaves everything unchanged.
    /// 2. Its log, its maps and the mark on its file are removed. A crash before leaves files that
    ///    no volume names; a new volume of this name replaces them.
    ///
    /// - Parameter isDryRun: change nothing.
    /// - Throws: if a committed generation is not on the target yet, because only the log has all
    ///   of it.
    package func remove(_ name: VolumeName, isDryRun: Bool) throws -> RemoveResult {
        let writer = try writer(name)
        let volume = writer.volume
        guard volume.state != .applying else {
            throw AdministrationError.onlyInLog(name)
        }
        let result = RemoveResult(
            targetPath: volume.targetPath, state: volume.state,
            kept: try home.catalog.kept(name))
        guard !isDryRun else { return result }
        try home.catalog.removeVolume(name)
        try home.removeLog(name)
        try writer.map.remove()
        if let object = try? TargetObject(path: volume.targetPath) {
            TargetOwner.release(home, object, volume)
        }
        return result
    }

    /// Drops the unfinished transfer of a volume if no part of it has touched a copy:
    /// `VolumeWriter.abandon`.
    ///
    /// - Parameter isDryRun: change nothing.
    /// - Throws: if there is none, or if its generation is committed or waits for its group.
    package func dropTransfer(_ name: VolumeName, isDryRun: Bool) throws -> DropResult {
        let writer = try writer(name)
        let volume = writer.volume
        switch volume.state {
        case .applying: throw AdministrationError.onlyInLog(name)
        case .prepared: throw AdministrationError.waitsForGroup(name)
        case .empty, .initialising, .consistent, .staging, .promoted, .diverged, .suspect: break
        }
        guard let transfer = volume.transfer else {
            throw AdministrationError.noTransfer(name, volume.state)
        }
        let staged = home.stagedLog(name)
        if !isDryRun { try writer.abandon() }
        let isUntouched = volume.hasUntouchedTransfer
        return DropResult(
            number: transfer.begin.head.number, staged: staged, committed: volume.committed,
            state: isUntouched ? volume.state : volume.committed == nil ? .empty : .consistent)
    }

    /// Renames a volume. Its source must follow with `blockferry rename`.
    ///
    /// 1. The catalog takes the new name. A crash before leaves everything unchanged.
    /// 2. Map and log are renamed. A crash before leaves them behind: the map is made again by
    ///    reading the target, an unfinished transfer starts again.
    /// 3. The mark on a file gets the new name. A crash before leaves that to the next session.
    ///
    /// - Parameter isDryRun: change nothing.
    package func rename(_ name: VolumeName, to new: VolumeName, isDryRun: Bool) throws {
        let writer = try writer(name)
        guard try home.catalog.volume(new) == nil else {
            throw CatalogError(
                path: home.path, operation: "rename volume \(name)",
                kind: .conflict("there is a volume of the name \(new)"))
        }
        // Without its log a committed generation would be lost.
        if !isDryRun { try writer.recover() }
        guard ![.applying, .prepared].contains(writer.volume.state) else {
            throw CatalogError(
                path: home.path, operation: "rename volume \(name)",
                kind: .conflict(
                    "the volume is \(writer.volume.state)"))
        }
        guard !isDryRun else { return }
        guard let lock = try home.lock(new) else { throw AdministrationError.busy(new) }
        defer { withExtendedLifetime(lock) {} }
        try home.catalog.renameVolume(name, fence: writer.fence, to: new)
        try writer.map.move(to: TargetMap(home, new))
        if Directory.exists(home.logPath(name)) {
            try Directory.move(home.logPath(name), to: home.logPath(new))
        }
        if let object = try? TargetObject(path: writer.volume.targetPath),
            (try? object.compare(registered: writer.volume.targetIdentity)) != nil,
            object.mark != nil
        {
            _ = try TargetOwner(home, object).refreshMark(for: new)
        }
    }
}
