// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
internal import Glibc

/// A file or block device as a byte source for the readers of stores and metadata.
///
/// It reads a block device with `O_DIRECT`, because the kernel writes its metadata past the page
/// cache and cached reads may be stale. It reads a regular file through the cache. The buffer is
/// aligned to 4096 bytes and grows to the largest read, which the readers bound at 1 MiB.
@safe package final class FileBytes: ByteSource {
    /// Size in bytes.
    package let byteCount: UInt64
    /// Number of reads.
    package private(set) var readCount = 0

    private let descriptor: CInt
    private var buffer: UnsafeMutableRawBufferPointer

    /// Reads an open file: its path may lead elsewhere by now.
    package convenience init(_ file: File) throws(ByteSourceError) {
        try self.init(path: "/proc/self/fd/\(file.descriptor)")
    }

    /// Opens for reading.
    ///
    /// Not exclusive: a device that device-mapper uses is always busy.
    package init(path: String) throws(ByteSourceError) {
        let flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK
        // The kind decides how to open it.
        var status = stat()
        // SAFETY: the path is a C string for the call, the structure is ours.
        guard unsafe Glibc::stat(path, &status) == 0 else { throw Self.failure("stat") }
        let isBlockDevice = status.st_mode & S_IFMT == S_IFBLK
        guard isBlockDevice || status.st_mode & S_IFMT == S_IFREG else {
            throw ByteSourceError(
                offset: 0, count: 0, reason: .system(call: "open", errno: ENOTBLK))
        }
        // SAFETY: the path is a C string for the call.
        let opened = unsafe Glibc::open(path, flags | (isBlockDevice ? O_DIRECT : 0))
        guard opened >= 0 else { throw Self.failure("open") }
        let size = Glibc::lseek(opened, 0, SEEK_END)
        guard size >= 0 else {
            let error = Self.failure("lseek")
            _ = Glibc::close(opened)
            throw error
        }
        byteCount = UInt64(size)
        descriptor = opened
        unsafe buffer = .allocate(byteCount: 1 << 16, alignment: 4096)
    }

    deinit {
        // SAFETY: allocated by this object and not used any more.
        unsafe buffer.deallocate()
        _ = Glibc::close(descriptor)
    }

    /// Reads bytes into the buffer and lends it.
    package func read(
        at offset: UInt64, count: Int, _ body: (RawSpan) -> Void
    ) throws(ByteSourceError) {
        guard count >= 0, offset <= byteCount, UInt64(count) <= byteCount - offset else {
            throw ByteSourceError(
                offset: offset, count: count, reason: .pastEnd(byteCount: byteCount))
        }
        // If a device's size is not a multiple of 4096, its last part is read in whole sectors,
        // which O_DIRECT accepts.
        if unsafe buffer.count < count {
            // SAFETY: the old buffer is not lent to anybody at this point.
            unsafe buffer.deallocate()
            unsafe buffer = .allocate(
                byteCount: (count + 4095) / 4096 * 4096, alignment: 4096)
        }
        var done = 0
        while done < count {
            // SAFETY: `done + (count - done)` bytes fit the buffer.
            let result = unsafe Glibc::pread(
                descriptor, buffer.baseAddress?.advanced(by: done), count - done,
                off_t(offset) + off_t(done))
            if result < 0, errno == EINTR { continue }
            guard result >= 0 else {
                throw ByteSourceError(
                    offset: offset, count: count, reason: .system(call: "pread", errno: errno))
            }
            guard result > 0 else {
                throw ByteSourceError(
                    offset: offset, count: count, reason: .shortRead(read: done))
            }
            done += result
        }
        readCount += 1
        // SAFETY: `count` bytes were just read; the span ends with the call.
        unsafe body(UnsafeRawBufferPointer(buffer).bytes.extracting(..<count))
    }

    private static func failure(_ call: String) -> ByteSourceError {
        ByteSourceError(offset: 0, count: 0, reason: .system(call: call, errno: errno))
    }
}

extension ByteSourceError {
    /// The error with the system's text for the error number.
    package var sentence: String {
        guard case .system(let call, let number) = reason else { return description }
        // SAFETY: the text belongs to the C library and is copied at once.
        let cause = unsafe String(cString: strerror(number))
        return count == 0
            ? "cannot \(call): \(cause)" : "cannot read \(count) bytes at \(offset): \(cause)"
    }
}
