// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import Sending
internal import Wire

struct LogCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "log",
        abstract: "Show what was sent and compared, the newest last.",
        discussion: """
            The committed generations and the verifications of each volume on each standby, as this host knows them; the \
            newest 10,000 of each are kept. Why the last send failed is in: blockferry status

            Nothing is changed or locked, and the state may be one that can only be read.
            """)

    @Option(help: "Only of this volume.", transform: VolumeName.parse) var volume: VolumeName?
    @OptionGroup var past: PastOptions
    @Flag(help: "Print JSON.") var json = false
    @OptionGroup var state: StateOptions

    private struct Entry: Encodable {
        let time: String
        /// `generation` or `verification`.
        let type: String
        let volume, peer, generationId: String
        var generation, bytesChanged, bytesOnWire: UInt64?
        var seconds: Double?
        /// Pieces of 16 MiB: the first, the end, and their number in the volume.
        var firstPiece, endPiece, pieces, differingBlocks: UInt64?

        init(_ entry: HistoryEntry) {
            time = Format.time(entry.committedAt)
            type = "generation"
            volume = entry.volume.text
            peer = entry.receiver.text
            generationId = "\(entry.id)"
            generation = entry.number
            bytesChanged = entry.changedBytes
            bytesOnWire = entry.wireBytes
            seconds = Double(entry.duration / 1_000_000) / 1000
        }

        init(_ entry: Verification) {
            time = Format.time(entry.time)
            type = "verification"
            volume = entry.volume.text
            peer = entry.receiver.text
            generationId = "\(entry.id)"
            firstPiece = entry.firstPage
            endPiece = entry.endPage
            pieces = entry.pageCount
            differingBlocks = entry.differingBlocks
        }

        /// The entry as text.
        var sentence: String {
            let id = generationId.prefix(8)
            if let generation, let bytesChanged, let bytesOnWire, let seconds {
                return "generation \(generation) (\(id)): \(Format.bytes(bytesChanged)) changed, "
                    + "\(Format.bytes(bytesOnWire)) on wire, \(seconds) s"
            }
            guard let firstPiece, let endPiece, let pieces, let differingBlocks else { return "" }
            return "verified (\(id)): pieces \(firstPiece) to \(endPiece) of \(pieces), "
                + (differingBlocks == 0 ? "equal" : "\(differingBlocks) blocks differ")
        }
    }

    func run() throws {
        let catalog = try state.readableHome().catalog
        let subject = volume.map { SourceCatalog.Subject.volume($0) } ?? .everything
        let sent = try catalog.history(subject, limit: past.count)
            .map { (time: $0.committedAt, entry: Entry($0)) }
        let compared = try catalog.verifications(subject, limit: past.count)
            .map { (time: $0.time, entry: Entry($0)) }
        let entries = Self.merged(sent, compared).prefix(past.count)
            .filter { past.shows($0.time) }.reversed().map(\.entry)
        if json {
            struct List: Encodable {
                let schemaVersion = 1
                let entries: [Entry]
                /// Set if the state cannot be written.
                let note: String?
            }
            return Terminal.out(
                try Format.json(List(entries: entries, note: catalog.reading?.sentence)))
        }
        Terminal.out(
            Format.table(
                [["TIME", "VOLUME", "PEER", ""]]
                    + entries.map { [$0.time, $0.volume, $0.peer, $0.sentence] }))
    }

    /// Merges two lists, newest first. Each keeps its own order, whatever the clock did.
    private static func merged(
        _ one: [(time: UInt64, entry: Entry)], _ other: [(time: UInt64, entry: Entry)]
    ) -> [(time: UInt64, entry: Entry)] {
        var (one, other) = (one[...], other[...])
        var result: [(time: UInt64, entry: Entry)] = []
        while let a = one.first, let b = other.first {
            if a.time >= b.time {
                result.append(a)
                one = one.dropFirst()
            } else {
                result.append(b)
                other = other.dropFirst()
            }
        }
        return result + one + other
    }
}
