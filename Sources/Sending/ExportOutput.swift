// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Platform
internal import TLS
internal import Wire

/// Destination of an export.
protocol ExportOutput: AnyObject {
    /// Bytes not yet passed on.
    var buffer: OutputBuffer { get }
    /// Completes everything but `publish`; `last` writes the end.
    func prepare(_ last: () throws -> Void) throws
    /// Publishes the output. From here on it can be imported.
    func publish() throws
    /// Removes the output as far as possible.
    func remove()
}

extension ExportOutput {
    /// Bytes written so far.
    var byteCount: UInt64 { buffer.byteCount }
    func write(_ span: RawSpan) throws { try buffer.write(span) }
    /// Passes the buffered bytes on.
    func flush() throws { try buffer.flush() }
}

/// Collects small writes and passes them on in large pieces.
final class OutputBuffer {
    private let memory = AlignedBuffer(byteCount: 1 << 20)
    private var count = 0
    private var flushed: UInt64 = 0
    private let put: (_ memory: AlignedBuffer, _ count: Int, _ position: UInt64) throws -> Void

    /// Bytes written so far.
    var byteCount: UInt64 { flushed + UInt64(count) }

    init(
        _ put: @escaping (_ memory: AlignedBuffer, _ count: Int, _ position: UInt64) throws -> Void
    ) {
        self.put = put
    }

    func write(_ span: RawSpan) throws {
        if count + span.byteCount > memory.byteCount { try flush() }
        memory.store(span, at: count)
        count += span.byteCount
    }

    func flush() throws {
        try put(memory, count, flushed)
        flushed += UInt64(count)
        count = 0
    }
}

/// A file, written under a temporary name, which a crash may leave behind. It gets its final name
/// once it is complete and the catalog has recorded it.
final class ExportFileOutput: ExportOutput {
    private let path: String
    private let partPath: String
    private let file: File
    private let lock: FileLock
    let buffer: OutputBuffer

    init(path: String, _ envelope: ExportFormat.Envelope) throws {
        guard !Directory.exists(path) else { throw ExportError.exists(path) }
        self.path = path
        partPath = path + ".part"
        let (file, lock) = try Self.make(partPath, envelope)
        (self.file, self.lock) = (file, lock)
        buffer = OutputBuffer { try file.write($0, count: $1, at: $2) }
    }

    /// Makes a new file and replaces only what an interrupted export left behind.
    private static func make(
        _ path: String, _ envelope: ExportFormat.Envelope
    ) throws -> (File, FileLock) {
        if Directory.exists(path) {
            let start = try File(path: path, [.noFollow])
                .readBytes(at: 0, count: ExportFormat.headerByteCount)
            let found = start.withRawSpan { try? ExportFormat.Header(decoding: $0) }
            guard let found, found.envelope.publicKeyInfo == envelope.publicKeyInfo,
                found.envelope.standby == envelope.standby,
                found.envelope.volume == envelope.volume,
                Signatures.isValid(
                    found.signature, of: found.envelope.signed,
                    publicKeyInfo: envelope.publicKeyInfo)
            else { throw ExportError.exists(path) }
            guard let left = try FileLock(path: path) else { throw ExportError.busy(path) }
            try Directory.remove(path)
            withExtendedLifetime(left) {}
        }
        let file = try File(path: path, [.write, .createNew])
        guard let lock = try FileLock(path: path) else { throw ExportError.busy(path) }
        return (file, lock)
    }

    func prepare(_ last: () throws -> Void) throws {
        try last()
        try flush()
        try file.sync()
    }

    func publish() throws {
        do { try Directory.moveNew(partPath, to: path) } catch {
            guard error.isExisting else { throw error }
            throw ExportError.exists(path)
        }
    }

    func remove() { try? Directory.remove(partPath) }
}

/// Standard output. Its end is written once the catalog has recorded it: from then on the reader
/// can import it.
final class ExportStreamOutput: ExportOutput {
    let buffer = OutputBuffer { memory, count, _ in try StandardStream.write(memory, count: count) }

    func prepare(_ last: () throws -> Void) throws {
        try flush()
        // The end stays in the buffer until `publish`.
        try last()
    }

    func publish() throws {
        do { try flush() } catch { throw ExportError.cut("\(error)") }
        try StandardStream.syncOutput()
    }

    func remove() {}
}
