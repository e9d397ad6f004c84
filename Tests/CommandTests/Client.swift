// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Platform
import TLS
import TestSupport
import Wire

/// A sender that says what a test wants: frames over TLS with a key of one's own, checked by nobody.
final class Client {
    private var session: TLSSession
    private let socket: OwnedDescriptor
    private var sent: UInt64 = 0
    private var received: UInt64 = 0

    private static var patience: ContinuousClock.Instant { .now + .seconds(30) }

    /// Connects with the source's key.
    init(_ pair: Pairing) throws {
        let own = try IdentityFile.read("\(pair.source.state)/identity.pem")
        let other = try pair.standby.receiver()
        socket = try Socket.connect(to: "127.0.0.1:\(pair.standby.port)", seconds: 10)
        session = try TLSSession(
            try TLSContext(.sender, own), descriptor: socket.rawValue, offering: [.replication],
            accepting: [other], deadline: Self.patience)
    }

    /// Sends a frame; `damage` changes its bytes after the checksums were made.
    func send(
        _ type: FrameType, _ payload: [UInt8], damage: (inout [UInt8]) -> Void = { _ in }
    ) throws {
        let header = FrameHeader(
            type: type, payloadLength: payload.count, sequence: sent,
            payloadChecksum: payload.withRawSpan { XXH3.hash($0) })
        sent += 1
        var bytes = header.encoded() + payload
        damage(&bytes)
        try bytes.withRawSpan { (span) throws(TLSError) in
            try session.writeAll(span, deadline: Self.patience)
        }
    }

    func send(_ message: some Message) throws {
        try send(type(of: message).type, message.encoded())
    }

    /// The next frame that is neither PING nor PROGRESS.
    func receive() throws -> (type: FrameType, payload: [UInt8]) {
        while true {
            let bytes = try read(Limits.frameHeader)
            let header = try bytes.withRawSpan { (span) throws(WireError) in
                try FrameHeader(decoding: span, expecting: received)
            }
            received += 1
            let payload = try read(header.payloadLength)
            if header.type != .ping, header.type != .progress { return (header.type, payload) }
        }
    }

    /// What the receiver says when it is expected to refuse.
    func refusal() throws -> Refusal {
        let (type, payload) = try receive()
        guard type == .refuse else { throw FixtureFailure("got \(type) in place of a refusal") }
        return try payload.withRawSpan { (span) throws(WireError) in try Refusal(decoding: span) }
    }

    /// Greets and opens the volume.
    func open(_ volume: String) throws -> StandbyState {
        try greet()
        guard let name = VolumeName(volume) else { throw FixtureFailure("bad name") }
        try send(Open(volume: name))
        let (type, payload) = try receive()
        guard type == .state else { throw FixtureFailure("got \(type) in place of STATE") }
        return try payload.withRawSpan { (span) throws(WireError) in
            try StandbyState(decoding: span)
        }
    }

    func greet() throws {
        try send(Hello(lowestVersion: 1, highestVersion: 1, features: 0, software: "test"))
        let (type, _) = try receive()
        guard type == .welcome else { throw FixtureFailure("got \(type) in place of WELCOME") }
    }

    private func read(_ count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        guard count > 0 else { return bytes }
        var span = bytes.mutableSpan
        var raw = unsafe span.mutableBytes
        try session.readExactly(into: &raw, deadline: Self.patience)
        return bytes
    }
}

/// Waits until no process writes the volume any more, and gives the lock back at once.
func waitForWriter(_ standby: Standby, _ volume: String) throws {
    let due = ContinuousClock.now + .seconds(60)
    while .now < due {
        if try FileLock(path: "\(standby.state)/locks/\(volume)") != nil { return }
        _ = Socket.waitReadable([], milliseconds: 5)
    }
    throw FixtureFailure("a writer still has the volume \(volume)")
}

extension Standby {
    /// The standby's key.
    func receiver() throws -> KeyID { try IdentityFile.read("\(state)/identity.pem").keyID }
}
