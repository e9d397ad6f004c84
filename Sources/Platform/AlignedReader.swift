// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

/// Reads any range of a file through direct I/O, which itself requires aligned ranges.
///
/// Aligned ranges are read directly into the caller's memory, ragged ones through a page-aligned
/// buffer.
package final class AlignedReader {
    /// The file to read.
    package let file: File
    /// Size in bytes.
    package let byteCount: UInt64
    private let bounce = AlignedBuffer(byteCount: (1 << 20) + AlignedBuffer.alignment)

    /// Opens `path` for reading.
    package init(path: String, _ options: File.Options = []) throws(SystemCallError) {
        file = try File(openingDirect: path, options)
        byteCount = try file.status().byteCount
    }

    /// Path of the file, for messages.
    package var path: String { file.path }

    /// The kernel's facts about the file.
    package func status() throws(SystemCallError) -> FileStatus { try file.status() }

    /// The next range that may hold data; see `File.nextData`.
    package func nextData(from offset: UInt64) throws(SystemCallError) -> Range<UInt64>? {
        try file.nextData(from: offset, size: byteCount)
    }

    /// Reads `count` bytes from `offset` into `memory` at `position`; a range past the end is an
    /// error.
    package func read(
        at offset: UInt64, into memory: AlignedBuffer, at position: Int, count: Int
    ) throws(SystemCallError) {
        let unit = AlignedBuffer.alignment
        let rounded = (count + unit - 1) / unit * unit
        if offset % UInt64(unit) == 0, position % unit == 0, position + rounded <= memory.byteCount,
            rounded == count || offset + UInt64(count) == byteCount
        {
            let got = try file.read(at: offset, into: memory, at: position, count: rounded)
            guard got >= count else { throw ended(at: offset + UInt64(got)) }
            return
        }
        var done = 0
        while done < count {
            let from = offset + UInt64(done)
            let start = from / UInt64(unit) * UInt64(unit)
            let skip = Int(from - start)
            let part = min(count - done, bounce.byteCount - unit)
            let wanted = (skip + part + unit - 1) / unit * unit
            let got = try file.read(at: start, into: bounce, count: wanted)
            guard got >= skip + part else { throw ended(at: start + UInt64(got)) }
            memory.copy(from: bounce, at: skip, to: position + done, count: part)
            done += part
        }
    }

    private func ended(at offset: UInt64) -> SystemCallError {
        SystemCallError("pread", "\(path): it ends at byte \(offset)", code: 5)
    }
}
