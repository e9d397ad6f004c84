// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks

/// Why the other side refuses to continue.
package enum RefusalCode: UInt16, Sendable, CaseIterable {
    case unsupportedVersion = 1
    case malformed = 2
    case notAuthorised = 3
    case busy = 4
    case lineage = 5
    case target = 6
    case space = 7
    case storage = 8
    case corrupt = 9
    case limit = 10
    case stopping = 11
    case invitation = 12

    /// Name in the specification.
    package var name: String {
        switch self {
        case .unsupportedVersion: "unsupported-version"
        case .notAuthorised: "not-authorised"
        default: "\(self)"
        }
    }
}

/// A refusal with its rule and a sentence (Specification 5.12).
package struct Refusal: Message, RuledError, CustomStringConvertible {
    package static let type = FrameType.refuse
    package var code: RefusalCode
    /// Rule of section 8, such as "parent-mismatch".
    package var rule: String
    /// Seconds after which the sender may come back; 0 if not stated.
    package var retryAfter: UInt16 = 0
    /// One sentence for the operator.
    package var text: String

    package init(
        _ code: RefusalCode, rule: RefusalRule? = nil, retryAfter: UInt16 = 0, _ text: String
    ) {
        self.code = code
        self.retryAfter = retryAfter
        self.rule = rule?.rawValue ?? code.name
        // Text from a file system or a library may contain anything; the wire does not allow that.
        self.text = String(
            String.UnicodeScalarView(
                text.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7F ? " " : $0 }))
    }

    package init(decoding bytes: RawSpan) throws(WireError) {
        try self.init(decoding: bytes, offered: .all)
    }

    /// Decodes a payload. Only a receiver that was offered `retryAfter` may have set a time, never
    /// a sender.
    package init(decoding bytes: RawSpan, offered: Features) throws(WireError) {
        var reader = FieldReader("REFUSE")
        guard let code = RefusalCode(rawValue: try reader.integer(UInt16.self, bytes)) else {
            throw reader.error(.badCode)
        }
        self.code = code
        retryAfter = try reader.integer(UInt16.self, bytes)
        let mayBeLater = offered.contains(.retryAfter) && (code == .busy || code == .stopping)
        guard mayBeLater || retryAfter == 0 else { throw reader.error(.reservedBits) }
        guard retryAfter <= Limits.greatestRetryAfterSeconds else {
            throw reader.error(.badRetryAfter)
        }
        rule = try reader.string(1...64, bytes)
        let allowed = rule.utf8.allSatisfy {
            (0x61...0x7A).contains($0) || (0x30...0x39).contains($0) || $0 == 0x2D
        }
        guard allowed else { throw reader.error(.badStringCharacters) }
        text = try reader.string(0...256, bytes)
        try reader.finish(bytes)
    }

    package func encoded() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: code.rawValue)
        bytes.append(littleEndian: retryAfter)
        bytes.append(string: rule, limit: 64)
        bytes.append(string: text, limit: 256)
        return bytes
    }

    /// `nil` for a rule that this version does not know.
    package var refusalRule: RefusalRule? { RefusalRule(rawValue: rule) }

    /// Facts about the target from the sentence, for the next step shown to the sender's operator.
    /// They decide nothing.
    package var words: [String: String] {
        let tokens = text.split { " ,;:()".contains($0) }.map(String.init)
        var words: [String: String] = [:]
        words["PATH"] = tokens.first { $0.hasPrefix("/") }
        words["BYTES"] = tokens.last { UInt64($0) != nil }
        if let index = tokens.firstIndex(of: "device-mapper"), tokens.indices.contains(index + 2) {
            words["DEVICE"] = tokens[index + 2]
        }
        return words
    }

    package var description: String { "\(text) (rule \(rule))" }
}
