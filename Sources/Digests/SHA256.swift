// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
internal import COpenSSL

/// A SHA-256 digest (FIPS 180-4).
///
/// Comparing two digests takes constant time.
package struct SHA256Digest: Hashable, Sendable, CustomStringConvertible {
    package static let byteCount = 32

    /// 32 zero bytes, which the specification uses for "no digest".
    package static let zero = SHA256Digest(words: .zero)

    // The bytes in memory order, eight to a word.
    fileprivate var words: SIMD4<UInt64>

    fileprivate init(words: SIMD4<UInt64>) {
        self.words = words
    }

    /// Takes 32 bytes; returns `nil` for any other count.
    package init?(bytes: [UInt8]) {
        guard bytes.count == Self.byteCount else { return nil }
        let read = try? bytes.withRawSpan { (span) throws(TruncatedBytes) in
            try SHA256Digest(span, at: 0)
        }
        guard let read else { return nil }
        self = read
    }

    /// Reads 32 bytes at `offset`.
    package init(_ span: RawSpan, at offset: Int) throws(TruncatedBytes) {
        guard offset >= 0, Self.byteCount <= span.byteCount,
            offset <= span.byteCount - Self.byteCount
        else {
            throw TruncatedBytes(
                offset: offset, needed: Self.byteCount, available: span.byteCount)
        }
        // SAFETY: the range was checked above, and every bit pattern is a valid integer.
        self.words =
            unsafe span.unsafeLoadUnaligned(fromByteOffset: offset, as: SIMD4<UInt64>.self)
    }

    /// The 32 bytes.
    package var bytes: [UInt8] {
        // SAFETY: integers have no padding, and the bytes are copied.
        unsafe withUnsafeBytes(of: words) { unsafe [UInt8]($0) }
    }

    /// The first 16 bytes in memory order.
    var leadingWords: [2 of UInt64] { [words[0], words[1]] }

    /// 64 lower-case hexadecimal digits.
    package var description: String { Hex.encode(bytes) }

    /// The digest of `bytes`.
    package static func of(_ bytes: RawSpan) -> SHA256Digest {
        var words = SIMD4<UInt64>.zero
        // SAFETY: the output holds the 32 bytes that SHA-256 writes; the pointers stay inside.
        let result = unsafe withUnsafeMutableBytes(of: &words) { output in
            unsafe bytes.withUnsafeBytes { input in
                unsafe EVP_Digest(
                    input.baseAddress, input.count,
                    output.baseAddress?.assumingMemoryBound(to: UInt8.self), nil,
                    SHA256Method.shared.pointer, nil)
            }
        }
        precondition(result == 1, "SHA-256 failed")
        return SHA256Digest(words: words)
    }

    /// The digest of `bytes`.
    package static func of(_ bytes: [UInt8]) -> SHA256Digest {
        bytes.withRawSpan { of($0) }
    }
}

/// Computes SHA-256 of bytes that arrive in pieces; reusable after `finish`.
@safe package struct SHA256Hasher: ~Copyable {
    private let context: OpaquePointer

    package init() {
        // SAFETY: takes no arguments.
        guard let context = unsafe EVP_MD_CTX_new() else {
            preconditionFailure("out of memory")
        }
        unsafe self.context = context
        start()
    }

    deinit {
        // SAFETY: this value is the only owner.
        unsafe EVP_MD_CTX_free(context)
    }

    private func start() {
        // SAFETY: the context is live and the method is never freed.
        let result = unsafe EVP_DigestInit_ex2(context, SHA256Method.shared.pointer, nil)
        precondition(result == 1, "SHA-256 failed")
    }

    /// Adds bytes.
    package mutating func update(_ bytes: RawSpan) {
        // SAFETY: the pointer is used within the closure only.
        let result = unsafe bytes.withUnsafeBytes {
            unsafe EVP_DigestUpdate(context, $0.baseAddress, $0.count)
        }
        precondition(result == 1, "SHA-256 failed")
    }

    /// Adds bytes.
    package mutating func update(_ bytes: [UInt8]) {
        bytes.withRawSpan { update($0) }
    }

    /// The digest of all bytes since the start or the last `finish`; then starts again.
    package mutating func finish() -> SHA256Digest {
        var words = SIMD4<UInt64>.zero
        // SAFETY: the output holds the 32 bytes that SHA-256 writes.
        let result = unsafe withUnsafeMutableBytes(of: &words) {
            unsafe EVP_DigestFinal_ex(
                context, $0.baseAddress?.assumingMemoryBound(to: UInt8.self), nil)
        }
        precondition(result == 1, "SHA-256 failed")
        start()
        return SHA256Digest(words: words)
    }
}

// SAFETY: the context belongs to one value, which is handed over and never shared.
extension SHA256Hasher: @unsafe @unchecked Sendable {}

/// The method, fetched once: fetching takes locks and a look-up by name.
@safe private struct SHA256Method: @unchecked Sendable {
    // SAFETY: a fetched method is immutable and is never freed.
    static let shared = SHA256Method()

    let pointer: OpaquePointer

    private init() {
        LibCrypto.start
        // SAFETY: both strings are constants.
        guard let pointer = unsafe EVP_MD_fetch(nil, "SHA256", nil) else {
            preconditionFailure("libcrypto has no SHA-256")
        }
        unsafe self.pointer = pointer
    }
}
