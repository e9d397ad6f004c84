// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Digests
import Foundation
import Glibc
import TLS
import Testing

/// What strangers can do before they are authenticated; most of them drive another program.
@Suite("Strangers") struct StrangerTests {
    let identity = Identity.generate()
    let directory: TemporaryDirectory
    let clientFile: String
    let client = Identity.generate()

    init() throws {
        directory = try TemporaryDirectory()
        clientFile = try directory.write("client.pem", client.pem)
    }

    /// Starts `openssl s_client` against a receiver that has pinned `pins`.
    func receive<Value>(
        from arguments: [String], pins: [KeyID]? = nil,
        _ body: (inout TLSSession) throws -> Value
    ) throws -> (Result<Value, any Error>, String) {
        let listener = Listener()
        defer { close(listener.descriptor) }
        let openssl = try OpenSSL(
            ["s_client", "-connect", "127.0.0.1:\(listener.port)"] + arguments)
        let socket = try listener.accept()
        let context = try TLSContext(.receiver, identity)
        let result = Result {
            var session = try TLSSession(
                context, descriptor: socket, offering: [.replication],
                accepting: pins ?? [client.keyID], deadline: patience())
            return try body(&session)
        }
        close(socket)
        return (result, try openssl.finish())
    }

    var good: [String] { ["-cert", clientFile, "-key", clientFile, "-alpn", "blockferry/1"] }

    @Test("another implementation gets a session, in TLS 1.3 with the first suite, and no ticket")
    func noTicket() throws {
        let sessionFile = directory.path + "/session"
        let (result, output) = try receive(from: good + ["-sess_out", sessionFile]) { session in
            try session.send([UInt8]("hello, standby\n".utf8))
            // A ticket would come with or before these bytes.
            try session.closeNotify(deadline: patience())
            return session.peer
        }
        #expect(try result.get() == client.keyID)
        #expect(output.contains("hello, standby"))
        #expect(output.contains("TLSv1.3") && output.contains("ALPN protocol: blockferry/1"))
        #expect(!output.contains("Session Ticket"))
        #expect(!FileManager.default.fileExists(atPath: sessionFile))
    }

    @Test("TLS 1.2 and below are refused", arguments: ["-tls1_2", "-tls1_1"])
    func oldVersion(version: String) throws {
        let arguments = good + [version, "-cipher", "ALL:@SECLEVEL=0"]
        let (result, output) = try receive(from: arguments) { _ in }
        #expect(result.tlsError == .protocolFailure("unsupported protocol"))
        #expect(output.contains("alert protocol version"))
    }

    @Test(
        "another suite, group or signature than the profile's is refused",
        arguments: [
            ["-ciphersuites", "TLS_AES_128_CCM_SHA256"], ["-groups", "P-384"],
            ["-sigalgs", "ecdsa_secp384r1_sha384"],
        ])
    func outsideProfile(arguments: [String]) throws {
        let (result, output) = try receive(from: good + arguments) { _ in }
        guard case .protocolFailure = result.tlsError else {
            Issue.record("\(result)")
            return
        }
        #expect(output.contains("alert handshake failure"))
    }

    @Test("a name for another protocol is refused, and so is none")
    func alpn() throws {
        let certificate = ["-cert", clientFile, "-key", clientFile]
        for names in [["-alpn", "h2,blockferry/2"], []] {
            let (result, _) = try receive(from: certificate + names) { _ in }
            #expect(result.tlsError == .wrongALPN)
        }
        let (result, _) = try receive(from: certificate + ["-alpn", "h2,blockferry/1"]) { _ in }
        try result.get()
    }

    @Test("a sender without a certificate is refused")
    func noCertificate() throws {
        let (result, output) = try receive(from: ["-alpn", "blockferry/1"]) { _ in }
        #expect(result.tlsError == .noPeerCertificate)
        #expect(output.contains("alert certificate required"))
    }

    /// What an identity file would hold: a key, and the certificate beside it.
    private func pem(_ key: String) throws -> [UInt8] {
        try [key, key + ".crt"].flatMap { try Data(contentsOf: URL(fileURLWithPath: $0)) }
    }

