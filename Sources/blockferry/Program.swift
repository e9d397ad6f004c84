// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import CommandLine
internal import Platform
internal import Sending

/// The command of the source host.
@main struct Program: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "blockferry",
        abstract: "Replicate volumes block by block to a standby, generation by generation.",
        discussion: """
            A first send copies everything; each further one ships what changed since. The standby is always one \
            complete generation.

              blockferry pair INVITATION           make a standby known (on the standby: blockferryd invite)
              blockferry send SOURCE --to PEER --volume NAME
              blockferry status                    where each volume stands

            \(ExitStatus.table)
            """,
        version: ProgramRunner.version,
        subcommands: [
            PairCommand.self, SendCommand.self, ExplainCommand.self, StatusCommand.self,
            PeersCommand.self, ForgetCommand.self, IDCommand.self, ChangesCommand.self,
            InspectCommand.self,
        ])

    static func main() {
        ProgramRunner.run(Program.self) { error in
            guard let error = error as? SendError else { return nil }
            return switch error {
            case .unknownReceiver: .identity
            case .busy: .busy
            case .refused(let refusal): ExitStatus(refusal)
            case .lineage: .lineage
            case .brokenProtocol: .failed
            case .interrupted: .interrupted
            }
        }
    }
}

/// Where this host keeps its identity, catalog and plans.
struct StateOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "State directory (default: $BLOCKFERRY_STATE, else /var/lib/blockferry).",
            valueName: "directory"))
    var state: String?

    func home() throws -> SourceHome {
        try SourceHome(
            path: state ?? Process.environment("BLOCKFERRY_STATE") ?? "/var/lib/blockferry")
    }
}

/// Name and version, as the other side sees them.
let software = "blockferry \(ProgramRunner.version)"
