// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import Digests
internal import MapStore
internal import Objects
internal import Platform
internal import Staging
internal import TagMap
internal import Wire

/// Checks that the target is the registered one and holds what the catalog says, before the
/// volume's state is reported.
extension VolumeWriter {
    /// Checks the target; `recover` must have finished any apply.
    ///
    /// 1. It exists, is the registered object, and no other volume's or standby's: otherwise
    ///    `TargetError`, and nothing has changed.
    /// 2. If a complete generation should be on it, it has the required size, and some blocks hold
    ///    what the map says (`ContentAnchor`). If not, the volume becomes *diverged*; if almost no
    ///    block matches, `TargetError.replaced`, and nothing has changed.
    /// 3. The catalog gets the object's current names.
    ///
    /// A promoted target belongs to the operator and is not checked, unless it was demoted.
    func checkTarget(_ progress: (Progress) throws -> Void = { _ in }) throws {
        guard let (object, owner, problem) = try examineTarget(progress) else { return }
        if let problem { return try diverge(problem) }
        switch volume.state {
        case .consistent, .staging:
            if volume.isRestored {
                try home.catalog.noteProven(volume.name, fence: fence)
                try refresh()
            }
            try adopt(object, owner)
        case .empty: try adopt(object, owner)
        case .initialising, .applying, .prepared, .promoted, .diverged, .suspect: break
        }
    }

    /// Does the same for a dry run: refuses what it finds and records nothing.
    func checkTargetUnchanged() throws {
        guard let problem = try examineTarget({ _ in })?.problem else { return }
        throw Refusal(.lineage, rule: .diverged, problem)
    }

    /// - Returns: the target, and why it does not hold what the catalog says; `nil` if that was not
    ///   checked.
    private func examineTarget(
        _ progress: (Progress) throws -> Void
    ) throws -> (TargetObject, TargetOwner, problem: String?)? {
        guard volume.state != .promoted || volume.isDemoted else { return nil }
        let object = try TargetObject(path: volume.targetPath)
        try object.compare(registered: volume.targetIdentity)
        try checkPresence(object)
        try object.checkResumed(patience: Self.suspensionPatience)
        let owner = try TargetOwner(home, object)
        try owner.check(volume.name, among: try home.catalog.volumes())
        var problem: String?
        switch volume.state {
        case .consistent, .staging: problem = try findProblem(object, progress)
        case .empty: try checkUnoccupied(object)
        case .initialising, .applying, .prepared, .promoted, .diverged, .suspect: break
        }
        return (object, owner, problem)
    }

    /// Refuses a device without a persistent name if it may be another one by now and no content
    /// can show that.
    func checkPresence(_ object: TargetObject) throws(TargetError) {
        guard isUnnamed(object) else { return }
        switch volume.state {
        // For these, the content is compared.
        case .consistent, .staging, .applying, .prepared: return
        case .empty where !volume.mayOverwrite: return
        case .empty, .initialising, .promoted, .diverged, .suspect: break
        }
        throw .foreign(
            object.path, registered: "the device of another start of this host",
            found: "no serial number, and so no name that outlives a restart")
    }

    /// Whether a target is a device without a persistent name that was attached again since it was
    /// last known to be the right one.
    private func isUnnamed(_ object: TargetObject) -> Bool {
        guard let device = object.device, object.identity.object.isEmpty,
            let registered = volume.targetPresence
        else { return false }
        return registered != Self.presence(of: device)
    }

    func isUnnamed(_ path: String) throws(TargetError) -> Bool {
        isUnnamed(try TargetObject(path: path))
    }

    /// How long a target may stay suspended, in milliseconds.
    private static let suspensionPatience: UInt64 = 10_000

    /// Refuses a first copy onto content that the operator has not allowed to be replaced.
    func checkUnoccupied(_ object: TargetObject) throws {
        guard !volume.mayOverwrite, let content = try TargetContent.describe(object) else { return }
        throw TargetError.occupied(object.path, by: content, volume: volume.name)
    }

    /// Compares the target's content with the committed generation.
    private func findProblem(
        _ object: TargetObject, _ progress: (Progress) throws -> Void
    ) throws -> String? {
        guard let committed = volume.committed else { return nil }
        if let problem = object.problem(holding: committed.head.volumeSize) { return problem }
        do {
            do { try compare(object, committed, progress) } catch MapError.damaged {
                try map.removeCommitted()
                try compare(object, committed, progress)
            }
        } catch let divergence as TargetDivergence {
            return "\(divergence)"
        }
        return nil
    }

    private func compare(
        _ object: TargetObject, _ committed: GenerationRecord, _ progress: (Progress) throws -> Void
    ) throws {
        let key = try committedKey()
        let tagger = Tagger(committed.head.tagAlgorithm, key: key)
        guard let known = map.committed(volume) else {
            return try map.rebuildProven(committed, volume.targetPath, key, progress)
        }
        guard !isMergeUnseen(object), !volume.isRestored else {
            let found = try map.compareAll(
                volume.targetPath, known, tagger, volumeByteCount: committed.head.volumeSize,
                progress)
            if let divergence = found.divergence { throw divergence }
            return
        }
        let anchor = try ContentAnchor(known, tagger) { offset, memory, count in
            try object.read(at: offset, into: memory, count: count)
        }
        try anchor.check(object.path)
    }

