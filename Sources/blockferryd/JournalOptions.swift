// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import Platform
internal import Receiving
internal import Wire

/// Format of the lines that the daemon and its processes write to standard error, which is the
/// journal under a service manager.
struct JournalOptions: ParsableArguments {
    enum Style: String, CaseIterable, ExpressibleByArgument {
        case text, json
    }

    @Option(
        help: ArgumentHelp(
            "Lines for people (text), or one JSON object a line (json).", valueName: "format"))
    var logFormat = Style.text

    /// Writes one line.
    func log(_ entry: JournalEntry) {
        switch logFormat {
        case .text: Terminal.error(entry.text)
        case .json:
            if let line = try? Format.json(Line(entry)) { Terminal.error(String(line.dropLast())) }
        }
    }

    /// The object of a line, without the fields that have no value.
    private struct Line: Encodable {
        let schemaVersion = 1
        let time, type, message: String
        var kind, event, volume, address, peer, outcome, rule: String?
        var fromGeneration, toGeneration, bytesOnWire: UInt64?
        var seconds: Double?

        init(_ entry: JournalEntry) {
            message = entry.text
            if let session = entry.session {
                type = "session"
                kind = session.kind
                volume = session.volume?.text
                address = session.address
                peer = session.peer
                outcome = session.outcome
                rule = session.rule
                fromGeneration = session.from
                toGeneration = session.to
                bytesOnWire = session.byteCount
                seconds = Double(session.nanoseconds / 1_000_000) / 1000
            } else if let told = entry.event {
                type = "event"
                event = told.kind.rawValue
                volume = told.volume?.text
            } else {
                type = "message"
            }
            time = Format.time(entry.event?.time ?? Clock.wall())
        }
    }
}
