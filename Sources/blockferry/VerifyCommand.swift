// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Blocks
internal import Catalog
internal import CommandLine
internal import LVM
internal import Sending
internal import Wire

struct VerifyCommand: ParsableCommand, NamingCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Compare a standby's copy with the generation that it should be.",
        discussion: """
            Both sides read the same generation: this one the snapshot that was sent, the standby its target. Only digests \
            travel. A difference ends with 8, and its blocks of 64 KiB are named; blockferry resync removes it. Of a file or \
            an image, give the same source as for blockferry send.

              blockferry verify vg/home --to standby1
              blockferry verify vg/home --to standby1 --sample 5      5 %, another part each time
              blockferry verify vg/home --to standby1 --part 2/7      the second of seven parts
            """)

    @OptionGroup var one: OneVolumeOptions

    @Option(
        help: ArgumentHelp(
            "Compare so many percent, beginning where the last sample ended.", valueName: "percent")
    )
    var sample: Double?

    @Option(help: ArgumentHelp("Compare part k of n.", valueName: "k/n"))
    var part: String?

    @Option(
        help: ArgumentHelp(
            "Begin no further 4 GiB when so much time is over, as 90s, 30m or 2h.",
            valueName: "time"))
    var maxDuration: Duration?

    @Option(
        help: ArgumentHelp(
            """
            Seconds to wait for a session, if the standby has none left, and while another program reads the metadata of \
            the thin pool.
            """,
            valueName: "seconds"))
    var wait = 30

    @OptionGroup var state: StateOptions
    @Flag(help: "Print the result as JSON.") var json = false
    @Flag(name: [.long, .customShort("q")], help: "Print nothing but errors.") var quiet = false

    /// A duration with a unit.
    struct Duration: ExpressibleByArgument {
        let seconds: UInt64

        init?(argument: String) {
            let units: [Character: UInt64] = ["s": 1, "m": 60, "h": 3600]
            guard let unit = argument.last, let factor = units[unit],
                let number = UInt64(argument.dropLast()), (1...100_000).contains(number)
            else { return nil }
            seconds = number * factor
        }
    }

    var words: [String: String] { one.words("verify") }

    func validate() throws {
        guard one.source.paths.count <= 1 else { throw ValidationError("One source is verified.") }
        guard sample == nil || part == nil else {
            throw ValidationError("Give --sample or --part, not both.")
        }
        _ = try wanted()
    }

    private func wanted() throws -> VerifiedPart {
        if let sample {
            guard sample > 0, sample <= 100 else {
                throw ValidationError("--sample takes a number above 0, up to 100.")
            }
            return .sample(percent: sample)
        }
        guard let part else { return .all }
        let numbers = part.split(separator: "/").map { UInt64($0) }
        guard numbers.count == 2, let number = numbers[0], let count = numbers[1], number >= 1,
            number <= count, count <= 1_000_000
        else { throw ValidationError("--part takes k/n, as 2/7.") }
        return .part(number: number, count: count)
    }

    private struct Result: Encodable {
        let schemaVersion = 1
        let peer, volume: String
        let generation: UInt64
        let generationId: String
        let share: Double
        let difference: DifferenceResult
    }

    func run() throws {
        let home = try state.home()
        let (name, found) = try one.find()
        let options = Sender.Options(
            receiver: one.receiver, volume: name, compression: .never, waitSeconds: wait,
            software: software)
        let line = ProgressLine(isWanted: !json && !quiet)
        defer { line.end() }
        let sender = Sender(home, options) {
            line.show(SendText.progress($0, [name], ProgressMeter()))
        }
        let part = try wanted()
        let verify = { try sender.verify($0, part, seconds: maxDuration?.seconds) }
        let result: Sender.Verified
        if let found {
            let live = try LiveVolume(
                warning: found.volume,
                LiveVolume.Options(
                    sender: options, storeSize: nil, chunkByteCount: nil, waitSeconds: wait),
                home: home)
            result = try live.withCommittedSource(in: found.group) { try verify($0) }
        } else {
            result = try verify(try one.open(home, name))
        }
        line.end()
        try show(result.generation, result.difference, result.share, name)
        if result.difference.blockCount > 0 { throw ExitCode(ExitStatus.mismatch.rawValue) }
    }

    private func show(
        _ generation: GenerationRecord, _ difference: Difference, _ share: Double,
        _ name: VolumeName
    ) throws {
        if json {
            return Terminal.out(
                try Format.json(
                    Result(
                        peer: one.receiver.text, volume: name.text,
                        generation: generation.head.number, generationId: "\(generation.id)",
                        share: share, difference: DifferenceResult(difference))))
        }
        if quiet { return }
        let percent = Int(share * 100)
        let compared = Format.bytes(difference.comparedByteCount)
        if difference.blockCount == 0 {
            return Terminal.out(
                "\(name) \(generation.head.number) verified: \(compared) (\(percent) %) equal on both sides\n"
            )
        }
        var text =
            "\(name) \(generation.head.number) differs: \(Format.bytes(difference.byteCount)) in "
            + "\(difference.blockCount) blocks of 64 KiB, of \(compared) (\(percent) %) compared\n"
        for extent in difference.extents.prefix(20) {
            text += "  at byte \(extent.offset), \(extent.length) bytes\n"
        }
        Terminal.out(
            text + "next: blockferry resync SOURCE --to \(one.receiver) --volume \(name)\n")
    }
}
