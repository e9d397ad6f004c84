// Copyright (c) The Blockferry authors
// SPDX-License-Identifier: Apache-2.0

import Blocks
import Sending
import Wire

/// The files of an unfinished transfer on a source host: the plan, and the seals beside it.
struct SendPlanTarget: Sendable {
    private static let entryByteCount = 16
    private static let sealByteCount = 72
    private let plan = ScratchFile("plan")
    private let seals = ScratchFile("seals")

    @Sendable func run(_ bytes: [UInt8]) {
        var input = Input(bytes)
        if input.byte() & 1 == 0 { checkPlan(&input) } else { checkSeals(&input) }
    }

    // MARK: Plan

    private func checkPlan(_ input: inout Input) {
        let transfer: TransferID = input.id()
        let size = input.number(usually: 1 << 30)
        let claimed = input.number(usually: 0)
        let style = input.byte()
        var entries: [UInt8] = []
        var end: UInt64 = 0
        for _ in 0..<64 where !input.isEmpty {
            let choice = input.byte()
            let gap = choice & 6 == 6 ? input.number() : 512 * UInt64(choice >> 4)
            let length = choice & 8 == 8 ? input.number() : 512 * (1 + UInt64(input.byte()))
            entries.append(littleEndian: (end &+ gap) | UInt64(choice & 1))
            entries.append(littleEndian: length)
            end = end &+ gap &+ length
        }
        let count = UInt64(entries.count / Self.entryByteCount) &+ claimed
        var file = Array("BFPLAN01".utf8) + transfer.bytes
        for number in [size, count, end] { file.append(littleEndian: number) }
        file.append(littleEndian: UInt32(truncatingIfNeeded: input.number()) & 0xF_FFFF)
        file += [style >> 5, 0, 0, 0]
        file.append(littleEndian: entries.withRawSpan { CRC32C.checksum($0) })
        file.append(littleEndian: UInt32(0))
        file += entries
        if style & 3 == 3 { file.spoil(&input) }
        if style & 28 != 28 { mend(&file, covering: 0..<60, at: 60) }
        plan.fill(file)
        guard let plan = SendPlan(reading: plan.path) else {
            precondition(
                style & 31 != 0 || claimed != 0 || !isRight(entries, size), "a plan is refused")
            return
        }
        checkEntries(plan)
    }

    /// The rules for entries (Protocol/SendPlan.md).
    private func isRight(_ entries: [UInt8], _ size: UInt64) -> Bool {
        guard size > 0, size <= Limits.volumeSize else { return false }
        var end: UInt64 = 0
        for place in stride(from: 0, to: entries.count, by: Self.entryByteCount) {
            let numbers = entries.withRawSpan { span in
                [place, place + 8].map { (try? span.littleEndian(at: $0, as: UInt64.self)) ?? 0 }
            }
            let (offset, length) = (numbers[0] & ~1, numbers[1])
            guard offset % 512 == 0, length > 0, offset >= end, offset <= size,
                length <= size - offset
            else { return false }
            end = offset + length
        }
        return true
    }

    private func checkEntries(_ plan: SendPlan) {
        var (end, entries) = (UInt64(0), UInt64(0))
        var cut = Cut(plan.growth)
        try? plan.forEach { change in
            precondition(change.extent.offset >= end && change.extent.offset % 512 == 0)
            end = change.extent.end
            precondition(end <= plan.volumeByteCount && end <= Limits.volumeSize)
            entries += 1
            // Pieces of a mebibyte: what is greater takes long, and is cut no otherwise.
            if change.kind == .unmapped || change.extent.length < 1 << 26 { cut.add(change) }
        }
        precondition(entries == plan.entryCount, "entries were passed over")
        cut.finish()
    }

    // MARK: Seals

    private func checkSeals(_ input: inout Input) {
        var file: [UInt8] = []
        let style = input.byte()
        var index: UInt64 = 0
        for _ in 0..<16 where !input.isEmpty {
            let seal = Seal(
                index: input.number(usually: index), recordCount: 1 + UInt32(input.byte()),
                content: UInt64(input.word16()), endOffset: input.number(), digest: input.digest())
            var entry = seal.encoded() + [0, 0, 0, 0, 0, 0, 0, 0]
            if input.byte() & 15 == 15 { entry[input.word16() % 72] = input.byte() }
            if style & 3 != 3 || index & 1 == 0 { mend(&entry, covering: 0..<68, at: 68) }
            file += entry
            index += 1
        }
        if style & 4 == 4 { file.spoil(&input) }
        seals.fill(file)
        guard let read = try? SealsFile(path: seals.path) else {
            preconditionFailure("a file of seals is refused as a whole")
        }
        var expected: [Seal] = []
        while let seal = Self.seal(file, expected.count) { expected.append(seal) }
        precondition(read.seals == expected, "seals were misread")
        read.truncate(to: expected.count / 2)
        precondition(read.seals.count == expected.count / 2)
    }

    private static func seal(_ file: [UInt8], _ index: Int) -> Seal? {
        let start = index * sealByteCount
        guard file.count >= start + sealByteCount else { return nil }
        return file.withRawSpan { span in
            let entry = span.extracting(start..<start + sealByteCount)
            let checksum: UInt32? = try? entry.littleEndian(at: 68)
            guard checksum == CRC32C.checksum(entry.extracting(0..<68)) else { return nil }
            let seal = try? Seal(decoding: entry.extracting(0..<64))
            return seal?.index == UInt64(index) ? seal : nil
        }
    }
}

/// The rules for cutting (Protocol/SendPlan.md).
private struct Cut {
    private var cutter: SegmentCutter
    private let growth: UInt8
    private var segment: UInt64 = 0
    private var content: UInt64 = 0
    private var pieces = 0

    init(_ growth: SegmentGrowth) {
        cutter = SegmentCutter(growth)
        self.growth = growth.rawValue
    }

    mutating func add(_ change: Change) {
        var place = change.extent.offset
        var found: [SegmentCutter.Piece] = []
        cutter.cut(change) { found.append($0) }
        for piece in found {
            let extent = piece.change.extent
            precondition(extent.offset == place && piece.change.kind == change.kind)
            place = extent.end
            if change.kind == .data {
                precondition(extent.offset >> 20 == (extent.end - 1) >> 20, "a piece is too long")
            }
            if piece.segment != segment {
                precondition(piece.segment == segment + 1)
                (segment, content, pieces) = (piece.segment, 0, 0)
            }
            if change.kind == .data { content += extent.length }
            pieces += 1
            precondition(content <= 16_777_216 << growth && pieces <= 8192 << growth)
        }
        precondition(place == change.extent.end, "a part of an entry is not sent")
    }

    func finish() {
        precondition(cutter.segmentCount == (pieces == 0 ? 0 : segment + 1))
    }
}
