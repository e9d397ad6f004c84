// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Glibc

/// A file of this process, in the directory FUZZ_SCRATCH, that each input fills anew.
struct ScratchFile: Sendable {
    let path: String
    private let descriptor: CInt

    init(_ name: String) {
        let directory = unsafe getenv("FUZZ_SCRATCH").map { unsafe String(cString: $0) } ?? "."
        path = "\(directory)/\(name)-\(getpid())"
        // SAFETY: the path is passed as a C string.
        descriptor = unsafe open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { fatalError("\(path) cannot be made: \(errno)") }
    }

    /// Makes it hold these bytes and no others.
    func fill(_ bytes: [UInt8]) {
        // SAFETY: the kernel reads within the bytes.
        let put = unsafe bytes.withUnsafeBytes {
            unsafe pwrite(descriptor, $0.baseAddress, $0.count, 0)
        }
        guard put == bytes.count, ftruncate(descriptor, off_t(bytes.count)) == 0 else {
            fatalError("\(path) cannot be written: \(errno)")
        }
    }
}
