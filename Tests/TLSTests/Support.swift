// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Foundation
import Glibc
import Synchronization
import TLS
import Testing

/// Writing to a closed socket must fail in the test, not end the process: the programs do the same.
private let sigpipeIgnored: Void = { _ = signal(SIGPIPE, SIG_IGN) }()

/// Long enough for every test on a busy machine; only waits that must fail use less.
func patience() -> ContinuousClock.Instant { .now + .seconds(60) }

func soon() -> ContinuousClock.Instant { .now + .milliseconds(200) }

/// Two connected sockets.
func socketPair() -> (CInt, CInt) {
    sigpipeIgnored
    var pair: [CInt] = [-1, -1]
    let type = CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue)
    // SAFETY: the array holds the two descriptors the kernel writes.
    #expect(unsafe socketpair(AF_UNIX, type, 0, &pair) == 0)
    return (pair[0], pair[1])
}

/// A TCP socket that listens on loopback.
struct Listener {
    let descriptor: CInt
    let port: UInt16

    init() {
        sigpipeIgnored
        descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let listener = descriptor
        // SAFETY: the kernel reads and writes one sockaddr_in.
        let result = unsafe withUnsafeMutablePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(listener, $0, size) | listen(listener, 8)
                    | getsockname(listener, $0, &size)
            }
        }
        #expect(result == 0)
        port = UInt16(bigEndian: address.sin_port)
    }

    /// Waits for a connection, but not for ever.
    func accept() throws -> CInt {
        var polled = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        // SAFETY: one entry is passed; the peer's address is not asked for.
        try #require(unsafe poll(&polled, 1, 60_000) == 1)
        return Glibc.accept(descriptor, nil, nil)
    }
}

func connect(_ client: CInt, to port: UInt16) throws -> CInt {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    address.sin_port = port.bigEndian
    // SAFETY: the kernel reads one sockaddr_in.
    let result = unsafe withUnsafePointer(to: &address) {
        unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            unsafe Glibc.connect(client, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
    try #require(result == 0)
    return client
}

/// Runs the two sides on a thread each; a side's socket is closed when its part ends.
func converse<Sent: Sendable, Received: Sendable>(
    over sockets: (CInt, CInt) = socketPair(),
    sender: @escaping @Sendable (CInt) throws -> Sent,
    receiver: (CInt) throws -> Received
) -> (Result<Sent, any Error>, Result<Received, any Error>) {
    let box = Mutex<Result<Sent, any Error>?>(nil)
    let sent: Result<Sent, any Error>
    let received: Result<Received, any Error>
    let shared = Shared(box)
    let done = DispatchSemaphore(value: 0)
    Thread {
        let result = Result { try sender(sockets.0) }
        close(sockets.0)
        shared.box.withLock { $0 = result }
        done.signal()
    }.start()
    received = Result { try receiver(sockets.1) }
    close(sockets.1)
    done.wait()
    sent = shared.box.withLock { $0 } ?? .failure(CancellationError())
    return (sent, received)
}

private final class Shared<Value: Sendable>: Sendable {
    let box: Mutex<Value>
    init(_ box: consuming sending Mutex<Value>) { self.box = box }
}

extension Result where Failure == any Error {
    /// The TLS error, if there is one.
    var tlsError: TLSError? {
        guard case .failure(let error) = self else { return nil }
        return error as? TLSError
    }
}

extension TLSSession {
    mutating func send(_ bytes: [UInt8]) throws {
        try bytes.withRawSpan { (span) throws(TLSError) in
            try writeAll(span, deadline: patience())
        }
    }

    mutating func receive(_ count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var span = bytes.mutableSpan
        // SAFETY: bytes have no padding, and every value is valid.
        var raw = unsafe span.mutableBytes
        try readExactly(into: &raw, deadline: patience())
        return bytes
    }
}

/// A directory that is removed at the end of its test.
final class TemporaryDirectory {
    let path: String

    init() throws {
        path = FileManager.default.temporaryDirectory.path + "/tls-\(UUID().uuidString)"
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: false)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func write(_ name: String, _ bytes: [UInt8]) throws -> String {
        let file = path + "/" + name
        try Data(bytes).write(to: URL(fileURLWithPath: file))
        return file
    }
}

/// Another implementation's command line, as an oracle.
struct OpenSSL {
    let process = Process()
    let input = Pipe()
    let output = Pipe()

    /// Starts `openssl`; its input stays open.
    init(_ arguments: [String]) throws {
        process.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
        process.arguments = arguments
        process.standardInput = input
        process.standardOutput = output
        process.standardError = output
        try process.run()
    }

    /// What it printed, once it has ended.
    func finish() throws -> String {
        let data = try output.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return String(decoding: data, as: UTF8.self)
    }
}

private let certificateBegin = "-----BEGIN CERTIFICATE-----"
private let certificateEnd = "-----END CERTIFICATE-----"

/// The key and the certificate of an identity file.
func pemParts(of identity: Identity) -> [String] {
    let text = String(decoding: identity.pem, as: UTF8.self)
    return text.components(separatedBy: certificateBegin)
        .enumerated().map { $0 == 0 ? $1 : certificateBegin + $1 }
}

/// An identity file for a key that ends with a zero bit, whose certificate calls that bit unused.
func identityWithUnusedBits() throws -> [UInt8] {
    var identity = Identity.generate()
    while identity.publicKeyInfo.last.map({ $0 & 1 }) != 0 { identity = .generate() }
    let parts = pemParts(of: identity)
    try #require(parts.count == 2)
    let body = parts[1].replacing(certificateBegin, with: "").replacing(certificateEnd, with: "")
    var certificate = try #require(
        Data(base64Encoded: body, options: .ignoreUnknownCharacters))
    let key = try #require(certificate.firstRange(of: identity.publicKeyInfo))
    let unused = key.upperBound - 33
    try #require(certificate[unused] == 0)
    certificate[unused] = 1
    let text = certificate.base64EncodedString(options: [
        .lineLength64Characters, .endLineWithLineFeed,
    ])
    return [UInt8]("\(parts[0])\(certificateBegin)\n\(text)\n\(certificateEnd)\n".utf8)
}
