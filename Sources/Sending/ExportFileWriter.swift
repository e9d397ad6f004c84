// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Digests
internal import Platform
internal import TLS
internal import Wire

/// Writes one generation into a file (Protocol/ExportFile.md).
///
/// It is made under another name, which a crash may leave; it gets its own when it is whole and the catalog
/// knows of it.
final class ExportFileWriter {
    /// Where it will be.
    let path: String
    private let partPath: String
    private let file: File
    private let lock: FileLock
    private let identity: Identity
    private var hasher = SHA256Hasher()
    private var order = ExportFormat.FrameOrder()
    private let buffer = AlignedBuffer(byteCount: 1 << 20)
    private var buffered = 0
    private var flushed: UInt64 = 0

    /// Bytes so far.
    var byteCount: UInt64 { flushed + UInt64(buffered) }

    /// Makes the file with its header.
    init(path: String, _ header: ExportFormat.Header, _ identity: Identity) throws {
        guard !Directory.exists(path) else { throw ExportError.exists(path) }
        self.path = path
        self.identity = identity
        partPath = path + ".part"
        (file, lock) = try Self.make(partPath, header)
        try write(header.encoded())
        // By its header a file that was left behind is known as ours.
        try flush()
    }

    /// Makes a new file in place of what an interrupted export has left, and of nothing else.
    private static func make(
        _ path: String, _ header: ExportFormat.Header
    ) throws -> (File, FileLock) {
        if Directory.exists(path) {
            let start = try File(path: path, [.noFollow])
                .readBytes(at: 0, count: ExportFormat.headerByteCount)
            let found = start.withRawSpan { try? ExportFormat.Header(decoding: $0) }
            guard let found, found.publicKeyInfo == header.publicKeyInfo,
                found.standby == header.standby, found.volume == header.volume
            else { throw ExportError.exists(path) }
            guard let left = try FileLock(path: path) else { throw ExportError.busy(path) }
            try Directory.remove(path)
            withExtendedLifetime(left) {}
        }
        let file = try File(path: path, [.write, .createNew])
        guard let lock = try FileLock(path: path) else { throw ExportError.busy(path) }
        return (file, lock)
    }

    // MARK: Frames

    /// Adds a record whose stored bytes lie at `offset` of `content`.
    func write(_ record: RecordHeader, _ content: AlignedBuffer?, at offset: Int) throws {
        let prefix = record.encoded()
        let count = record.storedLength
        var checksum = XXH3Stream()
        prefix.withRawSpan { checksum.update($0) }
        if let content, count > 0 {
            content.withBytes(at: offset, count: count) { checksum.update($0) }
        }
        try writeHeader(.record, prefix.count + count, checksum.finish())
        try write(prefix)
        if let content, count > 0 {
            try content.withBytes(at: offset, count: count) { (span) throws in try write(span) }
        }
    }

    /// Adds a message.
    func write(_ message: some Message) throws {
        let payload = message.encoded()
        try writeHeader(
            type(of: message).type, payload.count, payload.withRawSpan { XXH3.hash($0) })
        try write(payload)
    }

    private func writeHeader(_ type: FrameType, _ length: Int, _ checksum: UInt64) throws {
        let sequence = order.sequence
        precondition(order.take(type), "frames stand in the order of the wire")
        try write(
            FrameHeader(
                type: type, payloadLength: length, sequence: sequence, payloadChecksum: checksum
            ).encoded())
    }

    // MARK: Ending

    /// Signs the file, whose last frame is COMMIT, and makes it durable under the other name.
    func finish(_ record: GenerationRecord) throws {
        precondition(order.isComplete, "the last frame is COMMIT")
        let statement = ExportFormat.Statement(
            length: byteCount, digest: hasher.finish(), generation: record.id)
        try write(
            ExportFormat.Trailer(
                statement: statement, signature: identity.signature(of: statement.signed)
            ).encoded())
        try flush()
        try file.sync()
    }

    /// Gives the finished file its name, durably.
    func publish() throws {
        do { try Directory.moveNew(partPath, to: path) } catch {
            guard error.isExisting else { throw error }
            throw ExportError.exists(path)
        }
    }

    /// Removes what was written.
    func remove() { try? Directory.remove(partPath) }

    // MARK: Bytes

    private func write(_ bytes: [UInt8]) throws {
        try bytes.withRawSpan { (span) throws in try write(span) }
    }

    private func write(_ span: RawSpan) throws {
        hasher.update(span)
        var done = 0
        while done < span.byteCount {
            let part = min(span.byteCount - done, buffer.byteCount - buffered)
            buffer.store(span.extracting(done..<done + part), at: buffered)
            buffered += part
            done += part
            if buffered == buffer.byteCount { try flush() }
        }
    }

    private func flush() throws {
        try file.write(buffer, count: buffered, at: flushed)
        flushed += UInt64(buffered)
        buffered = 0
    }
}
