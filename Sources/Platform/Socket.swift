// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// TCP sockets: connecting, listening, accepting.
package enum Socket {
    /// Shuts down a connection in both directions: `shutdown(2)`.
    package static func shutDown(_ descriptor: CInt) {
        _ = shutdown(descriptor, CInt(SHUT_RDWR))
    }

    /// An address did not name a reachable host.
    package struct ResolveError: Error, Equatable, Sendable, CustomStringConvertible {
        package let address: String
        package let reason: String
        package var description: String { "\(address): \(reason)" }
    }

    /// Splits `host:port` or `[v6]:port`.
    package static func split(
        _ address: String
    ) throws(ResolveError) -> (host: String, port: String) {
        guard let colon = address.lastIndex(of: ":") else {
            throw ResolveError(address: address, reason: "the form is host:port")
        }
        var host = String(address[..<colon])
        let port = String(address[address.index(after: colon)...])
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = String(host.dropFirst().dropLast())
        } else if host.contains(":") {
            // Otherwise its last part would count as the port.
            throw ResolveError(
                address: address,
                reason:
                    "an IPv6 address stands in brackets, with the port behind: [\(address)]:7441")
        }
        guard !port.isEmpty, UInt16(port) != nil else {
            throw ResolveError(address: address, reason: "the form is host:port")
        }
        return (host, port)
    }

    /// Connects to the first reachable address of `host:port`, with a limit of `seconds` for each
    /// address.
    ///
    /// The socket is non-blocking, without Nagle's delay.
    package static func connect(to address: String, seconds: Int) throws -> OwnedDescriptor {
        var failure = SystemCallError("connect", address, code: EHOSTUNREACH)
        for candidate in try resolve(address, passive: false) {
            let socket = Glibc.socket(candidate.family, flags, 0)
            guard socket >= 0 else {
                failure = SystemCallError("socket", address)
                continue
            }
            let owned = OwnedDescriptor(takingOwnershipOf: socket)
            // SAFETY: the address is passed with its length.
            var result = unsafe candidate.withAddress { unsafe clinux_connect(socket, $0, $1) }
            if result != 0, errno == EINPROGRESS {
                result = waitConnected(socket, seconds: seconds)
            }
            if result == 0 {
                setOption(socket, CInt(IPPROTO_TCP), TCP_NODELAY)
                return owned
            }
            failure = SystemCallError("connect", address)
        }
        throw failure
    }

    /// Listens on `host:port`; port 0 lets the kernel choose.
    package static func listen(on address: String, backlog: Int) throws -> OwnedDescriptor {
        var failure = SystemCallError("bind", address, code: EADDRNOTAVAIL)
        for candidate in try resolve(address, passive: true) {
            let socket = Glibc.socket(candidate.family, flags, 0)
            guard socket >= 0 else {
                failure = SystemCallError("socket", address)
                continue
            }
            let owned = OwnedDescriptor(takingOwnershipOf: socket)
            setOption(socket, SOL_SOCKET, SO_REUSEADDR)
            // SAFETY: the address is passed with its length.
            if unsafe candidate.withAddress({ unsafe clinux_bind(socket, $0, $1) }) == 0,
                Glibc.listen(socket, CInt(clamping: backlog)) == 0
            {
                return owned
            }
            failure = SystemCallError("bind", address)
        }
        throw failure
    }

    /// An accepted connection.
    package struct Connection: ~Copyable {
        /// Its socket, non-blocking.
        package let descriptor: OwnedDescriptor
        /// The remote address, without the port.
        package let from: String
        /// The network that one host can choose addresses from: an IPv4 address, or the first 64
        /// bits of an IPv6 address.
        package let network: String

        /// Moves the socket out.
        package consuming func takeDescriptor() -> OwnedDescriptor { descriptor }
    }

    /// The next connection; `nil` if there is none.
    package static func accept(_ listener: CInt) -> Connection? {
        var storage = sockaddr_storage()
        var length = UInt32(MemoryLayout<sockaddr_storage>.size)
        // SAFETY: the storage is passed with its length; the kernel fills it.
        let socket = unsafe clinux_accept(listener, &storage, &length)
        guard socket >= 0 else { return nil }
        let owned = OwnedDescriptor(takingOwnershipOf: socket)
        setOption(socket, CInt(IPPROTO_TCP), TCP_NODELAY)
        let from = text(of: storage, length).host
        return Connection(descriptor: owned, from: from, network: network(of: storage) ?? from)
    }

    /// The port of a listening socket.
    package static func localPort(of socket: CInt) -> UInt16? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        // SAFETY: the storage is passed with its length; the kernel fills it.
        let result = unsafe clinux_local_address(socket, &storage, &length)
        return result == 0 ? UInt16(text(of: storage, length).port) : nil
    }

    private static let flags = CInt(
        SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)

    private static func setOption(_ socket: CInt, _ level: CInt, _ option: CInt) {
        var on: CInt = 1
        // SAFETY: the value is passed with its length. Failure costs speed only.
        _ = unsafe setsockopt(socket, level, option, &on, socklen_t(MemoryLayout<CInt>.size))
    }

    private static func waitConnected(_ socket: CInt, seconds: Int) -> CInt {
        var descriptor = pollfd(fd: socket, events: Int16(POLLOUT), revents: 0)
        // SAFETY: one pollfd is passed.
        let ready = retryingInterrupted { Int(unsafe poll(&descriptor, 1, CInt(seconds * 1000))) }
        if ready == 0 { errno = ETIMEDOUT }
        guard ready > 0 else { return -1 }
        var code: CInt = 0
        var length = socklen_t(MemoryLayout<CInt>.size)
        // SAFETY: the value is passed with its length.
        _ = unsafe getsockopt(socket, SOL_SOCKET, SO_ERROR, &code, &length)
        errno = code
        return code == 0 ? 0 : -1
    }

    private struct Candidate {
        var family: CInt
        var storage: sockaddr_storage
        var length: socklen_t

        func withAddress(_ body: (UnsafeRawPointer, UInt32) -> CInt) -> CInt {
            // SAFETY: sockaddr_storage holds every kind of address; the pointer ends with the call.
            unsafe withUnsafePointer(to: storage) { unsafe body(UnsafeRawPointer($0), length) }
        }
    }

    private static func resolve(_ address: String, passive: Bool) throws -> [Candidate] {
        let (host, port) = try split(address)
        var hints = unsafe addrinfo()
        unsafe hints.ai_socktype = CInt(SOCK_STREAM.rawValue)
        unsafe hints.ai_flags = passive ? AI_PASSIVE : 0
        var list: UnsafeMutablePointer<addrinfo>?
        // SAFETY: the list is freed below; strings are passed for the length of the call.
        let code = unsafe getaddrinfo(host.isEmpty ? nil : host, port, &hints, &list)
        guard code == 0 else {
            throw ResolveError(address: address, reason: unsafe String(cString: gai_strerror(code)))
        }
        defer { unsafe freeaddrinfo(list) }
        var candidates: [Candidate] = []
        var next = unsafe list
        while let entry = unsafe next {
            var candidate = Candidate(
                family: unsafe entry.pointee.ai_family, storage: sockaddr_storage(),
                length: unsafe entry.pointee.ai_addrlen)
            if let source = unsafe entry.pointee.ai_addr,
                Int(candidate.length) <= MemoryLayout<sockaddr_storage>.size
            {
                unsafe memcpy(&candidate.storage, source, Int(candidate.length))
                candidates.append(candidate)
            }
            unsafe next = entry.pointee.ai_next
        }
        return candidates
    }

    private static func text(
        of storage: sockaddr_storage, _ length: socklen_t
    ) -> (host: String, port: String) {
        var host = [CChar](repeating: 0, count: 64)
        var port = [CChar](repeating: 0, count: 16)
        // SAFETY: buffers are passed with their lengths; the result is NUL-terminated.
        let code = unsafe withUnsafePointer(to: storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe getnameinfo(
                    $0, length, &host, socklen_t(host.count), &port, socklen_t(port.count),
                    NI_NUMERICHOST | NI_NUMERICSERV)
            }
        }
        guard code == 0 else { return ("unknown", "") }
        return (string(host), string(port))
    }

    /// The first 64 bits of an IPv6 address; `nil` for an IPv4-mapped one.
    private static func network(of storage: sockaddr_storage) -> String? {
        guard CInt(storage.ss_family) == AF_INET6 else { return nil }
        // SAFETY: the storage is larger than any address of its family, which is copied out of it.
        let address = unsafe withUnsafeBytes(of: storage) {
            unsafe $0.load(as: sockaddr_in6.self).sin6_addr
        }
        // SAFETY: an IPv6 address is 16 bytes, which are copied.
        let bytes = unsafe withUnsafeBytes(of: address) { unsafe Array($0) }
        let isMapped = bytes.prefix(10).allSatisfy { $0 == 0 } && bytes[10...11] == [255, 255]
        guard !isMapped else { return nil }
        return bytes.prefix(8).map { String($0, radix: 16) }.joined(separator: ":") + "/64"
    }

    private static func string(_ characters: [CChar]) -> String {
        String(
            decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
