// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import Platform
import Staging
import TestSupport
import Wire

/// Records, staging logs and frames of the vectors, through the code that the daemon runs.
enum VectorRecords {
    static func record(_ bytes: [UInt8], _ context: Members) throws -> Decoded {
        let record = try bytes.withRawSpan {
            try RecordHeader(decoding: $0, recordLength: bytes.count)
        }
        if let size = context.integer("volume_size") {
            let isFull = context.json["full"].bool ?? false
            // Without the end of the record before, order is not checked.
            let previous = context.integer("previous_end") ?? (isFull ? record.offset : 0)
            try record.check(volumeSize: size, previousEnd: previous, isFull: isFull)
        } else if context.has("previous_end") {
            throw FixtureFailure("an order without a volume")
        }
        var fields: [String: Value] = [
            "kind": Value(integer: record.kind.rawValue),
            "encoding": Value(integer: record.encoding.rawValue),
            "tag_count": Value(integer: record.tags.count),
            "stored_length": Value(integer: record.storedLength),
            "offset": Value(integer: record.offset), "length": Value(integer: record.length),
            "tags": .list(record.tags.map { Value(bytes: $0.bytes) }),
        ]
        if record.kind == .data {
            guard let key = context.key("tag_key"),
                let algorithm = context.integer("tag_algorithm").flatMap({
                    TagAlgorithm(rawValue: UInt8($0))
                })
            else { throw FixtureFailure("data without a key") }
            let memory = AlignedBuffer(byteCount: bytes.count)
            memory.withMutableBytes(count: bytes.count) { output in
                for (index, byte) in bytes.enumerated() {
                    output.storeBytes(of: byte, toByteOffset: index, as: UInt8.self)
                }
            }
            let content = try ContentProof(algorithm: algorithm, key: key)
                .prove(record, in: memory, at: record.prefixLength)
            let digest = content.memory.withBytes(at: content.offset, count: content.count) {
                SHA256Digest.of($0)
            }
            fields["content_sha256"] = Value(bytes: digest.bytes)
        }
        return Decoded(
            fields: .object(fields), encoded: record.encoded() + bytes[record.prefixLength...])
    }

    static func frame(_ bytes: [UInt8], _ context: Members) throws -> Decoded {
        let (header, size) = try bytes.withRawSpan { (span) throws(WireError) in
            let header = try FrameHeader(
                decoding: span, expecting: context.integer("sequence") ?? 0)
            let size = Limits.frameHeader + header.payloadLength
            guard bytes.count >= size else { throw WireError("frame", .truncated) }
            try header.check(payload: span.extracting(Limits.frameHeader..<size))
            return (header, size)
        }
        let name = "\(header.type)".uppercased()
        let payload = [UInt8](bytes[Limits.frameHeader..<size])
        let message = try VectorMessages.decode(name, payload, context)
        guard bytes.count == size else { throw WireError("frame", .trailingBytes) }
        return Decoded(
            fields: .object([
                "type": Value(string: name), "sequence": Value(integer: header.sequence),
                "payload_length": Value(integer: header.payloadLength),
                "payload_checksum": Value(integer: header.payloadChecksum),
                "message": message.fields,
            ]), encoded: header.encoded() + message.encoded)
    }

    static func logHeader(_ bytes: [UInt8]) throws -> Decoded {
        let header = try bytes.withRawSpan { try StagingLogFormat.Header(decoding: $0) }
        return Decoded(
            fields: .object([
                "format": .number(1), "mode": Value(integer: header.mode.rawValue),
                "log_id": Value(bytes: header.id.bytes),
                "begin_length": Value(integer: header.begin.encoded().count),
                "begin": VectorMessages.fields(header.begin),
            ]), encoded: header.encoded())
    }

    static func exportHeader(_ bytes: [UInt8]) throws -> Decoded {
        let header = try bytes.withRawSpan { try ExportFormat.Header(decoding: $0) }
        let envelope = header.envelope
        return Decoded(
            fields: .object([
                "format": .number(2), "standby": Value(bytes: envelope.standby.digest.bytes),
                "recipient": Value(bytes: envelope.recipient.bytes),
                "encapsulated": Value(bytes: envelope.encapsulated.bytes),
                "key": Value(bytes: envelope.publicKeyInfo),
                "volume": Value(string: envelope.volume.text),
                "signature": Value(bytes: header.signature),
                "signed": Value(bytes: envelope.signed),
            ]), encoded: header.encoded())
    }

    static func exportTrailer(_ bytes: [UInt8], _ context: Members) throws -> Decoded {
        guard let length = context.integer("length") else {
            throw FixtureFailure("a trailer without its file")
        }
        let trailer = try bytes.withRawSpan {
            try ExportFormat.Trailer(decoding: $0, length: length)
        }
        let statement = trailer.statement
        return Decoded(
            fields: .object([
                "length": Value(integer: statement.length),
                "digest": Value(bytes: statement.digest.bytes),
                "generation_id": Value(bytes: statement.generation.bytes),
                "signature": Value(bytes: trailer.signature),
                "signed": Value(bytes: statement.signed),
            ]), encoded: trailer.encoded())
    }

