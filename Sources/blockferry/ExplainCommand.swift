// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import Sending
internal import Session
internal import Wire

struct ExplainCommand: ParsableCommand, NamingCommand {
    static let configuration = CommandConfiguration(
        commandName: "explain",
        abstract: "Say what a send would do, and by which rule.",
        discussion: "Asks the standby where it stands; sends no content and changes nothing.")

    @OptionGroup var destination: DestinationOptions
    @OptionGroup var state: StateOptions
    @Flag(help: "Print JSON.") var json = false

    var words: [String: String] { destination.words }

    func run() throws {
        let options = Sender.Options(
            receiver: destination.receiver, volume: destination.volume, compression: .never,
            software: software)
        let explanation = try Sender(try state.home(), options).explain(nil)
        try ExplanationText(explanation, destination.receiver, destination.volume, words).print(
            json: json)
    }
}

/// A decision as text and as JSON.
struct ExplanationText: Encodable {
    let schemaVersion = 1
    let peer: String
    let volume: String
    let sourceGeneration: UInt64?
    let sourceGenerationId: String?
    let standbyState: String
    let standbyGeneration: UInt64?
    let standbyGenerationId: String?
    let durableSegments: UInt64
    let decision: String
    let rule: String
    let meaning: String
    let bytesChanged: UInt64?
    let extents: UInt64?
    /// Why the whole source must be read to find the changes.
    let comparison: String?
    /// The next step after a refusal.
    private(set) var next: String?

    /// - Parameter words: the command's facts about its volume, for the next step.
    init(
        _ explanation: Sender.Explanation, _ receiver: ReceiverName, _ name: VolumeName,
        _ words: [String: String]
    ) {
        self.init(explanation, receiver, name)
        if isRefusal { next = RefusalRule(rawValue: rule).map { NextStep.text($0, words) } }
    }

    private init(_ explanation: Sender.Explanation, _ receiver: ReceiverName, _ name: VolumeName) {
        peer = receiver.text
        volume = name.text
        sourceGeneration = explanation.memory.committed?.number
        sourceGenerationId = explanation.memory.committed.map { "\($0.id)" }
        let standby = explanation.standby
        standbyState = "\(standby.state)"
        let hasGeneration = standby.committedNumber > 0
        standbyGeneration = hasGeneration ? standby.committedNumber : nil
        standbyGenerationId = hasGeneration ? "\(standby.committedID)" : nil
        durableSegments = standby.durableSegments
        bytesChanged = explanation.changedByteCount
        extents = explanation.entryCount
        comparison = explanation.decision.comparison
        switch explanation.decision {
        case .upToDate:
            (decision, rule) = ("up-to-date", "same-content")
            meaning = "the standby has this point in time"
        case .full(let resume), .compare(nil, let resume, _):
            (decision, rule) = ("full", resume ? "resume" : "empty")
            meaning = resume ? "a full copy is continued" : "the standby holds nothing yet"
        case .delta(let base, let resume), .compare(.some(let base), let resume, _):
            (decision, rule) = ("delta", resume ? "resume" : "base-matches")
            meaning =
                resume
                ? "an unfinished generation is continued"
                : "the standby holds generation \(base.number), and so does this side"
        case .wait:
            (decision, rule) = ("wait", "prepared")
            meaning = "the next generation waits on the standby for the others of its group"
        case .refuse(let refused):
            (decision, rule, meaning) = ("refuse", refused.rule.rawValue, refused.meaning)
        }
    }

    /// Whether a send would be refused.
    private var isRefusal: Bool { decision == "refuse" }

    /// Exit code that a refused send would have; `nil` if it would not be refused.
    var exitStatus: ExitStatus? {
        isRefusal ? RefusalRule(rawValue: rule).map { ExitStatus($0) } ?? .failed : nil
    }

    func print(json: Bool) throws {
        if json { return Terminal.out(try Format.json(self)) }
        func point(_ number: UInt64?, _ id: String?) -> String {
            guard let number, let id else { return "no generation" }
            return "generation \(number) id \(id.prefix(12))"
        }
        var text = "source   \(point(sourceGeneration, sourceGenerationId))\n"
        text += "standby  \(standbyState), \(point(standbyGeneration, standbyGenerationId))"
        text += durableSegments > 0 ? ", \(durableSegments) segments of the next one\n" : "\n"
        text += "decision \(decision)   rule=\(rule)   \(meaning)\n"
        if let comparison { text += "reading  all of the source: \(comparison)\n" }
        if let next { text += "next: \(next)\n" }
        if let bytesChanged, let extents {
            text += "change   \(Format.bytes(bytesChanged)) in \(extents) extents\n"
        }
        Terminal.out(text)
    }
}

/// The decisions for the members of a group, which is sent only if none is refused.
struct GroupExplanation: Encodable {
    let schemaVersion = 1
    let group: String
    let volumes: [ExplanationText]
}
