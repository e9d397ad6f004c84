// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import Session
import Testing
import Wire

/// The root that a comparison found.
private let found = SHA256Digest.of([7])

@Suite("What a receiver admits of a resync") struct ResyncAdmissionTests {
    /// A resync that goes on with the lineage, or one that begins another.
    private func begin(
        _ parent: Lineage.GenerationPoint?, _ change: (inout Begin) -> Void = { _ in }
    ) -> Begin {
        var begin = Begin(
            transfer: mine,
            head: GenerationHead(
                kind: .resync, tagAlgorithm: .poly1305,
                lineage: parent == nil ? otherLineage : lineage,
                number: parent.map { $0.number + 1 } ?? 1, parent: parent?.id ?? .zero,
                volumeSize: 1 << 20, sourceTime: 7, sourceIdentity: "test"),
            plannedContent: 512, plannedSegments: 3, heldSegments: 0,
            tagKey: parent == nil ? .random() : nil, comparedRoot: found)
        change(&begin)
        return begin
    }

    private func memory(
        _ state: VolumeState, _ held: Lineage.GenerationPoint?, compared: SHA256Digest? = found,
        unfinished: Begin? = nil, kind: TargetKind = .file, size: UInt64 = 1 << 20,
        isDemoted: Bool = true
    ) -> Lineage.StandbyMemory {
        Lineage.StandbyMemory(
            state: standby(
                state, held, transfer: unfinished?.transfer ?? .none, kind: kind, size: size),
            committedSize: held.map { _ in 1 << 20 }, unfinished: unfinished,
            comparedRoot: compared, isDemoted: isDemoted)
    }

    /// A volume that may have become smaller, and has.
    private static func shrink(_ begin: inout Begin, _ less: UInt64) {
        begin.head.volumeSize -= less
        begin.allowsShrink = true
    }

    @Test("a resync onto what has no committed generation may have any size")
    func nothingToCut() {
        for state in [VolumeState.empty, .initialising] {
            let begin = begin(nil) { $0.head.volumeSize = 1 }
            #expect(rule(Lineage.admit(begin, memory(state, nil))) == "in place", "\(state)")
        }
    }

    @Test("a promoted copy is overwritten only where its operator has said so")
    func demotion() {
        for parent in [nil, first] {
            for inPlace in parent == nil ? [false, true] : [false] {
                let begin = begin(parent) { $0.inPlace = inPlace }
                let memory = memory(.promoted, first, isDemoted: false)
                #expect(rule(Lineage.admit(begin, memory)) == "not-demoted")
                var known = memory
                known.unfinished = begin
                #expect(rule(Lineage.admit(begin, known)) == "not-demoted")
            }
        }
    }

