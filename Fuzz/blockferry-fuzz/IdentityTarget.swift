// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import TLS

/// What libcrypto parses for us: the key and the signature of an export file, and the file of an
/// identity.
struct IdentityTarget: Sendable {
    private let identity: Identity
    private let key: [UInt8]
    private let pem: [UInt8]
    private let signature: [UInt8]
    private let message = Array("blockferry export 2".utf8)

    init() {
        guard let identity = try? Identity(pem: Self.file) else {
            fatalError("the target's own identity file is refused")
        }
        self.identity = identity
        key = identity.publicKeyInfo
        pem = identity.pem
        signature = identity.signature(of: message)
    }

    @Sendable func run(_ bytes: [UInt8]) {
        var input = Input(bytes)
        switch input.byte() {
        case 0..<128: checkSignature(&input)
        case 128..<224: checkKey(&input)
        default: checkFile(&input)
        }
    }

    private func checkSignature(_ input: inout Input) {
        var (signature, message) = (signature, message)
        if input.byte() & 1 == 0 { signature.spoil(&input) } else { message.spoil(&input) }
        precondition(
            Signatures.isValid(signature, of: message, publicKeyInfo: key)
                == (signature == self.signature && message == self.message), "a forged signature")
    }

    private func checkKey(_ input: inout Input) {
        var key = key
        if input.byte() & 7 == 7 { key = input.rest() } else { key.spoil(&input) }
        precondition(
            Signatures.isValid(signature, of: message, publicKeyInfo: key) == (key == self.key),
            "another key is good for the signature")
    }

    private func checkFile(_ input: inout Input) {
        var file = pem
        if input.byte() & 7 == 7 { file = input.rest() } else { file.spoil(&input) }
        guard let read = try? Identity(pem: file) else { return precondition(file != pem) }
        precondition(read.keyID == identity.keyID, "an identity file for another key")
    }

    // Nobody's key but this target's: always the same one, so that a seed finds what it has found before. Its public
    // half ends with zero bits, of which libcrypto reads several encodings.
    private static let file = Array(
        """
        -----BEGIN PRIVATE KEY-----
        MC4CAQAwBQYDK2VwBCIEIOZgXNIeG7rC8vDWBNMTi5QQ/32s5n2U4uxetjfb9fh9
        -----END PRIVATE KEY-----
        -----BEGIN CERTIFICATE-----
        MIHfMIGSoAMCAQICCAHDQHajVBgyMAUGAytlcDAVMRMwEQYDVQQDDApibG9ja2Zl
        cnJ5MCAXDTcwMDEwMTAwMDAwMFoYDzk5OTkxMjMxMjM1OTU5WjAVMRMwEQYDVQQD
        DApibG9ja2ZlcnJ5MCowBQYDK2VwAyEAHhBPKRTHjje9OfJ3N/y6XbvoKHEugxdR
        8J++wix6t5AwBQYDK2VwA0EAo6O58yk85PK2KK+lYLrDICDJFkKsjTVBYPEDyHXN
        JOQwywek47+4kho2ajUnvg2X/Iyr4qeQRrxzMq3wNVGWBQ==
        -----END CERTIFICATE-----

        """.utf8)
}
