// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import COpenSSL
package import Digests
internal import Glibc

/// Why a session could not start or has ended.
///
/// After any of these, only close the socket.
package enum TLSError: Error, Equatable, Sendable {
    /// The deadline passed.
    case timedOut
    /// The stream ended without `close_notify`: the network or a third party cut it.
    case truncated
    /// The peer ended the stream properly, but more bytes were expected.
    case closed
    /// The peer's host or something in between reset the connection.
    case reset
    /// A system call failed.
    case system(errno: CInt)
    /// The peer showed no certificate.
    case noPeerCertificate
    /// An identity cannot have the key in the peer's certificate.
    case unsupportedPeerKey
    /// The peer has proved a key that this side does not accept.
    case peerNotPinned(KeyID)
    /// The peer refused this side's key.
    case ownKeyRefused
    /// The sides have no application protocol in common, or the peer named none.
    case wrongALPN
    /// As far as TLS can tell, one side received something other than what was sent.
    case damaged(String)
    /// The peer ended the session with another TLS alert.
    case alert(String)
    /// The peer broke TLS or requires what the profile excludes; with OpenSSL's reason.
    case protocolFailure(String)
}

extension TLSError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .timedOut: "the peer did not answer in time"
        case .truncated: "the connection was cut"
        case .closed: "the peer closed the connection too early"
        case .reset: "the connection was reset"
        // SAFETY: strerror gives a C string, which is copied.
        case .system(let code): unsafe String(cString: strerror(code))
        case .noPeerCertificate: "the peer has no certificate"
        case .unsupportedPeerKey:
            "the peer's key is neither an Ed25519 nor a P-256 key in the usual encoding"
        case .peerNotPinned(let id): "the peer's key \(id) is not accepted here"
        case .ownKeyRefused: "the peer does not accept this host's key"
        case .wrongALPN: "the peer does not offer this protocol"
        case .damaged(let text): "the stream was damaged on its way: \(text)"
        case .alert(let text): "the peer ended the session: \(text)"
        case .protocolFailure(let text): "TLS failed: \(text)"
        }
    }
}

extension TLSError {
    /// The reason in OpenSSL's queue for this thread's last call, which failed with
    /// `SSL_ERROR_SSL`.
    static func fromQueue() -> TLSError {
        let code = ERR_peek_error()
        let reason = ERR_GET_REASON(code)
        guard ERR_GET_LIB(code) == ERR_LIB_SSL else { return .protocolFailure(text(code)) }
        switch reason {
        case SSL_R_UNEXPECTED_EOF_WHILE_READING: return .truncated
        case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE: return .noPeerCertificate
        case SSL_AD_REASON_OFFSET...(SSL_AD_REASON_OFFSET + 255):
            return fromAlert(reason - SSL_AD_REASON_OFFSET)
        case SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC, SSL_R_BAD_RECORD_TYPE,
            SSL_R_PACKET_LENGTH_TOO_LONG, SSL_R_ENCRYPTED_LENGTH_TOO_LONG, SSL_R_LENGTH_MISMATCH,
            SSL_R_UNEXPECTED_MESSAGE, SSL_R_BAD_DIGEST_LENGTH, SSL_R_BAD_SIGNATURE,
            SSL_R_DIGEST_CHECK_FAILED, SSL_R_DATA_LENGTH_TOO_LONG, SSL_R_BAD_LENGTH,
            SSL_R_BAD_LEGACY_VERSION, SSL_R_WRONG_VERSION_NUMBER, SSL_R_BAD_EXTENSION,
            SSL_R_INVALID_SESSION_ID, SSL_R_NOT_ON_RECORD_BOUNDARY, SSL_R_UNKNOWN_CIPHER_RETURNED,
            SSL_R_WRONG_CIPHER_RETURNED:
            return .damaged(text(code))
        default: return .protocolFailure(text(code))
        }
    }

    /// The error for a message that two sides in agreement cannot send: the stream was damaged.
    var afterHandshake: TLSError {
        switch self {
        case .alert(let text), .protocolFailure(let text): .damaged(text)
        default: self
        }
    }

    /// In TLS 1.3 the sender's handshake ends before the receiver has seen its key, so alerts about
    /// the key arrive with the sender's first read.
    private static func fromAlert(_ alert: CInt) -> TLSError {
        switch alert {
        case SSL_AD_BAD_CERTIFICATE, SSL_AD_CERTIFICATE_UNKNOWN, SSL_AD_UNKNOWN_CA,
            SSL_AD_ACCESS_DENIED:
            return .ownKeyRefused
        case SSL_AD_NO_APPLICATION_PROTOCOL: return .wrongALPN
        case SSL_AD_DECODE_ERROR, SSL_AD_BAD_RECORD_MAC, SSL_AD_RECORD_OVERFLOW,
            SSL_AD_UNEXPECTED_MESSAGE, SSL_AD_DECRYPT_ERROR, SSL_AD_ILLEGAL_PARAMETER:
            return .damaged(name(alert))
        // Every implementation of TLS 1.3 sends it.
        case SSL_AD_MISSING_EXTENSION: return .damaged("missing extension")
        default: return .alert(name(alert))
        }
    }

    private static func name(_ alert: CInt) -> String {
        // SAFETY: gives a constant C string for every number.
        unsafe String(cString: SSL_alert_desc_string_long(alert))
    }

    private static func text(_ code: UInt) -> String {
        // SAFETY: gives a constant C string or none.
        unsafe ERR_reason_error_string(code).map { unsafe String(cString: $0) }
            ?? "error \(String(code, radix: 16))"
    }

    /// A system call's error; those that mean a broken connection have separate cases.
    static func fromSystem(_ code: CInt) -> TLSError {
        switch code {
        case 0: .truncated
        case ECONNRESET, EPIPE: .reset
        default: .system(errno: code)
        }
    }
}
