// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Platform
internal import Wire

/// What the standby's operator wants done after each commit, before anything else can be written to the target.
package struct CommitHook: Sendable {
    private let command: String
    private let seconds: Int

    /// - Parameters:
    ///   - command: for `sh -c`; the volume's name is its argument.
    ///   - seconds: how long it may take.
    package init(_ command: String, seconds: Int) {
        self.command = command
        self.seconds = seconds
    }

    /// Runs it, as the caller still holds the volume. A process that ends between the commit and this does not make up for it.
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
