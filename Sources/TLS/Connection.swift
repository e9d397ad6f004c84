// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import COpenSSL
internal import Digests
internal import Glibc

/// What an operation must wait for before it can continue.
package struct Interest: OptionSet, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Bytes can be read.
    package static let read = Interest(rawValue: 1)
    /// Bytes can be written.
    package static let write = Interest(rawValue: 2)
}

/// Owns an `SSL` over a non-blocking socket that another object owns, and turns OpenSSL's results
/// into values and errors.
@safe struct Connection: ~Copyable {
    /// Result of one operation.
    enum Progress {
        case done
        case wants(Interest)
        case closed
    }

    let descriptor: CInt
    private let session: OpaquePointer
    // OpenSSL's callbacks reach the judge through the session, so it must live as long as that.
    private let judge: Judge
    /// Whether `close_notify` may still be sent: only once, and not after an error.
    private(set) var canEnd = true

    init(_ context: TLSContext, descriptor: CInt, judge: Judge) throws(TLSError) {
        let flags = fcntl(descriptor, F_GETFL)
        guard flags >= 0, fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) == 0 else {
            throw .system(errno: errno)
        }
        ERR_clear_error()
        // SAFETY: the session takes its own reference to the context, and is freed here if it is of
        // no use.
        guard let session = unsafe SSL_new(context.pointer) else { throw .fromQueue() }
        guard unsafe Self.configure(session, descriptor, judge) else {
            let error = TLSError.fromQueue()
            unsafe SSL_free(session)
            throw error
        }
        self.descriptor = descriptor
        unsafe self.session = session
        self.judge = judge
    }

    private static func configure(
        _ session: OpaquePointer, _ descriptor: CInt, _ judge: Judge
    ) -> Bool {
        // SAFETY: the session is live, copies the names, and does not outlive the judge.
        let pointer = unsafe Unmanaged.passUnretained(judge).toOpaque()
        guard unsafe SSL_set_ex_data(session, 0, pointer) == 1,
            unsafe SSL_set_fd(session, descriptor) == 1
        else { return false }
        switch judge.role {
        case .receiver:
            unsafe SSL_set_accept_state(session)
            return true
        case .sender:
            unsafe SSL_set_connect_state(session)
            let names = judge.offered.flatMap { [UInt8($0.rawValue.utf8.count)] + $0.rawValue.utf8 }
            // Unlike related functions, this one returns 0 for success.
            return unsafe SSL_set_alpn_protos(session, names, CUnsignedInt(names.count)) == 0
        }
    }

    deinit {
        // SAFETY: this value is the only owner.
        unsafe SSL_free(session)
    }

    /// Runs one call into libssl and interprets its result.
    private mutating func run(_ call: (OpaquePointer) -> CInt) throws(TLSError) -> Progress {
        ERR_clear_error()
        errno = 0
        // SAFETY: the session is live. The error is asked for at once: it depends on this thread's
        // error queue and on errno.
        let result = unsafe call(session)
        let systemError = errno
        switch unsafe SSL_get_error(session, result) {
        case SSL_ERROR_NONE: return .done
        case SSL_ERROR_WANT_READ: return .wants(.read)
        case SSL_ERROR_WANT_WRITE: return .wants(.write)
        case SSL_ERROR_ZERO_RETURN: return .closed
        case SSL_ERROR_SYSCALL:
            canEnd = false
            throw .fromSystem(systemError)
        default:
            canEnd = false
            let error = judge.refusal ?? .fromQueue()
            // SAFETY: the session lives as long as this object.
            throw unsafe SSL_is_init_finished(session) == 1 ? error.afterHandshake : error
        }
    }

    mutating func handshake() throws(TLSError) -> Progress {
        // SAFETY: `run` passes the live session.
        try unsafe run { unsafe SSL_do_handshake($0) }
    }

    /// Sends `close_notify`.
    mutating func shutDown() throws(TLSError) -> Progress {
        // SAFETY: `run` passes the live session. 0 means sent, and not yet answered: no error.
        let progress = try unsafe run {
            let result = unsafe SSL_shutdown($0)
            return result == 0 ? 1 : result
        }
        if case .done = progress { canEnd = false }
        return progress
    }

    mutating func read(
        into buffer: inout MutableRawSpan, from start: Int
    ) throws(TLSError) -> (Progress, Int) {
        var count = 0
        // SAFETY: OpenSSL writes within the rest of the buffer.
        let progress = try unsafe buffer.withUnsafeMutableBytes { (buffer) throws(TLSError) in
            let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[start...])
            return try unsafe run {
                unsafe SSL_read_ex($0, rest.baseAddress, rest.count, &count)
            }
        }
        return (progress, count)
    }

    mutating func write(_ bytes: RawSpan, from start: Int) throws(TLSError) -> (Progress, Int) {
        var count = 0
        // SAFETY: OpenSSL reads within the rest of the bytes.
        let progress = try unsafe bytes.withUnsafeBytes { (bytes) throws(TLSError) in
            let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[start...])
            return try unsafe run {
                unsafe SSL_write_ex($0, rest.baseAddress, rest.count, &count)
            }
        }
        return (progress, count)
    }

    /// Checks everything again after the handshake, so that a mistake in a callback cannot become a
    /// session with an unknown peer.
    func checkedPeer() throws(TLSError) -> (KeyID, ApplicationProtocol) {
        // SAFETY: the session is live, and the certificate belongs to it.
        guard unsafe SSL_version(session) == TLS1_3_VERSION else {
            throw .protocolFailure("not TLS 1.3")
        }
        guard unsafe SSL_session_reused(session) == 0 else {
            throw .protocolFailure("resumed session")
        }
        let id = unsafe SSL_get0_peer_certificate(session).flatMap {
            unsafe KeyID(ofCertificate: $0)
        }
        let chosen = unsafe ApplicationProtocol(selectedIn: session)
        guard let judged = judge.peer, judge.accepts(id, for: chosen), let chosen, judged == id
        else { throw judge.refusal ?? .noPeerCertificate }
        return (judged, chosen)
    }

    /// Bytes that only the two ends of this session know (RFC 8446 7.5).
    func exporter(label: String, count: Int) throws(TLSError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        ERR_clear_error()
        // SAFETY: OpenSSL writes `count` bytes and reads the label.
        let result = unsafe SSL_export_keying_material(
            session, &bytes, count, label, label.utf8.count, nil, 0, 0)
        guard result == 1 else { throw .fromQueue() }
        return bytes
    }
}
