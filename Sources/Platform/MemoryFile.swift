// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// A nameless file in memory. Unlike a pipe it needs no reader, so a writer does not notice our
/// end.
final class MemoryFile {
    private let file: OwnedDescriptor

    init() throws(SystemCallError) {
        let descriptor = clinux_memory_file()
        guard descriptor >= 0 else { throw SystemCallError("memfd_create", "") }
        file = OwnedDescriptor(takingOwnershipOf: descriptor)
    }

    var descriptor: CInt { file.rawValue }

    /// The first 64 KiB of what was written.
    func bytes() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 65536)
        let descriptor = descriptor
        // SAFETY: the buffer is passed with its length.
        let got = retryingInterrupted { unsafe pread(descriptor, &bytes, bytes.count, 0) }
        return got > 0 ? Array(bytes.prefix(got)) : []
    }
}
