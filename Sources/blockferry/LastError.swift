// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import Platform
internal import Sending
internal import Wire

/// Records why the last command that sends a volume to a standby failed, for `status`.
enum LastError {
    /// Runs such a command and records its failure or success.
    static func noting<Value>(
        _ names: [VolumeName], _ receiver: ReceiverName, _ home: SourceHome,
        _ body: () throws -> Value
    ) throws -> Value {
        let result = Result { try body() }
        var failure: SourceFailure?
        if case .failure(let error) = result {
            // Wrong usage does not concern the volume, and a process that holds the volume records
            // its own result.
            let rule = ProgramRunner.rule(of: error)
            guard !(error is ValidationError), rule != .busy,
                (try? home.catalog.receiver(receiver)) ?? nil != nil
            else { return try result.get() }
            failure = SourceFailure(
                time: Clock.wall(), rule: rule?.rawValue, text: Format.escaped("\(error)"))
        }
        // Report the command's own result even if it cannot be recorded.
        for name in names { try? home.catalog.noteFailure(name, at: receiver, failure) }
        return try result.get()
    }
}
