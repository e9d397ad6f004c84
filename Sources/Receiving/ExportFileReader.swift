// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Connection
internal import Digests
internal import HPKE
internal import Platform
internal import TLS
internal import Wire

/// Origin of an export.
package enum ExportSource: Equatable, Sendable, CustomStringConvertible {
    case file(String)
    case standardInput

    package var description: String {
        switch self {
        case .file(let path): path
        case .standardInput: "standard input"
        }
    }
}

/// Reads an export file (Protocol/ExportFile.md): its header, then its content, any number of times
/// if it is a file. It returns no content before that is proven to be the sender's.
final class ExportFileReader {
    let header: ExportFormat.Header
    private let headerBytes: [UInt8]
    private let input: ExportInput
    private var source: ExportSource { input.source }

    /// A frame of the content.
    enum Frame {
        case begin(Begin)
        case record(RecordHeader, RecordMemory, start: Int)
        case seal(Seal)
        /// Follows only if all bytes are those that the sender signed, and nothing follows them.
        case commit(GenerationRecord)
    }

    /// Opens a file or starts reading standard input, and checks the header.
    init(_ source: ExportSource) throws {
        input = try ExportInput(source)
        let memory = AlignedBuffer(byteCount: ExportFormat.headerByteCount)
        let count = try input.read(into: memory, at: 0, count: memory.byteCount)
        let bytes = memory.withBytes(count: count) { $0.copied }
        if let format = bytes.withRawSpan({ ExportFormat.Header.format(of: $0) }), format != 2 {
            throw ImportError.otherFormat(source, format)
        }
        guard count == memory.byteCount else {
            throw ImportError.damaged(
                source, "it has \(count) bytes, which no export has (truncated)")
        }
        do throws(WireError) {
            header = try bytes.withRawSpan { (span) throws(WireError) in
                try ExportFormat.Header(decoding: span)
            }
        } catch {
            throw ImportError.damaged(source, "it is no whole export (\(error))")
        }
        headerBytes = bytes
    }

    /// Whether the content can be read again.
    var isRepeatable: Bool { source != .standardInput }

    /// Size of a file in bytes; for standard input, the bytes read so far.
    var byteCount: UInt64 { input.byteCount }

    /// The sender's key id; `nil` if the key in the header cannot be an identity's.
    var sender: KeyID? { KeyID(ofPublicKeyInfo: header.envelope.publicKeyInfo) }

    /// Checks that the owner of the key in the header has signed it, so only the owner and the
    /// standby can have made the chunks. The caller checks the key itself first.
    func checkSignature() throws {
        try check(header.signature, of: header.envelope.signed)
    }

    private func check(_ signature: [UInt8], of message: [UInt8]) throws {
        guard
            Signatures.isValid(
                signature, of: message, publicKeyInfo: header.envelope.publicKeyInfo)
        else { throw ImportError.badSignature(source) }
    }

    /// Passes each frame to the closure, in order.
    ///
    /// - Parameter progress: receives the bytes of the file read so far.
    func forEach(
        _ key: RecipientKey, _ progress: (UInt64) -> Void = { _ in },
        _ body: (Frame) throws -> Void
    ) throws {
        guard
            let opener = HPKE.open(
                header.envelope.encapsulated, with: key, info: header.envelope.info)
        else { throw ImportError.damaged(source, "its encapsulated key is none (bad-chunk)") }
        let content = ExportContent(try input.chunks(opener), source)
        content.hasher.update(headerBytes)
        let memory = RecordMemory()
        var order = ExportFormat.FrameOrder()
        while true {
            let bytes = try content.bytes(Limits.frameHeader)
            let frame = try decoding {
                try bytes.withRawSpan { (span) throws(WireError) in
                    try FrameHeader(decoding: span, expecting: order.sequence)
                }
            }
            guard order.take(frame.type) else {
                throw ImportError.damaged(source, "frame \(frame.sequence): wrong-state")
            }
            switch frame.type {
            case .begin:
                let begin: Begin = try message(frame, content)
                try decoding { try ExportFormat.check(begin) }
                try body(.begin(begin))
            case .record:
                let start = try readRecord(frame, memory, content)
                let record = try decoding {
                    try memory.memory.withBytes(at: start, count: frame.payloadLength) {
                        (span) throws(WireError) in
                        try RecordHeader(decoding: span, recordLength: frame.payloadLength)
                    }
                }
                try body(.record(record, memory, start: start))
            case .seal:
                try body(.seal(try message(frame, content)))
            default:
                let record: GenerationRecord = try message(frame, content)
                try checkEnd(content, record)
                progress(byteCount)
                return try body(.commit(record))
            }
            progress(input.position)
        }
    }

    /// Checks the trailer, and that nothing follows it.
    private func checkEnd(_ content: ExportContent, _ record: GenerationRecord) throws {
        let length = content.byteCount
        let digest = content.hasher.finish()
        let bytes = try content.bytes(ExportFormat.trailerByteCount)
        let trailer = try decoding {
            try bytes.withRawSpan { (span) throws(WireError) in
                try ExportFormat.Trailer(decoding: span, length: length)
            }
        }
        guard try content.isAtEnd() else {
            throw ImportError.damaged(source, "something follows the trailer (trailing-bytes)")
        }
        guard trailer.statement.generation == record.id else {
            throw ImportError.damaged(
                source, "the trailer is of another generation (generation-id)")
        }
        guard trailer.statement.digest == digest else {
            throw ImportError.damaged(source, "its content is not what was signed (file-digest)")
        }
        try check(trailer.signature, of: trailer.statement.signed)
    }

    private func message<Value: Message>(
        _ frame: FrameHeader, _ content: ExportContent
    ) throws -> Value {
        let payload = try content.bytes(frame.payloadLength)
        return try decoding {
            try payload.withRawSpan { (span) throws(WireError) in
                try frame.check(payload: span)
                return try Value(decoding: span)
            }
        }
    }

    /// Reads a record so that its stored bytes start at an offset suitable for direct I/O.
    ///
    /// - Returns: start of the record in the memory.
    private func readRecord(
        _ frame: FrameHeader, _ memory: RecordMemory, _ content: ExportContent
    ) throws -> Int {
        let first = try content.bytes(min(frame.payloadLength, Limits.recordHeader))
        // Not checked yet; a wrong count of tags only shifts the bytes within the memory.
        let tags = first.withRawSpan { (try? $0.littleEndian(at: 2, as: UInt16.self)) ?? 0 }
        let start =
            RecordMemory.contentStart - Limits.recordHeader - min(Int(tags), Limits.recordTags) * 16
        first.withRawSpan { memory.memory.store($0, at: start) }
        try content.read(
            into: memory.memory, at: start + first.count, count: frame.payloadLength - first.count)
        try decoding {
            try memory.memory.withBytes(at: start, count: frame.payloadLength) {
                (span) throws(WireError) in try frame.check(payload: span)
            }
        }
        return start
    }

    private func decoding<Value>(_ body: () throws -> Value) throws -> Value {
        do { return try body() } catch let error as WireError {
            throw ImportError.damaged(source, "\(error)")
        }
    }
}
