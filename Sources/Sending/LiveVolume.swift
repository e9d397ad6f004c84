// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import Digests
package import LVM
internal import Objects
internal import Platform
internal import TLS
internal import Wire

/// Size of the store of a new classic snapshot.
package enum StoreSize: Equatable, Sendable {
    case bytes(UInt64)
    /// In percent of the origin.
    case percent(UInt64)

    /// Arguments for lvcreate.
    var arguments: [String] {
        switch self {
        case .bytes(let count): ["--size", "\(count)b"]
        case .percent(let percent): ["--extents", "\(percent)%ORIGIN"]
        }
    }
}

/// A logical volume in use, its standby, and the snapshots kept for that standby.
package final class LiveVolume {
    /// How to send one volume.
    package struct Options: Sendable {
        package var sender: Sender.Options
        /// Size of a classic snapshot's store; `nil` derives it from earlier sends.
        package var storeSize: StoreSize?
        /// Chunk size of a classic snapshot in bytes; `nil` takes LVM's default.
        package var chunkByteCount: UInt64?
        /// How long to wait for a pool's metadata snapshot that another program holds.
        package var waitSeconds: Int

        package init(
            sender: Sender.Options, storeSize: StoreSize?, chunkByteCount: UInt64?, waitSeconds: Int
        ) {
            self.sender = sender
            self.storeSize = storeSize
            self.chunkByteCount = chunkByteCount
            self.waitSeconds = waitSeconds
        }
    }

    /// The volume, as first reported by LVM.
    let volume: LogicalVolume
    let options: Options
    private let home: SourceHome
    private let key: KeyID
    private let warn: (String) -> Void
    /// Held while the volume is sent, if it is the target of a standby on this host.
    private var claim: TargetClaim?

    /// - Parameter warn: receives what the user should know while the send continues.
    package init(
        _ volume: LogicalVolume, _ options: Options, home: SourceHome,
        warn: @escaping (String) -> Void
    ) throws {
        self.volume = volume
        self.options = options
        self.home = home
        self.warn = warn
        key = try home.identity().keyID
    }

    private func replica() throws -> Replica? {
        try home.catalog.replica(options.sender.volume, at: options.sender.receiver)
    }

    /// Facts of the volume itself. LVM's id of the volume alone is not enough: its copy in a cloned
    /// group has the same one.
    private var object: ObjectIdentity.Facts {
        [LiveFacts.group: volume.groupUUID, LiveFacts.origin: volume.uuid]
    }

    /// Identity of the volume, without a point in time.
    var identity: ObjectIdentity {
        ObjectIdentity(volume.isThin ? .thinSnapshot : .classicSnapshot, object: object)
    }

    func lock() throws -> SendLock {
        try home.lock(options.sender.receiver, options.sender.volume)
    }

    /// Refuses a volume that cannot have a snapshot or must not be sent as this volume.
    func check() throws {
        try checkKind()
        try Sender(home, options.sender).checkObject(identity, volume.fullName, try replica())
        if claim == nil, let path = try volume.device?.path() {
            claim = try TargetClaim(
                try SourceError.reading { () throws(SystemCallError) in try File(path: path) })
        }
    }

    private func checkKind() throws {
        switch volume.kind {
        case .thin, .plain: break
        case .snapshot:
            throw SourceError.invalid(
                path: volume.fullName,
                reason:
                    "it is a classic snapshot, of which no snapshot can be taken; name its origin, "
                    + "\(volume.group)/\(volume.origin ?? "")")
        case .component:
            throw SourceError.invalid(
                path: volume.fullName, reason: "it is a pool or a part of a volume, and no volume")
        }
        guard !volume.isMerging else {
            throw SourceError.invalid(
                path: volume.fullName,
                reason: "a snapshot is being merged into it; wait until that is done")
        }
        guard volume.device != nil else {
            throw SourceError.invalid(
                path: volume.fullName,
                reason: "it is not active; activate it with: lvchange -ay -K \(volume.fullName)")
        }
    }

    /// Resumes what an earlier run left suspended. Refuses a volume that another program has
    /// suspended: LVM would wait for it or fail.
    ///
    /// The suspension is ours if a snapshot of the volume was announced and never seen: lvcreate
    /// was killed together with its send. It cannot still be running, because it would hold the
    /// lock that this process has.
    ///
    /// - Parameter resumes: false in a dry run, which resumes nothing.
    func checkSuspension(in group: VolumeGroup, resumes: Bool = true) throws {
        let suspended = Suspension.devices(of: volume, in: group.volumes)
        guard let first = suspended.first else { return }
        let isOurs = try home.catalog.madeSnapshots().contains {
            $0.receiver == options.sender.receiver && $0.volume == options.sender.volume
                && $0.originUUID == volume.uuid && $0.uuid == nil
        }
        guard isOurs else {
            throw LVMError.busy(
                "\(first.name), a device of \(volume.fullName), is suspended: what is written to it waits. If nobody is at "
                    + "it, resume it with: \(first.remedy)")
        }
        for device in suspended where resumes {
            try Suspension.resume(device)
            warn("\(device.name) was resumed; an interrupted send had left it suspended")
        }
    }

    /// Checks the space for a snapshot, and refuses a thin volume whose pool cannot take another.
    func checkPool(in group: VolumeGroup) throws {
        for warning in SnapshotRoom.warnings(for: volume, in: group) { warn(warning) }
        guard let budget = try PoolBudget(of: volume, in: group) else { return }
        if let reason = budget.refusal {
            throw SourceError.refused(.poolExhausted, path: budget.pool, reason: reason)
        }
        if let warning = budget.warning { warn(warning) }
    }

    // MARK: Snapshots

    /// Name such as "vol_blockferry_1a2b3c4d".
    func newSnapshotName() -> String {
        let suffix = Hex.encode(SecureRandom.bytes(4))
        return volume.derivedName("_blockferry_\(suffix)")
    }

    /// Records that a snapshot of this name is about to be made.
    func announce(_ name: String) throws {
        try home.catalog.announce([
            MadeSnapshot(
                receiver: options.sender.receiver, volume: options.sender.volume,
                groupUUID: volume.groupUUID, name: name, originUUID: volume.uuid)
        ])
    }

    /// Records the facts of an announced snapshot, before it can be written.
    private func complete(_ snapshot: LogicalVolume, proof: String?) throws {
        let row = SnapshotProof.row(of: snapshot, in: try home.catalog.madeSnapshots())
        guard let row, row.name != nil, row.uuid == nil || row.proof == nil && proof != nil else {
            return
        }
        try home.catalog.complete(
            groupUUID: snapshot.groupUUID, name: snapshot.name, uuid: snapshot.uuid, proof: proof)
    }

    /// Takes a snapshot of the volume.
    ///
    /// - Parameter isToBeRenewed: of a thin volume only: the snapshot stays inactive and gets its
    ///   content later.
    func create(_ name: String, _ lock: SendLock, isToBeRenewed: Bool = false) throws {
        do {
            try VolumeGroup.createSnapshot(
                of: volume, named: name,
                tags: SnapshotTags.new(options.sender.receiver, options.sender.volume, key)
                    + (isToBeRenewed ? [ThinPool.renewedTag] : []),
                store: volume.isThin ? nil : try storeArguments(), isActive: !isToBeRenewed,
                holding: lock.lock)
        } catch LVMError.command(let error) where error.message.contains("suspend ioctl") {
            throw LVMError.refused(
                "\(error). LVM freezes the file system on the volume itself, and kernels before 6.8 refuse "
                    + "that where it is frozen already: let a hook flush the application, and leave the freezing to LVM"
            )
        }
    }

    /// Three times the largest change to expect; a fifth of the origin until one is known.
    private func storeSize() throws -> StoreSize {
        if let size = options.storeSize { return size }
        let peak = try home.catalog.changePeak(
            options.sender.volume, at: options.sender.receiver)
        guard let peak else { return .percent(20) }
        let least: UInt64 = 64 << 20
        let wanted = peak.bytes.multipliedReportingOverflow(by: 3)
        return .bytes(
            min(max(wanted.overflow ? .max : wanted.partialValue, least), volume.byteCount))
    }

    private func storeArguments() throws -> [String] {
        try storeSize().arguments
            + (options.chunkByteCount.map { ["--chunksize", "\($0)b"] } ?? [])
    }

    /// Opens a snapshot of the volume, or the volume itself for an inspection.
    func source(
        _ snapshot: LogicalVolume, in group: VolumeGroup, time: UInt64
    ) throws -> any Source {
        if snapshot.isThin {
            let pool = try LivePool(
                of: snapshot, in: group, home: home, waitSeconds: options.waitSeconds)
            let source = try LiveThinSource(
                snapshot, of: object, in: group, pool: pool, time: time)
            try complete(snapshot, proof: "\(source.identity)")
            return source
        }
        try complete(snapshot, proof: nil)
        let home = home
        return try LiveSnapshotSource(
            snapshot, of: object, in: group, time: time,
            LiveSnapshotSource.Context(
                warn: warn, isBaseGivenUp: try replica()?.isBaseGivenUp ?? false,
                noteGivenUp: { home.noteGivenUp($0) }))
    }

    /// Lends the snapshot of the committed generation.
    package func withCommittedSource<Value>(
        in group: VolumeGroup, _ body: (any Source) throws -> Value
    ) throws -> Value {
        defer {
            // A send that is running now has activated the snapshot for itself.
            if let lock = try? lock(), let now = try? VolumeGroup(group.name) {
                rest(now, lock.lock)
            }
        }
        return try lend(group, body)
    }

    /// A separate function, so that the snapshot is closed when it returns.
    private func lend<Value>(
        _ group: VolumeGroup, _ body: (any Source) throws -> Value
    ) throws -> Value { try body(try committedSource(in: group)) }

    private func committedSource(in group: VolumeGroup) throws -> any Source {
        guard let uuid = try replica()?.baseIdentity?.snapshotUUID,
            let snapshot = group.volume(uuid: uuid), !snapshot.isMerging
        else {
            throw SourceError.noProof(
                .baseLost,
                reason:
                    "the snapshot that the standby's generation was made from is not in volume group "
                    + "\(group.name): there is nothing to compare the copy with")
        }
        guard snapshot.device == nil else {
            return try source(snapshot, in: group, time: snapshot.createdAtNanoseconds)
        }
        try VolumeGroup.activate(snapshot, holding: nil)
        let now = try VolumeGroup(group.name)
        guard let active = now.volume(uuid: uuid) else { throw LVMError.notFound(uuid) }
        return try source(active, in: now, time: active.createdAtNanoseconds)
    }

    /// The group of the unfinished generation.
    func unfinishedGroup() throws -> Group? { try replica()?.transfer?.begin.group }

    /// LVM's id of the snapshot of the unfinished generation.
    func unfinishedID() throws -> String? {
        try replica()?.unfinishedIdentity?.snapshotUUID
    }

    /// The snapshot of the unfinished generation, active; `nil` if there is none or it can no
    /// longer be used.
    func unfinishedSnapshot(
        in group: VolumeGroup, _ lock: SendLock
    ) throws -> LogicalVolume? {
        // LVM may have lost a thin snapshot's origin; the catalog still knows it.
        guard let uuid = try unfinishedID(), let snapshot = group.volume(uuid: uuid),
            snapshot.originUUID == volume.uuid
                || snapshot.isThin && snapshot.originUUID == nil,
            !snapshot.isMerging
        else { return nil }
        if snapshot.kind == .snapshot {
            // A snapshot that was activated again, or that the kernel invalidated, may lack writes.
            guard let device = snapshot.device,
                try LiveSnapshotSource.facts(of: snapshot) == replica()?.unfinishedIdentity?.content
            else { return nil }
            if case .invalid = try DeviceMapper.snapshotStatus(device) { return nil }
        }
        if snapshot.device == nil { try VolumeGroup.activate(snapshot, holding: lock.lock) }
        return snapshot
    }

    /// Removes the snapshots that this catalog made for this standby and volume and that are
    /// neither the base nor of the unfinished generation.
    ///
    /// One that can no longer be proven to be ours is reported, struck from the catalog and left in
    /// place. Cleaning up never fails a send: it reports failures, `SnapshotInventory` lists what
    /// is left, and the next send tries again.
    func sweep(_ group: VolumeGroup, _ lock: SendLock) {
        do {
            try SnapshotCleaner(home, waitSeconds: options.waitSeconds).clean(
                options.sender.receiver, options.sender.volume, [group], lock, isDryRun: false,
                report: tell)
        } catch {
            warn(
                "what earlier sends left over in volume group \(group.name) is not removed now: \(error)"
            )
        }
    }

    /// Removes what killed sends of other volumes left in the groups, because it takes up the space
    /// that a snapshot needs.
    func sweepOthers(_ groups: [VolumeGroup]) {
        do {
            try SnapshotInventory(home).cleanSnapshots(in: groups, isDryRun: false, waitSeconds: 0)
            {
                tell($0)
            }
        } catch {
            warn("what sends of other volumes left over is not removed now: \(error)")
        }
    }

    private func tell(_ found: SnapshotCleaner.Found) {
        switch found.fate {
        case .removed, .unknown: break
        case .left(let why): warn("\(found.volume.fullName) is left alone: \(why)")
        case .kept(let why): warn("\(found.volume.fullName) is not removed now: \(why)")
        }
    }

    /// Deactivates our thin snapshots of the volume: while they are active, their content exists
    /// twice, with the same UUIDs and names. Between two sends nothing needs their devices. One
    /// that is open stays active.
    func rest(_ group: VolumeGroup, _ lock: FileLock?) {
        for lv in group.volumes where lv.isThin && lv.isReadOnly && lv.device != nil {
            guard let own = SnapshotTags.own(lv, key), own.receiver == options.sender.receiver,
                own.name == options.sender.volume, lv.originUUID ?? volume.uuid == volume.uuid,
                let role = try? home.catalog.role(of: lv), role != .leftover
            else { continue }
            do throws(LVMError) { try VolumeGroup.deactivate(lv, holding: lock) } catch {
                warn("\(lv.fullName) stays active: \(error)")
            }
        }
    }

    /// Finds a snapshot that was just taken. Without its tags it would never be recognised again,
    /// and each send would leave another one.
    func taken(_ name: String, in group: VolumeGroup) throws -> LogicalVolume {
        guard let snapshot = group.volume(named: name) else { throw LVMError.notFound(name) }
        let tags = SnapshotTags.new(options.sender.receiver, options.sender.volume, key)
        guard snapshot.tags.isSuperset(of: tags) else {
            throw LVMError.unexpected(
                "LVM made \(snapshot.fullName) and reports it without the tags that it was to have "
                    + "(\(snapshot.tags.sorted().joined(separator: " "))). Remove it with: lvremove \(snapshot.fullName)"
            )
        }
        return snapshot
    }
}

