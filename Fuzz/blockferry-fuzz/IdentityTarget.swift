// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import TLS

/// What libcrypto parses for us: the key and the signature of an export file, and the file of an
/// identity.
struct IdentityTarget: Sendable {
    // The keys differ from process to process; what an input changes in them lies at the same
    // places.
    private let identity: Identity
    private let key: [UInt8]
    private let pem: [UInt8]
    private let signature: [UInt8]
    private let message = Array("blockferry export 1".utf8)

    init() {
        identity = Identity.generate()
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
}
