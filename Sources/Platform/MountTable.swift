// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// The mounts that a process sees: two processes in different namespaces, such as a shell and a
/// sandboxed service, may see different files at one path.
package struct MountTable {
    /// The location that a path leads to.
    package struct Place: Equatable, Sendable {
        /// Device numbers of the file system.
        package let device: String
        /// Path within the file system.
        package let path: String
        /// Whether this mount is read-only.
        package let isReadOnly: Bool
    }

    private struct Mount {
        let point: String
        let device: String
        let root: String
        let isReadOnly: Bool
    }

    private let mounts: [Mount]

    /// Parses `/proc/PID/mountinfo` (proc_pid_mountinfo(5)); skips malformed lines.
    package init(_ text: String) {
        mounts = text.split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ", omittingEmptySubsequences: false)
            guard words.count >= 6 else { return nil }
            return Mount(
                point: Self.plain(words[4]), device: String(words[2]), root: Self.plain(words[3]),
                isReadOnly: words[5].split(separator: ",").contains("ro"))
        }
    }

    /// The table of this process; `nil` if the kernel does not provide it.
    package static var own: [UInt8]? {
        let file = try? File(path: "/proc/self/mountinfo")
        return try? file?.readBytes(at: 0, count: 1 << 20)
    }

    /// Location of an absolute path without symbolic links; `nil` if no mount contains it.
    package func place(of path: String) -> Place? {
        // A later mount covers earlier ones.
        var best: Mount?
        for mount in mounts where Self.rest(of: path, below: mount.point) != nil {
            if mount.point.utf8.count >= best?.point.utf8.count ?? 0 { best = mount }
        }
        guard let best, let rest = Self.rest(of: path, below: best.point) else { return nil }
        let root = best.root == "/" ? "" : best.root
        return Place(
            device: best.device, path: root + rest, isReadOnly: best.isReadOnly)
    }

    /// The rest of a path below `point`, with its leading slash; `nil` if it is not below.
    private static func rest(of path: String, below point: String) -> String? {
        let prefix = point == "/" ? "" : point
        guard path.hasPrefix(prefix) else { return nil }
        let rest = path.dropFirst(prefix.count)
        return rest.isEmpty || rest.hasPrefix("/") ? String(rest) : nil
    }

    /// Decodes the kernel's escapes: a backslash and three octal digits.
    private static func plain(_ word: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = Array(word.utf8)[...]
        while let byte = rest.popFirst() {
            let digits = rest.prefix(3)
            if byte == UInt8(ascii: "\\"), digits.count == 3,
                let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 8)
            {
                bytes.append(value)
                rest = rest.dropFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
