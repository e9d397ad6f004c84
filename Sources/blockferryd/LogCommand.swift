// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import Receiving
internal import Wire

struct LogCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "log",
        abstract: "Show what was done with the volumes, the newest last.",
        discussion: """
            What sessions and commands have changed, as the catalog holds it: who was paired and when, commits, promotions, \
            targets, kept generations, and refusals, of which one is told when its rule is another one than before. In each \
            volume each kind is counted by itself, so that many commits push nothing else out; docs/OPERATIONS.md 2 says \
            how long each stays. Sessions that changed nothing are in the daemon's journal alone.

            Nothing is changed or locked, and the state may be one that can only be read.
            """)

    @Option(help: "Only of this volume.", transform: VolumeName.parse) var volume: VolumeName?
    @OptionGroup var past: PastOptions
    @Flag(help: "Print JSON.") var json = false
    @OptionGroup var state: StateOptions

    private struct Entry: Encodable {
        /// Ascending number, never reused.
        let number: UInt64
        let time, event: String
        let volume: String?
        let message: String

        init(_ event: StandbyEvent) {
            number = event.number
            time = Format.time(event.time)
            self.event = event.kind.rawValue
            volume = event.volume?.text
            message = event.text
        }
    }

    func run() throws {
        let catalog = try state.readableHome().catalog
        let found = try catalog.events(volume: volume, limit: past.count)
        if let volume, found.isEmpty, try catalog.volume(volume) == nil {
            throw AdministrationError.unknownVolume(volume)
        }
        let entries = found.filter { past.shows($0.time) }.reversed().map(Entry.init)
        if json {
            struct List: Encodable {
                let schemaVersion = 1
                let events: [Entry]
                /// Set if the state cannot be written.
                let note: String?
            }
            return Terminal.out(
                try Format.json(List(events: entries, note: catalog.reading?.sentence)))
        }
        Terminal.out(
            Format.table(
                [["TIME", "VOLUME", "EVENT", ""]]
                    + entries.map {
                        [$0.time, $0.volume ?? "-", $0.event, Format.escaped($0.message)]
                    }))
    }
}
