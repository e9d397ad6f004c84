// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Glibc
import TLS
import Testing

@Suite("Session") struct SessionTests {
    let senderIdentity = Identity.generate()
    let receiverIdentity = Identity.generate()

    /// Shakes hands on both sides and runs what follows.
    func converse<Sent: Sendable, Received: Sendable>(
        sending: [ApplicationProtocol] = [.replication],
        receiving: [ApplicationProtocol] = [.replication],
        senderPins: [KeyID]? = nil, receiverPins: [KeyID]? = nil,
        sender: @escaping @Sendable (inout TLSSession) throws -> Sent,
        receiver: (inout TLSSession) throws -> Received
    ) throws -> (Result<Sent, any Error>, Result<Received, any Error>) {
        let senderContext = try TLSContext(.sender, senderIdentity)
        let receiverContext = try TLSContext(.receiver, receiverIdentity)
        let senderPins = senderPins ?? [receiverIdentity.keyID]
        let receiverPins = receiverPins ?? [senderIdentity.keyID]
        return TLSTests.converse(
            sender: { socket in
                var session = try TLSSession(
                    senderContext, descriptor: socket, offering: sending,
                    accepting: senderPins, deadline: patience())
                return try sender(&session)
            },
            receiver: { socket in
                var session = try TLSSession(
                    receiverContext, descriptor: socket, offering: receiving,
                    accepting: receiverPins, deadline: patience())
                return try receiver(&session)
            })
    }

    @Test("two pinned peers know each other, and their exporters agree")
    func mutual() throws {
        let (sent, received) = try converse(
            sender: { session in
                try session.send([1, 2, 3])
                let answer = try session.receive(2)
                #expect(answer == [4, 5])
                let exported = try session.exporter(label: "EXPORTER-blockferry", count: 32)
                let other = try session.exporter(label: "EXPORTER-other", count: 32)
                #expect(other != exported)
                try session.closeNotify(deadline: patience())
                return (session.peer, session.applicationProtocol, exported)
            },
            receiver: { session in
                let bytes = try session.receive(3)
                #expect(bytes == [1, 2, 3])
                try session.send([4, 5])
                let exported = try session.exporter(label: "EXPORTER-blockferry", count: 32)
                #expect(throws: TLSError.closed) { try session.receive(1) }
                return (session.peer, session.applicationProtocol, exported)
            })
        let left = try sent.get()
        let right = try received.get()
        #expect(left.0 == receiverIdentity.keyID && right.0 == senderIdentity.keyID)
        #expect(left.1 == .replication && right.1 == .replication)
        #expect(left.2 == right.2 && left.2.count == 32)
    }

    @Test("a sender has no session with a receiver whose key it has not pinned")
    func wrongReceiver() throws {
        for offered in ApplicationProtocol.allCases {
            let (sent, received) = try converse(
                sending: [offered], receiving: [offered], senderPins: [senderIdentity.keyID],
                sender: { _ in }, receiver: { try $0.receive(1) })
            #expect(sent.tlsError == .peerNotPinned(receiverIdentity.keyID))
            #expect(received.tlsError == .ownKeyRefused)
        }
    }

    @Test("a receiver refuses an unknown sender, who learns it with the first read")
    func unknownSender() throws {
        for pins in [[], [receiverIdentity.keyID, Identity.generate().keyID]] {
            let (sent, received) = try converse(
                receiverPins: pins, sender: { try $0.receive(1) }, receiver: { _ in })
            #expect(sent.tlsError == .ownKeyRefused)
            #expect(received.tlsError == .peerNotPinned(senderIdentity.keyID))
        }
    }

    @Test("a peer with several pinned keys is judged by its own")
    func severalPins() throws {
        let (sent, received) = try converse(
            receiverPins: [Identity.generate().keyID, senderIdentity.keyID],
            sender: { try $0.send([7]) }, receiver: { try $0.receive(1) })
        try sent.get()
        #expect(try received.get() == [7])
    }

    @Test("pairing lets an unknown sender in, and for nothing else")
    func pairing() throws {
        let (sent, received) = try converse(
            sending: [.pairing], receiving: [.replication, .pairing], receiverPins: [],
            sender: { session in
                try session.send([1])
                return session.applicationProtocol
            },
            receiver: { session in
                _ = try session.receive(1)
                return (session.peer, session.applicationProtocol)
            })
        #expect(try sent.get() == .pairing)
        #expect(try received.get() == (senderIdentity.keyID, .pairing))
        let (refused, refuser) = try converse(
            sending: [.replication], receiving: [.replication, .pairing], receiverPins: [],
            sender: { try $0.receive(1) }, receiver: { _ in })
        #expect(refused.tlsError == .ownKeyRefused)
        #expect(refuser.tlsError == .peerNotPinned(senderIdentity.keyID))
    }

    @Test("without an open invitation there is no pairing, also for a pinned sender")
    func noPairing() throws {
        let (sent, received) = try converse(
            sending: [.pairing], receiving: [.replication], sender: { _ in }, receiver: { _ in })
        #expect(sent.tlsError == .wrongALPN)
        #expect(received.tlsError == .wrongALPN)
    }

