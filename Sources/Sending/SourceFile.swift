// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Objects
internal import Platform
internal import Wire

/// A file or device that a source reads: its identity, and whether it is unchanged since it was
/// opened.
struct SourceFile {
    let file: File
    /// Facts that identify it.
    let object: ObjectIdentity.Facts
    /// Facts that prove its content; empty if there are none, as for every device.
    let content: ObjectIdentity.Facts
    /// Size and times of a regular file when it was opened, even if they prove nothing.
    private let stamp: ObjectIdentity.Facts?
    private let byteCount: UInt64

    /// Flushes the file and reads its facts. Read its content only through `file`, or through a
    /// `FileBytes` made of that: the path may lead elsewhere a moment later.
    init(_ file: File) throws(SystemCallError) {
        self.file = file
        let status = try file.status()
        byteCount = status.byteCount
        if let device = status.device {
            try file.sync()
            object = BlockDevice(device).objectFacts
            content = [:]
            stamp = nil
        } else {
            object = try file.objectFacts()
            // Flushes the file if that proves something; a flush can take long.
            content = try file.contentFacts()
            if content.isEmpty { try file.sync() }
            stamp = content.isEmpty ? try file.stamp() : content
        }
    }

    /// Flushes again and refuses a file written since it was opened.
    func confirm() throws(SourceError) {
        let isSame = try SourceError.reading { () throws(SystemCallError) in
            try file.sync()
            let now = stamp == nil ? nil : try file.stamp()
            let size = try file.status().byteCount
            return now == stamp && size == byteCount
        }
        guard isSame else {
            throw .refused(
                .sourceChanged, path: file.path,
                reason:
                    "it was written while it was sent, so that what was read is no point in time. Nothing was "
                    + "committed, and the copy is as it was; send again when nobody writes to it")
        }
    }
}

extension ObjectIdentity.Facts {
    /// The same facts, prefixed with the name of a part.
    func named(_ part: String) -> Self {
        Self(uniqueKeysWithValues: map { ("\(part)-\($0.key)", $0.value) })
    }

    /// The facts of one part, by its prefix.
    func of(_ part: String) -> Self { filter { $0.key.hasPrefix("\(part)-") } }

    /// Adds facts with other names.
    func and(_ others: Self) -> Self { merging(others) { mine, _ in mine } }
}
