// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import LVM
internal import Platform
internal import Sending
internal import Wire

/// The program of the source host.
@main struct Program: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "blockferry",
        abstract: "Replicate volumes block by block to a standby, generation by generation.",
        discussion: """
            A first send copies everything; each further one ships what changed since. The standby is always one \
            complete generation.

              blockferry pair INVITATION           make a standby known (on the standby: blockferryd invite)
              blockferry send vg/lv --to PEER      bring the standby up to date
              blockferry verify vg/lv --to PEER    compare the copy with what was sent
              blockferry resync vg/lv --to PEER    make a copy equal that nothing is known of any more
              blockferry export vg/lv --to PEER --output FILE    the same as send, by disk
              blockferry status                    where each volume stands

            \(ExitStatus.table)
            """,
        version: ProgramRunner.version,
        subcommands: [
            PairCommand.self, SendCommand.self, ExportCommand.self, ResyncCommand.self,
            VerifyCommand.self,
            ExplainCommand.self, StatusCommand.self, LogCommand.self,
            PeersCommand.self, ForgetCommand.self, RenameCommand.self, IDCommand.self,
            ChangesCommand.self,
            InspectCommand.self, CleanupCommand.self, RulesCommand.self,
        ])

    static func main() {
        ProgramRunner.run(Program.self, status: status)
    }

    /// The code of an error that only this program knows.
    static func status(_ error: any Error) -> ExitStatus? {
        switch error {
        case let failure as GroupSender.Failure:
            status(failure.error) ?? ProgramRunner.common(failure.error)
        case SendError.refused(let refusal), SendError.outdated(let refusal): ExitStatus(refusal)
        default: nil
        }
    }
}

/// Directory of this host's identity, catalog and plans.
struct StateOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "State directory (default: $BLOCKFERRY_STATE, else /var/lib/blockferry).",
            valueName: "directory"))
    var state: String?

    private var path: String {
        state ?? Process.environment("BLOCKFERRY_STATE") ?? "/var/lib/blockferry"
    }

    func home() throws -> SourceHome { try SourceHome(path: path) }

    /// Opens the state for inspection.
    func readableHome() throws -> SourceHome {
        let found = try SourceHome(forReading: path)
        if let reading = found.catalog.reading { Terminal.error("warning: \(reading.sentence)") }
        return found
    }
}

/// Name and version sent to the other side.
let software = "blockferry \(ProgramRunner.version)"
