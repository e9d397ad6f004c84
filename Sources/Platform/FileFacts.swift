// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
package import Objects

extension File {
    /// Facts that name a regular file and survive a reboot: its inode and generation
    /// (`FS_IOC_GETVERSION`, which distinguishes it from an earlier file with its inode), and its
    /// file system.
    ///
    /// The file system is named by its UUID, if the kernel or udev reports that, and by the id of
    /// `statfs(2)`, if that derives from the UUID (ext4, btrfs, f2fs). Device numbers are left out:
    /// the next boot may assign them to something else.
    package func objectFacts() throws(SystemCallError) -> ObjectIdentity.Facts {
        var raw = stat()
        // SAFETY: writes the struct passed.
        guard unsafe fstat(descriptor, &raw) == 0 else { throw SystemCallError("fstat", path) }
        var facts = ["inode": "\(raw.st_ino)"]
        var generation: UInt32 = 0
        // SAFETY: writes the value passed.
        if unsafe clinux_file_generation(descriptor, &generation) == 0 {
            facts["generation"] = "\(generation)"
        }
        let device = DeviceNumber(major: clinux_major(raw.st_dev), minor: clinux_minor(raw.st_dev))
        facts["fs-uuid"] = fileSystemUUID ?? BlockDevice(device).linkedUUID
        if let system = fileSystem, Self.identifiedByUUID.contains(system.type) {
            facts["fsid"] = String(system.identifier, radix: 16)
        }
        return facts
    }

    /// Facts that prove that a regular file's content is unchanged if they are found again: size
    /// and times to the nanosecond. Empty if they would prove nothing.
    ///
    /// The kernel sets `ctime` on every change of content, size or times, and no call can set it to
    /// a chosen value. A write through a mapping shows because the file is flushed first: the next
    /// write to a clean page sets the times again. Times advance only with the kernel's tick, so a
    /// change in the same tick as the last one could go unnoticed: this call waits until the tick
    /// has passed, and a file that keeps changing proves nothing. A long write sets the times only
    /// when it starts: a file open for writing proves nothing. After a power cut the disk may have
    /// new content with old times: the facts are valid only until the next boot. Nor does a file
    /// prove anything if its times lie in the future, or on a file system not known to follow these
    /// rules (tmpfs, FUSE, NFS, overlay, FAT).
    package func contentFacts() throws(SystemCallError) -> ObjectIdentity.Facts {
        guard let system = fileSystem, Self.honestTimes.contains(system.type) else { return [:] }
        // Three times the longest tick, which is 1/100 s.
        let settled: UInt64 = 30_000_000
        for _ in 0..<5 {
            try sync()
            var raw = stat()
            // SAFETY: writes the struct passed.
            guard unsafe fstat(descriptor, &raw) == 0 else { throw SystemCallError("fstat", path) }
            // Times in whole seconds (ext4 with small inodes) hide changes within a second. Check
            // for writers after reading the times: a write that started earlier and is still
            // running has the file open.
            guard
                let changed = KernelValues.time(
                    seconds: Int64(raw.st_ctim.tv_sec), nanoseconds: Int64(raw.st_ctim.tv_nsec)),
                raw.st_size >= 0,
                raw.st_ctim.tv_nsec != 0, Host.bootID != nil, !mayHaveWriter
            else { return [:] }
            let now = Clock.wall()
            guard changed <= now else { return [:] }
            guard now - changed >= settled else {
                let rest = settled - (now - changed)
                Clock.sleep(milliseconds: UInt32(rest / 1_000_000 + 1))
                continue
            }
            return Self.stamp(raw)
        }
        return [:]
    }

    /// Size and times of a regular file now. Two different stamps prove a change; two equal ones
    /// prove nothing by themselves (see `contentFacts`).
    package func stamp() throws(SystemCallError) -> ObjectIdentity.Facts {
        var raw = stat()
        // SAFETY: writes the struct passed.
        guard unsafe fstat(descriptor, &raw) == 0 else { throw SystemCallError("fstat", path) }
        return Self.stamp(raw)
    }

