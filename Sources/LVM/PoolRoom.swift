// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
package import Platform

/// The space for new content in a thin pool.
package struct PoolRoom: Sendable {
    /// Size of a block of the pool in bytes.
    package let blockByteCount: UInt64
    package let status: DeviceMapper.PoolStatus
    /// Number of blocks mapped by the volume, shared or not.
    package let ownBlocks: UInt64

    /// Queries the pool below an active thin volume.
    package init(below device: DeviceNumber) throws(LVMError) {
        let pool = try DeviceMapper.thinTable(device).pool
        blockByteCount = try DeviceMapper.poolTable(pool).blockByteCount
        status = try DeviceMapper.poolStatus(pool)
        ownBlocks = try DeviceMapper.thinSectors(device) / (blockByteCount / 512)
    }

    /// Whether LVM extends pools automatically, which makes the free space meaningless.
    package static func growsByItself() throws(LVMError) -> Bool {
        let said: Command.Output
        do throws(CommandError) {
            said = try Command.run(
                "lvmconfig",
                ["--type", "full", "activation/thin_pool_autoextend_threshold"])
        } catch {
            throw .command(error)
        }
        // lvm.conf: the percentage at which a pool is extended; 100 means never.
        let value = said.text.split(separator: "=").last.flatMap {
            Int(String($0).filter { !$0.isWhitespace })
        }
        return value.map { $0 < 100 } ?? true
    }
}

/// Counts the blocks of a pool that extents in ascending order touch, each once.
package struct PoolBlockCounter: Sendable {
    private let blockByteCount: UInt64
    private var next: UInt64 = 0
    /// Never more than the actual number, whatever the order.
    package private(set) var count: UInt64 = 0

    package init(blockByteCount: UInt64) {
        precondition(blockByteCount > 0)
        self.blockByteCount = blockByteCount
    }

    package mutating func add(_ extent: Extent) {
        let first = max(extent.offset / blockByteCount, next)
        let end = (extent.end - 1) / blockByteCount + 1
        guard end > first else { return }
        count += end - first
        next = end
    }
}
