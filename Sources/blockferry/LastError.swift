// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Catalog
internal import CommandLine
internal import Platform
internal import Sending
internal import Wire

/// Why the last command that was to bring a volume to a standby failed, for `status`.
enum LastError {
    /// Runs such a command; keeps why it failed, or that it did not.
    static func noting<Value>(
        _ names: [VolumeName], _ receiver: ReceiverName, _ home: SourceHome,
        _ body: () throws -> Value
    ) throws -> Value {
        let result = Result { try body() }
        var failure: SourceFailure?
        if case .failure(let error) = result {
            // Wrong use is nothing of the volume's, and a volume that another process has is that one's to tell of.
            let rule = ProgramRunner.rule(of: error)
            guard !(error is ValidationError), rule != .busy,
                (try? home.catalog.receiver(receiver)) ?? nil != nil
            else { return try result.get() }
            failure = SourceFailure(
                time: Clock.wall(), rule: rule?.rawValue, text: Format.escaped("\(error)"))
        }
        // What is to be told is the command's own end, also where this cannot be kept.
        for name in names { try? home.catalog.noteFailure(name, at: receiver, failure) }
        return try result.get()
    }
}