    private static func stamp(_ raw: stat) -> ObjectIdentity.Facts {
        var facts = [
            "size": "\(raw.st_size)", "ctime": text(raw.st_ctim), "mtime": text(raw.st_mtim),
        ]
        facts["boot"] = Host.bootID
        return facts
    }

    private static func text(_ time: timespec) -> String { "\(time.tv_sec).\(time.tv_nsec)" }

    /// Type (a number of linux/magic.h) and id of the file system.
    private var fileSystem: (type: UInt64, identifier: UInt64)? {
        var type: UInt64 = 0
        var identifier: UInt64 = 0
        // SAFETY: writes the values passed.
        guard unsafe clinux_file_system(descriptor, &type, &identifier) == 0 else { return nil }
        return (type, identifier)
    }

    private static let ext4: UInt64 = 0xEF53
    private static let xfs: UInt64 = 0x5846_5342
    private static let btrfs: UInt64 = 0x9123_683E
    private static let f2fs: UInt64 = 0xF2F5_2010
    /// ext2 and ext3 share ext4's number.
    private static let honestTimes: Set = [ext4, xfs, btrfs, f2fs]
    private static let identifiedByUUID: Set = [ext4, btrfs, f2fs]

    private var fileSystemUUID: String? {
        var uuid = [UInt8](repeating: 0, count: 16)
        // SAFETY: the array has the 16 bytes that are written.
        guard unsafe clinux_file_system_uuid(descriptor, &uuid) == 0,
            uuid.contains(where: { $0 != 0 })
        else { return nil }
        let text = uuid.map { byte in
            let digits = String(byte, radix: 16)
            return digits.utf8.count == 1 ? "0" + digits : digits
        }.joined()
        let parts = [0..<8, 8..<12, 12..<16, 16..<20, 20..<32]
        return parts.map { String(text.dropFirst($0.lowerBound).prefix($0.count)) }
            .joined(separator: "-")
    }
}

/// Distinguishes a file from another one put in its place, without opening it.
package enum BirthFacts {
    /// Inode and birth time as text; `nil` if they are unknown.
    package static func text(of path: String) -> String? {
        var inode: UInt64 = 0
        var seconds: Int64 = 0
        var nanoseconds: UInt32 = 0
        // SAFETY: writes the values passed; the path is a C string for the length of the call.
        guard unsafe clinux_file_birth(path, &inode, &seconds, &nanoseconds) == 0 else {
            return nil
        }
        return "inode=\(inode) birth=\(seconds).\(nanoseconds)"
    }
}

// MARK: - Extended attributes

extension File {
    /// An extended attribute of the file; `nil` if it has none of this name or its file system does
    /// not support them.
    package func attribute(_ name: String, limit: Int = 4096) -> [UInt8]? {
        var value = [UInt8](repeating: 0, count: limit)
        // SAFETY: the array is passed with its length.
        let count = unsafe clinux_get_attribute(descriptor, name, &value, limit)
        return count < 0 ? nil : Array(value.prefix(count))
    }

    /// Sets an extended attribute.
    ///
    /// - Returns: `false` if the file system does not support them.
    package func setAttribute(_ name: String, _ value: [UInt8]) throws(SystemCallError) -> Bool {
        // SAFETY: the array is passed with its length.
        if unsafe clinux_set_attribute(descriptor, name, value, value.count) == 0 { return true }
        if errno == EOPNOTSUPP || errno == ENOSYS { return false }
        throw SystemCallError("fsetxattr", path)
    }

    /// Removes an extended attribute, if there is one.
    package func removeAttribute(_ name: String) throws(SystemCallError) {
        // SAFETY: the name is passed as a C string for the length of the call.
        if unsafe clinux_remove_attribute(descriptor, name) == 0 { return }
        guard errno == ENODATA || errno == EOPNOTSUPP || errno == ENOSYS else {
            throw SystemCallError("fremovexattr", path)
        }
    }
}
