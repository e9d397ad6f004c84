// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Catalog
internal import CommandLine
internal import Platform
internal import Sending
internal import Wire

/// Texts of a send.
enum SendText {
    /// Prints a notice for the user before the send continues.
    static func notice(isQuiet: Bool) -> @Sendable (String) -> Void {
        { line in
            if !isQuiet { Terminal.error(line) }
        }
    }

    /// The progress as one line.
    ///
    /// - Parameters: `volumes` contains the name, or a group's names; `meter` has taken all reports
    ///   up to this one.
    static func progress(
        _ report: Sender.Report, _ volumes: [VolumeName], _ meter: ProgressMeter
    ) -> String {
        let verb =
            switch report.phase {
            case .reading: "reading"
            case .sending: "sending"
            case .writing: "writing"
            case .proving: "proving on the standby"
            case .applying: "applying on the standby"
            }
        let percent = KernelValues.percent(report.done, of: report.total)
        let volume = volumes.map(\.text).joined(separator: " ")
        return "\(volume)  \(verb)  \(percent)%  \(Format.bytes(report.done)) of "
            + Format.bytes(report.total) + speed(meter, report.total)
    }

    private static func speed(_ meter: ProgressMeter, _ total: UInt64) -> String {
        guard let rate = meter.rate else { return "" }
        let left = meter.secondsLeft(of: total).map { "  \(Format.age(seconds: $0)) left" } ?? ""
        return "  \(Format.bytes(rate))/s\(left)"
    }

    /// The result on one line.
    static func outcome(_ outcome: Sender.Outcome, _ volume: VolumeName) -> String {
        let id = String("\(outcome.id)".prefix(12))
        let step: String
        switch outcome.kind {
        case .upToDate:
            return "\(volume) \(outcome.number) up to date: the standby has this point in time "
                + "(id \(id))\n"
        case .full: step = "\(outcome.number)"
        case .delta(let from): step = "\(from)→\(outcome.number)"
        case .resync(nil): step = "\(outcome.number) resynced,"
        case .resync(let from?): step = "\(from)→\(outcome.number) resynced,"
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

/// The JSON of a finished send of a group.
struct GroupResult: Encodable {
    let schemaVersion = 1
    let group: String
    let volumes: [SendResult]
}

/// The JSON of a finished send: the last generation, and those begun by an earlier run.
struct SendResult: Encodable {
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
    let comparedBecause: String?
    let bytesReadToCompare: UInt64?
    let finishedBefore: [SendResult]

    init(_ outcomes: [Sender.Outcome], _ receiver: ReceiverName, _ name: VolumeName) {
        self.init(
            outcomes[outcomes.count - 1], receiver, name,
            finishedBefore: outcomes.dropLast().map { SendResult([$0], receiver, name) })
    }

    private init(
        _ outcome: Sender.Outcome, _ receiver: ReceiverName, _ name: VolumeName,
        finishedBefore: [SendResult]
    ) {
        self.finishedBefore = finishedBefore
        peer = receiver.text
        volume = name.text
        switch outcome.kind {
        case .full: (result, fromGeneration) = ("full", nil)
        case .delta(let from): (result, fromGeneration) = ("delta", from)
        case .resync(let from): (result, fromGeneration) = ("resync", from)
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
        comparedBecause = outcome.comparison?.reason
        bytesReadToCompare = outcome.comparison?.read
    }
}
