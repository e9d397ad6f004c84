// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

public import Blocks

/// How many snapshots a thin pool can still take.
///
/// A pool's clock goes up by one with each snapshot, and never down; each mapping holds the time at which it was made in
/// the lowest 24 bits of a number whose other bits are the data block. The kernel does not check that: from 2^24 on a
/// mapping that is made names a wrong block, in the volume that is written. Device ids, which LVM gives out, are of 24 bits,
/// too. So nobody may come near either.
///
/// Source: `pack_block_time` and `__create_snap` in drivers/md/dm-thin-metadata.c.
public struct SnapshotBudget: Equatable, Sendable {
    /// From here on no snapshot may be taken: below 2^24 by as many as others may take meanwhile.
    public static let limit: UInt64 = (1 << 24) - (1 << 12)

    /// How much of it is used: the pool's clock or its highest device id, whichever is higher.
    public let used: UInt64

    /// - Parameters:
    ///   - time: the pool's clock.
    ///   - highestDevice: the highest device id in use; LVM gives the next one.
    public init(time: UInt32, highestDevice: UInt32) {
        used = UInt64(max(time, highestDevice))
    }

    /// How many snapshots can still be taken.
    public var left: UInt64 { Self.limit - min(used, Self.limit) }

    /// Whether none may be taken any more.
    public var isExhausted: Bool { left == 0 }

    /// Whether so few are left that somebody has to do something: a fifth of all, or less.
    public var isLow: Bool { used >= Self.limit / 5 * 4 }
}

extension ThinMetadataReader {
    /// How many snapshots the pool can still take.
    public var snapshotBudget: SnapshotBudget {
        SnapshotBudget(time: superblock.time, highestDevice: devices.last?.deviceID ?? 0)
    }
}

extension Superblock {
    /// Reads the superblock alone, of a pool that may be active: it is one block, and written as a whole.
    public static func read(_ source: any ByteSource) throws(ThinMetadataError) -> Superblock {
        try NodeStore(source, blockCount: 1).superblock(0)
    }
}
