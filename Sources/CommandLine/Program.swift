// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import ArgumentParser
internal import Catalog
internal import Platform
internal import Synchronization
internal import TLS
package import Wire

/// The frame of every program around its commands.
package enum ProgramRunner {
    /// Name and version, for the protocol and `--version`.
    package static let version = "0.1.0"

    /// Runs a program: hardens the process, parses, runs, and turns an error into a sentence, the
    /// next step and an exit code.
    ///
    /// - Parameter status: returns the code of an error that only this program knows.
    package static func run(
        _ root: any ParsableCommand.Type, status: (any Error) -> ExitStatus?
    ) -> Never {
        Process.harden()
        // Without arguments the request is unknown: the help text would not answer it.
        guard let arguments = Process.arguments else {
            Terminal.error("this program was started without a list of arguments")
            Terminal.exit(.failed)
        }
        guard !arguments.isEmpty else {
            Terminal.errorText(root.helpMessage())
            Terminal.exit(.usage)
        }
        let isJSON = arguments.contains("--json")
        if let unknown = unknownCommand(arguments, root) {
            Terminal.error(unknown)
            if isJSON { Failure(unknown, .usage).print() }
            Terminal.exit(.usage)
        }
        var words: [String: String] = [:]
        var parsed: (any ParsableCommand.Type)?
        do {
            var command = try root.parseAsRoot(arguments)
            parsed = type(of: command)
            words = (command as? any NamingCommand)?.words ?? [:]
            try command.run()
            Terminal.exit(.done)
        } catch {
            switch root.exitCode(for: error) {
            case .success: root.exit(withError: error)
            case .validationFailure:
                Terminal.errorText(usage(error, root, parsed))
                if isJSON { Failure(root.message(for: error), .usage).print() }
                Terminal.exit(.usage)
            default:
                // The command has already reported its result.
                if let code = error as? ExitCode, let found = ExitStatus(rawValue: code.rawValue) {
                    Terminal.exit(found)
                }
                let failure = Failure(error, status(error) ?? common(error), words)
                Terminal.error(failure.message)
                if let next = failure.next { Terminal.error("next: \(next)") }
                if isJSON { failure.print() }
                Terminal.exit(failure.status)
            }
        }
    }

    /// The error message with the command's usage: an error after parsing does not know its
    /// command.
    private static func usage(
        _ error: any Error, _ root: any ParsableCommand.Type, _ parsed: (any ParsableCommand.Type)?
    ) -> String {
        guard let parsed, error is ValidationError else { return root.fullMessage(for: error) }
        return parsed.fullMessage(for: error).split(
            separator: "\n", omittingEmptySubsequences: false
        ).map { line in
            line.hasPrefix("Usage: ")
                ? "Usage: \(name(root)) " + line.dropFirst("Usage: ".count) : String(line)
        }.joined(separator: "\n")
    }

    private static func name(_ command: any ParsableCommand.Type) -> String {
        command.configuration.commandName ?? "\(command)"
    }

    /// The message for an unknown first word, with the command that may be meant.
    private static func unknownCommand(
        _ arguments: [String], _ root: any ParsableCommand.Type
    ) -> String? {
        guard let word = arguments.first, !word.hasPrefix("-") else { return nil }
        var names = ["help"]
        var shown: [String] = []
        for command in root.configuration.subcommands {
            names.append(name(command))
            if command.configuration.shouldDisplay { shown.append(name(command)) }
        }
        guard !names.contains(word) else { return nil }
        let near = shown.filter { distance(word, $0) <= 2 }
            .min { distance(word, $0) < distance(word, $1) }
        return "there is no command \(word)"
            + (near.map { "; did you mean \($0)?" } ?? "; see: \(name(root)) --help")
    }

    /// Edit distance of two words: letters added, removed, changed, or swapped with the next.
    static func distance(_ one: String, _ other: String) -> Int {
        let (a, b) = (Array(one.utf8.prefix(32)), Array(other.utf8.prefix(32)))
        var rows = [Array(0...b.count)]
        for (i, x) in a.enumerated() {
            var row = [i + 1]
            for (j, y) in b.enumerated() {
                var best = min(row[j] + 1, rows[i][j + 1] + 1, rows[i][j] + (x == y ? 0 : 1))
                if i > 0, j > 0, x == b[j - 1], a[i - 1] == y {
                    best = min(best, rows[i - 1][j - 1] + 1)
                }
                row.append(best)
            }
            rows.append(row)
        }
        return rows[a.count][b.count]
    }

    /// The failure of a command; with `--json` an object on standard output.
    private struct Failure: Encodable {
        let schemaVersion = 1
        let message: String
        let rule: String?
        let next: String?
        let exit: Int32
        let status: ExitStatus

        private enum CodingKeys: CodingKey { case schemaVersion, message, rule, next, exit }

        init(_ message: String, _ status: ExitStatus) {
            self.message = message
            self.status = status
            (rule, next, exit) = (nil, nil, status.rawValue)
        }

        init(_ error: any Error, _ status: ExitStatus, _ words: [String: String]) {
            let found = ProgramRunner.rule(of: error)
            let known = (error as? any RuledError)?.words.mapValues(NextStep.quoted) ?? [:]
            rule = found?.rawValue
            let text = (error as? SystemCallError)?.sentence ?? "\(error)"
            message = text.contains("(rule ") ? text : text + (rule.map { " (rule \($0))" } ?? "")
            next = found.map { NextStep.text($0, words.merging(known) { $1 }) }
            exit = status.rawValue
            self.status = status
        }

        init(_ message: String, next: String, exit: Int32) {
            self.message = message
            (rule, self.next, self.exit, status) = (nil, next, exit, .interrupted)
        }

        /// Prints the object unless the command has already printed its own.
        func print() {
            guard !Terminal.hasOutput.load(ordering: .relaxed) else { return }
            if let text = try? Format.json(self) { Terminal.out(text) }
        }
    }

    /// The description of an error: its sentence, its rule, and the exit code.
    ///
    /// - Parameter status: as in `run`.
    package static func account(
        of error: any Error, _ status: (any Error) -> ExitStatus?
    ) -> (message: String, rule: String?, exit: ExitStatus) {
        let failure = Failure(error, status(error) ?? common(error), [:])
        return (failure.message, failure.rule, failure.status)
    }

    /// Prints the object of a command that was interrupted.
    static func printFailure(_ message: String, next: String, exit: Int32) {
        Failure(message, next: next, exit: exit).print()
    }

    /// The exit code of an error that both programs know.
    package static func common(_ error: any Error) -> ExitStatus {
        if let refusal = error as? Refusal { return ExitStatus(refusal) }
        if let rule = rule(of: error) { return ExitStatus(rule) }
        return error is IdentityFileError || error is ExportKeyFileError ? .identity : .failed
    }

    /// The rule that explains an error, or `nil`.
    package static func rule(of error: any Error) -> RefusalRule? {
        switch error {
        case let error as any RuledError: error.refusalRule
        case is Socket.ResolveError: .unreachable
        case let error as SystemCallError:
            error.call == "connect" ? .unreachable : error.isNoSpace ? .space : nil
        case let error as TLSError:
            switch error {
            case .peerNotPinned, .ownKeyRefused, .noPeerCertificate, .unsupportedPeerKey,
                .alert, .protocolFailure:
                .keyNotAccepted
            case .wrongALPN: .unsupportedVersion
            case .timedOut, .truncated, .closed, .reset, .system, .damaged: .unreachable
            }
        default: nil
        }
    }
}

extension Terminal {
    /// Writes several lines to standard error.
    static func errorText(_ text: String) {
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            error(String(line))
        }
    }
}
