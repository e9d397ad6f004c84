// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Digests
internal import HPKE
internal import Platform
internal import Wire

/// The bytes of an export: a file can be read from any position, standard input only once.
final class ExportInput {
    let source: ExportSource
    /// Number of bytes read.
    private(set) var position: UInt64 = 0
    private let file: File?
    private let size: UInt64

    /// Size of a file in bytes; for standard input, the bytes read so far.
    var byteCount: UInt64 { file == nil ? position : size }

    init(_ source: ExportSource) throws {
        self.source = source
        guard case .file(let path) = source else {
            (file, size) = (nil, 0)
            return
        }
        let file = try File(path: path)
        let status = try file.status()
        guard status.kind == .regular else {
            throw ImportError.damaged(
                source,
                "it is no file; an export in a pipe or on a device is read with: import NAME - < \(path)"
            )
        }
        guard status.byteCount <= ExportFormat.fileLimit else {
            throw ImportError.damaged(
                source, "it has \(status.byteCount) bytes, which no export has")
        }
        (self.file, size) = (file, status.byteCount)
    }

    /// Fills part of a buffer; returns fewer bytes only at the end.
    func read(into buffer: AlignedBuffer, at offset: Int, count: Int) throws -> Int {
        let got: Int
        if let file {
            got = try file.read(at: position, into: buffer, at: offset, count: count)
        } else {
            got = try StandardStream.read(into: buffer, at: offset, count: count)
        }
        position += UInt64(got)
        return got
    }

    /// The chunks, starting with the first.
    func chunks(_ opener: Opener) throws -> ExportChunks {
        if file != nil { position = UInt64(ExportFormat.headerByteCount) }
        return try ExportChunks(self, opener)
    }
}

/// Decrypts the chunks of an export in order.
final class ExportChunks {
    private static let byteCount = ExportFormat.chunkByteCount + HPKE.tagByteCount

    private let input: ExportInput
    private let opener: Opener
    /// The next chunk is already read: only the bytes after a chunk show whether it is the last
    /// one.
    private var next: AlignedBuffer
    private var nextCount: Int
    private(set) var current = AlignedBuffer(byteCount: byteCount)
    private(set) var isLast = false

    init(_ input: ExportInput, _ opener: Opener) throws {
        self.input = input
        self.opener = opener
        next = AlignedBuffer(byteCount: Self.byteCount)
        nextCount = try input.read(into: next, at: 0, count: Self.byteCount)
    }

    /// Decrypts the next chunk into `current`.
    ///
    /// - Returns: its number of bytes.
    func open() throws -> Int {
        let count = nextCount
        swap(&next, &current)
        nextCount =
            count < Self.byteCount
            ? 0 : try input.read(into: next, at: 0, count: Self.byteCount)
        isLast = nextCount == 0
        let associated = ExportFormat.associated(isLast: isLast)
        guard count > HPKE.tagByteCount,
            current.withMutableBytes(count: count, { opener.open(&$0, associated: associated) })
        else {
            throw ImportError.damaged(
                input.source,
                "it was cut or changed, or more was written behind it: the chunk that ends at byte "
                    + "\(input.position - UInt64(nextCount)) is not what was written there (bad-chunk)"
            )
        }
        return count - HPKE.tagByteCount
    }
}

/// The content of all chunks as one stream.
final class ExportContent {
    /// Hash of the content read so far.
    var hasher = SHA256Hasher()
    /// Number of bytes read.
    private(set) var byteCount: UInt64 = 0
    private let chunks: ExportChunks
    private let source: ExportSource
    private var position = 0
    private var end = 0

    init(_ chunks: ExportChunks, _ source: ExportSource) {
        self.chunks = chunks
        self.source = source
    }

    func bytes(_ count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        try take(count) { bytes.append(contentsOf: $0.copied) }
        return bytes
    }

    func read(into memory: AlignedBuffer, at offset: Int, count: Int) throws {
        var place = offset
        try take(count) {
            memory.store($0, at: place)
            place += $0.byteCount
        }
    }

    /// Whether all content has been read.
    func isAtEnd() throws -> Bool { position == end && chunks.isLast }

    private func take(_ count: Int, _ body: (RawSpan) -> Void) throws {
        var left = count
        while left > 0 {
            if position == end {
                guard !chunks.isLast else {
                    throw ImportError.damaged(source, "its content ends early (truncated)")
                }
                (position, end) = (0, try chunks.open())
            }
            let part = min(left, end - position)
            chunks.current.withBytes(at: position, count: part) {
                hasher.update($0)
                body($0)
            }
            position += part
            left -= part
        }
        byteCount += UInt64(count)
    }
}

extension RawSpan {
    /// The bytes as an array.
    var copied: [UInt8] { (try? copyBytes(at: 0, count: byteCount)) ?? [] }
}
