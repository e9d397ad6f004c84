// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import TestSupport
import Wire

/// What a decoder made of a vector: fields, and the bytes that it encodes to again.
struct Decoded {
    var fields: Value
    var encoded: [UInt8]
}

private func object(_ members: [String: Value]) -> Value { .object(members) }

func decode<Kind: Message>(_ kind: Kind.Type, _ bytes: [UInt8]) throws(WireError) -> Kind {
    try bytes.withRawSpan { (span) throws(WireError) in try Kind(decoding: span) }
}

/// Decodes messages by their name, as a session does, and gives them in the vectors' form.
enum VectorMessages {
    static func decode(_ name: String, _ bytes: [UInt8], _ context: Members) throws -> Decoded {
        switch name {
        case "HELLO":
            let message = try decode(Hello.self, bytes)
            return Decoded(
                fields: object([
                    "lowest_version": Value(integer: message.lowestVersion),
                    "highest_version": Value(integer: message.highestVersion),
                    "features": Value(integer: message.features),
                    "software": Value(string: message.software),
                ]), encoded: message.encoded())
        case "WELCOME": return try welcome(bytes, context)
        case "REFUSE": return try refuse(bytes, context)
        case "OPEN":
            let message = try decode(Open.self, bytes)
            return Decoded(
                fields: object(["volume": Value(string: message.volume.text)]),
                encoded: message.encoded())
        case "STATE": return try state(bytes)
        case "BEGIN":
            let message = try decode(Begin.self, bytes)
            return Decoded(fields: fields(message), encoded: message.encoded())
        case "READY":
            let message = try decode(Ready.self, bytes)
            return Decoded(
                fields: object(["next_segment": Value(integer: message.nextSegment)]),
                encoded: message.encoded())
        case "RECORD": return try VectorRecords.record(bytes, context)
        case "SEAL":
            let message = try decode(Seal.self, bytes)
            if context.has("sealed") {
                try message.check(against: sealed(Members(context.json["sealed"])))
            }
            return Decoded(fields: fields(message), encoded: message.encoded())
        case "ACK":
            let message = try decode(Ack.self, bytes)
            return Decoded(
                fields: object(["durable_segments": Value(integer: message.durableSegments)]),
                encoded: message.encoded())
        case "COMMIT": return try commit(bytes, context)
        default: return try others(name, bytes)
        }
    }

