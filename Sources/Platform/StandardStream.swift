// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Standard input and standard output as byte streams.
package enum StandardStream {
    /// Kind of standard output.
    package enum Kind: Sendable { case terminal, file, other }

    package static var outputKind: Kind {
        if isatty(STDOUT_FILENO) == 1 { return .terminal }
        var status = stat()
        // SAFETY: the structure outlives the call.
        let isKnown = unsafe fstat(STDOUT_FILENO, &status) == 0
        return isKnown && status.st_mode & S_IFMT == S_IFREG ? .file : .other
    }

    package static var isInputTerminal: Bool { isatty(STDIN_FILENO) == 1 }

    /// Writes all of a buffer's first `count` bytes to standard output.
    package static func write(_ buffer: AlignedBuffer, count: Int) throws(SystemCallError) {
        var done = 0
        while done < count {
            let rest = unsafe buffer.pointer(at: done, count: count - done)
            // SAFETY: the rest of the buffer is passed with its length.
            let put = retryingInterrupted {
                unsafe Glibc.write(STDOUT_FILENO, rest.baseAddress, rest.count)
            }
            if put < 0, errno == EAGAIN {
                waitFor(STDOUT_FILENO, POLLOUT)
                continue
            }
            guard put > 0 else { throw SystemCallError("write", "standard output") }
            done += put
        }
    }

    /// Syncs standard output if it is a file.
    package static func syncOutput() throws(SystemCallError) {
        guard outputKind == .file else { return }
        guard retryingInterrupted({ Int(fsync(STDOUT_FILENO)) }) == 0 else {
            throw SystemCallError("fsync", "standard output")
        }
    }

    /// Fills part of a buffer from standard input.
    ///
    /// - Returns: the number of bytes read; fewer than requested only at the end.
    package static func read(
        into buffer: AlignedBuffer, at position: Int, count: Int
    ) throws(SystemCallError) -> Int {
        var done = 0
        while done < count {
            let rest = unsafe buffer.pointer(at: position + done, count: count - done)
            // SAFETY: as above.
            let got = retryingInterrupted {
                unsafe Glibc.read(STDIN_FILENO, rest.baseAddress, rest.count)
            }
            if got < 0, errno == EAGAIN {
                waitFor(STDIN_FILENO, POLLIN)
                continue
            }
            guard got >= 0 else { throw SystemCallError("read", "standard input") }
            if got == 0 { break }
            done += got
        }
        return done
    }

    /// Waits for a stream that its other user has made non-blocking.
    private static func waitFor(_ descriptor: CInt, _ event: CInt) {
        var polled = pollfd(fd: descriptor, events: Int16(event), revents: 0)
        // SAFETY: one structure is passed, with its count.
        _ = unsafe poll(&polled, 1, 1000)
    }
}
