// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import TLS
import Testing

@Suite("Signatures") struct SignatureTests {
    private let message = Array("blockferry test 1 and what is signed".utf8)

    @Test("what an identity signs is valid under its key, and under no other")
    func valid() {
        let identity = Identity.generate()
        let info = identity.publicKeyInfo
        #expect(KeyID(ofPublicKeyInfo: info) == identity.keyID)
        let signature = identity.signature(of: message)
        #expect(signature.count == 64)
        #expect(Signatures.isValid(signature, of: message, publicKeyInfo: info))
        let other = Identity.generate().publicKeyInfo
        #expect(!Signatures.isValid(signature, of: message, publicKeyInfo: other))
    }

    @Test(
        "one bit of message, signature or key is enough to make it invalid", arguments: 0..<8)
    func everyBit(_ round: Int) {
        // A bit string that ends with zeros has more than one encoding that libcrypto reads: not every key shows it.
        let identity = Identity.generate()
        let signature = identity.signature(of: message)
        let info = identity.publicKeyInfo
        var refused = 0
        func flipped(_ bytes: [UInt8], _ bit: Int) -> [UInt8] {
            var changed = bytes
            changed[bit / 8] ^= 1 << (bit % 8)
            return changed
        }
        for bit in 0..<message.count * 8
        where !Signatures.isValid(signature, of: flipped(message, bit), publicKeyInfo: info) {
            refused += 1
        }
        for bit in 0..<signature.count * 8
        where !Signatures.isValid(flipped(signature, bit), of: message, publicKeyInfo: info) {
            refused += 1
        }
        for bit in 0..<info.count * 8
        where !Signatures.isValid(signature, of: message, publicKeyInfo: flipped(info, bit)) {
            refused += 1
        }
        #expect(refused == (message.count + signature.count + info.count) * 8)
    }

    @Test("signatures and keys of other lengths are refused, not read past")
    func lengths() {
        let identity = Identity.generate()
        let signature = identity.signature(of: message)
        let info = identity.publicKeyInfo
        for count in 0..<signature.count {
            #expect(
                !Signatures.isValid(
                    Array(signature.prefix(count)), of: message, publicKeyInfo: info))
        }
        for count in 0..<info.count {
            #expect(
                !Signatures.isValid(
                    signature, of: message, publicKeyInfo: Array(info.prefix(count))))
        }
        #expect(!Signatures.isValid(signature + [0], of: message, publicKeyInfo: info))
        #expect(!Signatures.isValid(signature, of: message, publicKeyInfo: info + [0]))
    }
}
