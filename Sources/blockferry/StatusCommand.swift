// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import LVM
internal import Platform
internal import Sending
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
        /// What the committed generation was made from, in words.
        let source: String?
        let generation: UInt64?
        let generationId: String?
        let ageSeconds: UInt64?
        let committed: String?
        let volumeBytes: UInt64?
        let lastBytesChanged: UInt64?
        let lastBytesOnWire: UInt64?
        let exportedFile: String?
        let exportedId: String?
    }

    func run() throws {
        let home = try state.home()
        let catalog = home.catalog
        // Without LVM, or without the right to use it, there are no snapshots to show.
        let snapshots = try snapshotEntries(home)
        let now = Clock.wall()
        let entries = try catalog.replicas().map { replica in
            let last = try catalog.history(
                receiver: replica.receiver, volume: replica.volume, limit: 1
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
                ageSeconds: time.map { now > $0 ? (now - $0) / nanosecondsPerSecond : 0 },
                committed: replica.committedAt.map(Format.time),
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
            }
            return Terminal.out(try Format.json(List(volumes: entries, snapshots: snapshots)))
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
        guard let snapshots, !snapshots.isEmpty else { return }
        Terminal.out(
            "\n"
                + Format.table(
                    [["SNAPSHOT", "OF", "FOR", "ROLE", "HOLDS", "STORE"]]
                        + snapshots.map { entry in
                            [
                                entry.snapshot, entry.origin, "\(entry.volume) on \(entry.peer)",
                                entry.role, entry.bytesHeld.map(Format.bytes) ?? "?",
                                entry.storePercent.map { "\($0) % full" } ?? "-",
                            ]
                        }))
    }

    /// Nothing if LVM cannot be asked: status is good for more than that.
    private func snapshotEntries(_ home: SourceHome) throws -> [SnapshotEntry]? {
        do { return try SnapshotInventory(home).entries().map(SnapshotEntry.init) } catch LVMError
            .command
        {
            return nil
        }
    }
}

/// A snapshot of ours, as JSON.
private struct SnapshotEntry: Encodable {
    let snapshot, origin, peer, volume, kind, role, created: String
    /// What would be free without it.
    let bytesHeld: UInt64?
    let storePercent: UInt64?

    init(_ entry: SnapshotInventory.Entry) {
        let own = entry.snapshot
        snapshot = own.volume.fullName
        origin = "\(own.volume.group)/\(own.volume.origin)"
        peer = own.receiver.text
        volume = own.name.text
        kind = own.volume.isThin ? "thin" : "classic"
        role = entry.role.rawValue
        created = Format.time(own.volume.createdAt * nanosecondsPerSecond)
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
            snapshots of thin pools that it has reserved. Nothing else is touched: snapshots are known by their \
            tags, and one that a running send uses, the base of a volume, or that of an unfinished generation stays. \
            The next send of a volume does the same for that volume.
            """)

    @OptionGroup var state: StateOptions
    @Flag(name: [.long, .customShort("n")], help: "Say what would be removed, and remove nothing.")
    var dryRun = false
    @Flag(help: "Print JSON.") var json = false

    func run() throws {
        let removed = try SnapshotInventory(try state.home()).cleanUp(isDryRun: dryRun)
        let names = removed.snapshots.map(\.volume.fullName)
        if json {
            struct Result: Encodable {
                let schemaVersion = 1
                let dryRun: Bool
                let snapshots, releasedPools: [String]
            }
            return Terminal.out(
                try Format.json(
                    Result(dryRun: dryRun, snapshots: names, releasedPools: removed.pools)))
        }
        let verb = dryRun ? "would be" : "was"
        for name in names { Terminal.out("snapshot \(name) \(verb) removed\n") }
        for pool in removed.pools {
            Terminal.out("the metadata snapshot of pool \(pool) \(verb) released\n")
        }
        if names.isEmpty, removed.pools.isEmpty { Terminal.out("nothing is left over\n") }
    }
}
