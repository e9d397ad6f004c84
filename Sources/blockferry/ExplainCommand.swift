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

/// A decision in words and as JSON.
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
    /// What to do about a refusal.
    private(set) var next: String?

    /// - Parameter words: what the command knows of its volume, for the next step.
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
        if let reason = explanation.otherSource {
            (decision, rule) = ("refuse", RefusalRule.otherSource.rawValue)
            meaning = reason
            return
        }
        if let (refusal, reason) = explanation.noProof {
            (decision, rule, meaning) = ("refuse", refusal.rawValue, reason)
            return
        }
        switch explanation.decision {
        case .pendingIsCommitted:
            (decision, rule) = ("none", "committed")
            meaning = "the generation that was in doubt is committed"
        case .full(let resume):
            (decision, rule) = ("full", resume ? "resume" : "empty")
            meaning = resume ? "a full copy is continued" : "the standby holds nothing yet"
        case .delta(let base, let resume):
            (decision, rule) = ("delta", resume ? "resume" : "base-matches")
            meaning =
                resume
                ? "an unfinished generation is continued"
                : "the standby holds generation \(base.number), and so does this side"
        case .prepared(let isPending):
            (decision, rule) = (isPending ? "wait" : "abandon", "prepared")
            meaning =
                isPending
                ? "the next generation waits on the standby for the others of its group"
                : "the standby holds a prepared generation that this side does not know; it is dropped first"
        case .refuse(let refusal):
            (decision, rule, meaning) = ("refuse", refusal.rawValue, refusal.meaning)
        }
    }

    /// Whether a send would be refused.
    var isRefusal: Bool { decision == "refuse" }

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
        if let next { text += "next: \(next)\n" }
        if let bytesChanged, let extents {
            text += "change   \(Format.bytes(bytesChanged)) in \(extents) extents\n"
        }
        Terminal.out(text)
    }
}
