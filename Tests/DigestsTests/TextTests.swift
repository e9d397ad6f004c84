// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import Testing

@Suite("Text") struct TextTests {
    @Test("hexadecimal round trip, and nothing but pairs of digits")
    func hex() {
        let all = [UInt8](0...255)
        #expect(Hex.decode(Hex.encode(all)) == all)
        #expect(Hex.encode([0, 15, 255]) == "000fff")
        #expect(Hex.decode("0aFf") == [10, 255])
        for text in ["0", "0g", "+1", " 1", "0x", "é0", "１１"] {
            #expect(Hex.decode(text) == nil, "\(text)")
        }
    }

    @Test(
        "the vectors of RFC 4648 10",
        arguments: [
            ("", ""), ("f", "MY"), ("fo", "MZXQ"), ("foo", "MZXW6"), ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"), ("foobar", "MZXW6YTBOI"),
        ])
    func base32(plain: String, encoded: String) {
        let bytes = [UInt8](plain.utf8)
        #expect(Base32.encode(bytes, .upper) == encoded)
        #expect(Base32.decode(encoded, .upper) == bytes)
        #expect(Base32.encode(bytes, .lower) == encoded.lowercased())
        #expect(Base32.decode(encoded.lowercased(), .lower) == bytes)
    }

    @Test("every byte string has one text, and every other text is refused")
    func strict() {
        for text in ["M", "MZX", "MZXW6Y", "MZ", "my", "MY======", "M1", "M Y", "MÝ"] {
            #expect(Base32.decode(text, .upper) == nil, "\(text)")
        }
        for count in 0..<70 {
            let bytes = SecureRandom.bytes(count)
            #expect(Base32.decode(Base32.encode(bytes, .lower), .lower) == bytes)
        }
    }
}

@Suite("Peer id") struct PeerIDTests {
    private let id = KeyID(.of([UInt8]("blockferry".utf8)))

    @Test("the text is 8 groups of 7, and reads back as it is and in no other form")
    func roundTrip() throws {
        let text = id.peerID
        #expect(text.split(separator: "-").map(\.count) == [Int](repeating: 7, count: 8))
        #expect("\(id)" == text)
        #expect(try KeyID(peerID: text) == id)
        #expect(throws: PeerIDError.character) { try KeyID(peerID: text.lowercased()) }
        #expect(throws: PeerIDError.groups) { try KeyID(peerID: text.filter { $0 != "-" }) }
        for _ in 0..<100 {
            let other = KeyID(.of(SecureRandom.bytes(8)))
            #expect(try KeyID(peerID: other.peerID) == other)
        }
    }

    @Test("every error in one character and every swap of neighbours is found")
    func typingErrors() {
        let text = [Character](id.peerID)
        let alphabet = [Character]("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
        var found = 0
        for index in text.indices where text[index] != "-" {
            for letter in alphabet where letter != text[index] {
                var wrong = text
                wrong[index] = letter
                #expect(throws: PeerIDError.self) { try KeyID(peerID: String(wrong)) }
                found += 1
            }
            let next = index + 1
            if next < text.count, text[next] != "-", text[next] != text[index] {
                var wrong = text
                wrong.swapAt(index, next)
                #expect(throws: PeerIDError.self) { try KeyID(peerID: String(wrong)) }
                found += 1
            }
        }
        #expect(found > 56 * 31)
    }

    @Test("other lengths and other characters are refused with the reason")
    func malformed() {
        let text = id.peerID
        #expect(throws: PeerIDError.groups) { try KeyID(peerID: "") }
        #expect(throws: PeerIDError.groups) { try KeyID(peerID: String(text.dropLast())) }
        #expect(throws: PeerIDError.groups) { try KeyID(peerID: text + "A") }
        #expect(throws: PeerIDError.character) {
            try KeyID(peerID: "1" + text.dropFirst())
        }
        #expect(throws: PeerIDError.check) {
            try KeyID(peerID: text.dropLast() + (text.last == "A" ? "B" : "A"))
        }
    }
}
