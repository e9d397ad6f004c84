// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CZstd

/// Why stored bytes are not a valid frame (specification 6) or not of the expected content.
package enum CompressionError: Error, Equatable, Sendable {
    /// They do not start with a zstd frame header.
    case notAFrame
    /// The frame requires a dictionary.
    case dictionary
    /// The frame does not state the size of its content.
    case noContentSize
    /// The frame states a content size other than the expected one.
    case contentSize
    /// The frame requires a window of this many bytes.
    case window(UInt64)
    /// The frame ends before the stored bytes do.
    case trailingBytes
    /// The frame is damaged or cut, or its content differs in size from its header.
    case damaged
}

/// Decompresses single zstd frames that may come from a hostile peer.
///
/// Each thread needs a separate one; the context reuses its memory between calls.
@safe package final class ZstdDecompressor {
    private static let windowByteCount: UInt64 = 1 << 20
    private static let magic: [UInt8] = [0x28, 0xB5, 0x2F, 0xFD]

    private let context: OpaquePointer

    package init() {
        // SAFETY: takes no arguments.
        guard let context = unsafe ZSTD_createDCtx() else {
            preconditionFailure("out of memory")
        }
        unsafe self.context = context
    }

    deinit {
        // SAFETY: this object is the only owner.
        _ = unsafe ZSTD_freeDCtx(context)
    }

    /// Decompresses `frame`, which must fill `output` exactly.
    ///
    /// It allocates no memory for the content. After an error `output` is invalid.
    package func decompress(_ frame: RawSpan, into output: inout MutableRawSpan)
        throws(CompressionError)
    {
        let length = output.byteCount
        try Self.checkHeader(frame, length: UInt64(length))
        // SAFETY: zstd reads no more than the frame and writes no more than the output.
        let (frameLength, written) = unsafe output.withUnsafeMutableBytes { output in
            unsafe frame.withUnsafeBytes { frame in
                let length = unsafe ZSTD_findFrameCompressedSize(frame.baseAddress, frame.count)
                guard length == frame.count else { return (length, 0) }
                let written = unsafe ZSTD_decompressDCtx(
                    context, output.baseAddress, output.count, frame.baseAddress, frame.count)
                return (length, written)
            }
        }
        guard ZSTD_isError(frameLength) == 0 else { throw .damaged }
        guard frameLength == frame.byteCount else { throw .trailingBytes }
        // An error code exceeds any length.
        guard written == length else { throw .damaged }
    }

    /// Checks the frame header (RFC 8878 3.1.1.1), because single-call decompression checks neither
    /// the window nor whether the content size is present.
    private static func checkHeader(_ frame: RawSpan, length: UInt64) throws(CompressionError) {
        // SAFETY: every offset is below 6, and at least 6 bytes are there; zstd reads no more than
        // the frame. The order of the checks is that of specification 6.
        guard frame.byteCount >= 6,
            magic.indices.allSatisfy({
                unsafe frame.unsafeLoad(fromByteOffset: $0, as: UInt8.self) == magic[$0]
            })
        else { throw .notAFrame }
        let descriptor = unsafe frame.unsafeLoad(fromByteOffset: 4, as: UInt8.self)
        guard descriptor & 8 == 0 else { throw .notAFrame }
        guard descriptor & 3 == 0 else { throw .dictionary }
        let isSingleSegment = descriptor & 0x20 != 0
        let size = unsafe frame.withUnsafeBytes {
            unsafe ZSTD_getFrameContentSize($0.baseAddress, $0.count)
        }
        // ZSTD_CONTENTSIZE_UNKNOWN.
        guard size != UInt64.max else { throw .noContentSize }
        let window: UInt64
        if isSingleSegment {
            window = size
        } else {
            let byte = unsafe frame.unsafeLoad(fromByteOffset: 5, as: UInt8.self)
            let base = UInt64(1) << (10 + UInt64(byte >> 3))
            window = base + base / 8 * UInt64(byte & 7)
        }
        guard window <= windowByteCount else { throw .window(window) }
        // ZSTD_CONTENTSIZE_ERROR: the header is cut.
        guard size != UInt64.max - 1 else { throw .notAFrame }
        guard size == length else { throw .contentSize }
    }
}
