// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import COpenSSL
package import Digests

/// Why bytes are not an identity.
package enum IdentityError: Error, Equatable, Sendable {
    /// The private key is missing or encrypted, or the certificate is missing.
    case malformed
    /// The certificate's key is neither Ed25519 nor on P-256, or has a different encoding.
    case unsupportedKey
    /// The certificate belongs to another key.
    case mismatch
}

extension IdentityError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .malformed: "a private key that is not encrypted and a certificate are not both there"
        case .unsupportedKey:
            "its key is neither an Ed25519 nor a P-256 key in the usual encoding"
        case .mismatch: "the certificate is for another key"
        }
    }
}

/// The identity of this host: a private key and a self-signed certificate with its public half.
///
/// Only the key matters; TLS requires the certificate as its container. The certificate is valid
/// from 1970 to 9999, and its dates are never checked.
@safe package final class Identity {
    let key: OpaquePointer
    let certificate: OpaquePointer
    /// The key id that peers pin.
    package let keyID: KeyID

    /// Takes ownership of both references.
    private init(key: OpaquePointer, certificate: OpaquePointer, keyID: KeyID) {
        unsafe self.key = key
        unsafe self.certificate = certificate
        self.keyID = keyID
    }

    deinit {
        // SAFETY: this object owns one reference to each.
        unsafe EVP_PKEY_free(key)
        unsafe X509_free(certificate)
    }

    /// Makes a new Ed25519 key and its certificate.
    package static func generate() -> Identity {
        LibCrypto.start
        // SAFETY: both are checked, and owned by the new identity from here on.
        guard let key = unsafe blockferry_make_ed25519(), let certificate = unsafe X509_new(),
            unsafe sign(certificate, key),
            let keyID = unsafe KeyID(ofCertificate: certificate)
        else { preconditionFailure("libcrypto cannot make a key") }
        return unsafe Identity(key: key, certificate: certificate, keyID: keyID)
    }

    private static func sign(_ certificate: OpaquePointer, _ key: OpaquePointer) -> Bool {
        var serial: UInt64 = 1
        for byte in SecureRandom.bytes(7) { serial = serial << 8 | UInt64(byte) }
        // SAFETY: both are live; what the getters give belongs to the certificate.
        let name = unsafe X509_get_subject_name(certificate)
        return unsafe X509_set_version(certificate, 2) == 1
            && ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate), serial) == 1
            && ASN1_TIME_set_string(X509_getm_notBefore(certificate), "700101000000Z") == 1
            && ASN1_TIME_set_string(X509_getm_notAfter(certificate), "99991231235959Z") == 1
            && X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, "blockferry", -1, -1, 0) == 1
            && X509_set_issuer_name(certificate, name) == 1
            && X509_set_pubkey(certificate, key) == 1
            && X509_sign(certificate, key, nil) > 0
    }

    /// Reads an unencrypted PKCS#8 key and a certificate.
    package convenience init(pem: [UInt8]) throws(IdentityError) {
        LibCrypto.start
        // SAFETY: the callback never gives a passphrase, so that nobody is asked for one.
        let key = unsafe Self.read(pem) {
            unsafe PEM_read_bio_PrivateKey($0, nil, { _, _, _, _ in -1 }, nil)
        }
        // SAFETY: as above.
        let certificate = unsafe Self.read(pem) {
            unsafe PEM_read_bio_X509($0, nil, { _, _, _, _ in -1 }, nil)
        }
        let keyID = unsafe certificate.flatMap { unsafe KeyID(ofCertificate: $0) }
        guard let key = unsafe key, let certificate = unsafe certificate, let keyID else {
            let error: IdentityError =
                unsafe key == nil || certificate == nil ? .malformed : .unsupportedKey
            // SAFETY: freeing nil is allowed; the references are ours.
            unsafe EVP_PKEY_free(key)
            unsafe X509_free(certificate)
            throw error
        }
        // From here on the identity owns both.
        unsafe self.init(key: key, certificate: certificate, keyID: keyID)
        guard unsafe X509_check_private_key(certificate, key) == 1 else { throw .mismatch }
    }

    private static func read(
        _ pem: [UInt8], _ body: (OpaquePointer) -> OpaquePointer?
    ) -> OpaquePointer? {
        // SAFETY: the BIO reads from the bytes and is freed before they go.
        unsafe pem.withUnsafeBytes { bytes in
            guard let bio = unsafe BIO_new_mem_buf(bytes.baseAddress, CInt(clamping: bytes.count))
            else { return nil }
            defer { unsafe BIO_free(bio) }
            return unsafe body(bio)
        }
    }

    /// The key as PKCS#8 and the certificate, for the identity file.
    package var pem: [UInt8] {
        // SAFETY: the BIO belongs to this call; key and certificate are live.
        guard let bio = unsafe BIO_new(BIO_s_mem()) else { preconditionFailure("out of memory") }
        defer { unsafe BIO_free(bio) }
        guard
            unsafe PEM_write_bio_PKCS8PrivateKey(bio, key, nil, nil, 0, nil, nil) == 1,
            unsafe PEM_write_bio_X509(bio, certificate) == 1
        else { preconditionFailure("libcrypto cannot encode a key") }
        let count = unsafe BIO_ctrl_pending(bio)
        return unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            initialized = unsafe max(0, Int(BIO_read(bio, buffer.baseAddress, CInt(count))))
        }
    }
}

// SAFETY: nothing changes after init, and OpenSSL lets threads share keys and certificates.
extension Identity: @unsafe @unchecked Sendable {}

/// The certificate's DER SubjectPublicKeyInfo; empty if it cannot be encoded.
func publicKeyInfo(ofCertificate certificate: OpaquePointer) -> [UInt8] {
    // SAFETY: the key info belongs to the certificate; the second call writes as many bytes as the
    // first one counted.
    let info = unsafe X509_get_X509_PUBKEY(certificate)
    let count = unsafe max(0, Int(i2d_X509_PUBKEY(info, nil)))
    return unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
        var cursor = buffer.baseAddress
        initialized = unsafe max(0, Int(i2d_X509_PUBKEY(info, &cursor)))
    }
}

extension KeyID {
    /// The id of the key in a certificate; `nil` if an identity cannot have that key.
    init?(ofCertificate certificate: OpaquePointer) {
        unsafe self.init(ofPublicKeyInfo: publicKeyInfo(ofCertificate: certificate))
    }
}