    private func committedKey() throws -> TagKey {
        guard let key = volume.tagKey else {
            throw Refusal(.storage, "the catalog has no tag key for the volume")
        }
        return key
    }

    /// Whether a snapshot may have been merged unnoticed into a thin volume: LVM's name and UUID
    /// stay the same, and device-mapper could not report the id in the pool.
    private func isMergeUnseen(_ object: TargetObject) -> Bool {
        guard let device = object.device, device.isThin,
            let registered = ObjectIdentity(volume.targetIdentity)
        else { return false }
        if registered.object["thin"] != nil, object.identity.object["thin"] != nil { return false }
        return Self.presence(of: device) != volume.targetPresence
    }

    static func presence(of device: BlockDevice) -> String? {
        guard let boot = Host.bootID, let presence = device.presence else { return nil }
        return "\(boot) \(presence)"
    }

    /// Records the names of the target, once it is known to be the right one.
    private func adopt(_ object: TargetObject, _ owner: TargetOwner) throws {
        var identity = try owner.refreshMark(for: volume.name)
        if identity.kind == .device, let registered = ObjectIdentity(volume.targetIdentity) {
            // Keep facts that could not be determined this time.
            identity.object.merge(registered.object) { found, _ in found }
        }
        let presence = object.device.flatMap {
            $0.isThin || identity.object.isEmpty ? Self.presence(of: $0) : nil
        }
        let text = "\(identity)"
        guard text != volume.targetIdentity || presence != volume.targetPresence else { return }
        try home.catalog.noteTarget(
            volume.name, fence: fence, identity: text, presence: presence)
        try refresh()
    }

    /// Records that another program wrote to the target. The staged transfer does not fit it any
    /// more.
    func diverge(_ reason: String) throws {
        if volume.state == .staging { try abandon() }
        try home.catalog.markDiverged(volume.name, reason: reason)
        try refresh()
    }

    /// Checks the target's sample blocks before a generation is applied, while no other program can
    /// write it.
    ///
    /// A comparison from an earlier session proves nothing, because the target was not held since:
    /// a resync's target is read in full again.
    ///
    /// - Parameter isHeld: whether the target was held since the comparison.
    func checkAnchor(
        on target: Target, isHeld: Bool, _ progress: (Progress) throws -> Void
    ) throws {
        if !isHeld, let begin = volume.transfer?.begin, begin.head.kind == .resync,
            let known = map.compared(begin.comparedRoot)
        {
            let found = try map.compareAll(
                target.path, known, Tagger(begin.head.tagAlgorithm, key: try tagKey()),
                volumeByteCount: known.shape.volumeByteCount, progress)
            if let divergence = found.divergence { throw divergence }
        }
        do { try compareAnchor(on: target, progress) } catch MapError.damaged {
            // The map is made again from the target, and its root shows whether that is right.
            try map.removeCommitted()
            try compareAnchor(on: target, progress)
        }
    }

    private func compareAnchor(on target: Target, _ progress: (Progress) throws -> Void) throws {
        guard let begin = volume.transfer?.begin else { return }
        let known = try mapBefore(begin, progress)
        let tagger = Tagger(begin.head.tagAlgorithm, key: try tagKey())
        let anchor = try ContentAnchor(known, tagger) { offset, memory, count in
            try target.read(at: offset, into: memory, count: count)
        }
        // For a resync, the comparison is out of date.
        if begin.head.kind == .resync, let divergence = anchor.divergence { throw divergence }
        try anchor.check(target.path)
    }

    /// Checks the blocks that a committed generation does not touch, before it is applied again to
    /// a target that may be torn.
    ///
    /// - Returns: whether they are right, as far as known. If not, read the whole target before the
    ///   generation counts.
    /// - Throws: `TargetError.replaced` if almost no block matches.
    func checkUntouched(on target: Target, _ begin: Begin, size: UInt64) throws -> Bool {
        let known =
            begin.head.kind == .resync
            ? map.compared(begin.comparedRoot) ?? map.committed(volume) : map.committed(volume)
        guard let known, var updates = try? MapUpdateReader(path: map.updatesPath),
            updates.header.transfer == begin.transfer
        else { return false }
        let anchor: ContentAnchor
        do {
            anchor = try ContentAnchor(
                known, Tagger(begin.head.tagAlgorithm, key: try tagKey()),
                without: { samples in
                    var touched = samples.filter {
                        // Blocks that were cut off may be gone.
                        known.shape.extent(ofBlock: $0).map { $0.end > size } ?? true
                    }
                    while let page = try updates.nextPage() {
                        touched.formUnion(page.map(\.block).filter(samples.contains))
                    }
                    return touched
                },
                read: { try target.read(at: $0, into: $1, count: $2) })
        } catch is MapError {
            // A damaged map proves nothing.
            return false
        }
        if anchor.isReplaced { try anchor.check(target.path) }
        return anchor.divergence == nil
    }
}
