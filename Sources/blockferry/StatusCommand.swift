// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import LVM
internal import Platform
internal import Sending
internal import ThinMetadata
internal import Wire

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show where each volume stands, as this host knows it.",
        discussion: "The standby is not asked; blockferry explain asks it.")

    @OptionGroup var state: StateOptions
    @Flag(help: "Print JSON.") var json = false

    private struct Entry: Encodable {
        let volume, peer, state: String
        /// Description of the committed generation's source.
        let source: String?
        let generation: UInt64?
        let generationId: String?
        let ageSeconds: UInt64?
        let committed: String?
        /// When the standby last recorded that nothing has changed since.
        let confirmed: String?
        /// Why the last command for the volume failed; `nil` if it did not.
        let lastError: LastError?
        let volumeBytes: UInt64?
        let lastBytesChanged: UInt64?
        let lastBytesOnWire: UInt64?
        let exportedFile: String?
        let exportedId: String?
    }

    private struct LastError: Encodable {
        let time: String
        let rule: String?
        let message: String

        init(_ failure: SourceFailure) {
            time = Format.time(failure.time)
            rule = failure.rule
            message = failure.text
        }
    }

    func run() throws {
        let home = try state.readableHome()
        let catalog = home.catalog
        // Without LVM, or without permission to use it, there are no snapshots to show.
        let live = try liveFacts(home)
        let snapshots = live?.snapshots
        let now = Clock.wall()
        let failures = try catalog.failures()
        func failed(_ volume: VolumeName, _ receiver: ReceiverName) -> LastError? {
            failures.first { $0.volume == volume && $0.receiver == receiver }
                .map { LastError($0.failure) }
        }
        let replicas = try catalog.replicas()
        // A volume that was never planned has no replica yet.
        let unknown = failures.filter { failure in
            !replicas.contains {
                $0.volume == failure.volume && $0.receiver == failure.receiver
            }
        }.map { Replica(receiver: $0.receiver, volume: $0.volume) }
        let entries = try (replicas + unknown).map { replica in
            let last = try catalog.history(
                .replica(replica.volume, replica.receiver), limit: 1
            ).first
            let time = replica.committed?.head.sourceTime
            let state =
                replica.pending != nil
                ? replica.exported != nil ? "exported" : "commit-in-doubt"
                : replica.transfer != nil
                    ? "unfinished" : replica.committed != nil ? "committed" : "empty"
            return Entry(
                volume: replica.volume.text, peer: replica.receiver.text, state: state,
                source: replica.committed?.head.sourceIdentity,
                generation: replica.committed?.head.number,
                generationId: replica.committed.map { "\($0.id)" },
                ageSeconds: time.flatMap {
                    Format.copyAge(
                        $0, committedAt: replica.committedAt, confirmedAt: replica.confirmedAt,
                        now: now)
                },
                committed: replica.committedAt.map(Format.time),
                confirmed: replica.confirmedAt.map(Format.time),
                lastError: failed(replica.volume, replica.receiver),
                volumeBytes: replica.committed?.head.volumeSize,
                lastBytesChanged: last?.changedBytes, lastBytesOnWire: last?.wireBytes,
                exportedFile: replica.exported,
                exportedId: replica.exported == nil ? nil : replica.pending.map { "\($0.id)" })
        }
        if json {
            struct List: Encodable {
                let schemaVersion = 1
                let volumes: [Entry]
                let snapshots: [SnapshotEntry]?
                let suspendedDevices: [String]?
                let pools: [PoolEntry]?
                /// Warnings about groups and pools that fill up.
                let warnings: [String]?
                /// Set if the state cannot be written.
                let note: String?
            }
            return Terminal.out(
                try Format.json(
                    List(
                        volumes: entries, snapshots: snapshots,
                        suspendedDevices: live?.suspended.map(\.device.name),
                        pools: live?.pools, warnings: live?.warnings,
                        note: catalog.reading?.sentence)))
        }
        let rows = entries.map { entry in
            [
                entry.volume, entry.peer, entry.state,
                entry.generation.map { "\($0) (\((entry.generationId ?? "").prefix(8)))" } ?? "-",
                entry.ageSeconds.map { Format.age(seconds: $0) } ?? "-", entry.committed ?? "-",
                entry.source ?? "-",
            ]
        }
        Terminal.out(
            Format.table(
                [["VOLUME", "PEER", "STATE", "GENERATION", "AGE OF COPY", "COMMITTED", "SOURCE"]]
                    + rows))
        for entry in entries {
            guard let error = entry.lastError else { continue }
            Terminal.out(
                "\n" + Format.escaped("\(entry.volume): \(error.time): \(error.message)") + "\n")
        }
        for found in live?.suspended ?? [] { Terminal.out("\n" + found.sentence) }
        for warning in live?.warnings ?? [] { Terminal.out("\nwarning: \(warning)\n") }
        guard let snapshots, !snapshots.isEmpty else { return }
        Terminal.out(
            "\n"
                + Format.table(
                    [["SNAPSHOT", "OF", "FOR", "ROLE", "HOLDS", "STORE"]]
                        + snapshots.map { entry in
                            [
                                entry.snapshot, entry.origin ?? "?",
                                "\(entry.volume) on \(entry.peer)",
                                entry.role, entry.bytesHeld.map(Format.bytes) ?? "?",
                                entry.storePercent.map { "\($0) % full" } ?? "-",
                            ]
                        }))
        guard let pools = live?.pools, !pools.isEmpty else { return }
        Terminal.out(
            "\n"
                + Format.table(
                    [["POOL", "SNAPSHOTS LEFT"]] + pools.map { [$0.pool, "\($0.snapshotsLeft)"] }))
    }

    private typealias LiveFacts = (
        snapshots: [SnapshotEntry], suspended: [SnapshotInventory.Suspended], pools: [PoolEntry],
        warnings: [String]
    )

    /// `nil` if LVM cannot be queried; the rest of the status is still useful.
    private func liveFacts(_ home: SourceHome) throws -> LiveFacts? {
        let inventory = SnapshotInventory(home)
        do {
            return (
                try inventory.entries().map(SnapshotEntry.init), try inventory.suspended(),
                try inventory.pools().map {
                    PoolEntry(pool: $0.pool, snapshotsLeft: $0.budget.left)
                }, try inventory.roomWarnings()
            )
        } catch is LVMError {
            return nil
        }
    }
}

