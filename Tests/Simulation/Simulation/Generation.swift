// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Connection
import Digests
import Platform
import Receiving
import TagMap
import Wire

/// The chain that a source and its standby share.
struct ModelLineage {
    let id = LineageID.random()
    let key = TagKey.random()
    let sender = KeyID(.zero)
    static let algorithm = TagAlgorithm.poly1305

    /// Entry of each block of a volume.
    func entries(_ content: [UInt8]) -> [UInt8] {
        let tagger = Tagger(Self.algorithm, key: key)
        var entries: [UInt8] = []
        for start in stride(from: 0, to: content.count, by: Tagger.blockByteCount) {
            let block = Array(content[start..<min(start + Tagger.blockByteCount, content.count)])
            let tag: Digests.Tag = block.withRawSpan { $0.isAllZero ? .zero : tagger.tag($0) }
            tag.append(to: &entries)
        }
        return entries
    }

    /// Root of the map of a volume of at most one page: 16 MiB.
    func root(_ content: [UInt8]) -> SHA256Digest {
        var page = entries(content)
        page.append(contentsOf: [UInt8](repeating: 0, count: MapShape.unit - page.count))
        let shape = MapShape(volumeByteCount: UInt64(content.count))
        let digest = page.withRawSpan { MapDigest.ofPage(0, $0) }
        return MapDigest.ofMap(shape, Self.algorithm, top: digest)
    }
}

/// A generation as a sender would send it: made from what the volume was and is, by nothing but the texts of the protocol
/// and `Wire`.
struct ModelGeneration {
    let begin: Begin
    let segments: [[(header: RecordHeader, stored: [UInt8])]]
    let seals: [Seal]
    let record: GenerationRecord
    let content: [UInt8]

    /// - Parameters:
    ///   - ranges: what is sent, ascending; of a full copy everything.
    ///   - perSegment: records in a segment.
    init(
        _ kind: GenerationKind, _ content: [UInt8], ranges: [Range<Int>], perSegment: Int,
        lineage: ModelLineage, parent: GenerationRecord?, comparedRoot: SHA256Digest? = nil,
        inPlace: Bool = false, group: Group? = nil
    ) throws {
        let tagger = Tagger(ModelLineage.algorithm, key: lineage.key)
        let records = ranges.map { range in
            let offset = UInt64(range.lowerBound)
            let bytes = Array(content[range])
            if bytes.withRawSpan({ $0.isAllZero }) {
                return (
                    header: RecordHeader(
                        range.lowerBound % 8192 == 0 ? .zero : .unmap, offset: offset,
                        length: UInt64(range.count)), stored: [UInt8]()
                )
            }
            let tags = bytes.withRawSpan { tagger.tags(ofContent: $0, at: offset) }
            return (
                header: RecordHeader(
                    data: offset, length: range.count, encoding: .raw, storedLength: range.count,
                    tags: tags), stored: bytes
            )
        }
        var segments: [[(header: RecordHeader, stored: [UInt8])]] = []
        for start in stride(from: 0, to: records.count, by: perSegment) {
            segments.append(Array(records[start..<min(start + perSegment, records.count)]))
        }
        let head = GenerationHead(
            kind: kind, tagAlgorithm: ModelLineage.algorithm, lineage: lineage.id,
            number: (parent?.head.number ?? 0) + 1, parent: parent?.id ?? .zero,
            volumeSize: UInt64(content.count), sourceTime: 0, sourceIdentity: "model")
        begin = Begin(
            transfer: .random(), head: head,
            plannedContent: UInt64(records.reduce(0) { $0 + $1.stored.count }),
            plannedSegments: UInt64(segments.count), heldSegments: 0,
            tagKey: parent == nil ? lineage.key : nil, allowsShrink: kind == .delta, group: group,
            comparedRoot: comparedRoot, inPlace: inPlace)
        var checker = TransferChecker(begin)
        var seals: [Seal] = []
        for segment in segments {
            for each in segment { try checker.add(each.header) }
            seals.append(checker.seal())
        }
        var record = checker.record(sender: lineage.sender)
        record.volumeRoot = lineage.root(content)
        self.record = record
        self.segments = segments
        self.seals = seals
        self.content = content
    }
}

extension ModelGeneration {
    /// The announcement by a sender that has all segments.
    var announcement: Begin {
        var begin = begin
        begin.heldSegments = begin.plannedSegments
        return begin
    }
}

extension RecordMemory {
    /// Takes a record as it comes from the network.
    ///
    /// - Returns: where it begins.
    func take(_ header: RecordHeader, _ stored: [UInt8]) -> Int {
        let start = Self.contentStart - header.prefixLength
        header.encoded().withRawSpan { memory.store($0, at: start) }
        if !stored.isEmpty { stored.withRawSpan { memory.store($0, at: Self.contentStart) } }
        return start
    }
}
