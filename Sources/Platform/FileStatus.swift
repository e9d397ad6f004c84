// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// Facts of an open file from fstat(2) and the block device ioctls.
package struct FileStatus: Equatable, Sendable {
    package enum Kind: Sendable { case regular, blockDevice, directory, other }

    package var kind: Kind
    /// Size in bytes; for a block device, its capacity.
    package var byteCount: UInt64
    /// Permission bits.
    package var mode: UInt32
    /// User id of the owner.
    package var owner: UInt32
    /// Smallest unit of direct I/O in bytes; 4096 for a regular file, which suits every file system.
    package var logicalBlockByteCount: Int
    /// Identifies the object on this host: a device by its number, a file by its file system and
    /// inode.
    package var identity: String
    /// Bytes of storage a regular file occupies.
    package var allocatedByteCount: UInt64
    /// Time of the last change of content, nanoseconds since 1970-01-01 UTC; `nil` for a device,
    /// and for a time before 1970 or after 2554.
    package var modifiedAt: UInt64?
    /// Whether the kernel has the device marked read-only.
    package var isReadOnlyDevice: Bool
    /// Number of a block device.
    package var device: DeviceNumber?
}

extension File {
    /// Why this is not one of our files, as an error number: not regular, of another user, or with
    /// a second name.
    func ownershipProblem() throws(SystemCallError) -> Int32? {
        var raw = stat()
        // SAFETY: writes the struct passed.
        guard unsafe fstat(descriptor, &raw) == 0 else { throw SystemCallError("fstat", path) }
        if clinux_mode_is_regular(raw.st_mode) == 0 { return EINVAL }
        if raw.st_uid != geteuid() { return EPERM }
        return raw.st_nlink > 1 ? EMLINK : nil
    }

    /// Queries the kernel.
    package func status() throws(SystemCallError) -> FileStatus {
        var raw = stat()
        // SAFETY: writes the struct passed.
        guard unsafe fstat(descriptor, &raw) == 0 else { throw SystemCallError("fstat", path) }
        var status = FileStatus(
            kind: .other, byteCount: UInt64(clamping: raw.st_size), mode: raw.st_mode & 0o7777,
            owner: raw.st_uid, logicalBlockByteCount: AlignedBuffer.alignment,
            identity: "file:\(clinux_major(raw.st_dev)):\(clinux_minor(raw.st_dev)):\(raw.st_ino)",
            allocatedByteCount: KernelValues.bytes(UInt64(clamping: raw.st_blocks), of: 512),
            modifiedAt: nil,
            isReadOnlyDevice: false)
        if clinux_mode_is_regular(raw.st_mode) != 0 {
            status.kind = .regular
            status.modifiedAt = KernelValues.time(
                seconds: Int64(raw.st_mtim.tv_sec), nanoseconds: Int64(raw.st_mtim.tv_nsec))
        } else if clinux_mode_is_directory(raw.st_mode) != 0 {
            status.kind = .directory
        } else if clinux_mode_is_block_device(raw.st_mode) != 0 {
            status.kind = .blockDevice
            let number = DeviceNumber(
                major: clinux_major(raw.st_rdev), minor: clinux_minor(raw.st_rdev))
            status.device = number
            status.identity = "device:\(number)"
            var size: UInt64 = 0
            var block: CInt = 0
            var readOnly: CInt = 0
            // SAFETY: each ioctl writes the value passed.
            guard unsafe clinux_block_device_size(descriptor, &size) == 0,
                unsafe clinux_logical_block_size(descriptor, &block) == 0,
                unsafe clinux_block_is_read_only(descriptor, &readOnly) == 0
            else { throw SystemCallError("ioctl", path) }
            guard let unit = KernelValues.blockSize(block) else {
                throw SystemCallError("BLKSSZGET", path, code: EINVAL)
            }
            status.byteCount = size
            status.logicalBlockByteCount = unit
            status.isReadOnlyDevice = readOnly != 0
        }
        return status
    }
}
