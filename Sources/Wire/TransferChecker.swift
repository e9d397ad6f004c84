// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

package import Digests

/// Checks the records and seals of one transfer against its announcement and against each other.
///
/// The receiver checks what arrives, recovery what the staging log holds, and the sender what it
/// sends, so all three agree on what a transfer is.
package struct TransferChecker: ~Copyable {
    /// The announcement.
    package let begin: Begin
    /// Digests of the sealed segments, in order.
    package private(set) var segments: [SHA256Digest] = []
    /// End of the last record in bytes.
    package private(set) var previousEnd: UInt64 = 0
    /// Bytes of data in sealed segments.
    package private(set) var sealedContent: UInt64 = 0
    private var current: SegmentDigester

    /// Starts at the first segment.
    package init(_ begin: Begin) {
        self.begin = begin
        current = SegmentDigester(index: 0)
    }

    /// Index of the open segment.
    package var segmentIndex: UInt64 { UInt64(segments.count) }

    /// Bytes of data so far, sealed or not.
    package var content: UInt64 { sealedContent + current.content }

    /// Whether records have arrived since the last seal.
    package var hasOpenSegment: Bool { current.recordCount > 0 }

    /// Takes the next record; its content is checked elsewhere.
    package mutating func add(_ record: RecordHeader) throws(WireError) {
        try record.check(
            volumeSize: begin.head.volumeSize, previousEnd: previousEnd,
            isFull: begin.head.kind == .full)
        guard current.recordCount < begin.segmentGrowth.records else {
            throw WireError("SEAL", .badRecordCount)
        }
        if record.kind == .data {
            guard current.content <= begin.segmentGrowth.content - record.length else {
                throw WireError("SEAL", .contentLimit)
            }
        }
        current.add(record)
        previousEnd = record.end
    }

    /// Ends the open segment and returns its seal.
    package mutating func seal() -> Seal {
        let seal = Seal(
            index: segmentIndex, recordCount: current.recordCount, content: current.content,
            endOffset: current.endOffset, digest: current.finish())
        segments.append(seal.digest)
        sealedContent += seal.content
        current = SegmentDigester(index: segmentIndex)
        return seal
    }

    /// Ends the open segment and checks it against the other side's seal.
    package mutating func seal(expecting claimed: Seal) throws(WireError) {
        guard claimed.index == segmentIndex, claimed.index < begin.plannedSegments else {
            throw WireError("SEAL", .segmentIndex)
        }
        try claimed.check(against: seal())
    }

    /// Skips a segment that was sealed and verified before, so that only its seal is needed.
    package mutating func skip(_ sealed: Seal) throws(WireError) {
        guard sealed.index == segmentIndex, !hasOpenSegment else {
            throw WireError("SEAL", .segmentIndex)
        }
        segments.append(sealed.digest)
        sealedContent += sealed.content
        previousEnd = sealed.endOffset
        current = SegmentDigester(index: segmentIndex)
    }

    /// The record of the finished generation.
    package func record(sender: KeyID) -> GenerationRecord {
        GenerationRecord(
            head: begin.head, segmentCount: segmentIndex, deltaDigest: deltaDigest(of: segments),
            volumeRoot: .zero, senderKey: sender)
    }

    /// Checks the record of the other side's COMMIT.
    package func check(_ record: GenerationRecord, sender: KeyID) throws(WireError) {
        try record.check(
            against: SealedTransfer(
                head: begin.head, sender: sender, segmentCount: segmentIndex,
                deltaDigest: deltaDigest(of: segments), hasOpenSegment: hasOpenSegment,
                lastEnd: previousEnd))
    }
}