    @Test("a P-256 key is as good as Ed25519, an RSA key is not")
    func otherKeys() throws {
        for (kind, isAllowed) in [
            (["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], true), (["rsa:2048"], false),
        ] {
            let file = directory.path + "/\(kind[0].prefix(3)).pem"
            let output = try OpenSSL(
                [
                    "req", "-x509", "-nodes", "-subj", "/CN=x", "-keyout", file, "-out",
                    file + ".crt", "-newkey",
                ]
                    + kind
            ).finish()
            let pem = try pem(file)
            let arguments = ["-cert", file + ".crt", "-key", file, "-alpn", "blockferry/1"]
            if isAllowed {
                let key = try Identity(pem: pem)
                let (result, _) = try receive(from: arguments, pins: [key.keyID]) { $0.peer }
                #expect(try result.get() == key.keyID, "\(output)")
            } else {
                #expect(throws: IdentityError.unsupportedKey) { try Identity(pem: pem) }
                let (result, _) = try receive(from: arguments) { _ in }
                #expect(result.tlsError != nil)
            }
        }
    }

    @Test("a key in an encoding that is not the usual one is nobody's")
    func otherEncodings() throws {
        // libcrypto takes both for the key that they encode, which would have two ids.
        let point = directory.path + "/point.pem"
        _ = try OpenSSL(
            ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", point]
        ).finish()
        _ = try OpenSSL([
            "ec", "-in", point, "-conv_form", "compressed", "-out", point,
        ]).finish()
        _ = try OpenSSL([
            "req", "-x509", "-key", point, "-subj", "/CN=x", "-out", point + ".crt",
        ]).finish()
        for pem in [try pem(point), try identityWithUnusedBits()] {
            #expect(throws: IdentityError.unsupportedKey) { try Identity(pem: pem) }
            let file = try directory.write("odd.pem", pem)
            let (result, _) = try receive(
                from: ["-cert", file, "-key", file, "-alpn", "blockferry/1"]) { _ in }
            #expect(result.tlsError == .unsupportedPeerKey)
        }
    }

    @Test("a certificate above the limit is refused before it is looked at")
    func greatCertificate() throws {
        let file = directory.path + "/great.pem"
        let names = (0..<800).map { "DNS:host-\($0).example" }.joined(separator: ",")
        _ = try OpenSSL([
            "req", "-x509", "-nodes", "-subj", "/CN=x", "-newkey", "ed25519", "-keyout", file,
            "-out", file + ".crt", "-addext", "subjectAltName=" + names,
        ]).finish()
        let (result, _) = try receive(
            from: ["-cert", file + ".crt", "-key", file, "-alpn", "blockferry/1"]) { _ in }
        #expect(result.tlsError == .protocolFailure("excessive message size"))
    }

    @Test("a receiver that names no protocol is refused by the sender")
    func serverWithoutALPN() throws {
        let server = try OpenSSL([
            "s_server", "-accept", "127.0.0.1:0", "-cert", clientFile, "-key", clientFile,
            "-naccept", "1",
        ])
        // "ACCEPT 127.0.0.1:port", then a newline.
        var text = ""
        while !(text.contains("ACCEPT ") && text.hasSuffix("\n")) {
            let more = server.output.fileHandleForReading.availableData
            try #require(!more.isEmpty)
            text += String(decoding: more, as: UTF8.self)
        }
        let port = try #require(
            text.split(whereSeparator: { ":\n".contains($0) }).last.flatMap { UInt16($0) })
        let socket = try connect(Glibc.socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0), to: port)
        let context = try TLSContext(.sender, identity)
        let pins = [client.keyID]
        #expect(throws: TLSError.wrongALPN) {
            _ = try TLSSession(
                context, descriptor: socket, offering: [.replication], accepting: pins,
                deadline: patience())
        }
        close(socket)
        _ = try server.finish()
    }

    @Test("a silent peer meets the deadline, and so does one that sends a byte now and then")
    func slow() throws {
        // The beginning of a record that announces 512 bytes of handshake.
        let drips: [UInt8] = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]
        for bytes in [[], drips] {
            let (_, received) = converse(
                sender: { socket in
                    for byte in bytes {
                        // SAFETY: one byte is passed.
                        var byte = byte
                        _ = unsafe write(socket, &byte, 1)
                        usleep(25_000)
                    }
                    // Until the receiver gives up.
                    var polled = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
                    _ = unsafe poll(&polled, 1, 60_000)
                },
                receiver: { socket in
                    let context = try TLSContext(.receiver, identity)
                    _ = try TLSSession(
                        context, descriptor: socket, offering: [.replication], accepting: [],
                        deadline: soon())
                })
            #expect(received.tlsError == TLSError.timedOut)
        }
    }

    @Test("bytes that are no TLS end the handshake with an error, whatever they are")
    func noise() throws {
        let context = try TLSContext(.receiver, identity)
        var inputs = [[UInt8]("GET / HTTP/1.1\r\n\r\n".utf8), [UInt8](repeating: 0, count: 99)]
        for round in 0..<200 {
            let header: [UInt8] = [22, 3, UInt8(round % 4), 0, 64, 1, 0, 0, 60, 3, 3]
            inputs.append((round % 2 == 0 ? header : []) + SecureRandom.bytes(round + 1))
        }
        var refused = 0
        for bytes in inputs {
            let (client, server) = socketPair()
            // SAFETY: the bytes are passed with their length.
            _ = unsafe write(client, bytes, bytes.count)
            shutdown(client, CInt(SHUT_WR))
            do {
                _ = try TLSSession(
                    context, descriptor: server, offering: [.replication], accepting: [],
                    deadline: patience())
            } catch {
                refused += 1
            }
            close(client)
            close(server)
        }
        #expect(refused == inputs.count)
    }
}
