// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import Connection
internal import Digests
internal import Platform
internal import Session
internal import TLS
internal import Wire

/// A sender's connection with its session machine.
final class Dialogue {
    let connection: FrameConnection
    var session: SenderSession

    /// Connects, completes the handshake, and sends HELLO.
    init(
        to address: String, expecting key: KeyID, _ identity: Identity,
        _ purpose: SenderSession.Purpose, software: String
    ) throws {
        let context = try TLSContext(.sender, identity)
        let socket = try Socket.connect(to: address, seconds: 10)
        let protocolWanted: ApplicationProtocol
        if case .pair = purpose { protocolWanted = .pairing } else { protocolWanted = .replication }
        let tls = try TLSSession(
            context, descriptor: socket.rawValue, offering: [protocolWanted], accepting: [key],
            deadline: .now + .seconds(10))
        connection = FrameConnection(tls, socket: socket)
        session = SenderSession(purpose)
        try connection.send(SenderSession.hello(software: software))
    }

    /// The next action, or `nil` if no message has arrived.
    func poll() throws -> SenderSession.Action? {
        let incoming: FrameConnection.Incoming?
        do { incoming = try connection.receive() } catch let error as WireError {
            throw try broken("\(error)")
        }
        switch incoming {
        case nil: return nil
        case .closed: throw TLSError.closed
        case .record: throw try broken("a receiver sends no records")
        case .frame(let type, let payload):
            do {
                let message = try payload.withRawSpan { (span) throws(WireError) in
                    try ReceiverMessage(type, span)
                }
                guard let message else { throw try broken("frame \(type) is not a receiver's") }
                let action = try session.receive(message, type: type)
                if case .unknownName(let volume) = action {
                    connection.close()
                    throw SendError.unknownName(volume)
                }
                return action
            } catch let error as WireError {
                throw try broken("\(error)")
            } catch SessionError.refused(let refusal) {
                connection.close()
                throw SendError.refused(refusal)
            } catch SessionError.broken(let refusal) {
                throw try broken(refusal.text)
            }
        }
    }

    /// Waits for the next action.
    func next() throws -> SenderSession.Action {
        while true {
            // Process frames that have already arrived before waiting.
            while let action = try poll() {
                if action != .none { return action }
            }
            try connection.wait(nil)
        }
    }

    /// Ends the session after a local error. If the two histories do not fit, the standby receives
    /// the error too, so its operator can see why generations stop arriving.
    func stop(_ error: any Error) {
        if let error = error as? SendError, let rule = error.lineageRule {
            try? connection.send(Refusal(.lineage, rule: rule, rule.meaning))
        }
        connection.close()
    }

    private func broken(_ text: String) throws -> SendError {
        try connection.send(Refusal(.malformed, text))
        connection.close()
        return .brokenProtocol(text)
    }
}
