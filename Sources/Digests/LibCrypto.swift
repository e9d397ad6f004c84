// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import COpenSSL

/// The state of libcrypto in this process.
package enum LibCrypto {
    /// Initialises libcrypto without reading `openssl.cnf`.
    ///
    /// No file or environment variable can then change algorithms or load modules. Everything that
    /// fetches from libcrypto accesses this first.
    package static let start: Void = {
        let options = UInt64(OPENSSL_INIT_NO_LOAD_CONFIG)
        guard OPENSSL_init_crypto(options, nil) == 1 else {
            preconditionFailure("libcrypto does not start")
        }
    }()
}

/// Random bytes from libcrypto's generator, which the kernel seeds.
package enum SecureRandom {
    /// Makes `count` bytes suitable for keys and secrets.
    package static func bytes(_ count: Int) -> [UInt8] {
        LibCrypto.start
        // SAFETY: the buffer holds `count` bytes, and all are written.
        return unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            // The program cannot continue safely without randomness.
            guard unsafe RAND_bytes(buffer.baseAddress, CInt(count)) == 1 else {
                preconditionFailure("libcrypto has no random bytes")
            }
            initialized = count
        }
    }
}
