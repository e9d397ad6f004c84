// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Connection
internal import Digests
internal import Platform
internal import TLS
internal import Wire

/// Reads an export file (Protocol/ExportFile.md), from which nothing is taken before all of it is proven.
final class ExportFileReader {
    let path: String
    let header: ExportFormat.Header
    let trailer: ExportFormat.Trailer
    /// Size of the whole file.
    let byteCount: UInt64
    private let file: File
    /// Where the trailer begins.
    private var end: UInt64 { trailer.statement.length }

    /// What stands between header and trailer.
    enum Frame {
        case record(RecordHeader, RecordMemory, start: Int)
        case seal(Seal)
        case commit(GenerationRecord)
    }

    /// Opens a file and checks its size, its trailer and its header.
    init(path: String) throws {
        self.path = path
        file = try File(path: path)
        let status = try file.status()
        guard status.kind == .regular else { throw ImportError.damaged(path, "it is no file") }
        byteCount = status.byteCount
        let least = ExportFormat.headerByteCount + ExportFormat.trailerByteCount
        guard byteCount >= UInt64(least), byteCount <= Limits.volumeSize else {
            throw ImportError.damaged(path, "it has \(byteCount) bytes, which no export has")
        }
        let length = byteCount - UInt64(ExportFormat.trailerByteCount)
        let last = try file.readBytes(at: length, count: ExportFormat.trailerByteCount)
        let first = try file.readBytes(at: 0, count: ExportFormat.headerByteCount)
        do throws(WireError) {
            trailer = try last.withRawSpan { (span) throws(WireError) in
                try ExportFormat.Trailer(decoding: span, length: length)
            }
            header = try first.withRawSpan { (span) throws(WireError) in
                try ExportFormat.Header(decoding: span)
            }
        } catch {
            let isEnd = error.structure == "export-trailer"
            throw ImportError.damaged(
                path,
                (isEnd ? "it was cut, or is no export (" : "it is no whole export (") + "\(error))")
        }
    }

    /// Whose file it is, if its key is one that an identity can have.
    var sender: KeyID? { KeyID(ofPublicKeyInfo: header.publicKeyInfo) }

    /// Checks that the file is whole, and is what the owner of the key has signed. The key itself is judged by the
    /// caller before.
    func verify(_ progress: (_ done: UInt64) -> Void) throws {
        guard
            Signatures.isValid(
                trailer.signature, of: trailer.statement.signed,
                publicKeyInfo: header.publicKeyInfo)
        else { throw ImportError.badSignature(path) }
        let memory = AlignedBuffer(byteCount: 1 << 20)
        var hasher = SHA256Hasher()
        var position: UInt64 = 0
        while position < end {
            let wanted = Int(min(UInt64(memory.byteCount), end - position))
            let got = try file.read(at: position, into: memory, count: wanted)
            guard got == wanted else { throw changed() }
            memory.withBytes(count: got) { hasher.update($0) }
            position += UInt64(got)
            progress(position)
        }
        guard hasher.finish() == trailer.statement.digest else {
            throw ImportError.damaged(
                path, "it was damaged: its content is not what was signed (file-digest)")
        }
    }

    // MARK: Frames

    /// Calls back with each frame in order; with COMMIT only once all bytes were those that were verified.
    func forEach(_ body: (Frame) throws -> Void) throws {
        let memory = RecordMemory()
        var order = ExportFormat.FrameOrder()
        var hasher = SHA256Hasher()
        hasher.update(header.encoded())
        var position = UInt64(ExportFormat.headerByteCount)
        while !order.isComplete {
            let bytes = try read(at: position, count: Limits.frameHeader)
            let frame = try decoding {
                try bytes.withRawSpan { (span) throws(WireError) in
                    try FrameHeader(decoding: span, expecting: order.sequence)
                }
            }
            guard order.take(frame.type) else {
                throw ImportError.damaged(path, "frame \(frame.sequence): wrong-state")
            }
            hasher.update(bytes)
            position += UInt64(Limits.frameHeader)
            guard UInt64(frame.payloadLength) <= end - position else { throw ended() }
            let next = position + UInt64(frame.payloadLength)
            switch frame.type {
            case .record:
                let start = try readRecord(frame, at: position, memory, &hasher)
                let record = try decoding {
                    try memory.memory.withBytes(at: start, count: frame.payloadLength) {
                        (span) throws(WireError) in
                        try RecordHeader(decoding: span, recordLength: frame.payloadLength)
                    }
                }
                try body(.record(record, memory, start: start))
            case .seal:
                try body(.seal(try message(frame, at: position, &hasher)))
            default:
                let record: GenerationRecord = try message(frame, at: position, &hasher)
                guard next == end else {
                    throw ImportError.damaged(path, "frame \(frame.sequence): trailing-bytes")
                }
                guard record.id == trailer.statement.generation else {
                    throw ImportError.damaged(path, "frame \(frame.sequence): generation-id")
                }
                guard hasher.finish() == trailer.statement.digest else { throw changed() }
                try body(.commit(record))
            }
            position = next
        }
    }

    private func message<Value: Message>(
        _ frame: FrameHeader, at position: UInt64, _ hasher: inout SHA256Hasher
    ) throws -> Value {
        let payload = try read(at: position, count: frame.payloadLength)
        hasher.update(payload)
        return try decoding {
            try payload.withRawSpan { (span) throws(WireError) in
                try frame.check(payload: span)
                return try Value(decoding: span)
            }
        }
    }

    /// Reads a record so that its stored bytes begin where direct I/O wants them.
    ///
    /// - Returns: where the record begins in the memory.
    private func readRecord(
        _ frame: FrameHeader, at position: UInt64, _ memory: RecordMemory,
        _ hasher: inout SHA256Hasher
    ) throws -> Int {
        let first = try read(
            at: position, count: min(frame.payloadLength, Limits.recordHeader))
        // Not checked yet; a wrong count of tags only moves the bytes, within the memory.
        let tags = first.withRawSpan { (try? $0.littleEndian(at: 2, as: UInt16.self)) ?? 0 }
        let start =
            RecordMemory.contentStart - Limits.recordHeader - min(Int(tags), Limits.recordTags) * 16
        let got = try file.read(
            at: position, into: memory.memory, at: start, count: frame.payloadLength)
        guard got == frame.payloadLength else { throw changed() }
        memory.memory.withBytes(at: start, count: got) { hasher.update($0) }
        try decoding {
            try memory.memory.withBytes(at: start, count: got) { (span) throws(WireError) in
                try frame.check(payload: span)
            }
        }
        return start
    }

    private func read(at position: UInt64, count: Int) throws -> [UInt8] {
        guard UInt64(count) <= end - position else { throw ended() }
        let bytes = try file.readBytes(at: position, count: count)
        guard bytes.count == count else { throw changed() }
        return bytes
    }

    private func decoding<Value>(_ body: () throws -> Value) throws -> Value {
        do { return try body() } catch let error as WireError {
            throw ImportError.damaged(path, "\(error)")
        }
    }

    private func ended() -> ImportError {
        .damaged(path, "its frames do not end where the trailer begins (truncated)")
    }

    private func changed() -> ImportError {
        .damaged(
            path,
            "it was changed or cannot be read as before, after it was found whole; nothing was committed"
        )
    }
}