extension LogicalVolume {
    /// Whether it is a volume in a thin pool.
    package var isThin: Bool {
        if case .thin = kind { return true }
        return false
    }
}

extension VolumeGroup {
    /// The snapshot of the standby's generation, by LVM's id.
    ///
    /// The differences between any two devices of one thin pool are known, whatever LVM says about
    /// their origins. Classic snapshots must both be of one volume.
    ///
    /// - Throws: `noProof` if the snapshot is gone, being merged, in another pool, `snapshot`
    ///   itself, or not a snapshot of the same volume.
    func base(_ uuid: String, of snapshot: LogicalVolume) throws -> LogicalVolume {
        guard let base = volume(uuid: uuid) else {
            throw SourceError.noProof(
                .baseLost,
                reason:
                    "the snapshot that the standby's generation was made from is gone from volume group "
                    + "\(name) (its id was \(uuid))")
        }
        // LVM reports another kind for a snapshot that is being merged.
        guard !base.isMerging else {
            throw SourceError.noProof(
                .baseLost,
                reason:
                    "\(base.fullName), which the standby's generation was made from, is being merged"
            )
        }
        switch (base.kind, snapshot.kind) {
        case (.thin(_, let one, _, _), .thin(_, let other, _, _)) where one == other: return base
        case (.snapshot, .snapshot), (.snapshot, .plain):
            let origin = snapshot.kind == .snapshot ? snapshot.originUUID : snapshot.uuid
            if origin != nil, base.originUUID == origin { return base }
        default: break
        }
        throw SourceError.noProof(
            .baseLost,
            reason:
                "\(base.fullName), which the standby's generation was made from, is no snapshot of the same volume "
                + "as \(snapshot.fullName)" + (snapshot.isThin ? ", and not in its pool" : ""))
    }
}
