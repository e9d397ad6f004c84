// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Platform
internal import Volumes

/// The helper for logical volumes: what the daemon may not do itself.
@main struct Program: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "blockferryd-lvm",
        abstract: "Do one thing for blockferryd that needs root's rights on a logical volume.",
        discussion: """
            Started by blockferryd-lvm.socket for each request, with the connection as descriptor 3. Works only on the \
            volumes that the file names: VG/LV, one a line. Keeps and releases generations as snapshots, grows and \
            activates a volume, and says what device-mapper knows of it.
            """)

    @Option(
        help: ArgumentHelp(
            "Root's file that names the volumes.", valueName: "file"))
    var volumes: String

    @Option(
        help: ArgumentHelp(
            "The user that may ask, beside root.", valueName: "name"))
    var user = "blockferryd"

    @Option(
        help: ArgumentHelp(
            "Where a record is kept while a pool's metadata is read.", valueName: "directory"))
    var state = "/var/lib/blockferryd-lvm"

    static func main() {
        Process.harden()
        do {
            guard let command = try parseAsRoot(Process.arguments) as? Program else { return }
            try command.serve()
        } catch { exit(withError: error) }
    }

    private func serve() throws {
        guard let number = Process.user(named: user) else {
            throw ValidationError("There is no user \(user).")
        }
        Process.closeOnExec(3)
        try Directory.create(state)
        HelperServer(volumes: volumes, user: number, recordIn: state) { Process.say($0) }
            .serve(Channel(takingOwnershipOf: 3))
    }
}
