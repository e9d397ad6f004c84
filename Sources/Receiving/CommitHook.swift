// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform
internal import Wire

/// A command of the standby's operator, run after each commit before the target can be written
/// again.
package struct CommitHook: Sendable {
    private let command: String
    private let seconds: Int

    /// - Parameters:
    ///   - command: for `sh -c`; its argument is the name of the volume.
    ///   - seconds: time limit.
    package init(_ command: String, seconds: Int) {
        self.command = command
        self.seconds = seconds
    }

    /// Runs the hook while the caller still holds the volume. If the process dies between the
    /// commit and this call, the hook is not run later.
    func run(_ volume: VolumeName, _ record: GenerationRecord, target: String) throws(CommandError)
    {
        try Command.run(
            "env",
            [
                "BLOCKFERRY_GENERATION=\(record.head.number)", "BLOCKFERRY_ID=\(record.id)",
                "BLOCKFERRY_TARGET=\(target)", "sh", "-c", command, "sh", volume.text,
            ], seconds: seconds)
    }
}
