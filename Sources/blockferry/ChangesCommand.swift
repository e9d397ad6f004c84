// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Blocks
internal import LVM
internal import Sending
internal import SnapshotStore
internal import ThinMetadata

/// `blockferry changes`: the list of changed blocks, read directly from device-mapper's metadata.
struct ChangesCommand: ParsableCommand {
    enum Format: String, ExpressibleByArgument, CaseIterable {
        case text, json, xml
    }

    static let configuration = CommandConfiguration(
        commandName: "changes",
        abstract: "List the blocks that changed between two snapshots.",
        discussion: """
            Of logical volumes in use, name the snapshots. Two snapshots in a thin pool are compared; of classic \
            snapshots, the first one's store names what was written since it was taken, which is all that can \
            differ between it and a later one.

              blockferry changes vg/monday vg/tuesday
              blockferry changes vg/snapshot --format json

            The same from images or devices, without LVM. For a thin pool, compares two of its devices. Give their numbers as 'lvs -o \
            name,thin_id' shows them. The list is exact as long as nobody has written to either, \
            so compare snapshots, not volumes in use.

              blockferry changes --thin-metadata tmeta.img --from 3 --to 5 --volume-size 1073741824

            For a classic snapshot, names every chunk that was written since it was made, in the \
            origin or in the snapshot.

              blockferry changes --cow-store /dev/mapper/vg-snap-cow --format json

            Text is one extent a line: offset and length in bytes, and 'data' (read it from the \
            newer snapshot) or 'unmapped' (it has no storage there and reads as zeros, unless \
            the volume has an external origin). Of a volume that grew, all that is behind the older end is in the \
            list; without sizes, an image's list is right for a volume that never changed its size. XML is what thin_delta prints, in blocks, with \
            what is the same.

            If anything in the input is wrong, nothing is printed and the exit code is 1: half a \
            list is worse than none.
            """)

    @Argument(
        help: ArgumentHelp(
            "Snapshots in use, the older first: two of a thin pool, or one or two classic ones.",
            valueName: "snapshot"))
    var snapshots: [String] = []

    @OptionGroup var input: OfflineInput

    @OptionGroup var state: StateOptions

    @Option(
        help: ArgumentHelp(
            "Seconds to wait while another program reads the metadata of the thin pool.",
            valueName: "seconds"))
    var wait = 30

    @Option(help: ArgumentHelp("Number of the older thin device.", valueName: "id"))
    var from: UInt32?

    @Option(help: ArgumentHelp("Number of the newer thin device.", valueName: "id"))
    var to: UInt32?

    @Option(
        help: ArgumentHelp(
            "Size of the volume at the newer snapshot; changes past it are left out. The metadata does not know it.",
            valueName: "bytes"))
    var volumeSize: UInt64?

    @Option(
        help: ArgumentHelp(
            """
            Size of the volume at the older snapshot, if it was another. What the newer one has behind the older end \
            is in the list.
            """, valueName: "bytes"))
    var fromSize: UInt64?

    @Option(help: "How to print: text, json or xml (xml for thin pools only).")
    var format = Format.text

    func validate() throws {
        guard snapshots.count <= 2 else { throw ValidationError("Name one or two snapshots.") }
        guard
            [!snapshots.isEmpty, input.thinMetadata != nil, input.cowStore != nil].count(where: {
                $0
            })
                == 1
        else {
            throw ValidationError("Give snapshots, or --thin-metadata, or --cow-store.")
        }
        if !snapshots.isEmpty {
            guard from == nil, to == nil, volumeSize == nil, fromSize == nil else {
                throw ValidationError(
                    "--from, --to, --from-size and --volume-size belong to images.")
            }
        } else if input.thinMetadata != nil {
            guard from != nil, to != nil else {
                throw ValidationError("--thin-metadata needs --from and --to.")
            }
            guard fromSize == nil || volumeSize != nil else {
                throw ValidationError("--from-size needs --volume-size.")
            }
            guard format != .xml || volumeSize == nil else {
                throw ValidationError("--format xml counts in blocks and takes no --volume-size.")
            }
        } else {
            guard from == nil, to == nil else {
                throw ValidationError("--from and --to belong to --thin-metadata.")
            }
            guard format != .xml else {
                throw ValidationError("--format xml belongs to --thin-metadata.")
            }
        }
    }

