// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Facts that identify a source or a target, and what they prove.
///
/// - *Object* facts name the thing: two identities that agree in them are the same thing, which may
///   have been written in between.
/// - *Content* facts prove more: if the object is the same and they agree too, the bytes are equal.
///   If nothing proves that, there are none, and such an identity equals no other in content, not
///   even itself.
///
/// A fact that could not be determined is absent, and an absent fact equals nothing. Names, paths
/// and numbers that may be reused are not facts.
///
/// As text, for a catalog: `id2 KIND name=value … | name=value …`, object facts before the bar,
/// content facts after it, each part sorted by name. Bytes of a value other than letters, digits
/// and `._:/+-,@` are written as `%` and two hexadecimal digits. Each identity has exactly one
/// text.
package struct ObjectIdentity: Hashable, Sendable {
    /// Kind of source or target.
    package enum Kind: String, CaseIterable, Sendable {
        /// A regular file.
        case file
        /// A block device.
        case device
        /// A snapshot in a thin pool of this host; the object is its origin.
        case thinSnapshot = "thin-snapshot"
        /// A classic snapshot on this host; the object is its origin.
        case classicSnapshot = "classic-snapshot"
        /// A device of a thin pool, read from images.
        case thinImage = "thin-image"
        /// A classic snapshot or an origin, read from images.
        case classicImage = "classic-image"
    }

    /// Values by name.
    package typealias Facts = [String: String]

    package var kind: Kind
    /// Facts that name the thing.
    package var object: Facts
    /// Facts that prove its content; empty if there are none.
    package var content: Facts

    package init(_ kind: Kind, object: Facts, content: Facts = [:]) {
        self.kind = kind
        self.object = object
        self.content = content
    }

    /// Whether equal facts prove equal bytes.
    package var provesContent: Bool { !content.isEmpty }

    /// Whether the other one is proven to have the same bytes.
    package func hasSameContent(as other: ObjectIdentity) -> Bool {
        provesContent && self == other
    }

    /// Result of comparing the objects of two identities.
    package enum Relation: Equatable, Sendable {
        /// The same thing, by all facts known to both.
        case same
        /// Another thing; these facts differ, sorted by name.
        case different([String])
        /// The two share no fact.
        case unknown
    }

    /// Compares the objects. A fact that only one side has is skipped.
    package func relation(to other: ObjectIdentity) -> Relation {
        guard kind == other.kind else { return .different(["kind"]) }
        let common = object.keys.filter { other.object[$0] != nil }.sorted()
        guard !common.isEmpty else { return .unknown }
        let differing = common.filter { object[$0] != other.object[$0] }
        return differing.isEmpty ? .same : .different(differing)
    }
}

// MARK: - Text

extension ObjectIdentity: CustomStringConvertible {
    private static let version = "id2"
    /// Upper limit of a text in bytes; longer than any identity.
    private static let longest = 4096

    /// The text for a catalog.
    package var description: String {
        var words = [Self.version, kind.rawValue]
        words += Self.words(object)
        if !content.isEmpty { words += ["|"] + Self.words(content) }
        return words.joined(separator: " ")
    }

    /// Parses a text that `description` has made; `nil` for any other text.
    package init?(_ text: String) {
        guard text.utf8.count <= Self.longest else { return nil }
        let words = text.split(separator: " ", omittingEmptySubsequences: false)
        guard words.count >= 2, words[0] == Self.version,
            let kind = Kind(rawValue: String(words[1]))
        else { return nil }
        let parts = words.dropFirst(2).split(
            separator: "|", maxSplits: 1, omittingEmptySubsequences: false)
        guard let object = Self.facts(parts[0]),
            let content = parts.count > 1 ? Self.facts(parts[1]) : [:]
        else { return nil }
        self.init(kind, object: object, content: content)
        // Each identity has exactly one text.
        guard description == text else { return nil }
    }

    private static func words(_ facts: Facts) -> [String] {
        facts.sorted { $0.key < $1.key }.map { "\($0.key)=\(escaped($0.value))" }
    }

    private static func facts(_ words: ArraySlice<Substring>) -> Facts? {
        var facts: Facts = [:]
        for word in words {
            guard let sign = word.firstIndex(of: "=") else { return nil }
            let name = word[..<sign]
            guard !name.isEmpty, name.utf8.allSatisfy({ isLetter($0) || $0 == 0x2D }),
                let value = unescaped(word[word.index(after: sign)...]),
                facts.updateValue(value, forKey: String(name)) == nil
            else { return nil }
        }
        return facts
    }

    private static func isLetter(_ byte: UInt8) -> Bool { (0x61...0x7A).contains(byte) }

    private static func isPlain(_ byte: UInt8) -> Bool {
        isLetter(byte) || (0x41...0x5A).contains(byte) || (0x30...0x39).contains(byte)
            || "._:/+-,@".utf8.contains(byte)
    }

    private static func escaped(_ value: String) -> String {
        let digits = Array("0123456789ABCDEF".utf8)
        let bytes = value.utf8.flatMap { byte in
            isPlain(byte) ? [byte] : [0x25, digits[Int(byte >> 4)], digits[Int(byte & 15)]]
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func unescaped(_ text: Substring) -> String? {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            guard byte == 0x25 else {
                bytes.append(byte)
                continue
            }
            guard rest.count >= 2,
                let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16)
            else { return nil }
            rest = rest.dropFirst(2)
            bytes.append(value)
        }
        return String(validating: bytes, as: UTF8.self)
    }
}
