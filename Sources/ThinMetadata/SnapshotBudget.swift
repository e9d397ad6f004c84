// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

public import Blocks

/// The number of snapshots that a thin pool can still take.
///
/// Each snapshot increments the pool's clock, which never decreases. A mapping stores the time at
/// which it was made in the lowest 24 bits of a number whose upper bits hold the data block. The
/// kernel does not check for overflow: from 2^24 on, a new mapping names a wrong block, in the
/// volume being written. Device ids, which LVM assigns, have 24 bits too. Stay well below both
/// limits.
///
/// Source: `pack_block_time` and `__create_snap` in drivers/md/dm-thin-metadata.c.
public struct SnapshotBudget: Equatable, Sendable {
    /// From this value on, take no snapshot. The margin below 2^24 covers snapshots that others
    /// take meanwhile.
    public static let limit: UInt64 = (1 << 24) - (1 << 12)

    /// The pool's clock or its highest device id, whichever is higher.
    public let used: UInt64

    /// - Parameters:
    ///   - time: value of the pool's clock.
    ///   - highestDevice: highest device id in use; LVM assigns the next one.
    public init(time: UInt32, highestDevice: UInt32) {
        used = UInt64(max(time, highestDevice))
    }

    /// Number of snapshots that can still be taken.
    public var left: UInt64 { Self.limit - min(used, Self.limit) }

    /// Whether no further snapshot may be taken.
    public var isExhausted: Bool { left == 0 }

    /// Whether at most a fifth of the budget is left, so that an operator must act.
    public var isLow: Bool { used >= Self.limit / 5 * 4 }
}

extension ThinMetadataReader {
    /// Number of snapshots that the pool can still take.
    public var snapshotBudget: SnapshotBudget {
        SnapshotBudget(time: superblock.time, highestDevice: devices.last?.deviceID ?? 0)
    }
}

extension Superblock {
    /// Reads only the superblock. The pool may be active: the superblock is one block, written as a
    /// whole.
    public static func read(_ source: any ByteSource) throws(ThinMetadataError) -> Superblock {
        try NodeStore(source, blockCount: 1).superblock(0)
    }
}
