// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing
import Wire

@Suite("Refusal rules") struct RefusalRuleTests {
    /// A rule that travels is in the specification; every rule is in the manual, as its reader meets it.
    @Test("every rule stands in the manual, and those that travel in the specification")
    func documented() throws {
        let root = FixtureFiles.root.split(separator: "/").dropLast(2).joined(separator: "/")
        let manual = try String(contentsOfFile: "/\(root)/docs/OPERATIONS.md", encoding: .utf8)
        let specification = try String(
            contentsOfFile: "/\(root)/Protocol/Specification.md", encoding: .utf8)
        let local: Set<RefusalRule> = [
            .otherSource, .sourceInUse, .sourceChanged, .sourceIsTarget, .poolExhausted,
        ]
        for rule in RefusalRule.allCases {
            #expect(manual.contains("`\(rule.rawValue)`"), "\(rule)")
            #expect(
                local.contains(rule) || specification.contains("`\(rule.rawValue)`"), "\(rule)")
            #expect(!rule.meaning.isEmpty)
        }
    }
}
