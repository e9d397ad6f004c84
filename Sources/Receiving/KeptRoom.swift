// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import LVM
internal import Platform
internal import Volumes
internal import Wire

/// The space that kept generations need, and how they give way to the copy.
extension Keeper {
    /// Approximate size of a kept generation in LVM's text, in bytes: 461 were measured with short
    /// names (docs/OPERATIONS.md 3).
    static let textByteCount: UInt64 = 500

    /// Remaining capacity of the pool of a target with kept generations; `nil` if unknown.
    var room: ThinRoom? {
        guard (try? home.catalog.kept(volume.name))?.isEmpty == false,
            let target = Self.thinVolume(at: volume.targetPath)
        else { return nil }
        return try? home.volumes.room(of: target)
    }

    /// Warnings about the space for kept generations; empty if it is unknown.
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

    /// Releases kept generations, one by one from the oldest, until the pool has space for a
    /// generation: the copy needs it more than the past does. The usual proofs apply, and a
    /// snapshot that may not be removed stays.
    ///
    /// The newest always stays: if the target is lost, it is the copy until the next one is on the
    /// target. None is released while the copy is in question, or if the pool is too small for the
    /// generation beside the target. How much a release frees is known only afterwards, because
    /// older and newer generations share blocks; when the rest cannot suffice, releasing stops, and
    /// the next attempt does not resume it.
    ///
    /// - Parameter blocks: number of blocks of the pool that the generation needs.
    /// - Returns: the released generations; none if the space is unknown.
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
            // Assume that each of the others frees as much as those so far.
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

    /// Releases the oldest kept generation for a committed one that is partly written, so that the
    /// space for its rest is unknown.
    ///
    /// - Returns: also whether that freed any space.
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
        // Without limits the snapshots belong to the operator.
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
            // A snapshot in use, for example, stays; others may go.
            guard
                (try? home.volumes.release(
                    oldest.snapshotUUID, of: target, by: owner, holding: lock)) != nil
            else { continue }
            // If the catalog refuses this now, it removes the entry later.
            try? home.catalog.removeKept(
                volume.name, oldest, because: "the thin pool has no room for generation \(number)")
            released.append(oldest)
        }
        // Record this even if the generation is refused in the end.
        if let warning = Self.sentence(released, for: number) {
            try? home.catalog.setRetentionWarning(volume.name, warning)
        }
        return released
    }

    /// The warning about released generations, or `nil` if there are none.
    static func sentence(_ released: [KeptGeneration], for number: UInt64) -> String? {
        guard !released.isEmpty else { return nil }
        let numbers = released.map { "\($0.number)" }.joined(separator: ", ")
        return
            "released before their time, since the thin pool had no room for generation \(number): generation \(numbers)"
    }
}

extension ThinRoom {
    /// The space for LVM's text of the group.
    fileprivate var text: GroupText {
        GroupText(areaByteCount: textAreaByteCount, freeByteCount: freeTextByteCount)
    }
}