    private static func others(_ name: String, _ bytes: [UInt8]) throws -> Decoded {
        switch name {
        case "COMMITTED":
            let message = try decode(Committed.self, bytes)
            return Decoded(
                fields: object([
                    "number": Value(integer: message.number),
                    "generation_id": Value(bytes: message.id.bytes),
                ]), encoded: message.encoded())
        case "PREPARED":
            let message = try decode(Prepared.self, bytes)
            return Decoded(
                fields: object([
                    "number": Value(integer: message.number),
                    "generation_id": Value(bytes: message.id.bytes),
                ]), encoded: message.encoded())
        case "CURRENT":
            let message = try decode(Current.self, bytes)
            return Decoded(
                fields: object([
                    "number": Value(integer: message.number),
                    "generation_id": Value(bytes: message.id.bytes),
                ]), encoded: message.encoded())
        case "ABANDON":
            let message = try decode(Abandon.self, bytes)
            return Decoded(
                fields: object(["transfer": Value(bytes: message.transfer.bytes)]),
                encoded: message.encoded())
        case "PING":
            return Decoded(fields: object([:]), encoded: try decode(Ping.self, bytes).encoded())
        case "PROGRESS":
            let message = try decode(Progress.self, bytes)
            return Decoded(
                fields: object([
                    "phase": Value(integer: message.phase.rawValue),
                    "done": Value(integer: message.done), "total": Value(integer: message.total),
                ]), encoded: message.encoded())
        case "PAIR":
            let message = try decode(Pair.self, bytes)
            return Decoded(
                fields: object([
                    "secret": Value(bytes: message.secret), "name": Value(string: message.name),
                ]), encoded: message.encoded())
        case "PAIRED":
            let message = try decode(Paired.self, bytes)
            return Decoded(
                fields: object(["volume": Value(string: message.volume.text)]),
                encoded: message.encoded())
        case "COMPARE":
            let message = try decode(Compare.self, bytes)
            return Decoded(
                fields: object([
                    "mode": Value(integer: message.mode.rawValue),
                    "tag_algorithm": Value(integer: message.algorithm.rawValue),
                    "volume_size": Value(integer: message.volumeSize),
                    "first_page": Value(integer: message.firstPage),
                    "pages": Value(integer: message.pageCount),
                    "tag_key": Value(
                        bytes: message.tagKey?.bytes
                            ?? [UInt8](repeating: 0, count: TagKey.byteCount)),
                ]), encoded: message.encoded())
        case "COMPARED":
            let message = try decode(Compared.self, bytes)
            return Decoded(
                fields: object([
                    "root": Value(bytes: message.root.bytes), "read": Value(integer: message.read),
                    "committed_size": Value(integer: message.committedSize),
                ]), encoded: message.encoded())
        case "ASK":
            let message = try decode(Ask.self, bytes)
            return Decoded(fields: object(range(message.range)), encoded: message.encoded())
        case "NODES":
            let message = try decode(Nodes.self, bytes)
            var members = range(message.range)
            members["content"] = Value(bytes: message.content)
            return Decoded(fields: object(members), encoded: message.encoded())
        case "EXPORTKEY":
            let message = try decode(ExportKey.self, bytes)
            return Decoded(
                fields: object(["key": Value(bytes: message.key.bytes)]), encoded: message.encoded()
            )
        default: throw FixtureFailure("no such message: \(name)")
        }
    }

    private static func range(_ range: NodeRange) -> [String: Value] {
        [
            "level": Value(integer: range.level), "index": Value(integer: range.index),
            "count": Value(integer: range.count),
        ]
    }

    private static func decode<Kind: Message>(_ kind: Kind.Type, _ bytes: [UInt8]) throws -> Kind {
        try WireTests.decode(kind, bytes)
    }

    private static func refuse(_ bytes: [UInt8], _ context: Members) throws -> Decoded {
        let offered = context.integer("hello_features").map { UInt32($0) } ?? .max
        let message = try bytes.withRawSpan {
            try Refusal(decoding: $0, offered: Features(rawValue: offered))
        }
        return Decoded(
            fields: object([
                "code": Value(integer: message.code.rawValue),
                "retry_after": Value(integer: message.retryAfter),
                "rule": Value(string: message.rule), "text": Value(string: message.text),
            ]), encoded: message.encoded())
    }

    private static func welcome(_ bytes: [UInt8], _ context: Members) throws -> Decoded {
        let offered: Hello? =
            context.has("hello_lowest") || context.has("hello_features")
            ? Hello(
                lowestVersion: UInt16(context.integer("hello_lowest") ?? 1),
                highestVersion: UInt16(context.integer("hello_highest") ?? 0xFFFF),
                features: UInt32(context.integer("hello_features") ?? 0xFFFF_FFFF), software: "")
            : nil
        let message = try bytes.withRawSpan { try Welcome(decoding: $0, offered: offered) }
        return Decoded(
            fields: object([
                "version": Value(integer: message.version),
                "features": Value(integer: message.features),
                "software": Value(string: message.software),
            ]), encoded: message.encoded())
    }

    private static func state(_ bytes: [UInt8]) throws -> Decoded {
        let message = try decode(StandbyState.self, bytes)
        return Decoded(
            fields: object([
                "state": Value(integer: message.state.rawValue),
                "target_kind": Value(integer: message.targetKind.rawValue),
                "target_size": Value(integer: message.targetSize),
                "lineage": Value(bytes: message.lineage.bytes),
                "committed_number": Value(integer: message.committedNumber),
                "committed_id": Value(bytes: message.committedID.bytes),
                "transfer": Value(bytes: message.transfer.bytes),
                "durable_segments": Value(integer: message.durableSegments),
            ]), encoded: message.encoded())
    }

