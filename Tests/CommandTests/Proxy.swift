// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Synchronization

/// Somebody between source and standby, who passes bytes on and cuts where the test wants.
final class Proxy: Sendable {
    enum Mode: Sendable {
        case pass
        /// Cut, without a word, after so many bytes from the source.
        case cutAfter(Int)
        /// Swallow the first TLS record of this length from the standby, and cut.
        case swallow(recordLength: Int)
    }

    let port: UInt16
    private let mode = Mutex(Mode.pass)
    private let cuts = Mutex(0)
    private let isOver = Mutex(false)

    /// More than a source sends before its content.
    private static let handshakeBytes = 50_000

    /// Passes on to a port of this host that may be set later.
    private let upstream: Mutex<UInt16>

    init(to upstream: UInt16 = 0) throws {
        self.upstream = Mutex(upstream)
        let listener = try Socket.listen(on: "127.0.0.1:0", backlog: 8)
        port = Socket.localPort(of: listener.rawValue) ?? 0
        let raw = listener.release()
        _ = Thread("proxy") { [weak self] in
            defer { _ = close(raw) }
            while let self, !self.isOver.withLock({ $0 }) {
                guard !Socket.waitReadable([raw], milliseconds: 20).isEmpty,
                    let connection = Socket.accept(raw)
                else { continue }
                self.serve(connection.takeDescriptor())
            }
        }
    }

    deinit { isOver.withLock { $0 = true } }

    func set(_ mode: Mode) { self.mode.withLock { $0 = mode } }

    func set(upstream port: UInt16) { upstream.withLock { $0 = port } }

    /// Connections that were cut.
    var cutCount: Int { cuts.withLock { $0 } }

    private func serve(_ client: consuming OwnedDescriptor) {
        let address = "127.0.0.1:\(upstream.withLock { $0 })"
        guard let server = try? Socket.connect(to: address, seconds: 5) else { return }
        let mode = mode.withLock { $0 }
        let pair = [client.rawValue, server.rawValue]
        var fromSource = 0
        var records = Records()
        var isOpen = [true, true]
        while isOpen[0] || isOpen[1] {
            for side in Socket.waitReadable(pair, milliseconds: 50) where isOpen[side] {
                guard var bytes = Self.read(pair[side]) else { continue }
                if bytes.isEmpty {
                    isOpen[side] = false
                    _ = shutdown(pair[1 - side], Int32(SHUT_WR))
                    continue
                }
                var isCut = false
                if side == 0 {
                    fromSource += bytes.count
                    if case .cutAfter(let limit) = mode, fromSource > limit {
                        bytes.removeLast(min(bytes.count, fromSource - limit))
                        isCut = true
                    }
                } else if case .swallow(let length) = mode,
                    let start = records.find(length, in: bytes), fromSource > Self.handshakeBytes
                {
                    bytes.removeLast(bytes.count - start)
                    isCut = true
                }
                Self.write(bytes, to: pair[1 - side])
                if isCut {
                    cuts.withLock { $0 += 1 }
                    return
                }
            }
        }
    }

    /// Follows the borders of TLS records.
    private struct Records {
        private var header: [UInt8] = []
        private var rest = 0

        /// Where the first record of application data of this length begins in `bytes`. Records whose header is
        /// cut in two by the network are passed over at the cost of one byte of it.
        mutating func find(_ length: Int, in bytes: [UInt8]) -> Int? {
            for (index, byte) in bytes.enumerated() {
                if rest > 0 {
                    rest -= 1
                    continue
                }
                header.append(byte)
                guard header.count == 5 else { continue }
                rest = Int(header[3]) << 8 | Int(header[4])
                let isWanted = header[0] == 23 && rest == length
                header.removeAll()
                if isWanted { return max(index - 4, 0) }
            }
            return nil
        }
    }

    private static func read(_ descriptor: CInt) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: 65_536)
        // SAFETY: the array is passed with its count.
        let got = unsafe Glibc.read(descriptor, &bytes, bytes.count)
        if got < 0, errno == EAGAIN { return nil }
        return Array(bytes.prefix(max(got, 0)))
    }

    private static func write(_ bytes: [UInt8], to descriptor: CInt) {
        var done = 0
        while done < bytes.count {
            let rest = Array(bytes[done...])
            // SAFETY: the array is passed with its count.
            let put = unsafe Glibc.send(descriptor, rest, rest.count, CInt(MSG_NOSIGNAL))
            if put > 0 {
                done += put
                continue
            }
            guard errno == EAGAIN else { return }
            usleep(500)
        }
    }
}
