// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing
import Wire

@Suite("Refusal rules") struct RefusalRuleTests {
    /// Those that a receiver decides by, without the names of codes.
    @Test("those that travel stand in the specification")
    func documented() throws {
        let root = FixtureFiles.root.split(separator: "/").dropLast(2).joined(separator: "/")
        let specification = try String(
            contentsOfFile: "/\(root)/Protocol/Specification.md", encoding: .utf8)
        let travelling: [RefusalRule] = [
            .promoted, .notDemoted, .notEmpty, .targetWentBack, .diverged, .sizeShrunk, .suspect,
            .noMap, .notCompared,
            .prepared, .baseMissing, .parentMismatch, .numberMismatch, .missing, .inUse, .suspended,
            .readOnly, .foreign,
            .tooSmall, .targetReplaced, .targetTaken, .occupied, .sessions, .rootMismatch,
            .groupMismatch, .fenced,
        ]
        for rule in travelling {
            #expect(specification.contains("`\(rule.rawValue)`"), "\(rule)")
        }
        for code in RefusalCode.allCases where RefusalRule(rawValue: code.name) == nil {
            #expect([.lineage, .target].contains(code), "\(code) explains nothing")
        }
    }

    @Test("what a refusal says of the target is found in its sentence")
    func words() {
        let small = Refusal(
            .target, rule: .tooSmall, "the target /dev/backup/db has 4096 bytes, the volume 8192")
        #expect(small.words == ["PATH": "/dev/backup/db", "BYTES": "8192"])
        let suspended = Refusal(
            .target, rule: .suspended,
            "/dev/vg/db is suspended (device-mapper device vg-db): who reads it or writes it waits")
        #expect(suspended.words == ["PATH": "/dev/vg/db", "DEVICE": "vg-db"])
        #expect(Refusal(.busy, "device-mapper").words == [:])
    }
}
