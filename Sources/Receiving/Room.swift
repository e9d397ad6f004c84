// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import LVM
internal import Platform
internal import Staging
internal import Wire

/// Room for a generation.
///
/// After the commit point there is no way back, so that what can be reserved on a target is reserved before: storage of a file.
/// Of a thin pool nothing can be reserved, but asked.
final class Room {
    private let target: Target
    private let keeper: Keeper
    private var pool: ThinRoom?
    /// What is to be told of kept generations that gave way.
    private(set) var gaveWay: String?
    private var needed: PoolBlockCounter?
    private var shortage: SystemCallError?

    init(_ target: Target, _ keeper: Keeper) {
        self.target = target
        self.keeper = keeper
        pool = keeper.room
        needed = pool.map { PoolBlockCounter(blockByteCount: $0.blockByteCount) }
    }

    /// Reserves what one record needs.
    func reserve(_ record: RecordHeader) {
        guard record.kind == .data, shortage == nil else { return }
        if let extent = Extent(offset: record.offset, length: record.length) { needed?.add(extent) }
        do { try target.reserve(record.offset, count: record.length) } catch {
            // What else goes wrong here is found when it is written, and is told then.
            if error.isNoSpace { shortage = error }
        }
    }

    /// Refuses a generation for which there is no room, not even after kept ones gave way. What was reserved is given back,
    /// and what has come in stays, so that the next send goes on.
    func check(_ record: GenerationRecord, _ volume: StandbyVolume) throws {
        let number = record.head.number
        if shortage == nil, let needed, poolShortage != nil {
            let released = keeper.giveWay(to: number, needing: needed.count)
            gaveWay = Keeper.sentence(released, for: number)
            if !released.isEmpty { pool = keeper.room }
        }
        guard let reason else { return }
        target.giveBackReserved()
        let copy = volume.committed.map { "; the copy is generation \($0.head.number), as before" }
        let kept = gaveWay.map { "; \($0)" }
        throw Refusal(
            .space,
            "the target has no room for generation \(number) (\(reason))\(copy ?? "")\(kept ?? ""). "
                + "Make room, then send again")
    }

    /// Refuses a generation for which the staging log may have no room.
    static func checkStaging(_ home: StandbyHome, _ begin: Begin) throws {
        let available = try Directory.availableByteCount(at: home.stagingPath)
        // Five parts in a hundred stay free, so that the catalog can always be written, if it is on the same file system.
        guard begin.plannedContent <= available / 20 * 19 else {
            throw Refusal(
                .space,
                "the generation may need \(begin.plannedContent) bytes of staging log; \(available) are free in "
                    + home.stagingPath)
        }
    }

    /// Refuses to give a copy up for a generation in place that may not fit: what it will write where is not known yet.
    func checkInPlace(_ begin: Begin, _ volume: StandbyVolume) throws {
        guard let committed = volume.committed else { return }
        if let content = Extent(offset: 0, length: begin.plannedContent) { needed?.add(content) }
        var reason = poolShortage
        if target.kind == .file {
            let needed = min(
                begin.plannedContent, try target.unallocatedByteCount(of: begin.head.volumeSize))
            let free = try Directory.availableByteCount(at: Directory.parent(of: target.path))
            if needed > free { reason = "it may need \(needed) bytes, and \(free) are free" }
        }
        guard let reason else { return }
        throw Refusal(
            .space,
            "the target has no room for a generation in place (\(reason)). Nothing was written; the copy is generation "
                + "\(committed.head.number), as before")
    }

    private var reason: String? { shortage.map { "\($0)" } ?? poolShortage }

    private var poolShortage: String? {
        // A block that is the target's alone needs no other one.
        guard let pool, let needed, needed.count > pool.freeBlocks, keeper.sharesEveryBlock,
            !pool.growsByItself
        else { return nil }
        return
            "it needs \(needed.count) blocks of its thin pool, which has \(pool.freeBlocks) of "
            + "\(pool.blockByteCount >> 10) KiB left"
    }
}
