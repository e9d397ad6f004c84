// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CZstd

/// Compresses content into zstd frames in the form of specification 6: one frame with the content
/// size and without a dictionary.
///
/// Each thread needs a separate one; the context reuses its memory between calls.
@safe package final class ZstdCompressor {
    /// Base-2 logarithm of the largest window in bytes, which limits the memory for decompressing a
    /// frame.
    package static let windowLog: CInt = 20

    private static let sampleByteCount = 4096

    private let context: OpaquePointer

    /// Makes a compressor.
    ///
    /// - Parameter level: lower is faster; negative levels are allowed.
    package init(level: Int = 1) {
        // SAFETY: the context was just made; setting a parameter fails only for a bad one.
        guard let context = unsafe ZSTD_createCCtx() else {
            preconditionFailure("out of memory")
        }
        _ = unsafe ZSTD_CCtx_setParameter(
            context, ZSTD_c_compressionLevel, CInt(clamping: level))
        _ = unsafe ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, Self.windowLog)
        unsafe self.context = context
    }

    deinit {
        // SAFETY: this object is the only owner.
        _ = unsafe ZSTD_freeCCtx(context)
    }

    /// Compresses `content` to the start of `output`.
    ///
    /// - Returns: the length of the frame; `nil` if it does not fit or does not pay, because it
    ///   would have at least 15/16 of the content's length. `output` is then invalid.
    package func compress(_ content: RawSpan, into output: inout MutableRawSpan) -> Int? {
        // zstd stops when the output is full, which limits the time lost on random content.
        let worthwhile = content.byteCount - content.byteCount / 16
        // SAFETY: zstd writes no more than the capacity, which is within the output.
        let result = unsafe output.withUnsafeMutableBytes { output in
            unsafe content.withUnsafeBytes { content in
                unsafe ZSTD_compress2(
                    context, output.baseAddress, min(output.count, worthwhile),
                    content.baseAddress, content.count)
            }
        }
        return ZSTD_isError(result) == 0 && result < worthwhile ? result : nil
    }

    /// Whether compressing `content` is likely to pay, judged by 4 KiB each from its start and its
    /// middle.
    package func looksCompressible(_ content: RawSpan) -> Bool {
        let size = Self.sampleByteCount
        guard content.byteCount > 2 * size else { return sampleShrinks(content) }
        let middle = content.byteCount / 2
        return sampleShrinks(content.extracting(0..<size))
            || sampleShrinks(content.extracting(middle..<(middle + size)))
    }

    private func sampleShrinks(_ sample: RawSpan) -> Bool {
        var output = [UInt8](repeating: 0, count: Self.sampleByteCount)
        var span = output.mutableSpan
        // SAFETY: bytes have no padding, and every value is valid.
        var bytes = unsafe span.mutableBytes
        return compress(sample.extracting(first: Self.sampleByteCount), into: &bytes) != nil
    }
}
