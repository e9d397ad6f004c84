// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks

/// Identifies a key: the SHA-256 of its DER SubjectPublicKeyInfo (specification 3.1).
package struct KeyID: Hashable, Sendable, CustomStringConvertible {
    package let digest: SHA256Digest

    package init(_ digest: SHA256Digest) {
        self.digest = digest
    }

    /// The id of the key whose DER SubjectPublicKeyInfo is `bytes`; `nil` unless they are the
    /// canonical encoding of an Ed25519 key (RFC 8410 4) or of an uncompressed point of P-256 (RFC
    /// 5480 2).
    ///
    /// libcrypto accepts other encodings too: for instance, a bit string that ends in zeros may
    /// declare them unused. A key must not have several ids.
    package init?(ofPublicKeyInfo bytes: [UInt8]) {
        guard
            Self.encodings.contains(where: {
                bytes.count == $0.start.count + $0.rest && bytes.starts(with: $0.start)
            })
        else { return nil }
        digest = .of(bytes)
    }

    /// Start of each encoding, and the number of key bytes that follow.
    private static let encodings: [(start: [UInt8], rest: Int)] = [
        ([0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00], 32),
        (
            [
                0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
                0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
            ], 64
        ),
    ]

    package var description: String { peerID }
}

/// Why a text is not a peer id.
package enum PeerIDError: Error, Equatable, Sendable {
    /// It is not 8 groups of 7 characters joined by dashes.
    case groups
    /// A character is not in A–Z or 2–7, or cannot occur at its position.
    case character
    /// The last four characters do not match the others: a typing error.
    case check
}

extension KeyID {
    /// The id for display (specification 9): 52 characters of key and 4 check characters against
    /// typing errors, in 8 groups of 7.
    package var peerID: String {
        let text = [Character](Base32.encode(digest.bytes, .upper) + checkCharacters)
        return stride(from: 0, to: text.count, by: 7)
            .map { String(text[$0..<($0 + 7)]) }
            .joined(separator: "-")
    }

    /// Parses a peer id.
    ///
    /// Each id has exactly one text: upper case, with dashes.
    package init(peerID text: String) throws(PeerIDError) {
        let groups = text.utf8.split(
            separator: UInt8(ascii: "-"), omittingEmptySubsequences: false)
        guard groups.count == 8, groups.allSatisfy({ $0.count == 7 }) else { throw .groups }
        let characters = groups.flatMap { $0 }
        guard Base32.decode(String(decoding: characters, as: UTF8.self), .upper) != nil else {
            throw .character
        }
        let key = String(decoding: characters.prefix(52), as: UTF8.self)
        guard let bytes = Base32.decode(key, .upper),
            let digest = SHA256Digest(bytes: bytes)
        else { throw .character }
        self.init(digest)
        guard characters.suffix(4).elementsEqual(checkCharacters.utf8) else { throw .check }
    }

    // Four characters hold 20 bits, the first two and a half bytes.
    private var checkCharacters: String {
        let check = SHA256Digest.of([UInt8]("blockferry id".utf8) + digest.bytes).bytes
        return String(Base32.encode([UInt8](check.prefix(3)), .upper).prefix(4))
    }
}
