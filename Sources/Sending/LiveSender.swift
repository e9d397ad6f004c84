// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import LVM
internal import Platform
internal import Wire

/// Sends logical volumes in use: takes snapshots, sends them, and rotates them.
///
/// Between two sends, one snapshot remains for each standby and volume: the base, which is what the
/// standby holds. After a crash, the next run cleans up:
///
/// 1. It removes the snapshots that this catalog made and that are neither the base nor of the
///    unfinished generation. *A crash leaves some of them; the next run removes them.*
/// 2. The catalog records that a snapshot is about to be made; the hooks run, and one command makes
///    it with its tags. *A crash leaves a snapshot, or none, that is neither the base nor of an
///    unfinished generation: 1 removes it. The guardian runs the second hook.*
/// 3. The plan is written and entered into the catalog with the new snapshot's identity (`Sender`).
///    *A crash from here on leaves an unfinished generation: the next run activates its snapshot
///    and resumes it, then takes a new one.*
/// 4. The standby commits, then the catalog: the new snapshot becomes the base. *A crash between
///    the two leaves a generation in doubt and both snapshots; the next run asks the standby.*
/// 5. The old base is removed, and a thin new one is deactivated. *A crash leaves it: 1 removes it;
///    an active one is deactivated after the next send.*
///
/// Several volumes form a group: 2 takes their snapshots while all of them are suspended, and 3 and
/// 4 are those of `GroupSender`.
package final class LiveSender {
    /// A snapshot to send, with the current report of its volume group.
    private typealias Moment = (snapshot: LogicalVolume, group: VolumeGroup, time: UInt64)

    private let home: SourceHome
    private let volumes: [LiveVolume]
    private let hooks: SnapshotHooks
    private let report: (Sender.Report) -> Void
    private var difference: Difference?

    package init(
        _ home: SourceHome, _ volumes: [LiveVolume], _ hooks: SnapshotHooks,
        report: @escaping (Sender.Report) -> Void
    ) {
        self.home = home
        self.volumes = volumes
        self.hooks = hooks
        self.report = report
    }

    /// Explains what would be sent of each volume if a snapshot were taken now. Takes none.
    package func explain() throws -> [Sender.Explanation] {
        for volume in volumes { try volume.check() }
        let groups = try groups()
        let sources = try zip(volumes, groups).map { volume, group in
            try volume.checkSuspension(in: group, resumes: false)
            try volume.checkPool(in: group)
            return try volume.source(volume.volume, in: group, time: Clock.wall())
        }
        if volumes.count == 1 { return [try sender(volumes[0]).explain(sources[0])] }
        return try GroupSender(home).explain(
            zip(volumes, sources).map {
                GroupSender.Member(source: $1, options: $0.options.sender)
            })
    }

    /// Compares the volume as it is now with the standby's copy and changes neither.
    package func planResync(_ options: ResyncOptions) throws -> Difference {
        let volume = volumes[0]
        try volume.check()
        let group = try groups()[0]
        try volume.checkPool(in: group)
        return try sender(volume).planResync(
            try volume.source(volume.volume, in: group, time: Clock.wall()), options)
    }

    /// Sends the differences between a new point in time and the standby's copy.
    ///
    /// - Returns: also what differed, unless it only completed an interrupted resync.
    package func resync(
        _ options: ResyncOptions
    ) throws -> (outcomes: [Sender.Outcome], difference: Difference?) {
        precondition(volumes.count == 1, "a resync is of one volume")
        return (try bring(.resync(options))[0], difference)
    }

    /// Exports a new point in time to a file that the standby can import.
    ///
    /// The new snapshot and the base both stay until it is known whether the file was imported.
    package func export(_ how: ExportOptions) throws -> Sender.Outcome {
        precondition(volumes.count == 1, "an export is of one volume")
        return try bring(.export(how))[0][0]
    }

    /// Sends a new point in time to the standby.
    ///
    /// - Returns: the outcomes for each volume; a generation that an earlier run had begun comes
    ///   first.
    package func send() throws -> [[Sender.Outcome]] { try bring(.send) }

    /// How to send points in time.
    private enum Way {
        case send
        /// One volume, by comparison.
        case resync(ResyncOptions)
        /// One volume, to a file.
        case export(ExportOptions)
    }

    private func bring(_ wanted: Way) throws -> [[Sender.Outcome]] {
        for volume in volumes { try volume.check() }
        let locks = try volumes.map { try $0.lock() }
        var way = try check(wanted)
        let groups = try groups()
        for (volume, group) in zip(volumes, groups) {
            try volume.checkSuspension(in: group)
            try volume.checkPool(in: group)
        }
        sweep(groups, locks)
        volumes.first?.sweepOthers(groups)
        var outcomes = volumes.map { _ in [Sender.Outcome]() }
        func bring(_ moments: [Moment]) throws {
            for (index, outcome) in try transmit(moments, way, locks).enumerated() {
                outcomes[index].append(outcome)
            }
        }
        if let unfinished = try unfinished(way, locks) {
            try bring(unfinished)
            // What follows builds on a generation that both sides know.
            way = .send
            if let now = try? self.groups() { sweep(now, locks) }
        }
        // The snapshots of the unfinished and the committed generation stay; others are removed.
        defer {
            if let now = try? self.groups() {
                sweep(now, locks)
                rest(now, locks)
            }
        }
        try bring(try take(locks))
        return outcomes
    }

    /// Finds refusals before anything is frozen.
    private func check(_ way: Way) throws -> Way {
        switch way {
        case .send:
            for volume in volumes {
                if let refusal = try sender(volume).explain(nil).refusal { throw refusal }
            }
        case .resync(let options):
            let found = try sender(volumes[0]).explain(nil)
            guard found.standby.state != .promoted || options.overwritePromoted else {
                throw SendError.promotedStandby
            }
            if let problem = Sender.mistrust(options, found.memory, found.standby) { throw problem }
        case .export(var how):
            try sender(volumes[0]).checkExport(how)
            // The operator's statement about the previous export is settled.
            how.former = .unknown
            return .export(how)
        }
        return way
    }

    private func sender(_ volume: LiveVolume) -> Sender {
        Sender(home, volume.options.sender, report: report)
    }

    private func transmit(
        _ moments: [Moment], _ way: Way, _ locks: [SendLock]
    ) throws -> [Sender.Outcome] {
        let sources = try zip(volumes, moments).map { volume, moment in
            try volume.source(moment.snapshot, in: moment.group, time: moment.time)
        }
        switch way {
        case .resync(let options):
            let sent = try sender(volumes[0]).resync(sources[0], locks[0], options)
            difference = sent.difference ?? difference
            return [sent.outcome]
        case .export(let how):
            return [try sender(volumes[0]).export(sources[0], locks[0], how)]
        case .send: break
        }
        if volumes.count == 1 { return [try sender(volumes[0]).send(sources[0], locks[0])] }
        return try GroupSender(home, report: { [report] in report($1) }).send(
            zip(volumes, sources).map {
                GroupSender.Member(source: $1, options: $0.options.sender)
            },
            locks)
    }

    // MARK: Snapshots

    /// The current report of each volume's group.
    private func groups() throws -> [VolumeGroup] {
        var known: [String: VolumeGroup] = [:]
        return try volumes.map { volume in
            let name = volume.volume.group
            let group = try known[name] ?? VolumeGroup(name)
            known[name] = group
            return group
        }
    }

    private func sweep(_ groups: [VolumeGroup], _ locks: [SendLock]) {
        for (index, group) in groups.enumerated() { volumes[index].sweep(group, locks[index]) }
    }

    private func rest(_ groups: [VolumeGroup], _ locks: [SendLock]) {
        for (index, group) in groups.enumerated() { volumes[index].rest(group, locks[index].lock) }
    }

    /// The active snapshots of the unfinished generations. `nil` unless every volume has one and
    /// all were taken together: snapshots of interrupted single sends do not form a group.
    private func unfinished(_ way: Way, _ locks: [SendLock]) throws -> [Moment]? {
        // A file holds one generation, and that follows the committed one.
        if case .export = way { return nil }
        if volumes.count > 1 {
            let begun = try volumes.map { try $0.unfinishedGroup() }
            guard let group = begun[0], begun.allSatisfy({ $0 == group }),
                group.members == volumes.count
            else { return nil }
        }
        // LVM is slow to answer, and mostly there is nothing to look up.
        guard try volumes.allSatisfy({ try $0.unfinishedID() != nil }) else { return nil }
        let found = try zip(zip(volumes, try groups()), locks).map {
            try $0.0.unfinishedSnapshot(in: $0.1, $1)
        }
        let ids = found.compactMap { $0?.uuid }
        guard ids.count == volumes.count else { return nil }
        return try zip(ids, try groups()).map { id, group in
            guard let snapshot = group.volume(uuid: id) else { throw LVMError.notFound(id) }
            return (snapshot, group, snapshot.createdAtNanoseconds)
        }
    }

    /// Takes the new snapshots between the two hooks.
    private func take(_ locks: [SendLock]) throws -> [Moment] {
        let names = volumes.map { $0.newSnapshotName() }
        for (volume, name) in zip(volumes, names) { try volume.announce(name) }
        var time: UInt64 = 0
        try hooks.around(volumes.map(\.volume.fullName)) {
            if volumes.count == 1 {
                try volumes[0].create(names[0], locks[0])
                time = Clock.wall()
            } else {
                time = try takeTogether(names, locks)
            }
        }
        func found(_ groups: [VolumeGroup]) throws -> [LogicalVolume] {
            try volumes.indices.map { try volumes[$0].taken(names[$0], in: groups[$0]) }
        }
        var groups = try groups()
        let inactive = try zip(found(groups), locks).filter { $0.0.device == nil }
        if !inactive.isEmpty {
            for (snapshot, lock) in inactive {
                try VolumeGroup.activate(snapshot, holding: lock.lock)
            }
            groups = try self.groups()
            for snapshot in try found(groups) { try VolumeGroup.checkActive(snapshot) }
        }
        return try zip(found(groups), groups).map { ($0, $1, time) }
    }

    /// Takes snapshots of all volumes while all of them are suspended.
    ///
    /// LVM resumes a volume once it has taken its snapshot. Writes to that volume from then on are
    /// in no snapshot, and no dependent write can be in another: the other volumes are still
    /// suspended.
    private func takeTogether(_ names: [String], _ locks: [SendLock]) throws -> UInt64 {
        let members = volumes.indices.map { (volumes[$0], names[$0], locks[$0]) }
        for (volume, name, lock) in members where volume.volume.isThin {
            try volume.create(name, lock, isToBeRenewed: true)
        }
        let groups = try groups()
        var time: UInt64 = 0
        try SuspendWindow.around(
            volumes.map(\.volume), needed: [home.path], holding: locks.first?.lock
        ) {
            for ((volume, name, _), group) in zip(members, groups) where volume.volume.isThin {
                guard let snapshot = group.volume(named: name) else {
                    throw LVMError.notFound(name)
                }
                try ThinPool.renew(snapshot, of: volume.volume)
            }
            for (volume, name, lock) in members where !volume.volume.isThin {
                try volume.create(name, lock)
            }
            time = Clock.wall()
        }
        return time
    }
}
