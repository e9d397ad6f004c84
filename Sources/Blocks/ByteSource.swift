// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// A failed read.
public struct ByteSourceError: Error, Equatable, Sendable {
    /// Why a read failed.
    public enum Reason: Equatable, Sendable {
        /// The range does not lie inside the source, whose size is `byteCount` bytes.
        case pastEnd(byteCount: UInt64)
        /// A system call failed with this error number.
        case system(call: String, errno: Int32)
        /// The source returned fewer bytes than its size promised.
        case shortRead(read: Int)
    }

    /// Offset of the requested range in bytes.
    public let offset: UInt64
    /// Length of the requested range in bytes.
    public let count: Int
    /// Cause of the failure.
    public let reason: Reason

    /// Makes the error.
    public init(offset: UInt64, count: Int, reason: Reason) {
        self.offset = offset
        self.count = count
        self.reason = reason
    }
}

extension ByteSourceError: CustomStringConvertible {
    /// The error as part of a sentence, without a capital letter or a full stop.
    public var description: String {
        let what = "cannot read \(count) bytes at \(offset)"
        switch reason {
        case .pastEnd(let byteCount): return "\(what): there are only \(byteCount)"
        case .system(let call, let errno): return "\(what): \(call) failed with error \(errno)"
        case .shortRead(let read): return "\(what): only \(read) came"
        }
    }
}

/// Random access to the bytes of a store or of a pool's metadata.
///
/// The readers of this library request only offsets that are multiples of 4096, and counts that are
/// multiples of 4096 or reach the end of the source. The source owns the buffer. Both rules let an
/// implementation read a live device past the page cache (`O_DIRECT`). No other way is safe: the
/// kernel writes its metadata underneath the cache, and a cached read can stay stale forever.
public protocol ByteSource: AnyObject {
    /// Size in bytes.
    var byteCount: UInt64 { get }

    /// Reads `count` bytes and lends them to `body`. Calls `body` exactly once, unless it throws.
    func read(at offset: UInt64, count: Int, _ body: (RawSpan) -> Void) throws(ByteSourceError)
}

/// A source in memory that counts its reads.
public final class MemoryBytes: ByteSource {
    /// The content; it may be changed between reads.
    public var bytes: [UInt8]
    /// Number of reads.
    public private(set) var readCount = 0
    /// Number of bytes read.
    public private(set) var readByteCount: UInt64 = 0

    /// Wraps `bytes`.
    public init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    /// Size in bytes.
    public var byteCount: UInt64 { UInt64(bytes.count) }

    /// Lends `count` bytes, without a copy.
    public func read(
        at offset: UInt64, count: Int, _ body: (RawSpan) -> Void
    ) throws(ByteSourceError) {
        guard count >= 0, count <= bytes.count, offset <= UInt64(bytes.count - count) else {
            throw ByteSourceError(
                offset: offset, count: count, reason: .pastEnd(byteCount: byteCount))
        }
        readCount += 1
        readByteCount += UInt64(count)
        let start = Int(offset)
        bytes.withRawSpan { body($0.extracting(start..<(start + count))) }
    }
}
