// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Blocks
package import Platform

/// Any file or block device, read as it is.
///
/// It must not be written while it is sent. Nothing tells what changed since an earlier time but a comparison of all
/// content with the tag map of what was sent.
package final class PlainSource: Source {
    private let reader: AlignedReader
    package let summary: String
    package let time: UInt64
    /// A regular file is identified by place, size and time of the last write; a device by nothing.
    package let identity: String?
    package var volumeByteCount: UInt64 { reader.byteCount }

    /// Opens a file or device.
    package init(path: String) throws(SourceError) {
        do throws(SystemCallError) {
            reader = try AlignedReader(path: path)
            let status = try reader.status()
            guard status.kind == .regular || status.kind == .blockDevice else {
                throw SystemCallError("open", path, code: 22)
            }
            time = status.modifiedAt ?? Clock.wall()
            identity = status.contentIdentity.map { "plain \($0)" }
        } catch {
            throw .unreadable(error)
        }
        guard reader.byteCount > 0 else { throw .invalid(path: path, reason: "it is empty") }
        summary = "plain \(path)"
    }

    package var provesChanges: Bool { false }

    package func forEachExtent(_ body: (Change) throws -> Void) throws {
        var coalescer = ChangeCoalescer(volumeByteCount: volumeByteCount)
        var position: UInt64 = 0
        while position < volumeByteCount {
            // Holes begin and end where the file system likes; extents on sectors.
            let data = try reader.nextData(from: position)
            let start = (data?.lowerBound ?? volumeByteCount) / 512 * 512
            let hole = data == nil ? volumeByteCount : start
            if let extent = Extent(from: position, upTo: hole),
                let done = coalescer.add(Change(extent, .unmapped))
            {
                try body(done)
            }
            guard let data else { break }
            let end = min((data.upperBound + 511) / 512 * 512, volumeByteCount)
            if let extent = Extent(from: max(start, position), upTo: end),
                let done = coalescer.add(Change(extent, .data))
            {
                try body(done)
            }
            position = end
        }
        if let last = coalescer.finish() { try body(last) }
    }

    package func forEachChange(since base: String, _ body: (Change) throws -> Void) throws {
        try forEachExtent(body)
    }

    package func read(_ extent: Extent, into memory: AlignedBuffer) throws {
        try reader.read(at: extent.offset, into: memory, at: 0, count: Int(extent.length))
    }
}