    /// A segment, read from a log that has it as its only one.
    static func segment(_ bytes: [UInt8], _ context: Members) throws -> Decoded {
        guard let modeNumber = context.integer("mode"),
            let mode = StagingLogFormat.Mode(rawValue: UInt32(modeNumber)),
            let id = context.bytes("log_id").flatMap({ StagingLogID(bytes: $0) }),
            let index = context.integer("segment_index")
        else { throw FixtureFailure("a segment without its log") }
        let isFull = context.json["full"].bool ?? false
        let algorithm = context.integer("tag_algorithm").flatMap {
            TagAlgorithm(rawValue: UInt8($0))
        }
        let key = context.key("tag_key") ?? .random()
        guard
            let growth = SegmentGrowth(rawValue: UInt8(context.integer("segment_growth") ?? 0))
        else { throw FixtureFailure("a segment of no growth") }
        let begin = Begin(
            transfer: .random(),
            head: GenerationHead(
                kind: isFull ? .full : .delta, tagAlgorithm: algorithm ?? .poly1305,
                lineage: .random(), number: 1,
                parent: isFull ? .zero : .of([1]),
                volumeSize: context.integer("volume_size") ?? Limits.volumeSize, sourceTime: 0,
                sourceIdentity: ""),
            plannedContent: 0, plannedSegments: Limits.segments, heldSegments: 0,
            tagKey: isFull ? key : nil, segmentGrowth: growth)
        let folder = try TemporaryFolder()
        let header = StagingLogFormat.Header(mode: mode, id: id, begin: begin)
        let reader = try StagingLogReader(
            path: try folder.write(header.encoded() + bytes, as: "log"))
        var checker = TransferChecker(begin)
        for earlier in 0..<index {
            try checker.skip(
                Seal(
                    index: earlier, recordCount: 1, content: 0,
                    endOffset: context.integer("previous_end") ?? 0, digest: .zero))
        }
        var position = reader.start
        position.index = index
        let proof = ContentProof(algorithm: begin.head.tagAlgorithm, key: key)
        let (seal, next) = try walk(reader, position, proof, &checker)
        let span = next.byte - UInt64(StagingLogFormat.unit)
        guard case .object(var fields) = VectorMessages.fields(seal) else { throw Unreadable() }
        let stored = try bytes.withRawSpan {
            try StagingLogFormat.SegmentHeader(
                decoding: $0, logID: id, mode: mode, growth: begin.segmentGrowth, index: index,
                available: .max >> 1)
        }
        fields["record_bytes"] = Value(integer: stored.recordBytes)
        fields["size"] = Value(integer: span)
        return Decoded(
            fields: .object(fields),
            encoded: stored.encoded() + bytes[StagingLogFormat.unit...])
    }

    static func log(_ bytes: [UInt8], _ context: Members) throws -> Decoded {
        let folder = try TemporaryFolder()
        let reader: StagingLogReader
        do {
            reader = try StagingLogReader(path: try folder.write(bytes, as: "log"))
        } catch StagingLogError.damaged(_, let error) {
            throw error
        }
        let begin = reader.header.begin
        guard let key = begin.tagKey ?? context.key("tag_key") else {
            throw FixtureFailure("a log without a key")
        }
        let proof = ContentProof(algorithm: begin.head.tagAlgorithm, key: key)
        var position = reader.start
        var seals: [SHA256Digest] = []
        var sealed: [Seal] = []
        var ends = "end-of-file"
        while position.byte < UInt64(bytes.count) {
            // A segment that is not valid leaves the checker somewhere in it: each gets a new one.
            var checker = TransferChecker(begin)
            for seal in sealed { try checker.skip(seal) }
            do {
                let (seal, next) = try walk(reader, position, proof, &checker)
                sealed.append(seal)
                seals.append(seal.digest)
                position = next
            } catch let error as WireError {
                ends = error.reason.rawValue
                break
            }
        }
        return Decoded(
            fields: .object([
                "mode": Value(integer: reader.header.mode.rawValue),
                "log_id": Value(bytes: reader.header.id.bytes),
                "segments": Value(integer: seals.count),
                "end_position": Value(integer: position.byte), "ends": Value(string: ends),
                "delta_digest": Value(bytes: deltaDigest(of: seals).bytes),
            ]),
            encoded: reader.header.encoded() + bytes[StagingLogFormat.unit...])
    }

    private struct Unreadable: Error {}

    private static func walk(
        _ reader: StagingLogReader, _ position: StagingLogReader.Position, _ proof: ContentProof,
        _ checker: inout TransferChecker
    ) throws -> (seal: Seal, next: StagingLogReader.Position) {
        do {
            let nothing: StagingLogReader.RecordBody<Unreadable> = { _, _ in }
            return try reader.walk(position, proof, &checker, nothing)
        } catch {
            switch error {
            case .log(.damaged(_, let reason)): throw reason
            case .log(let other): throw other
            case .body(let never): throw never
            }
        }
    }
}
