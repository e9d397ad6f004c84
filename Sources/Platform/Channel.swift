// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// One end of a pair that carries short messages between two processes of this host and keeps their
/// boundaries.
package struct Channel: ~Copyable {
    private let descriptor: OwnedDescriptor

    /// Takes over an inherited end.
    package init(takingOwnershipOf descriptor: CInt) {
        self.descriptor = OwnedDescriptor(takingOwnershipOf: descriptor)
    }

    /// Both ends of a new channel; both close on exec.
    package struct Pair: ~Copyable {
        /// The end to keep.
        package let near: Channel
        /// The end for a child process.
        package let far: Channel

        /// Keeps one end and closes the other.
        package consuming func takeNear() -> Channel { near }
    }

    /// Makes a pair.
    package static func pair() throws(SystemCallError) -> Pair {
        var ends: [CInt] = [-1, -1]
        let kind = CInt(SOCK_SEQPACKET.rawValue | SOCK_CLOEXEC.rawValue)
        // SAFETY: the call writes two descriptors into the array.
        guard unsafe socketpair(AF_UNIX, kind, 0, &ends) == 0 else {
            throw SystemCallError("socketpair", "for a worker")
        }
        return Pair(
            near: Channel(takingOwnershipOf: ends[0]), far: Channel(takingOwnershipOf: ends[1]))
    }

    /// Connects to a local socket that carries messages.
    package init(connectingTo path: String) throws(SystemCallError) {
        // SAFETY: the path is passed as a C string for the length of the call.
        let raw = unsafe clinux_connect_to_path(path)
        guard raw >= 0 else { throw SystemCallError("connect", path) }
        descriptor = OwnedDescriptor(takingOwnershipOf: raw)
    }

    /// User id of the process at the other end when it connected; `nil` if the kernel does not
    /// report it.
    package var peerUser: UInt32? {
        var user: UInt32 = 0
        // SAFETY: writes the value passed.
        return unsafe clinux_peer_user(descriptor.rawValue, &user) == 0 ? user : nil
    }

    /// Waits until a message can be received.
    ///
    /// - Returns: `false` after the time limit.
    package borrowing func wait(seconds: Int) -> Bool {
        let due = Clock.monotonic() + UInt64(seconds) * nanosecondsPerSecond
        while true {
            let now = Clock.monotonic()
            guard now < due else { return false }
            let rest = Int((due - now) / 1_000_000) + 1
            if !Socket.waitReadable([descriptor.rawValue], milliseconds: rest).isEmpty {
                return true
            }
        }
    }

    /// The descriptor, for poll(2) and for passing to a child.
    package var rawValue: CInt { descriptor.rawValue }

    /// Sends a message, with a descriptor if given; never waits.
    ///
    /// - Returns: `false` if the other side is gone or does not read.
    @discardableResult
    package borrowing func send(_ message: [UInt8], passing passed: CInt? = nil) -> Bool {
        let descriptor = descriptor.rawValue
        // SAFETY: the array is passed with its length.
        return retryingInterrupted {
            Int(unsafe clinux_send_descriptor(descriptor, message, message.count, passed ?? -1))
        } == 0
    }

    /// A message, and the descriptor that was passed with it.
    package struct Message: ~Copyable {
        package let bytes: [UInt8]
        package let passed: OwnedDescriptor?

        /// Moves the descriptor out.
        package consuming func takePassed() -> OwnedDescriptor? { passed }
    }

    /// Waits for a message of at most `count` bytes; `nil` if the other side is gone.
    package borrowing func receive(_ count: Int) -> Message? {
        var bytes = [UInt8](repeating: 0, count: count)
        var passed: CInt = -1
        let descriptor = descriptor.rawValue
        // SAFETY: the array is passed with its length; the call writes the value passed.
        let got = retryingInterrupted {
            unsafe clinux_receive_descriptor(descriptor, &bytes, count, &passed)
        }
        let owned = passed < 0 ? nil : OwnedDescriptor(takingOwnershipOf: passed)
        guard got > 0 else { return nil }
        return Message(bytes: Array(bytes.prefix(got)), passed: owned)
    }
}
