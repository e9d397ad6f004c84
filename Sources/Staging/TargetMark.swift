// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
package import Platform

/// The owner of a target file, written at registration to the extended attribute
/// `user.blockferry.target`. A copy that keeps attributes carries it too; together with the inode
/// it identifies one file.
package struct TargetMark: Equatable, Sendable {
    private static let attribute = "user.blockferry.target"

    /// Path of the state directory, without symbolic links.
    package var state: String
    /// Name of the volume.
    package var volume: String
    /// 32 hexadecimal digits, drawn at registration.
    package let random: String

    /// A new mark.
    package init(state: String, volume: String) {
        self.state = state
        self.volume = volume
        random = Hex.encode(SecureRandom.bytes(16))
    }

    /// Reads the mark of a file; `nil` if there is none or it is malformed.
    package init?(on file: File) {
        guard let bytes = file.attribute(Self.attribute),
            let text = String(validating: bytes, as: UTF8.self)
        else { return nil }
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        guard lines.count == 3, lines[2].utf8.count == 32,
            lines[2].utf8.allSatisfy({ (0x30...0x39).contains($0) || (0x61...0x66).contains($0) })
        else { return nil }
        state = String(lines[0])
        volume = String(lines[1])
        random = String(lines[2])
    }

    /// The marks on the files behind the loop devices below a file or device.
    package static func below(_ stack: StorageStack) -> [TargetMark] {
        stack.backingFiles.compactMap { path in
            (try? File(path: path)).flatMap { TargetMark(on: $0) }
        }
    }

    /// Writes the mark to a file and flushes it.
    ///
    /// - Returns: `false` if the file system does not support attributes.
    package func write(on file: File) throws(SystemCallError) -> Bool {
        let text = "\(state)\n\(volume)\n\(random)"
        guard !state.utf8.contains(0x0A),
            try file.setAttribute(Self.attribute, Array(text.utf8))
        else { return false }
        try file.syncAll()
        return true
    }

    /// Removes the mark from a file.
    package static func remove(from file: File) throws(SystemCallError) {
        try file.removeAttribute(attribute)
        try file.syncAll()
    }
}
