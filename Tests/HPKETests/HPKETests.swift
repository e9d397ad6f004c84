// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Foundation
import HPKE
import Testing

/// One of Protocol/hpke-vectors.json.
private struct Vector: Decodable {
    struct Encryption: Decodable { let aad, pt, ct: String }
    let aead_id: Int
    let info, skRm, skEm, pkRm, enc: String
    let encryptions: [String: Encryption]
}

private func bytes(_ hex: String) throws -> [UInt8] { try #require(Hex.decode(hex)) }

/// Seals a message and returns it with its tag.
private func sealed(_ sealer: Sealer, _ text: [UInt8], _ associated: [UInt8]) -> [UInt8] {
    var message = text + [UInt8](repeating: 0, count: HPKE.tagByteCount)
    var span = message.mutableSpan
    var raw = unsafe span.mutableBytes
    sealer.seal(&raw, associated: associated)
    return message
}

/// Opens a message; nil if it is not what was sealed.
private func opened(_ opener: Opener, _ sealed: [UInt8], _ associated: [UInt8]) -> [UInt8]? {
    var message = sealed
    var span = message.mutableSpan
    var raw = unsafe span.mutableBytes
    guard opener.open(&raw, associated: associated) else { return nil }
    return Array(message.dropLast(HPKE.tagByteCount))
}

@Suite("HPKE") struct HPKETests {
    /// The vector of the suite that is used here.
    private func vector() throws -> Vector {
        let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("../../Protocol/hpke-vectors.json")
        let all = try JSONDecoder().decode([Vector].self, from: Data(contentsOf: path))
        return try #require(all.first { $0.aead_id == 2 })
    }

    @Test("the vectors of RFC 9180 are sealed and opened as published")
    func published() throws {
        let vector = try vector()
        let recipient = try #require(RecipientKey(privateKey: try bytes(vector.skRm)))
        let ephemeral = try #require(RecipientKey(privateKey: try bytes(vector.skEm)))
        #expect(recipient.publicKey.bytes == (try bytes(vector.pkRm)))
        let info = try bytes(vector.info)
        let (encapsulated, sealer) = try #require(
            HPKE.seal(to: recipient.publicKey, ephemeral: ephemeral) { _ in info })
        #expect(encapsulated.bytes == (try bytes(vector.enc)))
        let opener = try #require(HPKE.open(encapsulated, with: recipient, info: info))
        let last = try #require(vector.encryptions.keys.compactMap(Int.init).max())
        var compared = 0
        for sequence in 0...last {
            // Those that are not in the file are sealed too: the nonce counts.
            let known = vector.encryptions["\(sequence)"]
            let aad = Array("Count-\(sequence)".utf8)
            let text = try bytes(known?.pt ?? "00")
            let message = sealed(sealer, text, aad)
            if let known {
                #expect(try aad == bytes(known.aad))
                #expect(try message == bytes(known.ct))
                compared += 1
            }
            #expect(opened(opener, message, aad) == text)
        }
        print("published encryptions: \(compared)")
        #expect(compared >= 12)
    }

    @Test("a changed bit, another order, another recipient, another info open nothing")
    func refusals() throws {
        let key = RecipientKey.generate()
        let (encapsulated, sealer) = try #require(HPKE.seal(to: key.publicKey) { _ in [7] })
        let text = (0..<100).map { UInt8($0) }
        let messages = (0..<3).map { _ in sealed(sealer, text, [0]) }
        func opener(
            _ key: RecipientKey, _ encapsulated: X25519Key, _ info: [UInt8] = [7]
        ) throws -> Opener { try #require(HPKE.open(encapsulated, with: key, info: info)) }
        #expect(opened(try opener(key, encapsulated), messages[0], [0]) == text)
        var refused = 0
        for bit in 0..<messages[0].count * 8 {
            var changed = messages[0]
            changed[bit / 8] ^= 1 << UInt8(bit % 8)
            if opened(try opener(key, encapsulated), changed, [0]) == nil { refused += 1 }
        }
        #expect(refused == messages[0].count * 8)
        #expect(opened(try opener(key, encapsulated), messages[1], [0]) == nil)
        #expect(opened(try opener(key, encapsulated), messages[0], [1]) == nil)
        #expect(opened(try opener(key, encapsulated), Array(messages[0].dropLast()), [0]) == nil)
        #expect(opened(try opener(key, encapsulated), [], [0]) == nil)
        #expect(opened(try opener(key, encapsulated), [UInt8](repeating: 0, count: 16), [0]) == nil)
        #expect(opened(try opener(.generate(), encapsulated), messages[0], [0]) == nil)
        #expect(opened(try opener(key, encapsulated, [8]), messages[0], [0]) == nil)
        #expect(opened(try opener(key, RecipientKey.generate().publicKey), messages[0], [0]) == nil)
    }

    @Test("a point of low order shares no secret, and is refused")
    func lowOrder() throws {
        #expect(X25519Key(bytes: [UInt8](repeating: 0, count: 32)) == nil)
        #expect(X25519Key(bytes: [1]) == nil)
        let one = try #require(X25519Key(bytes: [1] + [UInt8](repeating: 0, count: 31)))
        #expect(HPKE.seal(to: one) { _ in [] } == nil)
        #expect(HPKE.open(one, with: .generate(), info: []) == nil)
    }

    @Test("a key survives its PEM text, and is not printed")
    func pem() throws {
        let key = RecipientKey.generate()
        let copy = try #require(RecipientKey(pem: key.pem))
        #expect(copy.publicKey == key.publicKey)
        #expect(RecipientKey(pem: []) == nil)
        #expect(RecipientKey(pem: Array(key.pem.dropLast(40))) == nil)
        #expect(!"\(key)".contains(Hex.encode(key.publicKey.bytes)))
    }
}