    @Test("the end of the stream without close_notify is a cut, on either side")
    func truncation() throws {
        let (_, received) = try converse(
            sender: { try $0.send([1, 2]) }, receiver: { try $0.receive(3) })
        #expect(received.tlsError == .truncated)
        let (sent, _) = try converse(
            sender: { try $0.receive(1) }, receiver: { _ in })
        #expect(sent.tlsError == .truncated)
    }

    @Test("nothing can be written into a cut connection, and the error is no signal")
    func brokenPipe() throws {
        let (sent, _) = try converse(
            sender: { session in
                while true { try session.send([UInt8](repeating: 1, count: 65_536)) }
            },
            receiver: { try $0.receive(1) })
        #expect(sent.tlsError == .reset)
    }

    @Test("64 MiB go through each way, one after the other")
    func oneWay() throws {
        let content = SecureRandom.bytes(1 << 20)
        let (sent, received) = try converse(
            sender: { session in
                for _ in 0..<64 { try session.send(content) }
                for _ in 0..<64 {
                    let piece = try session.receive(1 << 20)
                    try #require(piece == content)
                }
                try session.closeNotify(deadline: patience())
            },
            receiver: { session in
                for _ in 0..<64 {
                    let piece = try session.receive(1 << 20)
                    try #require(piece == content)
                }
                for _ in 0..<64 { try session.send(content) }
                #expect(throws: TLSError.closed) { try session.receive(1) }
            })
        try sent.get()
        try received.get()
    }

    @Test("64 MiB go through both ways at once, without waiting in an operation")
    func duplex() throws {
        let (sent, received) = try converse(
            sender: { try exchange(&$0, seed: 1, peerSeed: 2) },
            receiver: { try exchange(&$0, seed: 2, peerSeed: 1) })
        #expect(try sent.get() == 64 << 20)
        #expect(try received.get() == 64 << 20)
    }

    @Test("a wait ends for the session, for the other descriptor and for the deadline")
    func waiting() throws {
        let (sent, received) = try converse(
            sender: { session in
                // Not before the receiver has waited in vain.
                _ = try session.receive(1)
                try session.send([1])
                _ = try session.receive(1)
            },
            receiver: { session in
                var pipes: [CInt] = [-1, -1]
                // SAFETY: the array holds the two descriptors the kernel writes.
                try #require(unsafe pipe(&pipes) == 0)
                defer { pipes.forEach { close($0) } }
                let none = try session.wait(
                    for: .read, alsoReadable: pipes[0], until: soon())
                #expect(none == [])
                try session.send([1])
                let first = try session.wait(
                    for: .read, alsoReadable: pipes[0], until: patience())
                #expect(first == .session)
                _ = try session.receive(1)
                // SAFETY: one byte is read from a constant.
                try #require(unsafe write(pipes[1], "x", 1) == 1)
                let second = try session.wait(
                    for: .read, alsoReadable: pipes[0], until: patience())
                #expect(second == .other)
                let both = try session.wait(
                    for: [.read, .write], alsoReadable: pipes[0], until: patience())
                #expect(both == [.session, .other])
                let past = try session.wait(for: [], until: .now - .seconds(1))
                #expect(past == [])
                try session.send([1])
            })
        try sent.get()
        try received.get()
    }
}

/// Writes 64 MiB of one sequence and checks 64 MiB of another, whichever is possible.
private func exchange(
    _ session: inout TLSSession, seed: UInt8, peerSeed: UInt8
) throws -> Int {
    let total = 64 << 20
    // 251 is prime, so that no piece looks like the one before it.
    func byte(_ seed: UInt8, _ position: Int) -> UInt8 { seed &+ UInt8(position % 251) }
    let outgoing = (0..<(251 * 1024)).map { byte(seed, $0) }
    var sent = 0
    var received = 0
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while sent < total || received < total {
        var interest: Interest = []
        var progressed = false
        if sent < total {
            let start = sent % 251
            let end = start + min(total - sent, outgoing.count - start)
            let result = try outgoing.withRawSpan { (span) throws(TLSError) in
                try session.write(span.extracting(start..<end))
            }
            switch result {
            case .written(let count):
                sent += count
                progressed = true
            case .wouldBlock(let wanted): interest.formUnion(wanted)
            }
        }
        var span = buffer.mutableSpan
        // SAFETY: bytes have no padding, and every value is valid.
        var raw = unsafe span.mutableBytes
        if received < total {
            switch try session.read(into: &raw) {
            case .bytes(let count):
                for index in 0..<count where buffer[index] != byte(peerSeed, received + index) {
                    Issue.record("byte \(received + index) differs")
                    return received
                }
                received += count
                progressed = true
            case .wouldBlock(let wanted): interest.formUnion(wanted)
            case .closed: return received
            }
        }
        if progressed { continue }
        let ready = try session.wait(for: interest, until: patience())
        guard !ready.isEmpty else { throw TLSError.timedOut }
    }
    return received
}
