// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// An open file or block device, with whole-range reads and writes.
///
/// Every call continues after signals and short transfers; an error names the path and the
/// position.
package final class File: Sendable {
    private let owned: OwnedDescriptor
    /// The path that it was opened with, for messages.
    package let path: String

    /// Options for opening.
    package struct Options: OptionSet, Sendable {
        package let rawValue: Int
        package init(rawValue: Int) { self.rawValue = rawValue }

        /// Open for writing as well as reading.
        package static let write = Options(rawValue: 1)
        /// Bypass the page cache: buffers, offsets and lengths must be aligned.
        package static let direct = Options(rawValue: 2)
        /// Make the file with mode 0600; fail if it exists.
        package static let createNew = Options(rawValue: 4)
        /// Open a block device exclusively: mounted and stacked ones are refused (EBUSY).
        package static let exclusive = Options(rawValue: 8)
        /// Accept only our own files: refuse a symbolic link as the last part of the path, anything
        /// but a regular file, another user's file, and a file with a second name.
        package static let noFollow = Options(rawValue: 16)
    }

    package init(path: String, _ options: Options = []) throws(SystemCallError) {
        // O_NONBLOCK keeps a FIFO from blocking. It does not affect files and block devices.
        var flags = O_CLOEXEC | O_NONBLOCK | (options.contains(.write) ? O_RDWR : O_RDONLY)
        if options.contains(.direct) { flags |= clinux_o_direct }
        if options.contains(.createNew) { flags |= O_CREAT | O_EXCL }
        if options.contains(.exclusive) { flags |= O_EXCL }
        if options.contains(.noFollow) { flags |= clinux_o_nofollow }
        // SAFETY: the path is passed as a C string for the length of the call.
        let descriptor = unsafe clinux_open(AT_FDCWD, path, flags, 0o600)
        guard descriptor >= 0 else { throw SystemCallError("open", path) }
        owned = OwnedDescriptor(takingOwnershipOf: descriptor)
        self.path = path
        if options.contains(.noFollow), let code = try ownershipProblem() {
            throw SystemCallError("open", path, code: code)
        }
    }

    /// Takes over an open descriptor.
    init(_ descriptor: consuming OwnedDescriptor, path: String) {
        owned = descriptor
        self.path = path
    }

    /// Opens `path` for direct I/O, or through the page cache if the file system does not support
    /// that; a flush then still reports lost writes.
    package convenience init(
        openingDirect path: String, _ options: Options
    ) throws(SystemCallError) {
        do { try self.init(path: path, options.union(.direct)) } catch {
            guard error.code == EINVAL else { throw error }
            // The refused call may have made the file.
            if options.contains(.createNew) { try Directory.remove(path) }
            try self.init(path: path, options)
        }
    }

    /// The descriptor, valid while this object lives.
    package var descriptor: CInt { owned.rawValue }

    /// Fills `buffer` from `offset`.
    ///
    /// - Returns: the number of bytes read; fewer than requested only at the end of the file.
    package func read(
        at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer
    ) throws(SystemCallError) -> Int {
        var done = 0
        while done < buffer.count {
            // SAFETY: the rest of the buffer is passed with its length.
            let got = retryingInterrupted {
                unsafe pread(
                    descriptor, buffer.baseAddress.map { unsafe $0 + done }, buffer.count - done,
                    off_t(clamping: offset + UInt64(done)))
            }
            guard got >= 0 else {
                throw SystemCallError("pread", "\(path) at byte \(offset + UInt64(done))")
            }
            if got == 0 { break }
            done += got
        }
        return done
    }

    /// Writes all of `buffer` at `offset`.
    package func write(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64
    ) throws(SystemCallError) {
        var done = 0
        while done < buffer.count {
            // SAFETY: the rest of the buffer is passed with its length.
            let put = retryingInterrupted {
                unsafe pwrite(
                    descriptor, buffer.baseAddress.map { unsafe $0 + done }, buffer.count - done,
                    off_t(clamping: offset + UInt64(done)))
            }
            guard put > 0 else {
                let subject = "\(path) at byte \(offset + UInt64(done))"
                throw put == 0
                    ? SystemCallError("pwrite", subject, code: EIO)
                    : SystemCallError("pwrite", subject)
            }
            done += put
        }
    }

    /// Fills part of an aligned buffer; see `read(at:into:)`.
    package func read(
        at offset: UInt64, into buffer: AlignedBuffer, at position: Int = 0, count: Int
    ) throws(SystemCallError) -> Int {
        try unsafe read(at: offset, into: buffer.pointer(at: position, count: count))
    }

    /// Writes part of an aligned buffer.
    package func write(
        _ buffer: AlignedBuffer, from position: Int = 0, count: Int, at offset: UInt64
    ) throws(SystemCallError) {
        try unsafe write(
            UnsafeRawBufferPointer(buffer.pointer(at: position, count: count)), at: offset)
    }

    /// Writes bytes.
    package func write(_ bytes: [UInt8], at offset: UInt64) throws(SystemCallError) {
        // SAFETY: the pointer is used within the call. A Result carries the typed error out.
        let result = unsafe bytes.withUnsafeBytes { pointer in
            Result { () throws(SystemCallError) in try unsafe write(pointer, at: offset) }
        }
        try result.get()
    }

    /// Reads up to `count` bytes; returns fewer at the end of the file.
    package func readBytes(at offset: UInt64, count: Int) throws(SystemCallError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        // SAFETY: the pointer is used within the call. A Result carries the typed error out.
        let result = unsafe bytes.withUnsafeMutableBytes { pointer in
            Result { () throws(SystemCallError) in try unsafe read(at: offset, into: pointer) }
        }
        bytes.removeLast(count - (try result.get()))
        return bytes
    }

    /// Reads the whole file, which must not be larger than `limit` bytes.
    package func readAll(limit: Int) throws(SystemCallError) -> [UInt8] {
        let size = try status().byteCount
        guard size <= UInt64(limit) else { throw SystemCallError("read", path, code: EFBIG) }
        return try readBytes(at: 0, count: Int(size))
    }

    /// Flushes content and the metadata needed to find it to stable storage: `fdatasync(2)`.
    ///
    /// An error is final: the kernel may report it only once, so a later success proves nothing.
    package func sync() throws(SystemCallError) {
        guard retryingInterrupted({ Int(fdatasync(descriptor)) }) == 0 else {
            throw SystemCallError("fdatasync", path)
        }
    }

    /// Flushes content and all metadata: `fsync(2)`.
    package func syncAll() throws(SystemCallError) {
        guard retryingInterrupted({ Int(fsync(descriptor)) }) == 0 else {
            throw SystemCallError("fsync", path)
        }
    }

    /// Sets the length: `ftruncate(2)`.
    package func truncate(to byteCount: UInt64) throws(SystemCallError) {
        guard retryingInterrupted({ Int(ftruncate(descriptor, off_t(clamping: byteCount))) }) == 0
        else { throw SystemCallError("ftruncate", path) }
    }

    /// Reserves storage without changing the length: `fallocate(2)`.
    ///
    /// - Returns: `false` if the file system cannot reserve; that is not an error.
    package func reserve(from offset: UInt64, count: UInt64) throws(SystemCallError) -> Bool {
        let result = retryingInterrupted {
            Int(
                fallocate(
                    descriptor, FALLOC_FL_KEEP_SIZE, off_t(clamping: offset), off_t(clamping: count)
                ))
        }
        if result == 0 { return true }
        if errno == EOPNOTSUPP || errno == ENOSYS { return false }
        throw SystemCallError("fallocate", path)
    }

    /// Makes a range of a regular file read as zeros, releasing its storage: `fallocate(2)`.
    ///
    /// - Returns: `false` if the file system cannot.
    package func punchHole(_ offset: UInt64, count: UInt64) throws(SystemCallError) -> Bool {
        let result = retryingInterrupted {
            Int(
                fallocate(
                    descriptor, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, off_t(clamping: offset),
                    off_t(clamping: count)))
        }
        if result == 0 { return true }
        if errno == EOPNOTSUPP || errno == ENOSYS { return false }
        throw SystemCallError("fallocate", "\(path) at byte \(offset)")
    }

    /// Makes a range of a block device read as zeros: `BLKZEROOUT`. The kernel writes zeros if the
    /// device has no better way.
    package func zeroOut(_ offset: UInt64, count: UInt64) throws(SystemCallError) {
        guard retryingInterrupted({ Int(clinux_block_zero_out(descriptor, offset, count)) }) == 0
        else { throw SystemCallError("BLKZEROOUT", "\(path) at byte \(offset)") }
    }

    /// Tells a block device that a range is not needed: `BLKDISCARD`. The content of the range
    /// afterwards depends on the device.
    ///
    /// - Returns: `false` if the device does not support discards.
    package func discard(_ offset: UInt64, count: UInt64) throws(SystemCallError) -> Bool {
        if retryingInterrupted({ Int(clinux_block_discard(descriptor, offset, count)) }) == 0 {
            return true
        }
        if errno == EOPNOTSUPP { return false }
        throw SystemCallError("BLKDISCARD", "\(path) at byte \(offset)")
    }

    /// Drops the kernel's cache of a block device's node, so that other readers see direct writes.
    /// Needs privilege; best effort.
    package func dropDeviceCache() {
        _ = clinux_block_flush_buffers(descriptor)
    }

    /// The next range at or after `offset` that may hold data, by `SEEK_DATA` and `SEEK_HOLE`;
    /// `nil` if only a hole follows. A file system that cannot tell reports everything as data.
    package func nextData(
        from offset: UInt64, size: UInt64
    ) throws(SystemCallError) -> Range<UInt64>? {
        guard offset < size else { return nil }
        let start = lseek(descriptor, off_t(clamping: offset), SEEK_DATA)
        if start < 0 {
            if errno == ENXIO { return nil }
            if errno == EINVAL || errno == EOPNOTSUPP { return offset..<size }
            throw SystemCallError("lseek", path)
        }
        let end = lseek(descriptor, start, SEEK_HOLE)
        guard end >= 0 else { throw SystemCallError("lseek", path) }
        return KernelValues.data(
            from: Int64(start), to: Int64(end), asked: offset, size: size)
    }

    /// Locks a whole regular file for writing while this object lives: by `flock(2)` against other
    /// senders and standbys, and by an open file description lock on all its bytes against programs
    /// that lock ranges, as emulators do with disk images.
    ///
    /// - Returns: `false` if another process holds a lock on it. A file system without one kind of
    ///   lock cannot have a conflicting one.
    package func takeForWriting() -> Bool {
        if flock(descriptor, LOCK_EX | LOCK_NB) != 0, errno == EWOULDBLOCK { return false }
        if clinux_lock_for_writing(descriptor) == 0 { return true }
        return errno != EAGAIN && errno != EACCES
    }

    /// Whether another process has the regular file open for writing. `false` if the kernel does
    /// not report it, which it does only to the file's owner and with CAP_LEASE. Open this object
    /// for reading only.
    package var hasWriter: Bool { writerProblem == EAGAIN }

    /// Whether another process may have the regular file open for writing, or mapped or attached to
    /// a loop device; `true` if the kernel does not report it. Open this object for reading only.
    package var mayHaveWriter: Bool { writerProblem != nil }

    /// Why a read lease is refused: EAGAIN if there is a writer; `nil` if it is granted.
    private var writerProblem: Int32? { clinux_has_no_writer(descriptor) == 0 ? nil : errno }
}
