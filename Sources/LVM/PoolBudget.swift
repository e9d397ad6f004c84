// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Platform
package import ThinMetadata

/// The number of snapshots that a volume's thin pool can still take.
package struct PoolBudget: Sendable {
    /// Full name of the pool, "vg/pool".
    package let pool: String
    package let budget: SnapshotBudget

    /// Queries the pool of a thin volume.
    ///
    /// - Returns: `nil` if the volume is not thin, or if no volume of the pool is active.
    package init?(of volume: LogicalVolume, in group: VolumeGroup) throws(LVMError) {
        guard case .thin(let name, let uuid, _, _) = volume.kind else { return nil }
        pool = "\(volume.group)/\(name)"
        var highest: UInt32 = 0
        var active = volume.device
        for other in group.volumes {
            guard case .thin(_, uuid, let id, _) = other.kind else { continue }
            highest = max(highest, id)
            active = active ?? other.device
        }
        guard let active else { return nil }
        budget = SnapshotBudget(time: try Self.time(ofPoolBelow: active), highestDevice: highest)
    }

    /// The clock of the pool below an active thin volume.
    package static func time(ofPoolBelow device: DeviceNumber) throws(LVMError) -> UInt32 {
        let pool = try DeviceMapper.thinTable(device).pool
        let path = try DeviceMapper.poolTable(pool).metadata.path()
        // A read during a kernel write may fail its checksum.
        for attempt in 1... {
            do {
                return try Superblock.read(try FileBytes(path: path)).time
            } catch {
                guard attempt < 5 else { throw .unexpected("\(path): \(error)") }
                Clock.sleep(milliseconds: 20)
            }
        }
        return 0
    }

    /// Why no snapshot may be taken; `nil` if one may.
    package var refusal: String? {
        guard budget.isExhausted else { return nil }
        return
            "the pool has taken so many snapshots (\(budget.used) of \(SnapshotBudget.limit)) that its counters are at "
            + "their end: after some more the kernel would write to wrong blocks of volumes in use. No snapshot was "
            + "taken. Reset the pool's times, or move its volumes to a new pool, as docs/OPERATIONS.md 3 says"
    }

    /// A warning before that happens; `nil` if there is none.
    package var warning: String? {
        guard budget.isLow else { return nil }
        return
            "the thin pool \(pool) can take \(budget.left) more snapshots; then its times must be reset, or its volumes "
            + "moved to a new pool (docs/OPERATIONS.md 3)"
    }
}
