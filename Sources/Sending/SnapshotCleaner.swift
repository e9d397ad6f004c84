// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Digests
package import LVM
internal import TLS
internal import Wire

/// Removes only snapshots that are no longer needed (`SnapshotProof`).
package struct SnapshotCleaner {
    /// A snapshot with our tags that is neither a base nor of an unfinished generation, and the
    /// result of the attempt to remove it.
    package struct Found {
        package let volume: LogicalVolume
        package let fate: Fate
    }

    package enum Fate: Equatable, Sendable {
        /// It was removed, or would have been in a dry run.
        case removed
        /// It stays for now, for this reason; the next attempt may remove it.
        case kept(String)
        /// It is no longer ours, for this reason.
        case left(String)
        /// This catalog did not make it, or has already recorded that it is no longer ours.
        case unknown
    }

    private let home: SourceHome
    private let waitSeconds: Int

    init(_ home: SourceHome, waitSeconds: Int) {
        self.home = home
        self.waitSeconds = waitSeconds
    }

    /// Cleans the snapshots of one volume for one standby in `groups`.
    ///
    /// - Parameters:
    ///   - lock: keeps other processes from making or removing a snapshot meanwhile.
    ///   - report: receives each result.
    func clean(
        _ receiver: ReceiverName, _ name: VolumeName, _ groups: [VolumeGroup], _ lock: SendLock,
        isDryRun: Bool, report: (Found) throws -> Void
    ) throws {
        let key = try home.identity().keyID
        let made = try home.catalog.madeSnapshots().filter {
            $0.receiver == receiver && $0.volume == name
        }
        for group in groups {
            for lv in group.volumes {
                guard let own = SnapshotTags.own(lv, key), own.receiver == receiver,
                    own.name == name, try home.catalog.role(of: lv) == .leftover
                else { continue }
                guard let row = SnapshotProof.row(of: lv, in: made) else {
                    try report(Found(volume: lv, fate: .unknown))
                    continue
                }
                let fate = try fate(of: lv, row, in: group, key, lock, isDryRun)
                if case .kept = fate {} else if !isDryRun { try home.catalog.strikeOut(row) }
                try report(Found(volume: lv, fate: fate))
            }
            guard !isDryRun else { continue }
            // Snapshots that were announced and never made, or that were removed by other means.
            for row in made where row.groupUUID == group.volumes.first?.groupUUID {
                if !group.volumes.contains(where: { SnapshotProof.row(of: $0, in: [row]) != nil }) {
                    try home.catalog.strikeOut(row)
                }
            }
        }
    }

    private func fate(
        of lv: LogicalVolume, _ row: MadeSnapshot, in group: VolumeGroup, _ key: KeyID,
        _ lock: SendLock, _ isDryRun: Bool
    ) throws -> Fate {
        let proof = SnapshotProof(home: home, waitSeconds: waitSeconds)
        do {
            if let objection = try proof.objection(to: lv, row, in: group) {
                return .left(objection)
            }
            if !isDryRun { try remove(lv, in: group, key, lock) }
        } catch let error as LVMError {
            return .kept("\(error)")
        } catch let error as SourceError {
            return .kept("\(error)")
        }
        return .removed
    }

    private func remove(
        _ snapshot: LogicalVolume, in group: VolumeGroup, _ key: KeyID, _ lock: SendLock
    ) throws {
        let tag = SnapshotTags.ofSource(key)
        func remove() throws {
            try VolumeGroup.removeSnapshot(snapshot, tag: tag, holding: lock.lock)
        }
        do { try remove() } catch {
            guard snapshot.tags.contains(ThinPool.renewedTag),
                let origin = snapshot.originUUID.flatMap({ group.volume(uuid: $0) }),
                (try? ThinPool.restore(snapshot, of: origin)) != nil
            else { throw error }
            try remove()
        }
    }
}
