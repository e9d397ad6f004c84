// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CChecksum

/// The bytes end before the value does.
public struct TruncatedBytes: Error, Equatable, Sendable {
    /// Offset of the value in bytes.
    public let offset: Int
    /// Size of the value in bytes.
    public let needed: Int
    /// Size of the whole buffer in bytes.
    public let available: Int

    /// Makes the error.
    public init(offset: Int, needed: Int, available: Int) {
        self.offset = offset
        self.needed = needed
        self.available = available
    }
}

extension RawSpan {
    /// Reads a little-endian integer and checks it against the end of the bytes.
    @inlinable
    public func littleEndian<Value: FixedWidthInteger & BitwiseCopyable>(
        at offset: Int, as type: Value.Type = Value.self
    ) throws(TruncatedBytes) -> Value {
        let size = MemoryLayout<Value>.size
        guard offset >= 0, size <= byteCount, offset <= byteCount - size else {
            throw TruncatedBytes(offset: offset, needed: size, available: byteCount)
        }
        // SAFETY: the range was checked above, and every bit pattern is a valid integer.
        return Value(littleEndian: unsafe unsafeLoadUnaligned(fromByteOffset: offset, as: type))
    }

    /// Copies `count` bytes and checks the range against the end of the bytes.
    public func copyBytes(at offset: Int, count: Int) throws(TruncatedBytes) -> [UInt8] {
        guard offset >= 0, count >= 0, count <= byteCount, offset <= byteCount - count else {
            throw TruncatedBytes(offset: offset, needed: count, available: byteCount)
        }
        var copy = [UInt8]()
        copy.reserveCapacity(count)
        for index in offset..<(offset + count) {
            // SAFETY: the range was checked above.
            copy.append(unsafe unsafeLoadUnaligned(fromByteOffset: index, as: UInt8.self))
        }
        return copy
    }

    /// Whether every byte is zero.
    public var isAllZero: Bool {
        var offset = 0
        // Compares 32 bytes at a time: the common case costs only the memory reads.
        while offset <= byteCount - 32 {
            // SAFETY: offset + 32 <= byteCount.
            let some =
                unsafe unsafeLoadUnaligned(fromByteOffset: offset, as: SIMD4<UInt64>.self)
            if some != SIMD4<UInt64>.zero { return false }
            offset += 32
        }
        while offset < byteCount {
            // SAFETY: offset < byteCount.
            if unsafe unsafeLoadUnaligned(fromByteOffset: offset, as: UInt8.self) != 0 {
                return false
            }
            offset += 1
        }
        return true
    }
}

/// Reads consecutive fields from bytes that it does not store.
///
/// A decoder makes one and passes the bytes to each call, so the cursor stays an ordinary value.
public struct ByteCursor: Sendable {
    /// Offset of the next field in bytes.
    public var offset: Int

    /// Starts at `offset`.
    public init(at offset: Int = 0) {
        self.offset = offset
    }

    /// Reads the next little-endian integer.
    public mutating func next<Value: FixedWidthInteger & BitwiseCopyable>(
        _ type: Value.Type = Value.self, in bytes: RawSpan
    ) throws(TruncatedBytes) -> Value {
        let value = try bytes.littleEndian(at: offset, as: type)
        offset += MemoryLayout<Value>.size
        return value
    }

    /// Copies the next `count` bytes.
    public mutating func nextBytes(_ count: Int, in bytes: RawSpan) throws(TruncatedBytes)
        -> [UInt8]
    {
        let copy = try bytes.copyBytes(at: offset, count: count)
        offset += count
        return copy
    }
}

extension [UInt8] {
    /// Lends the elements as raw bytes.
    @inlinable
    public func withRawSpan<Result: ~Copyable, Failure: Error>(
        _ body: (RawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        // SAFETY: bytes have no padding and the span ends with the call.
        try unsafe body(span.bytes)
    }

    /// Appends an integer, least significant byte first.
    @inlinable
    public mutating func append(littleEndian value: some FixedWidthInteger) {
        var rest = value
        for _ in 0..<(type(of: value).bitWidth / 8) {
            append(UInt8(truncatingIfNeeded: rest))
            rest >>= 8
        }
    }
}

/// CRC-32C (Castagnoli), as used by dm's persistent-data library and by Blockferry's frame headers.
public enum CRC32C {
    /// The running value after `bytes`, starting from `state`, without the final inversion.
    public static func update(_ state: UInt32, _ bytes: RawSpan) -> UInt32 {
        // SAFETY: the pointer is used within the closure only.
        unsafe bytes.withUnsafeBytes {
            unsafe cchecksum_crc32c_update(state, $0.baseAddress, $0.count)
        }
    }

    /// The checksum of `bytes`, with the final inversion: 0xE3069283 for "123456789".
    public static func checksum(_ bytes: RawSpan) -> UInt32 {
        ~update(.max, bytes)
    }

    /// The same checksum, computed with the portable table; for tests.
    public static func checksumByTable(_ bytes: RawSpan) -> UInt32 {
        // SAFETY: the pointer is used within the closure only.
        unsafe ~bytes.withUnsafeBytes {
            unsafe cchecksum_crc32c_update_table(.max, $0.baseAddress, $0.count)
        }
    }
}
