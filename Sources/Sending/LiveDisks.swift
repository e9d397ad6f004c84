// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import LVM
internal import Platform

/// The devices under a snapshot: its own and its origin's.
///
/// A write that a snapshot shows may be in a disk's cache only, since nothing of LVM's flushes an origin. If it were sent and
/// a power cut took it back here, no store would ever name it, and the copies would differ for good.
struct LiveDisks {
    private let devices: [File]

    init(under snapshot: LogicalVolume, in group: VolumeGroup) throws {
        let origin = snapshot.originUUID.flatMap { group.volume(uuid: $0) }
        devices = try [snapshot, origin].compactMap { try $0?.device?.path() }.map { path in
            try SourceError.reading { () throws(SystemCallError) in try File(path: path) }
        }
    }

    /// Brings what was written to the disks: a flush of a classic snapshot's device goes to its store, one of the origin's to
    /// the volume; in a thin pool either commits the pool.
    func flush() throws {
        for device in devices { try SourceError.reading(device.sync) }
    }
}
