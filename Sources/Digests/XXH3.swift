// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CXXHash

/// XXH3-64 with seed 0: detects errors of memory, disk and program, not attacks.
package enum XXH3 {
    /// The hash of `bytes`; that of no bytes is 0x2D06800538D394C2.
    package static func hash(_ bytes: RawSpan) -> UInt64 {
        // SAFETY: the pointer is used within the closure only; it is not read for no bytes.
        unsafe bytes.withUnsafeBytes { unsafe XXH3_64bits($0.baseAddress, $0.count) }
    }
}

/// Computes XXH3-64 of bytes that arrive in pieces; reusable after `finish`.
@safe package struct XXH3Stream: ~Copyable {
    private let state: OpaquePointer

    package init() {
        // SAFETY: takes no arguments.
        guard let state = unsafe XXH3_createState() else { preconditionFailure("out of memory") }
        unsafe self.state = state
        start()
    }

    deinit {
        // SAFETY: this value is the only owner.
        _ = unsafe XXH3_freeState(state)
    }

    private func start() {
        // SAFETY: the state is live.
        _ = unsafe XXH3_64bits_reset(state)
    }

    /// Adds bytes.
    package mutating func update(_ bytes: RawSpan) {
        guard !bytes.isEmpty else { return }
        // SAFETY: the pointer is used within the closure only. It fails for a null pointer only.
        _ = unsafe bytes.withUnsafeBytes {
            unsafe XXH3_64bits_update(state, $0.baseAddress, $0.count)
        }
    }

    /// The hash of all bytes since the start or the last `finish`; then starts again.
    package mutating func finish() -> UInt64 {
        defer { start() }
        // SAFETY: the state is live.
        return unsafe XXH3_64bits_digest(state)
    }
}

// SAFETY: the state belongs to one value, which is handed over and never shared.
extension XXH3Stream: @unsafe @unchecked Sendable {}
