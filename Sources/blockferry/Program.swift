// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Foundation

/// The command of the source host.
@main struct Program: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "blockferry",
        abstract: "Replicate LVM volumes block by block.",
        discussion: "Exit codes: 0 done, 1 not done, 2 wrong use of the command.",
        subcommands: [ChangesCommand.self, InspectCommand.self])

    static func main() {
        do {
            var command = try parseAsRoot()
            try command.run()
        } catch {
            guard exitCode(for: error) == .validationFailure else { exit(withError: error) }
            try? FileHandle.standardError.write(
                contentsOf: Data((fullMessage(for: error) + "\n").utf8))
            Foundation.exit(2)
        }
    }
}
