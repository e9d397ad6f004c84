// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import COpenSSL
package import Digests

/// An X25519 key pair, which opens what was encrypted to its public key.
@safe package final class RecipientKey {
    let key: OpaquePointer
    /// The public key.
    package let publicKey: X25519Key

    /// Takes ownership of the reference; `nil` if it is not an X25519 key.
    private init?(_ key: OpaquePointer?) {
        guard let key = unsafe key else { return nil }
        guard let publicKey = unsafe Self.publicKey(of: key) else {
            // SAFETY: the reference is ours.
            unsafe EVP_PKEY_free(key)
            return nil
        }
        unsafe self.key = key
        self.publicKey = publicKey
    }

    // SAFETY: this object owns one reference.
    deinit { unsafe EVP_PKEY_free(key) }

    private static func publicKey(of key: OpaquePointer) -> X25519Key? {
        guard unsafe EVP_PKEY_is_a(key, "X25519") == 1 else { return nil }
        var count = X25519Key.byteCount
        var bytes = [UInt8](repeating: 0, count: count)
        // SAFETY: the buffer has the length that is passed.
        guard unsafe EVP_PKEY_get_raw_public_key(key, &bytes, &count) == 1 else { return nil }
        return X25519Key(bytes: bytes)
    }

    /// Makes a new key pair.
    package static func generate() -> RecipientKey {
        LibCrypto.start
        // SAFETY: the new key is owned by the result.
        guard let key = unsafe RecipientKey(blockferry_make_x25519()) else {
            preconditionFailure("libcrypto cannot make a key")
        }
        return key
    }

    /// The pair of a 32-byte private key, as in test vectors.
    package convenience init?(privateKey bytes: [UInt8]) {
        LibCrypto.start
        // SAFETY: the bytes are passed with their count, and are copied.
        unsafe self.init(EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nil, bytes, bytes.count))
    }

    /// Reads an unencrypted PKCS#8 key.
    package convenience init?(pem: [UInt8]) {
        LibCrypto.start
        // SAFETY: the BIO reads from the bytes and is freed before they go. The callback never gives a passphrase, so that
        // nobody is asked for one.
        let key = unsafe pem.withUnsafeBytes { bytes -> OpaquePointer? in
            guard let bio = unsafe BIO_new_mem_buf(bytes.baseAddress, CInt(clamping: bytes.count))
            else { return nil }
            defer { unsafe BIO_free(bio) }
            return unsafe PEM_read_bio_PrivateKey(bio, nil, { _, _, _, _ in -1 }, nil)
        }
        if unsafe key == nil { ERR_clear_error() }
        unsafe self.init(key)
    }

    /// The key as PKCS#8 for its file.
    package var pem: [UInt8] {
        // SAFETY: the BIO belongs to this call; the key is live.
        guard let bio = unsafe BIO_new(BIO_s_mem()) else { preconditionFailure("out of memory") }
        defer { unsafe BIO_free(bio) }
        guard unsafe PEM_write_bio_PKCS8PrivateKey(bio, key, nil, nil, 0, nil, nil) == 1 else {
            preconditionFailure("libcrypto cannot encode a key")
        }
        let count = unsafe BIO_ctrl_pending(bio)
        return unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            initialized = unsafe max(0, Int(BIO_read(bio, buffer.baseAddress, CInt(count))))
        }
    }

    /// The shared secret of X25519 (RFC 7748 6.1); `nil` if it would be zero or the other key is
    /// invalid.
    func agree(with other: X25519Key) -> [UInt8]? {
        // SAFETY: the bytes are copied; key and context belong to this call, and the output has the length that is passed.
        defer { ERR_clear_error() }
        guard
            let peer = unsafe EVP_PKEY_new_raw_public_key(
                EVP_PKEY_X25519, nil, other.bytes, other.bytes.count)
        else { return nil }
        defer { unsafe EVP_PKEY_free(peer) }
        guard let context = unsafe EVP_PKEY_CTX_new(key, nil) else { return nil }
        defer { unsafe EVP_PKEY_CTX_free(context) }
        var count = 32
        var secret = [UInt8](repeating: 0, count: count)
        guard unsafe EVP_PKEY_derive_init(context) == 1,
            unsafe EVP_PKEY_derive_set_peer(context, peer) == 1,
            unsafe EVP_PKEY_derive(context, &secret, &count) == 1, count == secret.count,
            secret.contains(where: { $0 != 0 })
        else { return nil }
        return secret
    }
}

// SAFETY: nothing changes after init, and OpenSSL lets threads share keys.
extension RecipientKey: @unsafe @unchecked Sendable {}
