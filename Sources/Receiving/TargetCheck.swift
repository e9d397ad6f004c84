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

/// Whether the target is the one that was registered, and holds what the catalog says: looked at before anybody hears
/// where the volume stands.
extension VolumeWriter {
    /// Looks at the target, which must be free of unfinished applying (`recover`).
    ///
    /// 1. It is there, is the registered object, and nobody else's: `TargetError` if not, and nothing has changed.
    /// 2. Where a whole generation should be on it, it has the size for it, and some blocks hold what the map says
    ///    (`ContentAnchor`). If not, the volume becomes *diverged*; if almost nothing fits, `TargetError.replaced`, and
    ///    nothing has changed.
    /// 3. What names the object is brought up to date in the catalog.
    ///
    /// A promoted target is its operator's, and is not looked at, unless it was demoted.
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

    /// The same for a dry run: what is found is refused, and not written down.
    func checkTargetUnchanged() throws {
        guard let problem = try examineTarget({ _ in })?.problem else { return }
        throw Refusal(.lineage, rule: .diverged, problem)
    }

    /// - Returns: the target, and why it does not hold what the catalog says; nil if it is not looked at.
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

    /// Refuses a device without any name that outlives a restart, if it may be another one by now, and there is no content
    /// that would tell.
    func checkPresence(_ object: TargetObject) throws(TargetError) {
        guard isUnnamed(object) else { return }
        switch volume.state {
        // Their content is compared.
        case .consistent, .staging, .applying, .prepared: return
        case .empty where !volume.mayOverwrite: return
        case .empty, .initialising, .promoted, .diverged, .suspect: break
        }
        throw .foreign(
            object.path, registered: "the device of another start of this host",
            found: "no serial number, and so no name that outlives a restart")
    }

    /// Whether a target is a device without any name that outlives a restart, and was attached anew since it was known to be
    /// the one.
    private func isUnnamed(_ object: TargetObject) -> Bool {
        guard let device = object.device, object.identity.object.isEmpty,
            let registered = volume.targetPresence
        else { return false }
        return registered != Self.presence(of: device)
    }

    func isUnnamed(_ path: String) throws(TargetError) -> Bool {
        isUnnamed(try TargetObject(path: path))
    }

    /// How long a target may be suspended, in milliseconds.
    private static let suspensionPatience: UInt64 = 10_000

    /// Refuses a first copy onto what nobody has said may be replaced.
    func checkUnoccupied(_ object: TargetObject) throws {
        guard !volume.mayOverwrite, let content = try TargetContent.describe(object) else { return }
        throw TargetError.occupied(object.path, by: content, volume: volume.name)
    }

    /// Compares what a target holds with the committed generation.
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

    /// Whether a snapshot could have been merged into a thin volume without anybody having seen it: LVM's name and UUID
    /// stay, and device-mapper could not be asked for the id in the pool.
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

    /// Writes down what names the target, once it is known to be the right one.
    private func adopt(_ object: TargetObject, _ owner: TargetOwner) throws {
        var identity = try owner.refreshMark(for: volume.name)
        if identity.kind == .device, let registered = ObjectIdentity(volume.targetIdentity) {
            // What could not be asked this time stays known.
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

    /// Declares that the target was written by somebody else. What was staged does not fit it.
    func diverge(_ reason: String) throws {
        if volume.state == .staging { try abandon() }
        try home.catalog.markDiverged(volume.name, reason: reason)
        try refresh()
    }

    /// The same look at the target that a generation is about to be applied to, while nobody else can write it.
    ///
    /// What a resync was compared with in an earlier session proves nothing any more: nobody has held the target since. It
    /// is read as a whole once more.
    ///
    /// - Parameter isHeld: whether the target was held since it was compared.
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
            // It is made anew from the target, and its root tells whether that is what it should be.
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
        // Of a resync, what was compared is out of date.
        if begin.head.kind == .resync, let divergence = anchor.divergence { throw divergence }
        try anchor.check(target.path)
    }

    /// The same before a committed generation is written to its target again, which may be torn by now: of the blocks that
    /// the generation does not touch.
    ///
    /// - Returns: whether they are what they should be, as far as that is known. If not, the target is to be read as a whole
    ///   before the generation counts.
    /// - Throws: `TargetError.replaced` if almost nothing is.
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
                        // What is cut off may be gone.
                        known.shape.extent(ofBlock: $0).map { $0.end > size } ?? true
                    }
                    while let page = try updates.nextPage() {
                        touched.formUnion(page.map(\.block).filter(samples.contains))
                    }
                    return touched
                },
                read: { try target.read(at: $0, into: $1, count: $2) })
        } catch is MapError {
            // A map that is damaged tells nothing.
            return false
        }
        if anchor.isReplaced { try anchor.check(target.path) }
        return anchor.divergence == nil
    }
}
