// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Blocks
internal import Catalog
internal import CommandLine
internal import LVM
internal import Sending
internal import Wire

struct ResyncCommand: ParsableCommand, NamingCommand {
    static let configuration = CommandConfiguration(
        commandName: "resync",
        abstract: "Make a standby's copy equal to a source by comparing the two, once.",
        discussion: """
            For when nothing tells what changed: a lost base, a copy that was promoted or written, a target that holds \
            an older copy of the volume, two hosts that change places. Both sides are read; what differs is sent, and \
            replaces what is on the standby. A copy that was consistent stays so until the end. An interrupted resync \
            is continued by the same command; afterwards blockferry send goes on from it.

              blockferry resync vg/home --to standby1 --plan    what would change there, and what would be lost
              blockferry resync vg/home --to standby1
            """)

    @OptionGroup var one: OneVolumeOptions

    @Flag(help: "Say what would change on the standby and what of it would be lost; write nothing.")
    var plan = false

    @Flag(
        help:
            "Believe the standby's tag map, and do not read its target. Only where nobody else can have written that."
    )
    var trustMap = false

    @Flag(
        help: "Write to the target at once: an interruption leaves it unusable until the next run.")
    var inPlace = false

    @Flag(help: "The volume may have become smaller: the end of the copy is given up.")
    var allowShrink = false

    @Flag(help: "Replace a promoted copy: what was written to it since is lost.")
    var overwritePromoted = false

    @OptionGroup var live: LiveOptions
    @OptionGroup var progress: ProgressOptions
    @OptionGroup var state: StateOptions

    @Option(
        help: ArgumentHelp(
            "Compress with zstd: auto (while the network is slow), always or never.",
            valueName: "when"))
    var compress = CompressionPolicy.auto

    @Flag(help: "Print the result as JSON.") var json = false
    @Flag(name: [.long, .customShort("q")], help: "Print nothing but errors.") var quiet = false

    var words: [String: String] { one.words("resync") }

    func validate() throws {
        guard one.source.paths.count <= 1 else {
            throw ValidationError("A resync is of one source.")
        }
    }

    func run() throws {
        let home = try state.home()
        let (name, found) = try one.find()
        let options = Sender.Options(
            receiver: one.receiver, volume: name, compression: compress, allowShrink: allowShrink,
            adoptsSource: one.source.adoptSource, waitSeconds: live.wait, software: software,
            notice: SendText.notice(isQuiet: quiet))
        let how = ResyncOptions(
            trustMap: trustMap, inPlace: inPlace, overwritePromoted: overwritePromoted)
        let line = SendProgress(
            ProgressLine(
                isWanted: !json && !quiet || progress.progress, everywhere: progress.progress),
            isJSON: json)
        defer { line.end() }
        let bring: () throws -> (outcomes: [Sender.Outcome], difference: Difference?)
        if let found {
            let volume = try LiveVolume(warning: found.volume, live.volume(options), home: home)
            let sender = LiveSender(home, [volume], live.hooks) {
                line.show($0, [name])
            }
            if plan { return try show(try sender.planResync(how), line) }
            bring = { try sender.resync(how) }
        } else {
            try live.refuseIfUsed()
            let opened = try one.open(home, name)
            let sender = Sender(home, options) { line.show($0, [name]) }
            if plan { return try show(try sender.planResync(opened, how), line) }
            bring = {
                let sent = try sender.resync(opened, try home.lock(one.receiver, name), how)
                return ([sent.outcome], sent.difference)
            }
        }
        let result = try LastError.noting([name], one.receiver, home, bring)
        line.end()
        if json {
            return Terminal.out(
                try Format.json(
                    ResyncResult(
                        result: SendResult(result.outcomes, one.receiver, name),
                        difference: result.difference.map { DifferenceResult($0) })))
        }
        if quiet { return }
        for outcome in result.outcomes { Terminal.out(SendText.outcome(outcome, name)) }
    }

    private func show(_ difference: Difference, _ line: SendProgress) throws {
        line.end()
        Terminal.out(
            json
                ? try Format.json(DifferenceResult(difference)) : text(difference))
        // A plan has the same exit code as the resync.
        if let refusal = difference.refusal { throw refusal }
    }

    private func text(_ difference: Difference) -> String {
        let standby = difference.standby
        let generation =
            standby.committedNumber > 0 ? ", generation \(standby.committedNumber)" : ""
        var text = "standby  \(standby.state)\(generation)\n"
        text += "compared \(Format.bytes(difference.comparedByteCount)); read here "
        text += "\(Format.bytes(difference.sourceReadByteCount)), there "
        text += "\(Format.bytes(difference.standbyReadByteCount))\n"
        if difference.blockCount == 0 {
            text +=
                "change   none: the copy is equal"
                + (difference.cutByteCount > 0 ? " up to the end of the source\n" : "\n")
        } else {
            text += "change   \(Format.bytes(difference.byteCount)) of the copy would be replaced, "
            text += "\(Format.bytes(difference.lostByteCount)) of which are not zeros there now\n"
        }
        if difference.cutByteCount > 0 {
            text +=
                "end      \(Format.bytes(difference.cutByteCount)) of the copy lie behind the end of the source "
            text += "and would be given up\n"
        }
        return text + "nothing was written\n"
    }
}

/// The JSON of a resync.
private struct ResyncResult: Encodable {
    let result: SendResult
    let difference: DifferenceResult?
}

/// The JSON of a comparison.
struct DifferenceResult: Encodable {
    struct Range: Encodable {
        let offset, length: UInt64
    }

    let schemaVersion = 1
    let standbyState: String
    let standbyGeneration: UInt64?
    let bytesCompared: UInt64
    let bytesReadHere: UInt64
    let bytesReadThere: UInt64
    let bytesOnWire: UInt64
    let blocksDiffering: UInt64
    let bytesDiffering: UInt64
    let bytesLost: UInt64
    let bytesCut: UInt64
    let extents: [Range]

    init(_ difference: Difference) {
        standbyState = "\(difference.standby.state)"
        let number = difference.standby.committedNumber
        standbyGeneration = number > 0 ? number : nil
        bytesCompared = difference.comparedByteCount
        bytesReadHere = difference.sourceReadByteCount
        bytesReadThere = difference.standbyReadByteCount
        bytesOnWire = difference.wireByteCount
        blocksDiffering = difference.blockCount
        bytesDiffering = difference.byteCount
        bytesLost = difference.lostByteCount
        bytesCut = difference.cutByteCount
        extents = difference.extents.map { Range(offset: $0.offset, length: $0.length) }
    }
}
