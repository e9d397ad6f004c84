// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Digests
package import Platform

/// What is written on a target file when it is registered, in the extended attribute `user.blockferry.target`: whose it
/// is. A copy of the file that keeps attributes has it too; with the inode it names one file.
package struct TargetMark: Equatable, Sendable {
    private static let attribute = "user.blockferry.target"

    /// The state directory, without symbolic links.
    package var state: String
    /// The volume.
    package var volume: String
    /// 32 hexadecimal digits, drawn at registration.
    package let random: String

    /// A new mark.
    package init(state: String, volume: String) {
        self.state = state
        self.volume = volume
        random = Hex.encode(SecureRandom.bytes(16))
    }

    /// The mark on a file; nothing if there is none, or something else.
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

    /// The marks on the files that the loop devices below a file or device are made of.
    package static func below(_ stack: StorageStack) -> [TargetMark] {
        stack.backingFiles.compactMap { path in
            (try? File(path: path)).flatMap { TargetMark(on: $0) }
        }
    }

    /// Writes it on a file and flushes that.
    ///
    /// - Returns: false if the file system keeps no attributes.
    package func write(on file: File) throws(SystemCallError) -> Bool {
        let text = "\(state)\n\(volume)\n\(random)"
        guard !state.utf8.contains(0x0A),
            try file.setAttribute(Self.attribute, Array(text.utf8))
        else { return false }
        try file.syncAll()
        return true
    }

    /// Takes the mark off a file.
    package static func remove(from file: File) throws(SystemCallError) {
        try file.removeAttribute(attribute)
        try file.syncAll()
    }
}
