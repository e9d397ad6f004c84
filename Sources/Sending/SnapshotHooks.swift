// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// Commands to run right before and right after a snapshot is taken: freeze and thaw a file system,
/// flush a database.
package struct SnapshotHooks: Sendable {
    /// A command for `sh -c`; its arguments are the names of the volumes.
    package var before: String?
    package var after: String?
    /// Time limit for each, in seconds.
    package var seconds: Int

    package init(before: String?, after: String?, seconds: Int) {
        self.before = before
        self.after = after
        self.seconds = seconds
    }

    /// Runs `body` between the two hooks. The second hook always runs: also if the first or `body`
    /// fails, or if this process is killed.
    func around(_ volumes: [String], _ body: () throws -> Void) throws {
        guard before != nil || after != nil else { return try body() }
        // Start the guardian first, so that a thaw is guaranteed from the first freeze on.
        let guardian: Guardian?
        do throws(CommandError) {
            guardian = try after.map { command throws(CommandError) in
                try Guardian(
                    "blockferry-post-snapshot",
                    script:
                        "command=$1; shift; echo ready; read -r _ <&3; exec sh -c \"$command\" sh \"$@\"",
                    [command] + volumes, seconds: 30)
            }
        } catch {
            throw SourceError.hook(error)
        }
        var failure: (any Error)?
        do {
            do throws(CommandError) {
                if let before {
                    try Command.run("sh", ["-c", before, "sh"] + volumes, seconds: seconds)
                }
            } catch {
                throw SourceError.hook(error)
            }
            try body()
        } catch {
            failure = error
        }
        do throws(CommandError) { try guardian?.finish(seconds: seconds) } catch {
            throw SourceError.hook(error)
        }
        if let failure { throw failure }
    }
}
