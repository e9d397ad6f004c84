// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
internal import Platform
internal import Session
internal import Wire

/// The messages between a supervisor and one of its workers.
///
/// The supervisor sends a connection with its socket. The worker answers with the proved key and
/// learns whether the peer has a session; or it answers that no key was proved and waits for the
/// next connection. A worker whose channel ends has no more work.
enum Doorkeeper {
    /// A connection passed to a worker.
    struct Visit: ~Copyable {
        let socket: OwnedDescriptor
        /// Address of the other side, for the journal.
        let address: String
        /// Whether the journal omits what a stranger does.
        let isQuiet: Bool

        /// Moves the socket out.
        consuming func takeSocket() -> OwnedDescriptor { socket }
    }

    /// A worker's result for a connection.
    enum Finding {
        /// The other side has proved this pinned key.
        case peer(KeyID)
        /// The other side proved no key and is gone.
        case stranger
    }

    private static let longest = 256
    private static let strangerFound: [UInt8] = [0]

    // MARK: The supervisor's side

    /// Passes a connection to a worker.
    ///
    /// - Returns: false if the worker is gone.
    static func send(
        _ socket: CInt, from address: String, isQuiet: Bool, on channel: borrowing Channel
    ) -> Bool {
        let words = Array(address.utf8.prefix(longest - 1))
        return channel.send([isQuiet ? 1 : 0] + words, passing: socket)
    }

    /// The worker's result; `nil` if the worker is gone.
    static func finding(on channel: borrowing Channel) -> Finding? {
        guard let message = channel.receive(longest) else { return nil }
        if message.bytes == strangerFound { return .stranger }
        return SHA256Digest(bytes: message.bytes).map { .peer(KeyID($0)) }
    }

    /// Answers the worker whether its peer has a session.
    static func answer(_ answer: Admission.Answer, on channel: borrowing Channel) {
        switch answer {
        case .session: channel.send([0, 0])
        case .busy(let seconds): channel.send([UInt8(seconds & 0xFF), UInt8(seconds >> 8)])
        // The connection has been ended.
        case .gone: channel.send([1, 0])
        }
    }

    // MARK: The worker's side

    /// The next connection; `nil` if there will be no more.
    static func visit(on channel: borrowing Channel) -> Visit? {
        guard let message = channel.receive(longest) else { return nil }
        let bytes = message.bytes
        guard let socket = message.takePassed() else { return nil }
        return Visit(
            socket: socket, address: String(decoding: bytes.dropFirst(), as: UTF8.self),
            isQuiet: bytes.first == 1)
    }

    /// Reports that no key was proved.
    static func foundStranger(on channel: borrowing Channel) { channel.send(strangerFound) }

    /// Reports that the other side has proved this key.
    ///
    /// - Returns: the refusal to send; `nil` if the peer has a session.
    static func found(_ key: KeyID, on channel: borrowing Channel) -> Refusal? {
        channel.send(key.digest.bytes)
        guard let answer = channel.receive(2)?.bytes, answer.count == 2 else {
            return Refusal(.stopping, "the standby is shutting down")
        }
        let seconds = UInt16(answer[0]) | UInt16(answer[1]) << 8
        guard seconds > 0 else { return nil }
        return Refusal(
            .busy, rule: .sessions, retryAfter: seconds,
            "there is no session for this peer now: it has \(Limits.peerSessions), or the standby "
                + "has \(Limits.sessions)")
    }
}
