// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
package import Digests
internal import Glibc

/// A TLS session with a peer whose key is accepted.
///
/// There is no session before both sides are judged, so that no application byte can be read or
/// written before. One thread at a time uses it. It does not own the socket, which must live
/// longer, and it writes with `write`, so that the program has to ignore `SIGPIPE`.
@safe package struct TLSSession: ~Copyable {
    /// What `read` found.
    package enum Read: Equatable, Sendable {
        /// So many bytes, at least one.
        case bytes(Int)
        /// None yet.
        case wouldBlock(Interest)
        /// The peer has ended its stream with `close_notify`.
        case closed
    }

    /// What `write` did.
    package enum Write: Equatable, Sendable {
        /// Took so many bytes; none only if there were none.
        case written(Int)
        /// Took none.
        case wouldBlock(Interest)
    }

    /// What `wait` waited for.
    package struct Ready: OptionSet, Sendable {
        package let rawValue: UInt8
        package init(rawValue: UInt8) { self.rawValue = rawValue }
        /// The session can go on.
        package static let session = Ready(rawValue: 1)
        /// The other descriptor is readable.
        package static let other = Ready(rawValue: 2)
    }

    /// The peer's key: pinned, or, for `pairing` on the receiver, any.
    package let peer: KeyID
    /// What the session is for.
    package let applicationProtocol: ApplicationProtocol
    private var connection: Connection

    /// Shakes hands over a connected socket, which is made non-blocking.
    ///
    /// In TLS 1.3 the sender's handshake ends before the receiver has seen its key: that the key is
    /// refused comes as `ownKeyRefused` from the sender's first read.
    ///
    /// - Parameters:
    ///   - offered: the protocols in order of preference; for the receiver `pairing` only while an
    ///     invitation is open.
    ///   - pinned: the keys of which the peer must have one.
    ///   - deadline: bounds the whole handshake, however slowly the peer sends.
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

    /// Reads what is there into the beginning of `buffer`, up to one TLS record (16 KiB).
    ///
    /// OpenSSL reads ahead: only after `wouldBlock` may the caller wait for the socket.
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

    /// Writes as much of `bytes` as the socket takes.
    ///
    /// Only after `wouldBlock` may the caller wait for the socket. Up to one TLS record may then
    /// stay encrypted inside the session. Therefore the next write must begin with the bytes that
    /// were not taken, and be no shorter.
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

    /// Writes all `bytes`, and does not read meanwhile.
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

    /// Ends this side's stream with `close_notify`; does nothing the second time or after an error.
    ///
    /// A socket that is closed while bytes are unread resets the connection, and the peer may then
    /// miss the end: read until `closed` first, if the peer may still be sending.
    package mutating func closeNotify(deadline: ContinuousClock.Instant) throws(TLSError) {
        while connection.canEnd {
            guard case .wants(let interest) = try connection.shutDown() else { return }
            try Self.waitOrTimeOut(connection.descriptor, for: interest, until: deadline)
        }
    }

    // MARK: Waiting

    /// Waits until the session can go on or `other` is readable.
    ///
    /// - Returns: which; nothing after the deadline.
    package func wait(
        for interest: Interest, alsoReadable other: CInt? = nil,
        until deadline: ContinuousClock.Instant
    ) throws(TLSError) -> Ready {
        try Self.wait(connection.descriptor, for: interest, alsoReadable: other, until: deadline)
    }

    private static func waitOrTimeOut(
        _ descriptor: CInt, for interest: Interest, until deadline: ContinuousClock.Instant
    ) throws(TLSError) {
        // Asked before waiting too: a peer that sends a byte now and then must not get past it.
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
            // Rounded up, so that the deadline has passed when poll gives nothing.
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
