// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import COpenSSL
package import Digests

/// Purpose of a session; the raw value is the ALPN name (specification 3.1).
package enum ApplicationProtocol: String, Sendable, CaseIterable {
    /// Replication between pinned peers.
    case replication = "blockferry/1"
    /// Enrolment of a sender whose key the receiver does not know yet.
    case pairing = "blockferry-pair/1"
}

/// The specification's TLS profile and this host's identity, shared by all sessions of one role.
@safe package final class TLSContext {
    /// This side's role in every session.
    package enum Role: Sendable {
        /// Connects; the client in TLS.
        case sender
        /// Accepts; the server in TLS.
        case receiver
    }

    let role: Role
    let pointer: OpaquePointer
    /// This side's key, for the generation record and for messages.
    package let keyID: KeyID

    /// Makes a context; fails only if libssl lacks what the profile names.
    package init(_ role: Role, _ identity: Identity) throws(TLSError) {
        LibCrypto.start
        self.role = role
        self.keyID = identity.keyID
        // SAFETY: methods are constants.
        let method = unsafe role == .sender ? TLS_client_method() : TLS_server_method()
        guard let pointer = unsafe SSL_CTX_new(method) else { throw .fromQueue() }
        unsafe self.pointer = pointer
        ERR_clear_error()
        guard configure(identity) else { throw .fromQueue() }
    }

    deinit {
        // SAFETY: this object owns one reference; sessions hold their own.
        unsafe SSL_CTX_free(pointer)
    }

    private func configure(_ identity: Identity) -> Bool {
        let suites = """
            TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256
            """
        // SAFETY: the context is live, it takes its own references to key and certificate and
        // copies of the strings; the callbacks have no state of their own.
        unsafe blockferry_ctx_set_modes(pointer)
        unsafe blockferry_ctx_set_max_cert_list(pointer, 8192)
        unsafe SSL_CTX_set_verify(
            pointer, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nil)
        unsafe SSL_CTX_set_cert_verify_callback(
            pointer, { store, _ in unsafe judgeCertificate(store) }, nil)
        if role == .receiver {
            unsafe SSL_CTX_set_alpn_select_cb(
                pointer,
                { ssl, out, outCount, offered, count, _ in
                    unsafe selectProtocol(ssl, out, outCount, offered, Int(count))
                }, nil)
        }
        return unsafe blockferry_ctx_set_tls13_only(pointer) == 1
            && SSL_CTX_set_ciphersuites(pointer, suites) == 1
            && blockferry_ctx_set_groups(pointer, "X25519:P-256") == 1
            && blockferry_ctx_set_sigalgs(pointer, "ed25519:ecdsa_secp256r1_sha256") == 1
            && SSL_CTX_set_num_tickets(pointer, 0) == 1
            && SSL_CTX_set_max_early_data(pointer, 0) == 1
            && SSL_CTX_use_certificate(pointer, identity.certificate) == 1
            && SSL_CTX_use_PrivateKey(pointer, identity.key) == 1
    }
}

// SAFETY: nothing changes after init, and OpenSSL lets threads make sessions from one context.
extension TLSContext: @unsafe @unchecked Sendable {}

/// Decides about one peer during the handshake; OpenSSL's callbacks find it through the session.
final class Judge {
    let role: TLSContext.Role
    let offered: [ApplicationProtocol]
    let pinned: [KeyID]
    /// The peer's key, once it has been judged.
    private(set) var peer: KeyID?
    /// Why this side ended the handshake.
    private(set) var refusal: TLSError?

    init(role: TLSContext.Role, offered: [ApplicationProtocol], pinned: [KeyID]) {
        self.role = role
        self.offered = offered
        self.pinned = pinned
    }

    /// The receiver's choice from the sender's list of names.
    func select(from names: [[UInt8]]) -> Int? {
        for candidate in offered {
            if let index = names.firstIndex(of: [UInt8](candidate.rawValue.utf8)) { return index }
        }
        refusal = .wrongALPN
        return nil
    }

    /// Whether the peer may have a session.
    ///
    /// The protocol is always known before the certificate arrives.
    func accepts(_ id: KeyID?, for chosen: ApplicationProtocol?) -> Bool {
        guard let chosen, offered.contains(chosen) else {
            refusal = .wrongALPN
            return false
        }
        guard let id else {
            refusal = .unsupportedPeerKey
            return false
        }
        guard pinned.contains(id) || role == .receiver && chosen == .pairing else {
            refusal = .peerNotPinned(id)
            return false
        }
        peer = id
        return true
    }
}

extension ApplicationProtocol {
    /// The protocol that both sides of a session agreed on; `nil` if it is not one of Blockferry's.
    init?(selectedIn session: OpaquePointer) {
        var name: UnsafePointer<UInt8>?
        var count: CUnsignedInt = 0
        // SAFETY: the name belongs to the session and is copied.
        unsafe SSL_get0_alpn_selected(session, &name, &count)
        let bytes = unsafe UnsafeBufferPointer(start: name, count: Int(count))
        self.init(rawValue: unsafe String(decoding: bytes, as: UTF8.self))
    }
}

/// Finds the judge of a session.
private func judge(of session: OpaquePointer?) -> Judge? {
    // SAFETY: `Connection` sets the judge and keeps it alive longer than the session.
    unsafe SSL_get_ex_data(session, 0).map {
        unsafe Unmanaged<Judge>.fromOpaque($0).takeUnretainedValue()
    }
}

/// Replaces OpenSSL's chain building: only the key decides, nothing else in the certificate.
private func judgeCertificate(_ store: OpaquePointer?) -> CInt {
    // SAFETY: OpenSSL passes a live store context, which holds the session and the peer's first
    // certificate.
    let index = SSL_get_ex_data_X509_STORE_CTX_idx()
    let session = unsafe OpaquePointer(X509_STORE_CTX_get_ex_data(store, index))
    guard let session = unsafe session, let judge = unsafe judge(of: session) else { return 0 }
    let id = unsafe X509_STORE_CTX_get0_cert(store).flatMap { unsafe KeyID(ofCertificate: $0) }
    if judge.accepts(id, for: unsafe ApplicationProtocol(selectedIn: session)) { return 1 }
    // This sends the alert unknown_ca: the certificate is well-formed but not trusted.
    unsafe X509_STORE_CTX_set_error(store, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT)
    return 0
}

/// Answers the sender's list of names, each preceded by its length in one byte.
private func selectProtocol(
    _ session: OpaquePointer?, _ out: UnsafeMutablePointer<UnsafePointer<UInt8>?>?,
    _ outCount: UnsafeMutablePointer<UInt8>?, _ offered: UnsafePointer<UInt8>?, _ count: Int
) -> CInt {
    // SAFETY: OpenSSL passes a list of `count` bytes and takes a pointer into it; the bounds of
    // every name are checked.
    let list = unsafe UnsafeBufferPointer(start: offered, count: count)
    var names: [[UInt8]] = []
    var starts: [Int] = []
    var offset = 0
    while offset < count {
        let length = unsafe Int(list[offset])
        guard length <= count - offset - 1 else { return SSL_TLSEXT_ERR_ALERT_FATAL }
        starts.append(offset + 1)
        names.append(unsafe [UInt8](list[(offset + 1)..<(offset + 1 + length)]))
        offset += 1 + length
    }
    guard let index = unsafe judge(of: session)?.select(from: names) else {
        return SSL_TLSEXT_ERR_ALERT_FATAL
    }
    unsafe out?.pointee = unsafe offered?.advanced(by: starts[index])
    unsafe outCount?.pointee = UInt8(names[index].count)
    return SSL_TLSEXT_ERR_OK
}
