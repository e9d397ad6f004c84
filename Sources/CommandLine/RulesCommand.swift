// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import ArgumentParser
package import Wire

/// Explains the rules of refusals and the next step for each; both programs have this command.
package struct RulesCommand: ParsableCommand {
    package static let configuration = CommandConfiguration(
        commandName: "rules",
        abstract: "Explain the rules by which something is refused, and the next step.",
        discussion: "Messages name the rule in brackets. Without RULE all are listed.")

    @Argument(help: "The rule, as a message names it.") package var rule: RefusalRule?
    @Flag(help: "Print JSON.") package var json = false

    package init() {}

    package func run() throws {
        let rows = (rule.map { [$0] } ?? RefusalRule.allCases).map(Row.init)
        if json {
            return Terminal.out(try Format.json(Rules(rules: rows)))
        }
        for row in rows {
            Terminal.out("\(row.rule) (exit \(row.exit)): \(row.meaning)\n  next: \(row.next)\n")
        }
    }

    private struct Rules: Encodable {
        let schemaVersion = 1
        let rules: [Row]

        private enum CodingKeys: CodingKey { case schemaVersion, rules }
    }

    private struct Row: Encodable {
        let rule: String
        let exit: Int32
        let meaning: String
        let next: String

        init(_ rule: RefusalRule) {
            self.rule = rule.rawValue
            exit = ExitStatus(rule).rawValue
            meaning = rule.meaning
            next = NextStep.text(rule)
        }
    }
}

extension RefusalRule: ExpressibleByArgument {
    package init?(argument: String) { self.init(rawValue: argument) }
}
