// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Blocks
internal import SnapshotStore
internal import ThinMetadata

/// `blockferry changes`: the list of changed blocks, straight from device-mapper's own metadata.
struct ChangesCommand: ParsableCommand {
    enum Format: String, ExpressibleByArgument, CaseIterable {
        case text, json, xml
    }

    static let configuration = CommandConfiguration(
        commandName: "changes",
        abstract: "List the blocks that changed between two snapshots.",
        discussion: """
            For a thin pool, compares two of its devices. Give their numbers as 'lvs -o \
            name,thin_id' shows them. The list is exact as long as nobody has written to either, \
            so compare snapshots, not volumes in use.

              blockferry changes --thin-metadata tmeta.img --from 3 --to 5 --volume-size 1073741824

            For a classic snapshot, names every chunk that was written since it was made, in the \
            origin or in the snapshot.

              blockferry changes --cow-store /dev/mapper/vg-snap-cow --format json

            Text is one extent a line: offset and length in bytes, and 'data' (read it from the \
            newer snapshot) or 'unmapped' (it has no storage there and reads as zeros, unless \
            the volume has an external origin). XML is what thin_delta prints, in blocks, with \
            what is the same.

            If anything in the input is wrong, nothing is printed and the exit code is 1: half a \
            list is worse than none.
            """)

    @OptionGroup var input: OfflineInput

    @Option(help: ArgumentHelp("Number of the older thin device.", valueName: "id"))
    var from: UInt32?

    @Option(help: ArgumentHelp("Number of the newer thin device.", valueName: "id"))
    var to: UInt32?

    @Option(
        help: ArgumentHelp(
            "Size of the volume; changes past it are left out. The metadata does not know it.",
            valueName: "bytes"))
    var volumeSize: UInt64?

    @Option(help: "How to print: text, json or xml (xml for thin pools only).")
    var format = Format.text

    func validate() throws {
        if input.thinMetadata != nil {
            guard from != nil, to != nil else {
                throw ValidationError("--thin-metadata needs --from and --to.")
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
        if let file = input.cowStore {
            try DamagedInput.naming(file) {
                let store = try input.openStore(file, volumeByteCount: volumeSize)
                try list(store.changes(), .cow, store.header.chunkByteCount)
            }
        } else if let file = input.thinMetadata, let from, let to {
            try DamagedInput.naming(file) {
                let pool = try input.openPool(file)
                if format == .xml { return try printXML(pool, from, to) }
                try list(
                    try pool.changes(from: from, to: to, volumeByteCount: volumeSize), .thin,
                    pool.superblock.dataBlockByteCount)
            }
        }
    }

    private func list(
        _ changes: some ChangeList, _ source: ChangeSource, _ chunkByteCount: UInt64
    ) throws {
        var changes = changes
        let spool = Spool()
        var json = ChangeListJSON(
            source: source, chunkByteCount: chunkByteCount, volumeByteCount: volumeSize)
        while let change = try changes.next() {
            try spool.append(format == .json ? json.entry(change) : change.line)
        }
        if format == .json {
            try spool.print(prefix: json.prefix, suffix: json.suffix)
        } else {
            try spool.print()
        }
    }

    private func printXML(_ pool: ThinMetadataReader, _ from: UInt32, _ to: UInt32) throws {
        let xml = ThinDeltaXML(pool.superblock, from: from, to: to)
        let spool = Spool()
        var difference = try pool.difference(from: from, to: to, includesSame: true)
        while let run = try difference.next() { try spool.append(xml.run(run)) }
        try spool.print(prefix: xml.prefix, suffix: xml.suffix)
    }
}
