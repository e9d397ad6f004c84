// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
internal import Platform
internal import Session
internal import Wire

/// What a supervisor and one of its workers say to each other.
///
/// The supervisor sends a connection with its socket. The worker answers with the key that was proved, and hears whether the
/// peer has a session; or that nobody proved one, and waits for the next connection. A worker whose channel ends has
/// no work any more.
enum Doorkeeper {
    /// A connection that a worker is given.
    struct Visit: ~Copyable {
        let socket: OwnedDescriptor
        /// The address of the other side, for the journal.
        let address: String
        /// Whether what a stranger does is kept from the journal.
        let isQuiet: Bool

        /// Takes the socket out.
        consuming func takeSocket() -> OwnedDescriptor { socket }
    }

    /// What a worker has found.
    enum Finding {
        /// The other side has proved this key, which is pinned.
        case peer(KeyID)
        /// It has proved none, and is gone.
        case stranger
    }

    private static let longest = 256
    private static let strangerFound: [UInt8] = [0]

    // MARK: The supervisor's side

    /// Gives a worker a connection.
    ///
    /// - Returns: false if the worker is gone.
    static func send(
        _ socket: CInt, from address: String, isQuiet: Bool, on channel: borrowing Channel
    ) -> Bool {
        let words = Array(address.utf8.prefix(longest - 1))
        return channel.send([isQuiet ? 1 : 0] + words, passing: socket)
    }

    /// What the worker has found; nothing if it is gone.
    static func finding(on channel: borrowing Channel) -> Finding? {
        guard let message = channel.receive(longest) else { return nil }
        if message.bytes == strangerFound { return .stranger }
        return SHA256Digest(bytes: message.bytes).map { .peer(KeyID($0)) }
    }

    /// Tells the worker whether its peer has a session.
    static func answer(_ answer: Admission.Answer, on channel: borrowing Channel) {
        switch answer {
        case .session: channel.send([0, 0])
        case .busy(let seconds): channel.send([UInt8(seconds & 0xFF), UInt8(seconds >> 8)])
        // Its connection has been ended.
        case .gone: channel.send([1, 0])
        }
    }

    // MARK: The worker's side

    /// The next connection; nothing if there will be none.
    static func visit(on channel: borrowing Channel) -> Visit? {
        guard let message = channel.receive(longest) else { return nil }
        let bytes = message.bytes
        guard let socket = message.takePassed() else { return nil }
        return Visit(
            socket: socket, address: String(decoding: bytes.dropFirst(), as: UTF8.self),
            isQuiet: bytes.first == 1)
    }

    /// Says that nobody has proved a key.
    static func foundStranger(on channel: borrowing Channel) { channel.send(strangerFound) }

    /// Says that the other side has proved this key.
    ///
    /// - Returns: how to refuse it; nothing if it has a session.
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
