// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import LVM
internal import Platform

/// The devices below a snapshot: its own and its origin's.
///
/// A write visible in a snapshot may exist only in a disk's cache, because LVM does not flush an
/// origin. If the write were sent and then lost here in a power cut, no store would ever name it,
/// and the copies would differ for good.
struct LiveDisks {
    private let devices: [File]

    init(under snapshot: LogicalVolume, in group: VolumeGroup) throws {
        let origin = snapshot.originUUID.flatMap { group.volume(uuid: $0) }
        devices = try [snapshot, origin].compactMap { try $0?.device?.path() }.map { path in
            try SourceError.reading { () throws(SystemCallError) in try File(path: path) }
        }
    }

    /// Flushes the writes to the disks. For a classic snapshot, its device flushes the store and
    /// the origin's device flushes the volume; in a thin pool, either one commits the pool.
    func flush() throws {
        for device in devices { try SourceError.reading(device.sync) }
    }
}
