// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Memory for direct I/O: page-aligned, zeroed, of fixed size.
///
/// A buffer travels between threads through queues; only one thread at a time uses it.
@safe
package final class AlignedBuffer: @unchecked Sendable {
    // SAFETY of @unchecked Sendable: a buffer is handed from thread to thread through a BoundedQueue,
    // which orders the accesses; nobody keeps using one that was handed on.

    /// Alignment of the memory in bytes, which suits every logical block size up to a page.
    package static let alignment = 4096

    /// Size in bytes.
    package let byteCount: Int
    private let base: UnsafeMutableRawPointer
    private let mappedByteCount: Int

    /// Allocates `byteCount` zero bytes, which take up memory only when first used.
    package init(byteCount: Int) {
        self.byteCount = byteCount
        mappedByteCount = max(1, (byteCount + Self.alignment - 1) / Self.alignment) * Self.alignment
        // SAFETY: a new mapping at a place of the kernel's choice; a failure, which is the address -1, is checked.
        let base = unsafe mmap(
            nil, mappedByteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let base = unsafe base, Int(bitPattern: base) != -1 else {
            Process.giveUp("out of memory: \(byteCount) bytes for a buffer cannot be had")
        }
        unsafe self.base = base
    }

    // SAFETY: the mapping that `init` made, which nobody uses any more.
    deinit { unsafe munmap(base, mappedByteCount) }

    /// The memory from `offset`; traps if the range lies outside.
    ///
    /// The pointer is valid while the buffer lives.
    package func pointer(at offset: Int, count: Int) -> UnsafeMutableRawBufferPointer {
        precondition(offset >= 0 && count >= 0 && offset <= byteCount - count)
        // SAFETY: the range was checked.
        return unsafe UnsafeMutableRawBufferPointer(start: base + offset, count: count)
    }

    /// Lends `count` bytes from `offset` for reading.
    package func withBytes<Result, Failure: Error>(
        at offset: Int = 0, count: Int, _ body: (RawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        // SAFETY: the memory lives through the call, and nobody else writes it meanwhile.
        try unsafe body(UnsafeRawBufferPointer(pointer(at: offset, count: count)).bytes)
    }

    /// Lends `count` bytes from `offset` for writing.
    package func withMutableBytes<Result, Failure: Error>(
        at offset: Int = 0, count: Int,
        _ body: (inout MutableRawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        // SAFETY: as above.
        var span = unsafe pointer(at: offset, count: count).mutableBytes
        return try body(&span)
    }

    /// Copies bytes into the buffer.
    package func store(_ bytes: RawSpan, at offset: Int) {
        let count = bytes.byteCount
        let target = unsafe pointer(at: offset, count: count)
        // SAFETY: both ranges are `count` bytes long and were checked.
        unsafe bytes.withUnsafeBytes { source in
            if let from = source.baseAddress, let to = target.baseAddress {
                unsafe memcpy(to, from, count)
            }
        }
    }

    /// Copies bytes from another buffer.
    package func copy(from other: AlignedBuffer, at source: Int, to target: Int, count: Int) {
        let from = unsafe other.pointer(at: source, count: count)
        let to = unsafe pointer(at: target, count: count)
        if let to = to.baseAddress, let from = from.baseAddress {
            // SAFETY: both ranges were checked; memmove allows overlap.
            unsafe memmove(to, from, count)
        }
    }

    /// Sets bytes to zero.
    package func zero(at offset: Int, count: Int) {
        let target = unsafe pointer(at: offset, count: count)
        // SAFETY: the range was checked.
        if let start = target.baseAddress { unsafe memset(start, 0, count) }
    }
}
