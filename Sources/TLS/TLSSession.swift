// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests
internal import Glibc

/// A TLS session with a peer whose key is accepted.
///
/// A session exists only after both sides are judged, so no application byte can be read or written
/// earlier. One thread at a time uses it. It does not own the socket, which must outlive it. It
/// writes with `write`, so the program must ignore `SIGPIPE`.
@safe package struct TLSSession: ~Copyable {
    /// Result of `read`.
    package enum Read: Equatable, Sendable {
        /// Number of bytes read; at least one.
        case bytes(Int)
        /// No bytes yet.
        case wouldBlock(Interest)
        /// The peer has ended its stream with `close_notify`.
        case closed
    }

    /// Result of `write`.
    package enum Write: Equatable, Sendable {
        /// Number of bytes taken; 0 only for an empty write.
        case written(Int)
        /// No bytes taken.
        case wouldBlock(Interest)
    }

    /// Result of `wait`.
    package struct Ready: OptionSet, Sendable {
        package let rawValue: UInt8
        package init(rawValue: UInt8) { self.rawValue = rawValue }
        /// The session can continue.
        package static let session = Ready(rawValue: 1)
        /// The other descriptor is readable.
        package static let other = Ready(rawValue: 2)
    }

    /// The peer's key: a pinned one, or any for `pairing` on the receiver.
    package let peer: KeyID
    /// Purpose of the session.
    package let applicationProtocol: ApplicationProtocol
    private var connection: Connection

    /// Completes the handshake over a connected socket, which becomes non-blocking.
    ///
    /// In TLS 1.3 the sender's handshake ends before the receiver has seen its key: the sender's
    /// first read reports a refused key as `ownKeyRefused`.
    ///
    /// - Parameters:
    ///   - offered: the protocols in order of preference; the receiver offers `pairing` only while
    ///     an invitation is open.
    ///   - pinned: the accepted keys.
    ///   - deadline: limits the whole handshake, however slowly the peer sends.
    package init(
        _ context: TLSContext, descriptor: CInt, offering offered: [ApplicationProtocol],
        accepting pinned: [KeyID], deadline: ContinuousClock.Instant
    ) throws(TLSError) {
        let judge = Judge(role: context.role, offered: offered, pinned: pinned)
        var connection = try Connection(context, descriptor: descriptor, judge: judge)
        shaking: while true {
            switch try connection.handshake() {
            case .done: break shaking
            case .closed: throw .closed
            case .wants(let interest):
                try Self.waitOrTimeOut(descriptor, for: interest, until: deadline)
            }
        }
        (peer, applicationProtocol) = try connection.checkedPeer()
        self.connection = connection
    }

    // MARK: Without waiting

    /// Reads what is available to the start of `buffer`, up to one TLS record (16 KiB).
    ///
    /// OpenSSL reads ahead: wait for the socket only after `wouldBlock`.
    package mutating func read(into buffer: inout MutableRawSpan) throws(TLSError) -> Read {
        precondition(!buffer.isEmpty, "nothing can be read into an empty buffer")
        return try read(into: &buffer, from: 0)
    }

    private mutating func read(
        into buffer: inout MutableRawSpan, from start: Int
    ) throws(TLSError) -> Read {
        switch try connection.read(into: &buffer, from: start) {
        case (.done, let count): return .bytes(count)
        case (.wants(let interest), _): return .wouldBlock(interest)
        case (.closed, _): return .closed
        }
    }

    /// Writes as much of `bytes` as the socket accepts.
    ///
    /// Wait for the socket only after `wouldBlock`. Up to one TLS record may then remain encrypted
    /// inside the session, so the next write must start with the bytes that were not taken, and
    /// must not be shorter.
    package mutating func write(_ bytes: RawSpan) throws(TLSError) -> Write {
        try write(bytes, from: 0)
    }

    private mutating func write(
        _ bytes: RawSpan, from start: Int
    ) throws(TLSError) -> Write {
        var end = start
        while end < bytes.byteCount {
            switch try connection.write(bytes, from: end) {
            case (.done, let count): end += count
            case (.wants(let interest), _):
                return end > start ? .written(end - start) : .wouldBlock(interest)
            case (.closed, _): throw .closed
            }
        }
        return .written(end - start)
    }

    /// Bytes that only the two ends of this session know, and that are the same on both (RFC 8446
    /// 7.5).
    package func exporter(label: String, count: Int) throws(TLSError) -> [UInt8] {
        try connection.exporter(label: label, count: count)
    }

    // MARK: With a deadline

    /// Fills `buffer`.
    package mutating func readExactly(
        into buffer: inout MutableRawSpan, deadline: ContinuousClock.Instant
    ) throws(TLSError) {
        var count = 0
        while count < buffer.byteCount {
            switch try read(into: &buffer, from: count) {
            case .bytes(let more): count += more
            case .closed: throw .closed
            case .wouldBlock(let interest):
                try Self.waitOrTimeOut(connection.descriptor, for: interest, until: deadline)
            }
        }
    }

    /// Writes all `bytes` and reads nothing meanwhile.
    package mutating func writeAll(
        _ bytes: RawSpan, deadline: ContinuousClock.Instant
    ) throws(TLSError) {
        var count = 0
        while count < bytes.byteCount {
            switch try write(bytes, from: count) {
            case .written(let more): count += more
            case .wouldBlock(let interest):
                try Self.waitOrTimeOut(connection.descriptor, for: interest, until: deadline)
            }
        }
    }

    /// Ends this side's stream with `close_notify`; does nothing if repeated or after an error.
    ///
    /// Closing a socket with unread bytes resets the connection, and the peer may then miss the
    /// end: if the peer may still be sending, read until `closed` first.
    package mutating func closeNotify(deadline: ContinuousClock.Instant) throws(TLSError) {
        while connection.canEnd {
            guard case .wants(let interest) = try connection.shutDown() else { return }
            try Self.waitOrTimeOut(connection.descriptor, for: interest, until: deadline)
        }
    }

    // MARK: Waiting

    /// Waits until the session can continue or `other` is readable.
    ///
    /// - Returns: what is ready; empty after the deadline.
    package func wait(
        for interest: Interest, alsoReadable other: CInt? = nil,
        until deadline: ContinuousClock.Instant
    ) throws(TLSError) -> Ready {
        try Self.wait(connection.descriptor, for: interest, alsoReadable: other, until: deadline)
    }

    private static func waitOrTimeOut(
        _ descriptor: CInt, for interest: Interest, until deadline: ContinuousClock.Instant
    ) throws(TLSError) {
        // Check before waiting too: a peer that sends a byte now and then must not evade the
        // deadline.
        guard ContinuousClock.now < deadline,
            try !wait(descriptor, for: interest, alsoReadable: nil, until: deadline).isEmpty
        else { throw .timedOut }
    }

    private static func wait(
        _ descriptor: CInt, for interest: Interest, alsoReadable other: CInt?,
        until deadline: ContinuousClock.Instant
    ) throws(TLSError) -> Ready {
        var events = interest.contains(.read) ? POLLIN : 0
        if interest.contains(.write) { events |= POLLOUT }
        // poll ignores negative descriptors. Without interest, a hang-up must not end the wait.
        var polled = [
            pollfd(fd: interest.isEmpty ? -1 : descriptor, events: Int16(events), revents: 0),
            pollfd(fd: other ?? -1, events: Int16(POLLIN), revents: 0),
        ]
        while true {
            let left = max(.zero, ContinuousClock.now.duration(to: deadline)).components
            // Round up, so that the deadline has passed when poll returns 0.
            let milliseconds =
                min(left.seconds, 1_000_000) * 1000 + left.attoseconds / 1_000_000_000_000_000 + 1
            // SAFETY: the kernel writes to the two entries.
            let count = unsafe poll(&polled, 2, left == (0, 0) ? 0 : CInt(milliseconds))
            if count >= 0 {
                var ready: Ready = []
                if polled[0].revents != 0 { ready.insert(.session) }
                if polled[1].revents != 0 { ready.insert(.other) }
                return ready
            }
            guard errno == EINTR else { throw .system(errno: errno) }
        }
    }
}

// SAFETY: a session is handed over between threads and never shared.
extension TLSSession: @unsafe @unchecked Sendable {}
