// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Platform
internal import TLS
internal import Wire

/// Where an export goes.
protocol ExportOutput: AnyObject {
    /// What was written and not handed on yet.
    var buffer: OutputBuffer { get }
    /// Brings everything to where only `publish` is missing; `last` writes the end.
    func prepare(_ last: () throws -> Void) throws
    /// From here on anybody can have it.
    func publish() throws
    /// Removes what was written, as far as that is possible.
    func remove()
}

extension ExportOutput {
    /// Bytes so far.
    var byteCount: UInt64 { buffer.byteCount }
    func write(_ span: RawSpan) throws { try buffer.write(span) }
    /// Hands on what was written.
    func flush() throws { try buffer.flush() }
}

/// Collects what is written, and hands it on in large pieces.
final class OutputBuffer {
    private let memory = AlignedBuffer(byteCount: 1 << 20)
    private var count = 0
    private var flushed: UInt64 = 0
    private let put: (_ memory: AlignedBuffer, _ count: Int, _ position: UInt64) throws -> Void

    /// Bytes so far.
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

/// A file. It is made under another name, which a crash may leave; it gets its own when it is whole and the catalog knows
/// of it.
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

    /// Makes a new file in place of what an interrupted export has left, and of nothing else.
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

/// Standard output. Its end is written when the catalog knows of it: who reads it can import it from then on.
final class ExportStreamOutput: ExportOutput {
    let buffer = OutputBuffer { memory, count, _ in try StandardStream.write(memory, count: count) }

    func prepare(_ last: () throws -> Void) throws {
        try flush()
        // It stays in the buffer.
        try last()
    }

    func publish() throws {
        do { try flush() } catch { throw ExportError.cut("\(error)") }
        try StandardStream.syncOutput()
    }

    func remove() {}
}
