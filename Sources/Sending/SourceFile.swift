// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Objects
internal import Platform
internal import Wire

/// A file or device that a source is read from: what it is, and whether it is still what was opened.
struct SourceFile {
    let file: File
    /// Which one it is.
    let object: ObjectIdentity.Facts
    /// What proves its content; empty where nothing does, as of every device.
    let content: ObjectIdentity.Facts
    /// Size and times of a regular file when it was opened, whether they prove anything or not.
    private let stamp: ObjectIdentity.Facts?
    private let byteCount: UInt64

    /// Flushes the file and asks for its facts. What is read of it must be read through `file`, or what `FileBytes` makes
    /// of that: a path may lead elsewhere a moment later.
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
            // Flushes the file where it proves something; a flush takes as long as a disk does.
            content = try file.contentFacts()
            if content.isEmpty { try file.sync() }
            stamp = content.isEmpty ? try file.stamp() : content
        }
    }

    /// Flushes once more and refuses what was written since.
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
    /// The same facts of one file among several.
    func named(_ part: String) -> Self {
        Self(uniqueKeysWithValues: map { ("\(part)-\($0.key)", $0.value) })
    }

    /// The facts whose names begin with that of a part.
    func of(_ part: String) -> Self { filter { $0.key.hasPrefix("\(part)-") } }

    /// These and others, which have other names.
    func and(_ others: Self) -> Self { merging(others) { mine, _ in mine } }
}
