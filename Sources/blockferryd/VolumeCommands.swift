// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import Platform
internal import Receiving
internal import Wire

struct RetargetCommand: ParsableCommand, OneVolumeCommand {
    static let configuration = CommandConfiguration(
        commandName: "retarget",
        abstract: "Say where the copy of a volume is now, and prove that it is there.",
        discussion: """
            After the copy was moved or copied to another device or file, or when its file has lost its mark. The target is \
            read as a whole, and must hold the committed generation, or what one that is being applied does not touch; \
            nothing is written to it but the mark on a file.

            --for-resync does not read it: the volume becomes 'diverged', and blockferry resync on the source, which \
            overwrites what differs, makes it the copy.
            """)

    @Argument(help: "Name of the volume.", transform: VolumeName.parse) var volume: VolumeName
    @Argument(help: "Device or file that holds the copy.") var path: String
    @Flag(help: "Take what is there as the start of a resync, which overwrites what differs.")
    var forResync = false
    @Flag(
        help:
            "With --for-resync: lose a committed generation that was not written to its target yet."
    )
    var giveUpGeneration = false
    @Flag(
        help:
            "What PATH holds may be replaced by a generation that is being applied, if nothing proves that it is the copy."
    )
    var overwrite = false
    @Flag(help: "Change nothing; say what would be done.") var dryRun = false
    @OptionGroup var state: StateOptions

    func validate() throws {
        guard !path.isEmpty else { throw ValidationError("The target is a path.") }
    }

    func run() throws {
        let path = GivenText.absolute(path)
        let line = ProgressLine(isWanted: true)
        defer { line.end() }
        let result = try Administration(try state.home()).retarget(
            volume, to: path, isForResync: forResync, givesUpGeneration: giveUpGeneration,
            mayReplace: overwrite, isDryRun: dryRun
        ) {
            line.show("\(volume)  reading  \(Format.bytes($0.done)) of \(Format.bytes($0.total))")
        }
        line.end()
        let proof = result.proven.map {
            ", which holds generation \($0.head.number) (\(Format.bytes(result.readByteCount)) read)"
        }
        Terminal.out(
            "the target of \(volume) \(dryRun ? "would be" : "is") \(path)\(proof ?? ""); the volume "
                + "\(dryRun ? "would be" : "is") \(result.state)"
                + (result.state == .applying
                    ? "; blockferryd serve writes the rest of its generation within a minute\n"
                    : "\n"))
    }
}

struct RenameCommand: ParsableCommand, OneVolumeCommand {
    static let configuration = CommandConfiguration(
        commandName: "rename",
        abstract: "Give a volume another name.",
        discussion: """
            What it holds and the right of its source to send stay. The source knows it by the old name until it is told: \
            blockferry rename OLD NEW --to PEER
            """)

    @Argument(help: "Name of the volume.", transform: VolumeName.parse) var volume: VolumeName
    @Argument(help: "Its new name.", transform: VolumeName.parse) var new: VolumeName
    @Flag(help: "Change nothing; say what would be done.") var dryRun = false
    @OptionGroup var state: StateOptions

    func run() throws {
        try Administration(try state.home()).rename(volume, to: new, isDryRun: dryRun)
        Terminal.out(
            dryRun
                ? "\(volume) would be called \(new)\n"
                : """
                \(volume) is called \(new)
                next, on the source: blockferry rename \(volume) \(new) --to PEER

                """)
    }
}

struct DropTransferCommand: ParsableCommand, OneVolumeCommand {
    static let configuration = CommandConfiguration(
        commandName: "drop-transfer",
        abstract: "Drop a transfer that was not finished; the copy stays what it is.",
        discussion: """
            For what a source that is gone has left in the staging log: blockferryd status shows its size and age. The copy \
            stays at its committed generation, and the source, should it come back, begins the transfer again. Of a first copy \
            that was not finished nothing is left: the volume is empty then.

            Refused while the volume is applying or prepared, since the generation is committed then, or may be.
            """)

    @Argument(help: "Name of the volume.", transform: VolumeName.parse) var volume: VolumeName
    @Flag(help: "Change nothing; say what would be done.") var dryRun = false
    @OptionGroup var state: StateOptions

    func run() throws {
        let result = try Administration(try state.home())
            .dropTransfer(volume, isDryRun: dryRun)
        let size = result.staged.map { " (\(Format.bytes($0.byteCount)) in the staging log)" }
        let copy = result.committed.map { "the copy stays at generation \($0.head.number)" }
        Terminal.out(
            "the transfer of generation \(result.number) of \(volume)\(size ?? "") \(dryRun ? "would be" : "is") dropped; "
                + "\(copy ?? "there is no copy yet"); the volume \(dryRun ? "would be" : "is") \(result.state)\n"
        )
    }
}

struct RemoveCommand: ParsableCommand, OneVolumeCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Forget a volume; its target and its kept generations stay as they are.",
        discussion: """
            Invitations for it are void, and its source is refused from now on. The name and the target can be used again.
            """)

    @Argument(help: "Name of the volume.", transform: VolumeName.parse) var volume: VolumeName
    @Flag(help: "Change nothing; say what would be done.") var dryRun = false
    @OptionGroup var state: StateOptions

    func run() throws {
        let result = try Administration(try state.home()).remove(volume, isDryRun: dryRun)
        var text =
            "\(volume) \(dryRun ? "would be" : "is") forgotten; it was \(result.state), and \(result.targetPath) stays "
            + "as it is\n"
        for generation in result.kept {
            text +=
                "  generation \(generation.number) stays in the snapshot \(generation.snapshot)\n"
        }
        Terminal.out(text)
    }
}
