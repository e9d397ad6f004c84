// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import COpenSSL
package import Digests

/// Hybrid public key encryption (RFC 9180), base mode, with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM.
///
/// Anyone who knows the recipient's public key can encrypt to it, so the sender must be proven by
/// other means. Open the messages of one context in the order in which they were sealed.
package enum HPKE {
    /// Bytes by which a sealed message is longer.
    package static let tagByteCount = 16
    static let keyByteCount = 32
    static let nonceByteCount = 12

    /// Starts encrypting to the owner of `recipient`.
    ///
    /// - Parameters:
    ///   - info: data that both sides must agree on; it need not be secret.
    ///   - ephemeral: a key that is used only once.
    /// - Returns: the encapsulated key for the recipient, and the context; `nil` if the recipient's
    ///   key gives no shared secret.
    package static func seal(
        to recipient: X25519Key, ephemeral: RecipientKey = .generate(), info: (X25519Key) -> [UInt8]
    ) -> (encapsulated: X25519Key, sealer: Sealer)? {
        guard let secret = ephemeral.agree(with: recipient) else { return nil }
        let encapsulated = ephemeral.publicKey
        let shared = sharedSecret(secret, encapsulated, recipient)
        return (encapsulated, Sealer(keySchedule(shared, info(encapsulated))))
    }

    /// Starts opening what was encrypted to `key`; `nil` if the encapsulated key is invalid.
    package static func open(
        _ encapsulated: X25519Key, with key: RecipientKey, info: [UInt8]
    ) -> Opener? {
        guard let secret = key.agree(with: encapsulated) else { return nil }
        return Opener(
            keySchedule(sharedSecret(secret, encapsulated, key.publicKey), info))
    }

    // MARK: RFC 9180, 4 and 5.1

    private static func number(_ value: UInt16) -> [UInt8] {
        [UInt8(value >> 8), UInt8(value & 255)]
    }

    private static let kem = Array("KEM".utf8) + number(0x0020)
    private static let suite =
        Array("HPKE".utf8) + number(0x0020) + number(0x0001) + number(0x0002)

    /// ExtractAndExpand of DHKEM.
    private static func sharedSecret(
        _ secret: [UInt8], _ encapsulated: X25519Key, _ recipient: X25519Key
    ) -> [UInt8] {
        let key = extract(kem, [], "eae_prk", secret)
        return expand(
            kem, key, "shared_secret", encapsulated.bytes + recipient.bytes, SHA256Digest.byteCount)
    }

    /// KeySchedule of the base mode, without a pre-shared key.
    private static func keySchedule(_ shared: [UInt8], _ info: [UInt8]) -> CipherKey {
        let context =
            [0] + extract(suite, [], "psk_id_hash", []) + extract(suite, [], "info_hash", info)
        let secret = extract(suite, shared, "secret", [])
        return CipherKey(
            key: expand(suite, secret, "key", context, keyByteCount),
            baseNonce: expand(suite, secret, "base_nonce", context, nonceByteCount))
    }

    private static let version = Array("HPKE-v1".utf8)

    private static func extract(
        _ suite: [UInt8], _ salt: [UInt8], _ label: String, _ material: [UInt8]
    ) -> [UInt8] {
        // A missing salt counts as zeros (RFC 5869 2.2).
        let salt = salt.isEmpty ? [UInt8](repeating: 0, count: SHA256Digest.byteCount) : salt
        return derive(
            EVP_KDF_HKDF_MODE_EXTRACT_ONLY, version + suite + Array(label.utf8) + material, salt,
            SHA256Digest.byteCount)
    }

    private static func expand(
        _ suite: [UInt8], _ key: [UInt8], _ label: String, _ info: [UInt8], _ count: Int
    ) -> [UInt8] {
        derive(
            EVP_KDF_HKDF_MODE_EXPAND_ONLY, key,
            number(UInt16(count)) + version + suite + Array(label.utf8) + info, count)
    }

    private static func derive(
        _ mode: CInt, _ key: [UInt8], _ other: [UInt8], _ count: Int
    ) -> [UInt8] {
        LibCrypto.start
        var out = [UInt8](repeating: 0, count: count)
        // SAFETY: every buffer is passed with its length.
        let result = unsafe blockferry_hkdf_sha256(
            mode, key, key.count, other, other.count, &out, count)
        precondition(result == 1, "HKDF failed")
        return out
    }
}

/// Key material of a context. It is never printed.
struct CipherKey: CustomStringConvertible, CustomReflectable {
    let key: [UInt8]
    let baseNonce: [UInt8]

    var description: String { "CipherKey(…)" }
    var customMirror: Mirror { Mirror(self, children: []) }
}
