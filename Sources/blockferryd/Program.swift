// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import Platform
internal import Receiving
internal import Staging
internal import Volumes
internal import Wire

/// The daemon of the standby, and its administration.
@main struct Program: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "blockferryd",
        abstract: "Receive volumes from source hosts and keep each one complete generation.",
        discussion: """
            blockferryd invite db --target /dev/vg0/db --address standby1:7441
            blockferryd serve
            blockferryd status
            blockferryd promote db            take the copy into use
            blockferryd scrub db              compare the copy with what was committed
            blockferryd import db FILE        bring what came by disk

            The commands besides serve work on the same state directory, with or without the daemon running.

            \(ExitStatus.table)
            """,
        version: ProgramRunner.version,
        subcommands: [
            ServeCommand.self, InviteCommand.self, VolumesCommand.self, PeersCommand.self,
            UnpairCommand.self,
            StatusCommand.self, LogCommand.self, KeepCommand.self, ScrubCommand.self,
            ImportCommand.self,
            PromoteCommand.self, DemoteCommand.self, ResetCommand.self, RetargetCommand.self,
            DropTransferCommand.self, RenameCommand.self, RemoveCommand.self, IDCommand.self,
            RulesCommand.self,
            WorkerCommand.self,
            RecoverCommand.self,
        ])

    static func main() {
        // If this process may not query device-mapper, the helper does.
        if Process.effectiveUser != 0 {
            BlockDevice.setHelper { HelperClient().look(at: $0) }
        }
        ProgramRunner.run(Program.self) { error in
            switch error {
            case AdministrationError.notApplied(_, _, let error): ProgramRunner.common(error)
            case ImportError.refused(_, _, _, let refusal):
                // There is no session that the next one could resume.
                refusal.code == .corrupt ? .failed : ExitStatus(refusal)
            default: nil
            }
        }
    }
}

/// Location of the standby's identity, catalog and staging logs.
struct StateOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "State directory (default: $BLOCKFERRYD_STATE, else /var/lib/blockferryd).",
            valueName: "directory"))
    var state: String?

    var path: String {
        state ?? Process.environment("BLOCKFERRYD_STATE") ?? "/var/lib/blockferryd"
    }

    /// Opens the state for inspection.
    func readableHome() throws -> StandbyHome {
        let found = try StandbyHome(forReading: path)
        guard let reading = found.catalog.reading else { return try home() }
        Terminal.error("warning: \(reading.sentence)")
        return found
    }

    func home() throws -> StandbyHome {
        let home = try StandbyHome(path: path, marksFences: true)
        home.keepReserve()
        for name in try home.checkPlace() {
            Terminal.error(
                "volume \(name): the state directory was restored from a backup, or moved; the target is read as a whole "
                    + "before it is used")
        }
        return home
    }
}

/// Name and version sent to the other side.
let software = "blockferryd \(ProgramRunner.version)"