    private static func head(_ head: GenerationHead) -> [String: Value] {
        [
            "kind": Value(integer: head.kind.rawValue),
            "tag_algorithm": Value(integer: head.tagAlgorithm.rawValue),
            "lineage": Value(bytes: head.lineage.bytes), "number": Value(integer: head.number),
            "parent": Value(bytes: head.parent.bytes),
            "volume_size": Value(integer: head.volumeSize),
            "source_time": Value(integer: head.sourceTime),
            "source_identity": Value(string: head.sourceIdentity),
        ]
    }

    static func fields(_ begin: Begin) -> Value {
        var members = head(begin.head)
        members["transfer"] = Value(bytes: begin.transfer.bytes)
        members["flags"] = Value(
            integer: UInt16((begin.allowsShrink ? 1 : 0) + (begin.inPlace ? 2 : 0)))
        members["segment_growth"] = Value(integer: begin.segmentGrowth.rawValue)
        members["compared_root"] = Value(bytes: (begin.comparedRoot ?? .zero).bytes)
        members["members"] = Value(integer: begin.group?.members ?? 0)
        members["group"] = Value(bytes: (begin.group?.id ?? .none).bytes)
        members["planned_content"] = Value(integer: begin.plannedContent)
        members["planned_segments"] = Value(integer: begin.plannedSegments)
        members["held_segments"] = Value(integer: begin.heldSegments)
        members["tag_key"] = Value(
            bytes: begin.tagKey?.bytes ?? [UInt8](repeating: 0, count: TagKey.byteCount))
        return object(members)
    }

    static func fields(_ seal: Seal) -> Value {
        object([
            "segment_index": Value(integer: seal.index),
            "record_count": Value(integer: seal.recordCount),
            "content": Value(integer: seal.content), "end_offset": Value(integer: seal.endOffset),
            "segment_digest": Value(bytes: seal.digest.bytes),
        ])
    }

    private static func sealed(_ members: Members) throws -> Seal {
        guard let index = members.integer("segment_index"),
            let count = members.integer("record_count"),
            let content = members.integer("content"), let end = members.integer("end_offset"),
            let digest = members.digest("segment_digest")
        else { throw FixtureFailure("the context has no whole SEAL") }
        return Seal(
            index: index, recordCount: UInt32(count), content: content, endOffset: end,
            digest: digest)
    }

    /// A value that the context does not know is the record's own: its check is left out.
    private static func commit(_ bytes: [UInt8], _ context: Members) throws -> Decoded {
        let record = try decode(GenerationRecord.self, bytes)
        var transfer = SealedTransfer(
            head: record.head, sender: record.senderKey, segmentCount: record.segmentCount,
            deltaDigest: record.deltaDigest, hasOpenSegment: false,
            lastEnd: record.head.volumeSize)
        if let begin = context.bytes("begin") {
            transfer.head = try decode(Begin.self, begin).head
        }
        if let key = context.digest("peer_key_id") { transfer.sender = KeyID(key) }
        if let count = context.integer("sealed_segments") { transfer.segmentCount = count }
        if let digest = context.digest("sealed_delta_digest") { transfer.deltaDigest = digest }
        if let count = context.integer("unsealed_records") { transfer.hasOpenSegment = count > 0 }
        if let end = context.integer("last_end") { transfer.lastEnd = end }
        try record.check(against: transfer)
        var members = head(record.head)
        members["format"] = .number(1)
        members["segment_count"] = Value(integer: record.segmentCount)
        members["delta_digest"] = Value(bytes: record.deltaDigest.bytes)
        members["volume_root"] = Value(bytes: record.volumeRoot.bytes)
        members["sender_key_id"] = Value(bytes: record.senderKey.digest.bytes)
        members["generation_id"] = Value(bytes: record.id.bytes)
        return Decoded(fields: object(members), encoded: record.encoded())
    }
}
