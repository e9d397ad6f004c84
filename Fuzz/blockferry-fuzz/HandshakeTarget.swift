// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Glibc
import TLS

/// What a stranger sends first, to a standby or to a sender: a ClientHello that was spoilt, or anything.
///
/// No input is a whole handshake with a key, so none may become a session.
struct HandshakeTarget: Sendable {
    private let receiver: TLSContext
    private let sender: TLSContext
    private let hello: [UInt8]

    init() {
        signal(SIGPIPE, SIG_IGN)
        do {
            receiver = try TLSContext(.receiver, Identity.generate())
            sender = try TLSContext(.sender, Identity.generate())
        } catch { fatalError("\(error)") }
        let ends = Ends()
        _ = try? TLSSession(
            sender, descriptor: ends.near, offering: [.replication], accepting: [],
            deadline: .now)
        hello = ends.readFar()
        ends.close()
        precondition(hello.count > 100 && hello[0] == 22 && hello[5] == 1, "no ClientHello")
    }

    @Sendable func run(_ bytes: [UInt8]) {
        var input = Input(bytes)
        let choice = input.byte()
        let context = choice & 7 == 7 ? sender : receiver
        var flight = choice & 56 == 56 ? [] : hello
        for _ in 0..<Int(input.byte() % 4) { flight.spoil(&input) }
        // Lengths of the record and of the message, so that what is behind them is reached.
        if choice & 64 == 0, flight.count > 9 {
            flight.put(
                UInt64(UInt16(truncatingIfNeeded: flight.count - 5).byteSwapped), at: 3, width: 2)
            flight.put(
                UInt64(UInt16(truncatingIfNeeded: flight.count - 9).byteSwapped), at: 7, width: 2)
        }
        flight += input.rest()
        let ends = Ends()
        ends.writeFar(flight)
        do {
            _ = try TLSSession(
                context, descriptor: ends.near, offering: [.replication, .pairing],
                accepting: [sender.keyID, receiver.keyID], deadline: .now + .seconds(5))
            fatalError("a stranger has a session")
        } catch { precondition(!"\(error)".isEmpty) }
        ends.close()
    }
}

/// Both ends of a stream in this process.
private struct Ends {
    let near: CInt
    private let far: CInt

    init() {
        var pair: [CInt] = [0, 0]
        // SAFETY: two descriptors are written.
        guard unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair) == 0 else {
            fatalError("no socket: \(errno)")
        }
        (near, far) = (pair[0], pair[1])
    }

    /// Writes all, and ends that direction.
    func writeFar(_ bytes: [UInt8]) {
        // SAFETY: the kernel reads within the bytes.
        let count = unsafe bytes.withUnsafeBytes { unsafe write(far, $0.baseAddress, $0.count) }
        precondition(count == bytes.count && shutdown(far, CInt(SHUT_WR)) == 0)
    }

    func readFar() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 4096)
        // SAFETY: the kernel writes within the bytes.
        let count = unsafe bytes.withUnsafeMutableBytes {
            unsafe read(far, $0.baseAddress, $0.count)
        }
        return Array(bytes.prefix(max(0, count)))
    }

    func close() {
        _ = Glibc.close(near)
        _ = Glibc.close(far)
    }
}
