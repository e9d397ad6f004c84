// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import Foundation
internal import Sending
internal import Session
internal import Wire

extension CompressionPolicy: ExpressibleByArgument {}

/// The standby and the volume there.
struct DestinationOptions: ParsableArguments {
    @Option(name: .customLong("to"), help: ArgumentHelp("The standby.", valueName: "peer"))
    var receiver: String

    @Option(help: ArgumentHelp("Name of the volume on the standby.", valueName: "name"))
    var volume: VolumeName
}

struct SendCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "send",
        abstract: "Send a volume's point in time to a standby.",
        discussion: """
            The first time everything is sent, later what changed since the generation that the standby holds. \
            An interrupted send is continued by the same command. The command ends when the standby has the \
            generation on its disk.

              blockferry send /srv/disk.img --to standby1 --volume disk
              blockferry send --thin-metadata tmeta --thin-data tdata --device 3 --volume-size 1073741824 \
            --to standby1 --volume db
              blockferry send --cow-origin origin.img --cow-store cow.img --to standby1 --volume mail
            """)

    @OptionGroup var source: SourceOptions
    @OptionGroup var destination: DestinationOptions
    @OptionGroup var state: StateOptions

    @Option(
        help: ArgumentHelp(
            "Compress with zstd: auto (while the network is slow), always or never.",
            valueName: "when"))
    var compress = CompressionPolicy.auto

    @Flag(name: [.long, .customShort("n")], help: "Say what would be sent, and change nothing.")
    var dryRun = false

    @Flag(help: "Print the result as JSON.")
    var json = false

    @Flag(name: [.long, .customShort("q")], help: "Print nothing but errors.")
    var quiet = false

    func run() throws {
        let home = try state.home()
        let replica = try home.catalog.replica(destination.receiver, destination.volume)
        let opened = try source.open(knownSize: replica.committed?.head.volumeSize)
        let options = Sender.Options(
            receiver: destination.receiver, volume: destination.volume, compression: compress,
            software: software)
        if dryRun {
            let explanation = try Sender(home, options).explain(opened)
            return try ExplanationText(explanation, destination).print(json: json)
        }
        let line = ProgressLine(isWanted: !json && !quiet)
        let sender = Sender(home, options) { report in
            line.show(Self.text(report, destination.volume))
        }
        let outcome: Sender.Outcome
        do {
            defer { line.end() }
            outcome = try sender.send(opened)
        }
        if json { return Terminal.out(try Format.json(SendResult(outcome, destination))) }
        if !quiet { Terminal.out(Self.text(outcome, destination.volume)) }
    }

    private static func text(_ report: Sender.Report, _ volume: VolumeName) -> String {
        let verb =
            switch report.phase {
            case .sending: "sending"
            case .proving: "proving on the standby"
            case .applying: "applying on the standby"
            }
        let percent = report.total == 0 ? 100 : report.done * 100 / report.total
        return "\(volume)  \(verb)  \(percent)%  \(Format.bytes(report.done)) of "
            + Format.bytes(report.total)
    }

    private static func text(_ outcome: Sender.Outcome, _ volume: VolumeName) -> String {
        let id = String("\(outcome.id)".prefix(12))
        let step: String
        switch outcome.kind {
        case .upToDate:
            return "\(volume) \(outcome.number) up to date: the standby has this point in time "
                + "(id \(id))\n"
        case .full: step = "\(outcome.number)"
        case .delta(let from): step = "\(from)→\(outcome.number)"
        }
        var text =
            "\(volume) \(step) committed: \(Format.bytes(outcome.changedByteCount)) changed of "
            + "\(Format.bytes(outcome.volumeByteCount)), \(Format.bytes(outcome.wireByteCount)) on wire, "
            + Format.seconds(nanoseconds: outcome.nanoseconds)
        if outcome.wireByteCount > 0, outcome.volumeByteCount / outcome.wireByteCount >= 2 {
            text += " (\(outcome.volumeByteCount / outcome.wireByteCount)x less than a full copy)"
        }
        if outcome.resumedSegments > 0 {
            text +=
                ", resumed after segment \(outcome.resumedSegments) of \(outcome.plannedSegments)"
        }
        return text + ", id \(id)\n"
    }
}

/// The JSON of a finished send.
private struct SendResult: Encodable {
    let schemaVersion = 1
    let peer: String
    let volume: String
    let result: String
    let fromGeneration: UInt64?
    let generation: UInt64
    let generationId: String
    let volumeBytes: UInt64
    let bytesChanged: UInt64
    let bytesOnWire: UInt64
    let seconds: Double
    let resumedSegments: UInt64
    let plannedSegments: UInt64

    init(_ outcome: Sender.Outcome, _ destination: DestinationOptions) {
        peer = destination.receiver
        volume = destination.volume.text
        switch outcome.kind {
        case .full: (result, fromGeneration) = ("full", nil)
        case .delta(let from): (result, fromGeneration) = ("delta", from)
        case .upToDate: (result, fromGeneration) = ("up-to-date", nil)
        }
        generation = outcome.number
        generationId = "\(outcome.id)"
        volumeBytes = outcome.volumeByteCount
        bytesChanged = outcome.changedByteCount
        bytesOnWire = outcome.wireByteCount
        seconds = Double(outcome.nanoseconds) / 1e9
        resumedSegments = outcome.resumedSegments
        plannedSegments = outcome.plannedSegments
    }
}
