// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// A file without a name, in memory. Unlike a pipe it needs no reader: who writes to it does not notice that we have
/// ended.
final class MemoryFile {
    private let file: OwnedDescriptor

    init() throws(SystemCallError) {
        let descriptor = clinux_memory_file()
        guard descriptor >= 0 else { throw SystemCallError("memfd_create", "") }
        file = OwnedDescriptor(takingOwnershipOf: descriptor)
    }

    var descriptor: CInt { file.rawValue }

    /// What was written, up to 64 KiB from its beginning: more than anybody wants to read.
    func bytes() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 65536)
        let descriptor = descriptor
        // SAFETY: the buffer is passed with its length.
        let got = retryingInterrupted { unsafe pread(descriptor, &bytes, bytes.count, 0) }
        return got > 0 ? Array(bytes.prefix(got)) : []
    }
}
