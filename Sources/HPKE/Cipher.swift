// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import COpenSSL
internal import Digests

/// Seals messages, each with the next nonce (RFC 9180 5.2).
@safe package final class Sealer {
    private let cipher: Cipher

    init(_ key: CipherKey) { cipher = Cipher(key, isSealing: true) }

    /// Encrypts all but the last 16 bytes of `message` in place and writes the tag to those.
    ///
    /// - Parameter associated: data that is authenticated but not encrypted.
    package func seal(_ message: inout MutableRawSpan, associated: [UInt8]) {
        // SAFETY: text and tag lie in the span, whose length is checked; libcrypto may encrypt in place.
        unsafe message.withUnsafeMutableBytes { bytes in
            let count = bytes.count - HPKE.tagByteCount
            precondition(count > 0, "a message has content and room for the tag")
            cipher.begin(associated)
            guard let text = unsafe bytes.baseAddress?.assumingMemoryBound(to: UInt8.self) else {
                return
            }
            var done: CInt = 0
            let result =
                unsafe EVP_CipherUpdate(
                    cipher.context, text, &done, text, CInt(count))
                & EVP_CipherFinal_ex(cipher.context, text + count, &done)
                & EVP_CIPHER_CTX_ctrl(
                    cipher.context, EVP_CTRL_AEAD_GET_TAG, CInt(HPKE.tagByteCount), text + count)
            precondition(result == 1, "AES-GCM failed")
        }
    }
}

/// Opens messages in the order in which they were sealed.
@safe package final class Opener {
    private let cipher: Cipher

    init(_ key: CipherKey) { cipher = Cipher(key, isSealing: false) }

    /// Decrypts all but the last 16 bytes of `message`, the tag, in place.
    ///
    /// - Returns: `false` if it is not the message sealed at this position; then discard its
    ///   content and this context.
    package func open(_ message: inout MutableRawSpan, associated: [UInt8]) -> Bool {
        // SAFETY: as above.
        unsafe message.withUnsafeMutableBytes { bytes in
            let count = bytes.count - HPKE.tagByteCount
            guard count > 0,
                let text = unsafe bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
            else { return false }
            cipher.begin(associated)
            var done: CInt = 0
            let result =
                unsafe EVP_CipherUpdate(
                    cipher.context, text, &done, text, CInt(count))
                & EVP_CIPHER_CTX_ctrl(
                    cipher.context, EVP_CTRL_AEAD_SET_TAG, CInt(HPKE.tagByteCount), text + count)
            precondition(result == 1, "AES-GCM failed")
            return unsafe EVP_CipherFinal_ex(cipher.context, text + count, &done) == 1
        }
    }
}

/// AES-256-GCM with a counter as nonce.
@safe private final class Cipher {
    let context: OpaquePointer
    private let baseNonce: [UInt8]
    private var sequence: UInt64 = 0

    init(_ key: CipherKey, isSealing: Bool) {
        LibCrypto.start
        // SAFETY: the strings are constants; the context keeps its own reference to the cipher, and copies the key.
        let cipher = unsafe EVP_CIPHER_fetch(nil, "AES-256-GCM", nil)
        defer { unsafe EVP_CIPHER_free(cipher) }
        guard let context = unsafe EVP_CIPHER_CTX_new(), unsafe cipher != nil,
            unsafe EVP_CipherInit_ex2(context, cipher, key.key, nil, isSealing ? 1 : 0, nil) == 1
        else { preconditionFailure("libcrypto has no AES-256-GCM") }
        unsafe self.context = context
        baseNonce = key.baseNonce
    }

    // SAFETY: this object is the only owner. libcrypto clears the key.
    deinit { unsafe EVP_CIPHER_CTX_free(context) }

    /// Begins the next message.
    func begin(_ associated: [UInt8]) {
        var nonce = baseNonce
        for index in 0..<8 {
            nonce[nonce.count - 1 - index] ^= UInt8(truncatingIfNeeded: sequence >> (8 * index))
        }
        sequence += 1
        var done: CInt = 0
        // SAFETY: the nonce has the 12 bytes that GCM takes; without output the bytes are associated data.
        let result =
            unsafe EVP_CipherInit_ex2(context, nil, nil, nonce, -1, nil)
            & EVP_CipherUpdate(context, nil, &done, associated, CInt(associated.count))
        precondition(result == 1, "AES-GCM failed")
    }
}
