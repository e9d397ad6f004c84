// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import Platform
internal import Sending
internal import Wire

/// Commands to run when a send has succeeded or failed.
struct OutcomeOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            """
            Run by 'sh -c' when the standby has everything, with its names of the volumes as $1 and so on, and \
            BLOCKFERRY_RESULT (full, delta or up-to-date), _PEER, _GENERATION and _ID in the environment. If it fails, this \
            command ends with 1.
            """, valueName: "command"))
    var postSuccess: String?

    @Option(
        help: ArgumentHelp(
            """
            Run in the same way when the send has failed, with BLOCKFERRY_RESULT=failed, _PEER, _EXIT, _RULE and _MESSAGE. \
            A signal that ends blockferry is not told.
            """, valueName: "command"))
    var postFailure: String?

    var isUsed: Bool { postSuccess != nil || postFailure != nil }

    /// The send succeeded, but the command to run afterwards failed.
    struct Failure: Error, CustomStringConvertible {
        let error: CommandError

        var description: String { "everything was sent, but --post-success: \(error)" }
    }

    /// Runs the command after a success. For a group, each value has one word per volume.
    func succeeded(
        _ outcomes: [Sender.Outcome], _ volumes: [VolumeName], at receiver: ReceiverName,
        seconds: Int
    ) throws(Failure) {
        func each(_ value: (Sender.Outcome) -> String) -> String {
            outcomes.map(value).joined(separator: " ")
        }
        let results = each { outcome in
            switch outcome.kind {
            case .full: "full"
            case .delta: "delta"
            case .resync: "resync"
            case .upToDate: "up-to-date"
            }
        }
        do throws(CommandError) {
            try run(
                postSuccess,
                [
                    "RESULT": results, "PEER": receiver.text,
                    "GENERATION": each { "\($0.number)" }, "ID": each { "\($0.id)" },
                ], volumes, seconds)
        } catch {
            throw Failure(error: error)
        }
    }

    /// Runs the command after a failure. If it fails too, that is reported, and the first error
    /// remains the result.
    func failed(
        _ error: any Error, _ volumes: [VolumeName], at receiver: ReceiverName, seconds: Int
    ) {
        let account = ProgramRunner.account(of: error, Program.status)
        do throws(CommandError) {
            try run(
                postFailure,
                [
                    "RESULT": "failed", "PEER": receiver.text, "EXIT": "\(account.exit.rawValue)",
                    "RULE": account.rule ?? "", "MESSAGE": account.message,
                ], volumes, seconds)
        } catch {
            Terminal.error("--post-failure: \(error)")
        }
    }

    private func run(
        _ command: String?, _ facts: KeyValuePairs<String, String>, _ volumes: [VolumeName],
        _ seconds: Int
    ) throws(CommandError) {
        guard let command else { return }
        try Command.run(
            "env",
            facts.map { "BLOCKFERRY_\($0)=\($1)" } + ["sh", "-c", command, "sh"]
                + volumes.map(\.text), seconds: seconds)
    }
}
