// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

extension Socket {
    /// Copies up to `count` received bytes without consuming them; `nil` once the stream has ended.
    package static func peek(_ socket: CInt, count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        // SAFETY: the buffer is passed with its length.
        let got = unsafe clinux_peek(socket, &bytes, count)
        if got < 0 { return errno == EAGAIN || errno == EINTR ? [] : nil }
        if got == 0 { return nil }
        return Array(bytes.prefix(got))
    }

    /// Makes the socket readable only when `count` bytes have arrived or the stream has ended.
    package static func setLowWater(_ socket: CInt, _ count: Int) {
        _ = clinux_set_low_water(socket, CInt(clamping: count))
    }

    /// Waits until one of `descriptors` is readable or has ended.
    ///
    /// - Returns: their indices; none after the time-out or a signal.
    package static func waitReadable(_ descriptors: [CInt], milliseconds: Int) -> [Int] {
        var polled = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        // SAFETY: the array is passed with its count.
        let count = unsafe poll(&polled, nfds_t(polled.count), CInt(clamping: milliseconds))
        guard count > 0 else { return [] }
        return polled.indices.filter { polled[$0].revents != 0 }
    }
}
