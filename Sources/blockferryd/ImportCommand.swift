// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import CommandLine
internal import Platform
internal import Receiving
internal import Wire

struct ImportCommand: ParsableCommand, OneVolumeCommand {
    static let configuration = CommandConfiguration(
        commandName: "import",
        abstract: "Bring the generation in an export file to its volume.",
        discussion: """
            The file was made by blockferry export on the source host, for this standby and this volume. First all of \
            it is read: it must be whole, encrypted to this standby, and signed by the key of the source host that the \
            volume belongs to. Then \
            everything is as if that host had sent the generation: it must follow the one that the volume holds, an \
            increment is staged and the copy stays consistent until the end, and the same file can be imported again \
            after an interruption. It needs room for the staging log in the state directory, and no network.

            With - the file is read from standard input, once: every chunk is proven before it is used, and nothing is \
            committed before the end was. What a cut leaves is what a cut session leaves.

              blockferryd import home /media/disk/home.bfx --dry-run
              blockferryd import home /media/disk/home.bfx
              ssh source1 blockferry export vg/home --to standby1 --output - | blockferryd import home -

            A file that is damaged ends with 1, one of another source host, volume or standby with 6, a generation \
            that does not follow with 7.
            """)

    @Argument(help: "Name of the volume.", transform: VolumeName.parse) var volume: VolumeName
    @Argument(help: ArgumentHelp("The file; -: standard input.", valueName: "file")) var file:
        String
    @Flag(
        name: [.long, .customShort("n")],
        help:
            "Check the file, say what would be done and whether it would be refused; change nothing."
    )
    var dryRun = false
    @Flag(help: "Print JSON.") var json = false
    @Flag(name: [.long, .customShort("q")], help: "Print nothing but errors.") var quiet = false
    @OptionGroup var state: StateOptions

    private struct Result: Encodable {
        let schemaVersion = 1
        let volume, result: String
        let dryRun: Bool
        let fromGeneration: UInt64?
        let generation: UInt64
        let generationId, sourceTime: String
        let volumeBytes, bytesChanged, fileBytes, resumedSegments, plannedSegments: UInt64
        let seconds: Double
    }

    func run() throws {
        let line = ProgressLine(isWanted: !json && !quiet)
        defer { line.end() }
        let result = try Administration(try state.home()).importFile(
            file == "-" ? .standardInput : .file(file), into: volume, isDryRun: dryRun
        ) { line.show(Self.text($0, volume)) }
        line.end()
        for note in result.notes { Terminal.error("warning: \(note)") }
        let (kind, from) = Self.kind(result)
        if json {
            return Terminal.out(
                try Format.json(
                    Result(
                        volume: volume.text, result: kind, dryRun: dryRun, fromGeneration: from,
                        generation: result.head.number, generationId: "\(result.id)",
                        sourceTime: Format.time(result.head.sourceTime),
                        volumeBytes: result.head.volumeSize, bytesChanged: result.changedByteCount,
                        fileBytes: result.fileByteCount, resumedSegments: result.resumedSegments,
                        plannedSegments: result.plannedSegments,
                        seconds: Double(result.nanoseconds) / 1e9)))
        }
        if !quiet { Terminal.out(text(result, from)) }
    }

    private static func kind(_ result: ImportResult) -> (String, UInt64?) {
        switch result.kind {
        case .full: ("full", nil)
        case .delta(let from): ("delta", from)
        case .upToDate: ("up-to-date", nil)
        }
    }

    private static func text(_ progress: ImportProgress, _ volume: VolumeName) -> String {
        func text(_ verb: String, _ done: UInt64, _ total: UInt64) -> String {
            "\(volume)  \(verb)  \(Format.bytes(done)) of \(Format.bytes(total))"
        }
        switch progress {
        case .checking(let done, let total): return text("checking the file", done, total)
        case .reading(let done, let total): return text("importing", done, total)
        case .session(let progress):
            let verb =
                switch progress.phase {
                case .proving: "proving"
                case .applying: "applying"
                case .reading: "reading the target"
                }
            return text(verb, progress.done, progress.total)
        }
    }

    private func text(_ result: ImportResult, _ from: UInt64?) -> String {
        let id = String("\(result.id)".prefix(12))
        let number = result.head.number
        if result.kind == .upToDate {
            return "\(volume) \(number) up to date: it has this generation (id \(id))\n"
        }
        let step = from.map { "\($0)→\(number)" } ?? "\(number)"
        let size =
            "\(Format.bytes(result.changedByteCount)) changed of \(Format.bytes(result.head.volumeSize))"
        if dryRun {
            return
                "\(volume) \(step) would be imported: \(size), of \(Format.time(result.head.sourceTime)), "
                + "id \(id); the file is whole and from the volume's source host\nnothing was written\n"
        }
        var text =
            "\(volume) \(step) committed: \(size), \(Format.bytes(result.fileByteCount)) read, "
        text += Format.seconds(nanoseconds: result.nanoseconds)
        if result.resumedSegments > 0 {
            text += ", resumed after segment \(result.resumedSegments) of \(result.plannedSegments)"
        }
        return text + ", id \(id)\n"
    }
}
