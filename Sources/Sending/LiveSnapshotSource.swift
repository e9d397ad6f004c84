// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
package import LVM
package import Platform
package import SnapshotStore

/// A classic snapshot of a volume of this host.
///
/// What changed since the base is what the base's own store names: every chunk that was written since *it* was
/// taken. The store is read after the newer snapshot was taken, so that it names all that was written between the
/// two, and perhaps more. The content comes from the newer snapshot alone, which does not move. Both can be given
/// up by the kernel at any time for want of room: the base is asked again after its last read, the newer one
/// before the generation is committed.
package final class LiveSnapshotSource: Source {
    private let snapshot: LogicalVolume
    private let device: DeviceNumber
    private let group: VolumeGroup
    private let reader: AlignedReader
    private let warn: (String) -> Void
    package let summary: String
    package let identity: String?
    package let time: UInt64
    package var volumeByteCount: UInt64 { reader.byteCount }

    /// Of a store that is fuller than this, the user hears.
    private static let warningPercent: UInt64 = 80
    /// A store that was fuller than this when the host went down may have lost its last record.
    private static let doubtfulPercent: UInt64 = 95

    /// Opens an active snapshot.
    ///
    /// - Parameters:
    ///   - time: nanoseconds since 1970-01-01 UTC at which it was taken.
    ///   - warn: hears of a store that is nearly full.
    package init(
        _ snapshot: LogicalVolume, in group: VolumeGroup, time: UInt64,
        warn: @escaping (String) -> Void
    ) throws {
        self.snapshot = snapshot
        self.group = group
        self.time = time
        self.warn = warn
        guard let device = snapshot.device else {
            throw SourceError.invalid(path: snapshot.fullName, reason: "it is not active")
        }
        self.device = device
        let path = try device.path()
        do throws(SystemCallError) { reader = try AlignedReader(path: path) } catch {
            throw SourceError.unreadable(error)
        }
        summary = "snapshot \(snapshot.fullName)"
        identity = "lvm-snapshot lv=\(snapshot.uuid) origin=\(snapshot.originUUID)"
    }

    package func forEachExtent(_ body: (Change) throws -> Void) throws {
        guard let all = Extent(offset: 0, length: volumeByteCount) else { return }
        try body(Change(all, .data))
    }

    package func forEachChange(since base: String, _ body: (Change) throws -> Void) throws {
        guard base.hasPrefix("lvm-snapshot "), let uuid = LiveIdentity.snapshotUUID(base) else {
            throw SourceError.noProof(
                reason: "the standby's generation was not made from a classic snapshot on this host"
            )
        }
        let older = try group.base(uuid, of: snapshot)
        let store = try LiveStore(older)
        let used = try store.usedPercent()
        if used >= Self.doubtfulPercent, !SnapshotTags.isOfThisBoot(older) {
            throw SourceError.noProof(
                reason:
                    "the store of \(older.fullName) is \(used) % full and the host was started anew since: "
                    + "whether the kernel had given it up cannot be known")
        }
        if used >= Self.warningPercent {
            warn(
                "the store of \(older.fullName) is \(used) % full; at 100 % a full copy is needed. Send more "
                    + "often, or give a larger --cow-size")
        }
        var list = try store.read().changes()
        while let change = list.next() { try body(change) }
        // Only now is it known that the list was whole when it was read.
        _ = try store.usedPercent()
    }

    package func read(_ extent: Extent, into memory: AlignedBuffer) throws {
        do throws(SystemCallError) {
            try reader.read(at: extent.offset, into: memory, at: 0, count: Int(extent.length))
        } catch {
            try confirm()
            throw error
        }
    }

    /// Refuses a snapshot that was given up while it was read.
    package func confirm() throws {
        // Where the volume itself is looked at, there is nothing that could overflow.
        guard snapshot.kind == .snapshot else { return }
        if case .invalid(let words) = try DeviceMapper.snapshotStatus(device) {
            throw SourceError.invalid(
                path: snapshot.fullName,
                reason:
                    "the snapshot was given up while it was read (\(words)): its store is full. Nothing was "
                    + "committed; send again with a larger --cow-size")
        }
    }
}

/// The store of an active classic snapshot.
package struct LiveStore {
    private let snapshot: LogicalVolume
    private let device: DeviceNumber
    private let storePath: String

    /// Finds the store in device-mapper's tables, and refuses a snapshot that cannot tell what was written.
    package init(_ snapshot: LogicalVolume) throws {
        self.snapshot = snapshot
        func no(_ reason: String) -> SourceError {
            .noProof(reason: "\(snapshot.fullName) \(reason)")
        }
        guard snapshot.kind == .snapshot else { throw no("is no classic snapshot") }
        guard !snapshot.isMerging else { throw no("is being merged into its origin") }
        guard let device = snapshot.device else { throw no("is not active") }
        self.device = device
        do {
            let table = try DeviceMapper.snapshotTable(device)
            guard table.persistence != "N" else {
                throw no("keeps its list in memory only (store type N)")
            }
            guard !table.features.contains("discard_passdown_origin") else {
                throw no("passes discards down to its origin, which its store does not name")
            }
            storePath = try table.store.path()
        } catch LVMError.refused(let reason) {
            throw SourceError.noProof(reason: "\(snapshot.fullName): \(reason)")
        }
    }

    /// How full it is; refused if the kernel has given it up.
    package func usedPercent() throws -> UInt64 {
        switch try DeviceMapper.snapshotStatus(device) {
        case .valid(let used, let total): return total == 0 ? 100 : used * 100 / total
        case .invalid(let words):
            throw SourceError.noProof(
                reason:
                    "\(snapshot.fullName) was given up by the kernel (\(words)): its store was too small for "
                    + "what was written, and nothing tells any more what changed. Only a full copy helps: "
                    + "blockferryd reset on the standby, blockferry forget here, and a larger --cow-size"
            )
        }
    }

    /// Reads the list, past every cache.
    package func read() throws -> SnapshotStoreReader {
        do {
            let size = try AlignedReader(path: try device.path()).byteCount
            return try SnapshotStoreReader(
                try FileBytes(path: storePath), volumeByteCount: size)
        } catch SnapshotStoreError.invalidated {
            _ = try usedPercent()
            throw SourceError.noProof(reason: "\(snapshot.fullName) was given up by the kernel")
        } catch let error as SnapshotStoreError {
            throw SourceError.invalid(path: storePath, reason: "\(error)")
        } catch let error as ByteSourceError {
            throw SourceError.invalid(path: storePath, reason: error.sentence)
        }
    }
}
