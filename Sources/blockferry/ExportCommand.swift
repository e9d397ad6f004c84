// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import LVM
internal import Platform
internal import Sending
internal import Wire

struct ExportCommand: ParsableCommand, NamingCommand {
    static let configuration = CommandConfiguration(
        commandName: "export",
        abstract: "Write a volume's next generation into a file, for moving it by disk.",
        discussion: """
            For a first copy that is too large for the network, or where there is none. The file holds what a send \
            would have sent now: everything if nothing was ever committed on the standby, else what changed since. \
            It is encrypted to the standby that it was made for and signed with this host's key: only that standby can \
            read it, and imports it into this volume alone. In the open are the two hosts' keys, the volume's name and \
            the size. The standby is not asked; its key came with the last contact. No file is overwritten.

              blockferry export vg/home --to standby1 --output /media/disk/home.bfx
              blockferryd import home /media/disk/home.bfx       (on the standby)
              blockferry send vg/home --to standby1              (goes on from there)
              blockferry export vg/home --to standby1 --output - | ssh standby1 blockferryd import home -

            With --output - the file goes to standard output, and what is said to standard error.

            Until it is known whether the file was imported, the snapshot and the one before stay, and no further file \
            is made. The next send finds out by itself, and sends the changes anew if the file was not imported: that \
            is of no use any more then. Where the hosts never meet, say it: --imported ID with the id that blockferryd \
            import printed, or --discard if the file will never be imported.
            """)

    @OptionGroup var one: OneVolumeOptions

    @Option(
        name: [.long, .customShort("o")],
        help: ArgumentHelp(
            "The file, which must not be there yet; -: standard output.", valueName: "file"))
    var output: String

    @Option(
        help: ArgumentHelp(
            "The generation exported before was imported: its id, or at least its first 8 digits.",
            valueName: "id"))
    var imported: String?

    @Flag(help: "The generation exported before was not imported, and never will be.")
    var discard = false

    @OptionGroup var live: LiveOptions
    @OptionGroup var state: StateOptions

    @Option(
        help: ArgumentHelp(
            "Compress with zstd: auto (what looks compressible), always or never.",
            valueName: "when"))
    var compress = CompressionPolicy.auto

    @Flag(
        help:
            "Export a volume that is smaller than its last generation; the end of the copy is given up."
    )
    var allowShrink = false

    @Option(
        help: ArgumentHelp(
            "Distrust the change list: read so many blocks of 64 KiB outside of it; see send. 0: none.",
            valueName: "blocks"))
    var sampleUnchanged: UInt64 = 256

    @Flag(help: "Print the result as JSON.") var json = false
    @Flag(name: [.long, .customShort("q")], help: "Print nothing but errors.") var quiet = false

    var words: [String: String] { one.words("export") }
    private var isStream: Bool { output == "-" }

    func validate() throws {
        // Only the file itself may go to its destination.
        if isStream { Terminal.takeOutput() }
        guard one.source.paths.count <= 1 else {
            throw ValidationError(
                "A group cannot be exported: give one source, and export each volume by itself.")
        }
        guard imported == nil || !discard else {
            throw ValidationError("--imported and --discard contradict each other.")
        }
        let digits = imported ?? "00000000"
        guard (8...64).contains(digits.utf8.count),
            digits.allSatisfy({ "0123456789abcdef".contains($0) })
        else { throw ValidationError("--imported takes 8 to 64 hexadecimal digits.") }
        guard !output.isEmpty, !output.hasSuffix("/") else {
            throw ValidationError("--output takes the name of a file, or -.")
        }
        guard !isStream || StandardStream.outputKind != .terminal else {
            throw ValidationError(
                "An export does not go to a terminal; give --output a file, or redirect it.")
        }
    }

    func run() throws {
        let home = try state.home()
        let (name, found) = try one.find()
        let options = Sender.Options(
            receiver: one.receiver, volume: name, compression: compress, allowShrink: allowShrink,
            adoptsSource: one.source.adoptSource, unchangedSample: sampleUnchanged,
            software: software, notice: SendText.notice(isQuiet: quiet))
        let how = ExportOptions(
            output: isStream ? .standardOutput : .file(output),
            former: imported.map { .imported($0) } ?? (discard ? .discarded : .unknown))
        let line = ProgressLine(isWanted: !json && !quiet)
        defer { line.end() }
        let outcome: Sender.Outcome
        if let found {
            let volume = try LiveVolume(warning: found.volume, live.volume(options), home: home)
            let sender = LiveSender(home, [volume], live.hooks) {
                line.show(SendText.progress($0, [name], ProgressMeter()))
            }
            outcome = try sender.export(how)
        } else {
            try live.refuseIfUsed()
            let opened = try one.open(home, name, isInDoubtKnown: true)
            let sender = Sender(home, options) {
                line.show(SendText.progress($0, [name], ProgressMeter()))
            }
            outcome = try sender.export(opened, try home.lock(one.receiver, name), how)
        }
        line.end()
        if json {
            return Terminal.out(try Format.json(ExportResult(outcome, one.receiver, name, output)))
        }
        if !quiet { Terminal.out(text(outcome, name)) }
    }

    private func text(_ outcome: Sender.Outcome, _ name: VolumeName) -> String {
        let id = String("\(outcome.id)".prefix(12))
        let step: String
        switch outcome.kind {
        case .upToDate:
            return
                "\(name) \(outcome.number) up to date: the standby has this point in time (id \(id)); "
                + "no file was made\n"
        case .delta(let from): step = "\(from)→\(outcome.number)"
        case .full, .resync: step = "\(outcome.number)"
        }
        return "\(name) \(step) exported: \(Format.bytes(outcome.changedByteCount)) changed of "
            + "\(Format.bytes(outcome.volumeByteCount)), \(Format.bytes(outcome.wireByteCount)) in "
            + "\(isStream ? "standard output" : output), \(Format.seconds(nanoseconds: outcome.nanoseconds)), id \(id)\n"
            + "next, on the standby: blockferryd import \(name) \(output)\n"
    }
}

/// The JSON of an export.
private struct ExportResult: Encodable {
    let schemaVersion = 1
    let peer, volume, result: String
    let fromGeneration: UInt64?
    let generation: UInt64
    let generationId: String
    let volumeBytes, bytesChanged: UInt64
    let file: String?
    let fileBytes: UInt64
    let seconds: Double
    let comparedBecause: String?
    let bytesReadToCompare: UInt64?

    init(
        _ outcome: Sender.Outcome, _ receiver: ReceiverName, _ name: VolumeName, _ output: String
    ) {
        peer = receiver.text
        volume = name.text
        switch outcome.kind {
        case .full, .resync: (result, fromGeneration) = ("full", nil)
        case .delta(let from): (result, fromGeneration) = ("delta", from)
        case .upToDate: (result, fromGeneration) = ("up-to-date", nil)
        }
        generation = outcome.number
        generationId = "\(outcome.id)"
        volumeBytes = outcome.volumeByteCount
        bytesChanged = outcome.changedByteCount
        file = outcome.kind == .upToDate ? nil : output
        fileBytes = outcome.wireByteCount
        comparedBecause = outcome.comparison?.reason
        bytesReadToCompare = outcome.comparison?.read
        seconds = Double(outcome.nanoseconds) / 1e9
    }
}
