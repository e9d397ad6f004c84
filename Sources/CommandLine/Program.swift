// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import ArgumentParser
internal import Catalog
internal import Platform
internal import TLS
internal import Wire

/// What every program does around its commands.
package enum ProgramRunner {
    /// Name and version, for the protocol and `--version`.
    package static let version = "0.1.0"

    /// Runs a program: hardens the process, parses, runs, and turns an error into one sentence and an exit code.
    ///
    /// - Parameter status: the code for errors that only this program knows.
    package static func run(
        _ root: any ParsableCommand.Type, status: (any Error) -> ExitStatus?
    ) -> Never {
        Process.harden()
        // What was asked for is not known: the help text would be no answer to it.
        guard let arguments = Process.arguments else {
            Terminal.error("this program was started without a list of arguments")
            Terminal.exit(.failed)
        }
        guard !arguments.isEmpty else {
            Terminal.errorText(root.helpMessage())
            Terminal.exit(.usage)
        }
        do {
            var command = try root.parseAsRoot(arguments)
            try command.run()
            Terminal.exit(.done)
        } catch {
            switch root.exitCode(for: error) {
            case .success: root.exit(withError: error)
            case .validationFailure:
                Terminal.errorText(root.fullMessage(for: error))
                Terminal.exit(.usage)
            default:
                // A command that has said what it found.
                if let code = error as? ExitCode, let found = ExitStatus(rawValue: code.rawValue) {
                    Terminal.exit(found)
                }
                Terminal.error("\(error)")
                Terminal.exit(status(error) ?? common(error))
            }
        }
    }

    /// The exit code of an error that both programs know.
    package static func common(_ error: any Error) -> ExitStatus {
        switch error {
        case let refusal as Refusal: ExitStatus(refusal)
        case is Socket.ResolveError: .unreachable
        case let error as SystemCallError: error.call == "connect" ? .unreachable : .failed
        case let error as TLSError:
            switch error {
            case .peerNotPinned, .ownKeyRefused, .noPeerCertificate, .unsupportedPeerKey,
                .wrongALPN:
                .identity
            case .timedOut, .truncated, .closed, .reset, .system, .damaged: .unreachable
            case .alert, .protocolFailure: .identity
            }
        case is IdentityFileError: .identity
        case let error as CatalogError:
            if case .fenced = error.kind { .busy } else { .failed }
        default: .failed
        }
    }
}

extension Terminal {
    /// Writes a text of several lines to standard error.
    static func errorText(_ text: String) {
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            error(String(line))
        }
    }
}