    func run() throws {
        // Print only once the list is known to be complete.
        try listing().print()
    }

    /// A list that is ready for printing.
    private struct Listing {
        let spool: Spool
        var prefix = ""
        var suffix = ""

        func print() throws { try spool.print(prefix: prefix, suffix: suffix) }
    }

    private func listing() throws -> Listing {
        if !snapshots.isEmpty {
            let live = try LiveChanges(snapshots, home: { try state.home() }, waitSeconds: wait)
            return try live.read { list in
                switch list {
                case .thin(let pool, let from, let to, let sizes, _) where format == .xml:
                    guard !sizes.hasGrown else {
                        throw ValidationError(
                            "The newer snapshot is longer: thin_delta's XML, which knows no sizes, would not name what is "
                                + "behind the older one's end. Use --format text or json.")
                    }
                    return try xml(pool, from, to)
                case .thin(let pool, let from, let to, let sizes, let hasExternalOrigin):
                    return try self.list(
                        try pool.changes(from: from, to: to, sizes: sizes), .thin,
                        pool.superblock.dataBlockByteCount, older: sizes.older,
                        newer: sizes.newer, unmappedIsData: hasExternalOrigin)
                case .store where format == .xml:
                    throw ValidationError("--format xml is for thin pools.")
                case .store(let store, let sizes):
                    return try self.list(
                        store.changes(newerByteCount: sizes.newer), .cow,
                        store.header.chunkByteCount, older: sizes.older, newer: sizes.newer)
                }
            }
        }
        if let file = input.cowStore {
            return try DamagedInput.naming(file) {
                let store = try input.openStore(file, volumeByteCount: fromSize ?? volumeSize)
                return try list(
                    store.changes(newerByteCount: volumeSize), .cow, store.header.chunkByteCount,
                    older: fromSize ?? volumeSize, newer: volumeSize)
            }
        }
        guard let file = input.thinMetadata, let from, let to else {
            throw ValidationError("Give snapshots, or --thin-metadata, or --cow-store.")
        }
        return try DamagedInput.naming(file) {
            let pool = try input.openPool(file)
            if format == .xml { return try xml(pool, from, to) }
            let sizes = volumeSize.map { VolumeSizes(older: fromSize ?? $0, newer: $0) }
            return try list(
                try pool.changes(from: from, to: to, sizes: sizes), .thin,
                pool.superblock.dataBlockByteCount, older: sizes?.older, newer: sizes?.newer)
        }
    }

    private func list(
        _ changes: some ChangeList, _ source: ChangeSource, _ chunkByteCount: UInt64,
        older: UInt64?, newer: UInt64?, unmappedIsData: Bool = false
    ) throws -> Listing {
        var changes = changes
        let spool = Spool()
        var json = ChangeListJSON(
            source: source, chunkByteCount: chunkByteCount, olderByteCount: older,
            newerByteCount: newer)
        func append(_ change: Change?) throws {
            guard let change else { return }
            try spool.append(format == .json ? json.entry(change) : change.line)
        }
        var coalescer = ChangeCoalescer(volumeByteCount: newer)
        while var change = try changes.next() {
            if unmappedIsData { change.kind = .data }
            try append(coalescer.add(change))
        }
        try append(coalescer.finish())
        return format == .json
            ? Listing(spool: spool, prefix: json.prefix, suffix: json.suffix)
            : Listing(spool: spool)
    }

    private func xml(_ pool: ThinMetadataReader, _ from: UInt32, _ to: UInt32) throws -> Listing {
        let xml = ThinDeltaXML(pool.superblock, from: from, to: to)
        let spool = Spool()
        var difference = try pool.difference(from: from, to: to, includesSame: true)
        while let run = try difference.next() { try spool.append(xml.run(run)) }
        return Listing(spool: spool, prefix: xml.prefix, suffix: xml.suffix)
    }
}