    @Test("every state, generation, parent, flag and comparison is admitted or refused by its rule")
    func states() {
        var counts: [String: Int] = [:]
        var count = 0
        for state in VolumeState.allCases {
            for held in [nil, first, second] {
                for parent in [nil, first, second] {
                    for inPlace in parent == nil ? [false, true] : [false] {
                        for compared in [nil, found, SHA256Digest.of([8])] {
                            let begin = begin(parent) { $0.inPlace = inPlace }
                            let admission = Lineage.admit(
                                begin, memory(state, held, compared: compared))
                            let result = rule(admission)
                            let hasNothing = state == .empty || state == .initialising
                            let wanted =
                                if state == .prepared {
                                    "prepared"
                                } else if parent != nil, held == nil {
                                    // There is no lineage to go on with.
                                    "diverged"
                                } else if parent != nil, parent != held {
                                    "parent-mismatch"
                                } else if compared != found {
                                    "not-compared"
                                } else if inPlace || hasNothing {
                                    "in place"
                                } else {
                                    "staged"
                                }
                            #expect(
                                result == wanted,
                                "\(state) \(String(describing: held)) \(String(describing: parent))"
                            )
                            if case .refuse(let refusal) = admission {
                                #expect(refusal.code == .lineage && !refusal.text.isEmpty)
                            }
                            counts[result, default: 0] += 1
                            count += 1
                        }
                    }
                }
            }
        }
        print("admissions of a resync: \(counts.sorted { $0.key < $1.key })")
        #expect(count == VolumeState.allCases.count * 3 * 4 * 3)
        #expect(counts["prepared"] == 36 && counts["not-compared"] == 8 * 2 * 8)
        #expect(counts["diverged"] == 8 * 6 && counts["parent-mismatch"] == 8 * 6)
        // In place: all three generations with the flag in all eight states, and all else of two states.
        #expect(counts["in place"] == 8 * 3 + 2 * 5 && counts["staged"] == 6 * 5)
    }

    @Test("each field of a resync that does not fit is refused by its rule, in every open state")
    func fields() {
        typealias Change = (inout Begin) -> Void
        let following: [(String, Change)] = [
            ("staged", { _ in }),
            ("diverged", { $0.head.lineage = otherLineage }),
            ("parent-mismatch", { $0.head.parent = second.id }),
            // Its number may leave some out, but never goes back.
            ("staged", { $0.head.number = 3 }), ("staged", { $0.head.number = .max }),
            ("number-mismatch", { $0.head.number = 1 }),
            ("number-mismatch", { $0.head.number = 0 }),
            ("not-compared", { $0.comparedRoot = SHA256Digest.of([8]) }),
            ("not-compared", { $0.comparedRoot = nil }),
            // Asking for it is not the operator's word for a smaller volume.
            ("size-shrunk", { $0.head.volumeSize -= 1 }),
            ("size-shrunk", { $0.head.volumeSize = 1 }),
            ("staged", { Self.shrink(&$0, 1) }), ("staged", { $0.allowsShrink = true }),
            ("too-small", { $0.head.volumeSize += 1 }),
        ]
        let beginning: [(String, Change)] = [
            ("staged", { _ in }), ("staged", { $0.head.lineage = lineage }),
            ("number-mismatch", { $0.head.number = 2 }),
            ("number-mismatch", { $0.head.number = 0 }),
            ("not-compared", { $0.comparedRoot = SHA256Digest.of([8]) }),
            ("in place", { $0.inPlace = true }),
            ("size-shrunk", { $0.head.volumeSize -= 1 }),
            ("staged", { Self.shrink(&$0, 1) }),
            (
                "size-shrunk",
                {
                    $0.inPlace = true
                    $0.head.volumeSize -= 1
                }
            ),
            (
                "in place",
                {
                    $0.inPlace = true
                    Self.shrink(&$0, 1)
                }
            ),
            // What is not compared any more is no matter of the size.
            (
                "not-compared",
                {
                    $0.comparedRoot = nil
                    Self.shrink(&$0, 1)
                }
            ),
            ("too-small", { $0.head.volumeSize += 1 }),
        ]
        var count = 0
        for state in [VolumeState.consistent, .staging, .promoted, .diverged, .suspect] {
            let memory = memory(state, first, kind: .blockDevice)
            for (cases, parent) in [(following, first), (beginning, nil)] {
                for (wanted, change) in cases {
                    let result = rule(Lineage.admit(begin(parent, change), memory))
                    #expect(result == wanted, "\(state)")
                    count += 1
                }
            }
        }
        #expect(count == 5 * 26)
        let last = Lineage.GenerationPoint(number: .max, id: first.id)
        for number in [0, 1, UInt64.max] {
            let begin = begin(first) { $0.head.number = number }
            #expect(rule(Lineage.admit(begin, memory(.consistent, last))) == "number-mismatch")
        }
        // A file grows.
        let grown = begin(first) { $0.head.volumeSize += 1 }
        #expect(rule(Lineage.admit(grown, memory(.consistent, first))) == "staged")
    }

    @Test("a resync is resumed by the same announcement, and only with the map it was made from")
    func resume() {
        let changes: [(inout Begin) -> Void] = [
            { $0.transfer = theirs }, { $0.plannedContent += 1 }, { $0.head.sourceTime += 1 },
            { $0.head.number += 1 }, { Self.shrink(&$0, 1) },
            { $0.head.tagAlgorithm = .sha256 },
        ]
        var count = 0
        for state in [VolumeState.staging, .promoted, .diverged, .suspect] {
            let announced = begin(first)
            var same = announced
            same.heldSegments = 3
            let known = memory(state, first, unfinished: announced)
            #expect(rule(Lineage.admit(same, known)) == "resume", "\(state)")
            for change in changes {
                #expect(rule(Lineage.admit(begin(first, change), known)) == "staged", "\(state)")
                count += 1
            }
            for compared in [nil, SHA256Digest.of([8])] {
                let forgotten = memory(state, first, compared: compared, unfinished: announced)
                #expect(rule(Lineage.admit(same, forgotten)) == "not-compared", "\(state)")
                count += 1
            }
        }
        // In place, where nothing is to be protected.
        let announced = begin(nil)
        let known = memory(.initialising, nil, unfinished: announced)
        #expect(rule(Lineage.admit(announced, known)) == "resume")
        #expect(rule(Lineage.admit(begin(nil) { $0.transfer = theirs }, known)) == "in place")
        #expect(count == 4 * 8)
    }

    @Test("a full generation and a delta are as little admitted as before where a resync is")
    func others() {
        for (state, wanted) in closed {
            for kind in [GenerationKind.full, .delta] {
                let begin = begin(kind == .full ? nil : first) {
                    $0.head.kind = kind
                    $0.comparedRoot = nil
                }
                let result = rule(Lineage.admit(begin, memory(state, first)))
                #expect(result == wanted.rawValue, "\(state) \(kind)")
            }
        }
    }
}
