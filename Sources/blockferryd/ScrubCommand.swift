// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import CommandLine
internal import Receiving
internal import Wire

struct ScrubCommand: ParsableCommand, OneVolumeCommand {
    static let configuration = CommandConfiguration(
        commandName: "scrub",
        abstract: "Read a target and compare it with what was committed; needs no source.",
        discussion: """
            Every block of the target is compared with the tag map of the committed generation. A difference was \
            written by somebody else, or is the disk's: the volume becomes 'diverged', the command ends with 8, and \
            blockferry resync on the source brings the copy up to date again. If there is neither a map nor a root to \
            compare with, the same is done, as nothing proves what the target holds. No session may have the volume \
            meanwhile.
            """)

    @Argument(help: "Name of the volume.", transform: VolumeName.parse) var volume: VolumeName
    @Flag(help: "Print JSON.") var json = false
    @Flag(name: [.long, .customShort("q")], help: "Print nothing but errors.") var quiet = false
    @OptionGroup var state: StateOptions

    private struct Result: Encodable {
        let schemaVersion = 1
        let volume: String
        let generation: UInt64
        let generationId: String
        let clean: Bool
        /// Whether there was neither a map nor a root to compare with.
        let cannotBeTold: Bool
        let mapWasMissing: Bool
        let bytesRead: UInt64
        let bytesMissing: UInt64
        let bytesExcess: UInt64
        let differingBlocks: UInt64
        let offsets: [UInt64]
    }

    func run() throws {
        let line = ProgressLine(isWanted: !json && !quiet)
        defer { line.end() }
        let result = try Administration(try state.home()).scrub(volume) {
            line.show("\(volume)  reading  \(Format.bytes($0.done)) of \(Format.bytes($0.total))")
        }
        line.end()
        let head = result.generation.head
        if json {
            Terminal.out(
                try Format.json(
                    Result(
                        volume: volume.text, generation: head.number,
                        generationId: "\(result.generation.id)", clean: result.isClean,
                        cannotBeTold: !result.isProof && !result.isDifferent,
                        mapWasMissing: result.wasMapMissing, bytesRead: result.readByteCount,
                        bytesMissing: result.missingByteCount,
                        bytesExcess: result.excessByteCount,
                        differingBlocks: result.differingBlocks, offsets: result.offsets)))
        } else if !quiet {
            Terminal.out(text(result, head.number))
        }
        if !result.isClean { throw ExitCode(ExitStatus.mismatch.rawValue) }
    }

    private func text(_ result: ScrubResult, _ number: UInt64) -> String {
        let read = Format.bytes(result.readByteCount)
        if result.isClean {
            return "\(volume) is generation \(number): \(read) read, no difference"
                + (result.wasMapMissing ? "; its tag map was missing and was made anew\n" : "\n")
        }
        let next = "next, on the source: blockferry resync SOURCE --to PEER --volume \(volume)\n"
        guard result.isDifferent else {
            return
                "\(volume) cannot be told to be generation \(number): \(read) read, but its tag map is gone, and the "
                + "generation has no root\n" + next
        }
        var text =
            "\(volume) is not generation \(number): \(result.differingBlocks) blocks of 64 KiB differ\n"
        if result.missingByteCount > 0 {
            text += "  the target lacks the last \(result.missingByteCount) bytes of the volume\n"
        }
        if result.excessByteCount > 0 {
            text +=
                "  the target has \(result.excessByteCount) bytes behind the end of the volume\n"
        }
        for offset in result.offsets.prefix(20) { text += "  at byte \(offset)\n" }
        return text + next
    }
}
