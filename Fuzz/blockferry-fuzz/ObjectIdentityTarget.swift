// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Objects

/// Identities of sources and targets, as catalogs keep them: texts of any kind, texts of facts with a part spoilt, and two
/// identities that differ in one fact.
@Sendable func fuzzObjectIdentity(_ bytes: [UInt8]) {
    var input = Input(bytes)
    guard input.byte() & 3 != 3 else {
        return check(text: String(decoding: input.rest(), as: UTF8.self))
    }
    let kinds = ObjectIdentity.Kind.allCases
    var identity = ObjectIdentity(kinds[Int(input.byte()) % kinds.count], object: facts(&input))
    identity.content = facts(&input)
    var text = Array("\(identity)".utf8)
    if text.count <= 4096 {
        let read = ObjectIdentity(String(decoding: text, as: UTF8.self))
        precondition(read == identity, "an identity is not read back")
    }
    text.spoil(&input)
    check(text: String(decoding: text, as: UTF8.self))

    precondition(identity.hasSameContent(as: identity) == !identity.content.isEmpty)
    precondition(identity.relation(to: identity) == (identity.object.isEmpty ? .unknown : .same))
    var other = identity
    guard let name = (Array(identity.object.keys) + Array(identity.content.keys)).sorted().first
    else { return }
    if other.object[name] != nil {
        other.object[name]?.append("x")
    } else {
        other.content[name]?.append("x")
    }
    precondition(!identity.hasSameContent(as: other) && !other.hasSameContent(as: identity))
    if identity.object[name] != nil {
        precondition(identity.relation(to: other) == .different([name]))
    }
}

/// What is read is written as the same bytes.
private func check(text: String) {
    guard let identity = ObjectIdentity(text) else { return }
    precondition(Array("\(identity)".utf8) == Array(text.utf8), "an identity has two texts")
}

/// Up to seven facts; a name is one to four letters or dashes.
private func facts(_ input: inout Input) -> ObjectIdentity.Facts {
    var facts: ObjectIdentity.Facts = [:]
    for _ in 0..<input.byte() % 8 {
        let letters = input.take(1 + Int(input.byte() % 4)).map { byte in
            byte % 27 == 26 ? UInt8(ascii: "-") : UInt8(ascii: "a") + byte % 27
        }
        guard !letters.isEmpty else { break }
        let value = String(decoding: input.take(Int(input.byte() % 32)), as: UTF8.self)
        facts[String(decoding: letters, as: UTF8.self)] = value
    }
    return facts
}
