// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks

/// Names a key: the SHA-256 of its DER SubjectPublicKeyInfo (specification 3.1).
package struct KeyID: Hashable, Sendable, CustomStringConvertible {
    /// The digest.
    package let digest: SHA256Digest

    package init(_ digest: SHA256Digest) {
        self.digest = digest
    }

    /// The id of the key whose DER SubjectPublicKeyInfo is `bytes`; nothing, if they are not the one encoding of an
    /// Ed25519 key (RFC 8410 4) or of an uncompressed point of P-256 (RFC 5480 2).
    ///
    /// libcrypto reads others: a bit string that ends with zeros, for instance, may call them unused. A key must not
    /// have several ids.
    package init?(ofPublicKeyInfo bytes: [UInt8]) {
        guard
            Self.encodings.contains(where: {
                bytes.count == $0.start.count + $0.rest && bytes.starts(with: $0.start)
            })
        else { return nil }
        digest = .of(bytes)
    }

    /// What an encoding starts with, and how many bytes of the key follow.
    private static let encodings: [(start: [UInt8], rest: Int)] = [
        ([0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00], 32),
        (
            [
                0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
                0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
            ], 64
        ),
    ]

    /// The peer id.
    package var description: String { peerID }
}

/// A text is no peer id.
package enum PeerIDError: Error, Equatable, Sendable {
    /// It is not 8 groups of 7 characters joined by dashes.
    case groups
    /// A character is none of A–Z and 2–7, or there is none that could stand there.
    case character
    /// The last four characters do not fit the others: a typing error.
    case check
}

extension KeyID {
    /// The id as shown to people (specification 9): 52 characters of key and 4 that find typing
    /// errors, in 8 groups of 7.
    package var peerID: String {
        let text = [Character](Base32.encode(digest.bytes, .upper) + checkCharacters)
        return stride(from: 0, to: text.count, by: 7)
            .map { String(text[$0..<($0 + 7)]) }
            .joined(separator: "-")
    }

    /// Reads a peer id.
    ///
    /// There is one text for each id: upper case, with the dashes.
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

    // Four characters hold 20 bits: those of the first two and a half bytes.
    private var checkCharacters: String {
        let check = SHA256Digest.of([UInt8]("blockferry id".utf8) + digest.bytes).bytes
        return String(Base32.encode([UInt8](check.prefix(3)), .upper).prefix(4))
    }
}
