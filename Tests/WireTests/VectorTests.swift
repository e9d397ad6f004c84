// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Digests
import TestSupport
import Testing
import Wire

@Suite("Vectors") struct VectorTests {
    @Test(
        "every vector of the protocol is decoded to its fields and back, or refused by its reason")
    func vectors() throws {
        var valid = 0
        var invalid = 0
        for vector in try Vector.all() {
            let expected = try vector.fields()
            do {
                let found = try decode(vector)
                #expect(found.fields == expected, "\(vector.file)")
                if let bytes = try original(vector) {
                    #expect(found.encoded == bytes, "\(vector.file): encoded again")
                }
                valid += 1
            } catch let error as WireError {
                #expect(error.reason.rawValue == vector.reason, "\(vector.file)")
                invalid += 1
            } catch is Grouping {
                #expect(vector.reason == "bad-grouping", "\(vector.file)")
                invalid += 1
            }
        }
        print(
            "\(valid + invalid) vectors through the Swift decoders: \(valid) valid, \(invalid) not")
        #expect(valid + invalid >= 980)
        #expect(valid >= 360)
        #expect(invalid >= 610)
    }

    @Test("every reason that the vectors name is one of the decoders', and the other way round")
    func reasons() throws {
        let named = Set(try Vector.all().compactMap(\.reason))
        let known = Set(WireError.Reason.allCases.map(\.rawValue))
        // A peer id's grouping is an error of its own type.
        #expect(named.subtracting(known) == ["bad-grouping"])
        #expect(known.subtracting(named) == [])
    }

    @Test("the independent decoder agrees with all vectors")
    func independentDecoder() throws {
        let script = Vector.folder.split(separator: "/").dropLast().joined(separator: "/")
        let run = try ToolRun("/usr/bin/python3", "/\(script)/decode.py", "vectors")
        let last = try #require(run.lines.last)
        let count = try Vector.all().count
        #expect(last.hasPrefix("\(count) vectors, "))
    }

    /// The one reason that is not the wire's.
    private struct Grouping: Error {}

    /// What is to come out of encoding again; of digests nothing.
    private func original(_ vector: Vector) throws -> [UInt8]? {
        switch vector.structure {
        case "digest": nil
        case "invitation", "peer-id": Array(vector.text.utf8)
        default: try vector.bytes()
        }
    }

    private func decode(_ vector: Vector) throws -> Decoded {
        switch vector.structure {
        case "frame": return try VectorRecords.frame(vector.bytes(), vector.context)
        case "message":
            return try VectorMessages.decode(vector.type, vector.bytes(), vector.context)
        case "generation":
            return try VectorMessages.decode("COMMIT", vector.bytes(), vector.context)
        case "record": return try VectorRecords.record(vector.bytes(), vector.context)
        case "staging-log-header": return try VectorRecords.logHeader(vector.bytes())
        case "staging-log-segment":
            return try VectorRecords.segment(vector.bytes(), vector.context)
        case "staging-log": return try VectorRecords.log(vector.bytes(), vector.context)
        case "tag-map-header": return try VectorMaps.header(vector.bytes())
        case "tag-map": return try VectorMaps.map(vector.bytes())
        case "tag-map-update-header": return try VectorMaps.updateHeader(vector.bytes())
        case "tag-map-update": return try VectorMaps.updates(vector.bytes(), vector.json["fields"])
        case "export-header": return try VectorRecords.exportHeader(vector.bytes())
        case "export-trailer":
            return try VectorRecords.exportTrailer(vector.bytes(), vector.context)
        case "invitation": return try invitation(vector.text)
        case "peer-id": return try peerID(vector)
        case "digest": return Decoded(fields: .object(["value": try digest(vector)]), encoded: [])
        default: throw FixtureFailure("no such structure: \(vector.structure)")
        }
    }

    private func invitation(_ text: String) throws -> Decoded {
        let invitation = try Invitation(text: text)
        return Decoded(
            fields: .object([
                "version": .number(1),
                "receiver_key_id": Value(bytes: invitation.receiver.digest.bytes),
                "secret": Value(bytes: invitation.secret),
                "volume": Value(string: invitation.volume.text),
                "address": Value(string: invitation.address),
            ]), encoded: Array(invitation.text.utf8))
    }

    private func peerID(_ vector: Vector) throws -> Decoded {
        do {
            let id = try KeyID(peerID: vector.text)
            return Decoded(
                fields: .object(["key_id": Value(bytes: id.digest.bytes)]),
                encoded: Array(id.peerID.utf8))
        } catch PeerIDError.groups {
            throw Grouping()
        } catch PeerIDError.character {
            throw WireError("peer-id", .badBase32)
        } catch PeerIDError.check {
            throw WireError("peer-id", .checksum)
        }
    }

    private func digest(_ vector: Vector) throws -> Value {
        let inputs = vector.inputs
        switch vector.type {
        case "crc32c":
            return Value(integer: try vector.bytes().withRawSpan { CRC32C.checksum($0) })
        case "xxh3": return Value(integer: try vector.bytes().withRawSpan { XXH3.hash($0) })
        case "generation-id": return Value(bytes: SHA256Digest.of(try vector.bytes()).bytes)
        case "tag":
            let number = try #require(inputs.integer("tag_algorithm"))
            let algorithm = try #require(TagAlgorithm(rawValue: UInt8(number)))
            let key = try #require(inputs.key("tag_key"))
            let tagger = Tagger(algorithm, key: key)
            return Value(bytes: try vector.bytes().withRawSpan { tagger.tag($0) }.bytes)
        case "delta":
            let digests = try inputs.json["segment_digests"].elements.map {
                try #require(SHA256Digest(bytes: Hex.decode($0.string ?? "") ?? []))
            }
            return Value(bytes: deltaDigest(of: digests).bytes)
        case "segment":
            let index = try #require(inputs.integer("segment_index"))
            var digester = SegmentDigester(index: index)
            for json in inputs.json["records"].elements { digester.add(try record(json)) }
            return Value(bytes: digester.finish().bytes)
        default: return try VectorMaps.digest(vector.type, vector.bytes(), inputs)
        }
    }

    private func record(_ json: JSON) throws -> RecordHeader {
        let members = Members(json)
        let offset = try #require(members.integer("offset"))
        let length = try #require(members.integer("length"))
        let number = try #require(members.integer("kind"))
        let kind = try #require(RecordKind(rawValue: UInt8(number)))
        guard kind == .data else { return RecordHeader(kind, offset: offset, length: length) }
        let tags = try json["tags"].elements.map {
            let bytes = Hex.decode($0.string ?? "") ?? []
            return try bytes.withRawSpan { try Tag($0, at: 0) }
        }
        return RecordHeader(
            data: offset, length: Int(length), encoding: .raw, storedLength: Int(length),
            tags: tags)
    }
}
