// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import LVM
internal import Platform
internal import Staging
internal import Wire

/// Space on the target for a generation.
///
/// After the commit point there is no way back, so storage that can be reserved is reserved before:
/// that of a file. A thin pool offers no reservation, only its free space.
final class Room {
    private let target: Target
    private let keeper: Keeper
    private var pool: ThinRoom?
    /// Warning about kept generations that gave way, or `nil`.
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
            // Other errors recur when the record is written, and are reported then.
            if error.isNoSpace { shortage = error }
        }
    }

    /// Refuses a generation if space is lacking even after kept generations gave way. It returns
    /// the reserved space; what has arrived stays, so the next send continues.
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

    /// Refuses a generation for which the staging log may lack space.
    static func checkStaging(_ home: StandbyHome, _ begin: Begin) throws {
        let available = try Directory.availableByteCount(at: home.stagingPath)
        // 5 % stay free, so that the catalog can always be written, should it be on the same file
        // system.
        guard begin.plannedContent <= available / 20 * 19 else {
            throw Refusal(
                .space,
                "the generation may need \(begin.plannedContent) bytes of staging log; \(available) are free in "
                    + home.stagingPath)
        }
    }

    /// Refuses to give up a copy for a generation in place that may not fit; where that will write
    /// is not known yet.
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
        // A block that only the target uses is overwritten without allocation.
        guard let pool, let needed, needed.count > pool.freeBlocks, keeper.sharesEveryBlock,
            !pool.growsByItself
        else { return nil }
        return
            "it needs \(needed.count) blocks of its thin pool, which has \(pool.freeBlocks) of "
            + "\(pool.blockByteCount >> 10) KiB left"
    }
}
