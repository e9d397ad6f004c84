// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

internal import Blocks
internal import Catalog
internal import Digests
internal import HPKE
internal import Platform
internal import TLS
internal import Wire

/// Writes one generation into a file, encrypted to the standby (Protocol/ExportFile.md).
final class ExportFileWriter {
    private let output: any ExportOutput
    private let identity: Identity
    private let sealer: Sealer
    private var hasher = SHA256Hasher()
    private var order = ExportFormat.FrameOrder()
    /// Content of the current chunk, with room for the tag.
    private let chunk = AlignedBuffer(
        byteCount: ExportFormat.chunkByteCount + HPKE.tagByteCount)
    private var filled = 0
    private var contentByteCount: UInt64 = 0

    /// Bytes written so far.
    var byteCount: UInt64 { output.byteCount }

    /// Writes the header.
    ///
    /// - Parameter make: makes the output for this sender and receiver.
    init(
        to receiver: Receiver, recipient: X25519Key, _ volume: VolumeName, _ identity: Identity,
        _ make: (ExportFormat.Envelope) throws -> any ExportOutput
    ) throws {
        var envelope: ExportFormat.Envelope?
        let sealing = HPKE.seal(to: recipient) { encapsulated in
            let made = ExportFormat.Envelope(
                standby: receiver.key, recipient: recipient, encapsulated: encapsulated,
                publicKeyInfo: identity.publicKeyInfo, volume: volume)
            envelope = made
            return made.info
        }
        guard let sealing, let envelope else { throw ExportError.badExportKey(receiver.name) }
        sealer = sealing.sealer
        self.identity = identity
        output = try make(envelope)
        let header = ExportFormat.Header(
            envelope: envelope, signature: identity.signature(of: envelope.signed)
        ).encoded()
        hasher.update(header)
        try header.withRawSpan { (span) throws in try output.write(span) }
        // Write the header now: it identifies a leftover file as ours.
        try output.flush()
    }

    // MARK: Frames

    /// Adds a record whose stored bytes start at `offset` in `content`.
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

    /// Signs the file, whose last frame is COMMIT, and writes all but the last chunk. Without that
    /// chunk the file is not valid.
    func prepare(_ record: GenerationRecord) throws {
        precondition(order.isComplete, "the last frame is COMMIT")
        let statement = ExportFormat.Statement(
            length: contentByteCount, digest: hasher.finish(), generation: record.id)
        try write(
            ExportFormat.Trailer(
                statement: statement, signature: identity.signature(of: statement.signed)
            ).encoded())
        try output.prepare { () throws in try endChunk(isLast: true) }
    }

    /// Publishes the file. From here on it can be imported.
    func publish() throws { try output.publish() }

    /// Removes the output as far as possible.
    func remove() { output.remove() }

    // MARK: Bytes

    private func write(_ bytes: [UInt8]) throws {
        try bytes.withRawSpan { (span) throws in try write(span) }
    }

    private func write(_ span: RawSpan) throws {
        hasher.update(span)
        contentByteCount += UInt64(span.byteCount)
        var done = 0
        while done < span.byteCount {
            // A full chunk ends only when more content follows, because the last chunk is marked.
            if filled == ExportFormat.chunkByteCount { try endChunk(isLast: false) }
            let part = min(span.byteCount - done, ExportFormat.chunkByteCount - filled)
            chunk.store(span.extracting(done..<done + part), at: filled)
            filled += part
            done += part
        }
    }

    private func endChunk(isLast: Bool) throws {
        let count = filled + HPKE.tagByteCount
        chunk.withMutableBytes(count: count) {
            sealer.seal(&$0, associated: ExportFormat.associated(isLast: isLast))
        }
        filled = 0
        try chunk.withBytes(count: count) { (span) throws in try output.write(span) }
    }
}
