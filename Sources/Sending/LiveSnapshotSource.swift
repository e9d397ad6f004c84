// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
internal import Digests
package import LVM
package import Objects
package import Platform
package import SnapshotStore
internal import Wire

/// A classic snapshot of a volume on this host.
///
/// The base's own store names the changes since the base: every chunk written since *it* was taken.
/// The store is read after the newer snapshot was taken, so it names all writes between the two,
/// and perhaps more. The content comes only from the newer snapshot, which does not change. The
/// kernel can invalidate both at any time for lack of space: the base is checked again after its
/// last read, the newer one before the generation is committed.
///
/// A store names only writes made while its snapshot was active and does not show gaps: the kernel
/// may have invalidated it when it could not record that, and the volume may have been written
/// without its snapshot. So the base proves the changes only within the activation in which it was
/// taken, identified by the marks of its two mappings and of the host's boot. After another
/// activation, all content is read and compared.
package final class LiveSnapshotSource: Source {
    private let snapshot: LogicalVolume
    private let device: DeviceNumber
    private let group: VolumeGroup
    private let reader: AlignedReader
    private let disks: LiveDisks
    private let context: Context
    package let summary: String
    package let identity: ObjectIdentity
    package var name: String { snapshot.fullName }
    package let time: UInt64
    package var volumeByteCount: UInt64 { reader.byteCount }

    /// Warn about a store that is fuller than this, in percent.
    private static let warningPercent: UInt64 = 80

    /// What the source needs from its sender.
    package struct Context {
        /// Receives a warning about a store that is nearly full.
        package var warn: (String) -> Void
        /// Whether the kernel was ever seen to have invalidated the base.
        package var isBaseGivenUp: Bool
        /// Records that, by LVM's id of a snapshot.
        package var noteGivenUp: (String) -> Void

        package init(
            warn: @escaping (String) -> Void, isBaseGivenUp: Bool,
            noteGivenUp: @escaping (String) -> Void
        ) {
            self.warn = warn
            self.isBaseGivenUp = isBaseGivenUp
            self.noteGivenUp = noteGivenUp
        }
    }

    /// Opens an active snapshot, or its origin for an inspection.
    ///
    /// - Parameters:
    ///   - object: facts of the snapshot's volume.
    ///   - time: when the snapshot was taken, in nanoseconds since 1970-01-01 UTC.
    package init(
        _ snapshot: LogicalVolume, of object: ObjectIdentity.Facts, in group: VolumeGroup,
        time: UInt64, _ context: Context
    ) throws {
        self.snapshot = snapshot
        self.group = group
        self.time = time
        self.context = context
        guard let device = snapshot.device else {
            throw SourceError.invalid(path: snapshot.fullName, reason: "it is not active")
        }
        self.device = device
        let path = try device.path()
        reader = try SourceError.reading { () throws(SystemCallError) in
            try AlignedReader(path: path)
        }
        summary = "snapshot \(snapshot.fullName)"
        disks = try LiveDisks(under: snapshot, in: group)
        try disks.flush()
        identity = ObjectIdentity(
            .classicSnapshot, object: object, content: try Self.facts(of: snapshot))
    }

    /// Facts that identify an active snapshot within its activation; empty if the volume is not a
    /// snapshot.
    static func facts(of snapshot: LogicalVolume) throws -> ObjectIdentity.Facts {
        guard snapshot.kind == .snapshot else { return [:] }
        var facts = [LiveFacts.snapshot: snapshot.uuid]
        guard let device = snapshot.device, let boot = Host.bootID,
            let mapping = BlockDevice(device).presence,
            let store = BlockDevice(try DeviceMapper.snapshotTable(device).store).presence
        else {
            // A value that matches no other.
            facts[LiveFacts.mapping] = Hex.encode(SecureRandom.bytes(16))
            return facts
        }
        facts[LiveFacts.boot] = boot
        facts[LiveFacts.mapping] = mapping
        facts[LiveFacts.store] = store
        return facts
    }

    package func forEachExtent(_ body: (Change) throws -> Void) throws {
        guard let all = Extent(offset: 0, length: volumeByteCount) else { return }
        try body(Change(all, .data))
    }

    package func proof(since base: ObjectIdentity?) throws -> ChangeProof {
        guard let base, base.kind == identity.kind, let uuid = base.snapshotUUID else {
            return .compare("the last generation was not made from a classic snapshot on this host")
        }
        let older = try group.base(uuid, of: snapshot)
        _ = try store(of: older).usedPercent()
        if context.isBaseGivenUp {
            return .compare(
                "the kernel had given up \(older.fullName), which the last generation was made from, so that its "
                    + "store does not name all that was written")
        }
        guard base.content[LiveFacts.boot] != nil, try Self.facts(of: older) == base.content else {
            return .compare(
                "\(older.fullName), which the last generation was made from, was activated anew since, so that its "
                    + "store may not name all that was written")
        }
        return .list
    }

    private func store(of snapshot: LogicalVolume) throws -> LiveStore {
        try LiveStore(snapshot, noteGivenUp: context.noteGivenUp)
    }

    package func forEachChange(since base: ObjectIdentity, _ body: (Change) throws -> Void) throws {
        let older = try group.base(base.snapshotUUID ?? "", of: snapshot)
        let store = try store(of: older)
        let used = try store.usedPercent()
        if used >= Self.warningPercent {
            context.warn(
                "the store of \(older.fullName) is \(used) % full; at 100 % both sides have to be compared (resync). "
                    + "Send more often, or with a larger store")
        }
        var list = try store.read().changes()
        while let change = list.next() { try body(change) }
        // Only this check proves that the list was complete when it was read.
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

    /// Flushes, and refuses a snapshot that overflowed during the read.
    package func confirm() throws {
        try disks.flush()
        // The volume itself cannot overflow.
        guard snapshot.kind == .snapshot else { return }
        if case .invalid(let words) = try DeviceMapper.snapshotStatus(device) {
            context.noteGivenUp(snapshot.uuid)
            throw SourceError.refused(
                .snapshotOverflowed, path: snapshot.fullName,
                reason:
                    "the snapshot overflowed while it was read (\(words)). Nothing was committed")
        }
    }
}

/// The store of an active classic snapshot.
package struct LiveStore {
    private let snapshot: LogicalVolume
    private let device: DeviceNumber
    private let storePath: String
    private let noteGivenUp: (String) -> Void
    /// Full name, "vg/lv".
    var name: String { snapshot.fullName }

    /// Finds the store in device-mapper's tables and refuses a snapshot that cannot prove what was
    /// written.
    ///
    /// - Parameter noteGivenUp: receives LVM's id of the snapshot if the kernel has invalidated it.
    package init(_ snapshot: LogicalVolume, noteGivenUp: @escaping (String) -> Void) throws {
        self.snapshot = snapshot
        self.noteGivenUp = noteGivenUp
        func no(_ reason: String) -> SourceError {
            .noProof(.baseLost, reason: "\(snapshot.fullName) \(reason)")
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
            throw SourceError.noProof(.baseLost, reason: "\(snapshot.fullName): \(reason)")
        }
    }

    /// Fill level of the store in percent; throws if the kernel has invalidated the snapshot.
    package func usedPercent() throws -> UInt64 {
        switch try DeviceMapper.snapshotStatus(device) {
        case .valid(let used, let total): return KernelValues.percent(used, of: total)
        case .invalid(let words):
            noteGivenUp(snapshot.uuid)
            throw SourceError.noProof(
                .storeOverflowed,
                reason:
                    "\(snapshot.fullName) was given up by the kernel (\(words)): its store was too small for "
                    + "what was written, and nothing tells any more what changed"
            )
        }
    }

    /// Reads the list past every cache.
    package func read() throws -> SnapshotStoreReader {
        do {
            let size = try AlignedReader(path: try device.path()).byteCount
            return try SnapshotStoreReader(
                try FileBytes(path: storePath), volumeByteCount: size)
        } catch SnapshotStoreError.invalidated {
            _ = try usedPercent()
            noteGivenUp(snapshot.uuid)
            throw SourceError.noProof(
                .storeOverflowed, reason: "\(snapshot.fullName) was given up by the kernel")
        } catch let error as SnapshotStoreError {
            throw SourceError.invalid(path: storePath, reason: "\(error)")
        } catch let error as ByteSourceError {
            throw SourceError.invalid(path: storePath, reason: error.sentence)
        }
    }
}