/// A thin pool that contains our snapshots.
private struct PoolEntry: Encodable {
    let pool: String
    let snapshotsLeft: UInt64
}

extension SnapshotInventory.Suspended {
    /// The entry as text.
    fileprivate var sentence: String {
        "\(device.name), a device of \(volume.fullName), is suspended: what is written to it waits. Whoever did that may "
            + "be at it still; if nobody is, resume it with: \(device.remedy)\n"
    }
}

/// One of our snapshots, as JSON.
private struct SnapshotEntry: Encodable {
    let snapshot: String
    let origin: String?
    let peer, volume, kind, role, created: String
    /// Bytes that would be free without it.
    let bytesHeld: UInt64?
    let storePercent: UInt64?

    init(_ entry: SnapshotInventory.Entry) {
        let own = entry.snapshot
        snapshot = own.volume.fullName
        origin = entry.origin
        peer = own.receiver.text
        volume = own.name.text
        kind = own.volume.isThin ? "thin" : "classic"
        role = entry.role.rawValue
        created = Format.time(own.volume.createdAtNanoseconds)
        bytesHeld = entry.heldByteCount
        storePercent = entry.storePercent
    }
}

struct CleanupCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cleanup",
        abstract: "Remove what interrupted sends have left behind.",
        discussion: """
            Removes snapshots that this host has made and no generation needs any more, and releases metadata \
            snapshots of thin pools that it has reserved. Nothing else is touched: a snapshot is removed only if this \
            state directory has made it, and it has its name, is read-only and was not written since. One that a \
            running send uses, the base of a volume, or that of an unfinished generation stays. Suspended devices of \
            its volumes are named. The next send of a volume does the same for that volume.
            """)

    @OptionGroup var state: StateOptions
    @Flag(name: [.long, .customShort("n")], help: "Say what would be removed, and remove nothing.")
    var dryRun = false
    @Flag(help: "Print JSON.") var json = false

    func run() throws {
        let cleaned = try SnapshotInventory(try state.home()).cleanUp(isDryRun: dryRun)
        func names(_ isWanted: (SnapshotCleaner.Fate) -> Bool) -> [String] {
            cleaned.snapshots.filter { isWanted($0.fate) }.map(\.volume.fullName)
        }
        if json {
            struct Result: Encodable {
                let schemaVersion = 1
                let dryRun: Bool
                let snapshots, leftAlone, releasedPools, suspendedDevices: [String]
            }
            return Terminal.out(
                try Format.json(
                    Result(
                        dryRun: dryRun, snapshots: names { $0 == .removed },
                        leftAlone: names { $0 != .removed }, releasedPools: cleaned.pools,
                        suspendedDevices: cleaned.suspended.map(\.device.name))))
        }
        let verb = dryRun ? "would be" : "was"
        for found in cleaned.snapshots {
            let name = found.volume.fullName
            switch found.fate {
            case .removed: Terminal.out("snapshot \(name) \(verb) removed\n")
            case .kept(let why): Terminal.out("snapshot \(name) cannot be removed now: \(why)\n")
            case .left(let why):
                Terminal.out("\(name) is not ours any more and is left alone: \(why)\n")
            case .unknown:
                Terminal.out(
                    "\(name) has our tags, but this state has not made it, or somebody has made something else of it: "
                        + "it is left alone. If nobody needs it: lvremove \(name)\n")
            }
        }
        for pool in cleaned.pools {
            Terminal.out("the metadata snapshot of pool \(pool) \(verb) released\n")
        }
        for found in cleaned.suspended { Terminal.out(found.sentence) }
        if cleaned.snapshots.isEmpty, cleaned.pools.isEmpty, cleaned.suspended.isEmpty {
            Terminal.out("nothing is left over\n")
        }
    }
}
