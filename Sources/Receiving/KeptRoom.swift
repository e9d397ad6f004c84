// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import LVM
internal import Platform
internal import Volumes
internal import Wire

/// What kept generations need room for, and how they give way to the copy.
extension Keeper {
    /// Bytes that a kept generation takes of LVM's text, about: 461 were measured with short names (docs/OPERATIONS.md 3).
    static let textByteCount: UInt64 = 500

    /// What the pool of a target with kept generations can still take; nil where that cannot be asked.
    var room: ThinRoom? {
        guard (try? home.catalog.kept(volume.name))?.isEmpty == false,
            let target = Self.thinVolume(at: volume.targetPath)
        else { return nil }
        return try? home.volumes.room(of: target)
    }

    /// What is to be told of the room for kept generations; nothing where it cannot be asked.
    func roomWarnings(_ retention: Retention) throws -> [String] {
        guard let target = Self.thinVolume(at: volume.targetPath),
            let room = try? home.volumes.room(of: target)
        else { return [] }
        let text = room.text
        var warnings = SnapshotRoom.warnings(
            of: "volume group of \(volume.targetPath)", text,
            pool: (
                "thin pool of \(volume.targetPath)",
                data: Self.percent(room.freeBlocks, of: room.blocks),
                metadata: Self.percent(room.freeMetadataBlocks, of: room.metadataBlocks)
            ))
        let kept = UInt64(try home.catalog.kept(volume.name).count)
        let fitting =
            kept + (text.freeByteCount - min(text.freeByteCount, text.reserve))
            / Self.textByteCount
        if let generations = retention.generations, text.limit > 0, generations > fitting {
            warnings.append(
                "LVM's metadata of the volume group of \(volume.targetPath) has room for about \(fitting) kept generations of "
                    + "the \(generations) that are wanted: keep fewer, or make the group anew with a larger "
                    + "vgcreate --metadatasize (docs/OPERATIONS.md 3)")
        }
        return warnings
    }

    private static func percent(_ free: UInt64, of all: UInt64) -> Double? {
        all == 0 ? nil : 100 - Double(free) / Double(all) * 100
    }

    /// Releases kept generations, the oldest first and one by one, until the pool has room for a generation. The copy needs it
    /// more than the past. What proves that a snapshot may go is asked as ever, and one that may not go stays.
    ///
    /// The newest never goes: until the next one is on the target, it is the copy where the target is lost. None goes while the
    /// copy is in question, nor where the pool is too small for the generation beside the target. How much one frees is not
    /// known before it went, since what older and newer ones share stays; when that gives no hope, no more go, nor at the next
    /// attempt.
    ///
    /// - Parameter blocks: how many of the pool the generation needs.
    /// - Returns: those that went; none where it cannot be known.
    func giveWay(to number: UInt64, needing blocks: UInt64) -> [KeptGeneration] {
        guard let target = Self.thinVolume(at: volume.targetPath),
            let room = try? home.volumes.room(of: target),
            blocks <= room.blocks - min(room.ownBlocks, room.blocks),
            (try? home.catalog.gaveWayInVain(volume.name)) != number
        else { return [] }
        func free() -> UInt64? { try? home.volumes.room(of: target).freeBlocks }
        let released = giveWay(to: number, target) { released, candidates in
            guard let free = free() else { return true }
            let freed = free - min(room.freeBlocks, free)
            // As much as so far with each of the others.
            let expected = freed.multipliedReportingOverflow(by: candidates)
            let missing = (blocks - min(room.freeBlocks, blocks))
                .multipliedReportingOverflow(by: UInt64(released.count))
            let isHopeless = !expected.overflow && expected.partialValue < missing.partialValue
            return blocks <= free || !released.isEmpty && isHopeless
        }
        if free().map({ blocks > $0 }) ?? true {
            try? home.catalog.setGaveWayInVain(volume.name, number)
        }
        return released
    }

    /// The same for a committed generation, of which a part is written and nobody knows how much room the rest needs: the
    /// oldest one goes.
    ///
    /// - Returns: also whether that has freed anything.
    func giveWay(toWaiting number: UInt64) -> (released: [KeptGeneration], hasHelped: Bool) {
        guard let target = Self.thinVolume(at: volume.targetPath),
            let before = try? home.volumes.room(of: target).freeBlocks,
            (try? home.catalog.gaveWayInVain(volume.name)) != number
        else { return ([], false) }
        let released = giveWay(to: number, target) { released, _ in !released.isEmpty }
        let after = try? home.volumes.room(of: target).freeBlocks
        let hasHelped = after.map { $0 > before } ?? false
        if !hasHelped { try? home.catalog.setGaveWayInVain(volume.name, number) }
        return (released, hasHelped)
    }

    private func giveWay(
        to number: UInt64, _ target: LogicalVolumeID,
        until isEnough: (_ released: [KeptGeneration], _ candidates: UInt64) -> Bool
    ) -> [KeptGeneration] {
        // Without limits the snapshots are the operator's.
        guard (try? home.catalog.retention(volume.name)) != nil,
            Self.isWhole(volume) || volume.state == .applying,
            let owner = try? owner(),
            let kept = try? compare(home.volumes.kept(of: target, by: owner))
        else { return [] }
        var released: [KeptGeneration] = []
        let candidates = kept.dropFirst().filter { $0.id != volume.committed?.id }
        for oldest in candidates.reversed() {
            if isEnough(released, UInt64(candidates.count)) { break }
            guard (try? mayRelease(owner)) == true else { break }
            // One in use, say, stays; others may go.
            guard
                (try? home.volumes.release(
                    oldest.snapshotUUID, of: target, by: owner, holding: lock)) != nil
            else { continue }
            // What the catalog does not take now it strikes out later.
            try? home.catalog.removeKept(
                volume.name, oldest, because: "the thin pool has no room for generation \(number)")
            released.append(oldest)
        }
        // Also where the generation is refused in the end.
        if let warning = Self.sentence(released, for: number) {
            try? home.catalog.setRetentionWarning(volume.name, warning)
        }
        return released
    }

    /// What is told of generations that gave way.
    static func sentence(_ released: [KeptGeneration], for number: UInt64) -> String? {
        guard !released.isEmpty else { return nil }
        let numbers = released.map { "\($0.number)" }.joined(separator: ", ")
        return
            "released before their time, since the thin pool had no room for generation \(number): generation \(numbers)"
    }
}

extension ThinRoom {
    /// The room for LVM's text of the group.
    fileprivate var text: GroupText {
        GroupText(areaByteCount: textAreaByteCount, freeByteCount: freeTextByteCount)
    }
}
