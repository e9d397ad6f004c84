// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import COpenSSL
internal import Digests

/// Signatures outside of TLS (Protocol/ExportFile.md).
///
/// Every signed message must start with a prefix of its purpose, so that a signature for one
/// purpose is not valid for another.
extension Identity {
    /// The public key: DER SubjectPublicKeyInfo, whose SHA-256 is the key id.
    package var publicKeyInfo: [UInt8] {
        // SAFETY: the certificate is live.
        unsafe TLS.publicKeyInfo(ofCertificate: certificate)
    }

    /// Signs a message with Ed25519, or with ECDSA and SHA-256 in DER, depending on the key.
    package func signature(of message: [UInt8]) -> [UInt8] {
        // SAFETY: the context belongs to this call, the key is live, and the output has the length that is passed.
        guard let context = unsafe EVP_MD_CTX_new() else { preconditionFailure("out of memory") }
        defer { unsafe EVP_MD_CTX_free(context) }
        var count = 256
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            guard
                unsafe EVP_DigestSignInit(context, nil, Signatures.digest(of: key), nil, key) == 1,
                unsafe EVP_DigestSign(
                    context, buffer.baseAddress, &count, message, message.count) == 1
            else { preconditionFailure("libcrypto cannot sign") }
            initialized = count
        }
        return bytes
    }
}

/// Verifies that a message comes from the owner of a key.
package enum Signatures {
    /// Whether a signature of a message is valid for a key, given as DER SubjectPublicKeyInfo. A
    /// key that an identity cannot have never has a valid one.
    package static func isValid(
        _ signature: [UInt8], of message: [UInt8], publicKeyInfo: [UInt8]
    ) -> Bool {
        guard KeyID(ofPublicKeyInfo: publicKeyInfo) != nil else { return false }
        LibCrypto.start
        // SAFETY: the bytes outlive the call, which copies what it keeps; key and context belong to this call.
        let parsed = unsafe publicKeyInfo.withUnsafeBufferPointer { bytes -> OpaquePointer? in
            var cursor = bytes.baseAddress
            return unsafe d2i_PUBKEY(nil, &cursor, bytes.count)
        }
        guard let key = unsafe parsed, let context = unsafe EVP_MD_CTX_new() else {
            // Drop the errors that libcrypto has queued.
            ERR_clear_error()
            return false
        }
        defer {
            unsafe EVP_PKEY_free(key)
            unsafe EVP_MD_CTX_free(context)
            ERR_clear_error()
        }
        return unsafe EVP_DigestVerifyInit(context, nil, digest(of: key), nil, key) == 1
            && EVP_DigestVerify(context, signature, signature.count, message, message.count) == 1
    }

    /// `nil` for Ed25519, which makes its own digest.
    fileprivate static func digest(of key: OpaquePointer) -> OpaquePointer? {
        // SAFETY: the key is live; the method is a constant of the library.
        unsafe EVP_PKEY_is_a(key, "ED25519") == 1 ? nil : EVP_sha256()
    }
}
